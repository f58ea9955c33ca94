"""Captions of a generated image: sentences that name the object and its state."""

from typing import NamedTuple

from numpy.random import Generator

TEMPLATES: tuple[str, ...] = (
    "a photo of a {}", "a photo of the {}", "a close-up photo of a {}", "an image of a {}", "a {}",
    "a picture of a {} for inspection", "there is a {}", "a cropped photo of a {}", "{}",
)  # fmt: skip

GENERIC_NAMES: tuple[str, ...] = ("object", "surface", "item", "product", "part", "sample", "texture")

FLAWLESS: tuple[str, ...] = (
    "flawless {}", "perfect {}", "{} without defect", "{} without damage", "normal {}", "intact {}",
    "undamaged {}", "good {}", "unblemished {}", "clean {}", "healthy {}",
)  # fmt: skip

DAMAGED: tuple[str, ...] = (
    "damaged {}", "defective {}", "{} with a defect", "{} with damage", "{} with a flaw",
    "abnormal {}", "imperfect {}", "blemished {}", "faulty {}", "{} with an anomaly",
)  # fmt: skip

KIND_STATES: dict[str, tuple[str, ...]] = {
    "scratch": ("scratched {}", "{} with a scratch"),
    "scuff": ("scuffed {}", "{} with scuff marks"),
    "crack": ("cracked {}", "{} with a crack"),
    "hole": ("punctured {}", "{} with a hole"),
    "stain": ("stained {}", "{} with a stain"),
    "discolouration": ("discoloured {}", "{} with a wrong colour"),
    "bleach": ("faded {}", "{} with a faded patch"),
    "dent": ("dented {}", "{} with a dent"),
    "dark dots": ("spotted {}", "{} with dark dots"),
    "missing piece": ("broken {}", "{} with a missing piece"),
    "contamination": ("contaminated {}", "{} with foreign particles"),
    "glue": ("{} with glue on it", "{} with a drop of glue"),
    "smear": ("smeared {}", "{} with a smear"),
    "warp": ("deformed {}", "{} with a twisted pattern"),
    "misplacement": ("{} with a misplaced patch", "{} with a wrong patch"),
    "corrosion": ("corroded {}", "{} with corrosion"),
    "lesion": ("{} with a lesion", "{} with a growth"),
    "ink mark": ("{} with an ink mark", "{} with a pen mark"),
}


class CaptionPair(NamedTuple):
    """The same sentence about a flawless and about a damaged piece.

    category: the name used, or None for a word that fits every object. kind: the kind of defect
    named, or None for a word that fits every defect.
    """

    flawless: str
    damaged: str
    category: str | None
    kind: str | None


def caption_pair(
    rng: Generator, category: str | None, kind: str, name_dropout: float, kind_share: float
) -> CaptionPair:
    """Draw the two captions of a pair.

    Args:
        rng: random generator.
        category: what the images show; None for an invented object, which is named generically.
        kind: the kind of defect on the damaged image.
        name_dropout: probability that a known category is named generically too.
        kind_share: probability that the damaged caption names the kind of defect.

    Returns:
        The pair.
    """
    named = category if category is not None and rng.uniform() >= name_dropout else None
    name = named or str(rng.choice(GENERIC_NAMES))
    specific = rng.uniform() < kind_share
    states = KIND_STATES[kind] if specific else DAMAGED
    template = str(rng.choice(TEMPLATES))
    flawless = template.format(str(rng.choice(FLAWLESS)).format(name))
    damaged = template.format(str(rng.choice(states)).format(name))
    return CaptionPair(flawless, damaged, named, kind if specific else None)


def is_true(pair: CaptionPair, damaged: bool, category: str | None, kind: str | None) -> bool:
    """Whether a caption holds of an image.

    Args:
        pair: the captions.
        damaged: which of the two.
        category: what the image shows; None for an invented object.
        kind: the kind of defect on it; None if it is flawless.

    Returns:
        True if the caption holds.
    """
    if pair.category is not None and pair.category != category:
        return False
    if damaged != (kind is not None):
        return False
    return not damaged or pair.kind is None or pair.kind == kind
