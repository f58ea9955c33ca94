"""What a caller of `Detector` and `Prediction` gives -> the same, or one sentence why it cannot be meant."""

from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from bayes_pfl.config import NUM_SAMPLES_LIMIT
from bayes_pfl.errors import ConfigError

T = TypeVar("T")

QUOTED = 60
"""Characters of a value that a message quotes at the most."""


def is_one_image(images: object) -> bool:
    """Whether a single image stands where a list of images is expected.

    Args:
        images: what the caller has.

    Returns:
        True for one image.
    """
    if hasattr(images, "ndim"):  # an array or a tensor
        return bool(images.ndim <= 3)
    return isinstance(images, str | Path | bytes | Image.Image)


def checked_pairs(images: Iterable[T], class_names: Iterable[str]) -> tuple[list[T], list[str]]:
    """Images with one class name for each.

    Args:
        images: what the caller has.
        class_names: what they show.

    Returns:
        Both as lists: a generator is read once.

    Raises:
        ConfigError: one image or one string stands where a list is expected, or the numbers differ.
    """
    if is_one_image(images):
        raise ConfigError("images is one image; give a list of images: [image].")
    if isinstance(class_names, str):
        raise ConfigError(f'class_names is one string; give a list with one name for each image: ["{class_names}"].')
    for name, values in (("images", images), ("class_names", class_names)):
        if not isinstance(values, Iterable):
            raise ConfigError(f"{name} is {_quoted(values)}; give a list with one for each image.")
    pairs = list(images), list(class_names)
    if len(pairs[0]) != len(pairs[1]):
        raise ConfigError(f"{len(pairs[0])} images but {len(pairs[1])} class names; give one name for each image.")
    return pairs


def checked_numbers(num_samples: Iterable[int]) -> list[int]:
    """Numbers of samples.

    Args:
        num_samples: numbers of samples R.

    Returns:
        The same as a list.

    Raises:
        ConfigError: one is no whole number, below 1 or above `NUM_SAMPLES_LIMIT`; or there is no list, or an empty one.
    """
    if isinstance(num_samples, str) or not isinstance(num_samples, Iterable):
        raise ConfigError(f"num_samples is {_quoted(num_samples)}; give a list of numbers of samples: [1, 5, 10].")
    numbers = list(num_samples)
    for number in numbers:
        if not _is_whole(number):
            raise ConfigError(f'num_samples is {_quoted(number)}; give a number of samples, or "auto".')
    if not numbers or min(numbers) < 1 or max(numbers) > NUM_SAMPLES_LIMIT:
        raise ConfigError(f"num_samples must be at least 1, and at most {NUM_SAMPLES_LIMIT}.")
    return numbers


def check_seed(seed: object) -> None:
    """Refuse what is no seed.

    Args:
        seed: what the caller has.

    Raises:
        ConfigError: it is no whole number.
    """
    if not _is_whole(seed):
        raise ConfigError(f"seed is {_quoted(seed)}; give a whole number, such as 0.")


def check_share(name: str, value: object) -> None:
    """Refuse what is no share and no score.

    Args:
        name: of the argument.
        value: what the caller has.

    Raises:
        ConfigError: it is no number, or not between 0 and 1.
    """
    check_number(name, value)
    if not 0 <= value <= 1:  # type: ignore[operator]
        raise ConfigError(f"{name} is {value}, which is not between 0 and 1; give a number from 0 to 1, such as 0.5.")


def check_number(name: str, value: object) -> None:
    """Refuse what is no number.

    Args:
        name: of the argument.
        value: what the caller has.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ConfigError(f"{name} is {_quoted(value)}; give a number, such as 0.5.")


def check_size(size: Sequence[Any]) -> None:
    """Refuse what is no size of an image.

    Args:
        size: what the caller has.

    Raises:
        ConfigError: it is not a width and a height in whole pixels.
    """
    if len(size) != 2 or not all(_is_whole(side) and side >= 1 for side in size):
        raise ConfigError(
            f"The image's size is {_quoted(size)}; give (width, height) in whole pixels, such as (640, 480), or the "
            "image itself. An array's shape is (height, width, channels)."
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _quoted(value: object) -> str:
    """A value in few words, on one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}..."
