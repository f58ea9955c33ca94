"""`bayes-pfl configs`: the configurations that come along -> a list, or the text of one."""

import argparse
import json
from pathlib import Path

CONFIGS = Path(__file__).parent / "configs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bayes-pfl configs`.

    Args:
        parser: gets the options.
    """
    parser.add_argument(
        "config", nargs="?", type=config_file, metavar="NAME", help="print this one; to change it: ... NAME > mine.yaml"
    )
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the list, or one file.

    Args:
        args: parsed options.

    Returns:
        Exit code.
    """
    if args.config is not None:
        print(args.config.read_text(encoding="utf-8"), end="")
        return 0
    rows = shipped()
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    width = max(map(len, rows))
    for name, sentence in rows.items():
        print(f"{name:{width}}  {sentence}")
    print("\nUse one: --config NAME. Change one: bayes-pfl configs NAME > mine.yaml, then --config mine.yaml.")
    return 0


def shipped() -> dict[str, str]:
    """The configurations that come along.

    Returns:
        The first sentence of each file's header by its name.
    """
    files = sorted(CONFIGS.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    return {
        str(path.relative_to(CONFIGS).with_suffix("")): path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        for path in files
    }


def config_file(text: str) -> Path:
    """The value of `--config`: a file, or the name of one that comes along, with or without folder and ending.

    Args:
        text: what was typed.

    Returns:
        The file.

    Raises:
        argparse.ArgumentTypeError: there is neither.
    """
    if Path(text).exists():
        return Path(text)
    name = text.removeprefix("configs/").removesuffix(".yaml")
    file = CONFIGS / f"{name}.yaml"
    if name in shipped():
        return file
    raise argparse.ArgumentTypeError(
        f"there is no file {text}, and none of this name comes along; `bayes-pfl configs` lists those that do"
    )
