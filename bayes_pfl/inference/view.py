"""A way of looking at an image, which a threshold belongs to: as a whole or in tiles, all of it or a region."""

import hashlib
import math
import re
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from bayes_pfl.config import DetectorConfig
from bayes_pfl.data.preprocess import MAX_PIXELS, MAX_SIDE_PX, decode_mask
from bayes_pfl.errors import ConfigError, ImageError
from bayes_pfl.inference.arguments import check_number


@dataclass(frozen=True, eq=False)
class RegionOfInterest:
    """The part of an image that is looked at: a box, or the pixels of a mask inside a box around them.

    The image is cut to the box; pixels of the box outside the mask get the mean colour of those inside, so that no
    pixel outside counts in any number.

    Attributes:
        x: first column of the box, pixels of the upright image.
        y: first row.
        width: columns of the box.
        height: rows of the box.
        mask: (height, width) of the whole image, True inside the region; None: the whole box.

    Raises:
        ConfigError: a number is no whole one, x or y is below 0, or the box is empty.
    """

    x: int
    y: int
    width: int
    height: int
    mask: Bool[np.ndarray, "rows columns"] | None = None

    def __post_init__(self) -> None:
        sides = (self.x, self.y, self.width, self.height)
        if not all(isinstance(side, Integral) for side in sides) or min(self.x, self.y) < 0 or min(sides[2:]) < 1:
            raise ConfigError(
                f"{sides} is no region; give x and y of its corner, at least 0, width and height, in whole pixels."
            )

    @classmethod
    def from_text(cls, text: str) -> "RegionOfInterest":
        """A box as people type it.

        Args:
            text: `x,y,width,height` in pixels.

        Returns:
            The region.

        Raises:
            ConfigError: it is something else, or the box is empty.

        >>> RegionOfInterest.from_text("10,20,300,200").name
        'region 10,20,300,200'
        """
        numbers = re.fullmatch(r"\s*(\d{1,6})\s*,\s*(\d{1,6})\s*,\s*(\d{1,6})\s*,\s*(\d{1,6})\s*", text, re.ASCII)
        if numbers is None or 0 in (int(numbers[3]), int(numbers[4])):
            raise ConfigError(f"'{text[:40]}' is no region: give x,y,width,height in pixels, such as 10,20,300,200.")
        x, y, width, height = (int(number) for number in numbers.groups())
        return cls(x, y, width, height)

    @classmethod
    def from_mask(cls, data: bytes, max_pixels: int = MAX_PIXELS, max_side_px: int = MAX_SIDE_PX) -> "RegionOfInterest":
        """The pixels of a mask image that are not black.

        Args:
            data: an encoded image of the size of the images that are looked at.
            max_pixels: larger masks are refused.
            max_side_px: longer ones are refused.

        Returns:
            The region.

        Raises:
            ImageError: it cannot be read, or is black everywhere.
        """
        inside = decode_mask(data, max_pixels=max_pixels, max_side_px=max_side_px) > 0
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        if not len(rows):
            raise ImageError("the mask of the region is black everywhere; make it white where the image counts")
        top, left = int(rows[0]), int(columns[0])
        return cls(left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top, inside)

    @property
    def name(self) -> str:
        """Words that tell this region from others."""
        if self.mask is None:
            return f"region {self.x},{self.y},{self.width},{self.height}"
        digest = hashlib.sha256(str(self.mask.shape).encode() + np.packbits(self.mask).tobytes()).hexdigest()
        return f"region of the mask {digest[:12]}"

    def inside(self, width: int, height: int) -> Bool[np.ndarray, "height width"]:
        """Which pixels of an image belong to the region.

        Args:
            width: of the image, pixels.
            height: of the image, pixels.

        Returns:
            True inside.

        Raises:
            ImageError: the region does not fit the image.
        """
        self._check(width, height)
        if self.mask is not None:
            return self.mask
        inside = np.zeros((height, width), bool)
        inside[self._box] = True
        return inside

    def cut(self, image: Image.Image) -> Image.Image:
        """What is looked at.

        Args:
            image: the upright image, RGB.

        Returns:
            The box.

        Raises:
            ImageError: the region does not fit the image.
        """
        self._check(*image.size)
        box = image.crop((self.x, self.y, self.x + self.width, self.y + self.height))
        if self.mask is None or self.mask[self._box].all():
            return box
        pixels, inside = np.array(box), self.mask[self._box]
        pixels[~inside] = np.rint(pixels[inside].mean(0)).astype(np.uint8)
        return Image.fromarray(pixels)

    def inside_box(self, rows: int, columns: int) -> Bool[np.ndarray, "rows columns"]:
        """Which values of a map of the box belong to the region: those of which any part does.

        Args:
            rows: of the map.
            columns: of the map.

        Returns:
            True inside.
        """
        if self.mask is None:
            return np.ones((rows, columns), bool)
        share = Image.fromarray(self.mask[self._box].astype(np.float32))
        return np.asarray(share.resize((columns, rows), Image.Resampling.BOX)) > 0

    def spread(
        self, values: Float[np.ndarray, "rows columns"], width: int, height: int
    ) -> Float[np.ndarray, "height width"]:
        """A map of the box as a map of the image, 0 outside the region.

        Args:
            values: of the box, at any resolution.
            width: of the image, pixels.
            height: of the image, pixels.

        Returns:
            The map, float32.
        """
        if values.shape != (self.height, self.width):
            resized = Image.fromarray(values).resize((self.width, self.height), Image.Resampling.BILINEAR)
            values = np.asarray(resized)
        whole = np.zeros((height, width), np.float32)
        whole[self._box] = values if self.mask is None else values * self.mask[self._box]
        return whole

    @property
    def _box(self) -> tuple[slice, slice]:
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    def _check(self, width: int, height: int) -> None:
        if self.mask is not None and self.mask.shape != (height, width):
            rows, columns = self.mask.shape
            raise ImageError(f"is {width} x {height}, but the mask of the region is {columns} x {rows}")
        if self.x + self.width > width or self.y + self.height > height:
            raise ImageError(f"is {width} x {height}: {self.name} reaches beyond it")


