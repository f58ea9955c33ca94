"""Class names of a data set -> which are too long for the text encoders in use."""

from collections.abc import Iterable

from bayes_pfl.config import BackboneConfig, DetectorConfig
from bayes_pfl.datasets.names import ANY_OBJECT
from bayes_pfl.datasets.record import Record
from bayes_pfl.datasets.source import DatasetListing
from bayes_pfl.errors import ClassNameError, ConfigError, DataError

ENCODERS = (("the embedded model", "package:embedded/bayes-pfl-embedded.json"), ("CLIP ViT-L/14", "ViT-L-14-336"))
"""Models by the architecture that configures their text encoder."""

NAMED = 5
"""Categories that a line names."""

SHORT = 20
"""Bytes of a class name that fits everywhere: a token has at least one."""


def check_class_names(records: Iterable[Record], chosen: Iterable[str] = ()) -> list[str]:
    """Lines for class names that say nothing, or are too long for a text encoder, counted in its tokens.

    Args:
        records: of the data set.
        chosen: class names that the user gave.

    Returns:
        A line for every such name.

    Raises:
        DataError: a class name is blank.
    """
    categories = {record.class_name: record.category for record in records}
    for class_name, category in sorted(categories.items()):
        if not class_name.strip(" _-."):
            raise DataError(f"The class name of the category {category!r} is blank. --class-name NAME gives it one.")
    long = {name: category for name, category in sorted(categories.items()) if len(name.encode()) > SHORT}
    remarks = list(_too_long(long)) if long else []
    if categories.get(ANY_OBJECT) == ANY_OBJECT and ANY_OBJECT not in set(chosen):
        remarks.append(
            f"no folder says what the images show, they are prompted as {ANY_OBJECT!r}; --class-name says it"
        )
    nameless = sorted({category for name, category in categories.items() if not any(map(str.isalpha, name))})
    if nameless:
        remarks.append(
            f"{', '.join(nameless[:NAMED])}: no letter in the names of {len(nameless):,} of the categories, which are "
            f"what prompts call the images; --class-name {nameless[0]}=NAME says what they show"
        )
    return remarks


def rename_classes(listing: DatasetListing, class_names: dict[str, str]) -> DatasetListing:
    """Give categories the class names that the user chose.

    Args:
        listing: what the reader made of the source.
        class_names: by category; the key "" stands for every other.

    Returns:
        The listing with other class names.

    Raises:
        ConfigError: there is no such category.
    """
    categories = {record.category for record in listing.records}
    if unknown := sorted(set(class_names) - categories - {""}):
        raise ConfigError(
            f"--class-name {unknown[0]}=...: there is no such category. There are: {', '.join(sorted(categories))}."
        )
    renamed = (
        record._replace(class_name=class_names.get(record.category, class_names.get("", record.class_name)).strip())
        for record in listing.records
    )
    return listing._replace(records=tuple(renamed)) if class_names else listing


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
                f"{category}: the class name {class_name!r} has more tokens than {' and '.join(limits)}; "
                f"--class-name {category}=NAME gives a shorter one"
            )
