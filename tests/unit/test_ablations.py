"""Every switch of the paper's Table 2 takes away what the table says, and nothing else, on one set of weights."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from small import BACKBONE
from torch import Tensor
from torch.nn import functional as F

from bayes_pfl.clip.backbone import Backbone, Features
from bayes_pfl.clip.prompt_encoder import PromptEncoder, pad_class_tokens
from bayes_pfl.config import LossConfig, ModelConfig, PromptFlowVariant, ScoringConfig, parse_config
from bayes_pfl.errors import ConfigError
from bayes_pfl.inference.prediction import prediction
from bayes_pfl.methods.maps import PromptScores
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths
from bayes_pfl.methods.prompt_flow.losses import LossTerms, Target, losses
from bayes_pfl.methods.prompt_flow.noise import Noise
from tests.equations import Image, Sample, distributions, patch_vector, refine

SAMPLES, BANK, LAYERS, SIZE = 2, 2, 4, 12
GONE = {
    "context_from_image": {"context"},
    "state_distribution": {"states"},
    "residual_attention": {"attention"},
    "class_token_in_image": set(),
    "patches_in_image": set(),
}
"""Parts of the head that a switch takes away, by the switch."""
CASES = [*((name,) for name in GONE), ("context_from_image", "state_distribution"), ()]


class World(NamedTuple):
    """One image, its draws and a whole head."""

    backbone: Backbone
    features: Features
    image: Image
    noise: Noise
    whole: BayesPFL


class Outcome(NamedTuple):
    """What a head makes of the image."""

    text: Tensor
    """(samples, bank, 2, dim)."""
    maps: Tensor
    """(samples x bank, size, size): mean over layers of the abnormal probability."""
    text_scores: Tensor
    """(samples x bank)."""


@pytest.fixture(scope="module")
def world():
    torch.set_num_threads(1)
    backbone = Backbone(BACKBONE)
    torch.manual_seed(0)
    for parameter in backbone.parameters():  # large enough that offsets of prompts matter
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    features = Features(torch.randn(1, backbone.joint_width), torch.randn(LAYERS, 1, 9, backbone.patch_width))
    ids, start = backbone.class_tokens("metal nut"), int(backbone.tokenizer.sot_token_id)
    image = Image(features.image[0], list(features.patches[:, 0]), ids, start)
    width = backbone.text_width
    noise = Noise(torch.randn(1, SAMPLES, width), torch.randn(SAMPLES, width), torch.randn(SAMPLES, width))
    whole = BayesPFL(config_without(()), Widths.from_backbone(backbone))
    for parameter in whole.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return World(backbone, features, image, noise, whole)


def config_without(switches) -> ModelConfig:
    variant = PromptFlowVariant(**dict.fromkeys(switches, False))
    return ModelConfig(num_prompts=BANK, flow_length=2, offset_scale=1.0, variant=variant)


def head_without(world, switches) -> BayesPFL:
    """A head with these switches off and the weights of the whole one."""
    head, weights = BayesPFL(config_without(switches), Widths.from_backbone(world.backbone)), world.whole.state_dict()
    gone = set().union(*(GONE[name] for name in switches))
    assert set(head.state_dict()) == {key for key in weights if key.split(".")[0] not in gone}
    head.load_state_dict({key: weights[key] for key in head.state_dict()})
    return head


@torch.no_grad()
def outcome(world, head) -> Outcome:
    """By the library."""
    tokens = pad_class_tokens([world.image.name])
    prompts, logits = head(world.features, tokens, world.noise, PromptEncoder(world.backbone))
    side = math.isqrt(logits.pixel.shape[-1])
    grid = logits.pixel[:, 0].flatten(1, 2).unflatten(-1, (side, side))
    maps = F.interpolate(grid, (SIZE, SIZE), mode="bilinear").sigmoid().mean(0)
    return Outcome(prompts.text[0], maps, logits.image[0].sigmoid().flatten())


@torch.no_grad()
def by_hand(world, switches) -> Outcome:
    """By the equations, on the whole head's weights: the parts are left out here."""
    whole, image = world.whole, world.image
    x = torch.zeros_like(image.cls)
    x = x + (0 if "class_token_in_image" in switches else image.cls)
    x = x + (0 if "patches_in_image" in switches else patch_vector(whole, image.patches))
    # `distributions` computes x as the sum of both: what is to be x goes in as x_cls, less the patches' part
    seen = image._replace(cls=x - patch_vector(whole, image.patches))
    rows = []
    for context, normal, abnormal in zip(world.noise.context[0], world.noise.normal, world.noise.abnormal, strict=True):
        drawn = distributions(whole, seen, context, normal, abnormal)
        nothing = Sample(torch.zeros_like(context), *torch.zeros(3))
        if "context_from_image" in switches:
            drawn = [nothing, *drawn[1:]]
        if "state_distribution" in switches:
            drawn = [drawn[0], nothing, nothing]
        rows.append(torch.stack([plain_pair(world, drawn, b) for b in range(BANK)]))
    text = torch.stack(rows)
    maps = [map_of(whole, image, pair, "residual_attention" in switches) for pair in text.flatten(0, 1)]
    similar = text.flatten(0, 1) @ F.normalize(x, dim=0) * whole.image_temperature.exp()
    return Outcome(text, torch.stack(maps), similar.softmax(-1)[:, 1])


