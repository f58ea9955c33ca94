"""What exists: category names, their kind of image, and the marks that are normal on each."""

import zlib

import numpy as np
from numpy.random import Generator

from bayes_pfl.errors import DataError
from bayes_pfl.synthetic.defects import DEFECTS
from bayes_pfl.synthetic.layers import Layers
from bayes_pfl.synthetic.medical import MEDICAL
from bayes_pfl.synthetic.objects import OBJECTS
from bayes_pfl.synthetic.textures import TEXTURES

CATEGORIES: tuple[str, ...] = (*TEXTURES, *OBJECTS, *MEDICAL)

# The same mark that spoils one object belongs to another: only the name of the object can tell.
NORMAL_MARKS: dict[str, tuple[str, ...]] = {
    "speckled stone": ("dark dots",),
    "cork board": ("dark dots",),
    "quail egg": ("dark dots", "stain"),
    "biscuit": ("dark dots",),
    "freckled skin": ("dark dots",),
    "terrazzo": ("contamination",),
    "perforated sheet": ("hole",),
    "washer": ("hole",),
    "button": ("hole",),
    "crackle glaze": ("crack",),
    "marble": ("crack",),
    "weathering steel": ("corrosion", "stain"),
    "cow hide": ("stain", "discolouration"),
    "dotted fabric": ("hole", "dark dots"),
    "cell smear": ("lesion", "stain"),
    "gravel": ("dark dots", "contamination"),
    "asphalt": ("dark dots",),
    "sandpaper": ("scuff",),
}

# Kinds that rearrange a pattern need a pattern: on plain ground they would be invisible.
PATTERN_KINDS: tuple[str, ...] = ("smear", "warp", "misplacement")
PLAIN: frozenset[str] = frozenset(
    {
        "metal plate", "concrete", "paper", "sandpaper", "painted panel", "plaster", "asphalt",
        "cardboard", "carpet", "leather", "speckled stone", "capsule", "tablet", "hex nut",
        "washer", "gear", "button", "biscuit", "egg", "battery", "candle", "key", "leaf", "plate",
        "skin", "freckled skin", "tomato", "liver scan", "hazel nut", "chest x-ray", "bone x-ray",
        "ultrasound", "cork board", "window pane", "marble", "retina", "brain scan", "gravel",
        "weathering steel", "coin", "dental x-ray", "screw", "spring", "comb", "quail egg",
        "bottle cap", "bottle top", "colon", "cow hide", "cell smear", "chip", "solar cell",
        "bearing", "wooden board", "crackle glaze", "turned steel", "zipper", "terrazzo",
    }
)  # fmt: skip

# What a hospital's image does not show.
WORKSHOP_KINDS: tuple[str, ...] = (
    "scratch", "scuff", "hole", "dent", "glue", "missing piece", "corrosion", "ink mark", "tear",
    "misplacement", "burn", "thread", "contamination", "mould", "smear",
)  # fmt: skip


def check_category(category: str) -> None:
    """Check that a category can be painted.

    Args:
        category: its name.

    Raises:
        DataError: there is no such category.
    """
    if category not in CATEGORIES:
        raise DataError(f"There is no synthetic category {category!r}; choose among: {', '.join(CATEGORIES)}.")


def defects_of(category: str) -> tuple[str, ...]:
    """Kinds that are a defect on this category: visible on it, and no normal mark of it.

    Args:
        category: its name.

    Returns:
        The kinds, in the order of `DEFECTS`.

    Raises:
        DataError: there is no such category.
    """
    check_category(category)
    excluded = set(NORMAL_MARKS.get(category, ()))
    if category in PLAIN:
        excluded.update(PATTERN_KINDS)
    if category in MEDICAL:
        excluded.update(WORKSHOP_KINDS)
    return tuple(kind for kind in DEFECTS if kind not in excluded)


def surface(image: np.ndarray) -> Layers:
    """A texture as an object that fills the frame.

    Args:
        image: (size, size, 3).

    Returns:
        The object.
    """
    return Layers(image, np.ones(image.shape[:2], np.float32), image)


def paint(category: str, rng: Generator, size: int) -> Layers:
    """Paint one flawless piece of a category.

    Args:
        category: its name.
        rng: random generator.
        size: side of the image, pixels.

    Returns:
        The object.

    Raises:
        DataError: there is no such category.
    """
    check_category(category)
    if category in TEXTURES:
        return surface(TEXTURES[category](rng, size))
    return OBJECTS[category](rng, size) if category in OBJECTS else MEDICAL[category](rng, size)


def stream(seed: int, name: str, index: int, part: int) -> Generator:
    """Independent random generator of one part of one image.

    Args:
        seed: of the data set.
        name: of the category.
        index: of the image.
        part: 0 object, 1 light, 2 defect, 3 severity, 4 order of kinds.

    Returns:
        The generator.
    """
    return np.random.default_rng([seed, zlib.crc32(name.encode()), index, part])
