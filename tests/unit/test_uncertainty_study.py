"""The figures of `reproduce uncertainty` on scores whose answer is known."""

import json

import numpy as np
import pytest
from scipy.stats import norm

from bayes_pfl.decisions.conformal import allowed_rank
from bayes_pfl.decisions.records import ScoredImages
from pipelines.study.uncertainty.abstention import BOTH, DISTANCE, SPREAD, abstention, verdicts_of
from pipelines.study.uncertainty.groups import ScoredGroup, chosen, estimates, halves, pools, resampled_positions
from pipelines.study.uncertainty.probabilities import probabilities
from pipelines.study.uncertainty.promises import elsewhere, promises
from pipelines.study.uncertainty.report import PARTS, markdown, printed, write_study
from pipelines.study.uncertainty.study import UncertaintySettings, measured


def images(scores, start, spread=None):
    return ScoredImages(
        sha256=tuple(f"{start + at:064x}" for at in range(len(scores))),
        scores=tuple(map(float, scores)),
        map_maxima=tuple(map(float, scores)),
        uncertainties=None if spread is None else tuple(map(float, spread)),
    )


def group(name="set/part", normal=60, anomalous=40, shift=1.5, seed=0, spread=True, relit=None, start=0):
    """Probabilities of normal values; those of defective images are shifted."""
    random = np.random.default_rng(seed)
    good, bad = norm.cdf(random.normal(size=normal)), norm.cdf(random.normal(shift, size=anomalous))
    spreads = [random.random(count) if spread else None for count in (normal, anomalous)]
    return ScoredGroup(
        name,
        name.split("/")[0],
        images(good, start, spreads[0]),
        images(bad, start + 10**6, spreads[1]) if anomalous else None,
        None if relit is None else images(norm.cdf(norm.ppf(good) + relit), start, spreads[0]),
    )


def test_verdicts_are_those_of_the_threshold_of_the_other_half():
    part = group()
    verdicts = verdicts_of(part, 0.1, seed=3, split=2, stratum=0)
    calibration, rest = halves(60, 3, 2)
    scores = np.array(part.normal.scores)
    threshold = np.sort(scores[calibration])[-allowed_rank(30, 0.1)]
    tested = np.concatenate([scores[rest], part.anomalous.scores])
    labels = np.repeat([0, 1], [30, 40])
    assert verdicts.wrong.tolist() == ((tested > threshold) != labels).astype(int).tolist()
    assert verdicts.confidence[DISTANCE] == pytest.approx(np.abs(tested - threshold))
    spreads = np.array(part.normal.uncertainties)[rest].tolist() + list(part.anomalous.uncertainties)
    assert verdicts.confidence[SPREAD].tolist() == [-value for value in spreads]
    assert set(verdicts.strata) == {0, 1}
    assert verdicts.called_good.tolist() == (tested <= threshold).tolist()
    assert sorted([*calibration, *rest]) == list(range(60))


def test_a_spread_that_knows_the_errors_is_the_oracle_and_one_that_knows_nothing_is_chance():
    part = group(normal=200, anomalous=100)
    wrong = np.array([*(value > 0.9 for value in part.normal.scores), *(v <= 0.9 for v in part.anomalous.scores)])
    telling = part._replace(
        normal=images(part.normal.scores, 0, wrong[:200]), anomalous=images(part.anomalous.scores, 10**6, wrong[200:])
    )
    (blind,), _ = abstention([part], 0.1, 20, 0)
    (seeing,), _ = abstention([telling], 0.1, 20, 0)
    low, high = (blind["figures"][f"{SPREAD} - random"][key] for key in ("low", "high"))
    assert low < 0 < high
    assert seeing["figures"][f"{SPREAD} - random"]["high"] < 0
    assert seeing["figures"][SPREAD]["value"] < blind["figures"]["oracle"]["value"] + 0.05
    assert blind["figures"][f"{SPREAD}: right told from wrong"]["value"] == pytest.approx(0.5, abs=0.1)
    assert blind["figures"][f"{SPREAD}: the same of those called good"]["value"] == pytest.approx(0.5, abs=0.1)
    assert seeing["figures"][f"{SPREAD}: the same of those called good"]["value"] > 0.9
    assert blind["curves"]["oracle"][0] == 0
    assert blind["curves"][DISTANCE][-1] == pytest.approx(blind["figures"]["error rate"]["value"])


def test_without_a_distribution_there_is_no_spread_and_what_is_too_small_is_named():
    rows, left_out = abstention([group(spread=False), group("set/few", normal=10), group("set/good", 60, 0)], 0.1, 3, 0)
    assert [row["group"] for row in rows] == ["set/part"]
    assert set(rows[0]["curves"]) == {DISTANCE, "oracle"}
    assert not any(SPREAD in name or BOTH in name for name in rows[0]["figures"])
    assert [sentence.split(":")[0] for sentence in left_out] == ["set/few", "set/good"]


