"""A finished ingest -> one line for everything in it that is probably wrong, with what to do about it."""

from collections.abc import Iterator, Sequence
from typing import Any

from bayes_pfl.data.dicom import INSTALL, MISSING
from bayes_pfl.data.walk import is_image, printable
from bayes_pfl.datasets.description import Dataset
from bayes_pfl.datasets.record import ANOMALOUS, LONELY_MASK, Record
from bayes_pfl.datasets.source import DatasetListing
from bayes_pfl.errors import DataError

NAMED = 3
"""Files or folders that a line names."""


def check_listing(listing: DatasetListing, dataset: Dataset, selected: bool) -> list[str]:
    """Lines for what is wrong with the images as their folders tell them, before one is opened.

    Args:
        listing: what the reader made of the source.
        dataset: the description.
        selected: whether splits or a limit were chosen, so that a category may lack images.

    Returns:
        The lines.
    """
    remarks = [] if selected else list(_one_sided(listing.records, dataset))
    unmasked = [path for path, reason in listing.set_aside if reason.startswith("is defective and")]
    if unmasked:
        remarks.append(
            f"{_images(len(unmasked))} of defects without a mask or annotation that fits by its name, left out: "
            f"{_names(unmasked)}; a mask is called like its image, or <name>_mask, in ground_truth/<kind>/ or beside it"
        )
    lonely = [path for path, reason in listing.ignored if reason == LONELY_MASK]
    bare = [
        record.image for record in listing.records if record.label == ANOMALOUS and not (record.masks or record.shapes)
    ]
    if lonely and bare:
        remarks.append(
            f"{_images(len(bare))} of defects without a mask ({_names(bare)}), though {counted(len(lonely), 'mask')} "
            f"found no image, or more than one ({_names(lonely)}); a mask is called like its image, or <name>_mask, in "
            "ground_truth/<kind>/ or beside it"
        )
    unclear = [path for path, reason in listing.ignored if is_image(path) and reason.startswith("in ")]
    if unclear:
        remarks.append(
            f"{_images(len(unclear))} not taken, whose folders say neither normal nor anomalous: {_names(unclear)}"
        )
    return remarks


def check_masks(manifest: dict[str, Any]) -> list[str]:
    """Lines for masks that are probably not what they should be.

    Args:
        manifest: with the notes of all shards.

    Returns:
        The lines.

    Raises:
        DataError: not one mask of the data set marks a pixel.
    """
    masks, empty = manifest["masks"], manifest["empty_masks"]
    if masks and len(empty) == masks:
        raise DataError(
            f"All {counted(masks, 'mask')} {'is' if masks == 1 else 'are'} empty, as of {printable(empty[0])}. "
            "If their marks are dark, --mask-above 0 takes every pixel that is not black."
        )
    remarks = []
    for key, what, advice in (
        ("empty_masks", "nothing", "if their marks are dark, --mask-above 0 takes every pixel that is not black"),
        ("full_masks", "the whole image", "are they inverted? --mask-above sets another threshold"),
        ("large_masks", "more than half of the image", "are they inverted, or outlines of the object itself?"),
    ):
        if paths := manifest[key]:
            verb = "marks" if len(paths) == 1 else "mark"
            remarks.append(f"{len(paths):,} of {counted(masks, 'mask')} {verb} {what}: {_names(paths)}; {advice}")
    if paths := manifest["marked_normals"]:
        verb = "has" if len(paths) == 1 else "have"
        remarks.append(
            f"{counted(len(paths), 'normal image')} {verb} a mask that marks something: {_names(paths)}; "
            "--anomalous NAME says that the folder holds defects"
        )
    turned = [path for path, turn in manifest["turned_masks"] if turn == "unsure"]
    by_size = [path for path, turn in manifest["turned_masks"] if turn != "unsure"]
    if turned:
        remarks.append(
            f"{_images(len(turned))} turned by EXIF, whose masks are not and do not say by their size which way up "
            f"they were drawn: {_names(turned)}; taken as drawn on the turned image, --masks-as-stored takes them as "
            "drawn on the pixels as stored, --no-masks-as-stored confirms the first"
        )
    if by_size:
        remarks.append(
            f"{_images(len(by_size))} turned by EXIF, whose masks are not: {_names(by_size)}; turned or left as their "
            "size says, --masks-as-stored or --no-masks-as-stored confirms it"
        )
    if pages := manifest["pages"]:
        names = [f"{path} ({number})" for path, number in pages]
        files = f"{counted(len(pages), 'file')} {'has' if len(pages) == 1 else 'have'}"
        remarks.append(f"{files} several pages or frames, of which the first is taken: {_names(names)}")
    return remarks


def check_labels(manifest: dict[str, Any]) -> list[str]:
    """A line for images that are in the data set twice, once as good and once as defective.

    Args:
        manifest: with the notes of all shards.

    Returns:
        The line, if there are such images.
    """
    pairs = [f"{good} = {defective}" for good, defective in manifest["good_and_defective"]]
    if not pairs:
        return []
    verb = "is" if len(pairs) == 1 else "are"
    return [
        f"{_images(len(pairs))} {verb} both good and defective, byte for byte the same file: {_names(pairs)}; "
        "remove the wrong one of the two"
    ]


def check_values(manifest: dict[str, Any]) -> list[str]:
    """Lines for what was assumed of files, or left out of them, that is usual: nothing to mend.

    Args:
        manifest: with the notes of all shards.

    Returns:
        One line for each assumption.
    """
    by_remark: dict[str, list[str]] = {}
    for remark, path in manifest["read_as"]:
        by_remark.setdefault(remark, []).append(path)
    return [f"{_images(len(paths))}: {remark} ({_names(paths)})" for remark, paths in by_remark.items()]


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 image", "2,000 images".

    Args:
        number: of things.
        noun: one of them.

    Returns:
        Both, for a sentence.
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def check_files(manifest: dict[str, Any]) -> list[str]:
    """Lines for files of a kind that is not read, whatever their number.

    Args:
        manifest: with the notes of all shards.

    Returns:
        The lines.
    """
    dicom = [path for path, reason in manifest["set_aside"] if reason.endswith(MISSING)]
    if not dicom:
        return []
    verb, them = ("is", "it") if len(dicom) == 1 else ("are", "them")
    return [f"{counted(len(dicom), 'DICOM file')} {verb} not read: {_names(dicom)}; `{INSTALL}` reads {them}"]


def _one_sided(records: Sequence[Record], dataset: Dataset) -> Iterator[str]:
    """Categories without normal or without anomalous images, where there should be some."""
    if dataset.categories:
        return  # `bayes-pfl datasets verify` counts them
    by_category: dict[str, list[Record]] = {}
    for record in records:
        by_category.setdefault(record.category, []).append(record)
    for category, members in sorted(by_category.items()):
        labels = {record.label for record in members}
        if labels == {ANOMALOUS}:
            kinds = sorted({record.defect for record in members})
            yield (
                f"{category}: no normal image, all is taken for defects ({_names(kinds)}); "
                "--normal NAME says which folder is normal"
            )
        elif len(labels) == 1:
            yield f"{category}: no anomalous image; --anomalous NAME says which folder holds defects"


def _names(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - NAMED:,} more" if len(paths) > NAMED else ""
    return ", ".join(printable(path) for path in paths[:NAMED]) + more


def _images(number: int) -> str:
    return counted(number, "image")
