"""A set of generated categories -> shards of its flawless and defective images, painted once."""

from pathlib import Path

from bayes_pfl.synthetic import write_dataset
from bayes_pfl.synthetic.splits import SPLITS
from pipelines.ingest import ingest
from pipelines.options.ingest import IngestConfig

PAINTING_SEEDS = {"auxiliary": 101, "held-out": 202, "validation": 303}


def painted_shards(folder: Path, name: str, normal: int, defective: int) -> Path:
    """Paint and ingest images of one set of categories; what is there is kept.

    Args:
        folder: gets `images/` and `shards/`.
        name: of the set: auxiliary, held-out or validation.
        normal: flawless images of each category.
        defective: defective images of each category.

    Returns:
        The folder of shards.
    """
    called = f"{name}-{normal}-{defective}"
    images, shards = folder / "images" / called, folder / "shards" / called
    if not images.exists():
        write_dataset(images, SPLITS[name], normal, defective, size=128, seed=PAINTING_SEEDS[name])
    ingest("folder", images, shards, IngestConfig(splits=("test",), name=name, rows_per_shard=64))
    return shards
