"""Drift against its definition, and a replica that notices other images."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from local_endpoint import picture, write_bundle

from bayes_pfl import Detector
from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import DetectorConfig, WinClipConfig
from bayes_pfl.errors import BundleError
from bayes_pfl.inference.bundle import UNTRAINED, load_bundle, save_bundle
from serve.messages import Failed, Job, Question, Refused, ReplicaAnswer
from serve.models import drift
from serve.models.drift import Watch, last_embeddings
from serve.models.replica import ModelReplica, describe_bundle, load_newer, self_test
from serve.settings import ReplicaSettings


def test_stability_index_against_its_sum() -> None:
    deciles = np.arange(1, 10) / 10
    even = np.arange(1000) / 1000 + 0.0005
    assert drift.stability_index(deciles, even) == pytest.approx(0, abs=1e-12)
    counts = np.array([400, 200, 100, 100, 50, 50, 50, 50, 0, 0])
    scores = np.repeat(np.arange(10) / 10 + 0.05, counts)
    share = (counts + 0.5) / (counts + 0.5).sum()
    expected = sum((q - 0.1) * np.log(q / 0.1) for q in share)
    assert drift.stability_index(deciles, scores) == pytest.approx(expected)


def test_cosine_distance() -> None:
    one, other = np.array([3.0, 0.0]), np.array([0.0, 2.0])
    assert drift.cosine_distance(one, one) == pytest.approx(0)
    assert drift.cosine_distance(one, other) == pytest.approx(1)
    assert drift.cosine_distance(one, -one) == pytest.approx(2)


def test_reference_survives_the_disk(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = drift.make_reference(rng.random(200), rng.standard_normal((200, 8)))
    drift.write_reference(tmp_path, made)
    read = drift.read_reference(tmp_path)
    assert read is not None
    assert np.array_equal(read.deciles, made.deciles)
    assert np.array_equal(read.embedding, made.embedding)
    assert read.images == 200
    (tmp_path / drift.REFERENCE).write_text('{"deciles": [1]}', encoding="utf-8")
    with pytest.raises(BundleError, match="damaged"):
        drift.read_reference(tmp_path)


def test_watching_changes_no_score(bundles: dict[str, Path], detector: Detector) -> None:
    bundle = load_bundle(bundles["first"])
    watched = Detector(bundle, Backbone(bundle.config.backbone), torch.device("cpu"))
    mine, theirs = (one.predict([picture(3)], ["nut"])[0] for one in (watched, detector))
    assert mine.image_score == theirs.image_score
    assert np.array_equal(mine.anomaly_map, theirs.anomaly_map)
    assert np.linalg.norm(last_embeddings(watched)[0]) == pytest.approx(1)


def test_a_replica_notices_other_images(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", 1)
    bundle = load_bundle(folder)
    usual = Detector(bundle, Backbone(bundle.config.backbone), torch.device("cpu"))
    noise = [picture(seed, 56, 56) for seed in range(60)]
    scores, embeddings = [], []
    for image in noise:
        scores.append(usual.predict([image], ["nut"], num_samples=1)[0].image_score)
        embeddings.append(last_embeddings(usual)[0])
    drift.write_reference(folder, drift.make_reference(np.array(scores), np.array(embeddings)))

    def drift_after(images: list[np.ndarray]) -> tuple[float, float]:
        replica = ModelReplica("drifting")
        replica.model = load_newer(ReplicaSettings(source=str(folder)), None)
        assert replica.model is not None
        watch = replica.model.watch
        assert watch.drift() is None
        outcomes = replica.score_all([Job(image, Question("nut", 1, 0, False)) for image in images]).outcomes
        assert all(isinstance(outcome, ReplicaAnswer) and outcome.anomaly_map is None for outcome in outcomes)
        assert not watch.due()  # the batch was looked at
        found = watch.drift()
        assert found is not None
        return found

    same, other = drift_after(noise), drift_after([image // 8 for image in noise])
    assert same[0] < 0.01
    assert same[1] == pytest.approx(0, abs=1e-9)
    assert other[0] > 0.25
    assert other[1] > 10 * max(same[1], 1e-6)


def test_a_bundle_without_reference_is_not_watched(bundles: dict[str, Path]) -> None:
    bundle = load_bundle(bundles["first"])
    watch = Watch(bundle, Detector(bundle, Backbone(bundle.config.backbone), torch.device("cpu")))
    watch.note([0.5])
    assert watch.drift() is None
    assert not watch.due()


def test_self_test_refuses_scores_that_are_not_finite(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path / "bundle", 1))
    name = next(name for name in bundle.weights if bundle.weights[name].is_floating_point())
    bundle.weights = {
        key: torch.full_like(value, torch.nan) if key == name else value for key, value in bundle.weights.items()
    }
    broken = Detector(bundle, Backbone(bundle.config.backbone), torch.device("cpu"))
    with pytest.raises(BundleError, match="self-test"):
        self_test(broken)


def test_the_embedded_model_is_called_a_demonstration(bundles: dict[str, Path]) -> None:
    embedded = describe_bundle(load_bundle("embedded"), "embedded")
    assert embedded.kind == "demonstration"
    assert "demonstration" in (embedded.note or "")
    own = describe_bundle(load_bundle(bundles["first"]), str(bundles["first"]))
    assert (own.kind, own.note, own.source) == ("trained", None, "first")


def test_the_same_model_is_not_loaded_twice(bundles: dict[str, Path]) -> None:
    settings = ReplicaSettings(source=str(bundles["first"]))
    first = load_newer(settings, None)
    assert first is not None
    assert load_newer(settings, first.identity) is None
    second = load_newer(settings.model_copy(update={"source": str(bundles["second"])}), first.identity)
    assert second is not None
    assert second.info.version != first.info.version


def test_a_changed_setting_of_the_bundle_is_a_newer_model(tmp_path: Path) -> None:
    settings = ReplicaSettings(source=str(write_bundle(tmp_path / "bundle", 1)))
    first = load_newer(settings, None)
    assert first is not None
    record = json.loads((tmp_path / "bundle" / "bundle.json").read_text(encoding="utf-8"))
    record["config"]["scoring"]["smoothing_sigma_px"] = 1.5
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps(record), encoding="utf-8")
    second = load_newer(settings, first.identity)
    assert second is not None
    assert second.info == first.info  # the head is the same, the answers are not
    assert second.detector.config.scoring.smoothing_sigma_px == 1.5


def test_one_job_never_takes_others_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replica = ModelReplica("alone")
    replica.model = load_newer(ReplicaSettings(source=str(write_bundle(tmp_path / "bundle", 1))), None)
    assert replica.model is not None
    image, question = picture(1, 56, 56), Question("nut", 1, 0, False)
    broken = Job(image.astype(np.float64), question)  # what no route lets through: the detector breaks off over it
    jobs = [Job(image, question), Job(image, question._replace(class_name="very " * 100)), broken, Job(image, question)]
    scored, refused, failed, other = replica.score_all(jobs).outcomes
    assert isinstance(scored, ReplicaAnswer)
    assert isinstance(refused, Refused)
    assert "room for" in refused.detail
    assert isinstance(failed, Failed | Refused)
    assert other == scored._replace(compute_ms=other.compute_ms)


def test_a_replica_that_breaks_off_again_and_again_is_not_healthy(tmp_path: Path) -> None:
    replica = ModelReplica("sticky")
    replica.model = load_newer(ReplicaSettings(source=str(write_bundle(tmp_path / "bundle", 1))), None)
    assert replica.model is not None
    job = Job(picture(1, 56, 56), Question("nut", 1, 0, False))
    for (
        parameter
    ) in replica.model.detector.backbone.parameters():  # as after an error of the device: nothing works any more
        parameter.data = parameter.data.to(torch.float64)
    asyncio.run(replica.check_health())
    assert all(isinstance(outcome, Failed) for outcome in replica.score_all([job, job, job]).outcomes)
    with pytest.raises(RuntimeError, match="last 3 jobs"):
        asyncio.run(replica.check_health())


def test_methods_without_a_plain_pass_are_watched_too(tmp_path: Path) -> None:
    backbone = load_bundle(write_bundle(tmp_path / "other", 1)).config.backbone
    save_bundle(tmp_path / "winclip", DetectorConfig(backbone=backbone, model=WinClipConfig()), {}, UNTRAINED, [])
    window = drift.make_reference(np.linspace(0, 1, 60), np.random.default_rng(0).standard_normal((60, 16)))
    drift.write_reference(tmp_path / "winclip", window)
    replica = ModelReplica("windows")
    replica.model = load_newer(ReplicaSettings(source=str(tmp_path / "winclip")), None)
    assert replica.model is not None
    jobs = [Job(picture(seed, 56, 56), Question("nut", 1, 0, False)) for seed in range(3)]
    assert all(isinstance(outcome, ReplicaAnswer) for outcome in replica.score_all(jobs).outcomes)
    assert len(replica.model.watch.embeddings) == 3
