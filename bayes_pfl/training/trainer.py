"""Training of the head in plain torch: one `step` a batch, on one worker or on many that share a global batch.

Several workers give the loss and gradient of one: sums over images are added before ratios are taken (`losses`), and the
gradients of the whole head are averaged as one vector. The frozen CLIP is replicated and never communicated.
"""

import hashlib
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from bayes_pfl.clip.backbone import Backbone, Features
from bayes_pfl.clip.prompt_encoder import ClassTokens, PromptEncoder, pad_class_tokens
from bayes_pfl.config import RunConfig
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.errors import TrainingError
from bayes_pfl.methods.prompt_flow.distributions import Draws
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Prompts, Widths
from bayes_pfl.methods.prompt_flow.losses import LossTerms, Target, losses
from bayes_pfl.methods.prompt_flow.noise import keyed_draws
from bayes_pfl.training.workers import average_gradients, sum_over_workers

SECOND_STAGE = ("class_mapping", "image_mapping", "pooling")
"""Parts of the model that the second stage trains."""


class Batch(NamedTuple):
    """One worker's part of a global batch."""

    features: Features
    class_tokens: ClassTokens
    target: Target
    refs: list[SampleRef]

    def part(self, rows: slice) -> "Batch":
        """Some of its images."""
        features = Features(self.features.image[rows], self.features.patches[:, rows])
        tokens = ClassTokens(self.class_tokens.ids[rows], self.class_tokens.lengths[rows])
        return Batch(features, tokens, Target(self.target.label[rows], self.target.mask[rows]), self.refs[rows])


class TrainingState(NamedTuple):
    """All that a run continues from: tensors by name, the steps done, and the step at which the second stage began."""

    tensors: dict[str, Tensor]
    steps: int
    second_stage_start: int | None = None


