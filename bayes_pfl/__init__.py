"""Bayesian Prompt Flow Learning for zero-shot anomaly detection: `Detector` is the way in."""

from bayes_pfl.detector import Detector, Prediction
from bayes_pfl.errors import BayesPFLError

__all__ = ["BayesPFLError", "Detector", "Prediction"]
