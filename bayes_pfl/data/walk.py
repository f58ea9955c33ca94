"""A folder to the files in it: the one walk of ingestion, scoring and the endpoint's reference window.

Every file of the folder is either listed or skipped with a reason: junk that systems leave, files of an earlier run of
these programs, links that lead nowhere or to a folder that is listed already, endings that are no image's.
"""

import errno
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bayes_pfl.data.dicom import MISSING, is_installed
from bayes_pfl.errors import DataError

JPEG_SUFFIXES = frozenset({".jfif", ".jpe", ".jpeg", ".jpg", ".mpo"})
DICOM_SUFFIXES = frozenset({".dcm", ".dicom"})
IMAGE_SUFFIXES = frozenset({".bmp", ".png", ".tif", ".tiff", ".webp"}) | JPEG_SUFFIXES | DICOM_SUFFIXES
"""Endings, in lower case, of the files that are taken for images."""

UNREAD_SUFFIXES = frozenset(
    [
        ".gif",
        ".avif",
        ".heic",
        ".heif",
        ".jp2",
        ".j2k",
        ".jxl",
        ".tga",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".exr",
        ".hdr",
        ".psd",
        ".svg",
        ".ico",
        ".pdf",
        ".npy",
        ".npz",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".dng",
        ".raw",
        ".raf",
        ".orf",
        ".rw2",
        ".nii",
        ".nii.gz",
        ".mha",
        ".mhd",
        ".nrrd",
        ".czi",
        ".lif",
        ".nd2",
        ".svs",
        ".h5",
        ".mp4",
        ".avi",
        ".mov",
        ".mkv",
    ]
)
"""Endings of images, volumes and films that are not read; named in summaries, unlike those of texts."""

ARCHIVE_SUFFIXES = frozenset({".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip"})

_JUNK = (
    (re.compile(r"(^|/)\."), "hidden file"),
    (re.compile(r"(^|/)(thumbs\.db|ehthumbs\.db|desktop\.ini)$", re.IGNORECASE), "left by a file manager"),
    (re.compile(r"(^|/)(__MACOSX|@eaDir|\$RECYCLE\.BIN|#recycle|System Volume Information|lost\+found)/"),
     "left by a file manager"),
    (re.compile(r"(^|/)__pycache__/"), "left by Python"),
    (re.compile(r"\(copy( \d+)?\)", re.IGNORECASE), "a stray copy"),
    (re.compile(r"(^|/)(_manifest/.+|shard-\d{5}\.arrow)$"), "shards of an ingest"),
)  # fmt: skip
_SCORES = re.compile(r"maps/.+|scores\.(arrow|parquet)|gallery\.html|summary\.json")
_REPORT = re.compile(r"(heat-[\w-]+|pareto|samples)\.png|report\.html")


class SkippedFile(NamedTuple):
    """A file that is not used, and why."""

    path: str
    """POSIX path relative to the folder; a folder's ends in "/"."""
    reason: str


class FolderListing(NamedTuple):
    """The files of a folder, each in exactly one of the two."""

    files: tuple[str, ...]
    """POSIX paths relative to the folder, sorted."""
    skipped: tuple[SkippedFile, ...]
    """Sorted by path."""


def list_images(folder: Path) -> FolderListing:
    """All image files below a folder at any depth, and everything else with a reason.

    Args:
        folder: where to look.

    Returns:
        The images, and the files that are none.

    Raises:
        DataError: the folder does not exist, or it or a folder in it cannot be read.
    """
    listing = list_files(folder)
    images, others = select_images(listing.files)
    return FolderListing(images, tuple(sorted((*listing.skipped, *others))))


def list_files(folder: Path) -> FolderListing:
    """All files below a folder at any depth, links to folders followed once; junk and own output are skipped.

    Args:
        folder: where to look.

    Returns:
        Files of any ending, and the skipped ones.

    Raises:
        DataError: the folder does not exist, or it or a folder in it cannot be read.
    """
    files: list[str] = []
    skipped: list[SkippedFile] = []
    try:
        for path, reason in _walk(folder):
            reason = reason or junk_reason(path)
            if reason:
                skipped.append(SkippedFile(path, reason))
            else:
                files.append(path)
    except OSError as error:
        raise DataError(f"Cannot read {printable(str(error.filename))}: {error.strerror}.") from error
    results = _results_of_earlier_runs(files, skipped)
    return FolderListing(
        tuple(sorted(path for path in files if path not in results)),
        tuple(sorted((*skipped, *(SkippedFile(path, "results of an earlier run") for path in results)))),
    )


def select_images(paths: Iterable[str]) -> tuple[tuple[str, ...], tuple[SkippedFile, ...]]:
    """Of paths or URIs those that are images by their names, and the others with the reason.

    Args:
        paths: relative paths or URIs.

    Returns:
        Images and skipped files, each in the order of ``paths``.
    """
    images: list[str] = []
    skipped: list[SkippedFile] = []
    missing = "" if is_installed() else MISSING
    for path in paths:
        reason = junk_reason(path) or ("" if is_image(path) else no_image(path))
        reason = reason or (missing if suffix_of(path) in DICOM_SUFFIXES else "")
        if reason:
            skipped.append(SkippedFile(path, reason))
        else:
            images.append(path)
    return tuple(images), tuple(skipped)


