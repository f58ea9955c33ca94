"""Methods that learn: their passes by brute force, gradients that never reach CLIP, a step, save and load."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from vision import small_clip

from bayes_pfl.clip.backbone import Backbone, Features
from bayes_pfl.clip.blocks import embedded, image_encoder, prompted_steps, steps, value_attention
from bayes_pfl.clip.sentences import SentenceEncoder
from bayes_pfl.config import (
    AdaClipConfig,
    AnomalyClipConfig,
    AprilGanConfig,
    ClipAdConfig,
    RunConfig,
    TrainingConfig,
)
from bayes_pfl.errors import BundleError, ConfigError
from bayes_pfl.inference.bundle import load_bundle, save_bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.methods.ada_clip.fusion import cluster_feature, partition
from bayes_pfl.methods.anomaly_clip import value_streams
from bayes_pfl.methods.builder import build_trainable_method
from bayes_pfl.methods.method import TrainableMethod, TrainingBatch
from bayes_pfl.training.trainer import Trainer

CPU = torch.device("cpu")
METHODS = {
    "april_gan": AprilGanConfig(),
    "clip_ad": ClipAdConfig(linear_layers=True),
    "anomaly_clip": AnomalyClipConfig(context_tokens=3, deep_tokens=2, deep_blocks=3, first_value_block=2),
    "ada_clip": AdaClipConfig(prompted_blocks=2, prompt_tokens=2, clusters=3, patches_per_cluster=2),
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return Backbone(small_clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def run_of(backbone, name, **training) -> RunConfig:
    options = {"epochs": 1, "batch_size": 3, "learning_rate": 1e-3, **training}
    return RunConfig(backbone=backbone.config, model=METHODS[name], training=TrainingConfig(**options))


def batch_of(method, images) -> TrainingBatch:
    mask = torch.zeros(len(images), 48, 48)
    mask[0, 10:30, 5:25] = 1
    names, keys = ("bottle", "metal nut", "hazel-nut"), (b"a", b"b", b"c")
    label = torch.tensor([1.0, 0.0, 0.0])
    return TrainingBatch(method.encode_image(images), label, mask, names, keys, names)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_trains_all_that_is_learned_and_nothing_of_clip(backbone, images, name):
    trainer = Trainer(run_of(backbone, name), backbone, CPU, 1, 1)
    assert isinstance(trainer.method, TrainableMethod)
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    digest = {key: value.clone() for key, value in backbone.state_dict().items()}
    batch = batch_of(trainer.method, images)
    first = trainer.step(batch)
    unmoved = {key for key, value in trainer.model.state_dict().items() if torch.equal(value, before[key])}
    assert unmoved <= {"text_prompts.0"}  # AdaCLIP has it and never uses it
    assert all(torch.equal(value, digest[key]) for key, value in backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in backbone.parameters())
    for _ in range(3):
        last = trainer.step(batch)
    assert last["total"] < first["total"]


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_in_parts_has_the_gradient_of_the_whole(backbone, images, name):
    gradients = []
    for parts in (1, 3):
        trainer = Trainer(run_of(backbone, name, accumulation_parts=parts), backbone, CPU, 1, 1)
        batch = batch_of(trainer.method, images)
        trainer.optimizer.zero_grad(set_to_none=False)
        terms = trainer._backward(batch) if parts == 1 else trainer._accumulate(batch)
        flat = [value.grad.flatten() for value in trainer.model.parameters() if value.grad is not None]
        gradients.append((terms["total"], torch.cat(flat)))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    assert torch.allclose(gradients[0][1], gradients[1][1], rtol=1e-3, atol=1e-5 * float(gradients[0][1].abs().max()))


@pytest.mark.parametrize("name", METHODS)
def test_a_bundle_gives_the_scores_of_the_head_that_was_saved(backbone, tmp_path, name):
    run = run_of(backbone, name)
    head = build_trainable_method(run, backbone, CPU).head
    save_bundle(tmp_path / "bundle", run.detector(), head.state_dict(), {"kind": "a test"}, [])
    assert load_bundle(tmp_path / "bundle").config == run.detector()
    assert name in (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    detector = Detector.load(tmp_path / "bundle")
    pixels = list(np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8))
    names = ["bottle", "metal nut", "hazel-nut"]
    together = detector.predict(pixels, names)
    for image, class_name, prediction in zip(pixels, names, together, strict=True):
        (alone,) = Detector.load(tmp_path / "bundle").predict([image], [class_name], num_samples=3)
        assert alone.image_score == prediction.image_score
        assert np.array_equal(alone.anomaly_map, prediction.anomaly_map)
        assert prediction.uncertainty is None
        assert 0 <= prediction.anomaly_map.min() <= prediction.anomaly_map.max() <= 1 + 1e-6


@pytest.mark.parametrize("name", METHODS)
def test_weights_of_another_method_are_refused(backbone, tmp_path, name):
    other = next(each for each in METHODS if each not in (name, "clip_ad", "april_gan"))
    head = build_trainable_method(run_of(backbone, other), backbone, CPU).head
    save_bundle(tmp_path / "bundle", run_of(backbone, name).detector(), head.state_dict(), {}, [])
    with pytest.raises(BundleError, match="does not fit its configuration"):
        Detector.load(tmp_path / "bundle")


def test_sdp_and_winclip_cannot_be_trained(backbone):
    for model, words in ((ClipAdConfig(), "model.linear_layers to true"), ({"method": "winclip"}, "learns nothing")):
        with pytest.raises(ConfigError, match=words):
            build_trainable_method(RunConfig(backbone=backbone.config, model=model), backbone, CPU)


def test_the_value_stream_by_brute_force(backbone, images):
    visual = image_encoder(backbone)
    with torch.no_grad():
        walked = list(steps(visual, embedded(visual, images)))
        streams, last = value_streams(visual, embedded(visual, images), first=2)
        expected = walked[0].after
        assert torch.equal(streams[0], expected)
        for layer in (1, 2, 3):
            expected = expected + value_attention(walked[layer].block, walked[layer].normed)
            assert torch.allclose(streams[layer], expected, atol=1e-5)
        assert torch.equal(last, walked[3].after)
        whole, _ = value_streams(visual, embedded(visual, images), first=1)
        assert torch.allclose(whole[0], walked[0].before + value_attention(walked[0].block, walked[0].normed))


def test_prompts_are_replaced_in_the_first_blocks_and_flow_on(backbone, images):
    visual = image_encoder(backbone)
    prompts = torch.randn(2, 3, 2, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens = embedded(visual, images)
        x = torch.cat([tokens, prompts[0]], dim=1)
        expected = []
        for index, block in enumerate(visual.transformer.resblocks):
            if index == 1:
                x = torch.cat([x[:, :-2], prompts[1]], dim=1)
            x = block(x.transpose(0, 1)).transpose(0, 1)
            expected.append(x[:, :-2])
        for ours, theirs in zip(prompted_steps(visual, tokens, prompts), expected, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-6)


def test_deep_prompts_replace_words_from_the_second_block_on(backbone):
    encoder = SentenceEncoder(backbone)
    ids = encoder.tokens(["a photo of a bottle.", "a screw"])
    deep = torch.randn(1, 2, 2, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        tower = encoder.tower
        x = encoder.embed(ids) + tower.positional_embedding[: ids.shape[1]]
        for index, block in enumerate(encoder.blocks):
            if index == 1:
                x = torch.cat([x[:, :1], deep[0, :1].expand(2, -1, -1), x[:, 3:]], dim=1)
            mask = tower.attn_mask[: x.shape[1], : x.shape[1]]
            x = block(x.transpose(0, 1), attn_mask=mask).transpose(0, 1)
        expected = tower.ln_final(x)[torch.arange(2), encoder.ends(ids)] @ tower.text_projection
        ours = encoder.encode_words(encoder.embed(ids), encoder.ends(ids), [deep[0, :1]])
        assert torch.allclose(ours, expected, atol=1e-5)
        plain = backbone.clip.encode_text(backbone.tokenizer(["a photo of a bottle.", "a screw"]))
        assert torch.allclose(encoder.encode(["a photo of a bottle.", "a screw"]), plain, atol=1e-5)


def test_the_clusters_feature_by_brute_force():
    generator = torch.Generator().manual_seed(0)
    patches = F.normalize(torch.randn(2, 20, 8, generator=generator), dim=-1)
    logits = torch.randn(2, 20, generator=generator)
    parts = partition(METHODS["ada_clip"], patches, logits, random_state=7)
    order = sorted(range(20), key=lambda index: -float(logits[:, index].mean()))
    assert parts.patches.tolist() == order[:6]
    centres = []
    for label in sorted(set(parts.labels.tolist())):
        members = parts.patches[parts.labels == label]
        centres.append(patches[:, members].reshape(-1, 8).mean(0))
    expected = F.normalize(torch.stack(centres).mean(0), dim=0)
    assert torch.allclose(cluster_feature(patches, parts), expected, atol=1e-6)
    assert torch.equal(parts.labels, partition(METHODS["ada_clip"], patches, logits, random_state=7).labels)


def test_equal_patches_have_a_feature_too():
    patches = F.normalize(torch.ones(2, 20, 8), dim=-1)
    parts = partition(METHODS["ada_clip"], patches, torch.zeros(2, 20), random_state=0)
    assert torch.allclose(cluster_feature(patches, parts), patches[0, 0])


def test_text_vectors_of_an_image_depend_on_that_image_alone(backbone, images):
    method = build_trainable_method(run_of(backbone, "ada_clip"), backbone, CPU)
    features, names = method.encode_image(images), ("bottle", "metal nut", "hazel-nut")
    with torch.no_grad():
        together = method.towers.encode(method.head, features, names)
        for index, name in enumerate(names):
            part = Features(features.image[index : index + 1], features.patches[:, index : index + 1])
            alone = method.towers.encode(method.head, part, (name,))
            assert torch.allclose(alone.text[0], together.text[index], atol=1e-5)
            assert torch.allclose(alone.patches[:, 0], together.patches[:, index], atol=1e-5)
    assert not torch.allclose(together.text[0], together.text[1], atol=1e-3)


def test_adamw_decays_where_the_method_says_so(backbone):
    trainer = Trainer(run_of(backbone, "ada_clip"), backbone, CPU, 1, 1)
    (group,) = trainer.optimizer.param_groups
    assert (group["weight_decay"], group["decoupled_weight_decay"]) == (0.01, True)
    (group,) = Trainer(run_of(backbone, "april_gan"), backbone, CPU, 1, 1).optimizer.param_groups
    assert group["weight_decay"] == 0
