"""Painters of objects by category, in the order that is part of what a seed means."""

from bayes_pfl.synthetic.goods import GOODS
from bayes_pfl.synthetic.hardware import HARDWARE
from bayes_pfl.synthetic.layers import LayerPainter

_ORDER = (
    "capsule",
    "tablet",
    "hex nut",
    "washer",
    "screw",
    "gear",
    "bottle top",
    "button",
    "coin",
    "biscuit",
    "hazel nut",
    "cable",
    "circuit board",
    "chip",
    "solar cell",
    "zipper",
    "bearing",
    "key",
    "spring",
    "leaf",
    "egg",
    "quail egg",
    "battery",
    "label",
    "plate",
    "bottle cap",
    "candle",
    "comb",
    "tomato",
    "window pane",
)

OBJECTS: dict[str, LayerPainter] = {name: {**GOODS, **HARDWARE}[name] for name in _ORDER}
