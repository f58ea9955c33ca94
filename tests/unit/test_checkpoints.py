"""Files of CLIP weights: OpenAI's archives give the same model as safetensors, others are told apart in a sentence."""

import json
import logging
import zipfile

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bayes_pfl.clip.activation import refuse_contradiction, warn_of_file
from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.checkpoints import torchscript_tensors
from bayes_pfl.config import BackboneConfig
from bayes_pfl.errors import BackboneError
from bayes_pfl.inference.bundle import load_bundle

VISION = {"image_size": 28, "layers": 4, "width": 64, "patch_size": 14, "head_width": 64}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}


@pytest.fixture(scope="module")
def architecture(tmp_path_factory):
    path = tmp_path_factory.mktemp("architecture") / "checkpoint-test-clip.json"
    path.write_text(json.dumps({"embed_dim": 64, "vision_cfg": VISION, "text_cfg": TEXT}))
    return path


@pytest.fixture(scope="module")
def weights(architecture):
    backbone = Backbone(configured(architecture, "random:3"))
    return {name: tensor.half() for name, tensor in backbone.clip.state_dict().items()}


def configured(architecture, pretrained, **changes):
    settings = {"image_size": 28, "feature_layers": (2, 4)} | changes
    return BackboneConfig(name=str(architecture), pretrained=str(pretrained), **settings)


def archive(path, tensors):
    """A TorchScript archive whose modules hold these tensors."""
    root = nn.Module()
    for name, tensor in tensors.items():
        *parents, leaf = name.split(".")
        module = root
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, nn.Module())
            module = module._modules[parent]
        module.register_buffer(leaf, tensor)
    torch.jit.save(torch.jit.script(root), path)
    return path


def test_a_torchscript_archive_gives_the_model_of_its_tensors(architecture, weights, tmp_path):
    sizes = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    path = archive(tmp_path / "ViT-L-14-336px.pt", weights | sizes)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "clip.safetensors")
    plain = Backbone(configured(architecture, tmp_path / "clip.safetensors"))
    assert Backbone(configured(architecture, path)).digest == plain.digest


