"""Pretraining of the embedded CLIP: the global token learns from captions, patches from a spare head.

Like CLIP itself, only the global token is aligned with text. Patch tokens are kept informative by a
dense head that predicts defective patches and is thrown away afterwards, so that their alignment
with text is left to be learned, as it is on real CLIP.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import safetensors.torch
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from bayes_pfl.data.shards import replacing
from bayes_pfl.embedded_training.losses import dense_loss, multi_positive, own_pair_loss, patch_targets
from bayes_pfl.embedded_training.recipe import PretrainingConfig
from bayes_pfl.metrics import image_metrics, pixel_metrics
from bayes_pfl.synthetic.batches import CaptionBatch, ValidationSet
from bayes_pfl.synthetic.captions import DAMAGED, FLAWLESS

EMBEDDED = Path(__file__).parents[1] / "embedded"
ARCHITECTURE = EMBEDDED / "bayes-pfl-embedded.json"
WEIGHTS = EMBEDDED / "bayes-pfl-embedded.safetensors"
MAX_LOGIT_SCALE = 100.0
"""Largest inverse temperature, as in CLIP."""


class DenseHead(nn.Module):
    """One defect logit per patch and chosen block, read off linearly; thrown away after pretraining.

    A linear reading leaves the work to the blocks, so that a later linear adapter finds the defect in their patches.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1)) for _ in range(layers))

    def forward(self, patches: Sequence[Float[Tensor, "batch patches width"]]) -> Float[Tensor, "layers batch patches"]:
        """Logits of each layer's patches.

        Args:
            patches: of each chosen block.

        Returns:
            One logit a patch.
        """
        pairs = zip(self.heads, patches, strict=True)
        return torch.stack([head(tokens).squeeze(-1) for head, tokens in pairs])


class Losses(NamedTuple):
    """The objective's parts of one batch; `total` is what is minimised."""

    total: Tensor
    contrastive: Tensor
    state: Tensor
    dense: Tensor


