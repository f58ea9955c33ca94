"""What a prediction says of itself: its map over and at the size of its image, its regions, and its label."""

import copy
import hashlib
import io
import logging
import pickle
import pydoc

import numpy as np
import pytest
from PIL import Image
from small import random_bundle

from bayes_pfl.decisions.calibration import CalibrationFile, ClassCalibration, read_calibration, write_calibration
from bayes_pfl.decisions.records import ScoredImages
from bayes_pfl.decisions.rules import Rule
from bayes_pfl.errors import BundleError, ConfigError, ImageError, OutputError
from bayes_pfl.inference.bundle import load_bundle, store_threshold
from bayes_pfl.inference.detector import Detector
from bayes_pfl.inference.heatmap import heat_map
from bayes_pfl.inference.how_scored import how_scored
from bayes_pfl.inference.prediction import Prediction
from bayes_pfl.inference.view import WHOLE, View

MAP = np.zeros((4, 6), np.float32)
MAP[1, 2:4] = 0.5, 0.9
PREDICTION = Prediction(0.7, 0.1, MAP, None, 0.6, 0.8, 3)
R = 2


def png(seed, size=(60, 40)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


class TestPictures:
    def test_the_overlay_has_the_images_size_and_leaves_alone_what_is_normal(self, tmp_path):
        photo = Image.new("RGB", (12, 8), (10, 200, 30))
        photo.save(tmp_path / "photo.png")
        drawn = PREDICTION.overlay(photo)
        assert (drawn.size, drawn.mode, drawn.getpixel((0, 7))) == ((12, 8), "RGB", (10, 200, 30))
        assert drawn.getpixel((7, 3)) != (10, 200, 30)
        ways = (tmp_path / "photo.png", (tmp_path / "photo.png").read_bytes(), np.array(photo))
        assert all(np.array_equal(PREDICTION.overlay(image), drawn) for image in ways)
        assert np.array_equal(PREDICTION.overlay(photo, alpha=0), photo)

    def test_the_file_is_the_heat_map_or_the_overlay(self, tmp_path):
        PREDICTION.save(tmp_path / "map.png")
        with Image.open(tmp_path / "map.png") as written:
            assert (written.format, written.size) == ("PNG", (6, 4))
            assert np.array_equal(written, heat_map(MAP))
        photo = Image.new("RGB", (12, 8), (10, 200, 30))
        PREDICTION.save(str(tmp_path / "over.PNG"), photo)
        with Image.open(tmp_path / "over.PNG") as written:
            assert np.array_equal(written, PREDICTION.overlay(photo))

    def test_another_kind_of_file_and_a_folder_that_is_missing_are_sentences(self, tmp_path):
        with pytest.raises(ConfigError, match=r"does not end in \.png, which is what is written; name it map\.png"):
            PREDICTION.save(tmp_path / "map.jpg")
        with pytest.raises(OutputError, match=r"No such file or directory\); choose another path"):
            PREDICTION.save(tmp_path / "nowhere" / "map.png")
        with pytest.raises(ImageError, match="cannot read"):
            PREDICTION.overlay(tmp_path / "nowhere.png")

    def test_the_map_at_the_images_size_takes_the_image_or_its_size(self):
        photo = Image.new("RGB", (12, 8))
        whole = PREDICTION.resized(photo)
        assert (whole.shape, whole.dtype) == ((8, 12), np.float32)
        assert np.array_equal(whole, PREDICTION.resized((12, 8)))
        assert whole.max() <= MAP.max()
        assert whole[2:4, 4:8].min() > whole[:, :2].max() == 0
        assert np.array_equal(PREDICTION.resized((6, 4)), MAP)

    @pytest.mark.parametrize("value", [60, 1.5, -0.1, float("nan"), float("inf")])
    def test_a_threshold_and_an_opacity_are_shares(self, value):
        with pytest.raises(ConfigError, match=r"threshold is \S+, which is not between 0 and 1"):
            PREDICTION.regions(value, (12, 8))
        with pytest.raises(ConfigError, match=r"alpha is \S+, which is not between 0 and 1"):
            PREDICTION.overlay(Image.new("RGB", (12, 8)), alpha=value)

    def test_an_upright_size_is_meant(self, tmp_path):
        photo = Image.new("RGB", (12, 8))
        exif = photo.getexif()
        exif[274] = 6  # orientation: a quarter turn
        photo.save(tmp_path / "turned.png", exif=exif)
        assert PREDICTION.resized(tmp_path / "turned.png").shape == (12, 8)

    def test_regions_are_in_the_pixels_of_the_image(self):
        (region,) = PREDICTION.regions(0.4, Image.new("RGB", (12, 8)))
        assert region.box == (4, 2, 4, 2)
        assert region.score == pytest.approx(0.9)
        assert [region.box for region in PREDICTION.regions(0.6, (12, 8))] == [(6, 2, 2, 2)]
        assert PREDICTION.regions(0.95, (12, 8)) == []


class TestAsAValue:
    def test_it_can_be_kept_copied_and_changed(self):
        for other in (pickle.loads(pickle.dumps(PREDICTION)), copy.copy(PREDICTION), PREDICTION._replace()):
            assert other._replace(anomaly_map=None) == PREDICTION._replace(anomaly_map=None)
            assert np.array_equal(other.anomaly_map, MAP)
        assert PREDICTION._asdict()["image_score"] == 0.7
        assert PREDICTION[:2] == (0.7, 0.1)

    def test_help_explains_every_field(self):
        text = pydoc.plain(pydoc.render_doc(Prediction))
        assert "Alias for field number" not in text
        fields = text[text.index("Data descriptors defined here") :]
        for name in Prediction._fields:
            assert f"\n |  {name}\n |      " in fields, name
        assert "(height, width) float32 in [0, 1]" in fields


class TestLabels:
    @pytest.fixture
    def folder(self, tmp_path):
        return random_bundle(tmp_path / "bundle")

    @staticmethod
    def calibrated(folder, seeds=range(12)):
        """The model with a calibration of noise images, that a third of good images may exceed."""
        bundle, detector = load_bundle(folder), Detector.load(folder)
        files = [png(seed) for seed in seeds]
        scored = detector.predict(files, ["gear"] * len(files), R)
        images = ScoredImages(
            sha256=tuple(hashlib.sha256(data).hexdigest() for data in files),
            scores=tuple(each.image_score for each in scored),
            map_maxima=tuple(float(each.anomaly_map.max()) for each in scored),
            uncertainties=tuple(each.uncertainty for each in scored),
        )
        how = how_scored(bundle, WHOLE.name(bundle.config.backbone.image_size), R, "float32", None)
        entry = ClassCalibration(class_name="gear", rule=Rule(false_alarms=0.34, confidence=0.6), normal=images)
        write_calibration(folder, CalibrationFile(made="2026-01-01", how=how, classes=(entry,)))
        return Detector.load(folder)

    def test_nothing_decides_without_threshold_and_calibration(self, folder):
        (prediction,) = Detector.load(folder).predict([png(0)], ["gear"], 1)
        assert prediction.label is None
        assert "has no threshold" in prediction.decision.no_label_because

    def test_a_given_threshold_decides_whatever_the_way_of_asking(self, folder):
        detector = Detector.load(folder)
        (score,) = (each.image_score for each in detector.predict([png(0)], ["gear"], 1))
        for threshold, label in ((score, "defective"), (np.nextafter(score, 2), "good")):
            assert detector.predict([png(0)], ["gear"], 1, threshold=threshold)[0].label == label
        assert detector.predict([png(0)], ["gear"], "auto", threshold=0.0)[0].label == "defective"

    def test_the_models_own_threshold_is_for_its_own_way_of_looking(self, folder):
        bundle = load_bundle(folder)
        whole = WHOLE.name(bundle.config.backbone.image_size)
        store_threshold(bundle, 1e-6, whole)
        detector = Detector.load(folder)
        assert detector.predict([png(0)], ["gear"], 1)[0].label == "defective"
        assert detector.predict_nested([png(0)], ["gear"], [1, 2])[0][2].label == "defective"
        tiled = detector.predict_view(png(0), "gear", View(0.5), 1)
        assert tiled.label is None
        assert f"threshold is for {whole}, not for tiles" in tiled.decision.no_label_because

    def test_a_calibration_decides_as_it_says_itself(self, folder):
        detector, files = self.calibrated(folder), [png(seed) for seed in range(40)]
        calibration = read_calibration(folder)
        predictions = detector.predict(files, ["Gear "] * len(files), R)
        for data, each in zip(files, predictions, strict=True):
            digest = hashlib.sha256(data).hexdigest()
            assert each.decision == calibration.verdict("gear", each.image_score, each.uncertainty, digest)
        assert {each.label for each in predictions} == {"good", "defective", "unsure"}
        (other,) = detector.predict([files[0]], ["nut"], R)
        assert other.label is None
        assert 'the calibration is for "gear"' in other.decision.no_label_because

    def test_a_file_decides_equally_as_path_and_as_bytes(self, folder, tmp_path):
        detector = self.calibrated(folder)
        (tmp_path / "part.png").write_bytes(png(3))
        path, data = detector.predict([tmp_path / "part.png", png(3)], ["gear"] * 2, R)
        assert path.decision == data.decision

    @pytest.mark.parametrize(("number", "seed", "because"), [(R + 1, 0, "num_samples 2, not 3"), (R, 1, "seed 0, not")])
    def test_a_calibration_for_other_scores_decides_nothing(self, folder, number, seed, because):
        (prediction,) = self.calibrated(folder).predict([png(0)], ["gear"], number, seed)
        assert prediction.label is None
        assert because in prediction.decision.no_label_because

    def test_the_threshold_in_place_of_a_calibration_is_said_once(self, folder, caplog):
        bundle = load_bundle(folder)
        store_threshold(bundle, 1e-6, WHOLE.name(bundle.config.backbone.image_size))
        detector = self.calibrated(folder)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert [each.label for each in detector.predict([png(0)] * 2, ["gear"] * 2, R + 1)] == ["defective"] * 2
        assert [record.getMessage() for record in caplog.records] == [
            "The model's own threshold decides: the calibration does not apply: it was made with num_samples 2, not 3."
        ]

    def test_a_damaged_calibration_is_said(self, folder):
        (folder / "calibration.json").write_text("{")
        with pytest.raises(BundleError, match=r"calibration\.json cannot be read"):
            Detector.load(folder).predict([png(0)], ["gear"], 1)
