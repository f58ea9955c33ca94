"""Class names of a data set -> which are too long for the text encoders in use."""

from collections.abc import Iterable

from bayes_pfl.datasets.record import Record
from bayes_pfl.errors import DataError

PROMPT_TOKENS = 1 + 5 + 5
"""Of a prompt beside the class name: start, context and state tokens as trained by default."""

ENCODERS = (("the embedded model", 32, "package:embedded/merges.txt.gz"), ("CLIP", 77, None))
"""Text encoders: tokens of their context, and their vocabulary."""


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
    remarks = []
    for class_name, category in sorted(categories.items()):
        if not class_name.strip(" _-."):
            raise DataError(
                f"The class name of the category {category!r} is blank. Rename its folder, or give class_name in a CSV."
            )
        limits = [
            f"the {context - PROMPT_TOKENS} of {title} ({tokens} here)"
            for title, context, vocabulary in ENCODERS
            if len(class_name.encode()) >= context - PROMPT_TOKENS  # a token has at least one byte
            and (tokens := _tokens(class_name, vocabulary)) > context - PROMPT_TOKENS
        ]
        if limits:
            remarks.append(
                f"{category}: the class name {class_name!r} has more tokens than {' and '.join(limits)}; rename the "
                "folder, or give a shorter class_name in a CSV"
            )
    return remarks


def _tokens(class_name: str, vocabulary: str | None) -> int:
    """Tokens of a class name and the end of the text."""
    from open_clip.tokenizer import SimpleTokenizer, default_bpe  # takes seconds, and few names are so long

    from bayes_pfl.clip.backbone import package_path

    path = str(package_path(vocabulary)) if vocabulary else default_bpe()
    return len(SimpleTokenizer(bpe_path=path).encode(class_name.lower())) + 1
