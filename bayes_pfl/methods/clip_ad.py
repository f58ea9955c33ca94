"""CLIP-AD: feature surgery on a second path of value attention (SDP), and APRIL-GAN's linear layers on top (SDP+).

Source: arXiv 2311.00453 and ByChelsea/CLIP-AD (official, no licence stated; facts and equations only).

- Second path: x_l = sum of V-V attention of the blocks of the stage that ends at l, fed by the ordinary path.
- Surgery tokens Q_l = ln_post([m_l class row ; x_l patch rows]) proj; c = cosines with t_n, t_a; p = softmax of the
  class row's. Abnormal entry p_a c_a - p_n c_n; summed over layers and upsampled: the map of SDP.
- SDP+ adds the maps of linear layers on m_l, the ordinary path's patch tokens.
- t_n, t_a: mean of the largest cluster (DBSCAN) of a class's sentences.

Departs from the released code: the image score there is s_text + s_map, each brought to [0, 1] over all test images of
a category; here a prediction depends on its image alone, so it is the plain sum (`recommended_settings`).
Maps are brought to [0, 1] by a fixed scale, which changes no ranking.
"""

import functools
import json

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from bayes_pfl.clip.backbone import Backbone, FeatureKind, Features
from bayes_pfl.clip.blocks import depth, embedded, image_encoder, image_feature, projected, steps, value_attention
from bayes_pfl.clip.sentences import SentenceEncoder
from bayes_pfl.config import ClipAdConfig, RunConfig
from bayes_pfl.errors import ConfigError
from bayes_pfl.methods.ensemble import EnsembleText, abnormal_logit, mean_vector, wording_tokens
from bayes_pfl.methods.linear_layers import LinearLayersObjective, layer_maps, loaded_layers
from bayes_pfl.methods.maps import PromptScores, single_scores
from bayes_pfl.methods.method import BatchQuery, FrozenEncoder
from bayes_pfl.methods.segmentation import upsampled


def clip_ad_encoder(model: ClipAdConfig, backbone: Backbone) -> FrozenEncoder:
    """Surgery tokens Q_l of every layer with their class row; for SDP+ the ordinary path's tokens m_l beside them.

    Args:
        model: stages, and which tokens the linear layers get.
        backbone: the frozen CLIP.

    Returns:
        The encoder; its patches are (layers, batch, 1 + patches, joint width, or joint and token width).

    Raises:
        ConfigError: a layer is not the end of a stage: the released code would give something undefined there.
        BackboneError: the image encoder is not CLIP's own.
    """
    visual, layers = image_encoder(backbone), backbone.config.feature_layers
    blocks, stage = depth(visual), depth(visual) // model.stages
    if blocks % model.stages or any(layer % stage for layer in layers):
        ends = ",".join(str(stage * (number + 1)) for number in range(model.stages)) if stage else "none"
        raise ConfigError(
            f"backbone.feature_layers is {list(layers)}, but CLIP-AD's layers are ends of its {model.stages} stages of "
            f"{blocks} blocks: choose among [{ends}], or another model.stages."
        )

    @torch.no_grad()
    def _encode(images: Float[Tensor, "batch 3 height width"]) -> Features:
        ordinary, second, last = _two_paths(model, visual, stage, embedded(visual, images))
        image = image_feature(visual, last)
        rows = []
        for layer in layers:
            surgery = projected(visual, torch.cat([ordinary[layer][:1], second[layer][1:]]))
            parts = [surgery, ordinary[layer]] if model.linear_layers else [surgery]
            rows.append(torch.cat([part.to(surgery.dtype) for part in parts], dim=-1).transpose(0, 1))
        return Features(image, torch.stack(rows))

    passes = {"staged": model.stages, "between": model.between_attention_and_mlp, "tokens": model.linear_layers}
    passes["quick_gelu"] = backbone.config.quick_gelu
    width = backbone.joint_width + (backbone.patch_width if model.linear_layers else 0)
    shape = (len(layers), 1 + backbone.grid[0] * backbone.grid[1], width, backbone.joint_width)
    return FrozenEncoder(_encode, FeatureKind(json.dumps(passes, sort_keys=True), shape))


def _two_paths(
    model: ClipAdConfig, visual: torch.nn.Module, stage: int, tokens: Tensor
) -> tuple[dict[int, Tensor], dict[int, Tensor], Tensor]:
    """m_l and x_l at every end of a stage, tokens first, and what is behind the last block."""
    ordinary, second, stream = {}, {}, torch.zeros(())
    for layer, step in enumerate(steps(visual, tokens), 1):
        begins, ends = layer % stage == 1 % stage, layer % stage == 0
        if begins and layer > 1 and model.between_attention_and_mlp:
            ordinary[layer - 1] = step.between
        attended = value_attention(step.block, step.normed)
        stream = attended if begins else stream + attended
        if ends:
            second[layer], ordinary[layer] = stream, step.after
        last = step.after
    return ordinary, second, last


