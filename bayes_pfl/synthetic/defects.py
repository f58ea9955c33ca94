"""Painters of all kinds of defects by name, in the order that is part of what a seed means."""

from bayes_pfl.synthetic.damage import DAMAGE
from bayes_pfl.synthetic.marks import MARKS
from bayes_pfl.synthetic.placement import DefectPainter

_ORDER = (
    "scratch",
    "scuff",
    "crack",
    "hole",
    "stain",
    "discolouration",
    "bleach",
    "dent",
    "dark dots",
    "missing piece",
    "contamination",
    "glue",
    "smear",
    "warp",
    "misplacement",
    "corrosion",
    "lesion",
    "ink mark",
    "tear",
    "burn",
    "thread",
    "bubbles",
    "mould",
)

DEFECTS: dict[str, DefectPainter] = {name: {**MARKS, **DAMAGE}[name] for name in _ORDER}
