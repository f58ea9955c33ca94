"""The authors' checkpoints become bundles, and everything that is none is refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bayes_pfl.config import ModelConfig, PromptFlowVariant, published_variant, read_config
from bayes_pfl.errors import BundleError
from bayes_pfl.inference.bundle import load_bundle
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Widths
from bayes_pfl.methods.prompt_flow.published import convert_published, our_key, published_widths
from pipelines.cli import main
from pipelines.platform.settings import TrainSettings

RECORDED = Path(__file__).parents[1] / "parity" / "recorded.npz"
VISION = {"image_size": 112, "layers": 12, "width": 64, "patch_size": 14, "head_width": 64}
TEXT = {"context_length": 77, "vocab_size": 49409, "width": 64, "heads": 1, "layers": 3}


@pytest.fixture(scope="module")
def head():
    with np.load(RECORDED, allow_pickle=False) as file:
        return {
            name.removeprefix("head/"): torch.from_numpy(file[name]) for name in file.files if name.startswith("head/")
        }


@pytest.fixture
def architecture(tmp_path):
    path = tmp_path / "published-test-clip.json"
    path.write_text(json.dumps({"embed_dim": 64, "vision_cfg": VISION, "text_cfg": TEXT}))
    return path


def import_into(folder: Path, content, *more: str) -> int:
    torch.save(content, folder / "train.pth")
    return main(["import", str(folder / "train.pth"), "--output", str(folder / "bundle"), *more])


def test_a_checkpoint_becomes_a_bundle_without_clips_weights(head, architecture, tmp_path, capsys):
    assert (
        import_into(
            tmp_path, {"MyModel": head}, "--backbone", str(architecture), "--pretrained", "nowhere.pt", "--json"
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["model"] == str(tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.config.model == published_variant(
        ModelConfig(
            num_prompts=3,
            context_tokens=5,
            state_tokens=5,
            flow_length=10,
            variant=PromptFlowVariant(hidden_width=32, pooling_width=32),
        )
    )
    assert bundle.config.backbone.feature_layers == (3, 6, 9, 12)
    assert not bundle.config.backbone.quick_gelu
    assert torch.equal(bundle.weights["states.flows.1.u"], head["PFL_abnormal.amor_u"][0, :, :, 0])
    assert torch.equal(bundle.weights["states.flows.0.w"], head["PFL_normal.amor_w"][0, :, 0])
    assert torch.equal(bundle.weights["attention.query.weight"], head["RCA.q_proj_pre.weight"][:, :, 0])


def test_the_released_draws_are_there_where_they_are_asked_for(head, architecture, tmp_path):
    for flags, expected in (((), False), (("--released-draws",), True)):
        folder = tmp_path / str(expected)
        folder.mkdir()
        assert import_into(folder, {"MyModel": head}, "--backbone", str(architecture), *flags) == 0
        assert load_bundle(folder / "bundle").config.model.variant.draws_in_order is expected


def test_weights_that_are_never_used_need_not_be_there(head):
    unused = ("context_decoder.", "state_decoder.", "PFL_context.p_mu.", "PFL_normal.decoder.", "PFL_abnormal.encoder.")
    without = {key: value for key, value in head.items() if not key.startswith(unused)}
    assert len(without) < len(head)
    config, weights = convert_published(without)
    whole_config, whole = convert_published(head)
    assert config == whole_config
    assert weights.keys() == whole.keys()


def test_no_flow_at_all_is_a_length_too(head):
    none = {
        key: value[:0] if key.startswith("PFL_context.amor") else value[:, :0] if ".amor_" in key else value
        for key, value in head.items()
    }
    config, weights = convert_published(none)
    assert config.flow_length == 0
    model = BayesPFL(config, published_widths(weights))
    model.load_state_dict(weights)
    condition, noise = torch.randn(2, 64), torch.randn(2, 3, 64)
    offset, _, log_det = model.context(condition, noise)
    start, _ = model.context.density.sample(condition, noise)
    assert torch.equal(offset, start)
    assert torch.equal(log_det, torch.zeros(2, 3))


def test_every_key_that_does_not_fit_is_listed(head, tmp_path, capsys):
    wrong = {**head, "surprise.weight": torch.ones(1), "class_mapping.scale": torch.ones(1)}
    for key in ("prompt_context", "image_mapping.bias", "RCA.linear_proj.1.weight"):
        del wrong[key]
    del wrong["fuse.compress.weight"], wrong["fuse.compress.bias"]
    assert import_into(tmp_path, {"MyModel": wrong}) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert all(key in message for key in ("surprise.weight", "prompt_context", "fuse.compress"))
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    "key", ["image_mapping.bias", "context_encoder.weight_mean.module.2.weight", "PFL_normal.state"]
)
def test_one_missing_tensor_goes_by_its_published_name(head, key):
    with pytest.raises(BundleError, match=key):
        convert_published({name: value for name, value in head.items() if name != key})


@pytest.mark.parametrize(
    "key", ["class_mapping.weight", "PFL_abnormal.amor_w", "temperature_pixel", "PFL_context.amor_b.bias"]
)
def test_one_tensor_of_another_shape_is_refused(head, key):
    with pytest.raises(BundleError, match="These are not the published weights"):
        convert_published({**head, key: torch.zeros(2, 3, 4, 5)})


def test_another_backbone_is_refused_before_anything_is_written(head, tmp_path, capsys):
    assert import_into(tmp_path, {"MyModel": head}) == 2
    assert "ViT-L-14-336 has (768, 768, 1024)" in capsys.readouterr().err
    assert import_into(tmp_path, {"MyModel": head}, "--backbone", "ViT-Z") == 2
    assert "no architecture 'ViT-Z'" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_one_sentence(tmp_path, capsys, content):
    (tmp_path / "train.pth").write_bytes(content)
    assert main(["import", str(tmp_path / "train.pth"), "--output", str(tmp_path / "bundle")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["import", str(tmp_path / "missing.pth"), "--output", str(tmp_path / "bundle")]) == 2
    assert "missing.pth" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", [{"other": {}}, [1, 2], {"MyModel": {"prompt_context": "text"}}, {"MyModel": Path("x")}]
)
def test_a_checkpoint_of_something_else_is_one_sentence(tmp_path, capsys, content):
    assert import_into(tmp_path, content) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "bundle").exists()


PUBLISHED_SHAPES = {
    "prompt_context": (3, 5, 768),
    "context_encoder.weight_mean.module.0.weight": (512, 768),
    "context_encoder.weight_mean.module.2.weight": (512, 512),
    "context_encoder.weight_mean.module.4.weight": (768, 512),
    "state_encoder.weight_log_variance.module.0.weight": (512, 768),
    "PFL_context.amor_u.weight": (7680, 768),
    "fuse.fuse_modules.weight": (512, 4096),
    "fuse.compress.weight": (1, 512),
    "fuse.post_process.weight": (768, 512),
    "RCA.linear_proj.0.weight": (768, 1024),
    "class_mapping.weight": (768, 768),
}
"""Of the authors' checkpoints for ViT-L-14-336: the inner networks are half as wide as the vision tower, 1024."""


def test_the_released_recipe_trains_a_head_of_the_published_shapes():
    recipe = Path(__file__).parents[2] / "configs" / "train_released.yaml"
    model = read_config(TrainSettings, recipe, []).model
    with torch.device("meta"):
        head = BayesPFL(model, Widths(joint=768, text=768, patch=1024, layers=4)).state_dict()
    assert {key: tuple(head[our_key(key)].shape) for key in PUBLISHED_SHAPES} == PUBLISHED_SHAPES
    assert model == published_variant(model)
