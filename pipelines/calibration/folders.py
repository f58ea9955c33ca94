"""Folders that --normal and --anomalous name -> a refusal where the names of folders say the other kind."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from bayes_pfl.data.remote import is_remote
from bayes_pfl.data.walk import printable
from bayes_pfl.datasets.checks import counted
from bayes_pfl.datasets.folder_roles import FolderRoles
from bayes_pfl.datasets.names import NameChoices, meaning_of, plain_word, state_of
from bayes_pfl.errors import DataError
from pipelines.scoring.inputs import ImageInput, below

OPTIONS = ("--normal", "--anomalous")
"""By label."""
WORDS = ("good", "defective")
NAMED = 5
"""Folders that one sentence names."""


def check_inside(source: str, images: Iterable[ImageInput], label: int) -> None:
    """Refuse a folder in which another folder says the other kind, or holds masks, as `evaluate` reads the names.

    Args:
        source: a folder or URI, as it was typed.
        images: all that were found; those below the source, without a label of their own, are looked at.
        label: 0: the source was typed as good; 1: as defective.

    Raises:
        DataError: there is such a folder.
    """
    files = [str(below(source, image.sample_id)) for image in images if _is_below(image, source)]
    roles = FolderRoles(files, NameChoices())
    kinds: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for file in files:
        folder = tuple(file.split("/")[:-1])
        if (mask := roles.mask_folder(folder)) is not None:
            raise DataError(
                f"{OPTIONS[label]} {source} holds {'/'.join(mask)}/, whose name says masks: they are no images to "
                f"calibrate with. Give {OPTIONS[label]} the folders of images alone."
            )
        placement = roles.placement(folder)
        if placement.label is not None and placement.sure:
            kinds[placement.label]["/".join(placement.folder)] += 1
    if others := kinds[1 - label]:
        names = ", ".join(f"{printable(name)}/ ({counted(count, 'image')})" for name, count in _first(others))
        told = [" ".join([OPTIONS[kind], *_inner(source, kinds[kind])]) for kind in (0, 1)]
        own = "" if kinds[label] else f" {OPTIONS[label]} takes the folders of {WORDS[label]} images alone."
        typed = " ".join(told[kind] for kind in (0, 1) if kinds[kind])
        raise DataError(
            f"{OPTIONS[label]} {source} holds {names}, and the name says {WORDS[1 - label]}. Give {typed}.{own}"
        )


def check_typed(normal: Sequence[str], anomalous: Sequence[str]) -> None:
    """Refuse folders that were typed behind the wrong option: `--normal photos/*` takes photos/bad too.

    A name alone is no reason: one of the other folders must say the contrary.

    Args:
        normal: sources behind --normal.
        anomalous: sources behind --anomalous.

    Raises:
        DataError: there is such a folder.
    """
    typed = [dict.fromkeys(folder for source in kind if (folder := _folder(source))) for kind in (normal, anomalous)]
    words = {plain_word(PurePosixPath(folder).name) for kind in typed for folder in kind}
    states = {folder: _state(folder, words) for kind in typed for folder in kind}
    if len(set(states.values()) - {None}) < 2:
        return
    for label, folders in enumerate(typed):
        for folder in folders:
            if states[folder] == 1 - label:
                raise DataError(
                    f"{OPTIONS[label]} names {folder}, and the folder's name says {WORDS[1 - label]}. Give "
                    f"{OPTIONS[1 - label]} {folder}."
                )


def _is_below(image: ImageInput, source: str) -> bool:
    if image.row is not None or image.label is not None:
        return False
    if is_remote(source):
        return image.sample_id.startswith(source.rstrip("/") + "/")
    return Path(image.sample_id).is_relative_to(source)


def _inner(source: str, folders: Counter[str]) -> list[str]:
    """Folders as they can be typed."""
    names = [name for name, _ in _first(folders)]
    return [f"{source.rstrip('/')}/{name}" if is_remote(source) else str(Path(source) / name) for name in names]


def _first(folders: Counter[str]) -> list[tuple[str, int]]:
    return sorted(folders.items())[:NAMED]


def _folder(source: str) -> str | None:
    """The folder that was typed, or that holds the typed file; None for a list."""
    if source.lower().endswith(".csv"):
        return None
    path = PurePosixPath(source)
    return str(path.parent if path.suffix and (is_remote(source) or Path(source).is_file()) else path)


def _state(folder: str, words: set[str]) -> int | None:
    name = PurePosixPath(folder).name
    return state_of(meaning_of(name).state or name, words)
