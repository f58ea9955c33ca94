"""Who may ask, and how often: bearer tokens from a file or the environment, a token bucket for each."""

import hashlib
import hmac
import os
import time
from pathlib import Path

from bayes_pfl.errors import ConfigError

TOKENS_VARIABLE = "BAYES_PFL_TOKENS"
SHORTEST = 16
"""Characters: 16 random hexadecimal digits are 64 bits, more than can be tried over a network."""
LOOK_AGAIN_S = 2.0


class Tokens:
    """The accepted bearer tokens; only their SHA-256 are kept, and the file is read again when it changes.

    Raises ConfigError if none is given or one is shorter than 16 characters.
    """

    def __init__(self, file: str | None) -> None:
        self.file = None if file is None else Path(file)
        self.digests = read_tokens(self.file)
        self.stamp = self._stamp()
        self.looked = time.monotonic()

    def holder(self, authorization: str) -> str | None:
        """A short name of the token in an Authorization header, or none if it is not accepted.

        Every accepted digest is compared, each in constant time: the answer's delay tells nothing.
        """
        self._look_again()
        scheme, _, token = authorization.partition(" ")
        presented = hashlib.sha256(token.strip().encode("utf-8", "surrogatepass")).digest()
        matches = [hmac.compare_digest(presented, digest) for digest in self.digests]
        return presented.hex()[:8] if scheme.lower() == "bearer" and any(matches) else None

    def _look_again(self) -> None:
        """Take over a changed file; a file that became unusable changes nothing."""
        if self.file is None or time.monotonic() - self.looked < LOOK_AGAIN_S:
            return
        self.looked = time.monotonic()
        stamp = self._stamp()
        if stamp != self.stamp:
            try:
                self.digests, self.stamp = read_tokens(self.file), stamp
            except ConfigError:
                return

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = self.file.stat() if self.file else None
        except OSError:
            return None
        return None if status is None else (status.st_mtime_ns, status.st_size)


def read_tokens(file: Path | None) -> list[bytes]:
    """SHA-256 of the tokens in a file (one a line, # comments), or else in BAYES_PFL_TOKENS (separated by commas)."""
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
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
    return [hashlib.sha256(token.encode()).digest() for token in tokens]


class RateLimit:
    """A token bucket for every holder: `rate` requests a second in the long run, `burst` at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate = rate
        self.burst = burst
        self.buckets: dict[str, tuple[float, float]] = {}

    def wait_s(self, holder: str, now: float) -> float:
        """0 if the holder may go ahead (and this one counts), or the seconds until it may."""
        if not self.rate:
            return 0.0
        level, seen = self.buckets.get(holder, (float(self.burst), now))
        level = min(self.burst, level + (now - seen) * self.rate)
        allowed = level >= 1
        self.buckets[holder] = (level - 1 if allowed else level, now)
        return 0.0 if allowed else (1 - level) / self.rate
