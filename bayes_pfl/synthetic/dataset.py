"""Generated images on disk, laid out as MVTec AD lays out its own."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from bayes_pfl.errors import DataError, OutputError
from bayes_pfl.synthetic.catalogue import check_category, stream
from bayes_pfl.synthetic.scene import defects_of, render
from bayes_pfl.synthetic.splits import kinds_for

TRAIN_START = 1_000_000
"""Index of the first training image, far above those of the test images, so none is in both."""


def _write_category(
    folder: Path,
    category: str,
    normal: int,
    defective: int,
    size: int,
    seed: int,
    kinds: list[str],
    written: Callable[[int], object],
) -> None:
    name = folder_name(category)
    for part in (f"{name}/train/good", f"{name}/test/good"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(normal):
        for part, index in (("train", TRAIN_START + number), ("test", number)):
            scene = render(category, index, seed, size, None)
            Image.fromarray(scene.image).save(folder / name / part / "good" / f"{number:03d}.png")
        written(2)
    for number in range(defective):
        kind = kinds[number % len(kinds)]
        severity = float(stream(seed, category, normal + number, 3).uniform(0.25, 1.0))
        scene = render(category, normal + number, seed, size, kind, severity)
        images = folder / name / "test" / folder_name(kind)
        masks = folder / name / "ground_truth" / folder_name(kind)
        images.mkdir(parents=True, exist_ok=True)
        masks.mkdir(parents=True, exist_ok=True)
        stem = f"{number // len(kinds):03d}"
        Image.fromarray(scene.image).save(images / f"{stem}.png")
        Image.fromarray(scene.mask).convert("L").save(masks / f"{stem}_mask.png")
        written(1)


def _kinds(category: str, kinds: tuple[str, ...] | None, seed: int) -> list[str]:
    """The kinds to paint, shuffled: a few images then show other kinds on every category."""
    allowed = kinds_for(category) if kinds is None else defects_of(category)
    chosen = [kind for kind in allowed if kinds is None or kind in kinds]
    return [chosen[i] for i in stream(seed, category, 0, 4).permutation(len(chosen))]


def _cannot_write(folder: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"Cannot write {folder}: {reason}. Free some space, or choose another folder; nothing was kept.")


def folder_name(name: str) -> str:
    """A category or kind of defect as a folder name: "hex nut" -> "hex_nut".

    Args:
        name: of the category or kind.

    Returns:
        The folder's name.
    """
    return name.replace(" ", "_")


def write_dataset(
    folder: Path,
    categories: list[str] | tuple[str, ...],
    normal_per_category: int,
    defective_per_category: int,
    size: int,
    seed: int,
    kinds: tuple[str, ...] | None = None,
    written: Callable[[int], object] = lambda images: None,
) -> int:
    """Write `<category>/{train/good,test/good,test/<defect>,ground_truth/<defect>}` under a folder.

    Args:
        folder: new or empty.
        categories: names of categories.
        normal_per_category: flawless images for training, and as many for testing.
        defective_per_category: defective images, their kinds in turn, in an order drawn per category.
        size: side of the images, pixels.
        seed: same seed, same images.
        kinds: the kinds of defects to paint; None for `kinds_for` each category, so that `HELD_OUT_KINDS` stay on
            held-out ones.
        written: called now and then with the number of images written since the last call.

    Returns:
        The number of images written, masks not counted.

    Raises:
        DataError: unknown category, no image asked for, too small a size, or `folder` has files.
        OutputError: `folder` cannot be written.
    """
    for category in categories:
        check_category(category)
    if size < 32:
        raise DataError(f"Images of {size} px are too small to show a defect; use 32 or more.")
    if normal_per_category < 1 or defective_per_category < 0:
        raise DataError("Ask for at least one normal and no negative number of defective images.")
    try:
        if folder.exists() and any(folder.iterdir()):
            raise DataError(f"{folder} is not empty; choose another folder.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        for category in categories:
            allowed = _kinds(category, kinds, seed)
            if not allowed and defective_per_category:
                raise DataError(f"None of the kinds {', '.join(kinds or ())} is a defect on {category!r}.")
            _write_category(
                staging, category, normal_per_category, defective_per_category, size, seed, allowed, written
            )
        if folder.exists():
            folder.rmdir()
        staging.chmod(0o755)
        staging.rename(folder)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        if isinstance(error, OSError):
            raise _cannot_write(folder, error) from error
        raise
    return len(categories) * (2 * normal_per_category + defective_per_category)
