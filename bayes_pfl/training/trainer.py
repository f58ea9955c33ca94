"""Training of a method's head in plain torch: one `step` a batch, on one worker or on many that share a global batch.

Several workers give the loss and gradient of one: sums over images are added before ratios are taken
(`TrainableMethod.loss`), and the gradients of the whole head are averaged as one vector. The frozen CLIP is replicated
and never communicated.
"""

import itertools
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from bayes_pfl.clip.backbone import Backbone, Features
from bayes_pfl.clip.class_names import ClassNames
from bayes_pfl.clip.placement import bfloat16_products, placed
from bayes_pfl.config import RunConfig
from bayes_pfl.data.samples import SampleRef
from bayes_pfl.errors import ClassNameError, TrainingError
from bayes_pfl.methods.builder import build_trainable_method
from bayes_pfl.methods.method import Loss, TrainingBatch
from bayes_pfl.training.workers import average_gradients, sum_over_workers


class TrainingState(NamedTuple):
    """All that a run continues from: tensors by name, the steps done, and the step at which the second stage began."""

    tensors: dict[str, Tensor]
    steps: int
    second_stage_start: int | None = None


class Trainer:
    """Method, optimiser and schedule; `workers` processes of an initialised process group, or 1 without one."""

    def __init__(
        self, run: RunConfig, backbone: Backbone, device: torch.device, steps_per_epoch: int, workers: int
    ) -> None:
        self.run, self.backbone, self.device, self.workers = run, placed(backbone, device), device, workers
        self.method = build_trainable_method(run, self.backbone, device)
        self.model = self.method.head
        self.steps_per_epoch = steps_per_epoch
        self.steps = 0
        self.second_stage_start: int | None = None
        self._begin_stage(run.training.epochs)

    def begin_second_stage(self) -> None:
        """From here on train what the method's second stage trains, with a new optimiser and schedule."""
        self.second_stage_start = self.steps
        self._begin_stage(self.run.training.second_stage_epochs)

    def batch(
        self,
        images: Float[Tensor, "batch 3 height width"],
        masks: Float[Tensor, "batch height width"],
        refs: list[SampleRef],
    ) -> TrainingBatch:
        """Encode images with the frozen backbone and put all that a step needs on the device.

        Args:
            images: normalised images.
            masks: 1 where an image is defective, else 0.
            refs: where the images come from: their labels, class names and hashes.

        Returns:
            The batch.
        """
        with bfloat16_products(self.device, self.run.training.mixed_precision):
            parts = [
                self.method.encode_image(part.to(self.device))
                for part in images.chunk(self.run.training.accumulation_parts)
            ]
        features = Features(
            torch.cat([part.image for part in parts]), torch.cat([part.patches for part in parts], dim=1)
        )
        return self.encoded_batch(features, masks, refs)

    def encoded_batch(
        self, features: Features, masks: Float[Tensor, "batch height width"], refs: list[SampleRef]
    ) -> TrainingBatch:
        """The same from frozen features that were computed before.

        Args:
            features: features of the images.
            masks: 1 where an image is defective, else 0.
            refs: where the images come from.

        Returns:
            The batch.
        """
        return TrainingBatch(
            features=Features(*(part.to(self.device).float() for part in features)),
            label=torch.tensor([float(ref.label) for ref in refs]).to(self.device),
            mask=masks.to(self.device),
            class_names=tuple(ref.class_name for ref in refs),
            noise_keys=tuple(ref.sha256.encode() for ref in refs),
            sample_ids=tuple(ref.sample_id for ref in refs),
        )

    def step(self, batch: TrainingBatch) -> dict[str, float]:
        """One optimiser step.

        Args:
            batch: this worker's part of the global batch.

        Returns:
            Every loss term and diagnostic by name, as they were before the step.

        Raises:
            TrainingError: a loss term is not finite; it names step, term and samples.
        """
        self.optimizer.zero_grad(set_to_none=False)
        terms = self._backward(batch) if self.run.training.accumulation_parts == 1 else self._accumulate(batch)
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if self.workers > 1:
            average_gradients(trained, self.workers)
        if self.run.training.gradient_clip_norm:
            torch.nn.utils.clip_grad_norm_(trained, self.run.training.gradient_clip_norm)
        self.optimizer.step()
        self.schedule.step()
        self.steps += 1
        return terms

    def state(self) -> TrainingState:
        """Weights and Adam's moments by name.

        Returns:
            Copies in the CPU's memory, which later steps do not touch.
        """
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = value
        copies = {name: value.detach().cpu().clone() for name, value in tensors.items()}
        return TrainingState(copies, self.steps, self.second_stage_start)

    def load_state(self, state: TrainingState) -> None:
        """Continue from a state, in its stage.

        Args:
            state: what `state` returned.
        """
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

    def _begin_stage(self, epochs: int) -> None:
        """Freeze what the stage does not train; a new optimiser and schedule for the rest."""
        training = self.run.training
        groups = self.method.parameter_groups(self.second_stage_start is not None)
        trained = {id(parameter) for group in groups for parameter in group["params"]}
        for parameter in self.model.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        together = None if self.device.type == "cpu" else True  # all parameters in a few launches
        betas = (training.adam_beta1, 0.999)
        self.optimizer = torch.optim.Adam([dict(group) for group in groups], betas=betas, foreach=together)
        total = self.steps_per_epoch * epochs
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, total, training.warmup_fraction)
        )

    def _backward(self, batch: TrainingBatch) -> dict[str, float]:
        """Gradients of the whole batch at once."""
        add = sum_over_workers if self.workers > 1 else _itself
        loss = self.method.loss(batch, self.steps, self.second_stage_start is not None, add)
        terms = self._checked_terms(loss, batch)
        loss.total.backward()
        return terms

    def _accumulate(self, batch: TrainingBatch) -> dict[str, float]:
        """Gradients part by part, equal to those of the whole.

        A first pass adds up the sums that the loss is a function of; a second one sends the loss's derivative with
        respect to the sums through each part.
        """
        count = min(self.run.training.accumulation_parts, len(batch.sample_ids))
        bounds = np.linspace(0, len(batch.sample_ids), count + 1).astype(int).tolist()
        parts = [batch.part(slice(start, stop)) for start, stop in itertools.pairwise(bounds)]
        second_stage = self.second_stage_start is not None
        sums: list[Tensor] = []

        def collect(local: Tensor) -> Tensor:
            sums.append(local)
            return local

        with torch.no_grad():
            for part in parts:
                self.method.loss(part, self.steps, second_stage, collect)
        total = torch.stack(sums).sum(0)
        if self.workers > 1:
            dist.all_reduce(total)
        for part in parts:
            loss = self.method.loss(
                part, self.steps, second_stage, lambda local: total + self.workers * (local - local.detach())
            )
            terms = self._checked_terms(loss, batch)
            (loss.total - loss.shared * (1 - 1 / len(parts))).backward()
        return terms

    def _checked_terms(self, loss: Loss, batch: TrainingBatch) -> dict[str, float]:
        """Terms and diagnostics as numbers, in one copy from the device; TrainingError unless terms are finite."""
        scalars = loss.terms | loss.diagnostics
        values = dict(zip(scalars, torch.stack(list(scalars.values())).detach().tolist(), strict=True))
        broken = [name for name in loss.terms if not math.isfinite(values[name])]
        if broken:
            raise TrainingError(
                f"Step {self.steps}: {', '.join(broken)} is not finite. Lower the learning rate or clip gradients "
                f"(training.gradient_clip_norm); the samples of this worker were {', '.join(batch.sample_ids)}."
            )
        return values


