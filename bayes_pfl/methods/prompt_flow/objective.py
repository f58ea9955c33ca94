"""Bayes-PFL as a `TrainableMethod`: labelled features -> loss terms, and what learns how fast (section 3.6)."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.placement import bfloat16_products
from bayes_pfl.clip.prompt_encoder import ClassTokens, PromptEncoder, pad_class_tokens
from bayes_pfl.config import ModelConfig, RunConfig
from bayes_pfl.methods.heads import seeded
from bayes_pfl.methods.method import Loss, ParameterGroup, TrainingBatch
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Logits, Prompts, Widths, other_tokens
from bayes_pfl.methods.prompt_flow.losses import Target, losses
from bayes_pfl.methods.prompt_flow.noise import Noise, keyed_noise
from bayes_pfl.methods.prompt_flow.pairs import PairText, pair_prompts

SECOND_STAGE = ("class_mapping", "image_mapping", "pooling")
"""Parts of the head that the second stage trains: the maps of the image score."""

PROMPTS = ("banks", "context", "states", "free_context", "object_prompts")
"""Parts of the head that learn with `training.prompt_learning_rate`."""


class PromptFlowObjective:
    """The head with the initial weights of the run's seed, and its training objective (eq. 14)."""

    def __init__(self, run: RunConfig, backbone: Backbone, device: torch.device) -> None:
        self.run, self.backbone, self.device = run, backbone, device
        assert isinstance(run.model, ModelConfig)
        self.config = run.model
        flow = self.config.variant.prompts == "flow"
        self.encoder = PromptEncoder(backbone).to(device) if flow else None
        self.pair_text = None if flow else PairText(self.config, backbone)
        widths = Widths.from_backbone(backbone)
        self.head = seeded(lambda: BayesPFL(self.config, widths), run.training.seed).to(device)
        self.encode_image, self.feature_kind = backbone.encode_image, backbone.plain_kind
        self.class_names = backbone.class_names(other_tokens(self.config, backbone.tokenizer))
        self._tokens = functools.lru_cache(maxsize=4096)(self.class_names.tokens)

    def parameter_groups(self, second_stage: bool) -> list[ParameterGroup]:
        """Prompts and their distributions, temperatures, everything else; in the second stage only its parts.

        Args:
            second_stage: whether it is the second stage.

        Returns:
            Groups with a learning rate each.
        """
        training = self.run.training
        rates = {
            "prompts": training.prompt_learning_rate or training.learning_rate,
            "temperatures": training.temperature_learning_rate or training.learning_rate,
            "linear": training.learning_rate,
        }
        groups: dict[str, list[nn.Parameter]] = {kind: [] for kind in rates}
        for name, parameter in self.head.named_parameters():
            part = name.split(".")[0]
            kind = "prompts" if part in PROMPTS else "temperatures" if "temperature" in part else "linear"
            if part in SECOND_STAGE or not second_stage:
                groups[kind].append(parameter)
        return [{"params": parameters, "lr": rates[kind]} for kind, parameters in groups.items() if parameters]

    def loss(self, batch: TrainingBatch, step: int, second_stage: bool, add: Callable[[Tensor], Tensor]) -> Loss:
        """Forward pass and all terms of eq. 14; the second stage minimises the classification term alone.

        Args:
            batch: the images of this worker, or of a part of its batch.
            step: optimiser steps done so far.
            second_stage: whether the second stage trains.
            add: sum over all workers and parts of a vector of sums.

        Returns:
            The loss; its diagnostics are the ratios of the offsets' norm to the bank vectors', far below 1 when
            healthy.
        """
        config = self.run.loss
        with bfloat16_products(self.device, self.run.training.mixed_precision):
            prompts, logits = self._forward(batch, step, config.variant.classify_class_token and not second_stage)
        prompts, logits = _float32(prompts), _float32(logits)
        target = Target(batch.label, batch.mask)
        terms = losses(prompts, logits, target, config, self.config.variant.upsampled_corners, add)
        # the states' divergence does not depend on the images
        shared = config.kl_weight * (terms.kl_normal + terms.kl_abnormal)
        if second_stage:
            terms = terms._replace(total=terms.classification)
        if second_stage or self.config.variant.states_from_image:
            shared = torch.zeros_like(shared)
        return Loss(terms.total, shared, terms._asdict(), self._offset_ratios(prompts))

    def _forward(self, batch: TrainingBatch, step: int, class_token_only: bool) -> tuple[Prompts, Logits]:
        """Prompts of the flow, or those that stand in for it, and the logits of those that this step trains."""
        if self.pair_text is not None:
            prompts = pair_prompts(self.pair_text.pairs(self.head.object_prompts, batch.class_names))
            return prompts, self.head.logits(batch.features, prompts.text, class_token_only)
        tokens, noise = self._class_tokens(batch), self._noise(batch, step)
        answer: tuple[Prompts, Logits] = self.head(
            batch.features, tokens, noise, self.encoder, self._bank(step), class_token_only
        )
        return answer

    def _class_tokens(self, batch: TrainingBatch) -> ClassTokens:
        return pad_class_tokens([self._tokens(name) for name in batch.class_names], self.device)

    def _noise(self, batch: TrainingBatch, step: int) -> Noise:
        """Noise keyed by seed, step and image: the same for an image whichever worker has it."""
        training = self.run.training
        seed = (training.seed << 32) + step
        width, by_image = self.backbone.text_width, self.config.variant.states_from_image
        noise = keyed_noise(seed, list(batch.noise_keys), training.num_samples, width, by_image)
        return Noise(*(part.to(self.device) for part in noise))

    def _bank(self, step: int) -> slice:
        """All prompts of the bank, or the one that this step trains."""
        if not self.run.loss.variant.one_prompt_per_step:
            return slice(None)
        digest = hashlib.sha256(f"bank/{self.run.training.seed}/{step}".encode()).digest()
        index = int.from_bytes(digest[:8], "little") % self.config.num_prompts
        return slice(index, index + 1)

    @torch.no_grad()
    def _offset_ratios(self, prompts: Prompts) -> dict[str, Tensor]:
        """Norm of the sampled offsets over the norm of the bank vectors they are added to."""
        banks = self.head.banks
        if banks is None:
            return {}
        pairs = {
            "offset_ratio_context": (prompts.context.offset, banks.context),
            "offset_ratio_state": (torch.cat([prompts.normal.offset, prompts.abnormal.offset]), banks.normal),
        }
        scale = self.config.offset_scale
        return {
            name: scale * offset.norm(dim=-1).mean() / bank.norm(dim=-1).mean()
            for name, (offset, bank) in pairs.items()
        }


def _float32(value: Any) -> Any:
    """The same nested tuple with every tensor in float32."""
    return value.float() if isinstance(value, Tensor) else type(value)(*map(_float32, value))
