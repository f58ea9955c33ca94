"""A frozen CLIP -> the same on a device, in a precision: exact float32, or matrix products in bfloat16."""

import copy
import functools
import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import get_args

import torch
from torch import Tensor, nn

from bayes_pfl.clip.backbone import Backbone
from bayes_pfl.config import Precision
from bayes_pfl.errors import ConfigError

logger = logging.getLogger(__name__)


def usable_device(name: str | torch.device) -> torch.device:
    """A device that torch can compute on here.

    Args:
        name: such as "cpu", "cuda" or "cuda:1"; "auto": a GPU where there is one, else the CPU.

    Returns:
        The device.

    Raises:
        ConfigError: the name is unknown, or there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as error:  # torch raises whatever its backends raise
        raise ConfigError(
            f"torch cannot use the device '{name}' here ({str(error).splitlines()[0]}); "
            "choose cpu, or install its driver."
        ) from error
    return device


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse a precision that is unknown, or not of this device; warn of one that is slow here.

    Args:
        precision: float32, tf32 or bfloat16.
        device: where it is to be used.

    Raises:
        ConfigError: as said.
    """
    if precision not in get_args(Precision):
        raise ConfigError(
            f"precision is '{precision}'; choose float32 (exact), bfloat16 (faster), "
            "or tf32 (between them, GPUs alone)."
        )
    if precision == "tf32" and device.type == "cpu":
        raise ConfigError("precision is 'tf32', which GPUs alone have; choose float32 or bfloat16.")
    if precision == "bfloat16" and device.type == "cpu" and not multiplies_bfloat16():
        logger.warning("This processor has no fast products of bfloat16: float32 is faster on it.")


def placed(backbone: Backbone, device: torch.device, reduce: bool = False) -> Backbone:
    """A backbone on a device; the given one stays as it is, since others may use it too.

    Args:
        backbone: an exact backbone.
        device: where it is needed.
        reduce: keep the matrices of linear layers in bfloat16; all that is added or normalised stays float32.

    Returns:
        The backbone itself where nothing has to change, else a copy that shares all that is the same.
    """
    matrices = _matrices(backbone) if reduce else set()
    copies: dict[int, object] = {id(backbone.tokenizer): backbone.tokenizer}
    changed = False
    for tensor in (*backbone.parameters(), *backbone.buffers()):
        value = tensor.detach().to(device, torch.bfloat16 if id(tensor) in matrices else tensor.dtype)
        same = (value.device, value.dtype) == (tensor.device, tensor.dtype)
        changed = changed or not same
        copies[id(tensor)] = tensor if same else _like(tensor, value)
    return copy.deepcopy(backbone, copies) if changed else backbone


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; from the CPU's memory to a GPU through pinned memory, while the GPU still computes.

    Args:
        tensor: on any device.
        device: where it is needed.

    Returns:
        The tensor there: itself where it is there already.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type == "cuda")


def is_reduced(backbone: Backbone) -> bool:
    """Whether a backbone has matrices in bfloat16.

    Args:
        backbone: exact or reduced.

    Returns:
        True for a reduced one.
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


@contextmanager
def tf32_products(enabled: bool) -> Iterator[None]:
    """The context in which a GPU multiplies float32 with mantissas of 10 bits.

    Args:
        enabled: off: the context changes nothing.

    Returns:
        A context manager.
    """
    if not enabled:
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this processor multiplies matrices of bfloat16 faster than those of float32, measured once.

    What it reports does not tell: with AMX they are six times as fast, and with AVX-512 BF16 twice as fast on some
    processors and half as fast on others.

    Returns:
        True if the best of a few products of 512 x 1024 by 1024 x 1024 was.
    """

    def best(kind: torch.dtype) -> float:
        left, right = torch.ones(512, 1024, dtype=kind), torch.ones(1024, 1024, dtype=kind)
        times = []
        for _ in range(5):
            began = time.perf_counter()
            torch.mm(left, right)
            times.append(time.perf_counter() - began)
        return min(times)

    return best(torch.bfloat16) < best(torch.float32)


def _matrices(backbone: Backbone) -> set[int]:
    """Identities of the matrices of linear layers and attention."""
    matrices = set()
    for module in backbone.modules():
        for name in ("weight", "in_proj_weight") if isinstance(module, nn.Linear | nn.MultiheadAttention) else ():
            matrix = getattr(module, name, None)
            if matrix is not None:
                matrices.add(id(matrix))
    return matrices


def _like(tensor: Tensor, value: Tensor) -> Tensor:
    """The value as a parameter where the tensor is one."""
    return nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value
