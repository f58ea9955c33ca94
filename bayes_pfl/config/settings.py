"""YAML file and `key=value` overrides -> validated, frozen settings; every problem becomes one sentence."""

import difflib
import functools
import logging
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Tag, ValidationError, model_validator

from bayes_pfl.errors import ConfigError

T = TypeVar("T", bound="Settings")

LISTED_KEYS = 12
"""Valid keys that an error names at most: the most alike."""

UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)
"""Errors of a text that is no YAML: also of bytes that are no UTF-8, impossible dates, and brackets without an end."""

PAPER_LETTERS = {
    "B": "num_prompts",
    "K": "flow_length",
    "P": "context_tokens",
    "Q": "state_tokens",
    "R": "num_samples",
}
"""Letters of the paper, and what they are called here: `--set model.B=3` is `--set model.num_prompts=3`."""

logger = logging.getLogger(__name__)


class Settings(BaseModel):
    """Root of all configuration: immutable, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    old_keys: ClassVar[dict[str, str]] = {}
    """Dotted keys of older configurations, which still load, and where they are now."""

    @model_validator(mode="before")
    @classmethod
    def _accept_old_keys(cls, values: Any) -> Any:
        return _moved(values, cls.old_keys)[0] if cls.old_keys and isinstance(values, dict) else values


def read_config(kind: type[T], path: Path | None, overrides: list[str]) -> T:
    """Settings from a YAML file and dotted `key=value` overrides.

    Args:
        kind: the settings' class.
        path: the YAML file; none: the defaults.
        overrides: such as `training.epochs=5`; values are YAML, later ones win; the paper's letters are names too.

    Returns:
        The settings. Keys that have another place now are accepted, with a note in the log.

    Raises:
        ConfigError: the file is missing or no YAML, a key is unknown (the nearest is named), or a value is invalid.
    """
    values, old = _moved(_without_empty(kind, _read_yaml(path)), kind.old_keys)
    origins = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        key = _written_out(kind, key)
        if key in kind.old_keys:
            old.append(key)
        key = kind.old_keys.get(key, key)
        _apply(values, key + separator + text, override)
        origins[key] = f"--set {override}"
    if old:
        moves = ", ".join(f"{key} is now {kind.old_keys[key]}" for key in old)
        logger.warning("%s: %s. The old place still works.", path or "the command line", moves)
    return _validated(kind, values, str(path or "the command line"), origins)


def parse_config(kind: type[T], values: dict[str, Any], origin: str) -> T:
    """Settings from nested values.

    Args:
        kind: the settings' class.
        values: by key, sections nested.
        origin: where they come from, for messages.

    Returns:
        The settings.

    Raises:
        ConfigError: with every problem of the values.
    """
    return _validated(kind, values, origin, {})


def changed_settings(settings: Settings, keys: tuple[str, ...]) -> list[str]:
    """Which settings are not what they are by default.

    Args:
        settings: any.
        keys: dotted keys of it.

    Returns:
        Those that differ, in their order.
    """
    changed = []
    for key in keys:
        *sections, name = key.split(".")
        section: Settings = functools.reduce(getattr, sections, settings)
        if getattr(section, name) != type(section).model_fields[name].default:
            changed.append(key)
    return changed


def _validated(kind: type[T], values: dict[str, Any], origin: str, origins: dict[str, str]) -> T:
    """Settings from nested values; `origins` says where single dotted keys come from, if not from `origin`."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems: dict[str, list[str]] = {}
        keys = [dotted.split(".") for dotted in _dotted_keys(kind)]
        sections = {".".join(parts[:depth]) for parts in keys for depth in range(len(parts))}
        for problem in error.errors():
            key = ".".join(_key(kind, problem["loc"]))
            below = f"{key}." if key not in sections else None  # a setting below what is none is wrong itself
            sources = [
                source
                for name, source in origins.items()
                if f"{key}.".startswith(f"{name}.") or (below and name.startswith(below))
            ]
            problems.setdefault(sources[-1] if sources else origin, []).append(_explain(kind, problem))
        raise ConfigError("; ".join(f"{source}: {'; '.join(texts)}" for source, texts in problems.items())) from error


def _written_out(kind: type[Settings], key: str) -> str:
    """A key that ends in a letter of the paper, by its name; a letter alone has to mean one key of all."""
    section, _, letter = key.rpartition(".")
    if letter not in PAPER_LETTERS:
        return key
    name, keys = PAPER_LETTERS[letter], _dotted_keys(kind)
    if section:
        return f"{section}.{name}" if f"{section}.{name}" in keys else key
    meant = [each for each in keys if each.rpartition(".")[2] == name]
    if len(meant) > 1:
        raise ConfigError(f"'{key}' may mean {' or '.join(meant)}: write which.")
    return meant[0] if meant else key


def _read_yaml(path: Path | None) -> dict[str, Any]:
    """The mapping in a YAML file; empty without one."""
    values: Any = {}
    if path is not None:
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise ConfigError(
                f"Cannot read the configuration {path}: {error.strerror}. Give an existing YAML file, or a name "
                "that `bayes-pfl configs` lists."
            ) from error
        except UNREADABLE as error:
            raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of keys to values.")
    return values


