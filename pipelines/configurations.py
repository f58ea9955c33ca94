"""`bayes-pfl configs`: the configurations that come along -> a list, or the text of one."""

import argparse
import json
from pathlib import Path

CONFIGS = Path(__file__).parent / "configs"


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
        The file; one that does not exist where there is neither, and reading it says so.
    """
    name = text.removeprefix("configs/").removesuffix(".yaml")
    return CONFIGS / f"{name}.yaml" if not Path(text).exists() and name in shipped() else Path(text)