def check_class_names(class_names: ClassNames, refs: Iterable[SampleRef]) -> None:
    """Refuse images whose class names do not fit into a method's prompts, before anything is trained.

    Args:
        class_names: of the method: `methods.builder.class_names(run)`, or a trainer's `method.class_names`.
        refs: all images that will be trained on or validated with.

    Raises:
        ClassNameError: a name is blank or too long; it names the category.
    """
    for category, class_name in sorted({(ref.category, ref.class_name) for ref in refs}):
        try:
            class_names.tokens(class_name)
        except ClassNameError as error:
            raise ClassNameError(f"Category '{category}': {error}") from error


def head_weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The head's own weights among the tensors of a `TrainingState`.

    Args:
        tensors: tensors by name.

    Returns:
        The head's state dict.
    """
    return {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}


def learning_rate_factor(step: int, total_steps: int, warmup_fraction: float) -> float:
    """1 throughout for fraction 0 (paper); else linear warm-up, then half a cosine down to 0 (released).

    Args:
        step: steps done in this stage.
        total_steps: steps of the whole stage.
        warmup_fraction: share of the steps that warm up.

    Returns:
        What the learning rate is multiplied with.
    """
    if warmup_fraction == 0:
        return 1.0
    warmup = max(1, round(total_steps * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total_steps - warmup))))


def mean_terms(steps: list[dict[str, float]]) -> dict[str, float]:
    """The mean of every term over the steps of an epoch.

    Args:
        steps: what `Trainer.step` returned, step by step.

    Returns:
        Means by name.
    """
    return {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}


def _itself(local: Tensor) -> Tensor:
    return local
