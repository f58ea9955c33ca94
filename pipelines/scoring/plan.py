"""What the scores of a folder depend on -> plan.json, by which a run knows whether the parts there are its own."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bayes_pfl.config import DetectorOptions
from bayes_pfl.data.preprocess import MAX_PIXELS
from bayes_pfl.errors import OutputError
from pipelines.scoring.inputs import ImageInput
from pipelines.scoring.task import ScoringTask


class ScoringPlan(NamedTuple):
    """All that the scores depend on: the same plan gives the same scores."""

    model_version: str
    num_samples: int | Literal["auto"]
    seed: int
    images: int
    images_sha256: str
    """Over names, class names and stamps, in order."""
    class_names_sha256: str
    """Over the different class names."""
    max_pixels: int = MAX_PIXELS
    """As all that follow: what a plan means that was written without it."""
    overlap: float | None = None
    """Of tiles; None: whole images."""
    region: str | None = None
    """Name of the region of interest; None: all of an image."""
    region_threshold: float | dict[str, float] | None = None
    """Map value from which a pixel belongs to a region, by class name where it differs; None: no regions."""
    options: dict[str, Any] = DetectorOptions().model_dump()
    """How the model computed."""
    bits: int | None = None
    """Of gray images with more than 8; None: as each file or its values say."""
    auto_threshold: float | None = None
    """That `auto` samples decide by; None with a number of samples."""

    @classmethod
    def make(cls, task: ScoringTask, inputs: Sequence[ImageInput]) -> "ScoringPlan":
        """The plan of scoring some images.

        Args:
            task: the model, and how it predicts.
            inputs: the images.

        Returns:
            The plan.
        """
        listed = [[image.sample_id, image.class_name, image.stamp] for image in inputs]
        names = sorted({image.class_name for image in inputs})
        digests = _digest(listed), _digest(names)
        region = None if task.view.region is None else task.view.region.name
        question = task.bundle.version, task.num_samples, task.seed, len(inputs)
        return cls(
            *question,
            *digests,
            task.max_pixels,
            task.view.overlap,
            region,
            _one_or_all(task.region_thresholds),
            task.options.model_dump(),
            task.bits,
            task.threshold if task.num_samples == "auto" else None,
        )

    def differences(self, earlier: dict[str, Any]) -> list[str]:
        """In what an earlier plan differs.

        Args:
            earlier: its fields as they were written.

        Returns:
            Names of fields, those with a plain word for it in front.
        """
        earlier = {**self._field_defaults, **earlier}
        names = [name for name, value in self._asdict().items() if name in earlier and earlier[name] != value]
        if "class_names_sha256" in names:
            return ["class name", *names]
        return names


def read_plan(path: Path) -> dict[str, Any] | None:
    """The plan of an earlier run.

    Args:
        path: plan.json in the folder `_manifest` of the results.

    Returns:
        Its fields as they were written; None where there is none.

    Raises:
        OutputError: the file is damaged, or the plan of something else, such as an ingest.
    """
    if not path.exists():
        return None
    folder = path.parent.parent
    try:
        plan = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(
            f"{path} is damaged, so nobody knows which run the scores beside it are of: choose another --output, or "
            f"delete {folder}."
        ) from error
    if not isinstance(plan, dict) or "images_sha256" not in plan:
        raise OutputError(f"{folder} holds no scores, but shards or something else. Choose another --output.")
    return plan


def _one_or_all(thresholds: Mapping[str, float] | None) -> float | dict[str, float] | None:
    """The threshold that all class names share, or all of them."""
    different = set((thresholds or {}).values())
    return next(iter(different), None) if len(different) < 2 else dict(thresholds or {})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