def _without_empty(kind: type[Settings], values: dict[str, Any]) -> dict[str, Any]:
    """The values without sections that have no line: they are as by default."""
    sections = {key.partition(".")[0] for key in _dotted_keys(kind) if "." in key}
    return {key: value for key, value in values.items() if value is not None or key not in sections}


def _moved(values: dict[str, Any], old_keys: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The values with old keys at their new places, where they replace what is there, and which old keys there were."""
    values, moved = dict(values), []
    for old, new in old_keys.items():
        section, leaf = old.split(".")
        if not isinstance(values.get(section), dict) or leaf not in values[section]:
            continue
        moved.append(old)
        values[section] = dict(values[section])
        value = values[section].pop(leaf)
        *parents, leaf = new.split(".")
        target = values
        for parent in parents:
            inner = target.get(parent, {})
            target[parent] = inner.model_dump() if isinstance(inner, Settings) else dict(inner)
            target = target[parent]
        target[leaf] = value
    return values, moved


def _apply(values: dict[str, Any], assignment: str, override: str) -> None:
    """Set one dotted `key=value` in nested `values`; messages quote the override as it was given."""
    key, separator, text = assignment.partition("=")
    if not separator or not key:
        raise ConfigError(f"'{override}' is not an override; write --set key.subkey=value.")
    *parents, leaf = key.split(".")
    for parent in parents:
        if values.get(parent) is None:  # also a section without a line
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise ConfigError(f"'{override}' goes below a plain value; check the dotted key.")
    try:
        values[leaf] = yaml.safe_load(text)
    except UNREADABLE as error:
        raise ConfigError(f"The value of '{override}' is not valid YAML: {error}") from error


def _explain(kind: type[Settings], problem: Any) -> str:
    """One of pydantic's problems as a sentence; for an unknown key, with the nearest valid one."""
    location = _key(kind, problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{'.'.join(location) or 'configuration'}: {_message(problem)}"
    section: Any = kind
    for part in problem["loc"][:-1]:
        section = section[part] if isinstance(section, dict) else _section(section.model_fields[part])
    valid = list(section.model_fields)
    near = _nearest(location[-1], valid, kind, ".".join(location))
    alike = [key for key in valid if key in difflib.get_close_matches(location[-1], valid, LISTED_KEYS, 0)]
    more = f" and {len(valid) - LISTED_KEYS} more" if len(valid) > LISTED_KEYS else ""
    return f"unknown key '{'.'.join(location)}'; did you mean '{near}'? Valid keys: {', '.join(alike)}{more}"


def _nearest(name: str, valid: list[str], kind: type[Settings], unknown: str) -> str:
    """The valid key of a section that is like the name; else the like key of another section, dotted."""
    if near := difflib.get_close_matches(name, valid, n=1):
        return near[0]
    elsewhere = {key.rpartition(".")[2]: key for key in _dotted_keys(kind) if key != unknown}
    if name in PAPER_LETTERS and PAPER_LETTERS[name] in elsewhere:
        return elsewhere[PAPER_LETTERS[name]]
    if near := difflib.get_close_matches(name, elsewhere, n=1, cutoff=0.8):
        return elsewhere[near[0]]
    return difflib.get_close_matches(name, valid, n=1, cutoff=0.0)[0]


def _dotted_keys(kind: type[Settings]) -> list[str]:
    """All keys of settings, those of sections dotted; of a section with several kinds, those of its first."""
    keys = []
    for name, field in kind.model_fields.items():
        section = _section(field)
        if isinstance(section, dict):
            section = next(iter(section.values()))
        if isinstance(section, type) and issubclass(section, Settings):
            keys += [f"{name}.{key}" for key in _dotted_keys(section)]
        else:
            keys.append(name)
    return keys


def _section(field: Any) -> Any:
    """The kind of settings of a field; where there are several, by tag."""
    kinds: dict[str, Any] = {}
    for member in get_args(field.annotation):
        if get_origin(member) is Annotated:
            settings, *marks = get_args(member)
            kinds |= {mark.tag: settings for mark in marks if isinstance(mark, Tag)}
    return kinds or field.annotation


def _key(kind: type[Settings], location: tuple[Any, ...]) -> list[str]:
    """Where a problem is, as people write it: without pydantic's tag of the kind of section."""
    key: list[str] = []
    section: Any = kind
    for part in location:
        if isinstance(section, dict):
            section = section.get(part)
            continue
        key.append(str(part))
        fields = getattr(section, "model_fields", {})
        section = _section(fields[part]) if part in fields else None
    return key


def _message(problem: Any) -> str:
    """pydantic's message; of a section's kind that does not exist, what there is."""
    if problem["type"] != "union_tag_invalid":
        return str(problem["msg"]).removeprefix("Value error, ")
    names = [name.strip(" '") for name in problem["ctx"]["expected_tags"].split(",")]
    near = difflib.get_close_matches(str(problem["ctx"]["tag"]), names, 1, 0.0)[0]
    return f"there is no method '{problem['ctx']['tag']}'; did you mean '{near}'? There are {', '.join(names)}"
