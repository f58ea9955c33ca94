"""Scores of calibration images and a rule -> where "defective" begins, where "good" ends, and what is between."""

import math
from typing import Literal, NamedTuple

import numpy as np

from bayes_pfl.decisions.conformal import allowed_rank, rank_beyond, rate_bound, share_interval
from bayes_pfl.decisions.records import ScoredImages
from bayes_pfl.decisions.rules import Rule
from bayes_pfl.errors import DataError

Label = Literal["good", "defective", "unsure"]


class Decision(NamedTuple):
    """What is decided of an image."""

    label: Label | None
    p_value: float | None = None
    """Share of good calibration images, and of this image itself, that score at least as high."""
    unsure_because: str | None = None
    no_label_because: str | None = None


class Boundaries:
    """The decision for images of one kind.

    - "defective": the p-value against good images is at most the allowed rate of false alarms.
    - "good", where a recall is wanted: at most the allowed share of defective images would score as low. Where none is:
      with confidence, more than the allowed rate of good images score at least as high.
    - "unsure": between the two; or the score says good and the prompts disagree more than on all but the allowed rate
      of good images. A verdict of "defective" keeps its rate whatever the prompts say, and stays.

    Where only a recall is wanted, "defective" needs the confidence and "good" holds the rate. Costs give one threshold.

    Args:
        normal: good images.
        anomalous: defective ones; None: there are none.
        rule: the wanted error rates, or costs.
        seed: of the tie-breaks.

    Raises:
        DataError: there are too few images for the rule, or no defective ones where it needs them.
    """

    def __init__(self, normal: ScoredImages, anomalous: ScoredImages | None, rule: Rule, seed: int = 0) -> None:
        if anomalous is None and (rule.by_cost or rule.recall is not None):
            raise DataError("A threshold by recall or by costs needs defective images too: give --anomalous.")
        self.rule, self.images, self.anomalous, self._seed = rule, normal, anomalous, seed
        self.normal = normal.ranked(normal.scores, seed)
        self._maxima = normal.ranked(normal.map_maxima, seed)
        self._defective = None if anomalous is None else anomalous.ranked(anomalous.scores, seed)
        self._spread = None if normal.uncertainties is None else normal.ranked(normal.uncertainties, seed)
        self.alarm_rank = None if rule.false_alarms is None else allowed_rank(len(normal), rule.false_alarms)
        self._miss_rank = None
        if rule.recall is not None and anomalous is not None:
            self._miss_rank = allowed_rank(len(anomalous), 1 - rule.recall)
        self._sure_rank = self._rank_of_sure()
        self._cost_threshold = None
        if anomalous is not None and rule.by_cost:
            self._cost_threshold = cheapest_threshold(normal.scores, anomalous.scores, rule)

    def _rank_of_sure(self) -> int:
        """Rank beyond which the verdict without a rate of its own is sure."""
        confidence = self.rule.confidence
        if self.rule.false_alarms is not None:
            return rank_beyond(len(self.normal), self.rule.false_alarms, confidence)
        if self.rule.recall is not None and self._defective is not None:
            return rank_beyond(len(self._defective), 1 - self.rule.recall, confidence)
        return 0

    @property
    def defective_above(self) -> float:
        """Score above which an image is called defective; infinite where none is."""
        if self._cost_threshold is not None:
            return self._cost_threshold
        if self.alarm_rank is not None:
            return self.normal.highest(self.alarm_rank)
        assert self._defective is not None
        return math.inf if self._sure_rank > len(self._defective) else self._defective.lowest(self._sure_rank)

    @property
    def good_up_to(self) -> float:
        """Score up to which an image is called good, unless its prompts disagree; -infinite where none is."""
        if self._cost_threshold is not None:
            return self._cost_threshold
        if self._miss_rank is not None and self._defective is not None:
            return min(float(np.nextafter(self._defective.lowest(self._miss_rank), -np.inf)), self.defective_above)
        return -math.inf if self._sure_rank > len(self.normal) else self.normal.highest(self._sure_rank)

    @property
    def most_spread(self) -> float | None:
        """Uncertainty above which no image is called good; None for a method without a distribution."""
        return None if self._spread is None else self._spread.highest(self.alarm_rank or 1)

    @property
    def region_from(self) -> float | None:
        """Map value from which a pixel belongs to a region: the allowed rate of good images has any. None: no rate."""
        if self.alarm_rank is None:
            return None
        return float(np.nextafter(np.float32(self._maxima.highest(self.alarm_rank)), np.float32(np.inf)))

    def verdict(self, score: float, uncertainty: float | None, tie: float) -> Decision:
        """What is decided of an image.

        Args:
            score: its image score.
            uncertainty: of the score; None: unknown.
            tie: its tie-break.

        Returns:
            The verdict.
        """
        rank = self.normal.rank_from_above(score, tie)
        p_value = rank / (len(self.normal) + 1)
        if self._is_defective(score, tie, rank):
            return Decision("defective", p_value)
        if not self._is_good(score, tie, rank):
            return Decision("unsure", p_value, self._between())
        disagree = self._disagree(uncertainty, tie)
        return Decision("good" if disagree is None else "unsure", p_value, disagree)

    def _disagree(self, uncertainty: float | None, tie: float) -> str | None:
        """That the prompts disagree more than on good images; None where they do not, or are unknown."""
        if uncertainty is None or self._spread is None:
            return None
        if self._spread.rank_from_above(uncertainty, tie) > (self.alarm_rank or 1):
            return None
        usual = f"uncertainty {uncertainty:.3g}, and theirs is at most {self.most_spread:.3g}"
        return f"the prompts disagree more than on good images: {usual}"

    def _is_defective(self, score: float, tie: float, rank: int) -> bool:
        if self._cost_threshold is not None:
            return score > self._cost_threshold
        if self.alarm_rank is not None:
            return rank <= self.alarm_rank
        assert self._defective is not None
        return self._defective.rank_from_below(score, tie) > self._sure_rank

    def _is_good(self, score: float, tie: float, rank: int) -> bool:
        """Asked only of what is not called defective."""
        if self._cost_threshold is not None:
            return True
        if self._miss_rank is not None and self._defective is not None:
            return self._defective.rank_from_below(score, tie) <= self._miss_rank
        return rank > self._sure_rank

    def _between(self) -> str:
        low, high = self.good_up_to, self.defective_above
        above = f"above {low:.4g}" if math.isfinite(low) else "at any score"
        below = f" and up to {high:.4g}" if math.isfinite(high) else ""
        return f"{above}{below} neither verdict holds its rate"

    @property
    def share_of_defects(self) -> float:
        """Of the calibration images."""
        bad = 0 if self.anomalous is None else len(self.anomalous)
        return bad / (bad + len(self.images))

    @property
    def false_alarm_bound(self) -> float | None:
        """Rate of false alarms that this very calibration does not exceed, with the rule's confidence."""
        if self.alarm_rank is None:
            return None
        return rate_bound(self.alarm_rank, len(self.normal), self.rule.confidence)

    def tally(self, images: ScoredImages) -> "Tally":
        """How images of the calibration fare, all good or all defective.

        The interval of a share is Clopper and Pearson's where images of the other kind alone chose the threshold.
        Elsewhere it is that of Dvoretzky, Kiefer and Wolfowitz, which holds for every threshold at once.

        Args:
            images: of the calibration.

        Returns:
            Their verdicts, counted.
        """
        labels = [verdict.label for verdict in self.verdicts(images)]
        by_cost, is_good = self._cost_threshold is not None, images is self.images
        defective, good = labels.count("defective"), labels.count("good")
        shares = (
            self._interval(hits, len(labels), by_cost or is_good == good_images_chose)
            for hits, good_images_chose in (
                (defective, self.rule.false_alarms is not None),
                (good, self.rule.recall is None),
            )
        )
        return Tally(len(labels), defective, labels.count("unsure"), good, *shares)

    def _interval(self, hits: int, count: int, chose: bool) -> tuple[float, float]:
        """Of a share; `chose`: these images chose the threshold."""
        if not chose:
            return share_interval(hits, count, self.rule.confidence)
        half = math.sqrt(math.log(2 / (1 - self.rule.confidence)) / (2 * count))
        return max(0.0, hits / count - half), min(1.0, hits / count + half)

    def verdicts(self, images: ScoredImages) -> list[Decision]:
        """Verdicts of scored images.

        Args:
            images: of any kind.

        Returns:
            One an image.
        """
        spread = images.uncertainties or [None] * len(images)
        ties = images.tie_breaks(self._seed)
        return [self.verdict(*values) for values in zip(images.scores, spread, ties, strict=True)]


