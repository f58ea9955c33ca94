"""Class names of a data set -> which are too long for the text encoders in use."""

from collections.abc import Iterable

from bayes_pfl.config import BackboneConfig, DetectorConfig
from bayes_pfl.datasets.record import Record
from bayes_pfl.errors import ClassNameError, DataError

ENCODERS = (("the embedded model", "package:embedded/bayes-pfl-embedded.json"), ("CLIP ViT-L/14", "ViT-L-14-336"))
"""Models by the architecture that configures their text encoder."""

SHORT = 20
"""Bytes of a class name that fits everywhere: a token has at least one."""


def check_class_names(records: Iterable[Record]) -> list[str]:
    """Lines for class names that are too long for a text encoder, counted in its tokens.

    Args:
        records: of the data set.

    Returns:
        A line for every such name.

    Raises:
        DataError: a class name is blank.
    """
    categories = {record.class_name: record.category for record in records}
    for class_name, category in sorted(categories.items()):
        if not class_name.strip(" _-."):
            raise DataError(
                f"The class name of the category {category!r} is blank. Rename its folder, or give class_name in a CSV."
            )
    long = {name: category for name, category in sorted(categories.items()) if len(name.encode()) > SHORT}
    return list(_too_long(long)) if long else []


def _too_long(categories: dict[str, str]) -> Iterable[str]:
    from bayes_pfl.methods.builder import class_names  # imports torch: seconds, and few names are so long

    encoders = [
        (title, class_names(DetectorConfig(backbone=BackboneConfig(name=architecture))))
        for title, architecture in ENCODERS
    ]
    for class_name, category in categories.items():
        limits = []
        for title, encoder in encoders:
            try:
                encoder.check([class_name])
            except ClassNameError:
                limits.append(f"the {encoder.room} of {title}")
        if limits:
            yield (
                f"{category}: the class name {class_name!r} has more tokens than {' and '.join(limits)}; rename the "
                "folder, or give a shorter class_name in a CSV"
            )
