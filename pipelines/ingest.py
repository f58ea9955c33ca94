"""`bayes-pfl ingest`: a data set's folder -> Arrow shards, decoded and checked over a Ray cluster."""

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from bayes_pfl.config import parse_config, read_config
from bayes_pfl.data.remote import is_remote
from bayes_pfl.data.walk import SkippedFile, counts_by_reason, printable
from bayes_pfl.datasets.catalogue import find, get_dataset
from bayes_pfl.datasets.checks import check_files, check_labels, check_listing, check_masks, check_values
from bayes_pfl.datasets.description import Dataset
from bayes_pfl.datasets.names import NameChoices
from bayes_pfl.datasets.output import begin, claim, gather, notes_of, write_manifest
from bayes_pfl.datasets.own import FOLDER, own_images
from bayes_pfl.datasets.packing import PackingOptions, ShardTask, plan_shards
from bayes_pfl.datasets.source import DatasetListing, Source
from bayes_pfl.errors import ConfigError, DataError
from pipelines.ingestion.class_names import check_class_names, rename_classes
from pipelines.ingestion.paths import local_path
from pipelines.ingestion.progress import Progress
from pipelines.ingestion.summary import summary_text
from pipelines.ingestion.workers import pack
from pipelines.options.ingest import IngestConfig

OWN_OPTIONS = ("split_names", "normal", "anomalous", "label_from_masks", "annotations")
"""Options that say what folders mean; the fifteen data sets say it themselves."""


