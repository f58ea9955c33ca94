"""Bayesian Prompt Flow Learning for zero-shot anomaly detection: `Detector` is the way in.

Names are imported when they are first used, so that a command line's --help does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayes_pfl.errors import BayesPFLError
    from bayes_pfl.inference.detector import Detector, Prediction

__all__ = ["BayesPFLError", "Detector", "Prediction"]

_HOMES = {"Detector": "inference.detector", "Prediction": "inference.detector", "BayesPFLError": "errors"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bayes_pfl' has no attribute {name!r}")
    return getattr(import_module(f"bayes_pfl.{_HOMES[name]}"), name)