def skipped_summary(skipped: Iterable[SkippedFile]) -> list[str]:
    """One line for every reason, most frequent first, and one for all endings of images that are not read.

    Such as "3 files, hidden file" and "5 files are not read: 4 .gif, 1 .nii.gz; save them as PNG".

    Args:
        skipped: what was skipped.

    Returns:
        The lines; none for no file. A reason that concerns a single file names it.
    """
    by_reason: dict[str, list[str]] = {}
    unread: Counter[str] = Counter()
    for path, reason in skipped:
        if suffix_of(path) in UNREAD_SUFFIXES and reason == no_image(path):
            unread[suffix_of(path)] += 1
        else:
            by_reason.setdefault(reason, []).append(path)
    ordered = sorted(by_reason.items(), key=lambda entry: -len(entry[1]))
    lines = [
        f"{printable(paths[0])}: {reason}" if len(paths) == 1 else f"{len(paths):,} files, {reason}"
        for reason, paths in ordered
    ]
    if unread:
        endings = ", ".join(f"{number:,} {ending}" for ending, number in unread.most_common())
        files = "1 file is" if unread.total() == 1 else f"{unread.total():,} files are"
        lines.append(f"{files} not read: {endings}; save {'it' if unread.total() == 1 else 'them'} as PNG")
    return lines


def is_image(path: str) -> bool:
    """Whether a name ends like an image's.

    Args:
        path: a name, path or URI.

    Returns:
        True if its ending is one of `IMAGE_SUFFIXES`, in any case.
    """
    return suffix_of(path) in IMAGE_SUFFIXES


def suffix_of(path: str) -> str:
    """The ending of a name in lower case; of ``x.nii.gz`` it is ``.nii.gz``.

    Args:
        path: a name, path or URI.

    Returns:
        The ending with its dot, or "".
    """
    name = PurePosixPath(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else PurePosixPath(name).suffix


def junk_reason(path: str) -> str:
    """Why a file is never part of a data set, by its name.

    Args:
        path: relative path or URI.

    Returns:
        The reason, or "" for a file that may be used.
    """
    inner = path.partition("://")[2] or path
    return next((reason for pattern, reason in _JUNK if pattern.search(inner)), "")


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC): macOS writes "ü" as two characters, others as one.

    Args:
        name: a name or path.

    Returns:
        The same name for comparisons.
    """
    return unicodedata.normalize("NFC", name)


def printable(path: str) -> str:
    """A path for a line of text: line breaks, control characters and bytes that are no UTF-8 are escaped.

    Args:
        path: any path.

    Returns:
        One line.
    """
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in path)


def no_image(path: str) -> str:
    """Why a file that is no image by its name is not read.

    Args:
        path: a name, path or URI.

    Returns:
        The reason.
    """
    suffix = suffix_of(path)
    if suffix in ARCHIVE_SUFFIXES:
        return "an archive; unpack it"
    if suffix in UNREAD_SUFFIXES:
        volume = suffix in (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")
        return f"{suffix} is not read; save {'its slices' if volume else 'it'} as PNG"
    return "no image"


def _results_of_earlier_runs(files: Iterable[str], skipped: Iterable[SkippedFile]) -> set[str]:
    """Heat maps and tables that scoring or training wrote below the folder: they are no input."""
    scores = {
        path.partition("_manifest/")[0]
        for path, _ in skipped
        if re.search(r"(^|/)_manifest/shards/part-\d+\.arrow$", path)
    }
    reports = {path.removesuffix("report.html") for path in files if path.endswith("report.html")}
    if not scores and not reports:
        return set()
    results = set()
    for path in files:
        parents = [f"{parent}/" if str(parent) != "." else "" for parent in PurePosixPath(path).parents]
        if any(parent in scores and _SCORES.fullmatch(path.removeprefix(parent)) for parent in parents) or any(
            parent in reports and _REPORT.fullmatch(path.removeprefix(parent)) for parent in parents
        ):
            results.add(path)
    return results


def _walk(folder: Path) -> Iterator[tuple[str, str]]:
    """(relative path, reason why it cannot be used or ""); real folders come before links to them."""
    seen = {os.path.realpath(folder): ""}
    links: list[tuple[str, str]] = []
    yield from _files_below(folder, "", seen, links)
    while links:
        links.sort(reverse=True)
        prefix, path = links.pop()
        real = os.path.realpath(path)
        if real in seen:
            yield prefix, f"a link to a folder that is read already{f', as {seen[real]}' if seen[real] else ''}"
            continue
        seen[real] = prefix.rstrip("/")
        yield from _files_below(Path(path), prefix, seen, links)


def _files_below(
    folder: Path, prefix: str, seen: dict[str, str], links: list[tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    """As `_walk`, without following links, which are appended to ``links``."""
    stack = [(str(folder), prefix)]
    while stack:
        directory, prefix = stack.pop()
        try:
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except PermissionError:
            if reason := junk_reason(prefix):
                yield prefix, reason
                continue
            raise
        for entry in entries:
            path = prefix + entry.name
            if _is_folder(entry):
                if entry.is_symlink():
                    links.append((f"{path}/", entry.path))
                elif (real := os.path.realpath(entry.path)) in seen:
                    yield f"{path}/", f"a folder that is read already, as {seen[real] or 'the folder itself'}"
                else:
                    seen[real] = path
                    stack.append((entry.path, f"{path}/"))
            else:
                yield path, "" if entry.is_file(follow_symlinks=False) else _unreadable(entry.path)


def _unreadable(path: str) -> str:
    """Why a link or device cannot be read as a file; "" if it can."""
    try:
        return "" if stat.S_ISREG(os.stat(path).st_mode) else "is no regular file"  # noqa: PTH116  # may be no UTF-8
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return False
        raise


def counts_by_reason(skipped: Iterable[SkippedFile]) -> dict[str, int]:
    """How many files were skipped for each reason, most frequent first.

    Args:
        skipped: what was skipped.

    Returns:
        ``{reason: number}``.
    """
    return dict(Counter(reason for _, reason in skipped).most_common())
