"""Shards -> scores of their images, and of the normal ones at another brightness; what is scored is kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bayes_pfl.data.preprocess import decode_image
from bayes_pfl.data.remote import Store
from bayes_pfl.data.samples import SampleRef, refs_digest
from bayes_pfl.data.shards import replacing
from bayes_pfl.decisions.records import ScoredImages
from pipelines.ingest import ingest
from pipelines.options.ingest import IngestConfig
from pipelines.platform.cluster import start_ray
from pipelines.platform.progress import progress
from pipelines.scoring.actors import read_row
from pipelines.scoring.evaluation import FinishedChunks, score_samples
from pipelines.scoring.options import Actors
from pipelines.scoring.task import ScoringTask
from pipelines.study.uncertainty.groups import ScoredGroup

Columns = dict[str, list[Any]]
"""By image, in the order of the references: sha256, score, map_maximum, uncertainty; None where there is none."""


def relit_shards(folder: Path, name: str, refs: Sequence[SampleRef], light: float) -> Path:
    """Shards of images whose pixel values are multiplied; each is named by the original's hash.

    Args:
        folder: gets `images/` and `shards/`.
        name: of the dataset.
        refs: the originals.
        light: factor of the values of 0 to 255; those above 255 become 255.

    Returns:
        The folder of shards.
    """
    called = f"{name}-light-{light:g}-{refs_digest(refs)[:12]}"
    images, shards = folder / "images" / called, folder / "shards" / called
    names = {class_name: f"{at:03d}" for at, class_name in enumerate(sorted({ref.class_name for ref in refs}))}
    for ref in refs:
        path = images / names[ref.class_name] / "test" / "good" / f"{ref.sha256}.png"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(decode_image(read_row(ref.shard, ref.row)[0]), np.float32)
        with replacing(path) as temporary:
            Image.fromarray(np.clip(pixels * light + 0.5, 0, 255).astype(np.uint8)).save(temporary, "PNG")
    class_names = {folder_name: class_name for class_name, folder_name in names.items()}
    ingest("folder", images, shards, IngestConfig(splits=("test",), name=called, class_names=class_names))
    return shards


def scored_columns(task: ScoringTask, actors: Actors, refs: Sequence[SampleRef], folder: Path, name: str) -> Columns:
    """Scores of images, from the actors or from an earlier run.

    Args:
        task: the model, and how it predicts.
        actors: that hold it.
        refs: the images.
        folder: gets `scores/NAME-....json`, named by all that decides it; chunks lie in `unfinished/` until then.
        name: of the dataset.

    Returns:
        The columns.
    """
    finished = FinishedChunks(folder / "unfinished", task, refs)
    store, file = Store(folder), f"scores/{name}-{finished.folder.name}.json"
    earlier = store.read_json(file)
    if earlier is not None:
        return dict(earlier)
    start_ray(actors.number, actors.gpus)
    categories = [ref.category for ref in refs]
    with progress(len(refs), "image") as advance:
        scored = score_samples(task, refs, categories, finished, actors.number, advance)
    values = {"score": scored.scores, "map_maximum": scored.map_parts, "uncertainty": scored.uncertainties}
    columns: Columns = {
        "sample_id": [ref.sample_id for ref in refs],
        "sha256": [ref.sha256 for ref in refs],
        "label": [ref.label for ref in refs],
        **{key: [float(value) if np.isfinite(value) else None for value in column] for key, column in values.items()},
    }
    store.write_json(file, columns)
    finished.remove()
    return columns


def grouped(dataset: str, refs: Sequence[SampleRef], columns: Columns, relit: Columns | None) -> list[ScoredGroup]:
    """Scored images by category.

    Args:
        dataset: its name.
        refs: images, none of them twice.
        columns: their scores.
        relit: scores of the normal images at another brightness, whose names are the originals' hashes.

    Returns:
        A group a category with normal images; images without a score are in none.
    """
    other = {} if relit is None else {Path(name).stem: at for at, name in enumerate(relit["sample_id"])}
    scored = [at for at, score in enumerate(columns["score"]) if score is not None]
    groups = []
    for category in dict.fromkeys(ref.category for ref in refs):
        of_label = [[at for at in scored if refs[at].category == category and refs[at].label == k] for k in (0, 1)]
        normal, anomalous = of_label
        if relit is not None:
            normal = [at for at in normal if relit["score"][other[refs[at].sha256]] is not None]
        if not normal:
            continue
        hashes = [refs[at].sha256 for at in normal]
        groups.append(
            ScoredGroup(
                category if category == dataset else f"{dataset}/{category}",
                dataset,
                _images(columns, normal, hashes),
                _images(columns, anomalous, [refs[at].sha256 for at in anomalous]) if anomalous else None,
                None if relit is None else _images(relit, [other[digest] for digest in hashes], hashes),
            )
        )
    return groups


def _images(columns: Columns, positions: Sequence[int], hashes: Sequence[str]) -> ScoredImages:
    """Columns as the calibration keeps them."""
    spread = [columns["uncertainty"][at] for at in positions]
    return ScoredImages(
        sha256=tuple(hashes),
        scores=tuple(columns["score"][at] for at in positions),
        map_maxima=tuple(columns["map_maximum"][at] for at in positions),
        uncertainties=None if None in spread else tuple(spread),
    )


def without_copies(refs: Sequence[SampleRef]) -> list[SampleRef]:
    """Each image once: halves that share a copy would not be independent.

    Args:
        refs: in any order.

    Returns:
        The first of each hash.
    """
    return list({ref.sha256: ref for ref in reversed(refs)}.values())[::-1]
