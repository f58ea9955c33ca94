"""Sentences, or embedded words, through CLIP's frozen text transformer -> text embeddings.

Reading ends behind the longest end of text: CLIP reads from left to right, so what is behind it changes nothing.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.clip.loading import SERVED
from bayes_pfl.clip.placement import bfloat16_products, is_reduced
from bayes_pfl.clip.prompt_encoder import reads_as_clip
from bayes_pfl.errors import BackboneError

SENTENCES_AT_ONCE = 64


class SentenceEncoder:
    """CLIP's text encoder on whole sentences and on words that are embedded already; gradients pass through it.

    Args:
        backbone: the frozen CLIP, where it computes.

    Raises:
        BackboneError: its text tower is not CLIP's.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.tower: Any = backbone.text_tower
        self.tokenizer = backbone.tokenizer
        self.blocks: list[Any] = list(self.tower.transformer.resblocks)
        self.reduced = is_reduced(backbone)
        if not reads_as_clip(self.tower, self.blocks):
            raise BackboneError(
                f"{backbone.config.name} has a text tower that is not CLIP's, a transformer that reads from left to "
                f"right and gives the state of its end of text; {SERVED}."
            )

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = self.tower.positional_embedding.device
        return device

    def tokens(self, sentences: Sequence[str], least: int = 0) -> Int[Tensor, "sentences tokens"]:
        """Token ids of sentences, padded with 0 up to the longest end of text.

        Args:
            sentences: any number.
            least: length of each row at least.

        Returns:
            The ids, on the encoder's device.
        """
        ids: Tensor = self.tokenizer(list(sentences))
        return ids[:, : max(int(self.ends(ids).max()) + 1, least)].to(self.device)

    def ends(self, ids: Int[Tensor, "sentences tokens"]) -> Int[Tensor, "sentences"]:
        """Where the end of text is.

        Args:
            ids: token ids.

        Returns:
            Positions, from 0.
        """
        return (ids == self.tokenizer.eot_token_id).int().argmax(dim=1)

    @torch.no_grad()
    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "sentences dim"]:
        """Embeddings of sentences in the joint space, not normalised.

        Args:
            sentences: any number.

        Returns:
            The embeddings.
        """
        parts = []
        for ids in self.tokens(sentences).split(SENTENCES_AT_ONCE):
            parts.append(self.encode_words(self.embed(ids), self.ends(ids)))
        return torch.cat(parts)

    def embed(self, ids: Int[Tensor, "sentences tokens"]) -> Float[Tensor, "sentences tokens width"]:
        """Word embeddings without positions.

        Args:
            ids: token ids.

        Returns:
            The embeddings.
        """
        words: Tensor = self.tower.token_embedding(ids)
        return words

    def encode_words(
        self,
        words: Float[Tensor, "sentences tokens width"],
        ends: Int[Tensor, "sentences"],
        deep: Sequence[Float[Tensor, "_ prompts width"]] = (),
    ) -> Float[Tensor, "sentences dim"]:
        """Embeddings of word embeddings.

        Args:
            words: without positions, which are added here.
            ends: where the end of text is.
            deep: before the second, third, ... block, these replace the states at positions 1, 2, ...: for each
                sentence, or one for all.

        Returns:
            Embeddings in the joint space, not normalised.
        """
        return self.finish(self.first_block(words), ends, deep)

    def first_block(self, words: Float[Tensor, "sentences tokens width"]) -> Float[Tensor, "tokens sentences width"]:
        """States behind the first block, which no deep prompt reaches.

        Args:
            words: without positions, which are added here.

        Returns:
            The states, tokens first.
        """
        with bfloat16_products(self.device, self.reduced):
            x = words + self.tower.positional_embedding[: words.shape[1]].to(words.dtype)
            return self._block(0, x.transpose(0, 1))

    def finish(
        self,
        states: Float[Tensor, "tokens sentences width"],
        ends: Int[Tensor, "sentences"],
        deep: Sequence[Float[Tensor, "_ prompts width"]] = (),
    ) -> Float[Tensor, "sentences dim"]:
        """The embeddings of states behind the first block.

        Args:
            states: of `first_block`.
            ends: where the end of text is.
            deep: see `encode_words`.

        Returns:
            Embeddings in the joint space, not normalised.
        """
        x = states
        with bfloat16_products(self.device, self.reduced):
            for index in range(1, len(self.blocks)):
                if index <= len(deep):
                    prompts = deep[index - 1].transpose(0, 1).to(x.dtype).expand(-1, x.shape[1], -1)
                    x = torch.cat([x[:1], prompts, x[1 + len(prompts) :]])
                x = self._block(index, x)
            last = self.tower.ln_final(x[ends, torch.arange(x.shape[1], device=x.device)])
            projection = self.tower.text_projection
            embeddings: Tensor = projection(last) if isinstance(projection, nn.Module) else last @ projection
        return embeddings

    def _block(self, index: int, x: Tensor) -> Tensor:
        result: Tensor = self.blocks[index](x, attn_mask=self.tower.attn_mask[: len(x), : len(x)])
        return result