class PretrainingModel(nn.Module):
    """The CLIP to be trained and the dense head beside it; `forward` gives the losses of a batch."""

    def __init__(self, config: PretrainingConfig) -> None:
        super().__init__()
        open_clip.add_model_config(ARCHITECTURE)
        name = ARCHITECTURE.stem
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.clip: Any = open_clip.create_model(name, force_image_size=config.image_size)
            width = self.clip.visual.trunk.num_features
            self.head = DenseHead(width, len(config.feature_layers))
        self.indices = [layer - 1 for layer in config.feature_layers]
        self.state_weight, self.dense_weight = config.state_weight, config.dense_weight
        self.tokenizer: Any = open_clip.get_tokenizer(name, bpe_path=str(EMBEDDED / "merges.txt.gz"))
        preprocess = self.clip.visual.preprocess_cfg
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(preprocess["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess["std"]).view(3, 1, 1), persistent=False)

    def encode(self, images: Float[Tensor, "batch 3 side side"]) -> tuple[Tensor, Tensor]:
        """Unit global features and dense logits.

        Args:
            images: RGB in [0, 1].

        Returns:
            Features (batch, dim) of length 1, logits (layers, batch, patches).
        """
        normalised = (images - self.mean) / self.std
        output = self.clip.visual.forward_intermediates(normalised, indices=self.indices, output_fmt="NLC")
        return F.normalize(output["image_features"], dim=-1), self.head(output["image_intermediates"])

    def forward(
        self,
        images: Float[Tensor, "images 3 side side"],
        masks: Bool[Tensor, "images side side"],
        tokens: Int[Tensor, "captions context"],
        truth: Bool[Tensor, "images captions"],
    ) -> Losses:
        """Losses of a twin-paired batch (see `CaptionBatch` for the order of rows and captions).

        Args:
            images: RGB in [0, 1].
            masks: defective pixels.
            tokens: ids of the captions.
            truth: which captions describe which images.

        Returns:
            The objective and its parts.
        """
        features, dense_logits = self.encode(images)
        texts = self.clip.encode_text(tokens, normalize=True)
        scale = self.clip.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
        logits = scale * features.float() @ texts.float().T
        contrastive = 0.5 * (multi_positive(logits, truth) + multi_positive(logits.T, truth.T))
        state = own_pair_loss(logits, masks.flatten(1).any(1))
        dense = dense_loss(dense_logits.float(), patch_targets(masks, dense_logits.shape[-1]))
        total = contrastive + self.state_weight * state + self.dense_weight * dense
        return Losses(total, contrastive, state, dense)


class Pretraining:
    """Model, optimiser and position of a run; a checkpoint holds all of it."""

    def __init__(self, config: PretrainingConfig, device: torch.device | None = None) -> None:
        self.config = config
        self.device = device or torch.device("cpu")
        self.model = PretrainingModel(config).to(self.device)
        matrices = [p for p in self.model.parameters() if p.ndim >= 2]
        others = [p for p in self.model.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=(0.9, 0.98),
        )
        self.step = 0
        self.curve: list[dict[str, float]] = []

    def train_step(self, model: nn.Module, batch: CaptionBatch) -> Losses:
        """One optimiser step.

        Args:
            model: `self.model`, or a data-parallel wrapper of it.
            batch: what to learn from.

        Returns:
            The losses before the step, without gradient.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(self.step)
        images = torch.from_numpy(batch.images).permute(0, 3, 1, 2).contiguous().to(self.device)
        tokens = self.model.tokenizer(batch.captions).to(self.device)
        masks = torch.from_numpy(batch.masks).to(self.device)
        truth = torch.from_numpy(batch.truth).to(self.device)
        model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            losses: Losses = model(images, masks, tokens, truth)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return Losses(*(part.detach() for part in losses))

    def save(self, path: Path) -> None:
        """Write the whole state, whole or not at all.

        Args:
            path: the file.

        Raises:
            OutputError: it cannot be written.
        """
        state = {
            "config": self.config.model_dump_json(),
            "step": self.step,
            "curve": self.curve,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with replacing(path) as temporary:
            torch.save(state, temporary)

    def restore(self, path: Path) -> None:
        """Continue from a state that `save` wrote.

        Args:
            path: its file.
        """
        self.load_state(torch.load(path, map_location=self.device, weights_only=True))

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a state.

        Args:
            state: what the file of `save` holds.
        """
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.curve = int(state["step"]), list(state["curve"])


@torch.no_grad()
def validate(model: PretrainingModel, data: ValidationSet) -> dict[str, float]:
    """Zero-shot image AUROC, and the dense head's pixel AUROC and AP, means over categories.

    The text score of an image is its similarity to the mean damaged minus that to the mean
    flawless caption of its category; the pixel map is the head's mean logit, per patch.

    Args:
        model: CLIP and dense head.
        data: images and masks by category.

    Returns:
        Figures in [0, 1] by name.
    """
    model.eval()
    device = next(model.parameters()).device
    names = np.array(data.categories)
    totals: dict[str, list[float]] = {"image_auroc": [], "pixel_auroc": [], "pixel_ap": []}
    for category in dict.fromkeys(data.categories):
        chosen = names == category
        images = torch.from_numpy(data.images[chosen]).permute(0, 3, 1, 2).float().to(device) / 255
        features, dense = model.encode(images)
        flawless, damaged = (_text_mean(model, states, category) for states in (FLAWLESS, DAMAGED))
        scores = (features @ (damaged - flawless)).cpu().numpy()
        labels = data.masks[chosen].any((1, 2)).astype(int)
        totals["image_auroc"].append(image_metrics(scores, labels).values["image_auroc"])
        grid = math.isqrt(dense.shape[-1])
        maps = F.interpolate(dense.mean(0).view(-1, 1, grid, grid), data.masks.shape[1:], mode="bilinear")[:, 0]
        pixels = pixel_metrics(maps.cpu().numpy(), data.masks[chosen].astype(np.uint8)).values
        for name in ("pixel_auroc", "pixel_ap"):
            totals[name].append(pixels[name])
    return {name: float(np.mean(values)) for name, values in totals.items()}


def _text_mean(model: PretrainingModel, states: Sequence[str], category: str) -> Tensor:
    texts = ["a photo of a " + state.format(category) for state in states]
    tokens = model.tokenizer(texts).to(next(model.parameters()).device)
    return F.normalize(model.clip.encode_text(tokens, normalize=True).mean(0), dim=-1)


def export_weights(clip: nn.Module, path: Path) -> str:
    """Write CLIP's state in half precision as safetensors.

    Args:
        clip: the model.
        path: the file; its folder is made.

    Returns:
        SHA-256 of the file.

    Raises:
        OutputError: it cannot be written.
    """
    state = {
        name: tensor.detach().cpu().half().contiguous() if tensor.is_floating_point() else tensor.cpu()
        for name, tensor in clip.state_dict().items()
    }
    data = safetensors.torch.save(state, metadata={"format": "pt"})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return hashlib.sha256(data).hexdigest()
