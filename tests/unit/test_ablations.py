"""Every setting that takes a part of the model away takes just that part away (Table 2 of the paper)."""

import pytest
import torch

from bayes_pfl.clip.backbone import Features
from bayes_pfl.config import ModelConfig, PromptFlowVariant, parse_config
from bayes_pfl.errors import ConfigError
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths

WIDTHS = Widths(joint=8, text=6, patch=5, layers=2)


def model(**changes: object) -> BayesPFL:
    torch.manual_seed(0)
    return BayesPFL(ModelConfig(num_prompts=2, flow_length=1, variant=PromptFlowVariant(**changes)), WIDTHS)


def features(seed: int) -> Features:
    random = torch.Generator().manual_seed(seed)
    return Features(torch.randn(3, 8, generator=random), torch.randn(2, 3, 4, 5, generator=random))


def test_x_is_the_sum_of_its_two_parts_and_each_part_alone_is_that_part():
    seen = features(1)
    both, tokens = model().global_feature(seen), model(patches_in_image=False).global_feature(seen)
    patches = model(class_token_in_image=False).global_feature(seen)
    assert torch.equal(tokens, seen.image)
    assert torch.allclose(both, tokens + patches)
    assert not torch.allclose(patches, torch.zeros_like(patches))


def test_what_is_switched_off_changes_nothing():
    first, other = features(1), features(2)
    mixed = Features(first.image, other.patches)
    without_patches, without_token = model(patches_in_image=False), model(class_token_in_image=False)
    text = torch.nn.functional.normalize(torch.randn(3, 1, 2, 2, 8, generator=torch.Generator().manual_seed(3)), dim=-1)
    assert torch.equal(without_patches.image_logits(first, text), without_patches.image_logits(mixed, text))
    assert torch.equal(without_token.image_logits(other, text), without_token.image_logits(mixed, text))
    assert not torch.equal(model().image_logits(first, text), model().image_logits(mixed, text))


def test_an_image_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="cannot both be off"):
        parse_config(PromptFlowVariant, {"class_token_in_image": False, "patches_in_image": False}, "a test")
