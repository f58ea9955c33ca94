"""Tensors of a CLIP under Hugging Face Transformers' names -> the same tensors under open_clip's names.

Transformers keeps queries, keys and values apart and its projections as (out, in); open_clip keeps the three in one
matrix and its projections as (in, out). Everything else differs in name alone.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from bayes_pfl.errors import BackboneError

TOWERS = {"text_model.": "", "vision_model.": "visual."}
PREFIXES = (*TOWERS, "text_projection.", "visual_projection.")

WHOLE = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "logit_scale": "logit_scale",
}
TRANSPOSED = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
IN_BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
BLOCK = re.compile(r"(text_model\.|vision_model\.)encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def has_transformers_names(names: Mapping[str, object] | set[str]) -> bool:
    """Whether tensors are named as Transformers names those of a CLIP.

    Args:
        names: of tensors.

    Returns:
        True if any begins as there.

    >>> has_transformers_names({"text_model.final_layer_norm.bias"}), has_transformers_names({"ln_final.bias"})
    (True, False)
    """
    return any(name.startswith(PREFIXES) for name in names)


def open_clip_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a CLIP as open_clip names and shapes them.

    Args:
        tensors: by Transformers' names.

    Returns:
        By open_clip's names.

    Raises:
        BackboneError: a tensor is no part of CLIP, or a part of an attention is missing.
    """
    renamed: dict[str, Tensor] = {}
    attention: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        block = BLOCK.fullmatch(name)
        if name in WHOLE:
            renamed[WHOLE[name]] = tensor
        elif name in TRANSPOSED:
            renamed[TRANSPOSED[name]] = tensor.T.contiguous()
        elif block and block[3] in IN_BLOCK:
            renamed[f"{TOWERS[block[1]]}transformer.resblocks.{block[2]}.{IN_BLOCK[block[3]]}.{block[4]}"] = tensor
        elif block and block[3] in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
            target = f"{TOWERS[block[1]]}transformer.resblocks.{block[2]}.attn.in_proj_{block[4]}"
            attention.setdefault(target, {})[block[3][-6]] = tensor
        elif not name.endswith("position_ids"):  # a count from 0, kept by older versions
            raise BackboneError(
                "The weights have the names of Hugging Face Transformers, but of another model than CLIP: "
                f"{name} is no part of CLIP. Choose a CLIP, or open_clip's file of the same model."
            )
    for target, parts in attention.items():
        if set(parts) != set("qkv"):
            raise BackboneError(
                "The weights have the names of Hugging Face Transformers, and the "
                f"{' and the '.join(sorted(set('qkv') - set(parts)))} of {target} are missing; download them again."
            )
        renamed[target] = torch.cat([parts[letter] for letter in "qkv"])
    return renamed
