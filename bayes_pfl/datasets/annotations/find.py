"""Annotation files of a source -> the regions of each image; the files are found by their content, or named."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from xml.etree import ElementTree

import yaml

from bayes_pfl.data.walk import composed, suffix_of
from bayes_pfl.datasets.annotations.coco import read_coco
from bayes_pfl.datasets.annotations.cvat import read_cvat
from bayes_pfl.datasets.annotations.entry import AnnotatedImage
from bayes_pfl.datasets.annotations.labelme import read_labelme
from bayes_pfl.datasets.annotations.voc import read_voc
from bayes_pfl.datasets.annotations.yolo import read_yolo
from bayes_pfl.datasets.record import Shape
from bayes_pfl.datasets.source import Source, read_file
from bayes_pfl.errors import ConfigError, DataError, ImageError

_HEAD = 4096
"""Bytes of a file that are looked at before all of it is read."""


class _Annotation(NamedTuple):
    entry: AnnotatedImage
    file: str
    form: str


class Annotations:
    """The regions of images, from all annotation files of a source.

    Args:
        named: whether the user named the files, so that they also say which images are anomalous.
    """

    def __init__(self, named: bool) -> None:
        self.named = named
        self.files: set[str] = set()
        """The annotation files in the source that belong to images in it."""
        self.unmatched: dict[str, int] = {}
        """Annotation file -> images that it lists and that are not there."""
        self._by_image: dict[str, _Annotation] = {}

    def add(self, image: str, entry: AnnotatedImage, file: str, form: str) -> None:
        """Note the regions of an image.

        Args:
            image: its path in the source.
            entry: what the file says of it.
            file: the annotation file.
            form: its name, such as "COCO".

        Raises:
            DataError: two files say something of the same image.
        """
        before = self._by_image.get(image)
        if before is not None and before.file != file and before.entry.shapes != entry.shapes:
            raise DataError(f"{image} is annotated in {before.file} and in {file}. Name one with --annotations.")
        self._by_image[image] = _Annotation(entry, file, form)
        self.files.add(file)

    def add_backgrounds(self, images: Iterable[str]) -> None:
        """Note that images without a YOLO file, beside others with one, hold no region, as YOLO has it.

        Args:
            images: all images of the source.
        """
        folders = {
            PurePosixPath(image).parent: annotation.file
            for image, annotation in self._by_image.items()
            if annotation.form == "YOLO"
        }
        for image in images if folders else ():
            file = folders.get(PurePosixPath(image).parent)
            if file is not None and image not in self._by_image:
                self._by_image[image] = _Annotation(AnnotatedImage(image, ()), file, "YOLO")

    def shapes(self, image: str) -> tuple[Shape, ...] | None:
        """The regions of an image.

        Args:
            image: its path.

        Returns:
            () for an image that is listed without one; None for an image that is not listed.
        """
        annotation = self._by_image.get(image)
        return None if annotation is None else annotation.entry.shapes

    def kind(self, image: str) -> str:
        """The label of an image's first region.

        Args:
            image: its path.

        Returns:
            The label, "" for none.
        """
        annotation = self._by_image.get(image)
        return "" if annotation is None else annotation.entry.kind

    def labels(self, image: str) -> bool:
        """Whether annotations may decide that an image is normal or anomalous: the user named them and they list it.

        Args:
            image: its path.

        Returns:
            False where folders have to say it.
        """
        return self.named and image in self._by_image

    def forms(self) -> list[str]:
        """The kinds of files that were found.

        Returns:
            Such as ["COCO", "LabelMe"].
        """
        return sorted({annotation.form for annotation in self._by_image.values()})


def find_annotations(source: Source, images: Iterable[str], named: str | None) -> Annotations:
    """The annotations of a source's images.

    Args:
        source: the folder.
        images: the images in it, masks apart.
        named: an annotation file or a folder of them, relative to the source or from the working folder; None looks at
            all JSON, XML and text files of the source.

    Returns:
        The regions by image.

    Raises:
        ConfigError: the named file does not exist.
        DataError: the named file is of no known form, or two files annotate the same image.
    """
    annotations = Annotations(named is not None)
    index = _ImageIndex(images)
    files = list(_named_files(source, named)) if named is not None else list(source.files)
    yolo_kinds = _yolo_kinds(source)
    for path in files:
        suffix = suffix_of(path)
        try:
            if suffix == ".txt":
                _add_yolo(source, index, annotations, path, yolo_kinds)
            elif suffix in (".json", ".xml") and (named is not None or _may_be_one(source, path)):
                _add_file(source, index, annotations, path)
        except (ImageError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            if named is not None and len(files) == 1:
                raise DataError(
                    f"{path} is no annotation file of COCO, LabelMe, CVAT, Pascal VOC or YOLO "
                    f"({type(error).__name__}: {error}). Export it as one of these, or as mask images."
                ) from error
    annotations.add_backgrounds(index.paths)
    if named is not None and not annotations.files:
        listed = sum(annotations.unmatched.values())
        raise DataError(
            f"{named} annotates none of the images in {source.folder}"
            + (
                f": it lists {listed:,} other names. Give the folder that its paths start from as --source."
                if listed
                else "."
            )
        )
    return annotations


def _add_file(source: Source, index: "_ImageIndex", annotations: Annotations, path: str) -> None:
    data = _read(source, path)
    single: AnnotatedImage | None = None
    entries: list[AnnotatedImage] = []
    if suffix_of(path) == ".xml":
        root = _parsed(data)
        if root.tag == "annotation":
            single, form = read_voc(root), "Pascal VOC"
        elif root.tag == "annotations":
            entries, form = read_cvat(root), "CVAT"
        else:
            raise ValueError(f"<{root.tag}>")
    else:
        content: Any = json.loads(data)
        if "shapes" in content:
            single, form = read_labelme(content), "LabelMe"
        else:
            entries, form = read_coco(content), "COCO"
    if single is not None:
        image = index.of_stem(path) or index.of_name(single.name, path)
        if image is not None:
            annotations.add(image, single, path, form)
    missing = 0
    for entry in entries:
        image = index.of_name(entry.name, path)
        if image is None:
            missing += 1
        else:
            annotations.add(image, entry, path, form)
    if missing:
        annotations.unmatched[path] = missing


def _add_yolo(source: Source, index: "_ImageIndex", annotations: Annotations, path: str, kinds: list[str]) -> None:
    image = index.of_stem(path)
    if image is not None:
        entry = read_yolo(_read(source, path).decode("utf-8-sig"), image, kinds)
        annotations.add(image, entry, path, "YOLO")


def _parsed(data: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error


def _read(source: Source, path: str) -> bytes:
    if path in source.existing:
        return source.read(path)
    return read_file(Path(path).parent, Path(path).name)


def _named_files(source: Source, named: str) -> Iterator[str]:
    """Paths in the source, or absolute ones."""
    inner = composed(PurePosixPath(named).as_posix()).removeprefix("./").rstrip("/")
    outside = Path(named).expanduser().absolute()
    root = source.folder.absolute()
    is_absolute = Path(named).expanduser().is_absolute()
    if outside.exists() and outside.is_relative_to(root) and (is_absolute or not (root / named).exists()):
        inner = outside.relative_to(root).as_posix()
    within = [path for path in source.files if composed(path) == inner or composed(path).startswith(f"{inner}/")]
    if within:
        yield from within
    elif inner == ".":
        yield from source.files
    elif outside.is_file():
        yield str(outside)
    elif outside.is_dir():
        yield from sorted(str(path) for path in outside.rglob("*") if path.suffix.lower() in (".json", ".xml", ".txt"))
    else:
        raise ConfigError(f"There is no {named} for --annotations, neither in {source.folder} nor here.")


def _may_be_one(source: Source, path: str) -> bool:
    """Whether the beginning of a file is that of an annotation file."""
    try:
        with (source.folder / path).open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    if suffix_of(path) == ".xml":
        return b"<annotation" in head
    return any(key in head for key in (b'"images"', b'"annotations"', b'"categories"', b'"shapes"', b'"licenses"'))


def _yolo_kinds(source: Source) -> list[str]:
    """Names of classes from ``classes.txt``, one a line, or from ``names`` of ``data.yaml``: a list, or by number."""
    for path in source.files:
        name = PurePosixPath(path).name.lower()
        if name in ("classes.txt", "obj.names"):
            return [line.strip() for line in source.read(path).decode("utf-8", "replace").splitlines()]
        if name in ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml"):
            with contextlib.suppress(yaml.YAMLError, AttributeError, ImageError):
                names = yaml.safe_load(source.read(path)).get("names", [])
                ordered = [names[key] for key in sorted(names)] if isinstance(names, dict) else names
                return [str(kind) for kind in ordered]
    return []


class _ImageIndex:
    """Images by the names under which annotation files know them."""

    def __init__(self, images: Iterable[str]) -> None:
        self.paths = list(images)
        self._by_path: dict[str, str] = {}
        self._by_name: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        for path in self.paths:
            whole = composed(path).lower()
            self._by_path[whole] = path
            self._by_name.setdefault(PurePosixPath(whole).name, []).append(path)
            self._by_stem.setdefault(PurePosixPath(whole).with_suffix("").as_posix(), []).append(path)

    def of_name(self, name: str, file: str) -> str | None:
        """The image that a file lists by a path, of another machine perhaps, or by its bare name."""
        listed = PurePosixPath(composed(name).lower().replace("\\", "/"))
        folder = PurePosixPath(composed(file).lower()).parent
        for base in (folder, folder.parent, PurePosixPath()):
            for middle in ("", "images", "data"):
                if (path := self._by_path.get((base / middle / listed).as_posix().removeprefix("./"))) is not None:
                    return path
        namesakes = self._by_name.get(listed.name, [])
        ending = [path for path in namesakes if f"/{composed(path).lower()}".endswith(f"/{listed.as_posix()}")]
        candidates = ending or namesakes
        return candidates[0] if len(candidates) == 1 else None

    def of_stem(self, file: str) -> str | None:
        """The image that has the file's name, beside it or in "images" where the file is in "labels".

        A file outside the source belongs to the only image of its name.
        """
        whole = PurePosixPath(composed(file).lower()).with_suffix("")
        parts = list(whole.parts)
        places = [parts]
        for position, part in enumerate(parts[:-1]):
            if part in ("labels", "label", "annotations", "annotation", "ann", "json", "jsons", "labelme"):
                places += [[*parts[:position], other, *parts[position + 1 :]] for other in ("images", "image", "imgs")]
                places.append([*parts[:position], *parts[position + 1 :]])
        for path in places:
            images = self._by_stem.get("/".join(path), [])
            if len(images) == 1:
                return images[0]
        if not whole.is_absolute():
            return None
        namesakes = [path for stem, paths in self._by_stem.items() if stem.endswith(f"/{whole.name}") for path in paths]
        namesakes += self._by_stem.get(whole.name, [])
        return namesakes[0] if len(namesakes) == 1 else None