def test_false_alarms_of_exchangeable_images_are_as_expected():
    part = group(normal=100, anomalous=5, relit=1.0)
    rows, left_out = promises([part], (0.01, 0.05, 0.1), 200, 0)
    assert left_out == ["set/part: no rate of 0.01: 100 normal images of 198."]
    for row in rows:
        assert row["expected"] == pytest.approx(np.floor(row["promised"] * 51 + 1e-9) / 51)
        assert row["false alarms"] == pytest.approx(row["expected"], abs=0.01)
        assert row["within bound"] == pytest.approx(row["expected within bound"], abs=0.06)
        assert row["lowest"] <= row["false alarms"] <= row["highest"]
        assert row["false alarms, other light"] > 2 * row["promised"]
        assert 0 < row["prompts disagree, good"] <= row["unsure, good"]
        assert row["recall"] + row["missed"] + row["unsure, defective"] == pytest.approx(1)


def test_the_threshold_of_others_is_off_where_their_scores_are_others():
    high = group("set/high", start=2 * 10**6)
    high = high._replace(normal=images(np.array(high.normal.scores) / 10 + 0.9, 2 * 10**6))
    rows = elsewhere([group(), high], (0.1,), 0)
    assert [row["group"] for row in rows] == ["set/part", "set/high"]
    assert rows[0]["false alarms"] == 0
    assert rows[1]["false alarms"] > 0.5
    assert rows[1]["low"] < rows[1]["false alarms"] <= rows[1]["high"]
    assert elsewhere([group()], (0.1,), 0) == []


def test_probabilities_that_are_right_are_at_their_floor_and_scaling_mends_others():
    random = np.random.default_rng(5)
    truth = random.random(4000)
    labels = random.random(4000) < truth
    sharp = 1 / (1 + ((1 - truth) / truth) ** 3)  # logits times 3

    def rows(scores):
        part = ScoredGroup("p", "p", images(scores[~labels], 0), images(scores[labels], 10**6), None)
        return {row["scaling"]: row for row in probabilities([part], 8, 0)[0]}

    right, wrong = rows(truth), rows(sharp)
    figure, floor = (right["as it is"]["figures"][f"{name}, equal width"]["value"] for name in ("ECE", "floor"))
    assert figure == pytest.approx(floor, abs=0.01)
    assert wrong["as it is"]["figures"]["ECE, equal width"]["value"] > 0.1
    assert wrong["temperature"]["temperature"] == pytest.approx(3, rel=0.05)
    assert wrong["temperature"]["figures"]["ECE, equal mass"]["value"] < 0.04
    assert wrong["temperature"]["figures"]["Brier score"]["value"] < wrong["as it is"]["figures"]["Brier score"]["low"]


def test_intervals_are_of_deviations():
    rows = [{"figure": value, "none": float("nan")} for value in (1.0, 3.0)]
    drawn = [{"figure": value, "none": float("nan")} for value in (10.0, 12.0)]
    assert estimates(rows, drawn) == {"figure": {"value": 2.0, "low": pytest.approx(1.05), "high": pytest.approx(2.95)}}


def test_images_are_resampled_among_their_own():
    strata = np.array([1, 0, 1, 2, 0, 1])
    for seed in range(20):
        drawn = resampled_positions(strata, np.random.default_rng(seed))
        assert sorted(strata[drawn]) == sorted(strata)


def test_a_pool_has_all_images_in_the_same_order():
    first, second = group("set/a", relit=0.1), group("set/b", seed=1, relit=0.1, start=5000)
    (pool,) = pools([first, second, group("alone", start=9000)])
    assert pool.name == "set, pooled"
    assert pool.normal.scores == first.normal.scores + second.normal.scores
    assert pool.relit.sha256 == pool.normal.sha256
    assert chosen(pool.normal, [60]).scores == second.normal.scores[:1]
    assert pools([first, group("set/b", seed=1, start=5000)])[0].relit is None


def test_tables_picture_and_files_say_the_same(tmp_path):
    settings = UncertaintySettings(rates=(0.1,), splits=4)
    groups = [group("set/a", relit=0.5), group("set/b", seed=1, relit=0.5, start=5000), group("other", start=9000)]
    counts = {"set": {"normal": 120}, "other": {"normal": 60}}
    result = {
        "model": {"source": "m", "version": "v"},
        "settings": settings.model_dump(mode="json"),
        "datasets": counts,
    }
    result |= measured(settings, groups)
    write_study(tmp_path, result)
    written = json.loads((tmp_path / "uncertainty.json").read_text())
    assert {key: value for key, value in result.items() if key != "output"} == json.loads(json.dumps(written))
    row = next(row for row in result["abstention"] if row["group"] == "set, pooled")
    cell = "{value:.3f} [{low:.3f}, {high:.3f}]".format(**row["figures"][SPREAD])
    assert cell in printed(result)
    assert cell in markdown(result) == (tmp_path / "uncertainty.md").read_text()
    for part in PARTS:
        lines = (tmp_path / f"{part}.csv").read_text().splitlines()
        assert len(lines) == 1 + len(result[part])
    picture = (tmp_path / "uncertainty.svg").read_text()
    assert "<svg" in picture
    write_study(tmp_path, result)
    assert (tmp_path / "uncertainty.svg").read_text() == picture
