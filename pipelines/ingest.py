"""`bayes-pfl ingest`: a data set's folder -> Arrow shards, decoded and checked over a Ray cluster."""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import Field
from tqdm import tqdm

from bayes_pfl.config import Settings, parse_config, read_config
from bayes_pfl.data.preprocess import MAX_PIXELS
from bayes_pfl.data.remote import is_remote
from bayes_pfl.data.walk import printable
from bayes_pfl.datasets.catalogue import DATASETS, find, get_dataset
from bayes_pfl.datasets.output import begin, claim, finish, notes_of
from bayes_pfl.datasets.own import FOLDER
from bayes_pfl.datasets.packing import PackingOptions, ShardTask, pack_shard, plan_shards
from bayes_pfl.datasets.source import Source
from bayes_pfl.errors import BayesPFLError, ConfigError, DataError, OutputError
from pipelines.platform.cluster import start_ray

SECONDS_BETWEEN_LINES = 10.0
LISTED = 10
"""Files set aside that the summary names; the manifest has all."""


class IngestConfig(Settings):
    """What to take from a dataset, and how to store it."""

    layout: Literal["published", "meta", "rearranged"] | None = Field(
        default=None, description="form in which the dataset lies on disk; none: recognised by itself"
    )
    subset: Literal["complete", "paper"] = Field(
        default="complete", description="the dataset as published, or the paper's evaluation set"
    )
    splits: tuple[Literal["train", "test"], ...] = Field(default=(), description="only these splits; none: both")
    categories: tuple[str, ...] = Field(default=(), description="only these categories; none: all")
    limit: int | None = Field(
        default=None, ge=1, description="at most so many images, taken in turn from all categories, splits and labels"
    )
    max_side_px: int | None = Field(
        default=None,
        ge=16,
        description="scale larger images down to this longer side, pixels; none: keep the files as they are",
    )
    max_pixels: int = Field(default=MAX_PIXELS, ge=1, description="set larger images aside, pixels")
    strict: bool = Field(default=False, description="an image that has to be set aside is an error")
    name: str | None = Field(
        default=None,
        min_length=1,
        description="value of the column `dataset`; none: the dataset's name, or the folder's own",
    )
    rows_per_shard: int = Field(default=256, ge=1, description="most images in one shard")
    bytes_per_shard: int = Field(
        default=64 * 2**20, ge=1, description="most bytes in one shard, unless one image has more"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bayes-pfl ingest`.

    Args:
        parser: to add them to.
    """
    parser.add_argument("dataset", help=f"{', '.join(DATASETS)}, or folder for images of your own")
    parser.add_argument("--source", required=True, help="the dataset's unpacked folder")
    parser.add_argument("--output", required=True, help="folder or URI for the shards")
    parser.add_argument("--layout", choices=("published", "meta", "rearranged"), help="default: recognised by itself")
    parser.add_argument("--subset", choices=("complete", "paper"), help="default: complete")
    parser.add_argument("--split", choices=("train", "test"), help="default: both")
    parser.add_argument("--categories", help="comma-separated; default: all")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N images, of every category, split and label")
    parser.add_argument("--max-side", type=int, metavar="PX", help="scale larger images down to this longer side")
    parser.add_argument("--strict", action="store_true", help="fail where an image would be set aside")
    parser.add_argument("--name", help="name of the dataset in the shards; default: its own, or the folder's")
    parser.add_argument("--config", type=Path, help="YAML file with these and more options")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one option")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


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
    given = {
        "layout": args.layout,
        "subset": args.subset,
        "splits": args.split and (args.split,),
        "categories": args.categories and tuple(name.strip() for name in args.categories.split(",")),
        "limit": args.limit,
        "max_side_px": args.max_side,
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
        The summary: counts, files set aside, ignored and left out, times.

    Raises:
        DataError: the dataset is not there, or ``strict`` met an image that cannot be used.
        OutputError: ``output`` cannot be written, is in use, or holds another ingest.
        ConfigError: a path is empty or begins with a user's home that is not there; a URI's scheme is unknown.
    """
    started = time.monotonic()
    config = config or IngestConfig()
    description = get_dataset(dataset)
    source = local_path(source, "--source")
    output = str(output).rstrip("/") if is_remote(output) else local_path(output, "--output")
    folder_files = Source(source)
    listing = find(
        description,
        folder_files,
        config.layout,
        config.subset,
        config.splits,
        config.categories,
        config.limit,
    )
    if config.strict and listing.set_aside:
        raise _strict(listing.set_aside)
    name = config.name or (source.name if description is FOLDER else description.name)
    options = PackingOptions(name, description.mask_above, config.max_side_px, config.max_pixels)
    tasks = plan_shards(source, output, options, listing.records, config.rows_per_shard, config.bytes_per_shard)
    header = {
        "dataset": name,
        "description": description.name,
        "title": description.title,
        "metrics": description.metrics,
        "layout": listing.layout,
        "root": listing.root,
        "options": config.model_dump(mode="json"),
    }
    with nullcontext() if isinstance(output, str) else claim(output):
        todo = begin(output, tasks)
        if config.strict:
            _refuse_set_aside(notes_of(output, tasks))
        with Progress(sum(len(task.records) for task in todo)) as progress:
            for index, note in _pack(todo, progress):
                if config.strict and note["set_aside"]:
                    raise _strict(note["set_aside"])
                progress.advance(len(tasks[index].records))
        manifest = finish(output, tasks, listing, header)
    return {
        **{key: value for key, value in manifest.items() if key not in ("options", "shards")},
        "ignored": _by_reason(manifest["ignored"]),
        "left_out": _by_reason(manifest["left_out"]),
        "empty_masks": len(manifest["empty_masks"]),
        "output": str(output),
        "shards": len(manifest["shards"]),
        "shards_written": len(todo),
        "seconds": round(time.monotonic() - started, 2),
        "startup_seconds": round(progress.startup_seconds, 2),
        "images_per_second": round(progress.images_per_second, 1),
    }


def local_path(given: Path | str, option: str) -> Path:
    """The absolute path of a command-line option.

    Args:
        given: the option's value.
        option: its name, for the error.

    Returns:
        The path.

    Raises:
        ConfigError: it is empty, or its ``~user`` is unknown.
    """
    if not str(given):
        raise ConfigError(f"{option} is empty; give a folder.")
    try:
        return Path(given).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(f"There is no home folder for {option} {given}; write the path in full.") from error


def _pack(todo: Sequence[ShardTask], progress: "Progress") -> Iterator[tuple[int, dict[str, Any]]]:
    """The notes of finished shards, in the order in which they are finished."""
    if len(todo) < 2:  # nothing to spread, so a cluster would only cost its start
        progress.begin()
        yield from ((task.index, pack_shard(task)) for task in todo)
        return
    start_ray()
    import ray.data

    packers = min(len(todo), int(ray.cluster_resources()["CPU"]))
    rows = ray.data.from_items([{"task": task.to_json()} for task in todo], override_num_blocks=len(todo))
    # Actors hold their next shard while they write one; plain tasks would leave each CPU idle in between.
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=packers, initial_size=packers)
    packed = rows.map(Packer, num_cpus=1, compute=pool)  # type: ignore[arg-type]  # Ray's types know functions only
    for row in packed.iter_rows():
        progress.begin(row["seconds"])
        if row["error"]:
            raise (OutputError if row["of_output"] else DataError)(row["error"])
        yield row["index"], json.loads(row["note"])


class Packer:
    """Writes shards in a process of its own, one after the other."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write one; errors for people travel as values, without Ray's tracebacks around them."""
        started = time.monotonic()
        task = ShardTask.from_json(row["task"])
        note, error = {}, None
        try:
            note = pack_shard(task)
        except BayesPFLError as caught:
            error = caught
        return {
            "index": task.index,
            "note": json.dumps(note),
            "seconds": time.monotonic() - started,
            "error": str(error or ""),
            "of_output": isinstance(error, OutputError),
        }


class Progress:
    """Images done: a bar on a terminal, a line every ten seconds elsewhere; both on standard error."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.entered = self.last_line = time.monotonic()
        self.started: float | None = None
        self.bar = tqdm(total=total, unit=" images", disable=not (total and sys.stderr.isatty()))

    def begin(self, seconds_ago: float = 0.0) -> None:
        """Start the clock, unless it runs: what came before the first piece of work was start-up.

        Args:
            seconds_ago: how long the first piece of work has run.
        """
        if self.started is None:
            self.started = time.monotonic() - seconds_ago
            self.bar.reset()  # its rate leaves out the start-up too

    def advance(self, images: int) -> None:
        """Count finished images.

        Args:
            images: how many more are done.
        """
        self.done += images
        self.bar.update(images)
        now = time.monotonic()
        if self.bar.disable and now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            print(
                f"ingest: {self.done:,} of {self.total:,} images, {self.images_per_second:,.0f} images/s",
                file=sys.stderr,
                flush=True,
            )

    @property
    def startup_seconds(self) -> float:
        """From the plan to the first piece of work; 0 if there was none."""
        return 0.0 if self.started is None else self.started - self.entered

    @property
    def images_per_second(self) -> float:
        """Since the first piece of work; 0 if there was none."""
        return 0.0 if self.started is None else self.done / max(time.monotonic() - self.started, 1e-9)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()


def summary_text(summary: dict[str, Any]) -> str:
    """A summary as a table and sentences.

    Args:
        summary: of `ingest`.

    Returns:
        The text.
    """
    title = summary["dataset"] if summary["description"] == FOLDER.name else summary["title"]
    lines = [f"{title} ({summary['layout']} layout) -> {summary['output']}", ""]
    table = [("category", "split", "normal", "anomalous")]
    for category, splits in summary["counts"].items():
        for split, labels in splits.items():
            table.append((category, split, f"{labels['normal']:,}", f"{labels['anomalous']:,}"))
    width = max(len(row[0]) for row in table)
    lines += [f"{row[0]:<{width}}  {row[1]:<5}  {row[2]:>8}  {row[3]:>9}" for row in table]
    lines += ["", f"{summary['rows']:,} images, {summary['size_bytes'] / 2**20:,.1f} MB in {summary['shards']} shards"]
    if summary["shards_written"] < summary["shards"]:
        lines[-1] += f", {summary['shards'] - summary['shards_written']} of them there before"
    if summary["shards_written"]:
        lines.append(
            f"{summary['seconds']:.1f} s, of which {summary['startup_seconds']:.1f} s start-up"
            f"; {summary['images_per_second']:,.0f} images/s"
        )
    if summary["identical_images"]:
        lines.append(f"{summary['identical_images']:,} images are byte for byte a copy of another")
    if summary["empty_masks"]:
        lines.append(f"{summary['empty_masks']:,} images of defects have a mask without a defect")
    for title, reasons in (("left out", summary["left_out"]), ("ignored", summary["ignored"])):
        lines += [f"{title}: {count:,} files, {reason}" for reason, count in reasons.items()]
    aside = summary["set_aside"]
    lines.append(f"set aside: {len(aside):,} images")
    lines += [f"  {printable(path)}: {reason}" for path, reason in aside[:LISTED]]
    if len(aside) > LISTED:
        lines.append(f"  ... and {len(aside) - LISTED:,} more, all in _manifest/manifest.json")
    return "\n".join(lines)


def _refuse_set_aside(notes: Iterable[dict[str, Any] | None]) -> None:
    """Raises DataError if a shard that is done lacks images: an ingest without ``strict`` may have written it."""
    skipped = [entry for note in notes if note for entry in note["set_aside"]]
    if skipped:
        raise _strict(skipped)


def _by_reason(skipped: Iterable[Sequence[str]]) -> dict[str, int]:
    return dict(Counter(reason for _, reason in skipped).most_common())


def _strict(skipped: Sequence[Sequence[str]]) -> DataError:
    path, reason = skipped[0]
    more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
    return DataError(f"{printable(path)}: {reason}{more}. Mend or remove the file, or ingest without --strict.")
