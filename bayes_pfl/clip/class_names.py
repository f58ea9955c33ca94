"""Class names -> token ids with end of text, refused where the text encoder has no room for them."""

import unicodedata
from collections.abc import Iterable
from typing import Any

from bayes_pfl.errors import ClassNameError, ConfigError

QUOTED = 60
"""Characters of a class name that a message quotes at the most."""


class ClassNames:
    """Reads class names for prompts of the form [start][other tokens][class name][end of text].

    Args:
        tokenizer: open_clip's, of the text encoder.
        context_length: tokens that the text encoder holds.
        other_tokens: tokens of a prompt beside start, class name and end of text, such as P + Q learned words.

    Raises:
        ConfigError: there is no room for any name.
    """

    def __init__(self, tokenizer: Any, context_length: int, other_tokens: int) -> None:
        self.tokenizer, self.context_length, self.other_tokens = tokenizer, context_length, other_tokens
        if self.room < 2:
            raise ConfigError(
                f"A text encoder that holds {context_length} tokens has no room for a class name beside {other_tokens} "
                "others: lower model.context_tokens or model.state_tokens."
            )

    @property
    def room(self) -> int:
        """Tokens that a class name may have, its end of text included."""
        return self.context_length - 1 - self.other_tokens

    def tokens(self, class_name: str) -> list[int]:
        """Token ids of a class name and the end of text; case does not matter.

        Args:
            class_name: such as "metal nut".

        Returns:
            At least two and at most `room` ids.

        Raises:
            ClassNameError: the name is blank or too long, or has control characters.
        """
        if not isinstance(class_name, str):
            raise ClassNameError(f"The class name is {repr(class_name)[:QUOTED]}; give a string, such as 'metal nut'.")
        if any(unicodedata.category(letter) == "Cc" for letter in class_name.strip()):
            raise ClassNameError(f"The class name {class_name[:QUOTED]!r} has control characters: leave them out.")
        ids = [*self.tokenizer.encode(class_name.lower()), self.tokenizer.eot_token_id]
        if len(ids) == 1:
            raise ClassNameError("The class name is blank; say what the image shows, such as 'metal nut'.")
        if len(ids) > self.room:
            quoted = class_name if len(class_name) <= QUOTED else class_name[:QUOTED] + "..."
            other = f", beside 1 start token and {self.other_tokens} of the prompt" if self.other_tokens else ""
            raise ClassNameError(
                f"The class name '{quoted}' has {len(ids)} tokens with its end of text, but this model has room for "
                f"{self.room}: its text encoder holds {self.context_length}{other}. Shorten it."
            )
        return ids

    def check(self, class_names: Iterable[str]) -> None:
        """Refuse names that are blank or too long.

        Args:
            class_names: any number of names; repeated ones are read once.

        Raises:
            ClassNameError: for the first such name, and how many others there are.
        """
        if isinstance(class_names, str):
            raise ClassNameError(f'The class names are one string; give a list: ["{class_names[:QUOTED]}"].')
        names = list(class_names)
        problems = []
        for name in [each for each in names if not isinstance(each, str)] or dict.fromkeys(names):
            try:
                self.tokens(name)
            except ClassNameError as error:
                problems.append(str(error))
        if problems:
            others = f" {len(problems) - 1} other class names do not fit either." if len(problems) > 1 else ""
            raise ClassNameError(problems[0] + others)
