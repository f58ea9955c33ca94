"""The four sets of categories share neither names, nor images, nor the kinds kept for reporting."""

import hashlib
from itertools import combinations

import pytest

from bayes_pfl.synthetic import render
from bayes_pfl.synthetic.batches import BatchOptions, training_batch, validation_set
from bayes_pfl.synthetic.captions import KIND_STATES
from bayes_pfl.synthetic.catalogue import CATEGORIES
from bayes_pfl.synthetic.defects import DEFECTS
from bayes_pfl.synthetic.splits import AUXILIARY, HELD_OUT, HELD_OUT_KINDS, PRETRAIN, SPLITS, VALIDATION, kinds_for


def test_every_category_is_in_exactly_one_set() -> None:
    everything = [name for names in SPLITS.values() for name in names]
    assert sorted(everything) == sorted(CATEGORIES)


def test_enough_is_held_out() -> None:
    assert len(HELD_OUT) >= 12
    assert len(HELD_OUT_KINDS) >= 4
    assert set(HELD_OUT_KINDS) <= set(DEFECTS)
    for kind in HELD_OUT_KINDS:
        assert sum(kind in kinds_for(category) for category in HELD_OUT) >= 4


@pytest.mark.parametrize("category", [*PRETRAIN, *AUXILIARY, *VALIDATION])
def test_kept_kinds_are_painted_on_held_out_categories_only(category: str) -> None:
    assert not set(kinds_for(category)) & set(HELD_OUT_KINDS)


def test_composites_and_captions_know_no_kept_kind() -> None:
    assert set(KIND_STATES) == set(DEFECTS) - set(HELD_OUT_KINDS)


def test_the_sets_share_no_image() -> None:
    def contents(names: tuple[str, ...]) -> set[str]:
        return {
            hashlib.sha256(picture.tobytes()).hexdigest()
            for name in names
            for index in range(3)
            for scene in [render(name, index, 7, 48, kinds_for(name)[index])]
            for picture in (scene.image, scene.twin)
        }

    hashes = {name: contents(names) for name, names in SPLITS.items()}
    for first, second in combinations(hashes, 2):
        assert not hashes[first] & hashes[second], (first, second)


def test_pretraining_names_pretraining_categories_only() -> None:
    options = BatchOptions(pairs=64, scene_size=32, composite_share=0.0, name_dropout=0.0, kind_share=0.5)
    text = " ".join(training_batch(options, 32, 1, 0, 0).captions)
    assert any(name in text for name in PRETRAIN)
    for name in (*AUXILIARY, *VALIDATION, *HELD_OUT):
        if not any(name in other for other in PRETRAIN):
            assert name not in text


def test_the_validation_set_holds_validation_categories_with_both_labels() -> None:
    data = validation_set(2, 32, 0)
    assert set(data.categories) == set(VALIDATION)
    assert data.masks.any((1, 2)).tolist() == [True, False] * 2 * len(VALIDATION)
