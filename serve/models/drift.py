"""Drift: how far the recent images are from the window that a bundle was checked on, by score and by mean embedding."""

import json
from collections import deque
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bayes_pfl.clip.backbone import Backbone, Features
from bayes_pfl.config import BackboneConfig
from bayes_pfl.errors import BundleError
from bayes_pfl.inference.bundle import Bundle

REFERENCE = "reference_window.json"
WINDOW = 500
"""Images in the recent window."""
FEWEST = 50
"""With fewer recent images nothing is said: ten bins need some counts."""
LOOK_EVERY = 20
"""Images between two looks: a mean over the window takes a millisecond."""


class WatchedBackbone(Backbone):
    """A backbone that keeps the last image's global feature, so that watching costs no second pass."""

    def __init__(self, config: BackboneConfig) -> None:
        self.last: Tensor | None = None
        super().__init__(config)

    def encode_image(self, images: Tensor) -> Features:
        """As `Backbone.encode_image`."""
        features = super().encode_image(images)
        self.last = features.image[0]
        return features

    def last_embedding(self) -> np.ndarray:
        """(dim,) float64 of norm 1: the direction of the last image in the joint space."""
        assert self.last is not None
        value = self.last.detach().cpu().to(torch.float64).numpy()
        return value / max(float(np.linalg.norm(value)), 1e-12)


class Reference(NamedTuple):
    """Scores and mean embedding of images known to be usual for this model."""

    deciles: np.ndarray
    """(9,) inner decile edges of the image scores."""
    embedding: np.ndarray
    """(dim,) mean of the unit embeddings."""
    images: int


class Watch:
    """The recent window of one model, compared with the bundle's reference window if it has one."""

    def __init__(self, bundle: Bundle, backbone: WatchedBackbone) -> None:
        self.backbone = backbone
        self.reference = read_reference(bundle.folder)
        self.scores: deque[float] = deque(maxlen=WINDOW)
        self.embeddings: deque[np.ndarray] = deque(maxlen=WINDOW)
        self.unseen = 0

    def note(self, score: float) -> None:
        """Add the image that was scored last."""
        if self.reference is not None:
            self.scores.append(score)
            self.embeddings.append(self.backbone.last_embedding())
            self.unseen += 1

    def due(self) -> bool:
        """Whether there is enough new to look at; asking starts the count again if so."""
        due = self.unseen >= LOOK_EVERY
        self.unseen = 0 if due else self.unseen
        return due

    def drift(self) -> tuple[float, float] | None:
        """(population stability index of the scores, cosine distance of the mean embeddings); nothing before 50 images."""
        if self.reference is None or len(self.scores) < FEWEST:
            return None
        return (
            stability_index(self.reference.deciles, np.array(self.scores)),
            cosine_distance(self.reference.embedding, np.mean(self.embeddings, axis=0)),
        )


def stability_index(deciles: np.ndarray, scores: np.ndarray) -> float:
    """sum (q - p) ln(q / p) over the reference's deciles (p = 0.1 each), half a count added to every bin.

    Below 0.1 is usually called stable, above 0.25 shifted.
    """
    counts = np.bincount(np.searchsorted(deciles, scores, side="right"), minlength=10) + 0.5
    share = counts / counts.sum()
    return float(((share - 0.1) * np.log(share / 0.1)).sum())


def cosine_distance(one: np.ndarray, other: np.ndarray) -> float:
    """1 - cos of the angle between two vectors."""
    return float(1 - one @ other / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12))


def make_reference(scores: np.ndarray, embeddings: np.ndarray) -> Reference:
    """The reference window of (images,) scores and (images, dim) unit embeddings."""
    return Reference(np.quantile(scores, np.arange(1, 10) / 10), embeddings.mean(0), len(scores))


def write_reference(folder: Path, reference: Reference) -> None:
    """Keep the reference window with the bundle, under a temporary name first."""
    text = json.dumps(
        {"deciles": reference.deciles.tolist(), "embedding": reference.embedding.tolist(), "images": reference.images}
    )
    temporary = folder / f"{REFERENCE}.tmp"
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.rename(folder / REFERENCE)


def read_reference(folder: Path) -> Reference | None:
    """The bundle's reference window, if it has one. Raises BundleError if it is damaged."""
    path = folder / REFERENCE
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        reference = Reference(
            np.array(record["deciles"], float), np.array(record["embedding"], float), int(record["images"])
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{path} is damaged ({error}); make it again with bayes-pfl reference, or delete it."
        ) from error
    if reference.deciles.shape != (9,) or reference.embedding.ndim != 1:
        raise BundleError(f"{path} is damaged: it needs 9 deciles and one embedding; make it again or delete it.")
    return reference
