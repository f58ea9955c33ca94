"""Training of the head in plain torch: one `step` a batch, on one worker or on many that share a global batch.

Several workers give the loss and gradient of one: sums over images are added before ratios are taken (`losses`), and the
gradients of the whole head are averaged as one vector. The frozen CLIP is replicated and never communicated.
"""

import hashlib
import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from bayes_pfl.backbone import Backbone, Features
from bayes_pfl.config import RunConfig
from bayes_pfl.draws import keyed_draws
from bayes_pfl.errors import TrainingError
from bayes_pfl.losses import LossTerms, Target, losses
from bayes_pfl.model import BayesPFL, Prompts, Widths
from bayes_pfl.prompts import Draws
from bayes_pfl.samples import SampleRef
from bayes_pfl.text import ClassTokens, PromptEncoder, pad_class_tokens


class Batch(NamedTuple):
    """One worker's part of a global batch."""

    features: Features
    class_tokens: ClassTokens
    target: Target
    refs: list[SampleRef]


class TrainingState(NamedTuple):
    """All that a run continues from: tensors by name, and the number of steps done."""

    tensors: dict[str, Tensor]
    steps: int


class Trainer:
    """Model, optimiser and schedule; `workers` processes of an initialised process group, or 1 without one."""

    def __init__(self, run: RunConfig, backbone: Backbone, device: torch.device, total_steps: int, workers: int) -> None:
        self.run, self.backbone, self.device, self.workers = run, backbone, device, workers
        self.encoder = PromptEncoder(backbone).to(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.training.seed)  # every worker starts from the same weights
            self.model = BayesPFL(run.model, Widths.of(backbone)).to(device)
        self.optimizer = torch.optim.Adam(_groups(self.model, run), betas=(run.training.adam_beta1, 0.999))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, total_steps, run.training.warmup_fraction)
        )
        self.steps = 0

    def batch(self, images: Tensor, masks: Tensor, refs: list[SampleRef]) -> Batch:
        """Encode images with the frozen backbone and put everything a step needs on the device."""
        return self.encoded_batch(self.backbone.encode_image(images.to(self.device)), masks, refs)

    def encoded_batch(self, features: Features, masks: Tensor, refs: list[SampleRef]) -> Batch:
        """The same from frozen features that were computed before."""
        labels = torch.tensor([float(ref.label) for ref in refs], device=self.device)
        tokens = pad_class_tokens([self.backbone.class_tokens(ref.class_name) for ref in refs], self.device)
        features = Features(*(part.to(self.device) for part in features))
        return Batch(features, tokens, Target(labels, masks.to(self.device)), refs)

    def step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns every loss term and the ratio of the sampled offsets' norm to the bank vectors'.

        Raises TrainingError naming step, term and samples if a loss is not finite.
        """
        config = self.run.loss
        prompts, logits = self.model(
            batch.features, batch.class_tokens, self._draws(batch), self.encoder, self._bank(), config.classify_class_token
        )
        terms = losses(prompts, logits, batch.target, config, self.run.model.upsampled_corners, self._add)
        self._check(terms, batch)
        self.optimizer.zero_grad(set_to_none=False)
        terms.total.backward()
        self._average_gradients()
        if self.run.training.gradient_clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.run.training.gradient_clip_norm)
        self.optimizer.step()
        self.schedule.step()
        self.steps += 1
        return {name: float(value.detach()) for name, value in terms._asdict().items()} | self._offset_ratio(prompts)

    def state(self) -> TrainingState:
        """Weights and Adam's moments by name."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = value
        return TrainingState({name: value.detach().cpu().clone() for name, value in tensors.items()}, self.steps)

    def load_state(self, state: TrainingState) -> None:
        """Continue from what `state` returned."""
        weights = {name: state.tensors[f"model.{name}"] for name in self.model.state_dict()}
        self.model.load_state_dict(weights)
        for name, parameter in self.model.named_parameters():
            moments = {key: state.tensors.get(f"{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            if all(value is not None for value in moments.values()):
                self.optimizer.state[parameter] = {
                    key: value.clone().to(self.device if key != "step" else "cpu") for key, value in moments.items() if value is not None
                }
        self.steps = state.steps
        for group, base in zip(self.optimizer.param_groups, self.schedule.base_lrs, strict=True):
            group["lr"] = base * self.schedule.lr_lambdas[0](state.steps)
        self.schedule.last_epoch = state.steps

    def _draws(self, batch: Batch) -> Draws:
        """Draws keyed by seed, step and image: the same for an image whichever worker has it."""
        training = self.run.training
        seed = (training.seed << 32) + self.steps
        keys = [ref.sha256.encode() for ref in batch.refs]
        draws = keyed_draws(seed, keys, training.num_samples, self.backbone.text_width)
        return Draws(*(part.to(self.device) for part in draws))

    def _bank(self) -> slice:
        """All prompts of the bank, or the one that this step trains."""
        if not self.run.loss.one_prompt_per_step:
            return slice(None)
        digest = hashlib.sha256(f"bank/{self.run.training.seed}/{self.steps}".encode()).digest()
        index = int.from_bytes(digest[:8], "little") % self.run.model.num_prompts
        return slice(index, index + 1)

    def _add(self, local: Tensor) -> Tensor:
        return _SumOverWorkers.apply(local) if self.workers > 1 else local

    def _average_gradients(self) -> None:
        """Mean over the workers, as one vector: every parameter takes part, used in this step or not."""
        if self.workers == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.model.parameters()]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.workers
        parts = flat.split([gradient.numel() for gradient in gradients])
        for parameter, part in zip(self.model.parameters(), parts, strict=True):
            parameter.grad = part.view_as(parameter).clone()

    def _check(self, terms: LossTerms, batch: Batch) -> None:
        broken = [name for name, value in terms._asdict().items() if not math.isfinite(float(value.detach()))]
        if broken:
            samples = ", ".join(ref.sample_id for ref in batch.refs)
            raise TrainingError(
                f"Step {self.steps}: {', '.join(broken)} is not finite. Lower the learning rate or clip gradients "
                f"(training.gradient_clip_norm); the samples of this worker were {samples}."
            )

    @torch.no_grad()
    def _offset_ratio(self, prompts: Prompts) -> dict[str, float]:
        """Norm of the sampled offsets over the norm of the bank vectors they are added to; far below 1 is healthy."""
        banks = self.model.banks
        pairs = {
            "offset_ratio_context": (prompts.context.offset, banks.context),
            "offset_ratio_state": (torch.cat([prompts.normal.offset, prompts.abnormal.offset]), banks.normal),
        }
        scale = self.run.model.offset_scale
        return {name: float(scale * offset.norm(dim=-1).mean() / bank.norm(dim=-1).mean()) for name, (offset, bank) in pairs.items()}


class _SumOverWorkers(torch.autograd.Function):
    """Sum of a vector over all workers; its gradient is the sum of the workers' gradients."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def learning_rate_factor(step: int, total_steps: int, warmup_fraction: float) -> float:
    """1 throughout for fraction 0 (paper); else linear warm-up, then half a cosine down to 0 (released)."""
    if warmup_fraction == 0:
        return 1.0
    warmup = max(1, round(total_steps * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total_steps - warmup))))


def _groups(model: BayesPFL, run: RunConfig) -> list[dict[str, Any]]:
    """Parameter groups: prompts and their distributions, temperatures, everything else."""
    training = run.training
    named = dict(model.named_parameters())
    prompts = [p for name, p in named.items() if name.split(".")[0] in ("banks", "context", "states")]
    temperatures = [model.pixel_temperature, model.image_temperature]
    special = {id(p) for p in [*prompts, *temperatures]}
    return [
        {"params": prompts, "lr": training.prompt_learning_rate or training.learning_rate},
        {"params": temperatures, "lr": training.temperature_learning_rate or training.learning_rate},
        {"params": [p for p in named.values() if id(p) not in special], "lr": training.learning_rate},
    ]


def mean_terms(steps: list[dict[str, float]]) -> dict[str, float]:
    """The mean of every term over the steps of an epoch."""
    return {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
