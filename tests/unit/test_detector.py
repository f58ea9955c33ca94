"""A prediction depends on image, class name, R and seed alone; bundles survive nothing that damages them."""

import gc
import importlib.metadata
import inspect
import json
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from small import BACKBONE, random_bundle

import bayes_pfl
from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import DetectorConfig
from bayes_pfl.errors import BackboneError, BundleError, ClassNameError, ConfigError, ImageError
from bayes_pfl.inference.bundle import load_bundle, save_bundle, training_images
from bayes_pfl.inference.detector import Detector
from bayes_pfl.inference.prediction import Prediction
from bayes_pfl.methods.builder import class_names

NAMES = ["gear", "metal plate", "hex nut", "gear"]


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    torch.set_num_threads(1)
    return Detector.load(random_bundle(tmp_path_factory.mktemp("detector") / "bundle"))


@pytest.fixture(scope="module")
def images():
    return [np.random.default_rng(seed).integers(0, 256, (40 + seed, 50, 3), dtype=np.uint8) for seed in range(4)]


def same(first, other):
    return (
        first.image_score == other.image_score
        and first.uncertainty == other.uncertainty
        and np.array_equal(first.anomaly_map, other.anomaly_map)
        and np.array_equal(first.uncertainty_map, other.uncertainty_map)
    )


def test_batch_order_and_shards_change_no_bit(detector, images):
    together = detector.predict(images, NAMES, 7)
    backwards = detector.predict(images[::-1], NAMES[::-1], 7)[::-1]
    halves = detector.predict(images[:2], NAMES[:2], 7) + detector.predict(images[2:], NAMES[2:], 7)
    assert all(same(a, b) and same(a, c) for a, b, c in zip(together, backwards, halves, strict=True))
    assert not same(together[0], detector.predict(images[:1], NAMES[:1], 7, seed=1)[0])
    assert not same(together[0], detector.predict(images[:1], ["nut"], 7)[0])


def test_every_prefix_equals_a_run_of_its_own(detector, images):
    nested = detector.predict_nested(images[:1], NAMES[:1], [1, 3, 5, 10, 20])[0]
    for number, prediction in nested.items():
        assert prediction.num_samples == number
        assert same(prediction, detector.predict(images[:1], NAMES[:1], number)[0])


def test_bytes_pictures_and_arrays_are_one(detector, images, tmp_path):
    image = Image.fromarray(images[0])
    image.save(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    forms = [data, image, images[0], tmp_path / "x.png", str(tmp_path / "x.png")]
    first, *others = detector.predict(forms, ["gear"] * len(forms), 2)
    assert all(same(first, other) for other in others)
    assert first.anomaly_map.shape == (64, 64)
    assert 0 <= first.anomaly_map.min() <= first.anomaly_map.max() <= 1


def test_what_cannot_be_predicted_is_said(detector, images):
    with pytest.raises(ConfigError, match="one name for each image"):
        detector.predict(images[:2], ["gear"])
    with pytest.raises(ConfigError, match="at least 1"):
        detector.predict(images[:1], ["gear"], 0)
    with pytest.raises(ImageError):
        detector.predict([b"junk"], ["gear"])


def test_the_longest_class_name_is_scored_and_a_longer_one_is_refused_before_any_work(detector, images):
    longest = " ".join("abcdefghijklmnopqrst")  # 20 tokens and the end of text: 32 - 1 start - 5 - 5 learned words
    assert detector.class_name_room == 21
    (prediction,) = detector.predict(images[:1], [longest], 1)
    assert np.isfinite(prediction.image_score)
    for name in (longest + " u", "a " * 30, "very " * 200):
        with pytest.raises(ClassNameError, match=r"room for 21: .* holds 32, beside 1 start token and 10 .* Shorten"):
            detector.predict([b"no image", b"no image"], ["gear", name])
        with pytest.raises(ClassNameError, match="Shorten"):
            detector.predict_tiled(b"no image", name)
    with pytest.raises(ClassNameError, match="1 other class names"):
        detector.check_class_names(["gear", "a " * 30, "b " * 30])


@pytest.mark.parametrize("name", ["", "   ", "\n\t", "\u3000"])
def test_a_blank_class_name_is_refused(detector, name):
    for call in (
        lambda: detector.predict([b"no image"], [name]),
        lambda: detector.predict([b"no image"], [name], "auto", threshold=0.5),
        lambda: detector.predict_tiled(b"no image", name),
    ):
        with pytest.raises(ClassNameError, match="blank"):
            call()


def test_the_room_for_class_names_is_known_without_any_weights(detector):
    names = class_names(detector.config)
    assert names.room == detector.class_name_room
    assert names.tokens("Hex Nut") == detector.method.class_names.tokens("hex nut")
    paper = class_names(DetectorConfig())
    assert paper.room == 77 - 1 - 10


def test_a_bundle_comes_back_as_it_was(tmp_path):
    folder = random_bundle(tmp_path / "bundle")
    loaded = load_bundle(folder)
    again = tmp_path / "again"
    save_bundle(again, loaded.config, loaded.weights, {"x": 1}, ["b" * 64, "a" * 64, "a" * 64])
    other = load_bundle(again)
    assert other.config == loaded.config
    assert other.version == loaded.version
    assert all(torch.equal(value, other.weights[name]) for name, value in loaded.weights.items())
    assert training_images(other) == {"a" * 64, "b" * 64}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "bundle"]


