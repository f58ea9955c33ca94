"""Sentences of a recorded prompt ensemble: their tokens and embeddings."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.sentences import SentenceEncoder
from bayes_pfl.config import Wording
from tests.parity.recording import Difference, Recording, absolute, equal


def sentence_differences(recording: Recording, backbone: Backbone, wording: Wording) -> Iterator[Difference]:
    """Tokens and un-normalised embeddings of all sentences about each image's class."""
    encoder = SentenceEncoder(backbone)
    for index, name in enumerate(recording.names()):
        for kind, sentences in zip(("normal", "abnormal"), wording.sentences(name), strict=True):
            tokens = encoder.tokens(sentences)
            recorded = recording[f"tokens_{kind}"][index]
            yield equal(f"tokens {kind} {index}", F.pad(tokens, (0, recorded.shape[1] - tokens.shape[1])), recorded)
            embeddings = encoder.encode(sentences)
            yield absolute(f"text {kind} {index}", embeddings, recording[f"text_each_{kind}"][index])
            assert torch.isfinite(embeddings).all()
