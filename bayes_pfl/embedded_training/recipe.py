"""The recipe of the embedded CLIP: sizes, steps, weights of its losses."""

import math

from pydantic import Field, model_validator

from bayes_pfl.config import Settings
from bayes_pfl.synthetic.batches import BatchOptions


class PretrainingConfig(Settings):
    """The recipe of the embedded CLIP."""

    seed: int = Field(7, ge=0, description="initial weights, every image, every caption")
    crop_steps: int = Field(1600, ge=0, description="optimiser steps on small images, first")
    full_steps: int = Field(600, ge=0, description="optimiser steps on images of full size, afterwards")
    crop_size: int = Field(64, ge=32, multiple_of=8, description="side of the small images, pixels")
    image_size: int = Field(112, ge=32, multiple_of=8, description="side of the full images, pixels")
    pairs: int = Field(16, ge=1, description="twin pairs per step and worker; a pair is two images")
    composite_share: float = Field(0.55, ge=0, le=1, description="share of invented objects")
    name_dropout: float = Field(0.4, ge=0, le=1, description="share of captions without the object's name")
    kind_share: float = Field(0.5, ge=0, le=1, description="share of captions that name the kind of defect")
    feature_layers: tuple[int, ...] = Field(
        (6, 8, 10, 12), min_length=1, description="vision blocks, from 1, whose patches the dense head reads"
    )
    learning_rate: float = Field(1.2e-3, gt=0, description="AdamW's peak step size")
    weight_decay: float = Field(0.05, ge=0, description="AdamW's decay of matrices")
    warmup_steps: int = Field(150, ge=0, description="steps of linear warm-up, then cosine over the pixels")
    state_weight: float = Field(1.0, ge=0, description="weight of telling flawless from damaged captions")
    dense_weight: float = Field(1.5, ge=0, description="weight of the dense head's loss")
    bfloat16: bool = Field(False, description="autocast to bfloat16; faster only where the CPU multiplies it fast")
    validation_images: int = Field(12, ge=1, description="defective, and as many flawless, per category")
    report_every: int = Field(100, ge=1, description="steps between validation, report and checkpoint")

    @model_validator(mode="after")
    def _something_to_do(self) -> "PretrainingConfig":
        if self.crop_steps + self.full_steps < 1:
            raise ValueError("crop_steps and full_steps are both 0: nothing would be trained")
        if self.crop_size > self.image_size:
            raise ValueError("crop_size must not exceed image_size")
        return self

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.crop_steps + self.full_steps

    def side(self, step: int) -> int:
        """Side of the images of a step.

        Args:
            step: counted from 0.

        Returns:
            Pixels.
        """
        return self.crop_size if step < self.crop_steps else self.image_size

    def rate(self, step: int) -> float:
        """Step size: linear warm-up, then half a cosine over the pixels seen.

        Args:
            step: counted from 0.

        Returns:
            AdamW's step size.
        """
        small, full = self.crop_size**2, self.image_size**2
        seen = min(step, self.crop_steps) * small + max(0, step - self.crop_steps) * full
        progress = seen / (self.crop_steps * small + self.full_steps * full)
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * progress))

    def batch_options(self) -> BatchOptions:
        """What the batches are made of.

        Returns:
            Options of the generator.
        """
        return BatchOptions(self.pairs, self.image_size, self.composite_share, self.name_dropout, self.kind_share)
