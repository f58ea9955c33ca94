"""The comparisons of Table 4 and figures 4 and 5: each is trained, kept as a bundle and scored, and does what it says."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import (
    AnomalyClipConfig,
    ModelConfig,
    PromptFlowVariant,
    RunConfig,
    parse_config,
)
from bayes_pfl.config.wordings import APRIL_GAN_WORDING
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.errors import ConfigError
from bayes_pfl.inference.bundle import Bundle, load_bundle, save_bundle
from bayes_pfl.inference.detector import Detector
from bayes_pfl.methods.anomaly_clip import ObjectText
from bayes_pfl.methods.builder import class_names
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths
from bayes_pfl.methods.prompt_flow.noise import keyed_noise
from bayes_pfl.training.trainer import Trainer
from serve.models.replica import describe_bundle
from tests.equations import Image, prompt_maps, text_logits

CPU = torch.device("cpu")
VARIANTS = {
    "flow": {},
    "text ensemble": {"text_ensemble": True},
    "ISD-ISD": {"states_from_image": True},
    "IAD-IAD": {"agnostic_context": True},
    "sentences": {"prompts": "sentences"},
    "agnostic": {"prompts": "agnostic", "deep_blocks": 3},
}
PAIRS = ("sentences", "agnostic")
NAMES = ["bottle", "metal nut", "hazel-nut"]
MAPS = {"projections", "attention", "pooling", "pixel_temperature", "image_temperature"}
"""Parts of the head that are no prompts."""


@pytest.fixture(scope="module")
def backbone():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Backbone(run_of("flow").backbone)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8))


def run_of(name: str, model: dict | None = None, **training) -> RunConfig:
    sizes = {} if name in PAIRS else {"num_prompts": 2, "flow_length": 2}
    values = {
        "backbone": {"name": "embedded"},
        "model": {**sizes, **(model or {}), "variant": VARIANTS[name]},
        "training": {"batch_size": 3, "learning_rate": 1e-3, **training},
    }
    return parse_config(RunConfig, values, "a test")


def trainer_of(backbone, name, **options) -> Trainer:
    return Trainer(run_of(name, **options), backbone, CPU, 1, 1)


def batch_of(trainer, rows: slice = slice(None)):
    pixels = torch.randn(3, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(3, 112, 112)
    masks[0, 10:60, 5:50] = 1
    refs = [SampleRef("", i, f"{i}.png", "c", NAMES[i], int(i == 0), f"{i:064}") for i in range(3)]
    return trainer.batch(pixels[rows], masks[rows], refs[rows])


def detector_of(backbone, tmp_path, name, **options) -> Detector:
    run = run_of(name, **options)
    torch.manual_seed(0)
    head = BayesPFL(run.model, Widths.from_backbone(backbone))
    for parameter in head.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return Detector(Bundle(tmp_path, run.detector(), head.state_dict(), {}), backbone, CPU)


@pytest.mark.parametrize("name", VARIANTS)
def test_it_learns_is_kept_and_scores(backbone, images, tmp_path, name):
    trainer = trainer_of(backbone, name)
    before = trainer.state().tensors
    first = trainer.step(batch_of(trainer))
    for _ in range(5):
        last = trainer.step(batch_of(trainer))
    assert last["total"] < first["total"]
    still = {key for key, value in trainer.state().tensors.items() if torch.equal(value, before.get(key, value + 1))}
    assert not {key for key in still if key.startswith("model.")}
    assert all(parameter.grad is None for parameter in backbone.parameters())

    run = trainer.run
    save_bundle(tmp_path / "bundle", run.detector(), trainer.model.state_dict(), {"kind": "a test"}, [])
    assert load_bundle(tmp_path / "bundle").config == run.detector()
    loaded = Detector(load_bundle(tmp_path / "bundle"), backbone, CPU)
    kept = Detector(Bundle(tmp_path, run.detector(), trainer.model.state_dict(), {}), backbone, CPU)
    alone, again = loaded.predict(images, NAMES, 7), kept.predict(images[::-1], NAMES[::-1], 7)[::-1]
    loaded._batch = 2  # as on a GPU
    together = loaded.predict(images, NAMES, 7)
    for ours, same, near in zip(alone, again, together, strict=True):
        assert ours.image_score == same.image_score
        assert np.array_equal(ours.anomaly_map, same.anomaly_map)
        assert near.image_score == pytest.approx(ours.image_score, abs=1e-5)
        assert np.abs(near.anomaly_map - ours.anomaly_map).max() < 1e-5
        spread = {each.uncertainty is not None for each in (ours, near)}
        spread |= {each.uncertainty_map is not None for each in (ours, near)}
        assert spread == {run.model.has_uncertainty}
    assert len({prediction.image_score for prediction in alone}) == 3


@pytest.mark.parametrize("name", VARIANTS)
def test_parts_of_a_batch_have_the_gradient_of_the_whole(backbone, name):
    options = {} if name in PAIRS else {"num_samples": 2}
    whole, cut = (trainer_of(backbone, name, accumulation_parts=parts, **options) for parts in (1, 3))
    expected, actual = whole.step(batch_of(whole)), cut.step(batch_of(cut))
    for term, value in expected.items():
        if not term.startswith("offset_ratio"):
            assert actual[term] == pytest.approx(value, rel=1e-4, abs=1e-4 if term.startswith("kl_") else 1e-6), term
    gradients = dict(cut.model.named_parameters())
    for key, parameter in whole.model.named_parameters():
        torch.testing.assert_close(gradients[key].grad, parameter.grad, rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", VARIANTS)
def test_fewer_samples_are_the_beginning_of_more_to_the_bit(backbone, images, tmp_path, name):
    detector = detector_of(backbone, tmp_path, name)
    (nested,) = detector.predict_nested(images[:1], NAMES[:1], [1, 3, 7])
    scores = []
    for number, prediction in nested.items():
        (single,) = detector.predict(images[:1], NAMES[:1], number)
        assert single.image_score == prediction.image_score
        assert np.array_equal(single.anomaly_map, prediction.anomaly_map)
        scores.append(single.image_score)
    assert len(set(scores)) == (1 if name in PAIRS else 3)


@torch.no_grad()
def expected_texts(detector, features, key, name, samples):
    """(samples, bank, 2, dim) of the flow, from the head's own parts."""
    method = detector.method
    noise = keyed_noise(0, [key], samples, detector.backbone.text_width, method.model.variant.states_from_image)
    return method.head.prompts(features, method._class_tokens(name), noise, method.encoder).text[0]


