"""What a request says before its body -> a refusal, or nothing: host, query, sizes, numbers in headers."""

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.types import Scope

from serve.problems import Problem

MOST_HEADER_BYTES = 32 * 2**10
MOST_QUERY_BYTES = 8 * 2**10
MOST_QUERY_KEYS = 50


def check_sizes(scope: Scope) -> None:
    """Refuse headers and queries that are larger than any honest client's.

    Args:
        scope: of the request.

    Raises:
        Problem: 431 or 414.
    """
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEADER_BYTES:
        raise Problem(431, f"The headers are larger than {MOST_HEADER_BYTES} bytes together.")
    if len(scope["query_string"]) > MOST_QUERY_BYTES:
        raise Problem(414, f"The query is longer than {MOST_QUERY_BYTES} bytes; images go into the body.")


def check_query(query: bytes) -> None:
    """Refuse queries that could be read in two ways.

    Args:
        query: percent-encoded, of bounded length.

    Raises:
        Problem: 400 for a key given twice, too many keys, or bytes that are not UTF-8.
    """
    try:
        pairs = parse_qsl(query.decode("ascii"), True, errors="strict", max_num_fields=MOST_QUERY_KEYS)
    except UnicodeError as error:
        raise Problem(400, "The query is not UTF-8; percent-encode names as UTF-8.") from error
    except ValueError as error:
        raise Problem(400, f"More than {MOST_QUERY_KEYS} keys in the query.") from error
    keys = [key for key, _ in pairs]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise Problem(400, f"{twice[0][:60]} is given twice in the query; give it once.")


def check_host(headers: Headers, hosts: Iterable[str]) -> None:
    """Refuse names that this endpoint is not served under: a foreign name may have been made to lead here.

    Args:
        headers: of the request. Browsers always send a Host; a probe without one is let through.
        hosts: names without port, in small letters; empty for any.

    Raises:
        Problem: 403.
    """
    host = headers.get("host")
    if host is None or not hosts:
        return
    matched = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(:[0-9]*)?", host)
    if matched is None or matched[1].lower().removesuffix(".") not in hosts:
        raise Problem(
            403,
            "This Host is not served here; use the address that the endpoint was started with, or start it with "
            "--allowed-host NAME (allowed_hosts in its settings).",
        )


def plain_number(text: str) -> int | None:
    """A number in a header.

    Args:
        text: the header's value.

    Returns:
        The number, or none unless it is written with 1 to 15 of the digits 0 to 9.
    """
    return int(text) if re.fullmatch("[0-9]{1,15}", text) else None