class View(NamedTuple):
    """How images are looked at. Scores of different views are not comparable."""

    overlap: float | None = None
    """Least share of a tile that the next one covers too; None: the image as a whole."""
    region: RegionOfInterest | None = None
    """None: all of the image."""

    def name(self, image_size: int) -> str:
        """Words that tell this way of looking from others; what a threshold belongs to.

        Args:
            image_size: of the model's input, pixels.

        Returns:
            Words.

        >>> View().name(112), View(0.5, RegionOfInterest(1, 2, 30, 40)).name(112)
        ('whole images at 112 px', 'tiles of 112 px that overlap by 0.5, region 1,2,30,40')
        """
        whole = f"whole images at {image_size} px"
        seen = whole if self.overlap is None else f"tiles of {image_size} px that overlap by {self.overlap:g}"
        return seen if self.region is None else f"{seen}, {self.region.name}"

    def tiles(self, width: int, height: int, tile: int) -> int:
        """How many tiles an image is looked at in.

        Args:
            width: of the image, pixels.
            height: of the image, pixels.
            tile: side of a tile, pixels.

        Returns:
            Their number; 1 without tiles.
        """
        if self.overlap is None:
            return 1
        sides = (width, height) if self.region is None else (self.region.width, self.region.height)
        scale = max(1.0, tile / min(sides))
        return math.prod(len(tile_starts(round(side * scale), tile, self.overlap)) for side in sides)

    def check(self) -> None:
        """Refuse an overlap that is no share.

        Raises:
            ConfigError: it is no number, or out of range.
        """
        if self.overlap is None:
            return
        check_number("overlap", self.overlap)
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"overlap is {self.overlap}; give a share of a tile, at least 0 and below 1.")


WHOLE = View()
"""All of an image at once."""


def check_view(view: object) -> None:
    """Refuse what is no way of looking at an image.

    Args:
        view: what the caller has.

    Raises:
        ConfigError: it is no `View`, or its overlap is out of range.
    """
    if not isinstance(view, View):
        raise ConfigError(f"view is {view!r:.60}; give a View of bayes_pfl.inference.view, such as View(0.5).")
    view.check()


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """First pixels of the fewest evenly spread tiles that cover an axis.

    Args:
        length: length of the axis, pixels.
        tile: side of a tile, pixels.
        overlap: least share of a tile that the next one covers too.

    Returns:
        Starts, rising from 0.

    >>> tile_starts(100, 40, 0.5)
    [0, 20, 40, 60]
    """
    stride = max(1, math.floor(tile * (1 - overlap)))
    count = 1 + math.ceil(max(0, length - tile) / stride)
    return [round(start) for start in np.linspace(0, max(0, length - tile), count)]


def whole_threshold(config: DetectorConfig) -> float:
    """The threshold of a model for whole images.

    Args:
        config: of the model.

    Returns:
        Image score from which an image is called anomalous.

    Raises:
        ConfigError: it has none, or one for another way of looking.
    """
    scoring = config.scoring
    if scoring.threshold is None or scoring.threshold_for not in (None, WHOLE.name(config.backbone.image_size)):
        raise ConfigError(
            'num_samples="auto" needs a threshold: give one, or use a bundle that has one for whole images.'
        )
    return scoring.threshold
