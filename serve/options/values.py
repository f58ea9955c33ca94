"""Words of the endpoint's command lines -> checked values; and the parser of such a command."""

import argparse
import math
import re
import textwrap
from collections.abc import Callable

from bayes_pfl.command_line import CommandParser, at_least
from bayes_pfl.config import NUM_SAMPLES_LIMIT
from serve.settings import ModelSettings, host_name


def command_parser(
    command: str, description: str, add: Callable[[argparse.ArgumentParser], None], examples: str
) -> CommandParser:
    """The parser of a command of the endpoint.

    Args:
        command: its name.
        description: a sentence.
        add: adds its options.
        examples: a line each.

    Returns:
        The parser.
    """
    parser = CommandParser(
        prog=f"bayes-pfl {command}",
        description=description,
        epilog="examples:\n" + textwrap.indent(examples, "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add(parser)
    return parser


def number(least: float, below: float = math.inf) -> Callable[[str], float]:
    """The type of an option that is a number, with decimals or without.

    Args:
        least: smallest number that makes sense.
        below: all that make sense are smaller.

    Returns:
        Text -> number, for argparse's `type`; it refuses all others.
    """

    def value(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is no number") from None
        if not math.isfinite(number):
            raise argparse.ArgumentTypeError(f"'{text}' is no number that can be used")
        if number < least:
            raise argparse.ArgumentTypeError(f"{number:g} is too small, give {least:g} or more")
        if number >= below:
            raise argparse.ArgumentTypeError(f"{number:g} is too large, give less than {below:g}")
        return number

    return value


def num_samples(text: str) -> int:
    """The value of `--num-samples`.

    Args:
        text: as it was typed.

    Returns:
        R.

    Raises:
        argparse.ArgumentTypeError: it is no number, or one that is not allowed.
    """
    number = at_least(1)(text)
    if number > NUM_SAMPLES_LIMIT:
        raise argparse.ArgumentTypeError(f"{number} is too large, give {NUM_SAMPLES_LIMIT} or fewer")
    return number


def port(text: str) -> int:
    """The value of `--port`.

    Args:
        text: as it was typed.

    Returns:
        A number from 1 to 65535.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= 65535 and len(text) < 9):
        raise argparse.ArgumentTypeError(f"'{text}' is no port, give a whole number from 1 to 65535")
    return int(text)


def model_name(text: str) -> str:
    """The value of `--name`.

    Args:
        text: as it was typed.

    Returns:
        The same.

    Raises:
        argparse.ArgumentTypeError: it cannot stand in a URL.
    """
    (pattern,) = (part.pattern for part in ModelSettings.model_fields["name"].metadata if hasattr(part, "pattern"))
    if not re.fullmatch(pattern, text):
        raise argparse.ArgumentTypeError(
            f"'{text}' cannot stand in a URL, give up to 63 small letters, digits, - and _, no - or _ in front"
        )
    return text


def allowed_host(text: str) -> str:
    """The value of `--allowed-host`.

    Args:
        text: as it was typed.

    Returns:
        The name in the form in which names are compared.

    Raises:
        argparse.ArgumentTypeError: it is no name.
    """
    try:
        return host_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}': {error}") from None