class ClipAd:
    """The scores of a batch of images, by SDP or SDP+; see the module.

    Args:
        model: variant, words, clustering.
        backbone: the frozen CLIP.
        device: where to compute.
        weights: state dict of `LinearLayers`; empty for SDP.

    Raises:
        RuntimeError: the weights do not fit.
    """

    def __init__(
        self, model: ClipAdConfig, backbone: Backbone, device: torch.device, weights: dict[str, Tensor]
    ) -> None:
        self.model, self.size, self.joint = model, backbone.config.image_size, backbone.joint_width
        self.layers = len(backbone.config.feature_layers)
        self.encode_image = clip_ad_encoder(model, backbone).encode_image
        self.class_names = backbone.class_names(wording_tokens(model.wording, backbone.tokenizer))
        self.text = clip_ad_text(model, backbone)
        if weights and not model.linear_layers:
            raise RuntimeError("SDP learns nothing, but there are weights: set model.linear_layers.")
        self.head = loaded_layers(backbone, weights).to(device) if model.linear_layers else None

    def score(self, query: BatchQuery) -> PromptScores:
        """See `Scorer.score`.

        Args:
            query: the images.

        Returns:
            Their maps, brought from (-G, G), or (-G, 2 G) with linear layers, to [0, 1], and text scores.
        """
        text = self.text.vectors(query.class_names)
        image = (self.model.scale * abnormal_logit(query.features.image, text)).sigmoid()
        least, extent = self.map_range()
        maps = (self.released_map(query.features.patches, text) - least) / extent
        return single_scores(maps.clamp(0, 1), image)

    def map_range(self) -> tuple[float, float]:
        """The range of the released map.

        Returns:
            Its least possible value, and how far its values can extend from there.
        """
        return -float(self.layers), float(self.layers * (2 if self.head is None else 3))

    def released_map(
        self, patches: Float[Tensor, "layers batch rows width"], text: Float[Tensor, "batch 2 dim"]
    ) -> Float[Tensor, "batch size size"]:
        """The map as the released code has it, before smoothing.

        Args:
            patches: of the features.
            text: vectors of each image's class.

        Returns:
            M_sdp, of both signs; with linear layers the sum of their maps is added.
        """
        surgery = self.similarity(patches[..., : self.joint], text)[:, :, 1:].sum(0, keepdim=True)
        maps = upsampled(surgery, self.size, align_corners=False)[0]
        if self.head is None:
            return maps
        logits = self.head.logits(linear_tokens(patches, self.joint), text, self.model.scale)
        return maps + layer_maps(logits, self.size).abnormal.sum(0)

    def similarity(
        self, surgery: Float[Tensor, "layers batch rows dim"], text: Float[Tensor, "batch 2 dim"]
    ) -> Float[Tensor, "layers batch rows"]:
        """Feature surgery: p_a c_a - p_n c_n, the abnormal entry; the normal one is its negative.

        Args:
            surgery: Q_l with class rows.
            text: vectors of each image's class.

        Returns:
            Row by row.
        """
        cosines = torch.einsum("lbrd,bkd->lbrk", F.normalize(surgery, dim=-1), text)
        weighted = cosines[:, :, :1].softmax(-1) * cosines
        return weighted[..., 1] - weighted[..., 0]


def clip_ad_objective(run: RunConfig, backbone: Backbone, device: torch.device) -> LinearLayersObjective:
    """SDP+ as a `TrainableMethod`: the surgery path takes no part in the loss.

    Args:
        run: the training run.
        backbone: the frozen CLIP.
        device: where to compute.

    Returns:
        The method with the initial weights of the run's seed.

    Raises:
        ConfigError: it is SDP, which learns nothing.
    """
    model = run.model
    assert isinstance(model, ClipAdConfig)
    if not model.linear_layers:
        raise ConfigError("CLIP-AD's SDP learns nothing: set model.linear_layers to true to train SDP+.")
    names = backbone.class_names(wording_tokens(model.wording, backbone.tokenizer))
    tokens = functools.partial(linear_tokens, joint=backbone.joint_width)
    frozen, text = clip_ad_encoder(model, backbone), clip_ad_text(model, backbone)
    return LinearLayersObjective(run, frozen, text, names, tokens, backbone, device)


def linear_tokens(
    patches: Float[Tensor, "layers batch rows width"], joint: int
) -> Float[Tensor, "layers batch patches tokens"]:
    """The ordinary path's patch rows m_l among the features of SDP+.

    Args:
        patches: of the features.
        joint: width of the joint space.

    Returns:
        Without class rows.
    """
    return patches[:, :, 1:, joint:]


def clip_ad_text(model: ClipAdConfig, backbone: Backbone) -> EnsembleText:
    """Text vectors by representative vector selection.

    Args:
        model: words and clustering.
        backbone: the frozen CLIP.

    Returns:
        Vectors of class names.
    """
    return EnsembleText(SentenceEncoder(backbone), model.wording, functools.partial(representative_vector, model))


def representative_vector(model: ClipAdConfig, embeddings: Float[Tensor, "sentences dim"]) -> Float[Tensor, "dim"]:
    """Mean of the largest cluster of normalised embeddings, normalised; of all where there is no cluster.

    Args:
        model: the clustering.
        embeddings: of all sentences of a kind, not normalised.

    Returns:
        The vector.
    """
    rows = F.normalize(embeddings, dim=-1)
    if model.largest_cluster:
        labels = clusters(model, rows)
        counts = torch.bincount(labels[labels >= 0], minlength=1)
        if counts.max() > 0:
            rows = rows[(labels == counts.argmax()).to(rows.device)]
    if not model.half_precision_text:
        return mean_vector(rows)
    half = rows.mean(0).half()
    return (half / half.norm()).float()


def clusters(model: ClipAdConfig, rows: Float[Tensor, "sentences dim"]) -> Int[Tensor, "sentences"]:
    """Clusters of normalised embeddings by DBSCAN, Euclidean.

    Args:
        model: radius and neighbours.
        rows: normalised embeddings.

    Returns:
        Labels from 0 on, -1 for noise.
    """
    from sklearn.cluster import DBSCAN  # here: it takes most of a second to import, and other methods need none

    search = DBSCAN(eps=model.cluster_radius, min_samples=model.cluster_neighbours)
    return torch.from_numpy(search.fit_predict(rows.cpu().numpy()).astype(np.int64))