@torch.no_grad()
def test_a_text_ensemble_meets_the_image_with_the_mean_of_all_embeddings(backbone, images, tmp_path):
    detector = detector_of(backbone, tmp_path, "text ensemble")
    features, key = detector._encode(images[0])
    text = expected_texts(detector, features, key, NAMES[0], samples=3)
    assert text.norm(dim=-1).sub(1).abs().max() < 1e-5
    means = []
    for kind in range(2):
        rows = [text[r, b, kind] for r in range(3) for b in range(2)]
        mean = sum(rows) / len(rows)
        means.append(mean / mean.norm())
    pair = torch.stack(means)[None, None]
    image = Image(features.image[0], list(features.patches[:, 0]), [])
    anomaly = prompt_maps(detector.method.head, image, pair, 112)[:, 0, 1].mean(0)
    score = torch.softmax(text_logits(detector.method.head, image, pair, False)[0, 0], 0)[1]
    ours = detector.predict_features(features, key, NAMES[0], [3])[3]
    assert ours.text_score == pytest.approx(float(score), abs=1e-5)
    assert ours.map_score == pytest.approx(float(anomaly.max()), abs=1e-5)
    other = detector_of(backbone, tmp_path, "flow").predict_features(features, key, NAMES[0], [3])[3]
    assert abs(other.text_score - ours.text_score) > 1e-4


def test_a_text_ensemble_of_one_prompt_is_the_image_ensemble_to_the_bit(backbone, images, tmp_path):
    one = {"num_prompts": 1, "flow_length": 2}
    text, image = (detector_of(backbone, tmp_path, name, model=one) for name in ("text ensemble", "flow"))
    for batch in (1, 2):
        text._batch = image._batch = batch
        for ours, theirs in zip(text.predict(images, NAMES, 1), image.predict(images, NAMES, 1), strict=True):
            assert (ours.text_score, ours.map_score) == (theirs.text_score, theirs.map_score)
            assert np.array_equal(ours.anomaly_map, theirs.anomaly_map)
            assert ours.uncertainty is None
            assert theirs.uncertainty is not None


def test_a_text_ensemble_trains_as_an_image_ensemble_does(backbone):
    text, image = (trainer_of(backbone, name) for name in ("text ensemble", "flow"))
    assert text.step(batch_of(text)) == image.step(batch_of(image))
    assert all(torch.equal(value, text.state().tensors[key]) for key, value in image.state().tensors.items())


def test_samples_until_it_is_clear_are_all_samples_of_a_text_ensemble(backbone, images, tmp_path):
    detector = detector_of(backbone, tmp_path, "text ensemble")
    (ours,) = detector.predict(images[:1], NAMES[:1], "auto", threshold=0.0)
    (most,) = detector.predict(images[:1], NAMES[:1], 20)
    assert (ours.num_samples, ours.image_score) == (20, most.image_score)


