"""All kinds of defects by name; their order is part of what a seed means."""

from collections.abc import Callable

from numpy.random import Generator

from bayes_pfl.synthetic.damage import (
    bleach,
    bubbles,
    dent,
    discolouration,
    hole,
    lesion,
    misplacement,
    missing_piece,
    smear,
    tear,
    warp,
)
from bayes_pfl.synthetic.fields import Field
from bayes_pfl.synthetic.layers import Layers
from bayes_pfl.synthetic.marks import (
    burn,
    contamination,
    corrosion,
    crack,
    dark_dots,
    glue,
    ink_mark,
    mould,
    scratch,
    scuff,
    stain,
    thread,
)

DefectPainter = Callable[[Generator, Layers, float], tuple[Field, Field]]

DEFECTS: dict[str, DefectPainter] = {
    "scratch": scratch,
    "scuff": scuff,
    "crack": crack,
    "hole": hole,
    "stain": stain,
    "discolouration": discolouration,
    "bleach": bleach,
    "dent": dent,
    "dark dots": dark_dots,
    "missing piece": missing_piece,
    "contamination": contamination,
    "glue": glue,
    "smear": smear,
    "warp": warp,
    "misplacement": misplacement,
    "corrosion": corrosion,
    "lesion": lesion,
    "ink mark": ink_mark,
    "tear": tear,
    "burn": burn,
    "thread": thread,
    "bubbles": bubbles,
    "mould": mould,
}
