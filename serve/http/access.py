"""Authorization header -> the token's holder, and how long it has to wait: bearer tokens and a rate for each."""

import hashlib
import hmac
import logging
import math
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from bayes_pfl.errors import ConfigError

logger = logging.getLogger("ray.serve")

TOKENS_VARIABLE = "BAYES_PFL_TOKENS"
SHORTEST = 16
"""Characters: 16 random hexadecimal digits are 64 bits, more than can be tried over a network."""
LOOK_AGAIN_S = 2.0
LOG_AGAIN_S = 30.0
"""A tokens file that stays unusable is logged again after so long."""


class Tokens:
    """The accepted bearer tokens; only their SHA-256 are kept, and the file is read again when it changes.

    Args:
        file: with one token a line; none for those in BAYES_PFL_TOKENS.
        refused: called whenever a changed file cannot be used.

    Raises:
        ConfigError: there is no token, or one that could never be sent or is shorter than 16 characters.
    """

    def __init__(self, file: str | None, refused: Callable[[], None] = lambda: None) -> None:
        self.file = None if file is None else Path(file)
        self.refused = refused
        self.digests = read_tokens(self.file)
        self.stamp = self._stamp()
        self.looked = time.monotonic()
        self.logged = -math.inf

    def holder(self, authorization: str) -> str | None:
        """Who sends this header.

        Every accepted digest is compared, each in constant time: the answer's delay tells nothing.

        Args:
            authorization: the header's value.

        Returns:
            A short name of the token, or none if it is not accepted.
        """
        self._look_again()
        scheme, _, token = authorization.partition(" ")
        presented = hashlib.sha256(token.strip().encode("utf-8", "surrogatepass")).digest()
        matches = [hmac.compare_digest(presented, digest) for digest in self.digests]
        return presented.hex()[:8] if scheme.lower() == "bearer" and any(matches) else None

    def _look_again(self) -> None:
        """Take over a changed file; one that cannot be used changes nothing, and is counted and logged."""
        if self.file is None or time.monotonic() - self.looked < LOOK_AGAIN_S:
            return
        self.looked = time.monotonic()
        stamp = self._stamp()
        if stamp == self.stamp:
            return
        try:
            self.digests, self.stamp = read_tokens(self.file), stamp
        except ConfigError as error:
            self.refused()
            if self.looked - self.logged >= LOG_AGAIN_S:
                self.logged = self.looked
                logger.error("tokens file refused; the tokens read before stay valid", extra={"reason": str(error)})
            return
        self.logged = -math.inf
        logger.warning("tokens file read again", extra={"tokens": len(self.digests)})

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self.file.stat() if self.file else None
        except OSError:
            return None
        return None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)


def read_tokens(file: Path | None) -> list[bytes]:
    """Read the tokens of a file, or else of the environment.

    Args:
        file: UTF-8 text (with or without a byte-order mark), one token a line, # for comments; none for
            BAYES_PFL_TOKENS, separated by commas.

    Returns:
        SHA-256 of each token.

    Raises:
        ConfigError: none can be read, or one of them could never be sent or is too short.
    """
    if file is not None:
        if file.exists() and not file.is_file():  # a pipe would never end
            raise ConfigError(f"The tokens file {file} is no file. Give a text file with one token a line.")
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeError) as error:
            raise ConfigError(
                f"Cannot read the tokens file {file}: {error}. Give a text file with one token a line."
            ) from error
        tokens = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    else:
        tokens = [token.strip() for token in os.environ.get(TOKENS_VARIABLE, "").split(",") if token.strip()]
    if not tokens:
        raise ConfigError(
            f"The endpoint needs bearer tokens: set {TOKENS_VARIABLE}, or give a tokens file with one token a line "
            "(python -c 'import secrets; print(secrets.token_hex())' makes one)."
        )
    if min(map(len, tokens)) < SHORTEST:
        raise ConfigError(f"A bearer token is shorter than {SHORTEST} characters; use secrets.token_hex().")
    if not all(re.fullmatch("[ -~]+", token) for token in tokens):
        raise ConfigError(
            "A bearer token holds a character that no header can carry; use letters and digits (secrets.token_hex())."
        )
    return [hashlib.sha256(token.encode()).digest() for token in tokens]


class RateLimit:
    """A token bucket for every holder.

    Args:
        rate: requests a second in the long run; 0 for no limit.
        burst: requests at once.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self.rate = rate
        self.burst = burst
        self.buckets: dict[str, tuple[float, float]] = {}

    @classmethod
    def shared(cls, rate: float, burst: int, replicas: int) -> "RateLimit":
        """One replica's part of a rate that holds for all of them together.

        Args:
            rate: of all, requests a second.
            burst: of all, requests.
            replicas: that share it; Ray gives each about as many requests.

        Returns:
            A limit that needs no talk between replicas.
        """
        return cls(rate / replicas, max(1, burst // replicas))

    def wait_s(self, holder: str, now: float) -> float:
        """Ask for leave of one request.

        Args:
            holder: whose request.
            now: monotonic seconds.

        Returns:
            0 if it may go ahead (and counts), or the seconds until it may.
        """
        if not self.rate:
            return 0.0
        level, seen = self.buckets.get(holder, (float(self.burst), now))
        level = min(self.burst, level + (now - seen) * self.rate)
        allowed = level >= 1
        self.buckets[holder] = (level - 1 if allowed else level, now)
        return 0.0 if allowed else (1 - level) / self.rate
