"""Generated scenes: exact masks, visible defects, and nothing that depends on anything but the seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_pfl.errors import DataError
from bayes_pfl.synthetic import defects_of, render, render_composite
from bayes_pfl.synthetic.catalogue import CATEGORIES, NORMAL_MARKS
from bayes_pfl.synthetic.defects import DEFECTS
from bayes_pfl.synthetic.scene import MIN_AREA
from bayes_pfl.synthetic.splits import PRETRAIN

VISIBLE = 12
"""Mean difference to the twin inside the mask, in grey values of 255, below which a mark is hardly seen."""


def test_there_are_many_categories_and_kinds() -> None:
    assert len(CATEGORIES) == len(set(CATEGORIES)) >= 40
    assert len(DEFECTS) >= 15


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_defect_of_a_category_is_visible_inside_its_mask_and_absent_outside(category: str) -> None:
    kinds = defects_of(category)
    assert len(kinds) >= 5
    for index, kind in enumerate(kinds):
        scene = render(category, index, 11, 64, kind, 0.5)
        difference = np.abs(scene.image.astype(int) - scene.twin).max(-1)
        assert not difference[~scene.mask].any(), kind
        assert scene.mask.mean() >= MIN_AREA, kind
        assert difference[scene.mask].mean() >= VISIBLE, kind


@given(
    category=st.sampled_from(CATEGORIES),
    index=st.integers(0, 10**9),
    seed=st.integers(0, 10**9),
    size=st.sampled_from([32, 48, 97]),
    severity=st.floats(0.01, 1.0),
)
@settings(max_examples=25, deadline=None)
def test_a_scene_is_decided_by_its_arguments_and_its_twin_is_the_flawless_piece(
    category: str, index: int, seed: int, size: int, severity: float
) -> None:
    kind = defects_of(category)[index % len(defects_of(category))]
    scene = render(category, index, seed, size, kind, severity)
    again = render(category, index, seed, size, kind, severity)
    flawless = render(category, index, seed, size, None)
    assert scene.image.shape == (size, size, 3)
    assert np.array_equal(scene.image, again.image)
    assert np.array_equal(scene.mask, again.mask)
    assert np.array_equal(scene.twin, flawless.image)
    assert not flawless.mask.any()


def test_other_pieces_and_other_seeds_differ() -> None:
    images = {render("leather", index, seed, 48, None).image.tobytes() for index in range(4) for seed in range(4)}
    assert len(images) == 16


def test_severity_enlarges_a_defect() -> None:
    def area(severity: float) -> float:
        return float(np.mean([render("paper", i, 3, 64, "stain", severity).mask.mean() for i in range(20)]))

    assert area(1.0) > 2 * area(0.1)


def test_a_normal_mark_of_one_category_is_a_defect_of_another() -> None:
    for category, marks in NORMAL_MARKS.items():
        for mark in marks:
            assert mark not in defects_of(category)
            assert any(mark in defects_of(other) for other in CATEGORIES)
    with pytest.raises(DataError, match="no defect on 'speckled stone'"):
        render("speckled stone", 0, 0, 64, "dark dots")


def test_composites_never_run_out() -> None:
    scenes = [render_composite(PRETRAIN, index, 5, 48, "stain", 0.6) for index in range(40)]
    assert len({scene.twin.tobytes() for scene in scenes}) == 40
    for scene in scenes:
        assert scene.mask.any()
        assert np.array_equal(scene.image[~scene.mask], scene.twin[~scene.mask])


@pytest.mark.parametrize("severity", [0.0, -0.1, 1.01])
def test_severity_outside_its_range_is_refused(severity: float) -> None:
    with pytest.raises(DataError, match="severity"):
        render("paper", 0, 0, 64, "stain", severity)


def test_an_unknown_category_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(DataError, match="hex nut"):
        render("unicorn", 0, 0, 64, None)