def plain_pair(world, drawn, b) -> Tensor:
    """Embeddings of prompt b, each through open_clip's own transformer as a whole sequence."""
    tower, banks, pair = world.backbone.text_tower, world.whole.banks, []
    words = tower.token_embedding.weight
    for state in (banks.normal[b] + drawn[1].z, banks.abnormal[b] + drawn[2].z):
        sequence = torch.cat([words[world.image.start][None], banks.context[b] + drawn[0].z, state])
        sequence = torch.cat([sequence, words[world.image.name]])
        length = len(sequence)
        hidden = tower.transformer(
            (sequence + tower.positional_embedding[:length])[None], attn_mask=tower.attn_mask[:length, :length]
        )
        pair.append(F.normalize(tower.ln_final(hidden)[0, -1] @ tower.text_projection, dim=0))
    return torch.stack(pair)


def map_of(head, image, pair, without_attention) -> Tensor:
    """Mean over layers of the abnormal probability of one prompt pair."""
    maps = []
    for project, patches in zip(head.projections, image.patches, strict=True):
        tokens = patches @ project.weight.T
        refined = pair if without_attention else refine(head, pair, tokens)
        similar = F.normalize(tokens, dim=-1) @ F.normalize(refined, dim=-1).T * head.pixel_temperature.exp()
        grid = similar.T.view(1, 2, 3, 3)
        maps.append(F.interpolate(grid, (SIZE, SIZE), mode="bilinear")[0].softmax(0)[1])
    return torch.stack(maps).mean(0)


@pytest.mark.parametrize("switches", CASES, ids=lambda switches: " and ".join(switches) or "nothing")
def test_what_is_left_are_the_equations_without_that_part(world, switches):
    ours, theirs = outcome(world, head_without(world, switches)), by_hand(world, switches)
    for name, value in ours._asdict().items():
        assert torch.allclose(value, getattr(theirs, name), atol=2e-5), name


CHANGES = {
    ("context_from_image",): (True, True, True),
    ("state_distribution",): (True, True, True),
    ("residual_attention",): (False, True, False),
    ("class_token_in_image",): (True, True, True),
    ("patches_in_image",): (True, True, True),
}


@pytest.mark.parametrize("switches", CHANGES, ids=lambda switches: switches[0])
def test_a_switch_changes_what_lies_behind_its_part_and_nothing_before(world, switches):
    ours, whole = outcome(world, head_without(world, switches)), outcome(world, world.whole)
    moved = tuple(not torch.equal(a, b) for a, b in zip(ours, whole, strict=True))
    assert moved == CHANGES[switches]
    assert all((a - b).abs().max() > 1e-3 for a, b, m in zip(ours, whole, moved, strict=True) if m)


def test_x_is_one_vector_of_which_the_context_and_the_text_score_see_what_is_left(world):
    other = Features(world.features.image, torch.randn_like(world.features.patches))
    turned = Features(torch.randn_like(world.features.image), world.features.patches)
    text = outcome(world, world.whole).text[None]
    for switches, blind, seeing in (
        (("patches_in_image",), other, turned),
        (("class_token_in_image",), turned, other),
    ):
        head = head_without(world, switches)
        for changed, same in ((blind, True), (seeing, False)):
            for function in (
                lambda features, head=head: head.image_logits(features, text),
                lambda features, head=head: head.sample_context(features, world.noise.context).offset,
            ):
                assert torch.equal(function(world.features), function(changed)) == same


