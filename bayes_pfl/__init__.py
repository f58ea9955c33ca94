"""Bayesian Prompt Flow Learning for zero-shot anomaly detection: `Detector.load().predict(images, class_names)`.

Names are imported when they are first used, so that a command line's --help does not wait for torch.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayes_pfl.errors import BayesPFLError
    from bayes_pfl.inference.detector import Detector
    from bayes_pfl.inference.prediction import Prediction

    __version__: str

__all__ = ["BayesPFLError", "Detector", "Prediction", "__version__"]

_HOMES = {"Detector": "inference.detector", "Prediction": "inference.prediction", "BayesPFLError": "errors"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("bayes-pfl")
    if name not in _HOMES:
        raise AttributeError(f"module 'bayes_pfl' has no attribute {name!r}")
    return getattr(import_module(f"bayes_pfl.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
