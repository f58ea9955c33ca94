"""CLIP's matrix products in bfloat16: a backbone with reduced matrices, and the context in which it multiplies."""

import copy
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from bayes_pfl.clip.backbone import Backbone


def reduced(backbone: Backbone) -> Backbone:
    """A backbone whose linear layers keep their matrices in bfloat16; all that is added or normalised stays float32.

    Args:
        backbone: the exact backbone; it is not changed, and shares everything else with the result.

    Returns:
        The reduced backbone.
    """
    replaced: dict[int, object] = {id(backbone.tokenizer): backbone.tokenizer}
    for tensor in (*backbone.parameters(), *backbone.buffers()):
        replaced[id(tensor)] = tensor
    for module in backbone.modules():
        for name in ("weight", "in_proj_weight") if isinstance(module, nn.Linear | nn.MultiheadAttention) else ():
            matrix = getattr(module, name, None)
            if matrix is not None:
                replaced[id(matrix)] = nn.Parameter(matrix.detach().to(torch.bfloat16), requires_grad=False)
    return copy.deepcopy(backbone, replaced)


def is_reduced(backbone: Backbone) -> bool:
    """Whether a backbone has matrices in bfloat16.

    Args:
        backbone: exact or reduced.

    Returns:
        True for one that `reduced` made.
    """
    return any(parameter.dtype == torch.bfloat16 for parameter in backbone.parameters())


def bfloat16_products(device: torch.device, enabled: bool) -> AbstractContextManager[object]:
    """The context in which matrix products run in bfloat16.

    Args:
        device: where they run.
        enabled: off: the context changes nothing, also not what an outer one decided.

    Returns:
        The context manager.
    """
    return torch.autocast(device.type, torch.bfloat16) if enabled else nullcontext()


def multiplies_bfloat16() -> bool:
    """Whether this processor multiplies matrices of bfloat16 faster than those of float32: with AMX.

    Returns:
        True where torch reports AMX for bfloat16; releases without such a report count as no.
    """
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16", False))
