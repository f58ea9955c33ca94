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

DIFFERENCES = {
    "model_version": "made with another --model",
    "images": "made of other images",
    "images_sha256": "made of other images",
    "class_names_sha256": "made with another --class-name",
    "region": "made with another --roi",
    "overlap": "made with another --overlap",
    "region_threshold": "made with another --region-threshold, or --threshold in its place",
    "options": "made with other --precision, --compiled or --deterministic",
    "auto_threshold": "made with another --threshold, which --num-samples auto depends on",
}
"""By field of the plan; the other fields have the name of their option."""

SWITCHES = {"overlap": "--tile", "region": "--roi", "region_threshold": "--coco", "bits": "--bits"}
"""Options without which a field is None."""


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
        """How an earlier run was made that differs.

        Args:
            earlier: fields of its plan as they were written.

        Returns:
            Words with the option that makes the difference: "made without --tile".
        """
        earlier = {**self._field_defaults, **earlier}
        names = {name for name, value in self._asdict().items() if name in earlier and earlier[name] != value}
        if "class_names_sha256" in names or "images" in names:
            names.discard("images_sha256")  # which the other two change too
        return [_difference(name, earlier[name], getattr(self, name)) for name in self._fields if name in names]


def _difference(name: str, earlier: Any, now: Any) -> str:
    if name in SWITCHES and None in (earlier, now):
        return f"made {'without' if earlier is None else 'with'} {SWITCHES[name]}"
    return DIFFERENCES.get(name, f"made with another --{name.replace('_', '-')}")


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
