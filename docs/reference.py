"""The code -> parts of the site that are written by nobody: settings, help of every command, public names of the library."""

import ast
import contextlib
import importlib
import inspect
import io
import json
import os
import re
import signal
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from pydantic.fields import FieldInfo

import bayes_pfl
from bayes_pfl import errors
from bayes_pfl.config import Settings, Wording
from pipelines import cli
from serve.settings import ServeSettings

ROOT = Path(__file__).parents[1]
TITLES = {
    "TrainSettings": "bayes-pfl train",
    "TuneSettings": "bayes-pfl tune",
    "FeatureSettings": "bayes-pfl features",
    "EvaluateSettings": "bayes-pfl evaluate, bayes-pfl compare",
    "IngestConfig": "bayes-pfl ingest",
    "ServeSettings": "bayes-pfl serve, serve deploy",
    "PretrainSettings": "bayes-pfl pretrain",
    "StudySettings": "bayes-pfl evaluate --embedded",
    "ReproduceSettings": "bayes-pfl reproduce",
    "UncertaintySettings": "bayes-pfl reproduce uncertainty",
}
"""Programs by the class of their settings, in the order of the page; a class that is not here has its own name."""
LONGEST_DEFAULT = 80
"""Characters; longer defaults, the sentences of prompt ensembles, are in the code."""

HELP_COLUMNS = 90
"""Width of a command's help."""


