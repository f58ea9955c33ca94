"""Word lists of prompt ensembles: states around a class name, and templates around a state, as each method has them.

Every list is in the order of its released code. A template's slot takes a state, a state's slot the class name.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from bayes_pfl.config.settings import Settings

SLOT = "{}"

WITHOUT = ("{} without flaw", "{} without defect", "{} without damage")
WITH = ("{} with flaw", "{} with defect", "{} with damage")

PLAIN_NORMAL = ("{}", "flawless {}", "perfect {}", "unblemished {}", *WITHOUT)
"""Normal states of WinCLIP, APRIL-GAN and AdaCLIP."""

BROKEN = ("damaged {}", "broken {}", *WITH)
"""Abnormal states of APRIL-GAN and AdaCLIP."""

INSPECTION = (
    "a photo of the {} for visual inspection.",
    "a photo of a {} for visual inspection.",
    "a photo of the {} for anomaly detection.",
    "a photo of a {} for anomaly detection.",
)

WINCLIP_TEMPLATES = (
    "a cropped photo of the {}.",
    "a close-up photo of a {}.",
    "a close-up photo of the {}.",
    "a bright photo of a {}.",
    "a bright photo of the {}.",
    "a dark photo of the {}.",
    "a dark photo of a {}.",
    "a jpeg corrupted photo of the {}.",
    "a jpeg corrupted photo of the {}.",  # twice, as in anomalib: it counts twice in the mean
    "a blurry photo of the {}.",
    "a blurry photo of a {}.",
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of a small {}.",
    "a photo of the small {}.",
    "a photo of a large {}.",
    "a photo of the large {}.",
    *INSPECTION,
)
"""21 templates of WinCLIP as anomalib (Apache-2.0) and zqhang/Accurate-WinCLIP-pytorch (MIT) have them."""

APRIL_GAN_TEMPLATES = (
    "a bad photo of a {}.",
    "a low resolution photo of the {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a bright photo of a {}.",
    "a dark photo of the {}.",
    "a photo of my {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a photo of one {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "a low resolution photo of a {}.",
    "a photo of a large {}.",
    "a blurry photo of a {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a photo of the small {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "a dark photo of a {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)
"""35 templates of ByChelsea/VAND-APRIL-GAN (MIT)."""

CLIP_AD_FLAWS = ("flaw", "defect", "damage", "scratch", "crack", "contamination")

CLIP_AD_NORMAL = ("flawless {}", "perfect {}", "unblemished {}", *(f"{{}} without {flaw}" for flaw in CLIP_AD_FLAWS))

CLIP_AD_ABNORMAL = (
    "damaged {}",
    "imperfect {}",
    "blemished {}",
    "broken {}",
    *(f"{{}} with {flaw}" for flaw in CLIP_AD_FLAWS),
)

CLIP_AD_TEMPLATES = (
    "a cropped photo of the {}.",
    "a cropped photo of a {}.",
    "a close-up photo of a {}.",
    "a close-up photo of the {}.",
    "a bright photo of a {}.",
    "a bright photo of the {}.",
    "a dark photo of the {}.",
    "a dark photo of a {}.",
    "a jpeg corrupted photo of a {}.",
    "a jpeg corrupted photo of the {}.",
    "a blurry photo of the {}.",
    "a blurry photo of a {}.",
    "a photo of the {}.",
    "a photo of a {}.",
    "a photo of a large {}.",
    "a photo of the small {}.",
    "a photo of the large {}.",
    "a photo of a small {}.",
    *INSPECTION,
)
"""22 templates of ByChelsea/CLIP-AD (no licence stated): the list of the WinCLIP paper."""

ADA_CLIP_TEMPLATES = (
    "a bad photo of a {}.",
    "a low resolution photo of the {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
)
"""4 templates of caoyunkang/AdaCLIP (MIT)."""


class Wording(Settings):
    """Sentences of a prompt ensemble: every state in every template, states outside, templates inside."""

    normal_states: tuple[str, ...] = Field(min_length=1, description="states of a flawless object; {} is its name")
    abnormal_states: tuple[str, ...] = Field(min_length=1, description="states of a damaged object; {} is its name")
    templates: tuple[str, ...] = Field(min_length=1, description="sentences around a state, which {} is")

    @field_validator("normal_states", "abnormal_states", "templates")
    @classmethod
    def _has_a_slot(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if text.count(SLOT) != 1:
                raise ValueError(f"'{text}' must have {{}} exactly once, where the name or the state goes")
        return value

    def sentences(self, class_name: str) -> tuple[list[str], list[str]]:
        """All sentences about a class.

        Args:
            class_name: goes in as it is.

        Returns:
            Normal and abnormal sentences, state by state.
        """
        normal, abnormal = (
            [template.replace(SLOT, state.replace(SLOT, class_name)) for state in states for template in self.templates]
            for states in (self.normal_states, self.abnormal_states)
        )
        return normal, abnormal


def filled_by(default: Wording) -> BeforeValidator:
    """What a configuration leaves out of a wording is that of a method.

    Args:
        default: the method's.

    Returns:
        pydantic's validator.
    """

    def _filled(value: Any) -> Any:
        return {**default.model_dump(), **value} if isinstance(value, dict) else value

    return BeforeValidator(_filled)


WINCLIP_WORDING = Wording(
    normal_states=PLAIN_NORMAL, abnormal_states=("damaged {}", *WITH), templates=WINCLIP_TEMPLATES
)
APRIL_GAN_WORDING = Wording(normal_states=PLAIN_NORMAL, abnormal_states=BROKEN, templates=APRIL_GAN_TEMPLATES)
CLIP_AD_WORDING = Wording(normal_states=CLIP_AD_NORMAL, abnormal_states=CLIP_AD_ABNORMAL, templates=CLIP_AD_TEMPLATES)
ADA_CLIP_WORDING = Wording(normal_states=PLAIN_NORMAL, abnormal_states=BROKEN, templates=ADA_CLIP_TEMPLATES)

WinClipWording = Annotated[Wording, filled_by(WINCLIP_WORDING)]
AprilGanWording = Annotated[Wording, filled_by(APRIL_GAN_WORDING)]
ClipAdWording = Annotated[Wording, filled_by(CLIP_AD_WORDING)]
AdaClipWording = Annotated[Wording, filled_by(ADA_CLIP_WORDING)]
