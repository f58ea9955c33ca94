"""Sentences about flawless and damaged objects of a class -> two text vectors, computed once a class."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bayes_pfl.clip.sentences import SentenceEncoder
from bayes_pfl.config import Wording

CLASSES = 1024
"""Class names whose text vectors are remembered."""

OBJECT = "object"
"""A class name that sentences are measured with."""

Representative = Callable[[Float[Tensor, "sentences dim"]], Float[Tensor, "dim"]]


class EnsembleText:
    """Text vectors t_n, t_a of class names: each of many sentences, by a rule of the method.

    Args:
        encoder: CLIP's text encoder.
        wording: which sentences.
        representative: the vector of all sentences of a kind, from their embeddings, not normalised yet.
    """

    def __init__(self, encoder: SentenceEncoder, wording: Wording, representative: Representative) -> None:
        self._vectors = functools.lru_cache(maxsize=CLASSES)(
            functools.partial(_class_vectors, encoder, wording, representative)
        )

    def vectors(self, class_names: Sequence[str]) -> Float[Tensor, "batch 2 dim"]:
        """Normalised vectors, normal first.

        Args:
            class_names: as they go into the sentences.

        Returns:
            A pair for each name.
        """
        return torch.stack([self._vectors(name) for name in class_names])


def mean_vector(embeddings: Float[Tensor, "sentences dim"]) -> Float[Tensor, "dim"]:
    """Mean of embeddings as they are, normalised (WinCLIP).

    Args:
        embeddings: of all sentences of a kind.

    Returns:
        The vector.
    """
    return F.normalize(embeddings.mean(0), dim=0)


def mean_direction(embeddings: Float[Tensor, "sentences dim"]) -> Float[Tensor, "dim"]:
    """Mean of normalised embeddings, normalised (APRIL-GAN).

    Args:
        embeddings: of all sentences of a kind.

    Returns:
        The vector.
    """
    return mean_vector(F.normalize(embeddings, dim=-1))


def wording_tokens(wording: Wording, tokenizer: Any) -> int:
    """Tokens of the longest sentence beside start, class name and end of text.

    Args:
        wording: which sentences.
        tokenizer: open_clip's.

    Returns:
        The number.
    """
    normal, abnormal = wording.sentences(OBJECT)
    lengths = [len(tokenizer.encode(sentence)) for sentence in [*normal, *abnormal]]
    return max(lengths) - len(tokenizer.encode(OBJECT))


@torch.no_grad()
def _class_vectors(
    encoder: SentenceEncoder, wording: Wording, representative: Representative, class_name: str
) -> Float[Tensor, "2 dim"]:
    return torch.stack([representative(encoder.encode(each).float()) for each in wording.sentences(class_name)])


def abnormal_logit(
    features: Float[Tensor, "batch *rows dim"], text: Float[Tensor, "batch 2 dim"]
) -> Float[Tensor, "batch *rows"]:
    """Difference of cosines abnormal - normal: a two-way softmax is the sigmoid of it.

    Args:
        features: not normalised.
        text: normalised, normal first.

    Returns:
        cos(features, t_a) - cos(features, t_n).
    """
    direction = (text[:, 1] - text[:, 0]).unflatten(0, (-1, *[1] * (features.dim() - 2)))
    return (F.normalize(features, dim=-1) * direction).sum(-1)
