"""What a sweep says of its best combination: intervals over resampled validation images, and over seeds."""

import json

import numpy as np
import pytest

from bayes_pfl.data.samples import SampleRef
from bayes_pfl.metrics import pixel_metrics
from pipelines.sweep.certainty import LOWER_BY, combination_rows, combinations, judged, statements
from pipelines.sweep.resampled import RESAMPLES, ResampledPixels
from pipelines.sweep.results import keep_earlier, printable
from pipelines.training.loop import SELECTION


def ref(number: int, label: int, category: str = "plate") -> SampleRef:
    fields = dict.fromkeys(SampleRef._fields, "") | {"row": number, "label": label, "category": category}
    return SampleRef(**(fields | {"sha256": f"{number:064x}"}))


def predictions(seed: int, count: int, gain: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Maps and masks: half of the images have a defect that is brighter by `gain`."""
    random = np.random.default_rng(seed)
    pairs = []
    for number in range(count):
        mask = np.zeros((24, 24))
        mask[4:9, 4:12] = number % 2
        pairs.append((np.clip(random.uniform(0.2, 0.5, mask.shape) + gain * mask, 0, 1), mask))
    return pairs


def resampled(pairs) -> np.ndarray:
    refs = [ref(number, number % 2) for number in range(len(pairs))]
    pixels = ResampledPixels(refs)
    for position, (anomaly_map, mask) in enumerate(pairs):
        pixels.add(5, position, anomaly_map, mask)
    return pixels.pixel_ap()[5]


def test_the_first_figure_is_that_of_the_images_and_the_others_scatter_around_it():
    pairs = predictions(1, 12, 0.1)
    figures = resampled(pairs)
    exact = pixel_metrics([anomaly_map for anomaly_map, _ in pairs], [mask for _, mask in pairs]).values["pixel_ap"]
    assert figures.shape == (1 + RESAMPLES,)
    assert figures[0] == pytest.approx(exact, abs=2e-3)
    assert 0 < figures[1:].std() < 0.1
    assert abs(figures[1:].mean() - exact) < 0.05


def test_one_image_of_a_kind_in_each_category_varies_too():
    """Drawn within its category each of them would be drawn always, and any difference would look certain."""
    pixels = ResampledPixels([ref(number, number % 2, f"category {number // 2}") for number in range(16)])
    for position in range(16):
        anomaly_map, mask = predictions(position, 2, 0.02 * position)[position % 2]
        pixels.add(5, position, anomaly_map, mask)
    figures = pixels.pixel_ap()[5]
    assert np.isfinite(figures).all()
    assert figures[1:].std() > 0.03
    assert abs(figures[1:].mean() - figures[0]) < 0.03


def row(banks: int, figure: float, **more) -> dict:
    name = f"trials/{banks}-{more.get('training.seed', 0)}/bundle"
    return {"model.num_prompts": banks, "num_samples": 5, SELECTION: figure, "bundle": name, **more}


def test_a_clear_winner_is_told_apart_and_a_near_one_is_not():
    drawn = [resampled(predictions(2, 20, gain)) for gain in (0.25, 0.248, 0.05)]
    rows = [row(banks, float(each[0])) for banks, each in zip((1, 3, 5), drawn, strict=True)]
    figures = {entry["bundle"]: {"5": each.tolist()} for entry, each in zip(rows, drawn, strict=True)}
    ranked = combinations(rows[::-1], figures)
    certainty = judged(ranked, ["model.num_prompts", "num_samples"], None)
    assert certainty["name"] == f"B = {ranked[0].rows[0]['model.num_prompts']} (num_prompts), R = 5 (num_samples)"
    low, high = certainty["interval"]
    assert low < ranked[0].figure < high
    assert ranked[2].rows[0]["model.num_prompts"] == 5
    clear = judged([ranked[0], ranked[2]], ["num_samples"], None)
    assert (clear["runner_up"]["differs"], clear["not_told_apart"]) == (True, 0)
    same = judged([ranked[0], ranked[0]], ["num_samples"], None)
    assert (same["runner_up"]["differs"], same["not_told_apart"]) == (False, 1)
    said = " ".join(statements(clear, ranked[0].figure, 20, 10))
    assert "on 20 validation images (10 anomalous), 1 training of each combination" in said
    assert "R = 5 (num_samples), is lower:" in said
    assert "0 of the 1 other combinations cannot be told" in said


def test_the_cheapest_that_cannot_be_told_from_the_best_is_named():
    drawn = {3: [0.50, 0.48, 0.52, 0.50], 1: [0.49, 0.51, 0.47, 0.49], 2: [0.2, 0.2, 0.2, 0.2]}
    figures = {f"trials/{banks}-0/bundle": {"5": values} for banks, values in drawn.items()}
    ranked = combinations([row(banks, values[0]) for banks, values in drawn.items()], figures)
    certainty = judged(ranked, ["model.num_prompts"], None)
    assert (certainty["name"], certainty["not_told_apart"]) == ("B = 3 (num_prompts)", 1)
    assert certainty["cheapest"]["row"]["bundle"] == "trials/1-0/bundle"
    assert "is B = 1 (num_prompts)." in statements(certainty, 0.5, 20, 10)[-1]
    assert judged(ranked[1:], ["model.num_prompts"], None)["cheapest"] is None  # the best itself


def test_seeds_of_one_combination_are_one_row_with_their_spread():
    rows = [
        row(banks, figure, **{"training.seed": seed})
        for banks, figures in ((1, (0.5, 0.3)), (3, (0.45, 0.43)))
        for seed, figure in enumerate(figures)
    ]
    best, other = combinations(rows[::-1], {})
    assert [entry["training.seed"] for entry in best.rows] == [0, 1]
    assert (best.rows[0]["model.num_prompts"], best.figure) == (3, pytest.approx(0.44))  # not the one lucky seed of 0.5
    assert best.spread == pytest.approx(0.02 / np.sqrt(2))
    assert other.figure == pytest.approx(0.4)
    certainty = judged([best, other], ["model.num_prompts", "num_samples"], None)
    assert certainty["trainings"] == 2
    assert certainty["interval"] is None
    assert "earlier version" in " ".join(statements(certainty, best.figure, 9, 4))


def test_a_combination_with_fewer_seeds_is_not_compared_with_the_others():
    whole = [row(1, figure, **{"training.seed": seed}) for seed, figure in enumerate((0.40, 0.42, 0.41))]
    lucky = row(3, 0.60, **{"training.seed": 0})
    figures = {entry["bundle"]: {"5": [entry[SELECTION]] * 4} for entry in (*whole, lucky)}
    ranked = combinations([lucky, *whole, row(5, float("nan"))], figures)
    assert [each.rows[0]["model.num_prompts"] for each in ranked] == [1, 3, 5]
    certainty = judged(ranked, ["model.num_prompts"], None)
    assert (certainty["trainings"], certainty["runner_up"], certainty["cheapest"]) == (3, None, None)
    printed = " ".join(statements(certainty, ranked[0].figure, 20, 10))
    assert "the mean of 3 seeds" in printed
    assert "1 of the combinations have no figure" in printed
    assert "1 of the combinations have fewer than 3 seeds" in printed
    assert "vary training.seed" not in printed


def test_without_any_figure_nothing_is_best():
    certainty = judged(combinations([row(1, float("nan"))], {}), ["num_samples"], None)
    assert statements(certainty, float("nan"), 9, 2) == [
        "No combination has a validation pixel AP: it is undefined on these images."
    ]


def test_combinations_as_rows_have_their_distance_from_the_best():
    rows = [row(banks, figure, seconds_per_image=0.1) for banks, figure in ((1, 0.5), (3, 0.4))]
    figures = {entry["bundle"]: {"5": [entry[SELECTION] + step / 100 for step in range(-3, 4)]} for entry in rows}
    best, other = combination_rows(combinations(rows, figures), ["model.num_prompts", "num_samples"], True)
    assert [best[key] for key in LOWER_BY] == [None] * 3
    assert [other[key] for key in LOWER_BY] == pytest.approx([0.1] * 3)
    below = "points below the best (95 % interval)"
    shown = printable([best, other])
    assert [(each["B (num_prompts)"], each[below]) for each in shown] == [(1, "-"), (3, "10.0 (10.0 to 10.0)")]
    assert [each["told from it"] for each in shown] == ["-", "yes"]
    unsure = combination_rows(combinations(rows, figures), ["num_samples"], False)
    assert [each[LOWER_BY[0]] for each in unsure] == [None, None]


def test_too_few_images_give_no_interval_but_the_reason():
    certainty = judged(combinations([row(1, 0.5)], {}), ["num_samples"], "2 anomalous images are too few to resample")
    assert statements(certainty, 0.5, 9, 2)[1].startswith("No interval: 2 anomalous images are too few to resample")


def test_an_undefined_figure_is_never_the_best():
    best, _ = combinations([row(1, float("nan")), row(3, 0.1)], {})
    assert best.rows[0]["model.num_prompts"] == 3


def test_results_of_another_grid_are_moved_aside(tmp_path, capsys):
    folder = tmp_path / "results"
    keep_earlier(folder, [row(1, 0.5)])
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"rows": [row(1, 0.5)]}), encoding="utf-8")
    keep_earlier(folder, [row(1, 0.5), row(3, 0.4)])  # the same and more: they are written anew
    assert folder.is_dir()
    keep_earlier(folder, [row(3, 0.4)])
    assert not folder.exists()
    assert (tmp_path / "earlier-results-1" / "results.json").is_file()
    assert "earlier-results-1" in capsys.readouterr().err
