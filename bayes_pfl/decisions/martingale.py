"""A stream of scores, calibration scores -> evidence that the stream is not like the calibration, valid at any time.

If the calibration images and all images of the stream are exchangeable, the p-value of each against all before it is
uniform and independent of the earlier ones. Capital that bets against that is a martingale which starts at 1, so that
it ever reaches N with probability at most 1 / N (Ville 1939; Vovk: Testing randomness online, 2021). An alarm at N is
false in at most one of N endpoints, over their whole lives.
"""

import math
from array import array
from collections.abc import Mapping, Sequence

import numpy as np

BINS = 2**18
"""Scores are compared in steps of 4e-6 of their range; equal ones are ordered at random: p-values stay uniform."""
STAKES = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
"""epsilon of the bets 1 + epsilon (p - 1/2): negative ones win when scores rise."""
JUMPS = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
"""Shares of the capital that are spread over all stakes again before each image."""
WAGERS = np.array([0.0, 0.1, 0.3, 0.6, 0.9])
"""Shares w of the capital that are put on the next image being beyond the threshold."""


class RankCounter:
    """How many earlier scores are below a new one, in logarithmic time and bounded memory (Fenwick 1994).

    Args:
        highest: largest score; larger ones count as it, negative ones as 0.
        scores: earlier ones.
    """

    def __init__(self, highest: float, scores: Sequence[float] = ()) -> None:
        self._scale = (BINS - 1) / highest
        self._at = array("i", [0]) * BINS
        self._sums = array("i", [0]) * (BINS + 1)
        self.count = 0
        for score in scores:
            self.add(score)

    def add(self, score: float) -> None:
        """Count a score.

        Args:
            score: finite.
        """
        at = self._bin(score)
        self._at[at] += 1
        self.count += 1
        node = at + 1
        while node <= BINS:
            self._sums[node] += 1
            node += node & -node

    def p_value(self, score: float, tie: float) -> float:
        """(#{earlier > s} + u (1 + #{earlier = s})) / (earlier + 1): uniform on [0, 1] if all are exchangeable.

        Args:
            score: a new one, not counted yet.
            tie: u, uniform on [0, 1).

        Returns:
            The p-value.
        """
        at = self._bin(score)
        below, node = 0, at
        while node:
            below += self._sums[node]
            node -= node & -node
        equal = self._at[at]
        return (self.count - below - equal + tie * (1 + equal)) / (self.count + 1)

    def _bin(self, score: float) -> int:
        return min(max(int(score * self._scale), 0), BINS - 1)


class CompositeJumper:
    """Capital that is spread over several stakes and moves to those that win, also after a change.

    The mean over `JUMPS` of simple jumpers (Vovk, Petej, Nouretdinov, Ahlberg, Carlsson, Gammerman: Retrain or not
    retrain: conformal test martingales for change-point detection, 2021).

    Args:
        stakes: their number.
    """

    def __init__(self, stakes: int) -> None:
        self._shares: np.ndarray = np.full((len(JUMPS), stakes), 1 / stakes)
        self._logs: np.ndarray = np.zeros(len(JUMPS))

    def bet(self, gains: np.ndarray) -> None:
        """Take what each stake multiplies its capital by.

        Args:
            gains: (stakes,), or (streams, stakes), each stream with a capital of its own.
        """
        spread = JUMPS[:, None] / self._shares.shape[-1]
        won = (self._shares * (1 - JUMPS[:, None]) + spread) * gains[..., None, :]
        total = won.sum(-1)
        self._shares, self._logs = won / total[..., None], self._logs + np.log(total)

    @property
    def log_capital(self) -> np.ndarray:
        """Logarithm of the capital, of each stream."""
        return np.asarray(np.logaddexp.reduce(self._logs, axis=-1) - math.log(len(JUMPS)))


def gains_of_p_value(p_value: float | np.ndarray) -> np.ndarray:
    """1 + epsilon (p - 1/2) for the `STAKES`: 1 on average where p is uniform.

    Args:
        p_value: in [0, 1]; or (streams,).

    Returns:
        (stakes,), or (streams, stakes).
    """
    return np.asarray(1 + STAKES * (np.asarray(p_value)[..., None] - 0.5))


def gains_of_event(happened: bool, usual: float) -> np.ndarray:
    """1 - w + w x / q for the `WAGERS`, x = 1 for an event: at most 1 on average where P(x = 1) <= q.

    Betting on a bounded mean (Waudby-Smith, Ramdas: Estimating means of bounded random variables by betting, 2024).

    Args:
        happened: x.
        usual: q, in (0, 1).

    Returns:
        (stakes,).
    """
    return np.asarray(1 - WAGERS + WAGERS * happened / usual)


class StreamWatch:
    """Whether a stream of images is still like the calibration images, class by class.

    Half of the capital bets that images which are not called defective score otherwise than the good images of the
    calibration which are not: for independent images that holds whatever the threshold, and defects that are found do
    not disturb it. The other half bets that a larger share than usual is beyond the threshold.

    Args:
        calibrated: by class, scores of the calibration's good images, and the rank that counts as defective.
        usual_defects: largest usual share of images beyond it.
        highest: largest score that the model can give.
        seed: of the tie-breaks.
    """

    def __init__(
        self,
        calibrated: Mapping[str, tuple[Sequence[float], int]],
        usual_defects: float = 0.2,
        highest: float = 1.0,
        seed: int = 0,
    ) -> None:
        self._edges = {name: sorted(scores)[-rank] for name, (scores, rank) in calibrated.items()}
        self._counters = {
            name: RankCounter(highest, sorted(scores)[:-rank]) for name, (scores, rank) in calibrated.items()
        }
        self._usual = usual_defects
        self._scores, self._shares = CompositeJumper(len(STAKES)), CompositeJumper(len(WAGERS))
        self._random = np.random.default_rng(seed)
        self.images = 0
        self._highest_log = 0.0

    def note(self, name: str, score: float) -> None:
        """Take the next image of the stream.

        Args:
            name: of its class; images of other classes are not watched.
            score: its image score.
        """
        counter = self._counters.get(name)
        if counter is None:
            return
        beyond = score > self._edges[name]
        self._shares.bet(gains_of_event(beyond, self._usual))
        if not beyond:
            self._scores.bet(gains_of_p_value(counter.p_value(score, float(self._random.random()))))
            counter.add(score)
        self.images += 1
        capital = float(np.logaddexp(self._scores.log_capital, self._shares.log_capital)) - math.log(2)
        self._highest_log = max(self._highest_log, capital)

    @property
    def evidence(self) -> float:
        """Highest capital so far: it reaches N in at most one of N streams without a change."""
        return math.exp(min(self._highest_log, 700.0))
