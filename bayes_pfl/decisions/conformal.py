"""Scores of images known to be good, or known to be defective -> conformal p-values, their ranks and what they promise.

Split-conformal prediction (Vovk, Gammerman, Shafer: Algorithmic Learning in a Random World, 2nd ed. 2022; Angelopoulos,
Bates: A Gentle Introduction to Conformal Prediction, 2023). Nothing is assumed of the scores' distribution; the images
at hand and those to come must be exchangeable, as independent images from one source are.
"""

import hashlib
import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np

from bayes_pfl.errors import DataError

ROUNDING = 1e-9
"""What a product such as 0.05 * (19 + 1) may miss a whole number by."""


def tie_break(seed: int, sha256: str) -> float:
    """A number that decides between images of equal score: the same for the same image.

    Args:
        seed: of the calibration.
        sha256: of the image's file, hexadecimal.

    Returns:
        Uniform on [0, 1).

    >>> tie_break(0, "00ff") == tie_break(0, "00ff") != tie_break(1, "00ff")
    True
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {sha256}".encode()).digest()[:6], "big") / 2**48


class RankedScores:
    """Scores of calibration images, each with its tie-break, in order.

    Args:
        scores: finite.
        tie_breaks: as many.
    """

    def __init__(self, scores: Sequence[float], tie_breaks: Sequence[float]) -> None:
        self._ordered = sorted(zip(scores, tie_breaks, strict=True))

    def __len__(self) -> int:
        return len(self._ordered)

    def rank_from_above(self, score: float, tie: float) -> int:
        """1 + the number of calibration images that score at least as high. Divided by n + 1 it is the p-value.

        p = (1 + #{i : (s_i, u_i) >= (s, u)}) / (n + 1) is uniform on {1, ..., n + 1} / (n + 1) for a new image that is
        exchangeable with the n others: P(p <= alpha) = floor(alpha (n + 1)) / (n + 1) <= alpha.

        Args:
            score: of an image.
            tie: its tie-break.

        Returns:
            1 (higher than all) to n + 1.
        """
        return 1 + len(self) - bisect_left(self._ordered, (score, tie))

    def rank_from_below(self, score: float, tie: float) -> int:
        """1 + the number of calibration images that score at most as high.

        Args:
            score: of an image.
            tie: its tie-break.

        Returns:
            1 (lower than all) to n + 1.
        """
        return 1 + bisect_right(self._ordered, (score, tie))

    def highest(self, rank: int) -> float:
        """The score of that rank.

        Args:
            rank: 1 for the highest.

        Returns:
            The score.
        """
        return float(self._ordered[-rank][0])

    def lowest(self, rank: int) -> float:
        """The score of that rank, from below.

        Args:
            rank: 1 for the lowest.

        Returns:
            The score.
        """
        return float(self._ordered[rank - 1][0])


def fewest_images(rate: float) -> int:
    """The number of calibration images without which no threshold holds a rate: the smallest n, rate (n + 1) >= 1.

    Args:
        rate: of errors, in (0, 1).

    Returns:
        ceil(1 / rate) - 1.

    >>> fewest_images(0.01), fewest_images(0.05)
    (99, 19)
    """
    return max(1, math.ceil(1 / rate - ROUNDING) - 1)


def strictest_rate(images: int) -> float:
    """The lowest rate that a number of images can hold: 1 / (n + 1), rounded up to four digits.

    Args:
        images: n.

    Returns:
        The rate.

    >>> strictest_rate(40)
    0.0244
    """
    return -(-10_000 // (images + 1)) / 10_000


def allowed_rank(images: int, rate: float) -> int:
    """The highest rank whose p-value is at most a rate: floor(rate (n + 1)).

    Args:
        images: n.
        rate: of errors, in (0, 1).

    Returns:
        1 to n.

    Raises:
        DataError: there are too few images for this rate.
    """
    rank = math.floor(rate * (images + 1) + ROUNDING)
    if rank < 1:
        raise DataError(
            f"A rate of {rate:g} needs at least {fewest_images(rate):,} images, and there are {images:,}: give more, "
            f"or a rate of {strictest_rate(images):g} or higher."
        )
    return min(rank, images)


def rate_bound(rank: int, images: int, confidence: float) -> float:
    """What the error rate of this very calibration does not exceed, with confidence.

    For scores without ties the rate beyond the calibration score of a rank is Beta(rank, n + 1 - rank)-distributed over
    calibrations (Vovk: Conditional validity of inductive conformal predictors, 2012); the bound is its quantile.

    Args:
        rank: of the threshold among the calibration scores, at most n.
        images: n.
        confidence: in (0, 1).

    Returns:
        A rate.

    >>> round(rate_bound(2, 199, 0.95), 4)
    0.0236
    """
    from scipy.stats import beta  # a second to import, and few need it

    return float(beta.ppf(confidence, rank, images + 1 - rank))


def rank_beyond(images: int, rate: float, confidence: float) -> int:
    """The first rank beyond which more than a rate of images lie, with confidence.

    Args:
        images: n.
        rate: in (0, 1).
        confidence: in (0, 1).

    Returns:
        The smallest rank r with P(Beta(r, n + 1 - r) <= rate) <= 1 - confidence; n + 1 where none does.
    """
    from scipy.stats import beta  # a second to import, and few need it

    ranks = np.arange(1, images + 1)
    certain = np.flatnonzero(beta.cdf(rate, ranks, images + 1 - ranks) <= 1 - confidence)
    return int(ranks[certain[0]]) if len(certain) else images + 1


def share_interval(hits: int, images: int, confidence: float) -> tuple[float, float]:
    """The exact interval of a share (Clopper, Pearson 1934).

    Args:
        hits: counted among the images.
        images: at least 1.
        confidence: in (0, 1).

    Returns:
        Lower and upper limit.
    """
    from scipy.stats import binomtest  # a second to import, and few need it

    interval = binomtest(hits, images).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def select(p_values: Sequence[float], false_discoveries: float) -> list[bool]:
    """Images called defective together, with the false discovery rate controlled (Benjamini, Hochberg 1995).

    Conformal p-values of one calibration depend on each other positively, so that the procedure holds (Bates, Candes,
    Lei, Romano, Sesia: Testing for outliers with conformal p-values, 2023): of the selected images at most this share
    is good, on average.

    Args:
        p_values: of all images of the batch.
        false_discoveries: wanted rate, in (0, 1).

    Returns:
        Whether each is selected.
    """
    from scipy.stats import false_discovery_control  # a second to import, and few need it

    if not p_values:
        return []
    return [bool(adjusted <= false_discoveries + ROUNDING) for adjusted in false_discovery_control(list(p_values))]
