"""The released codes' image scores against their own sentences; maps are those of ever."""

import numpy as np
import pytest
import torch
from plain import plain_shards
from small import random_bundle

from bayes_pfl.config import ScoringConfig
from bayes_pfl.data.preprocess import MAX_PIXELS
from bayes_pfl.data.samples import index_shards
from bayes_pfl.errors import ConfigError
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.inference.prediction import Prediction
from bayes_pfl.inference.view import WHOLE, View
from bayes_pfl.methods.maps import smooth
from pipelines.evaluate import EvaluateSettings, _task
from pipelines.scoring.evaluation import ShardImages
from pipelines.scoring.protocol import check_protocol, map_part, released_scores
from pipelines.scoring.stages import Predictor, score_piece


def scaled(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / (values.max() - values.min())


def test_parts_are_scaled_over_a_category() -> None:
    random = np.random.default_rng(0)
    text, maps = random.random(8), random.random(8)
    scores, groups = 0.5 * text + 0.5 * maps, ["a/x"] * 5 + ["a/y"] * 3
    scores[1] = np.nan
    x, y = np.array([0, 2, 3, 4]), np.array([5, 6, 7])
    for method, weight in (("bayes_pfl", 0.5), ("clip_ad", 1.0)):
        found = released_scores(method, scores, text, maps, groups)
        for rows in (x, y):
            np.testing.assert_allclose(found[rows], weight * (scaled(text[rows]) + scaled(maps[rows])))
        assert np.isnan(found[1])
    assert released_scores("winclip", scores, text, maps, groups) is scores
    same = released_scores("clip_ad", np.zeros(2), np.full(2, 0.3), np.array([0.1, 0.2]), ["a/x"] * 2)
    assert same.tolist() == [0.0, 1.0]


def test_the_map_s_part_is_taken_where_the_released_code_takes_it() -> None:
    raw = np.random.default_rng(1).random((30, 30)).astype(np.float32)
    prediction, scoring = Prediction(0.5, 0.1, raw, raw, 0.4, 0.6, 1), ScoringConfig(smoothing_sigma_px=2)
    expected = smooth(torch.from_numpy(raw), 2).numpy()
    for method, part in (("bayes_pfl", np.sort(raw.ravel())[-7:].mean()), ("clip_ad", expected.max())):
        final, found = map_part(method, prediction, scoring, 7)
        assert found == pytest.approx(part)
        np.testing.assert_array_equal(final.anomaly_map, expected)
    assert map_part("bayes_pfl", prediction, scoring, 10**6)[1] == pytest.approx(raw.mean())


def test_pixels_are_measured_as_ever(tmp_path) -> None:
    shards = plain_shards(tmp_path, ("carpet",), seed=5)
    bundle, refs = load_bundle(random_bundle(tmp_path / "bundle")), index_shards(shards)
    columns = {name: [[getattr(ref, name) for ref in refs]] for name in ("row", "sha256", "class_name", "label")}
    rows = {"positions": [range(len(refs))], "shards": [[ref.shard for ref in refs]], "rows": columns["row"]}
    rows |= {"sha256": columns["sha256"], "class_names": columns["class_name"], "labels": columns["label"]}
    results = []
    for protocol in ("image", "released"):
        task = _task(EvaluateSettings(protocol=protocol, top_pixels=400, num_samples=1), bundle, WHOLE, "cpu")
        task = task._replace(max_pixels=MAX_PIXELS)
        results.append(score_piece(ShardImages(task), Predictor(task), rows))
    alone, released = results
    for name in ("scores", "text_scores", "histogram_bin", "histogram_normal", "histogram_anomalous"):
        np.testing.assert_array_equal(alone[name], released[name])
    assert (released["map_parts"] < alone["map_parts"]).all()  # a mean of the largest values, not the largest


def test_the_released_protocol_is_of_whole_images() -> None:
    check_protocol("image", View(0.5))
    check_protocol("released", WHOLE)
    with pytest.raises(ConfigError, match="of whole images"):
        check_protocol("released", View(0.5))
