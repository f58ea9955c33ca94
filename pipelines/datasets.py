"""`bayes-pfl datasets`: list what can be ingested, verify that a folder holds all of it, or that shards are whole."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from bayes_pfl.data.index import compare_with_shards
from bayes_pfl.data.walk import printable
from bayes_pfl.datasets.catalogue import DATASETS, SUBSETS, find, get_dataset
from bayes_pfl.datasets.checks import counted
from bayes_pfl.datasets.description import Category, Counts, Dataset
from bayes_pfl.datasets.own import FOLDER
from bayes_pfl.datasets.source import Source
from bayes_pfl.datasets.verify import Verdict, verify
from bayes_pfl.errors import DataError
from pipelines.ingestion.paths import local_path
from pipelines.ingestion.progress import Progress

LISTED = 20
"""Files of one kind that are named; --json has all."""


def run(args: argparse.Namespace) -> int:
    """List or verify, and print.

    Args:
        args: parsed options.

    Returns:
        Exit code: 0 for a complete folder, 1 for one that lacks something or has changed.

    Raises:
        BayesPFLError: whatever people can mend.
    """
    if args.action == "list":
        chosen = [get_dataset(args.name)] if args.name else [*DATASETS.values(), FOLDER]
        entries = [describe(dataset) for dataset in chosen]
        print(json.dumps(entries, indent=2, ensure_ascii=False) if args.json else _list_text(entries))
        return 0
    if args.shards is not None:
        return _verify_shards(args.shards, args.json)
    if args.name is None or args.source is None:
        raise DataError(
            "Say what to verify: bayes-pfl datasets verify NAME --source FOLDER, or verify --shards FOLDER."
        )
    dataset = get_dataset(args.name)
    source = Source(local_path(args.source, "--source"))
    listing = find(dataset, source, args.layout, args.subset)
    with Progress(len(listing.records)) as progress:
        verdict = verify(dataset, source.folder, listing, args.subset, progress.advance)
    if args.json:
        values = {"complete": verdict.complete, **verdict._asdict()}
        values["differences"] = [
            dict(zip(("category", "part", "expected", "found"), difference, strict=True))
            for difference in verdict.differences
        ]
        print(json.dumps(values, indent=2, ensure_ascii=False))
    else:
        print(_verdict_text(dataset, verdict))
    return 0 if verdict.complete else 1


def _verify_shards(folder: str, as_json: bool) -> int:
    """Read all of a folder of shards and say what is not as its ingest wrote it."""
    problems = compare_with_shards(folder)
    if as_json:
        print(json.dumps({"complete": not problems, "problems": problems}, indent=2))
    else:
        print("\n".join(problems or ["complete: shards, manifest and index say the same"]))
    return 1 if problems else 0


def describe(dataset: Dataset) -> dict[str, Any]:
    """A data set's description as plain values.

    Args:
        dataset: the description.

    Returns:
        Its name, counts, categories, layouts, licence.
    """
    return {
        "name": dataset.name,
        "title": dataset.title,
        "metrics": dataset.metrics,
        "images": {subset: _total(dataset, subset) for subset in SUBSETS},
        "categories": [
            {
                "name": category.name,
                "class_name": category.class_name,
                **{subset: _counts(category, subset)._asdict() for subset in SUBSETS},
            }
            for category in dataset.categories
        ],
        "splits_counted": dataset.splits_counted,
        "layouts": [reader.expects for reader in dataset.published],
        "licence": dataset.licence,
        "url": dataset.url,
        "notes": dataset.notes,
    }


def _counts(category: Category, subset: str) -> Counts:
    return category.expected(subset) or Counts()


def _total(dataset: Dataset, subset: str) -> int:
    return sum(sum(_counts(category, subset)) for category in dataset.categories)


def _list_text(entries: list[dict[str, Any]]) -> str:
    if len(entries) == 1:
        return _entry_text(entries[0])
    rows = [("name", "dataset", "categories", "images", "paper's", "metrics", "licence")]
    for entry in entries:
        complete, paper = (f"{entry['images'][subset]:,}" for subset in SUBSETS)
        metrics = "+".join(entry["metrics"])
        number = str(len(entry["categories"]) or "any")
        rows.append((entry["name"], entry["title"], number, complete, paper, metrics, entry["licence"]))
    lines = [*_aligned(rows), "", "Where to get one, its layouts and class names: bayes-pfl datasets list NAME"]
    return "\n".join(lines)


def _entry_text(entry: dict[str, Any]) -> str:
    lines = [f"{entry['title']} ({entry['name']})"]
    for title in ("url", "licence", "notes"):
        if entry[title]:
            lines.append(f"{title}: {entry[title]}")
    lines.append(f"metrics: {', '.join(entry['metrics'])}")
    lines += [f"layout: {layout}" for layout in entry["layouts"]]
    if entry["categories"]:
        lines += ["images: normal + anomalous", *_aligned(_category_rows(entry))]
    return "\n".join(lines)


def _category_rows(entry: dict[str, Any]) -> list[tuple[str, ...]]:
    splits = ("test", "train") if entry["splits_counted"] else ("test and train",)
    rows: list[tuple[str, ...]] = [("  category", "prompted as", *splits, "the paper's")]
    for category in entry["categories"]:
        complete, paper = category["complete"], category["paper"]
        counts = [(complete, split.partition(" ")[0]) for split in splits] + [(paper, "test")]
        numbers = [f"{part[f'{split}_normal']:,} + {part[f'{split}_anomalous']:,}" for part, split in counts]
        rows.append((f"  {category['name']}", category["class_name"], *numbers))
    return rows


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _verdict_text(dataset: Dataset, verdict: Verdict) -> str:
    lines = [f"{dataset.title}: {counted(verdict.images, 'image')}"]
    for category, part, expected, actual in verdict.differences:
        lines.append(f"  {category} ({part}): {actual:,} instead of {expected:,}")
    for title, files in (
        ("missing", verdict.missing),
        ("unusable", verdict.unusable),
        ("extra", verdict.extra),
    ):
        lines += _named(title, [f"{printable(path)}: {reason}" for path, reason in files])
    lines += _named("doubled", [" = ".join(map(printable, paths)) for paths in verdict.doubled])
    lines += _named("other files", [f"{printable(path)}: {reason}" for path, reason in verdict.ignored])
    lines.append("complete" if verdict.complete else "not complete")
    return "\n".join(lines)


def _named(title: str, files: list[str]) -> list[str]:
    more = [f"  ... and {len(files) - LISTED:,} more, all with --json"] if len(files) > LISTED else []
    return [f"{title}: {len(files):,}", *(f"  {file}" for file in files[:LISTED]), *more] if files else []
