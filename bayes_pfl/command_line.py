"""Words of a command line -> options, and the nearest word behind one that does not exist."""

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn


class CommandParser(argparse.ArgumentParser):
    """Names the nearest option behind one that does not exist."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; unknown options are told by the command that does not know them.

        Args:
            args: words of the command line.
            namespace: as argparse's.

        Returns:
            The options.
        """
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.of_command(options).refuse(unknown)
        return options

    def of_command(self, options: argparse.Namespace) -> "CommandParser":
        """The parser that was asked: this one, or that of a command below it.

        Args:
            options: what was parsed.

        Returns:
            The parser.
        """
        return self

    def error(self, message: str) -> NoReturn:
        """Print what is wrong on one line, without the usage, and end with exit code 2.

        Args:
            message: argparse's sentence.
        """
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help shows the options)\n")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Refuse an empty value: mostly an unset variable of the shell, which as a path would be the current folder."""
        if "" in arg_strings and action.nargs != argparse.PARSER:
            raise argparse.ArgumentError(action, "is empty: give a value, or leave it out")
        return super()._get_values(action, arg_strings)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Name the nearest of the choices behind argparse's sentence."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            close = nearest(str(value), map(str, action.choices or ()))
            raise argparse.ArgumentError(action, f"{error.message}{close}") from None

    def refuse(self, unknown: Sequence[str]) -> None:
        """Print what does not exist, with the nearest that does, and end with exit code 2.

        Args:
            unknown: words of the command line.
        """
        words = [word for action in self._actions for word in action.option_strings]
        wrong = next((word.split("=")[0] for word in unknown if word.startswith("-")), unknown[0])
        self.error(f"unrecognized arguments: {' '.join(unknown)}{nearest(wrong, words)}")


def nearest(word: str, words: Iterable[str]) -> str:
    """Find what was meant by a word that does not exist.

    Args:
        word: what was written.
        words: what exists.

    Returns:
        `, did you mean 'x'?`, or nothing.
    """
    close = difflib.get_close_matches(word, list(words), n=1)
    return f", did you mean '{close[0]}'?" if close else ""


def model_source(text: str) -> str:
    """A model as it was named: `runs/NAME` that is not here is NAME in BAYES_PFL_HOME, where training writes it.

    Another place than the named one is said on standard error.

    Args:
        text: folder, URI, or another name of a model.

    Returns:
        The same, or the folder below BAYES_PFL_HOME.
    """
    home, (first, _, rest) = os.environ.get("BAYES_PFL_HOME"), text.removeprefix("./").partition("/")
    if not home or first != "runs" or not rest or Path(text).exists():
        return text
    below = Path(home).resolve() / rest
    if not below.exists():
        return text
    print(f"There is no {text} here: {below} is taken, below BAYES_PFL_HOME.", file=sys.stderr)
    return str(below)


def at_least(least: int, most: int = 2**63 - 1) -> Callable[[str], int]:
    """The type of an option that is a whole number.

    Args:
        least: smallest number that makes sense.
        most: largest one.

    Returns:
        Text -> number, for argparse's `type`; it refuses what is smaller, larger or no whole number.
    """

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is no whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is too small, give {least} or more")
        if value > most:
            raise argparse.ArgumentTypeError(f"{value} is too large, give {most} or less")
        return value

    return number


def share(text: str) -> float:
    """The type of an option that is a share or a score.

    Args:
        text: as it was typed.

    Returns:
        A number between 0 and 1.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no number") from None
    if not 0 <= value <= 1:
        percent = f": {value:g} % is {value / 100:g}" if 1 < value <= 100 else ""
        raise argparse.ArgumentTypeError(f"{value:g} is not between 0 and 1{percent}")
    return value
