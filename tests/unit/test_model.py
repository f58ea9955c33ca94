"""The fast path equals one written from the equations: full sequences, two maps and a softmax, all materialised."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import BACKBONE
from torch.nn import functional as F

from bayes_pfl.clip.backbone import Backbone, Features
from bayes_pfl.clip.prompt_encoder import PromptEncoder, pad_class_tokens
from bayes_pfl.config import BackboneConfig, ModelConfig, PromptFlowVariant, published_variant
from bayes_pfl.errors import BackboneError, ConfigError
from bayes_pfl.methods.maps import MapAccumulator, smooth
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths
from bayes_pfl.methods.prompt_flow.noise import Noise

SIZE = 20


@pytest.fixture(scope="module")
def backbone():
    torch.set_num_threads(1)
    return Backbone(BACKBONE)


def plain_embedding(tower, vectors, class_ids, start):
    """Embedding of learned vectors and a class name, padded to the full context, by open_clip's own transformer."""
    context = tower.positional_embedding.shape[0]
    words = tower.token_embedding.weight
    sequence = torch.cat([words[start][None], vectors, words[class_ids]])
    end = len(sequence) - 1
    sequence = torch.cat([sequence, words[0][None].expand(context - len(sequence), -1)])
    hidden = tower.transformer((sequence + tower.positional_embedding)[None], attn_mask=tower.attn_mask)
    return F.normalize(tower.ln_final(hidden)[0, end] @ tower.text_projection, dim=-1)