class Tally(NamedTuple):
    """Images of a kind by verdict, with intervals of two shares."""

    images: int
    called_defective: int
    unsure: int
    called_good: int
    defective_share: tuple[float, float]
    """Interval of the share that is called defective."""
    good_share: tuple[float, float]
    """Interval of the share that is called good."""


def cheapest_threshold(normal: tuple[float, ...], anomalous: tuple[float, ...], rule: Rule) -> float:
    """The threshold t that costs least where images above it are called defective.

    cost(t) = pi cost_miss P(defective scores <= t) + (1 - pi) cost_false_alarm P(good scores > t), with the images' own
    shares as probabilities and pi = `defect_rate`.

    Args:
        normal: scores of good images.
        anomalous: scores of defective images.
        rule: costs, and the share of defective images in use.

    Returns:
        Half-way between two neighbouring scores; the lowest of equal ones.
    """
    assert rule.cost_miss is not None
    assert rule.cost_false_alarm is not None
    prior = rule.defect_rate or len(anomalous) / (len(normal) + len(anomalous))
    good, bad = np.sort(normal), np.sort(anomalous)
    levels = np.unique(np.concatenate([good, bad]))
    thresholds = np.concatenate([[np.nextafter(levels[0], -np.inf)], (levels[:-1] + levels[1:]) / 2, levels[-1:]])
    missed = np.searchsorted(bad, thresholds, side="right") / len(bad)
    alarms = 1 - np.searchsorted(good, thresholds, side="right") / len(good)
    cost = prior * rule.cost_miss * missed + (1 - prior) * rule.cost_false_alarm * alarms
    return float(thresholds[np.argmin(cost)])