class Trainer:
    """Model, optimiser and schedule; `workers` processes of an initialised process group, or 1 without one."""

    def __init__(
        self, run: RunConfig, backbone: Backbone, device: torch.device, steps_per_epoch: int, workers: int
    ) -> None:
        self.run, self.backbone, self.device, self.workers = run, backbone, device, workers
        self.encoder = PromptEncoder(backbone).to(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.training.seed)  # every worker starts from the same weights
            self.model = BayesPFL(run.model, Widths.of(backbone)).to(device)
        self.steps_per_epoch = steps_per_epoch
        self.steps = 0
        self.second_stage_start: int | None = None
        self._new_optimizer(run.training.epochs)

    def begin_second_stage(self) -> None:
        """From here on train only the maps of the image score, by classification with x_cls + x_patch (released recipe)."""
        self.second_stage_start = self.steps
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.split(".")[0] in SECOND_STAGE)
        self._new_optimizer(self.run.training.second_stage_epochs)

    def batch(self, images: Tensor, masks: Tensor, refs: list[SampleRef]) -> Batch:
        """Encode images with the frozen backbone and put everything a step needs on the device."""
        with self._autocast():
            parts = [
                self.backbone.encode_image(part.to(self.device))
                for part in images.chunk(self.run.training.accumulation_parts)
            ]
        features = Features(
            torch.cat([part.image for part in parts]), torch.cat([part.patches for part in parts], dim=1)
        )
        return self.encoded_batch(features, masks, refs)

    def encoded_batch(self, features: Features, masks: Tensor, refs: list[SampleRef]) -> Batch:
        """The same from frozen features that were computed before."""
        labels = torch.tensor([float(ref.label) for ref in refs], device=self.device)
        tokens = pad_class_tokens([self.backbone.class_tokens(ref.class_name) for ref in refs], self.device)
        features = Features(*(part.to(self.device).float() for part in features))
        return Batch(features, tokens, Target(labels, masks.to(self.device)), refs)

    def step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns every loss term and the ratio of the sampled offsets' norm to the bank vectors'.

        Raises TrainingError naming step, term and samples if a loss is not finite.
        """
        self.optimizer.zero_grad(set_to_none=False)
        if self.run.training.accumulation_parts == 1:
            prompts, terms = self._losses(batch, sum_over_workers if self.workers > 1 else _itself)
            self._check(terms, batch)
            terms.total.backward()
        else:
            prompts, terms = self._accumulate(batch)
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if self.workers > 1:
            average_gradients(trained, self.workers)
        if self.run.training.gradient_clip_norm:
            torch.nn.utils.clip_grad_norm_(trained, self.run.training.gradient_clip_norm)
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
        copies = {name: value.detach().cpu().clone() for name, value in tensors.items()}
        return TrainingState(copies, self.steps, self.second_stage_start)

    def load_state(self, state: TrainingState) -> None:
        """Continue from what `state` returned."""
        self.model.load_state_dict(head_weights(state.tensors))
        if state.second_stage_start is not None:
            self.begin_second_stage()
        self.steps, self.second_stage_start = state.steps, state.second_stage_start
        for name, parameter in self.model.named_parameters():
            moments = {key: state.tensors.get(f"{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            if all(value is not None for value in moments.values()):
                self.optimizer.state[parameter] = {
                    key: value.clone().to(self.device if key != "step" else "cpu")
                    for key, value in moments.items()
                    if value is not None
                }
        in_stage = self.steps - (self.second_stage_start or 0)
        for group, base in zip(self.optimizer.param_groups, self.schedule.base_lrs, strict=True):
            group["lr"] = base * self.schedule.lr_lambdas[0](in_stage)
        self.schedule.last_epoch = in_stage

    def _new_optimizer(self, epochs: int) -> None:
        training = self.run.training
        self.optimizer = torch.optim.Adam(_groups(self.model, self.run), betas=(training.adam_beta1, 0.999))
        total = self.steps_per_epoch * epochs
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, total, training.warmup_fraction)
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.run.training.mixed_precision)

    def _losses(self, batch: Batch, add: Callable[[Tensor], Tensor]) -> tuple[Prompts, LossTerms]:
        """Forward pass and all terms; `add` sums the loss vector over parts and workers."""
        second, config = self.second_stage_start is not None, self.run.loss
        class_token_only = config.classify_class_token and not second
        with self._autocast():
            prompts, logits = self.model(
                batch.features, batch.class_tokens, self._draws(batch), self.encoder, self._bank(), class_token_only
            )
        prompts, logits = _float32(prompts), _float32(logits)
        terms = losses(prompts, logits, batch.target, config, self.run.model.upsampled_corners, add)
        return prompts, terms._replace(total=terms.classification) if second else terms

    def _accumulate(self, batch: Batch) -> tuple[Prompts, LossTerms]:
        """Gradients part by part, equal to those of the whole: a first pass adds up the sums that the loss is a function of,
        a second one sends the loss's derivative with respect to the sums through each part."""
        count = min(self.run.training.accumulation_parts, len(batch.refs))
        bounds = np.linspace(0, len(batch.refs), count + 1).astype(int).tolist()
        parts = [batch.part(slice(start, stop)) for start, stop in itertools.pairwise(bounds)]
        sums: list[Tensor] = []

        def collect(local: Tensor) -> Tensor:
            sums.append(local)
            return local

        with torch.no_grad():
            for part in parts:
                self._losses(part, collect)
        total = torch.stack(sums).sum(0)
        if self.workers > 1:
            dist.all_reduce(total)
        for part in parts:
            prompts, terms = self._losses(part, lambda local: total + self.workers * (local - local.detach()))
            self._check(terms, batch)
            # the states' divergence does not depend on the images: each part has all of it
            states = self.run.loss.kl_weight * (terms.kl_normal + terms.kl_abnormal)
            repeated = 0.0 if self.second_stage_start is not None else states * (1 - 1 / len(parts))
            (terms.total - repeated).backward()
        return prompts, terms

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
        return {
            name: float(scale * offset.norm(dim=-1).mean() / bank.norm(dim=-1).mean())
            for name, (offset, bank) in pairs.items()
        }


def head_weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's own weights among the tensors of a `TrainingState`."""
    return {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}


def learning_rate_factor(step: int, total_steps: int, warmup_fraction: float) -> float:
    """1 throughout for fraction 0 (paper); else linear warm-up, then half a cosine down to 0 (released)."""
    if warmup_fraction == 0:
        return 1.0
    warmup = max(1, round(total_steps * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total_steps - warmup))))


def mean_terms(steps: list[dict[str, float]]) -> dict[str, float]:
    """The mean of every term over the steps of an epoch."""
    return {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}


def _groups(model: BayesPFL, run: RunConfig) -> list[dict[str, Any]]:
    """Parameter groups of what is trained now: prompts and their distributions, temperatures, everything else."""
    training = run.training
    rates = {
        "prompts": training.prompt_learning_rate or training.learning_rate,
        "temperatures": training.temperature_learning_rate or training.learning_rate,
        "linear": training.learning_rate,
    }
    groups: dict[str, list[nn.Parameter]] = {kind: [] for kind in rates}
    for name, parameter in model.named_parameters():
        part = name.split(".")[0]
        kind = (
            "prompts"
            if part in ("banks", "context", "states")
            else "temperatures"
            if "temperature" in part
            else "linear"
        )
        if parameter.requires_grad:
            groups[kind].append(parameter)
    return [{"params": parameters, "lr": rates[kind]} for kind, parameters in groups.items() if parameters]


def _itself(local: Tensor) -> Tensor:
    return local


def _float32(value: Any) -> Any:
    """The same nested tuple with every tensor in float32."""
    return value.float() if isinstance(value, Tensor) else type(value)(*map(_float32, value))
