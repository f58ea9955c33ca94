"""Thresholds, p-values and verdicts hold what they promise, in simulation and against another library."""

import json
import math

import numpy as np
import pytest
from crepes.base import p_values_batch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import beta, binom, binomtest

from bayes_pfl.decisions.boundaries import Boundaries, cheapest_threshold
from bayes_pfl.decisions.calibration import (
    CALIBRATION,
    Calibration,
    CalibrationFile,
    ClassCalibration,
    read_calibration,
    with_classes,
    write_calibration,
)
from bayes_pfl.decisions.conformal import (
    RankedScores,
    allowed_rank,
    fewest_images,
    rank_beyond,
    rate_bound,
    select,
    tie_break,
)
from bayes_pfl.decisions.records import HowScored, ScoredImages
from bayes_pfl.decisions.rules import Rule
from bayes_pfl.decisions.statements import describe, promises
from bayes_pfl.errors import BundleError, ConfigError, DataError
from pipelines.calibration.text import calibration_text

HOW = HowScored(model_version="abc", settings_sha256="0" * 64, looked_at="whole images at 112 px", num_samples=10)
CALIBRATIONS = 2000


def images(scores, start=0, uncertainties=None, maxima=None):
    return ScoredImages(
        sha256=tuple(f"{start + at:064x}" for at in range(len(scores))),
        scores=tuple(float(score) for score in scores),
        map_maxima=tuple(float(value) for value in (scores if maxima is None else maxima)),
        uncertainties=None if uncertainties is None else tuple(float(value) for value in uncertainties),
    )


def at_most(hits, trials, rate):
    """Whether so many hits are believable (1 in 10,000) where each happens with at most this rate."""
    return hits <= binom.ppf(0.9999, trials, rate)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.lists(st.integers(0, 6), min_size=1, max_size=10),
)
def test_p_values_are_those_of_another_library(calibration, new):
    """Its p-values without smoothing count ties in full: ours with the highest tie-break of the calibration."""
    ranked = RankedScores(calibration, [0.5] * len(calibration))
    ours = [ranked.rank_from_above(score, 0.0) / (len(calibration) + 1) for score in new]
    assert np.allclose(ours, p_values_batch(np.array(calibration), np.array(new), smoothing=False))


def test_ranks_are_uniform_whatever_the_ties():
    generator, ranks = np.random.default_rng(0), []
    for trial in range(4000):
        scores = generator.integers(0, 3, 10).astype(float).tolist()
        ties = [tie_break(trial, f"{at}") for at in range(10)]
        ranks.append(RankedScores(scores[:9], ties[:9]).rank_from_above(scores[9], ties[9]))
    counts = np.bincount(ranks, minlength=11)[1:]
    assert ((counts - 400) ** 2 / 400).sum() < 27.9  # chi square of 9 degrees, 1 in 1,000


@pytest.mark.parametrize(("rate", "fewest"), [(0.01, 99), (0.05, 19), (0.1, 9), (0.5, 1), (1 / 3, 2), (0.9, 1)])
def test_the_fewest_images_are_enough_and_not_a_single_image_less(rate, fewest):
    assert fewest_images(rate) == fewest
    assert allowed_rank(fewest, rate) >= 1
    if fewest > 1:
        with pytest.raises(DataError, match=rf"needs at least {fewest} images, and there are {fewest - 1}"):
            allowed_rank(fewest - 1, rate)


@pytest.mark.parametrize(("count", "rate"), [(19, 0.05), (40, 0.05), (199, 0.01), (60, 0.1)])
def test_false_alarms_over_calibrations(count, rate):
    """Marginal rate, and the bound of each calibration: scores are uniform, so the true rate is 1 - threshold."""
    generator, alarms, held = np.random.default_rng([count, 1]), 0, 0
    rank = allowed_rank(count, rate)
    for _ in range(CALIBRATIONS):
        scores = generator.random(count)
        boundaries = Boundaries(images(scores), None, Rule(false_alarms=rate))
        alarms += boundaries.verdict(float(generator.random()), None, 0.5).label == "defective"
        held += 1 - boundaries.defective_above <= boundaries.false_alarm_bound
    assert at_most(alarms, CALIBRATIONS, rate)
    assert alarms >= binom.ppf(1e-4, CALIBRATIONS, rank / (count + 1))  # and not by refusing to alarm
    assert held >= binom.ppf(1e-4, CALIBRATIONS, 0.95)


