"""The settings of a command -> a table for `--settings`: key, default, sentence."""

import argparse
import shutil
import textwrap
from collections.abc import Iterator
from typing import Any, get_args

from bayes_pfl.config import Settings

KEY_COLUMNS, DEFAULT_COLUMNS, PIPE_COLUMNS = 40, 24, 160


def settings_option(parser: argparse.ArgumentParser, kind: type[Settings]) -> None:
    """`--settings`, which prints the table and ends.

    Args:
        parser: of the command.
        kind: its settings.
    """

    class Show(argparse.Action):
        def __call__(self, *_: Any) -> None:
            print(settings_table(kind, shutil.get_terminal_size((PIPE_COLUMNS, 24)).columns))
            parser.exit()

    parser.add_argument("--settings", action=Show, nargs=0, help="print every key of --set, its default and meaning")


def settings_table(kind: type[Settings], columns: int) -> str:
    """All settings as aligned text.

    Args:
        kind: the settings.
        columns: width of the text.

    Returns:
        A line for a key, wrapped where its sentence is long.
    """
    lines = [f"{'key':{KEY_COLUMNS}} {'default':{DEFAULT_COLUMNS}} meaning"]
    indent = " " * (KEY_COLUMNS + DEFAULT_COLUMNS + 2)
    for key, default, sentence in settings_rows(kind):
        head = f"{key:{KEY_COLUMNS}} {default:{DEFAULT_COLUMNS}} "
        wrapped = textwrap.wrap(sentence, max(30, columns - len(indent))) or [""]
        lines.append((head if len(head) == len(indent) else f"{head.rstrip()}\n{indent}") + wrapped[0])
        lines += [indent + line for line in wrapped[1:]]
    return "\n".join(line.rstrip() for line in lines)


def settings_rows(
    kind: type[Settings], prefix: str = "", values: Settings | None = None
) -> Iterator[tuple[str, str, str]]:
    """Keys of settings, those of sections dotted; of `model`, those of Bayes-PFL, whose choice is the default.

    Args:
        kind: the settings.
        prefix: of the keys.
        values: defaults, where a section's are not those of its kind.

    Yields:
        Key, default as it is written on a command line, and sentence.
    """
    for name, field in kind.model_fields.items():
        default = field.get_default(call_default_factory=True) if values is None else getattr(values, name)
        section = type(default) if isinstance(default, Settings) else field.annotation
        if isinstance(section, type) and issubclass(section, Settings):
            yield from settings_rows(section, f"{prefix}{name}.", default if isinstance(default, Settings) else None)
        else:
            choices = [str(value) for value in get_args(field.annotation) if isinstance(value, str)]
            sentence = field.description or (f"one of {', '.join(choices)}" if choices else "")
            yield prefix + name, _written(default), sentence


def _written(value: Any) -> str:
    """A default as YAML has it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_written(each)}" for key, each in value.items()) + "}"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value) or "''"