@pytest.mark.parametrize("switches", CASES, ids=lambda switches: " and ".join(switches) or "nothing")
def test_a_distribution_that_is_off_has_no_divergence_and_the_others_have_theirs(world, switches):
    ours, whole = terms_of(world, head_without(world, switches)), terms_of(world, world.whole)
    gone = set().union(*(GONE[name] for name in switches))
    x_changes = bool({"class_token_in_image", "patches_in_image"} & set(switches))
    assert (ours.kl_context == 0) == ("context" in gone)
    assert (ours.kl_context == whole.kl_context) == ("context" not in gone and not x_changes)
    for name in ("kl_normal", "kl_abnormal"):
        assert getattr(ours, name) == (0 if "states" in gone else getattr(whole, name))


def terms_of(world, head, loss: LossConfig | None = None) -> LossTerms:
    tokens = pad_class_tokens([world.image.name])
    prompts, logits = head(world.features, tokens, world.noise, PromptEncoder(world.backbone))
    mask = torch.zeros(1, SIZE, SIZE)
    mask[0, 2:7, 3:9] = 1
    return losses(prompts, logits, Target(torch.ones(1), mask), loss or LossConfig(), align_corners=False)


def test_without_the_orthogonal_loss_the_total_lacks_that_term_and_its_gradient(world):
    head = head_without(world, ())
    whole, without = terms_of(world, head), terms_of(world, head, LossConfig(orthogonal_weight=0))
    assert whole._replace(total=without.total) == without
    assert float(whole.orthogonality.detach()) > 0.1
    rest = without.classification + without.focal + without.dice
    rest = rest + 0.01 * (without.kl_context + without.kl_normal + without.kl_abnormal)
    assert float(without.total.detach()) == pytest.approx(float(rest.detach()), rel=1e-6)
    assert float((whole.total - without.total).detach()) == pytest.approx(float(whole.orthogonality.detach()), rel=1e-4)
    parameters = list(head.parameters())
    expected = torch.autograd.grad(rest, parameters, retain_graph=True, allow_unused=True)
    actual = torch.autograd.grad(without.total, parameters, allow_unused=True)
    for ours, theirs in zip(actual, expected, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def scores_of(world) -> PromptScores:
    result = outcome(world, world.whole)
    maps = result.maps.view(SAMPLES, BANK, SIZE, SIZE)
    mean, deviation = maps.mean((0, 1)), maps.flatten(0, 1).std(0, correction=0)
    return PromptScores(mean, deviation, result.text_scores.view(SAMPLES, BANK), maps.amax((2, 3)))


@pytest.mark.parametrize(
    ("weights", "parts"),
    [({}, (0.5, 0.5)), ({"text_weight": 0.0}, (0.0, 0.5)), ({"map_weight": 0.0}, (0.5, 0.0))],
    ids=["both", "without s_text", "without s_img"],
)
def test_the_image_score_is_what_is_left_of_it(world, weights, parts):
    scores = scores_of(world)
    ours, whole = (
        prediction(scores, ScoringConfig(smoothing_sigma_px=1, **options), num_samples=SAMPLES)
        for options in (weights, {})
    )
    text, peaks = scores.text_scores.numpy().astype(float), scores.map_maxima.numpy().astype(float)
    peak = float(scores.anomaly_map.max())
    assert ours.image_score == pytest.approx(parts[0] * text.mean() + parts[1] * peak, rel=1e-6)
    assert ours.uncertainty == pytest.approx((parts[0] * text + parts[1] * peaks).std(), rel=1e-5)
    assert (ours.text_score, ours.map_score) == (whole.text_score, whole.map_score)
    assert np.array_equal(ours.anomaly_map, whole.anomaly_map)
    assert np.array_equal(ours.uncertainty_map, whole.uncertainty_map)


def test_an_image_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="cannot both be off"):
        parse_config(PromptFlowVariant, {"class_token_in_image": False, "patches_in_image": False}, "a test")