def test_good_is_said_only_where_more_than_the_rate_of_good_images_score_as_high():
    generator, wrong = np.random.default_rng(3), 0
    for _ in range(CALIBRATIONS):
        boundaries = Boundaries(images(generator.random(80)), None, Rule(false_alarms=0.05))
        wrong += 1 - boundaries.good_up_to <= 0.05
        assert boundaries.good_up_to <= boundaries.defective_above
    assert at_most(wrong, CALIBRATIONS, 0.05)
    assert rank_beyond(80, 0.05, 0.95) == next(r for r in range(1, 81) if beta.cdf(0.05, r, 81 - r) <= 0.05)
    assert rank_beyond(3, 0.5, 0.95) == 4  # none is sure


def test_each_class_holds_its_own_rate():
    generator, alarms = np.random.default_rng(5), {"nut": 0, "cloth": 0}
    for _ in range(CALIBRATIONS):
        classes = [
            ClassCalibration(
                class_name=name,
                rule=Rule(false_alarms=0.05),
                normal=images(expit(generator.normal(at, 1 + at, 30)), at * 100),
            )
            for at, name in enumerate(alarms)
        ]
        calibration = Calibration(CalibrationFile(made="now", how=HOW, classes=tuple(classes)))
        for at, name in enumerate(alarms):
            verdict = calibration.verdict(name, float(expit(generator.normal(at, 1 + at))), None, "ff")
            alarms[name] += verdict.label == "defective"
    assert all(at_most(count, CALIBRATIONS, 0.05) for count in alarms.values())


def test_missed_defects_over_calibrations():
    generator, missed = np.random.default_rng(7), 0
    for _ in range(CALIBRATIONS):
        bad = images(generator.random(30), 1000)
        boundaries = Boundaries(images([0.1, 0.2]), bad, Rule(recall=0.9))
        missed += boundaries.verdict(float(generator.random()), None, 0.5).label == "good"
    assert at_most(missed, CALIBRATIONS, 0.1)


def test_regions_in_at_most_the_rate_of_good_images():
    generator, shown = np.random.default_rng(9), 0
    for _ in range(CALIBRATIONS):
        maxima = generator.random(40).astype(np.float32)
        boundaries = Boundaries(images(np.zeros(40), maxima=maxima), None, Rule(false_alarms=0.05))
        shown += np.float32(generator.random()) >= boundaries.region_from
    assert at_most(shown, CALIBRATIONS, 0.05)


def test_false_discoveries_over_batches():
    generator, shares = np.random.default_rng(11), []
    for _ in range(400):
        ranked = RankedScores(generator.normal(size=200).tolist(), [0.5] * 200)
        scores = np.concatenate([generator.normal(size=80), generator.normal(4, 1, 20)])
        chosen = np.array(select([ranked.rank_from_above(score, 0.5) / 201 for score in scores.tolist()], 0.1))
        shares.append(chosen[:80].sum() / max(1, chosen.sum()))
        assert chosen[80:].sum() > 5
    assert np.mean(shares) <= 0.08 + 4 * np.std(shares) / 20  # 0.1 times the share of good images


def test_selection_by_hand():
    assert select([0.01, 0.04, 0.03, 0.9], 0.1) == [True, True, True, False]
    assert select([0.2, 0.9], 0.1) == [False, False]
    assert select([], 0.1) == []


def test_two_rates_leave_what_holds_neither_unsure():
    good, bad = images(np.arange(100) / 100), images(0.505 + np.arange(100) / 100, 1000)
    boundaries = Boundaries(good, bad, Rule(false_alarms=0.05, recall=0.9))
    labels = {score: boundaries.verdict(score, None, 0.5).label for score in (0.3, 0.57, 0.7, 0.93, 0.97)}
    assert labels == {0.3: "good", 0.57: "good", 0.7: "unsure", 0.93: "unsure", 0.97: "defective"}
    assert "above 0.5" in boundaries.verdict(0.7, None, 0.5).unsure_because
    tally = boundaries.tally(bad)
    assert (tally.images, tally.called_defective) == (100, 55)
    assert tally.defective_share[0] < 0.55 < tally.defective_share[1]


