"""One pair of text embeddings an image, in place of the B x R pairs of the flow: their mean, or that of other prompts.

Projections, attention, x_patch, losses and scoring are those of Bayes-PFL, whichever text they meet.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.class_names import ClassNames
from bayes_pfl.clip.sentences import SentenceEncoder
from bayes_pfl.config import DetectorConfig, ModelConfig
from bayes_pfl.config.wordings import APRIL_GAN_WORDING
from bayes_pfl.methods.anomaly_clip import ObjectPrompts, ObjectText
from bayes_pfl.methods.ensemble import EnsembleText, mean_direction
from bayes_pfl.methods.heads import loaded
from bayes_pfl.methods.maps import PromptScores, batch_maps
from bayes_pfl.methods.method import BatchQuery
from bayes_pfl.methods.prompt_flow.attention import normalize
from bayes_pfl.methods.prompt_flow.distributions import no_offsets
from bayes_pfl.methods.prompt_flow.head import BayesPFL, Prompts, Widths, other_tokens
from bayes_pfl.methods.prompt_flow.parts import object_prompt_settings


def mean_pair(text: Float[Tensor, "batch samples bank 2 dim"]) -> Float[Tensor, "batch 1 1 2 dim"]:
    """Text ensemble (section 4.4): the mean of normalised embeddings, normalised.

    Args:
        text: L2-normalised text embeddings.

    Returns:
        One pair for each image. The mean of one prompt is that prompt, to the last bit.
    """
    if text.shape[1] == text.shape[2] == 1:
        return text
    return normalize(text.mean((1, 2), keepdim=True))


def without_spread(scores: PromptScores) -> PromptScores:
    """Scores of one prompt of each kind: it has no uncertainty, which is not 0.

    Args:
        scores: with the deviation over one prompt.

    Returns:
        The scores without it.
    """
    return scores._replace(uncertainty_map=None)


class PairText:
    """Text embeddings of the prompts that stand in for the flow (Figure 4), as the methods that they are of have them.

    Args:
        config: of the head; gives `variant.prompts`.
        backbone: the frozen CLIP.

    Raises:
        BackboneError: its text tower is not CLIP's.
        ConfigError: `deep_blocks` are more than the text encoder has.
    """

    def __init__(self, config: ModelConfig, backbone: Backbone) -> None:
        self.sentences = self.objects = None
        if config.variant.prompts == "sentences":
            self.sentences = EnsembleText(SentenceEncoder(backbone), APRIL_GAN_WORDING, mean_direction)
        else:
            self.objects = ObjectText(object_prompt_settings(config), backbone)

    def pairs(self, prompts: ObjectPrompts | None, class_names: Sequence[str]) -> Float[Tensor, "batch 1 1 2 dim"]:
        """The pair of each image; gradients reach what is learned.

        Args:
            prompts: `BayesPFL.object_prompts`; AnomalyCLIP's prompts are learned, sentences are not.
            class_names: of the images; AnomalyCLIP's prompts are the same for all.

        Returns:
            Normalised, normal first.
        """
        if self.sentences is not None:
            text = self.sentences.vectors(class_names)
        else:
            assert self.objects is not None
            assert prompts is not None
            text = normalize(self.objects.embeddings(prompts).float()).expand(len(class_names), 2, -1)
        return text[:, None, None]


def pair_prompts(text: Float[Tensor, "batch 1 1 2 dim"]) -> Prompts:
    """Prompts as the losses take them: nothing is sampled, so all divergences are 0.

    Args:
        text: of `PairText`.

    Returns:
        The prompts.
    """
    nothing = no_offsets(text.new_zeros(1, 1))
    return Prompts(text, no_offsets(text.new_zeros(len(text), 1, 1)), nothing, nothing)


class PairScorer:
    """The scores of a batch of images with the prompts that stand in for the flow; see `Scorer`.

    Args:
        config: what a bundle stores.
        backbone: the frozen CLIP.
        device: where to compute.
        weights: state dict of `BayesPFL`.

    Raises:
        RuntimeError: the weights do not fit.
    """

    def __init__(
        self, config: DetectorConfig, backbone: Backbone, device: torch.device, weights: dict[str, Tensor]
    ) -> None:
        assert isinstance(config.model, ModelConfig)
        model = self.model = config.model
        self.size, self.encode_image = backbone.config.image_size, backbone.encode_image
        self.head = loaded(lambda: BayesPFL(model, Widths.from_backbone(backbone)), weights).to(device)
        self.text = PairText(model, backbone)
        with torch.no_grad():  # learned prompts are the same for every image
            learned = self.head.object_prompts
            self.learned = None if learned is None else self.text.pairs(learned, ("object",))
        self.class_names: ClassNames = backbone.class_names(other_tokens(model, backbone.tokenizer))

    @torch.no_grad()
    def score(self, query: BatchQuery) -> PromptScores:
        """See `Scorer.score`.

        Args:
            query: the images.

        Returns:
            Their maps and scores.
        """
        names = query.class_names
        text = self.text.pairs(None, names) if self.learned is None else self.learned.expand(len(names), 1, 1, 2, -1)
        logits = self.head.logits(query.features, text)
        return without_spread(batch_maps(*logits, self.size, self.model.variant.upsampled_corners))
