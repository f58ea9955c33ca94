"""Painted shards made in this very process: the library's own packing, without Ray."""

from pathlib import Path

from bayes_pfl.datasets.catalogue import find, get_dataset
from bayes_pfl.datasets.output import begin, claim, finish
from bayes_pfl.datasets.packing import PackingOptions, pack_shard, plan_shards
from bayes_pfl.datasets.source import Source
from bayes_pfl.synthetic import write_dataset


def plain_shards(folder: Path, categories: tuple[str, ...], seed: int, normal: int = 2, defective: int = 3) -> Path:
    """Shards of the test split of freshly painted images, four rows each."""
    images, output = folder / f"images-{seed}", folder / f"shards-{seed}"
    write_dataset(images, categories, normal, defective, size=64, seed=seed)
    dataset = get_dataset("folder")
    found = find(dataset, Source(images), splits=("test",))
    options = PackingOptions("painted", dataset.mask_above, None, 10**8)
    tasks = plan_shards(images, output, options, found.records, rows_per_shard=4, bytes_per_shard=10**9)
    with claim(output):
        for task in begin(output, tasks):
            pack_shard(task)
        finish(output, tasks, found, {"dataset": "painted", "metrics": dataset.metrics})
    return output