def test_where_prompts_disagree_good_is_not_said_and_defective_stays():
    boundaries = Boundaries(
        images(np.arange(40) / 40, uncertainties=np.linspace(0.1, 0.2, 40)), None, Rule(false_alarms=0.05)
    )
    assert boundaries.verdict(0.2, 0.15, 0.5).label == "good"
    unsure = boundaries.verdict(0.2, 0.5, 0.5)
    assert unsure.label == "unsure"
    assert "the prompts disagree" in unsure.unsure_because
    assert boundaries.verdict(2.0, 0.5, 0.5).label == "defective"
    assert boundaries.verdict(0.2, None, 0.5).label == "good"


def test_costs_by_brute_force():
    generator = np.random.default_rng(1)
    good, bad = tuple(generator.normal(0, 1, 50)), tuple(generator.normal(1, 1, 30))
    for rule in (Rule(cost_miss=20, cost_false_alarm=1), Rule(cost_miss=1, cost_false_alarm=3, defect_rate=0.01)):
        prior = rule.defect_rate or 30 / 80

        def cost(level, prior=prior, rule=rule):
            missed, alarms = np.mean(np.array(bad) <= level), np.mean(np.array(good) > level)
            return prior * rule.cost_miss * missed + (1 - prior) * rule.cost_false_alarm * alarms

        best = min(cost(level) for level in (-9.0, *good, *bad))
        assert math.isclose(cost(cheapest_threshold(good, bad, rule)), best, abs_tol=1e-12)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "give false_alarms, recall or both"),
        ({"cost_miss": 2}, "belong together"),
        ({"cost_miss": 2, "cost_false_alarm": 1, "recall": 0.9}, "give false_alarms, recall or both"),
        ({"false_alarms": 0.1, "defect_rate": 0.1}, "defect_rate is of costs"),
        ({"false_alarms": 0}, "greater than 0"),
        ({"false_alarms": 1}, "less than 1"),
        ({"false_alarms": 0.1, "confidence": 1}, "less than 1"),
    ],
)
def test_rules_that_make_no_sense(values, words):
    with pytest.raises(ValueError, match=words):
        Rule(**values)


def test_recall_and_costs_need_defects():
    for rule in (Rule(recall=0.9), Rule(cost_miss=2, cost_false_alarm=1)):
        with pytest.raises(DataError, match="--anomalous"):
            Boundaries(images([0.1, 0.2]), None, rule)


def test_bounds_are_exact():
    """P(at most j - 1 of n uniform scores beyond the bound) = 1 - confidence."""
    bound = rate_bound(3, 100, 0.95)
    assert math.isclose(binom.cdf(2, 100, bound), 0.05, rel_tol=1e-9)


def record(**others):
    classes = (
        ClassCalibration(class_name="Metal nut", rule=Rule(false_alarms=0.1), normal=images(np.arange(20) / 20)),
        ClassCalibration(class_name="cloth", rule=Rule(false_alarms=0.1), normal=images(np.arange(20) / 40, 100)),
    )
    return CalibrationFile(made="2026-11-27T00:00:00+00:00", how=HOW, classes=classes).model_copy(update=others)


def test_written_and_read_a_calibration_decides_alike(tmp_path):
    write_calibration(tmp_path, record())
    first, second = Calibration(record()), read_calibration(tmp_path)
    assert first.version == second.version
    for name in (" metal  NUT", "cloth", "leather"):
        for score in (0.2, 0.45, 0.9, 0.97):
            assert first.verdict(name, score, None, "ab") == second.verdict(name, score, None, "ab")
    assert [path.name for path in tmp_path.iterdir()] == [CALIBRATION]
    assert read_calibration(tmp_path / "elsewhere") is None


def test_an_unknown_name_takes_all_classes_together_and_none_where_there_is_one():
    both = Calibration(record())
    assert both.is_pooled("leather")
    assert not both.is_pooled("cloth")
    assert both.verdict("leather", 0.48, None, "ab").label == "good"
    assert both.verdict("cloth", 0.48, None, "ab").label == "defective"
    only = Calibration(record(classes=record().classes[:1]))
    assert only.verdict("leather", 0.99, None, "ab").label is None
    assert 'for "Metal nut", not for "leather"' in only.verdict("leather", 0.99, None, "ab").no_label_because


def test_what_was_scored_otherwise_is_told_apart():
    calibration = Calibration(record())
    assert calibration.differences(HOW) is None
    other = HOW.model_copy(update={"num_samples": 5, "precision": "bfloat16"})
    assert calibration.differences(other) == (
        "the calibration does not apply: it was made with num_samples 10, not 5, precision float32, not bfloat16"
    )


