"""`bayes-pfl generate`: surfaces, objects and medical-like images with exact defect masks, in MVTec's layout."""

import argparse
import json
import time

from tqdm import tqdm

from bayes_pfl.datasets.checks import counted
from bayes_pfl.errors import ConfigError
from bayes_pfl.synthetic import write_dataset
from bayes_pfl.synthetic.catalogue import CATEGORIES, defects_of
from bayes_pfl.synthetic.splits import SPLITS
from pipelines.ingestion.paths import local_path


def run(args: argparse.Namespace) -> int:
    """Generate what the arguments ask for and print what was written.

    Args:
        args: parsed options.

    Returns:
        Exit code 0.

    Raises:
        BayesPFLError: whatever people can mend.
    """
    if args.list:
        listing = {name: defects_of(name) for name in CATEGORIES}
        lines = [f"{name}: {', '.join(kinds)}" for name, kinds in listing.items()]
        print(json.dumps(listing) if args.json else "\n".join(lines))
        return 0
    if args.output is None:
        raise ConfigError("Say where to write with --output FOLDER.")
    output = local_path(args.output, "--output")
    categories = chosen_categories(args.categories)
    began = time.monotonic()
    kinds = chosen_kinds(args.defects)
    total = len(categories) * (2 * args.normal + args.defective)
    with tqdm(total=total, unit=" images", disable=None) as bar:
        images = write_dataset(output, categories, args.normal, args.defective, args.size, args.seed, kinds, bar.update)
    seconds = time.monotonic() - began
    result = {
        "output": str(args.output),
        "categories": categories,
        "images": images,
        "seconds": round(seconds, 2),
    }
    if args.json:
        print(json.dumps(result))
    else:
        kinds_of_objects = "1 category" if len(categories) == 1 else f"{len(categories)} categories"
        print(f"{counted(images, 'image')} of {kinds_of_objects} in {args.output} ({images / seconds:.0f} a second).")
        print(f"Next: bayes-pfl ingest folder --source {args.output} --output shards/generated")
    return 0


def chosen_categories(names: list[str]) -> list[str]:
    """Category names in the order given, sets written out, each once; "hex_nut" is "hex nut".

    Args:
        names: categories and sets of them.

    Returns:
        The categories.

    Raises:
        ConfigError: a name is unknown, or there is none.
    """
    chosen: dict[str, None] = {}
    for name in _separated(names):
        if name == "all":
            chosen.update(dict.fromkeys(CATEGORIES))
        elif name in SPLITS:
            chosen.update(dict.fromkeys(SPLITS[name]))
        elif name.replace("_", " ") in CATEGORIES:
            chosen[name.replace("_", " ")] = None
        else:
            raise ConfigError(
                f"There is no category or set {name!r}; `bayes-pfl generate --list` names them all "
                f"(sets: all, {', '.join(SPLITS)})."
            )
    return list(chosen)


def chosen_kinds(kinds: list[str] | None) -> tuple[str, ...] | None:
    """Kinds of defects to paint.

    Args:
        kinds: as the command line names them.

    Returns:
        The kinds; None for what the split file allows on each category.

    Raises:
        ConfigError: a kind is unknown, or there is none.
    """
    if kinds is None:
        return None
    all_kinds = tuple(dict.fromkeys(kind for name in CATEGORIES for kind in defects_of(name)))
    wanted = tuple(kind.replace("_", " ") for kind in _separated(kinds))
    unknown = [kind for kind in wanted if kind not in all_kinds]
    if unknown:
        raise ConfigError(f"There is no kind of defect {unknown[0]!r}; choose among: {', '.join(all_kinds)}.")
    return wanted


def _separated(names: list[str]) -> list[str]:
    """Names given one by one, or with commas between them.

    Raises ConfigError if there is none.
    """
    separated = [part.strip() for entry in names for part in entry.split(",") if part.strip()]
    if not separated:
        raise ConfigError("Name at least one category and one kind of defect, or leave the option out.")
    return separated
