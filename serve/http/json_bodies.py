"""JSON bytes -> a validated pydantic model, at a cost that is bounded before it is paid.

A JSON parser makes objects for every value, and pydantic an error for every unknown key: about 1.3 kB and 40 us each. A
client chooses how many. So the bytes are looked over first with searches that run at memory speed and make no objects:
how many values there are, how many bytes stand outside strings, how long a number is, what long strings hold.
"""

import asyncio
import codecs
import re
from itertools import accumulate
from typing import TypeVar

from pydantic import BaseModel

from serve.problems import Problem

DEEPEST = 32
"""Brackets within brackets."""
MOST_BYTES_OUTSIDE_STRINGS = 64 * 2**10
"""Brackets, commas and numbers; white space is not counted."""
LONGEST_NUMBER = 40
"""Characters of a number or a literal: more than any 64-bit integer or float needs."""
LONG_STRING = 4096
"""Bytes; a longer string is a file as base64 and must be ASCII: another character makes Python use 4 bytes for each."""
MOST_BACKSLASHES = 64
"""Backslashes in a row before a quote."""
IN_THREAD_BYTES = 64 * 2**10
"""A larger body is parsed in a thread."""

BRACKETS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
WHITE_SPACE = b" \t\r\n"
Model = TypeVar("Model", bound=BaseModel)


async def parse_json(body: bytes, model: type[Model], most_values: int) -> Model:
    """Parse a body in a thread if it is large.

    Args:
        body: UTF-8, with or without a byte-order mark.
        model: what the body must be.
        most_values: values (of all depths together) that it may hold.

    Returns:
        The validated model.

    Raises:
        Problem: 413 for too many values, 400 for what is no JSON of bounded cost.
        pydantic.ValidationError: it is another thing than the model.
    """
    if len(body) > IN_THREAD_BYTES:
        return await asyncio.to_thread(_parse, body, model, most_values)
    return _parse(body, model, most_values)


def check_json(body: bytes, most_values: int) -> None:
    """Bound what parsing a body will cost.

    Args:
        body: the bytes; whether they are JSON at all is left to the parser.
        most_values: values that it may hold.

    Raises:
        Problem: 413 for too many values or strings, 400 for numbers too long or long strings that are no base64.
    """
    outside, position, quotes = bytearray(), 0, 0
    while (start := body.find(b'"', position)) >= 0:
        outside += body[position:start].translate(None, WHITE_SPACE)
        position, escaped = _string_end(body, start, 4 * most_values - quotes)
        quotes += 1 + escaped
        if quotes > 4 * most_values or len(outside) > MOST_BYTES_OUTSIDE_STRINGS:
            break
        if position - start > LONG_STRING:
            _check_long_string(body, start + 1, position)
        outside += b"s"
    else:
        outside += body[position:].translate(None, WHITE_SPACE)
    steps = map(BRACKETS.get, outside[:MOST_BYTES_OUTSIDE_STRINGS])
    if max(accumulate(step for step in steps if step), default=0) > DEEPEST:
        raise Problem(400, f"Not JSON of this interface: nested more than {DEEPEST} deep.")
    if (
        quotes > 4 * most_values
        or len(outside) > MOST_BYTES_OUTSIDE_STRINGS
        or sum(map(outside.count, (b",", b"[", b"{"))) > most_values
    ):
        raise _too_many(most_values)
    if re.search(rb"[^\[\]{},:]{%d}" % (LONGEST_NUMBER + 1), outside):
        raise Problem(400, f"Not JSON of this interface: a number has more than {LONGEST_NUMBER} characters.")


def _parse(body: bytes, model: type[Model], most_values: int) -> Model:
    body = body.removeprefix(codecs.BOM_UTF8)
    check_json(body, most_values)
    return model.model_validate_json(body)


def _string_end(body: bytes, start: int, most_escaped: int) -> tuple[int, int]:
    """Where the string that begins at `start` is over, and how many escaped quotes it holds."""
    end, escaped = start, 0
    while (end := body.find(b'"', end + 1)) >= 0:
        before = body[max(start + 1, end - MOST_BACKSLASHES) : end]
        backslashes = len(before) - len(before.rstrip(b"\\"))
        if backslashes == MOST_BACKSLASHES:
            raise Problem(400, f"Not JSON of this interface: a string has {MOST_BACKSLASHES} backslashes in a row.")
        if backslashes % 2 == 0:
            return end + 1, escaped
        escaped += 1
        if escaped > most_escaped:
            break
    return len(body), escaped


def _check_long_string(body: bytes, start: int, end: int) -> None:
    """Raise Problem 400 unless a long string takes one byte a character: ASCII, escapes up to \\u00ff."""
    step = 2**20
    ascii_only = all(body[at : min(end, at + step)].isascii() for at in range(start, end, step))
    escaped = body.find(b"\\", start, end) >= 0
    if not ascii_only or (escaped and body.count(b"\\u", start, end) != body.count(b"\\u00", start, end)):
        raise Problem(400, f"A string of more than {LONG_STRING} bytes is no base64; send the file's bytes as base64.")


def _too_many(most_values: int) -> Problem:
    return Problem(
        413, f"More than {most_values} values in the JSON; send fewer images, each as one string: its file as base64."
    )
