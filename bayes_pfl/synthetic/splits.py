"""Which categories may be used for what: four disjoint sets, and the kinds kept for reporting.

PRETRAIN trains the embedded CLIP, AUXILIARY trains Bayes-PFL on it, VALIDATION decides every choice
and HELD_OUT is for reporting alone: nothing is ever chosen by looking at it. HELD_OUT_KINDS are
painted on held-out categories only, so neither training has seen them.
"""

from bayes_pfl.synthetic.catalogue import CATEGORIES, defects_of

HELD_OUT: tuple[str, ...] = (
    "brick wall", "carbon fibre", "cow hide", "honeycomb panel", "perforated sheet", "corduroy",
    "hex nut", "biscuit", "circuit board", "solar cell", "battery", "zipper", "leaf", "bottle cap",
    "retina", "ultrasound",
)  # fmt: skip

AUXILIARY: tuple[str, ...] = (
    "leather", "wooden board", "ceramic tile", "wire mesh", "speckled stone", "linen cloth",
    "capsule", "screw", "cable", "bottle top", "washer", "coin", "hazel nut", "label",
    "brain scan", "colon",
)  # fmt: skip

VALIDATION: tuple[str, ...] = (
    "carpet", "marble", "dotted fabric", "gear", "quail egg", "chest x-ray",
)  # fmt: skip

PRETRAIN: tuple[str, ...] = tuple(name for name in CATEGORIES if name not in {*HELD_OUT, *AUXILIARY, *VALIDATION})

SPLITS: dict[str, tuple[str, ...]] = {
    "pretrain": PRETRAIN,
    "auxiliary": AUXILIARY,
    "validation": VALIDATION,
    "held-out": HELD_OUT,
}

HELD_OUT_KINDS: tuple[str, ...] = ("burn", "thread", "bubbles", "mould", "tear")


def kinds_for(category: str) -> tuple[str, ...]:
    """Kinds of defects to paint on a category: `HELD_OUT_KINDS` on held-out categories only.

    Args:
        category: its name.

    Returns:
        The kinds, in the order of `DEFECTS`.
    """
    return tuple(kind for kind in defects_of(category) if category in HELD_OUT or kind not in HELD_OUT_KINDS)