@torch.no_grad()
def test_states_see_the_image_and_contexts_do_not_where_they_are_told_so(backbone, images, tmp_path):
    heads = {name: detector_of(backbone, tmp_path, name).method.head for name in ("flow", "ISD-ISD", "IAD-IAD")}
    encode = detector_of(backbone, tmp_path, "flow")._encode
    first, other = encode(images[0])[0], encode(images[1])[0]
    moves = {}
    for name, head in heads.items():
        width = backbone.text_width
        noise = keyed_noise(0, [b"a"], 2, width, states_by_image=name == "ISD-ISD")
        samples = [head.sample(features, noise) for features in (first, other)]
        moves[name] = [not torch.equal(a.offset, b.offset) for a, b in zip(*samples, strict=True)]
        assert not torch.equal(samples[0][1].offset, samples[0][2].offset)
    assert moves == {"flow": [True, False, False], "ISD-ISD": [True, True, True], "IAD-IAD": [False, False, False]}


def test_states_of_an_image_have_their_own_noise():
    noise = keyed_noise(3, [b"a", b"b"], 4, 5, states_by_image=True)
    turned = keyed_noise(3, [b"b", b"a"], 6, 5, states_by_image=True)
    shared = keyed_noise(3, [b"a", b"b"], 4, 5)
    assert torch.equal(noise.context, shared.context)
    for ours, theirs in zip(noise[1:], turned[1:], strict=True):
        assert torch.equal(ours, theirs.flip(0)[:, :4])
    streams = torch.stack([*noise.context, *noise.normal, *noise.abnormal, shared.normal, shared.abnormal]).flatten(1)
    assert len({tuple(stream.tolist()) for stream in streams}) == len(streams)


@torch.no_grad()
def test_sentences_are_april_gans(backbone, images, tmp_path):
    detector = detector_of(backbone, tmp_path, "sentences")
    text = []
    for sentences in APRIL_GAN_WORDING.sentences("metal nut"):
        rows = F.normalize(backbone.clip.encode_text(backbone.tokenizer(sentences)), dim=-1)
        text.append(F.normalize(rows.mean(0), dim=0))
    check_pair(detector, images[0], "metal nut", torch.stack(text))


@torch.no_grad()
def test_agnostic_prompts_are_anomaly_clips(backbone, images, tmp_path):
    detector = detector_of(backbone, tmp_path, "agnostic")
    prompts = detector.method.scorer.head.object_prompts
    assert (prompts.normal.shape, len(prompts.deep), prompts.deep[0].shape[0]) == ((12, 128), 2, 4)
    text = F.normalize(ObjectText(AnomalyClipConfig(deep_blocks=3), backbone).embeddings(prompts), dim=-1)
    check_pair(detector, images[0], "metal nut", text)
    ours, other = detector.predict([images[0]] * 2, ["metal nut", "cable"])
    assert ours.image_score == other.image_score