def run(args: argparse.Namespace) -> int:
    """Ingest as the command line says and print the summary.

    Args:
        args: parsed options.

    Returns:
        Exit code 0.

    Raises:
        BayesPFLError: whatever people can mend.
    """
    config = read_config(IngestConfig, args.config, args.set)
    named = dict(value.split("=", 1) for value in args.split if "=" in value)
    given = {
        "layout": args.layout,
        "subset": args.subset,
        "splits": tuple(value for value in args.split if "=" not in value) or None,
        "split_names": named or None,
        "normal": tuple(args.normal) or None,
        "anomalous": tuple(args.anomalous) or None,
        "class_names": {category: name for category, _, name in map(_named, args.class_name)} or None,
        "label_from_masks": args.label_from_masks or None,
        "annotations": args.annotations,
        "mask_above": args.mask_above,
        "masks_as_stored": args.masks_as_stored,
        "categories": args.categories and tuple(name.strip() for name in args.categories.split(",")),
        "limit": args.limit,
        "max_side_px": args.max_side,
        "bits": args.bits,
        "strict": args.strict or None,
        "name": args.name,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    config = parse_config(IngestConfig, {**config.model_dump(), **changes}, "the command line")
    summary = ingest(args.dataset, args.source, args.output, config)
    print(json.dumps(summary, indent=2, ensure_ascii=False) if args.json else summary_text(summary))
    return 0


def ingest(dataset: str, source: Path | str, output: Path | str, config: IngestConfig | None = None) -> dict[str, Any]:
    """Write the shards of a data set into a folder, or what is missing of them.

    Args:
        dataset: name of its description, or "folder".
        source: its unpacked folder.
        output: folder or URI for the shards.
        config: what to take, and how to store it.

    Returns:
        The summary: counts, remarks, files set aside, ignored and left out, times.

    Raises:
        DataError: the dataset is not there, a folder's name is unclear, all masks are empty, or ``strict`` met
            something to warn of.
        OutputError: ``output`` cannot be written, is in use, or holds another ingest.
        ConfigError: a path is empty or begins with a user's home that is not there; a URI's scheme is unknown; an
            option is not for this data set.
    """
    started = time.monotonic()
    config = config or IngestConfig()
    description = _description(dataset, config)
    source = local_path(source, "--source")
    output = str(output).rstrip("/") if is_remote(output) else local_path(output, "--output")
    choice = (config.layout, config.subset, config.splits, config.categories, config.limit)
    listing = find(description, Source(source), *choice)
    listing = rename_classes(listing, config.class_names)
    remarks = [
        *check_listing(listing, description, selected=bool(config.splits or config.limit)),
        *check_class_names(listing.records, config.class_names.values()),
    ]
    if config.strict:
        _refuse(listing.set_aside, remarks)
    name = config.name or (source.name if description.name == FOLDER.name else description.name)
    above, as_stored = description.mask_above, config.masks_as_stored
    options = PackingOptions(name, above, config.max_side_px, config.max_pixels, as_stored, config.bits)
    tasks = plan_shards(source, output, options, listing.records, config.rows_per_shard, config.bytes_per_shard)
    with nullcontext() if isinstance(output, str) else claim(output):
        written, progress = _write(output, tasks, config.strict)
        manifest = gather(output, tasks, listing, _header(name, description, listing, config))
        remarks += [*check_labels(manifest), *check_masks(manifest), *check_files(manifest)]
        if config.strict:
            _refuse((), remarks)
        manifest["remarks"] = remarks
        write_manifest(output, manifest)
    return {
        **{key: value for key, value in manifest.items() if key not in ("options", "shards", "index")},
        "ignored": counts_by_reason(listing.ignored),
        "left_out": counts_by_reason(listing.left_out),
        "read_as": check_values(manifest),
        "empty_masks": len(manifest["empty_masks"]),
        "published_categories": len(description.categories),
        "selected_categories": bool(config.categories),
        "output": str(output),
        "shards": len(manifest["shards"]),
        "shards_written": written,
        "seconds": round(time.monotonic() - started, 2),
        "startup_seconds": round(progress.startup_seconds, 2),
        "images_per_second": round(progress.images_per_second, 1),
    }


def _description(name: str, config: IngestConfig) -> Dataset:
    """The data set's description with what the options change in it."""
    description = get_dataset(name)
    if description.name == FOLDER.name:
        choices = NameChoices(frozenset(config.normal), frozenset(config.anomalous), config.split_names)
        description = own_images(choices, config.label_from_masks, config.annotations)
    elif foreign := [option for option in OWN_OPTIONS if getattr(config, option)]:
        raise ConfigError(
            f"{', '.join(foreign)}: only for images of your own, `bayes-pfl ingest folder`; leave it out."
        )
    return description if config.mask_above is None else replace(description, mask_above=config.mask_above)


def _named(value: str) -> tuple[str, str, str]:
    """ "part_1=metal plate" in its parts; a name alone is for every category."""
    category, separator, name = value.rpartition("=")
    return category, separator, name


def _write(output: Path | str, tasks: Sequence[ShardTask], strict: bool) -> tuple[int, Progress]:
    """Write what is left to do; how many shards that were, and the clock."""
    todo = begin(output, tasks)
    if strict:
        for note in notes_of(output, tasks):
            _refuse(note["set_aside"] if note else (), ())
    with Progress(sum(len(task.records) for task in todo)) as progress:
        for index, note in pack(todo, progress):
            if strict:
                _refuse(note["set_aside"], ())
            progress.advance(len(tasks[index].records))
    return len(todo), progress


def _header(name: str, description: Dataset, listing: DatasetListing, config: IngestConfig) -> dict[str, Any]:
    """What the manifest begins with."""
    return {
        "dataset": name,
        "description": description.name,
        "title": description.title,
        "metrics": description.metrics,
        "layout": listing.layout,
        "root": listing.root,
        "options": config.model_dump(mode="json"),
    }


def _refuse(skipped: Iterable[Sequence[str] | SkippedFile], remarks: Sequence[str]) -> None:
    """Raise DataError if an image is set aside or something is to be warned of."""
    entries = list(skipped)
    if entries:
        path, reason = entries[0]
        more = f" (and {len(entries) - 1:,} more)" if len(entries) > 1 else ""
        raise DataError(f"{printable(path)}: {reason}{more}. Mend or remove the file, or ingest without --strict.")
    if remarks:
        more = f" (and {len(remarks) - 1} more)" if len(remarks) > 1 else ""
        raise DataError(f"{remarks[0]}{more}. Mend it, or ingest without --strict.")