def with_pickle(source, target, data):
    """A copy of an archive with another pickle."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, data if info.filename.endswith("/data.pkl") else old.read(info))
    return target


def test_nothing_in_an_archive_is_executed(architecture, tmp_path):
    path = archive(tmp_path / "a.pt", {"weight": torch.ones(2)})
    witness = tmp_path / "executed"
    command = f"touch {witness}".encode()
    hostile = b"cposix\nsystem\n(X" + len(command).to_bytes(4, "little") + command + b"tR."
    changed = with_pickle(path, tmp_path / "b.pt", hostile)
    assert torchscript_tensors(changed) == {}
    with pytest.raises(BackboneError):
        Backbone(configured(architecture, changed))
    assert not witness.exists()


@pytest.mark.parametrize(
    "data",
    [b"", b".", b"K", b"t.", b"h\x07.", b"(((", b"e.", b"}s.", b"K\x01K\x02R.", b"Q.", b"\x80\x02]q\x00h\x00a."],
)
def test_a_damaged_archive_is_a_sentence_or_holds_nothing(tmp_path, data):
    path = archive(tmp_path / "a.pt", {"weight": torch.ones(2)})
    try:
        assert torchscript_tensors(with_pickle(path, tmp_path / "b.pt", data)) == {}
    except BackboneError as error:
        assert "TorchScript archive that cannot be read" in str(error)  # noqa: PT017 - either is right


def as_transformers(tensors):
    """The tensors of an open_clip CLIP as Hugging Face Transformers names and shapes them."""
    towers = {"visual.transformer.resblocks.": "vision_model", "transformer.resblocks.": "text_model"}
    others = {
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    }
    norms = {"ln_final": "text_model.final_layer_norm", "visual.ln_pre": "vision_model.pre_layrnorm"}
    norms["visual.ln_post"] = "vision_model.post_layernorm"
    parts = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2"}
    parts |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    named = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    for name, tensor in tensors.items():
        begin = next((begin for begin in towers if name.startswith(begin)), None)
        if begin:
            number, _, rest = name.removeprefix(begin).partition(".")
            block = f"{towers[begin]}.encoder.layers.{number}"
            if "in_proj" in rest:
                kind = rest.rpartition("_")[2]
                for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                    named[f"{block}.self_attn.{letter}_proj.{kind}"] = part.contiguous()
            else:
                part, _, kind = rest.rpartition(".")
                named[f"{block}.{parts[part]}.{kind}"] = tensor
        elif name in ("text_projection", "visual.proj"):
            named[f"{name.replace('visual.proj', 'visual_projection')}.weight"] = tensor.T.contiguous()
        elif name.rpartition(".")[0] in norms:
            named[f"{norms[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}"] = tensor
        else:
            named[others.get(name, name)] = tensor.contiguous()
    return named


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_clip_of_transformers_gives_the_same_model(architecture, weights, tmp_path, file):
    write(tmp_path / file, as_transformers(weights))
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "clip.safetensors")
    plain = Backbone(configured(architecture, tmp_path / "clip.safetensors"))
    assert Backbone(configured(architecture, tmp_path / file)).digest == plain.digest


def test_weights_in_16_bits_are_brought_to_another_image_size(architecture, weights, tmp_path):
    whole = {name: tensor.float().contiguous() for name, tensor in weights.items()}
    half = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(whole, tmp_path / "whole.safetensors")
    archive(tmp_path / "archive.pt", half)
    write(tmp_path / "half.pt", half)
    write(tmp_path / "half.safetensors", half)
    write(tmp_path / "transformers.safetensors", as_transformers(half))
    expected = Backbone(configured(architecture, tmp_path / "whole.safetensors", image_size=56)).digest
    for file in ("archive.pt", "half.pt", "half.safetensors", "transformers.safetensors"):
        assert Backbone(configured(architecture, tmp_path / file, image_size=56)).digest == expected, file


def test_a_damaged_attention_of_transformers_is_told(architecture, weights, tmp_path):
    named = as_transformers(weights)
    del named["text_model.encoder.layers.1.self_attn.k_proj.bias"]
    write(tmp_path / "model.safetensors", named)
    with pytest.raises(BackboneError, match=r"the k of transformer\.resblocks\.1\.attn\.in_proj_bias are missing"):
        Backbone(configured(architecture, tmp_path / "model.safetensors"))


def write(path, content):
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.pt", b"<html>404 not found</html>", "is a web page"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n", "is a pointer of Git LFS"),
        ("a.safetensors", b"", "is empty"),
        ("a.safetensors", b"\xff" * 100, "is damaged or no file of weights"),
        ("a.safetensors", {"vision_model.head.probe": torch.ones(2)}, "vision_model.head.probe is no part of CLIP"),
        ("a.bin", {"text_model.x.weight": torch.ones(2)}, "text_model.x.weight is no part of CLIP"),
        ("a.bin", {"text_model.final_layer_norm.bias": torch.ones(2)}, "weights of another architecture"),
        ("a.ckpt", {"state_dict": {"model.visual.proj": torch.ones(2)}, "epoch": 3}, "PyTorch Lightning"),
        ("a.ckpt", {"state_dict": {}, "pytorch-lightning_version": "2", "x": nn.Linear(1, 1)}, "PyTorch Lightning"),
        ("a.pt", {"visual.proj": torch.ones(2), "x": nn.Linear(1, 1)}, "it holds other objects"),
        ("a.safetensors", {"layer.weight": torch.ones(2)}, "weights of another architecture"),
    ],
)
def test_other_files_are_told_apart(architecture, tmp_path, name, content, sentence):
    write(tmp_path / name, content)
    with pytest.raises(BackboneError, match=sentence) as caught:
        Backbone(configured(architecture, tmp_path / name))
    message = str(caught.value)
    assert len(message) < 500
    assert "\n" not in message
    assert "\x1b" not in message
    assert "weights_only" not in message


def test_a_folder_is_told(architecture, tmp_path):
    with pytest.raises(BackboneError, match="is a folder; give the file of weights in it"):
        Backbone(configured(architecture, tmp_path))


def test_a_relative_path_is_written_out(tmp_path, monkeypatch):
    (tmp_path / "clip.pt").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert BackboneConfig(pretrained="clip.pt").pretrained == str(tmp_path / "clip.pt")
    assert BackboneConfig(pretrained="openai").pretrained == "openai"


def test_missing_layers_are_told_as_they_are_set(architecture):
    with pytest.raises(BackboneError, match=r"has 4 vision blocks.*--set backbone\.feature_layers=\[1,2,3,4\]"):
        Backbone(configured(architecture, "random:0", feature_layers=(6, 12)))


def test_an_activation_is_never_contradicted(architecture, tmp_path):
    assert Backbone(configured(architecture, "random:0", quick_gelu=True)).config.quick_gelu
    path = tmp_path / "checkpoint-test-quickgelu.json"
    path.write_text(json.dumps({"embed_dim": 64, "vision_cfg": VISION, "text_cfg": TEXT, "quick_gelu": True}))
    with pytest.raises(BackboneError, match="quick_gelu is false: make it true"):
        Backbone(configured(path, "random:0"))
    with pytest.raises(BackboneError, match="quick_gelu is false: make it true"):
        Backbone(configured("ViT-B-32-quickgelu", "random:0"))
    with pytest.raises(BackboneError, match=r"trained with exact GELU, but .*quick_gelu is true"):
        Backbone(configured("ViT-B-32", "laion2b_s34b_b79k", quick_gelu=True))
    with pytest.raises(BackboneError, match=r"trained with QuickGELU, but .*quick_gelu is false"):
        Backbone(configured("ViT-B-32", "metaclip_400m"))


FOLDERS = "models--timm--vit_base_patch16_clip_224.metaclip_400m/blobs/0123"


@pytest.mark.parametrize(
    ("file", "quick_gelu", "tag"),
    [
        (FOLDERS, False, "metaclip_400m"),
        ("DFN2B-CLIP-ViT-B-16/open_clip_model.safetensors", False, "dfn2b"),
        ("b16_400m.pt", False, "metaclip_400m"),
        ("CLIP-ViT-B-16-laion2B-s34B-b88K/open_clip_model.safetensors", True, "laion2b_s34b_b88k"),
    ],
)
def test_the_activation_of_a_file_that_open_clip_lists_is_not_contradicted(tmp_path, file, quick_gelu, tag):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not read")
    told = rf"The weights in {path}, open_clip's '{tag}' of ViT-B-16 were trained with .*: make it {not quick_gelu}"
    with pytest.raises(BackboneError, match=rf"(?i){told}"):
        Backbone(configured("ViT-B-16", path, quick_gelu=quick_gelu))
    refuse_contradiction(configured("ViT-B-16", path, quick_gelu=not quick_gelu), "ViT-B-16")
    trained = configured("ViT-B-16", path, quick_gelu=quick_gelu, weights_sha256="0" * 64)
    refuse_contradiction(trained, "ViT-B-16")  # computes as it was trained


def test_a_file_that_does_not_tell_its_activation_is_warned_of(tmp_path, caplog):
    path, published = tmp_path / "clip.safetensors", tmp_path / "ViT-B-16.pt"
    path.write_bytes(b"not read")
    published.write_bytes(b"not read")
    for name, file, changes in (
        ("ViT-B-16", path, {"quick_gelu": False}),
        ("ViT-B-16", path, {"quick_gelu": True}),
        ("ViT-B-16", published, {}),
        ("ViT-L-14-336", path, {}),  # of this one there are OpenAI's alone
        ("ViT-B-16", "laion2b_s34b_b88k", {}),
    ):
        warn_of_file(configured(name, file, **changes))
    assert caplog.text == ""
    with pytest.raises(BackboneError, match="is damaged or no file of weights"):
        Backbone(configured("ViT-B-16", path))
    assert "clip.safetensors does not say whether it was trained with QuickGELU; exact GELU is used" in caplog.text
    caplog.clear()
    load_bundle(f"method:/winclip?backbone.name=ViT-B-16&backbone.pretrained={path}")
    assert caplog.text.count("--set backbone.quick_gelu=true (in Python quick_gelu=True), else false") == 1


@pytest.mark.parametrize("file", ["clip.pt", "clip.safetensors"])
@pytest.mark.parametrize(
    ("vision", "text", "sentence"),
    [
        ({"patch_size": 7}, {}, r"visual.conv1.weight has the shape [64, 3, 14, 14] in the file and [64, 3, 7, 7] in"),
        (
            {},
            {"width": 128},
            "positional_embedding has the shape [77, 64] in the file and [77, 128] in the architecture",
        ),
        ({"layers": 5}, {}, "names differ, such as visual.transformer.resblocks.4."),
        ({"layers": 5, "patch_size": 7}, {}, ", and visual.conv1.weight has the shape"),
    ],
)
def test_weights_of_other_shapes_are_told_by_one_of_them(weights, tmp_path, file, vision, text, sentence):
    write(tmp_path / file, {name: tensor.float().contiguous() for name, tensor in weights.items()})
    path = tmp_path / "other-shapes-clip.json"
    path.write_text(json.dumps({"embed_dim": 64, "vision_cfg": VISION | vision, "text_cfg": TEXT | text}))
    with pytest.raises(BackboneError, match=r"holds weights of another architecture than .* Choose") as caught:
        Backbone(configured(path, tmp_path / file))
    assert sentence in str(caught.value)


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.ERROR])
def test_the_root_logger_stays_as_it_is(architecture, level, capfd):
    root = logging.getLogger()
    before = root.level, list(root.handlers), list(root.filters)
    root.setLevel(level)
    try:
        Backbone(configured(architecture, "random:0"))
        assert (root.level, root.handlers, root.filters) == (level, *before[1:])
    finally:
        root.setLevel(before[0])
    assert capfd.readouterr().err == ""


def test_other_tokenizers_are_refused_before_weights_are_loaded():
    names = [name for name in ("roberta-ViT-B-32", "ViT-B-16-SigLIP2") if name in open_clip.list_models()]
    assert names
    for name in names:
        with pytest.raises(BackboneError, match="has a tokenizer of another kind"):
            Backbone(configured(name, "openai"))
