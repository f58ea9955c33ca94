"""Recent scores and embeddings, reference window -> drift, how far these images are from those of the window."""

import json
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bayes_pfl.errors import BundleError
from bayes_pfl.inference.bundle import Bundle
from bayes_pfl.inference.detector import Detector

REFERENCE = "reference_window.json"
WINDOW = 500
"""Images in the recent window."""
FEWEST = 50
"""With fewer recent images nothing is said: ten bins need some counts."""
LOOK_EVERY = 20
"""Images between two looks: a mean over the window takes a millisecond."""


def last_embeddings(detector: Detector) -> np.ndarray:
    """The directions of the images that a detector has scored last, in the space of the method's global features.

    Args:
        detector: it has scored something.

    Returns:
        (images, dim) float64 of norm 1.
    """
    assert detector.last_image_features is not None
    values = detector.last_image_features.detach().cpu().to(torch.float64).numpy()
    return values / np.linalg.norm(values, axis=1, keepdims=True).clip(min=1e-12)


class Reference(NamedTuple):
    """Scores and mean embedding of images known to be usual for this model."""

    deciles: np.ndarray
    """(9,) inner decile edges of the image scores."""
    embedding: np.ndarray
    """(dim,) mean of the unit embeddings."""
    images: int


class Watch:
    """The recent window of one model, compared with the bundle's reference window if it has one.

    Args:
        bundle: of the model.
        detector: of the model.
    """

    def __init__(self, bundle: Bundle, detector: Detector) -> None:
        self.detector = detector
        self.reference = read_reference(bundle.folder)
        self.scores: deque[float] = deque(maxlen=WINDOW)
        self.embeddings: deque[np.ndarray] = deque(maxlen=WINDOW)
        self.unseen = 0

    def note(self, scores: Sequence[float]) -> None:
        """Add the images of the batch that was scored last.

        Args:
            scores: of these images.
        """
        if self.reference is not None:
            self.scores.extend(scores)
            self.embeddings.extend(last_embeddings(self.detector))
            self.unseen += len(scores)

    def due(self) -> bool:
        """Whether `LOOK_EVERY` images have come since this was last true.

        Returns:
            Whether; if so the count starts again.
        """
        due = self.unseen >= LOOK_EVERY
        self.unseen = 0 if due else self.unseen
        return due

    def drift(self) -> tuple[float, float] | None:
        """How far the recent window is from the reference window.

        Returns:
            (population stability index of the scores, cosine distance of the mean embeddings); None before 50 images.
        """
        if self.reference is None or len(self.scores) < FEWEST:
            return None
        return (
            stability_index(self.reference.deciles, np.array(self.scores)),
            cosine_distance(self.reference.embedding, np.mean(self.embeddings, axis=0)),
        )


def stability_index(deciles: np.ndarray, scores: np.ndarray) -> float:
    """sum (q - p) ln(q / p) over the reference's deciles (p = 0.1 each), half a count added to every bin.

    Below 0.1 is usually called stable, above 0.25 shifted.

    Args:
        deciles: (9,) inner decile edges of the reference's scores.
        scores: (images,) recent scores.

    Returns:
        The population stability index.
    """
    counts = np.bincount(np.searchsorted(deciles, scores, side="right"), minlength=10) + 0.5
    share = counts / counts.sum()
    return float(((share - 0.1) * np.log(share / 0.1)).sum())


def cosine_distance(first: np.ndarray, second: np.ndarray) -> float:
    """1 - cos of the angle between two vectors.

    Args:
        first: (dim,).
        second: (dim,).

    Returns:
        In [0, 2].
    """
    return float(1 - first @ second / max(float(np.linalg.norm(first) * np.linalg.norm(second)), 1e-12))


def make_reference(scores: np.ndarray, embeddings: np.ndarray) -> Reference:
    """The reference window of some images.

    Args:
        scores: (images,) image scores.
        embeddings: (images, dim) of norm 1.

    Returns:
        Their deciles, mean and number.
    """
    return Reference(np.quantile(scores, np.arange(1, 10) / 10), embeddings.mean(0), len(scores))


def write_reference(folder: Path, reference: Reference) -> None:
    """Keep the reference window with the bundle, under a temporary name first.

    Args:
        folder: of the bundle.
        reference: the window.
    """
    text = json.dumps(
        {"deciles": reference.deciles.tolist(), "embedding": reference.embedding.tolist(), "images": reference.images}
    )
    temporary = folder / f"{REFERENCE}.tmp"
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.rename(folder / REFERENCE)


def read_reference(folder: Path) -> Reference | None:
    """The bundle's reference window.

    Args:
        folder: of the bundle.

    Returns:
        The window; None if the bundle has none.

    Raises:
        BundleError: it is damaged.
    """
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
