"""COCO JSON -> regions by image: polygons, run lengths (plain or packed into text), boxes where there is no outline."""

from typing import Any

from bayes_pfl.datasets.annotations.entry import AnnotatedImage, annotated
from bayes_pfl.datasets.record import Shape


def read_coco(content: dict[str, Any]) -> list[AnnotatedImage]:
    """The images of a COCO file.

    Args:
        content: the parsed JSON.

    Returns:
        One entry for each image that the file lists.

    Raises:
        ValueError, KeyError, TypeError: the file is not of this form.
    """
    names = {category["id"]: str(category["name"]) for category in content.get("categories", [])}
    regions: dict[Any, list[tuple[str, Shape]]] = {image["id"]: [] for image in content["images"]}
    sizes = {image["id"]: _size(image) for image in content["images"]}
    for annotation in content["annotations"]:
        number = annotation["image_id"]
        if number in regions:
            label = names.get(annotation.get("category_id"), "")
            regions[number] += [(label, shape) for shape in _shapes(annotation, sizes[number])]
    return [annotated(str(image["file_name"]), regions[image["id"]]) for image in content["images"]]


def unpacked_counts(text: str) -> list[int]:
    """Run lengths from the text into which COCO's tools pack them: five bits a letter, differences to the last but one.

    Args:
        text: the "counts" of a segmentation.

    Returns:
        Lengths of background and region in turn.
    """
    counts: list[int] = []
    position = 0
    while position < len(text):
        value = shift = 0
        more = True
        while more:
            bits = ord(text[position]) - 48
            value |= (bits & 0x1F) << shift
            shift += 5
            position += 1
            more = bool(bits & 0x20)
            if not more and bits & 0x10:
                value |= -1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return counts


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    return (int(image["width"]), int(image["height"])) if image.get("width") and image.get("height") else None


def _shapes(annotation: dict[str, Any], size: tuple[int, int] | None) -> list[Shape]:
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        height, width = segmentation["size"]
        counts = segmentation["counts"]
        runs = unpacked_counts(counts) if isinstance(counts, str) else counts
        return [Shape("runs", (height, width, *runs), size=(int(width), int(height)))]
    if segmentation:
        return [Shape("polygon", tuple(float(value) for value in polygon), size=size) for polygon in segmentation]
    if annotation.get("bbox"):
        left, top, width, height = (float(value) for value in annotation["bbox"])
        return [Shape("box", (left, top, left + width, top + height), size=size)]
    return []
