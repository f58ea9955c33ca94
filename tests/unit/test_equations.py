"""The library equals CLIP's definition and the paper's equations: features, embeddings, loss terms, gradients."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_pfl.clip.backbone import Backbone, Features
from bayes_pfl.clip.prompt_encoder import PromptEncoder, pad_class_tokens
from bayes_pfl.config import BackboneConfig, LossConfig, LossVariant, ModelConfig, PromptFlowVariant, published_variant
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths
from bayes_pfl.methods.prompt_flow.losses import Target, losses
from bayes_pfl.methods.prompt_flow.noise import Noise
from tests.equations import Image, Step, training_losses
from tests.equations_clip import encode_image, encode_text

NAMES = ("gear", "metal plate with holes")
LAYERS = (1, 3)
ARCHITECTURE = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 21, "layers": 3, "width": 128, "patch_size": 7, "head_width": 64},
    "text_cfg": {"context_length": 30, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}


@pytest.fixture(scope="module", params=[False, True], ids=["exact GELU", "QuickGELU"])
def backbone(request, tmp_path_factory):
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("architecture") / "clip-of-equations.json"
    path.write_text(json.dumps(ARCHITECTURE))
    backbone = Backbone(
        BackboneConfig(
            name=str(path), pretrained="random:0", image_size=21, feature_layers=LAYERS, quick_gelu=request.param
        )
    )
    torch.manual_seed(0)
    for parameter in backbone.clip.parameters():  # large enough that the two activations differ
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return backbone


def images_of(backbone, count, seed=0):
    """Random patch features under the names, as the library and as the equations take them."""
    generator = torch.Generator().manual_seed(seed)
    layers, patches = len(LAYERS), 9
    features = Features(
        torch.randn(count, backbone.joint_width, generator=generator),
        torch.randn(layers, count, patches, backbone.patch_width, generator=generator),
    )
    names = [backbone.class_tokens(NAMES[index % len(NAMES)]) for index in range(count)]
    start = int(backbone.tokenizer.sot_token_id)
    images = [Image(features.image[i], list(features.patches[:, i]), names[i], start) for i in range(count)]
    return features, pad_class_tokens(names), images


def test_features_are_clips(backbone):
    pixels = torch.randn(2, 3, 21, 21)
    ours, clip = backbone.encode_image(pixels), backbone.clip.state_dict()
    for index, image in enumerate(pixels):
        feature, patches = encode_image(clip, image, list(LAYERS), backbone.config.quick_gelu)
        assert torch.allclose(ours.image[index], feature, atol=2e-5)
        assert torch.allclose(ours.patches[:, index], torch.stack(patches), atol=2e-5)
        other, _ = encode_image(clip, image, list(LAYERS), not backbone.config.quick_gelu)
        assert (ours.image[index] - other).abs().max() > 1e-3


@settings(max_examples=10, deadline=None)
@given(context=st.integers(1, 4), state=st.integers(1, 4), seed=st.integers(0, 99))
def test_prompts_are_embedded_as_whole_sequences_are(backbone, context, state, seed):
    torch.manual_seed(seed)
    words, normal, abnormal = (torch.randn(2, 3, length, backbone.text_width) for length in (context, state, state))
    _, tokens, images = images_of(backbone, 2)
    with torch.no_grad():
        ours = PromptEncoder(backbone)(words, normal, abnormal, tokens)
    clip = backbone.clip.state_dict()
    for i, image in enumerate(images):
        for b in range(3):
            for kind, bank in enumerate((normal, abnormal)):
                vectors = torch.cat([words[i, b], bank[i, b]])
                whole = encode_text(clip, vectors, image.name, image.start, backbone.config.quick_gelu)
                assert torch.allclose(ours[i, b, kind], whole, atol=2e-5)


WITHOUT_PARTS = PromptFlowVariant(context_from_image=False, state_distribution=False, residual_attention=False)
VARIANTS = {
    "paper": (ModelConfig(num_prompts=2, flow_length=3), LossConfig()),
    "paper without its parts": (
        ModelConfig(num_prompts=2, variant=WITHOUT_PARTS),
        LossConfig(orthogonal_weight=0.3, kl_weight=1.0),
    ),
    "ISD-ISD": (
        ModelConfig(num_prompts=2, flow_length=2, variant=PromptFlowVariant(states_from_image=True)),
        LossConfig(kl_weight=1.0),
    ),
    "IAD-IAD": (
        ModelConfig(num_prompts=2, flow_length=2, variant=PromptFlowVariant(agnostic_context=True)),
        LossConfig(kl_weight=1.0),
    ),
    "both the other way round": (
        ModelConfig(
            num_prompts=1,
            flow_length=1,
            variant=PromptFlowVariant(
                agnostic_context=True,
                states_from_image=True,
                separate_state_flows=True,
                amortized_context_flow=True,
                condition_on_patches=False,
            ),
        ),
        LossConfig(),
    ),
    "released": (
        published_variant(ModelConfig(num_prompts=3, context_tokens=2, flow_length=2)),
        LossConfig(
            orthogonal_mean=True,
            variant=LossVariant(classify_class_token=True, one_prompt_per_step=True, state_log_det_over_batch=True),
        ),
    ),
    "released, second stage": (
        published_variant(ModelConfig(num_prompts=2, state_tokens=1, flow_length=1)),
        LossConfig(orthogonal_mean=True, variant=LossVariant(state_log_det_over_batch=True)),
    ),
}


@pytest.mark.parametrize("backbone", [False], ids=["exact GELU"], indirect=True)
@pytest.mark.parametrize(("model_config", "loss_config"), VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("labels", [(1, 0), (0, 0), (1, 1, 1)], ids=str)
def test_losses_and_gradients_are_those_of_the_equations(backbone, model_config, loss_config, labels):
    torch.manual_seed(1)
    widths = Widths.from_backbone(backbone)
    model = BayesPFL(model_config, widths)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    count, size = len(labels), 12
    features, tokens, images = images_of(backbone, count, seed=2)
    label = torch.tensor(labels)
    mask = (torch.rand(count, size, size) < 0.3).float() * label.view(-1, 1, 1)
    by_image = (count,) if model_config.variant.states_from_image else ()
    states = [torch.randn(*by_image, 1, widths.text) for _ in range(2)]
    noise = Noise(torch.randn(count, 1, widths.text), *states)
    bank = slice(1, 2) if loss_config.variant.one_prompt_per_step else slice(None)
    step = Step(images, noise.context[:, 0], noise.normal[..., 0, :], noise.abnormal[..., 0, :], label, mask, bank)
    expected, _ = training_losses(model, backbone.clip.state_dict(), step, loss_config)
    expected["total"].backward()
    theirs = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    prompts, logits = model(
        features, tokens, noise, PromptEncoder(backbone), bank, loss_config.variant.classify_class_token
    )
    terms = losses(prompts, logits, Target(label.float(), mask), loss_config, model_config.variant.upsampled_corners)
    for name, value in terms._asdict().items():
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-5, abs=2e-5), (
            name
        )  # the KL terms are differences of larger numbers
    terms.total.backward()
    compared = 0
    for name, parameter in model.named_parameters():
        if theirs[name] is None or parameter.grad is None:
            assert all(grad is None or grad.abs().max() < 1e-6 for grad in (theirs[name], parameter.grad)), name
            continue
        compared += 1
        largest = theirs[name].abs().max().item()
        assert (parameter.grad - theirs[name]).abs().max().item() <= 1e-4 * largest + 1e-6, name
    assert compared >= 8
    assert all(parameter.grad is None for parameter in backbone.parameters())