@pytest.mark.parametrize("file", ["head.safetensors", "bundle.json", "training_images.txt"])
def test_damage_is_found(tmp_path, file):
    folder = random_bundle(tmp_path / "bundle")
    path = folder / file
    data = bytearray(path.read_bytes() or b"x")
    data[len(data) // 2] ^= 1 if file != "bundle.json" else 0x80
    path.write_bytes(data)
    with pytest.raises(BundleError):
        training_images(load_bundle(folder))


def test_foreign_folders_and_formats_are_refused(tmp_path):
    with pytest.raises(BundleError, match="is no bundle"):
        load_bundle(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep me")
    with pytest.raises(BundleError, match="another folder"):
        save_bundle(tmp_path / "mine", DetectorConfig(), {}, {}, [])
    assert (tmp_path / "mine/notes.txt").read_text() == "keep me"
    folder = random_bundle(tmp_path / "bundle")
    record = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps({**record, "format": 99}))
    with pytest.raises(BundleError, match="format 99"):
        load_bundle(folder)
    with pytest.raises(BundleError, match="Nothing installed resolves"):
        load_bundle("elsewhere:/model")


def test_other_clip_weights_are_refused():
    with pytest.raises(BackboneError, match="is expected"):
        Backbone(BACKBONE.model_copy(update={"weights_sha256": "0" * 64}))
    with pytest.raises(BackboneError, match="Cannot load CLIP"):
        Backbone(BACKBONE.model_copy(update={"pretrained": "no-such-tag"}))
    with pytest.raises(BackboneError, match="no architecture 'ViT-L/14'; did you mean ViT-L-14 or"):
        Backbone(BACKBONE.model_copy(update={"name": "ViT-L/14"}))


def test_the_activation_is_the_configured_one():
    plain, quick = (
        Backbone(
            BACKBONE.model_copy(
                update={"name": "ViT-B-32", "image_size": 32, "feature_layers": (1,), "quick_gelu": flag}
            )
        )
        for flag in (False, True)
    )
    kinds = [type(backbone.clip.visual.transformer.resblocks[0].mlp.gelu).__name__ for backbone in (plain, quick)]
    assert kinds == ["GELU", "QuickGELU"]


def test_images_and_names_may_be_any_iterables(detector, images):
    expected = detector.predict(images, NAMES, 1)
    given = detector.predict((image for image in images), iter(NAMES), 1)
    assert all(same(first, other) for first, other in zip(expected, given, strict=True))
    assert [list(each) for each in detector.predict_nested(iter(images), iter(NAMES), range(1, 3))] == [[1, 2]] * 4


MISTAKES = {
    "detector.predict(['nowhere.png'], ['nut'])": "ImageError: cannot read nowhere.png: No such file",
    "detector.predict(['notes.txt'], ['nut'])": "ImageError: notes.txt: not a readable image",
    "detector.predict('part.png', ['nut'])": "ConfigError: images is one image; give a list of images: [image].",
    "detector.predict(gray, ['nut'])": "ConfigError: images is one image",
    "detector.predict([b''], 'nut')": 'ConfigError: class_names is one string; give a list with one name for each image: ["nut"]',
    "detector.predict([gray / 255], ['nut'])": "ImageError: a ndarray of float64 with shape (40, 50, 3) is no image; give a path",
    "detector.predict([torch.zeros(3, 40, 50)], ['nut'])": "ImageError: a Tensor of torch.float32 with shape (3, 40, 50) is no",
    "detector.predict([np.zeros((3, 40, 50), np.uint8)], ['nut'])": "a (height, width, 3) uint8 array: for values in [0, 1]",
    "detector.predict([None], ['nut'])": "ImageError: NoneType is no image",
    "detector.predict([gray], ['nut'], 'five')": "ConfigError: num_samples is 'five'; give a number of samples, or \"auto\".",
    "detector.predict([gray], ['nut'], 2.5)": "ConfigError: num_samples is 2.5",
    "detector.predict([gray], [''])": "ClassNameError: The class name is blank",
    "detector.predict([gray], [None])": "ClassNameError: The class name is None; give a string",
    "detector.predict([gray], ['nut'], threshold=50)": "ConfigError: threshold is 50, which is not between 0 and 1",
    "detector.predict([gray], ['nut'], threshold=1.5)": "ConfigError: threshold is 1.5, which is not between 0 and 1",
    "detector.predict([gray], ['nut'], threshold=float('nan'))": "ConfigError: threshold is nan, which is not between",
    "detector.predict([gray], ['nut'], 'auto', threshold=-1)": "ConfigError: threshold is -1, which is not between",
    "detector.predict([gray], ['nut'], threshold='0.5')": "ConfigError: threshold is '0.5'; give a number",
    "detector.predict([gray], ['nut'], threshold=True)": "ConfigError: threshold is True; give a number",
    "detector.predict([gray], ['nut'], seed=None)": "ConfigError: seed is None; give a whole number",
    "detector.predict([gray], ['nut'], seed=1.5)": "ConfigError: seed is 1.5; give a whole number",
    "detector.predict_nested([gray], ['nut'], [1], seed='0')": "ConfigError: seed is '0'; give a whole number",
    "detector.predict_tiled(gray, 'nut', seed=1.5)": "ConfigError: seed is 1.5; give a whole number",
    "detector.predict(5, ['nut'])": "ConfigError: images is 5; give a list with one for each image.",
    "detector.predict([gray], None)": "ConfigError: class_names is None; give a list with one for each image.",
    "detector.predict_nested([gray], ['nut'], 5)": "ConfigError: num_samples is 5; give a list of numbers of samples",
    "detector.predict_nested([gray], ['nut'], 'auto')": "ConfigError: num_samples is 'auto'; give a list of numbers",
    "detector.predict_tiled(['w.png'], ['nut'])": "ClassNameError: The class name is ['nut']; give a string",
    "detector.predict_tiled(['w.png'], 'nut')": "ImageError: list is no image; give a path",
    "detector.predict_tiled(gray, 'nut', overlap='0.5')": "ConfigError: overlap is '0.5'; give a number",
    "detector.predict_tiled(gray, 'nut', overlap=float('nan'))": "ConfigError: overlap is nan; give a share of a tile",
    "detector.predict_view(gray, 'nut', 0.5)": "ConfigError: view is 0.5; give a View of bayes_pfl.inference.view",
    "RegionOfInterest(-10, 0, 20, 20)": "ConfigError: (-10, 0, 20, 20) is no region; give x and y of its corner, at least 0",
    "RegionOfInterest(0, 0, 20, 0)": "ConfigError: (0, 0, 20, 0) is no region",
    "RegionOfInterest(0, 0, 2.5, 20)": "ConfigError: (0, 0, 2.5, 20) is no region",
    "prediction.resized((40, 50, 3))": "ConfigError: The image's size is (40, 50, 3); give (width, height) in whole pixels",
    "prediction.resized((640.0, 400))": "ConfigError: The image's size is (640.0, 400); give (width, height)",
    "prediction.resized((0, 400))": "ConfigError: The image's size is (0, 400); give (width, height)",
    "prediction.regions(0.5, (40, 50, 3))": "ConfigError: The image's size is (40, 50, 3); give (width, height)",
    "prediction.regions('0.5', gray)": "ConfigError: threshold is '0.5'; give a number",
    "prediction.overlay(gray, alpha='0.5')": "ConfigError: alpha is '0.5'; give a number",
    "detector.check_class_names('nut')": 'ClassNameError: The class names are one string; give a list: ["nut"].',
    "Detector.load(device='cuda')": "ConfigError: torch cannot use the device 'cuda' here (",
    "Detector.load('embeded')": "embeded is no bundle (No such file or directory, did you mean 'embedded'?). Give the folder",
    "Detector.load(precision='fp16')": "choose float32 (exact), bfloat16 (faster), or tf32 (between them, GPUs alone)",
    "Detector.of('winclip', backbone='embedded')": "Detector(winclip (",
    "Detector.of('winclip', backbone=5)": "ConfigError: backbone is 5; give the name of an architecture, embedded, or a",
    "Detector.of('winclip', backbone='ViT-B-61')": "BackboneError: open_clip has no architecture 'ViT-B-61'; did you mean ViT-B-16",
    "Detector.of(None)": "ConfigError: There is no method 'None'; did you mean",
    "Detector.load(device='gpu')": "ConfigError: torch cannot use the device 'gpu' here (",
}


def test_what_people_try_first_is_answered_with_a_sentence(tmp_path):
    """In a process of its own: here the checked signatures would speak first."""
    (tmp_path / "notes.txt").write_text("no image")
    program = "\n".join(
        [
            "import json, sys, numpy as np, torch",
            "from bayes_pfl import Detector, Prediction",
            "from bayes_pfl.inference.view import RegionOfInterest",
            "detector, gray, answers = Detector.load(), np.full((40, 50, 3), 99, np.uint8), {}",
            "prediction = Prediction(0.5, None, np.zeros((4, 6), np.float32), None, 0.5, 0.5, 1)",
            "for call in json.loads(sys.argv[1]):",
            "    try: answers[call] = repr(eval(call))",
            "    except Exception as error: answers[call] = f'{type(error).__name__}: {error}'",
            "print(json.dumps(answers))",
        ]
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, json.dumps(list(MISTAKES))],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    answers = json.loads(answer.stdout)
    assert {call for call, sentence in MISTAKES.items() if sentence not in answers[call]} == set(), answers


def test_the_package_shows_what_it_has(detector):
    assert dir(bayes_pfl) == ["BayesPFLError", "Detector", "Prediction", "__version__"]
    shown = repr(Prediction(0.5, None, np.zeros((4, 6), np.float32), None, 0.5, 0.25, 1))
    assert "image_score=0.5, uncertainty=None, anomaly_map=(4, 6), uncertainty_map=None, text_score=0.5" in shown
    assert inspect.signature(Detector.of).parameters["device"].default == "auto"
    assert bayes_pfl.__version__ == importlib.metadata.version("bayes-pfl")
    assert repr(detector).startswith(f"Detector(bundle ({detector.bundle.version}), bayes_pfl on ")
    assert "64 px, cpu, float32" in repr(detector)
    assert "standard deviation of the image score" in str(Prediction.__doc__)


def test_images_of_every_mode_and_orientation_are_read_as_their_files_are(detector, tmp_path):
    deep = Image.fromarray((np.arange(40 * 50).reshape(40, 50) * 32).astype(np.uint16))
    deep.save(tmp_path / "deep.png")
    turned = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    exif = turned.getexif()
    exif[274] = 6  # orientation: a quarter turn
    turned.save(tmp_path / "turned.png", exif=exif)
    for name in ("deep.png", "turned.png"):
        with Image.open(tmp_path / name) as opened:
            first, second = detector.predict([opened, tmp_path / name], ["gear"] * 2, 1)
        assert same(first, second)


def test_features_are_moved_to_where_the_detector_computes(detector, images):
    features, key = detector._encode(images[0])
    expected = detector.predict_features(features, key, "gear", [1])[1]
    wide = type(features)(*(part.double() for part in features))
    assert same(detector.predict_features(wide, key, "gear", [1])[1], expected)
    elsewhere = Detector(detector.bundle, detector.backbone, torch.device("meta"))
    query = elsewhere._on_device(features)
    assert {part.device.type for part in query} == {"meta"}
    assert {part.device.type for part in detector._on_device(features)} == {"cpu"}


def test_a_dropped_detector_is_freed_at_once(tmp_path, images):
    detector = Detector.load(random_bundle(tmp_path / "bundle"))
    detector.predict(images[:1], ["gear"], 1)
    gone = [weakref.ref(part) for part in (detector, detector.method, detector.method.head, detector.backbone.clip)]
    gc.collect()
    gc.disable()
    try:
        del detector
        assert [reference() for reference in gone] == [None] * len(gone)
    finally:
        gc.enable()