def slow(model, backbone, features, class_ids, noise):
    """Maps and text scores of one image, prompt by prompt, from eq. 6, 8-12."""
    config, banks, tower = model.config, model.banks, backbone.text_tower
    context, normal, abnormal = model.sample(features, noise)
    scale, start = config.offset_scale, backbone.tokenizer.sot_token_id
    projected = [project(layer[0]) for project, layer in zip(model.projections, features.patches, strict=True)]
    image = model.global_feature(features)
    if model.image_mapping is not None:
        image = model.image_mapping(image)
    image = F.normalize(image[0], dim=-1)
    maps, text_scores = [], []
    for r in range(noise.normal.shape[0]):
        for b in range(config.num_prompts):
            pair = []
            for bank, state in ((banks.normal, normal), (banks.abnormal, abnormal)):
                vectors = torch.cat(
                    [banks.context[b] + scale * context.offset[0, r], bank[b] + scale * state.offset[r]]
                )
                pair.append(plain_embedding(tower, vectors, class_ids, start))
            z = torch.stack(pair)
            mapped = z if model.class_mapping is None else F.normalize(model.class_mapping(z), dim=-1)
            text_scores.append(torch.softmax(model.image_temperature.exp() * mapped @ image, 0)[1])
            for patches in projected:
                unit = F.normalize(patches, dim=-1)
                keys = unit if config.variant.attention_normalized_keys else patches
                heads = config.variant.attention_heads
                refined = torch.empty_like(z)
                for head in range(heads):
                    part = slice(head * z.shape[1] // heads, (head + 1) * z.shape[1] // heads)
                    query = model.attention.query(z)[:, part]
                    weights = torch.softmax(query @ keys[:, part].T / z.shape[1] ** 0.5, -1)
                    refined[:, part] = z[:, part] + weights @ keys[:, part]
                similar = model.pixel_temperature.exp() * unit @ F.normalize(refined, dim=-1).T
                side = int(len(patches) ** 0.5)
                two = similar.T.view(1, 2, side, side)
                full = F.interpolate(
                    two, size=(SIZE, SIZE), mode="bilinear", align_corners=config.variant.upsampled_corners
                )
                maps.append(torch.softmax(full[0], 0)[1])
    return torch.stack(maps), torch.stack(text_scores)


@settings(max_examples=12, deadline=None)
@given(
    prompts=st.integers(1, 3),
    context=st.integers(1, 4),
    state=st.integers(1, 4),
    length=st.integers(0, 3),
    samples=st.integers(1, 3),
    released=st.booleans(),
    name=st.sampled_from(["gear", "metal plate", "hex nut"]),
    seed=st.integers(0, 99),
)
def test_fast_equals_slow(backbone, prompts, context, state, length, samples, released, name, seed):
    length = (
        max(1, length) if released else length
    )  # torch warns of the empty layers of an amortised flow without steps
    config = ModelConfig(num_prompts=prompts, context_tokens=context, state_tokens=state, flow_length=length)
    torch.manual_seed(seed)
    model = BayesPFL(published_variant(config) if released else config, Widths.from_backbone(backbone))
    width, patches = backbone.text_width, 9
    features = Features(torch.randn(1, backbone.joint_width), torch.randn(4, 1, patches, backbone.patch_width))
    noise = Noise(torch.randn(1, samples, width), torch.randn(samples, width), torch.randn(samples, width))
    ids = backbone.class_tokens(name)
    with torch.no_grad():
        maps, scores = slow(model, backbone, features, ids, noise)
        fast = model.prompts(features, pad_class_tokens([ids]), noise, PromptEncoder(backbone))
        pixel = model.pixel_logits(model.patch_features(features), fast.text)[:, 0]
        accumulated = MapAccumulator(SIZE, 3, [samples], model.config.variant.upsampled_corners)
        accumulated.add(pixel, model.image_logits(features, fast.text)[0])
        result = accumulated.result(samples)
    assert torch.allclose(result.anomaly_map, maps.mean(0), atol=1e-5)
    by_prompt = maps.view(samples * prompts, 4, SIZE, SIZE).mean(1)
    assert torch.allclose(result.uncertainty_map, by_prompt.std(0, correction=0), atol=1e-5)
    assert torch.allclose(result.map_maxima.flatten(), by_prompt.amax((1, 2)), atol=1e-5)
    assert torch.allclose(result.text_scores.flatten(), scores, atol=1e-5)


def test_a_batch_of_different_names_equals_one_by_one(backbone):
    torch.manual_seed(0)
    model, width = BayesPFL(ModelConfig(), Widths.from_backbone(backbone)), backbone.text_width
    features = Features(torch.randn(3, backbone.joint_width), torch.randn(4, 3, 9, backbone.patch_width))
    noise = Noise(torch.randn(3, 2, width), torch.randn(2, width), torch.randn(2, width))
    ids = [backbone.class_tokens(name) for name in ("gear", "a long metal plate with holes", "nut")]
    encoder = PromptEncoder(backbone)
    with torch.no_grad():
        together = model.prompts(features, pad_class_tokens(ids), noise, encoder).text
        for image in range(3):
            row = slice(image, image + 1)
            alone = Features(features.image[row], features.patches[:, row])
            own = Noise(noise.context[row], noise.normal, noise.abnormal)
            assert torch.allclose(
                model.prompts(alone, pad_class_tokens(ids[row]), own, encoder).text[0], together[image], atol=1e-6
            )


def test_gradients_reach_the_head_and_never_clip(backbone):
    torch.manual_seed(0)
    model, width = BayesPFL(ModelConfig(), Widths.from_backbone(backbone)), backbone.text_width
    features = Features(torch.randn(1, backbone.joint_width), torch.randn(4, 1, 9, backbone.patch_width))
    noise = Noise(torch.randn(1, 1, width), torch.randn(1, width), torch.randn(1, width))
    _, logits = model(features, pad_class_tokens([backbone.class_tokens("gear")]), noise, PromptEncoder(backbone))
    (logits.pixel.square().sum() + logits.image.square().sum()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for name, p in model.named_parameters())
    assert all(p.grad is None and not p.requires_grad for p in backbone.parameters())


def test_smoothing_keeps_a_constant_and_equals_scipy():
    from scipy.ndimage import gaussian_filter

    field = np.random.default_rng(0).random((40, 30)).astype(np.float32)
    ours = smooth(torch.from_numpy(field), 2.0).numpy()
    assert np.allclose(ours, gaussian_filter(field, 2.0, mode="mirror", truncate=4.0), atol=1e-5)
    assert torch.equal(smooth(torch.from_numpy(field), 0.0), torch.from_numpy(field))


@pytest.mark.parametrize(
    "text", [{"no_causal_mask": True}, {"pool_type": "last"}, {"pool_type": "first"}, {"embed_cls": True}]
)
def test_text_towers_that_read_otherwise_are_refused(tmp_path, text):
    vision = {"image_size": 28, "layers": 1, "width": 64, "patch_size": 14, "head_width": 64}
    plain = {"context_length": 30, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    for index, (options, fits) in enumerate(((plain, True), (plain | text, False))):
        path = tmp_path / f"{'-'.join(text)}-{'-'.join(map(str, text.values()))}-{index}.json"
        path.write_text(json.dumps({"embed_dim": 64, "vision_cfg": vision, "text_cfg": options, "custom_text": True}))
        clip = Backbone(BackboneConfig(name=str(path), pretrained="random:0", image_size=28, feature_layers=(1,)))
        if fits:
            PromptEncoder(clip)
        else:
            with pytest.raises(BackboneError, match="has a text tower that is not CLIP's"):
                PromptEncoder(clip)


def test_heads_that_do_not_divide_the_width_are_refused():
    config = ModelConfig(variant=PromptFlowVariant(attention_heads=3))
    with pytest.raises(ConfigError, match="attention_heads is 3, which does not divide the joint width 64"):
        BayesPFL(config, Widths(joint=64, text=64, patch=64, layers=1))