def test_a_class_is_added_and_never_replaced():
    first = record(classes=record().classes[:1])
    both = with_classes(first, record().classes[1:])
    assert [each.class_name for each in both.classes] == ["Metal nut", "cloth"]
    assert with_classes(both, record().classes) == both
    other = record().classes[0].model_copy(update={"rule": Rule(false_alarms=0.2)})
    with pytest.raises(ConfigError, match="choose another --output"):
        with_classes(both, [other])


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"[]",
        b"{" * 100_000,
        b'{"format": 2}',
        b'{"format": true}',
        b'{"format": 1, "classes": []}',
        b"\xff\xfe",
    ],
)
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path, damage):
    (tmp_path / CALIBRATION).write_bytes(damage)
    with pytest.raises(BundleError, match="make it again"):
        read_calibration(tmp_path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("classes", 0, "normal", "scores", 0), float("nan")),
        (("classes", 0, "normal", "scores", 0), "0.5; drop"),
        (("classes", 0, "normal", "sha256", 0), "1" * 63),
        (("classes", 0, "normal", "sha256", 0), f"{1:064x}"),
        (("classes", 0, "normal", "scores"), [0.5]),
        (("classes", 0, "rule", "false_alarms"), 0.001),
        (("how", "num_samples"), 0),
        (("classes", 0, "class_name"), "CLOTH "),
        (("classes", 0, "class_name"), "   "),
        (("classes", 0, "normal", "scores", 0), -0.5),
        (("classes", 0, "normal", "map_maxima", 0), 1e308),
    ],
)
def test_a_changed_value_is_refused(tmp_path, path, value):
    values = json.loads(record().model_dump_json())
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (tmp_path / CALIBRATION).write_text(json.dumps(values))
    with pytest.raises(BundleError, match=r"calibration.json is damaged|calibration is damaged"):
        read_calibration(tmp_path)


def test_a_folder_or_a_dangling_link_is_no_missing_calibration(tmp_path):
    (tmp_path / CALIBRATION).symlink_to(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="is no file"):
        read_calibration(tmp_path)


def test_names_that_are_read_alike_are_one():
    calibration = Calibration(
        record(classes=(record().classes[0].model_copy(update={"class_name": "caf\u00e9 & bar"}),))
    )
    for name in ("cafe\u0301 &amp; bar", " CAF\u00c9  & bar"):
        assert calibration.verdict(name, 0.5, None, "ab").label is not None


def test_a_rate_near_one_and_bounds_that_are_rounded_up():
    boundaries = Boundaries(images([0.1, 0.2, 0.3]), None, Rule(false_alarms=0.99999999999))
    assert boundaries.verdict(0.15, None, 0.5).label == "defective"
    sentence = promises(Boundaries(images(np.arange(40) / 40), None, Rule(false_alarms=0.05)))[0]
    assert "at most 11.4 of 100" in sentence  # 11.32


def test_defective_images_that_are_called_good_have_an_interval():
    good, bad = images(np.arange(40) / 100), images(np.arange(20) / 50, 100)
    by_good = Boundaries(good, bad, Rule(false_alarms=0.05)).tally(bad)
    assert by_good.called_good == by_good.images - by_good.called_defective - by_good.unsure > 0
    exact = binomtest(by_good.called_good, 20).proportion_ci(0.95, method="exact")
    assert by_good.good_share == (exact.low, exact.high)
    half = math.sqrt(math.log(2 / 0.05) / 40)  # the same images chose the threshold: for every threshold at once
    by_bad = Boundaries(good, bad, Rule(false_alarms=0.05, recall=0.9)).tally(bad)
    assert by_bad.good_share[1] == pytest.approx(by_bad.called_good / 20 + half)
    assert by_bad.called_good <= 2


@pytest.mark.parametrize("distance", [0, 0.5])
def test_a_threshold_that_leaves_most_good_images_unsure_says_so(distance):
    good, bad = np.arange(40) / 100, np.arange(40) / 100 + distance
    rule = Rule(false_alarms=0.05, recall=0.9)
    gear = ClassCalibration(class_name="gear", rule=rule, normal=images(good), anomalous=images(bad, 100))
    calibration = Calibration(record(classes=(gear,)))
    text = calibration_text(calibration, {**describe(calibration), "output": "models/gear"}, "")
    assert ("A lower --recall leaves fewer unsure" in text) == (distance == 0)
    unsure = calibration.of("gear").tally(images(good)).unsure
    assert (f"almost nothing: {100 * unsure / 40:.0f} of 100 good images are unsure" in text) == (distance == 0)
