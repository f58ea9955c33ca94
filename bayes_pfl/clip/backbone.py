"""The frozen CLIP, through open_clip's public API: images to features, class names to tokens.

Departs from stock CLIP in nothing; `Features` are open_clip's own intermediates (equal to the published implementation's
with exact GELU). The text tower is handed on as modules: `text.PromptEncoder` runs learned prompts through it.
"""

import difflib
import hashlib
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from jaxtyping import Float
from torch import Tensor, nn

from bayes_pfl.clip.class_names import ClassNames
from bayes_pfl.config import BackboneConfig
from bayes_pfl.errors import BackboneError

PACKAGE = Path(__file__).parents[1]


class Features(NamedTuple):
    """What the frozen image encoder says of a batch of images."""

    image: Float[Tensor, "batch dim"]
    """Global feature of the class token in the joint space, not normalised."""
    patches: Float[Tensor, "layers batch patches width"]
    """Patch tokens of the chosen blocks, before the final normalisation and projection."""


class Backbone(nn.Module):
    """Frozen CLIP: `Features` of images, and the modules and tokens that prompts need.

    Raises BackboneError if the architecture or weights cannot be found, do not fit, or have another SHA-256 than stated.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.clip = _load_clip(config)
        self.clip.requires_grad_(False)
        # Tokens become a picture for convolutions without a copy where weights lie channels last; values stay the same.
        self.clip.visual.to(memory_format=torch.channels_last)
        _put_sequence_first(self.clip)
        self.train()
        self.text_tower: Any = getattr(self.clip, "text", self.clip)
        if not hasattr(self.text_tower, "token_embedding"):
            raise BackboneError(
                f"{config.name} has no CLIP text transformer; choose an architecture with open_clip's own text tower."
            )
        self.tokenizer: Any = load_tokenizer(config)
        self.joint_width = (
            int(self.text_tower.text_projection.shape[-1])
            if not isinstance(self.text_tower.text_projection, nn.Linear)
            else self.text_tower.text_projection.out_features
        )
        self.text_width = int(self.text_tower.token_embedding.weight.shape[1])
        self.grid, self.patch_width = self._probe()
        digest = weights_digest(self.clip)
        if config.weights_sha256 and digest != config.weights_sha256:
            raise BackboneError(
                f"The CLIP weights '{config.pretrained}' have SHA-256 {digest[:12]}..., but {config.weights_sha256[:12]}... is expected; "
                "use the weights the model was trained on."
            )
        self.digest = digest

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in evaluation mode, the backbone is frozen; but attention is fused as it is in training.

        In evaluation torch's attention module takes a path of its own that stores all weights: a quarter slower in all.
        """
        super().train(False)
        for module in self.clip.modules():
            if isinstance(module, nn.MultiheadAttention) and module.dropout == 0:
                module.training = True
        return self

    @torch.no_grad()
    def encode_image(self, images: Float[Tensor, "batch 3 height width"]) -> Features:
        """Global feature and the patch tokens of the configured blocks, of normalised images."""
        output = self.clip.visual.forward_intermediates(
            images, indices=[layer - 1 for layer in self.config.feature_layers], output_fmt="NLC"
        )
        return Features(output["image_features"], torch.stack(output["image_intermediates"]))

    def class_tokens(self, class_name: str) -> list[int]:
        """Token ids of a class name and the end of text, alone in its prompt.

        Args:
            class_name: such as "metal nut".

        Returns:
            The ids.

        Raises:
            ClassNameError: the name is blank or too long.
        """
        return self.class_names(other_tokens=0).tokens(class_name)

    def class_names(self, other_tokens: int) -> ClassNames:
        """The reader of class names.

        Args:
            other_tokens: tokens of a prompt beside start, class name and end of text.

        Returns:
            A reader that refuses names without room.
        """
        return ClassNames(self.tokenizer, self.text_tower.positional_embedding.shape[0], other_tokens)

    def _probe(self) -> tuple[tuple[int, int], int]:
        """Patch grid and patch-token width, found by encoding one black image."""
        size = self.config.image_size
        try:
            patches = self.encode_image(torch.zeros(1, 3, size, size)).patches
        except (RuntimeError, IndexError, AssertionError) as error:
            raise BackboneError(
                f"{self.config.name} cannot give layers {list(self.config.feature_layers)} at {size} px: {error}"
            ) from error
        side = int(patches.shape[2] ** 0.5)
        if side * side != patches.shape[2]:
            raise BackboneError(
                f"{self.config.name} gives {patches.shape[2]} patches at {size} px, which is no square grid."
            )
        return (side, side), patches.shape[3]


