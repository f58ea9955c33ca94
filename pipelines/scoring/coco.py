"""Scored images with their regions -> a COCO JSON file, which labelling tools open."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bayes_pfl.data.shards import replacing
from bayes_pfl.datasets.checks import counted
from bayes_pfl.errors import OutputError
from bayes_pfl.inference.outlines import OutlinedRegion
from pipelines.platform.storage import check_writable
from pipelines.scoring.task import ScoringTask

DECIMALS = 3
"""Of coordinates, pixels."""

CONTRIBUTOR = "bayes-pfl score"
"""Tells the file from other COCO files: only such a one is replaced."""


class RegionsOfImage(NamedTuple):
    """The regions of one image, as parts of results keep them: JSON."""

    width: int
    height: int
    regions: list[OutlinedRegion]

    @classmethod
    def from_json(cls, text: str) -> "RegionsOfImage":
        """Read what `json.dumps` wrote.

        Args:
            text: JSON.

        Returns:
            The regions.
        """
        width, height, regions = json.loads(text)
        return cls(width, height, [OutlinedRegion(*region) for region in regions])


def coco_document(rows: Sequence[dict[str, Any]], regions: Sequence[str | None], task: ScoringTask) -> dict[str, Any]:
    """Images, regions and class names as COCO has them: boxes and polygons in pixels of the upright image.

    Args:
        rows: rows of the results.
        regions: of each row, as `RegionsOfImage` in JSON; None for an image without a score, which is left out.
        task: the model, and how it predicts.

    Returns:
        The content of the file.
    """
    names = sorted({row["class_name"] for row, outlined in zip(rows, regions, strict=True) if outlined is not None})
    categories = {name: number for number, name in enumerate(names, 1)}
    thresholds = task.region_thresholds or {}
    different = set(thresholds.values())
    levels = ", ".join(
        f"{value:g}" + (f" ({name})" if len(different) > 1 else "") for name, value in thresholds.items()
    )
    levels = f"{different.pop():g}" if len(different) == 1 else levels
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for row, outlined in zip(rows, regions, strict=True):
        if outlined is None:
            continue
        image = RegionsOfImage.from_json(outlined)
        number = len(images) + 1
        entry = {"id": number, "file_name": row["sample_id"], "width": image.width, "height": image.height}
        images.append(entry | {name: row[name] for name in ("pred_label", "p_value") if row[name] is not None})
        for region in image.regions:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": categories[row["class_name"]],
                    "bbox": [round(value, DECIMALS) for value in region.box],
                    "segmentation": [[round(value, DECIMALS) for value in polygon] for polygon in region.polygons],
                    "area": round(region.area, DECIMALS),
                    "iscrowd": 0,
                    "score": region.score,
                }
            )
    described = [f"Regions where the anomaly map reaches {levels}; looked at: {task.looked_at}"]
    described += explain_regions(rows, regions)
    return {
        "info": {
            "description": ". ".join(described),
            "version": task.bundle.version,
            "contributor": CONTRIBUTOR,
        },
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
    }


def count_regions(regions: Sequence[str | None]) -> str:
    """How many regions there are, and in how many images.

    Args:
        regions: of each image, as `RegionsOfImage` in JSON, or None.

    Returns:
        Words.
    """
    counts = [len(RegionsOfImage.from_json(outlined).regions) for outlined in regions if outlined is not None]
    marked = sum(count > 0 for count in counts)
    return f"{counted(sum(counts), 'region')} in {marked:,} of {counted(len(counts), 'image')}"


def explain_regions(rows: Sequence[dict[str, Any]], regions: Sequence[str | None]) -> list[str]:
    """Why there are regions in images that are called good, and none in images that are called defective.

    Args:
        rows: rows of the results.
        regions: of each row, as `RegionsOfImage` in JSON, or None.

    Returns:
        A sentence for each; nothing where there are no such images.
    """
    marked = [
        (row["pred_label"], bool(RegionsOfImage.from_json(outlined).regions))
        for row, outlined in zip(rows, regions, strict=True)
        if outlined is not None
    ]
    good, defective = marked.count(("good", True)), marked.count(("defective", False))
    sentences = []
    if good:
        sentences.append(
            f"{counted(good, 'image')} called good {'has' if good == 1 else 'have'} regions: a region begins where the "
            "map reaches the region threshold, and an image is called good by its image score, which has a threshold "
            "of its own"
        )
    if defective:
        sentences.append(
            f"{counted(defective, 'image')} called defective {'has' if defective == 1 else 'have'} no region: the "
            "image score is above its threshold, and no pixel of the map reaches the region threshold; a lower "
            "--region-threshold marks more"
        )
    return sentences


def check_coco(path: Path) -> None:
    """Refuse a file that cannot be written, or that something else wrote.

    Args:
        path: the file.

    Raises:
        OutputError: it is so.
    """
    if path.exists() and not _is_ours(path):
        raise OutputError(f"{path} is there already, and `bayes-pfl score` did not write it: choose another --coco.")
    check_writable(str(path.parent))


def _is_ours(path: Path) -> bool:
    try:
        info = json.loads(path.read_bytes())["info"]
        return bool(info["contributor"] == CONTRIBUTOR)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def write_coco(path: Path, document: dict[str, Any]) -> None:
    """Write the file, whole or not at all.

    Args:
        path: the file.
        document: its content.

    Raises:
        OutputError: it cannot be written, or is by now a file of something else.
    """
    check_coco(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot write {path} ({error.strerror or error}): choose another --coco.") from error
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(document) + "\n", encoding="utf-8")
