"""`--config`, `--set` and `--settings`; what `--config` names -> a YAML file: of the user, or one that comes along."""

import argparse
import os
from pathlib import Path

from bayes_pfl.command_line import nearest
from bayes_pfl.config import Settings
from pipelines.platform.settings_table import settings_option

CONFIGS = Path(__file__).parents[1] / "configs"


def add_settings(parser: argparse.ArgumentParser, kind: type[Settings]) -> None:
    """`--config FILE`, `--set KEY=VALUE` and `--settings`.

    Args:
        parser: gets the options.
        kind: the command's settings.
    """
    parser.add_argument(
        "--config",
        type=config_file,
        metavar="FILE",
        help="YAML file of settings, or the name of one that comes along (bayes-pfl configs lists them)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting; repeatable"
    )
    settings_option(parser, kind)


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
        argparse.ArgumentTypeError: there is neither; the nearest name is told.
    """
    if os.path.isfile(text):  # noqa: PTH113 (False also for a name that no file can have)
        return Path(text)
    name = text.removeprefix("configs/").removesuffix(".yaml")
    names = shipped()
    if name not in names:
        raise argparse.ArgumentTypeError(
            f"there is no file '{text}', and no configuration of that name comes along{nearest(name, names)} "
            "(bayes-pfl configs lists them)"
        )
    return CONFIGS / f"{name}.yaml"