def settings_classes() -> list[type[Settings]]:
    """Find what programs read from `--config` and `--set`.

    Returns:
        The classes that are handed to `read_config` under `pipelines/`, and the endpoint's, in the page's order.
    """
    classes: dict[str, type[Settings]] = {"ServeSettings": ServeSettings}
    for path in sorted((ROOT / "pipelines").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or getattr(node.func, "id", "") != "read_config":
                continue
            if isinstance(node.args[0], ast.Name):
                name = node.args[0].id
                module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                classes[name] = getattr(importlib.import_module(module), name)
    order = [*TITLES, *sorted(set(classes) - set(TITLES))]
    return [classes[name] for name in order if name in classes]


def nested_settings(annotation: Any) -> Iterator[type[Settings]]:
    """Find the settings inside a field's type.

    Args:
        annotation: the type.

    Yields:
        Classes of settings in it.
    """
    if inspect.isclass(annotation) and issubclass(annotation, Settings):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from nested_settings(argument)


def escaped(text: str) -> str:
    """Write a sentence of the code as Markdown in a table.

    Args:
        text: plain; what is between backticks is code.

    Returns:
        The text with every sign that Markdown would read escaped.
    """
    parts = " ".join(text.split()).split("`")
    signs = r"([\\*_<>\[\]{}|$#~])"
    plain = [re.sub(signs, r"\\\1", part) if position % 2 == 0 else part for position, part in enumerate(parts)]
    return "`".join(plain)


def type_in_words(schema: dict[str, Any]) -> str:
    """Say what values a JSON schema takes.

    Args:
        schema: of one field.

    Returns:
        Such as `whole number, at least 1`.
    """
    if "anyOf" in schema:
        return " or ".join(type_in_words(option) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array" and "prefixItems" not in schema:
        inner = schema.get("items", {})
        return (
            "list of texts"
            if inner.get("type") == "string" and "enum" not in inner
            else f"list: {type_in_words(inner)}"
        )
    names = {"integer": "whole number", "boolean": "true or false", "string": "text", "null": "none"}
    name = names.get(schema.get("type", ""), schema.get("type", "anything"))
    name = {"object": "keys and values", "array": "lowest and highest"}.get(name, name)
    bounds = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    return ", ".join([name, *(f"{words} {schema[key]:g}" for key, words in bounds.items() if key in schema)])


def default_in_words(field: FieldInfo) -> str:
    """Say what holds where a key is left out.

    Args:
        field: of a settings' class.

    Returns:
        The default as YAML takes it, or `none`.
    """
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    text = "none" if value is None else json.dumps(value, default=str)
    return f"`{text}`" if len(text) <= LONGEST_DEFAULT else "see the code"


def configuration() -> str:
    """Write the tables of every setting.

    Returns:
        Markdown: a section a program; settings that several programs share have one table.
    """
    parts: list[str] = []
    done: set[type[Settings]] = set()
    for root in settings_classes():
        title = f"## {TITLES.get(root.__name__, root.__name__)}"
        parts += _tables(root, title, "", done)
    return "\n".join(parts)


def _tables(kind: type[Settings], heading: str, prefix: str, done: set[type[Settings]]) -> Iterator[str]:
    """The table of a class, and those of the settings inside it that have none yet."""
    done.add(kind)
    schema = kind.model_json_schema()["properties"]
    rows, inside = [], []
    for name, field in kind.model_fields.items():
        key = f"{prefix}{name}"
        nested = list(nested_settings(field.annotation))
        for inner in nested:
            link = f"[section](#settings-{inner.__name__.lower()})"
            method = inner.model_fields["method"].default if "method" in inner.model_fields else ""
            rows.append(f"| `{key}` | {link}{method and f' of `{method}`'} | | {escaped(_sentence(inner))} |")
            place = f"{key}[]" if "tuple" in str(field.annotation) else key
            inside.append((inner, f"### `{place}`{method and f' of `{method}`'}", place))
        if not nested:
            default = "the method's own" if kind is Wording else default_in_words(field)
            sentence = field.description or ("name of the method" if name == "method" else "")
            rows.append(f"| `{key}` | {type_in_words(schema[name])} | {default} | {escaped(sentence)} |")
    yield f"(settings-{kind.__name__.lower()})=\n"
    yield f"{heading}\n\n{escaped(_sentence(kind))}\n"
    yield "| key | values | default | |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    for inner, title, place in inside:
        if inner not in done:
            yield from _tables(inner, title, f"{place}.", done)


def _sentence(kind: type) -> str:
    """The first sentence of a class's docstring."""
    return (inspect.getdoc(kind) or "").partition("\n\n")[0]


def command_line() -> str:
    """Write the help of every command.

    Returns:
        Markdown: a section a command, with what its `--help` prints.
    """
    parts = []
    for command in ("", *cli.COMMANDS, *cli.ENDPOINT):
        title = f"bayes-pfl {command}".strip()
        parts.append(f"## {title}\n\n```text\n{help_text(command)}```\n")
    return "\n".join(parts)


def help_text(command: str) -> str:
    """Ask a command for its help.

    Args:
        command: its name; empty: the program's own help.

    Returns:
        What it prints.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    printed = io.StringIO()
    width = {"COLUMNS": str(HELP_COLUMNS), "NO_COLOR": "1"}
    try:
        with (
            mock.patch.dict(os.environ, width),
            contextlib.redirect_stdout(printed),
            contextlib.suppress(SystemExit),
        ):
            cli.main([*command.split(), "--help"])
    finally:  # the endpoint's commands set them
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return printed.getvalue()


def python_api() -> str:
    """List what `bayes_pfl` exports, and its errors, for autodoc.

    Returns:
        Markdown with autodoc's directives.
    """
    lines = ["```{eval-rst}"]
    for name in bayes_pfl.__all__:
        value = getattr(bayes_pfl, name)
        if name.startswith("__") or (inspect.isclass(value) and issubclass(value, errors.BayesPFLError)):
            continue
        kind = "class" if inspect.isclass(value) else "function" if callable(value) else "data"
        lines += [f".. auto{kind}:: bayes_pfl.{name}", *(["   :members:"] if kind == "class" else []), ""]
    return "\n".join([*lines, "```"])


def error_classes() -> str:
    """List the errors for autodoc.

    Returns:
        Markdown with autodoc's directives.
    """
    classes = [name for name, value in vars(errors).items() if inspect.isclass(value)]
    return "\n".join(["```{eval-rst}", *(f".. autoexception:: bayes_pfl.errors.{name}\n" for name in classes), "```"])


TEXTS: dict[str, Callable[[], str]] = {
    "configuration": configuration,
    "command line": command_line,
    "python api": python_api,
    "errors": error_classes,
}
"""What a page may name in `<!-- generated: NAME -->`."""
