"""The drift alarm is false no more often than it says, and comes soon after a change."""

import numpy as np
import pytest
from crepes.martingales import EpsilonBettingFunction, SimpleJumper
from scipy.stats import binom

from bayes_pfl.decisions import martingale
from bayes_pfl.decisions.martingale import (
    STAKES,
    WAGERS,
    CompositeJumper,
    RankCounter,
    StreamWatch,
    gains_of_event,
    gains_of_p_value,
)


def squash(values):
    return 1 / (1 + np.exp(-np.asarray(values)))


def sequential_p_values(scores, ties, first):
    """(streams, images - first): p-values of each score among all before it; Fenwick trees of all streams at once."""
    streams, images = scores.shape
    ranks = np.argsort(np.argsort(scores, axis=1), axis=1) + 1
    sums, rows = np.zeros((streams, images + 1), np.int32), np.arange(streams)
    values = np.empty((streams, images - first))
    for at in range(images):
        if at >= first:
            below, node = np.zeros(streams, int), ranks[:, at] - 1
            while node.any():
                below += np.where(node > 0, sums[rows, node], 0)
                node = node & (node - 1)
            values[:, at - first] = (at - below + ties[:, at - first]) / (at + 1)
        node = ranks[:, at].copy()
        while (inside := node <= images).any():
            sums[rows[inside], node[inside]] += 1
            node = node + (node & -node)
    return values


def test_p_values_of_the_counter_are_those_of_brute_force():
    generator = np.random.default_rng(0)
    scores, ties = squash(generator.normal(size=300)), generator.random(300)
    counter, values = RankCounter(1.0, scores[:50].tolist()), []
    for score, tie in zip(scores[50:].tolist(), ties.tolist(), strict=False):
        values.append(counter.p_value(score, tie))
        counter.add(score)
    assert np.allclose(values, sequential_p_values(scores[None], ties[None], 50)[0])


def test_equal_scores_and_scores_beyond_the_range():
    counter = RankCounter(1.0, [0.5, 0.5, 0.2])
    assert counter.p_value(0.5, 0.5) == pytest.approx((0 + 0.5 * 3) / 4)
    assert counter.p_value(7.0, 0.5) == pytest.approx(0.5 / 4)
    assert counter.p_value(-1.0, 0.0) == pytest.approx(3 / 4)


@pytest.mark.parametrize("jump", [1e-3, 1e-2, 1e-1])
def test_a_jumper_is_that_of_another_library(monkeypatch, jump):
    p_values = np.random.default_rng(1).random(400) ** 1.3
    theirs = SimpleJumper(J=jump, bf=EpsilonBettingFunction(list(STAKES))).apply(p_values)
    monkeypatch.setattr(martingale, "JUMPS", np.array([jump]))
    ours, capital = CompositeJumper(len(STAKES)), []
    for p_value in p_values:
        ours.bet(gains_of_p_value(p_value))
        capital.append(np.exp(ours.log_capital))
    assert np.allclose(capital, theirs)


def test_bets_are_fair():
    grid = (np.arange(1000) + 0.5) / 1000
    assert np.allclose(gains_of_p_value(grid).mean(0), 1)
    usual = 0.2
    assert np.allclose(usual * gains_of_event(True, usual) + (1 - usual) * gains_of_event(False, usual), 1)
    assert (gains_of_event(False, usual) > 0).all()
    assert WAGERS[0] == STAKES[2] == 0  # some capital stays


def test_a_thousand_streams_of_ten_thousand_images():
    """At most 1 in 100 reaches a hundredfold capital although nothing changes."""
    generator = np.random.default_rng(2)
    streams, first, images = 1000, 50, 10_000
    scores, ties = generator.random((streams, first + images), np.float32), generator.random((streams, images))
    p_values, jumper, highest = (
        sequential_p_values(scores, ties, first),
        CompositeJumper(len(STAKES)),
        np.zeros(streams),
    )
    for at in range(images):
        jumper.bet(gains_of_p_value(p_values[:, at]))
        highest = np.maximum(highest, jumper.log_capital)
    assert (highest >= np.log(100)).sum() <= binom.ppf(0.9999, streams, 0.01)
    assert (highest >= np.log(5)).sum() <= binom.ppf(0.9999, streams, 0.2)
    assert (highest >= np.log(2)).sum() > 10  # it does bet


@pytest.mark.parametrize(("shift", "defects"), [(1.0, 0.0), (-1.0, 0.0), (1.0, 0.1), (6.0, 0.0)])
@pytest.mark.parametrize("before", [0, 1500])
def test_an_alarm_within_200_images_after_a_shift_of_one_standard_deviation(shift, defects, before):
    for seed in range(4):
        generator = np.random.default_rng(seed)
        watch = StreamWatch({"nut": (squash(generator.normal(size=100)).tolist(), 2)}, seed=seed)
        for at in range(before + 200):
            bad = generator.random() < defects
            watch.note("nut", float(squash(generator.normal() + (4 if bad else 0) + (shift if at >= before else 0))))
            if at == before - 1:
                assert watch.evidence < 1000
        assert watch.evidence >= 1000


def test_a_usual_share_of_defects_is_no_alarm():
    generator = np.random.default_rng(4)
    watch = StreamWatch({"nut": (squash(generator.normal(size=100)).tolist(), 2)}, usual_defects=0.2)
    for _ in range(3000):
        watch.note("nut", float(squash(generator.normal() + (5 if generator.random() < 0.1 else 0))))
    assert watch.evidence < 100
    assert watch.images == 3000


def test_classes_are_compared_with_their_own_images_and_others_are_not_watched():
    generator = np.random.default_rng(6)
    watch = StreamWatch(
        {
            "nut": (squash(generator.normal(size=60)).tolist(), 2),
            "cloth": (squash(generator.normal(3, 1, 60)).tolist(), 2),
        }
    )
    for _ in range(600):
        watch.note("nut", float(squash(generator.normal())))
        watch.note("cloth", float(squash(generator.normal(3, 1))))
        watch.note("leather", 1.0)
    assert watch.images == 1200
    assert watch.evidence < 100
    for _ in range(100):
        watch.note("cloth", float(squash(generator.normal())))
    assert watch.evidence >= 1000