def _put_sequence_first(clip: nn.Module) -> None:
    """Have open_clip's transformers run on (tokens, batch, width), for the same result.

    On (batch, tokens, width) torch's attention projects a strided view: with two images or more that product is ten times slower.
    """
    for transformer in clip.modules():
        if isinstance(transformer, open_clip.transformer.Transformer):
            for module in transformer.modules():
                if isinstance(module, open_clip.transformer.Transformer | nn.MultiheadAttention):
                    module.batch_first = False


def package_path(name: str) -> Path:
    """A path as configured: `package:x` lies inside the installed package, anything else is taken as it is."""
    return PACKAGE / name.removeprefix("package:") if name.startswith("package:") else Path(name)


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{tuple(array.shape)}{array.dtype}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _architecture(name: str) -> str:
    """open_clip's name of the architecture, registering a JSON file first where the configuration names one."""
    if not name.endswith(".json"):
        return name
    path = package_path(name)
    if not path.is_file():
        raise BackboneError(
            f"There is no architecture file {path}; name an open_clip architecture or an existing JSON file."
        )
    open_clip.add_model_config(path)
    return path.stem


def _load_clip(config: BackboneConfig) -> Any:
    """Build the architecture and load its weights; random ones for `random:<seed>`."""
    name = _architecture(config.name)
    if ":" not in name and name not in open_clip.list_models():  # hf-hub:... and local-dir:... are names too
        near = difflib.get_close_matches(name, open_clip.list_models(), 3, 0.3)
        raise BackboneError(
            f"open_clip has no architecture '{name}'; did you mean {' or '.join(near) or 'ViT-L-14-336'}? "
            "`python -c 'import open_clip; print(open_clip.list_models())'` lists all."
        )
    seed = config.pretrained.removeprefix("random:") if config.pretrained.startswith("random:") else None
    pretrained = None
    if seed is None:
        local = package_path(config.pretrained)
        pretrained = str(local) if local.is_file() else config.pretrained
    logging.getLogger().setLevel(max(logging.getLogger().level, logging.WARNING))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed or 0))
            return open_clip.create_model(
                name,
                pretrained=pretrained,
                force_quick_gelu=config.quick_gelu,
                force_image_size=config.image_size,
                pretrained_text=False,
                weights_only=True,
            )
    except Exception as error:  # open_clip raises whatever its many loaders raise
        raise BackboneError(
            f"Cannot load CLIP {config.name} with weights '{config.pretrained}': {error}. Give an open_clip architecture and tag, "
            "or download the checkpoint and give its path."
        ) from error


def context_length(config: BackboneConfig) -> int:
    """Tokens that the text encoder holds, from the architecture alone.

    Args:
        config: names the architecture.

    Returns:
        The length, start and end of text included.
    """
    return int(open_clip.get_model_config(_architecture(config.name))["text_cfg"].get("context_length", 77))


def load_tokenizer(config: BackboneConfig) -> Any:
    """open_clip's tokenizer; the configuration's own vocabulary if its text_cfg names one, relative to the JSON file.

    Args:
        config: names the architecture.

    Returns:
        The tokenizer.
    """
    name = _architecture(config.name)
    text = open_clip.get_model_config(name)["text_cfg"]
    vocabulary = text.get("tokenizer_kwargs", {}).get("bpe_path")
    if vocabulary is None:
        return open_clip.get_tokenizer(name)
    folder = package_path(config.name).parent
    return open_clip.SimpleTokenizer(bpe_path=str(folder / vocabulary), context_length=text["context_length"])


def architecture_text(config: BackboneConfig) -> str:
    """The architecture as JSON text: what a model card records."""
    return json.dumps(open_clip.get_model_config(_architecture(config.name)), indent=1, sort_keys=True)