def check_pair(detector, pixels, name, pair):
    """Map and text score of one prompt of each kind, from the equations."""
    features, key = detector._encode(pixels)
    head, image = detector.method.scorer.head, Image(features.image[0], list(features.patches[:, 0]), [])
    anomaly = prompt_maps(head, image, pair[None, None], 112)[:, 0, 1].mean(0)
    score = torch.softmax(text_logits(head, image, pair[None, None], False)[0, 0], 0)[1]
    ours = detector.predict_features(features, key, name, [3])[3]
    assert ours.text_score == pytest.approx(float(score), abs=1e-5)
    assert ours.map_score == pytest.approx(float(anomaly.max()), abs=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_other_prompts_have_no_distribution_and_nothing_to_be_orthogonal_to(backbone, name):
    trainer = trainer_of(backbone, name)
    terms = trainer.step(batch_of(trainer))
    assert [terms[key] for key in ("orthogonality", "kl_context", "kl_normal", "kl_abnormal")] == [0, 0, 0, 0]
    assert terms["total"] == pytest.approx(terms["classification"] + terms["focal"] + terms["dice"], rel=1e-6)
    parts = {key.split(".")[0] for key in trainer.model.state_dict()}
    assert parts == MAPS | ({"object_prompts"} if name == "agnostic" else set())
    flow = {key.split(".")[0] for key in trainer_of(backbone, "flow").model.state_dict()}
    assert flow == MAPS | {"banks", "context", "states"}


def test_the_initial_weights_differ_in_what_the_variant_adds_alone(backbone):
    flow, isd, iad = (trainer_of(backbone, name).model.state_dict() for name in ("flow", "ISD-ISD", "IAD-IAD"))
    assert set(isd) == set(flow)
    assert set(iad) - set(flow) == {"free_context"}
    assert all(torch.equal(value, other[key]) for other in (isd, iad) for key, value in flow.items())


def test_learned_prompts_have_the_rate_of_prompts(backbone):
    for name, parts in (("IAD-IAD", {"banks", "context", "states", "free_context"}), ("agnostic", {"object_prompts"})):
        trainer = trainer_of(backbone, name, prompt_learning_rate=0.5)
        rates = {id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
        fast = {key.split(".")[0] for key, p in trainer.model.named_parameters() if rates[id(p)] == 0.5}
        assert fast == parts


def test_room_for_class_names_is_that_of_the_prompts(backbone, tmp_path):
    rooms = {name: detector_of(backbone, tmp_path, name).class_name_room for name in VARIANTS}
    assert rooms["agnostic"] > rooms["flow"] == rooms["ISD-ISD"]
    assert rooms["sentences"] < rooms["agnostic"]
    assert all(class_names(run_of(name)).room == room for name, room in rooms.items())


@pytest.mark.parametrize("name", VARIANTS)
def test_an_endpoint_promises_an_uncertainty_where_there_is_one(tmp_path, name):
    run = run_of(name)
    save_bundle(tmp_path / "bundle", run.detector(), {"weight": torch.zeros(1)}, {"kind": "a test"}, [])
    described = describe_bundle(load_bundle(tmp_path / "bundle"), "bundle")
    sizes = (described.num_prompts, described.flow_length)
    assert sizes == ((2, 2) if run.model.has_uncertainty else (None, None))
    card = (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    assert ("B = 2 prompts" in card) == (name not in PAIRS)
    assert (f"Prompts: {name}" in card) == (name in PAIRS)


def test_deep_blocks_that_the_text_encoder_lacks_are_refused(backbone):
    run = run_of("agnostic").model_copy(update={"model": ModelConfig(variant=PromptFlowVariant(prompts="agnostic"))})
    with pytest.raises(ConfigError, match="deep_blocks is 9, but the text encoder has 3 blocks"):
        Trainer(run, backbone, CPU, 1, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"variant": {"states_from_image": True, "state_distribution": False}}}, "needs state_distribution"),
        ({"model": {"variant": {"agnostic_context": True, "context_from_image": False}}}, "needs context_from_image"),
        ({"model": {"variant": {"states_from_image": True, "draws_in_order": True}}}, "set one"),
        ({"model": {"variant": {"deep_blocks": 3}}}, "belongs to prompts: agnostic"),
        ({"model": {"variant": {"prompts": "sentences", "deep_blocks": 3}}}, "belongs to prompts: agnostic"),
        (
            {"model": {"variant": {"prompts": "sentences", "text_ensemble": True}}},
            "which variant.text_ensemble would set",
        ),
        (
            {"model": {"num_prompts": 2, "variant": {"prompts": "agnostic", "hidden_width": 5}}},
            "variant.prompts agnostic has no prompt flow, which num_prompts, variant.hidden_width would set: leave",
        ),
        (
            {
                "model": {"variant": {"prompts": "sentences"}},
                "loss": {"orthogonal_mean": True, "variant": {"one_prompt_per_step": True}},
                "training": {"num_samples": 2, "prompt_learning_rate": 0.1},
            },
            "loss.orthogonal_mean, loss.variant.one_prompt_per_step, training.num_samples, "
            "training.prompt_learning_rate would set: leave that out",
        ),
        (
            {
                "model": {"variant": {"states_from_image": True}},
                "loss": {"variant": {"state_log_det_over_batch": True}},
            },
            "one for each image: set one of them",
        ),
        ({"model": {"text_ensemble": True}}, "did you mean 'model.variant.text_ensemble'"),
    ],
)
def test_settings_that_contradict_or_mean_nothing_are_refused(values, message):
    with pytest.raises(ConfigError) as error:
        parse_config(RunConfig, values, "a test")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_of_other_prompts_at_their_defaults_are_accepted():
    values = {"model": {"num_prompts": 3, "flow_length": 10, "variant": {"prompts": "sentences"}}}
    assert parse_config(RunConfig, values, "a test").model == ModelConfig(
        variant=PromptFlowVariant(prompts="sentences")
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_configurations_come_back_from_json_and_older_ones_are_written_as_before(name):
    run = run_of(name)
    assert RunConfig.model_validate_json(run.model_dump_json()) == run
    written = set(run.model_dump(mode="json")["model"]["variant"])
    new = {"prompts", "deep_blocks", "text_ensemble", "agnostic_context", "states_from_image"}
    assert written & new == set(VARIANTS[name])
    assert set(PromptFlowVariant.model_fields) - written == new - set(VARIANTS[name])
