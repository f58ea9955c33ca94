"""YOLO text, one file for each image -> its regions: boxes or outlines, in shares of the image's sides."""

from bayes_pfl.datasets.annotations.entry import AnnotatedImage, annotated
from bayes_pfl.datasets.record import Shape


def read_yolo(text: str, image: str, kinds: list[str]) -> AnnotatedImage:
    """The image of a YOLO file.

    Args:
        text: its lines, ``class x y width height`` or ``class x y x y x y ...``.
        image: the image's path.
        kinds: names of the classes, where they are known.

    Returns:
        Its entry.

    Raises:
        ValueError: a line is of neither form.
    """
    regions: list[tuple[str, Shape]] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        number, *values = (float(value) for value in line.split())
        if any(not -0.01 <= value <= 1.01 for value in values) or len(values) < 4 or number != int(number):
            raise ValueError(f"{line.strip()[:60]!r} is no line of a YOLO file")
        if len(values) in (4, 5):  # the fifth is a confidence
            x, y, width, height = values[:4]
            shape = Shape("box", (x - width / 2, y - height / 2, x + width / 2, y + height / 2), relative=True)
        else:
            shape = Shape("polygon", tuple(values[: len(values) // 2 * 2]), relative=True)
        regions.append((kinds[int(number)] if int(number) < len(kinds) else "", shape))
    return annotated(image, regions)
