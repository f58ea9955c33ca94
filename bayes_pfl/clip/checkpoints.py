"""A file of CLIP weights -> what it is, and its tensors alone: nothing in it is executed.

open_clip reads safetensors and `torch.save`'s dictionaries of tensors itself. OpenAI's own files are TorchScript
archives: a zip with the program's code, a pickle of its modules, and one file of raw bytes for each tensor. Here the
pickle is read as data: every class it names becomes an inert `Item`, no function of it is called.
"""

import io
import math
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from bayes_pfl.clip.transformers_names import has_transformers_names, open_clip_names
from bayes_pfl.errors import BackboneError

MAX_PICKLE_BYTES = 64 * 2**20
"""A list of modules and tensors is far smaller; a larger one is refused before it is read."""

MAX_DEPTH = 64
"""Modules inside modules; CLIP has 7."""

DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}
DAMAGED = (ValueError, KeyError, IndexError, TypeError, AttributeError, OSError, zipfile.BadZipFile)
"""Errors of reading a file that is not what it seems to be."""

NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
"""Sizes that OpenAI's archives hold as tensors beside the weights."""


class Item:
    """A class, function or object that a pickle names: its name, and what it was built from; it does nothing."""

    def __init__(self, name: str, arguments: Any = ()) -> None:
        self.name, self.arguments = name, arguments
        self.state: dict[Any, Any] = {}


class StoredTensor(NamedTuple):
    """Where a tensor's bytes are, and its form."""

    storage: str
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def transformers_tensors(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a CLIP saved by Hugging Face Transformers, under open_clip's names.

    Args:
        path: any file: safetensors, or what `torch.save` wrote.

    Returns:
        Tensors by open_clip's names; None if the file's names are not Transformers'.

    Raises:
        BackboneError: it holds another model than CLIP, or is damaged.
    """
    try:
        if not has_transformers_names(_tensor_names(path)):
            return None
        if not zipfile.is_zipfile(path):
            return open_clip_names(safetensors.torch.load_file(path))
        with zipfile.ZipFile(path) as archive:
            root = next(name[: -len("data.pkl")] for name in archive.namelist() if name.endswith("data.pkl"))
            _refuse_unusual(archive, root)
            stored = read_pickle(archive.read(f"{root}data.pkl"))
            named = stored.state if isinstance(stored, Item) else stored
            tensors = {name: tensor for name, tensor in named.items() if isinstance(tensor, StoredTensor)}
            return open_clip_names({name: _read(archive, root, tensor) for name, tensor in tensors.items()})
    except DAMAGED:
        return None  # `describe` says what is wrong with it


def torchscript_tensors(path: Path) -> dict[str, Tensor] | None:
    """The parameters and buffers of a TorchScript archive.

    Args:
        path: any file.

    Returns:
        Tensors by name; None if the file is no TorchScript archive.

    Raises:
        BackboneError: the archive is damaged, or is not what `torch.jit.save` writes.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            root = next((name[: -len("data.pkl")] for name in names if name.endswith("data.pkl")), None)
            if root is None or f"{root}constants.pkl" not in names:
                return None
            _refuse_unusual(archive, root)
            stored = dict(_named(read_pickle(archive.read(f"{root}data.pkl")), "", 0))
            wanted = {name: tensor for name, tensor in stored.items() if name not in NOT_WEIGHTS}
            return {name: _read(archive, root, tensor) for name, tensor in wanted.items()}
    except (*DAMAGED, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), "damaged")
        raise BackboneError(
            f"{path} is a TorchScript archive that cannot be read ({reason}); download it again, or use open_clip's "
            "own weights: backbone.pretrained=openai."
        ) from error


def _refuse_unusual(archive: zipfile.ZipFile, root: str) -> None:
    """Raise ValueError for an archive that torch does not write, before anything large is read."""
    tensors = [info for info in archive.infolist() if info.filename.startswith(f"{root}data")]
    if any(info.compress_type != zipfile.ZIP_STORED for info in tensors):
        raise ValueError("it is compressed")  # torch never does; stored files are no larger than the archive
    if archive.getinfo(f"{root}data.pkl").file_size > MAX_PICKLE_BYTES:
        raise ValueError("its list of modules is too large")
    if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
        raise ValueError("its numbers are big-endian")


def _named(value: Any, prefix: str, depth: int) -> Any:
    """Names and places of the tensors of a module and of those inside it."""
    if depth > MAX_DEPTH or not isinstance(value, Item):
        return
    for name, inner in value.state.items():
        if isinstance(inner, StoredTensor) and name != "attn_mask":  # a mask is built by the architecture
            yield f"{prefix}{name}", inner
        else:
            yield from _named(inner, f"{prefix}{name}.", depth + 1)


def _read(archive: zipfile.ZipFile, root: str, tensor: StoredTensor) -> Tensor:
    """A tensor's values, in memory of its own."""
    data = bytearray(archive.read(f"{root}data/{tensor.storage}"))
    flat = torch.frombuffer(data, dtype=tensor.dtype) if data else torch.empty(0, dtype=tensor.dtype)
    if math.prod(tensor.size) > flat.numel():
        raise ValueError("a tensor is larger than its file")
    return flat.as_strided(tensor.size, tensor.stride, tensor.offset).clone(memory_format=torch.contiguous_format)


def read_pickle(data: bytes) -> Any:
    """What a pickle describes, without unpickling it: containers, numbers, texts, `StoredTensor` and `Item`.

    Args:
        data: the pickle.

    Returns:
        Its root.

    Raises:
        ValueError: it is damaged, or uses what `torch.jit.save` does not.
    """
    machine = _Machine()
    operations: Iterator[tuple[Any, Any, Any]] = pickletools.genops(io.BytesIO(data))
    for opcode, argument, _ in operations:
        name = opcode.name
        if name == "STOP":
            return machine.stack.pop()
        if name in CONSTANTS:
            machine.stack.append(CONSTANTS[name]())
        elif not (machine.remember(name, argument) or machine.collect(name) or machine.build(name, argument)):
            if argument is None or opcode.stack_before != []:
                raise ValueError(f"its pickle uses {name}")
            machine.stack.append(argument)  # a number or a text
    raise ValueError("its pickle has no end")


class _Machine:
    """The stack and the memory that a pickle's operations work on; each method says whether it knows an operation."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}
        self.mark = object()

    def remember(self, name: str, argument: Any) -> bool:
        """Frames, and values by number."""
        if name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memory[int(argument)] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memory[len(self.memory)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memory[int(argument)])
        else:
            return name in ("PROTO", "FRAME")
        return True

    def collect(self, name: str) -> bool:
        """Tuples, lists and dictionaries."""
        stack = self.stack
        if name == "MARK":
            stack.append(self.mark)
        elif name in ("TUPLE", "LIST"):
            items = self._above_mark()
            stack.append(tuple(items) if name == "TUPLE" else items)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else self._above_mark()
            stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self._above_mark()
            state = stack[-1].state if isinstance(stack[-1], Item) else stack[-1]
            state.update(zip(items[::2], items[1::2], strict=True))
        else:
            return False
        return True

    def build(self, name: str, argument: Any) -> bool:
        """Names of classes and functions, and what is built from them: inert."""
        stack = self.stack
        if name == "GLOBAL":
            stack.append(Item(argument.replace(" ", ".")))
        elif name in ("NEWOBJ", "REDUCE"):
            arguments, function = stack.pop(), stack.pop()
            stack.append(_built(function, arguments))
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Item) and isinstance(state, dict):
                stack[-1].state.update(state)
        elif name == "BINPERSID":
            stack.append(Item("storage", stack.pop()))
        else:
            return False
        return True

    def _above_mark(self) -> list[Any]:
        index = next((index for index in reversed(range(len(self.stack))) if self.stack[index] is self.mark), -1)
        if index < 0:
            raise ValueError("a mark is missing")
        items = self.stack[index + 1 :]
        del self.stack[index:]
        return items


CONSTANTS: dict[str, Any] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}


def _built(function: Any, arguments: Any) -> Any:
    """What a pickle builds from a name and arguments: the place of a tensor, or an inert item."""
    name = function.name if isinstance(function, Item) else "?"
    if name == "torch._utils._rebuild_tensor_v2":
        storage, offset, size, stride = arguments[:4]
        _, kind, key, *_ = storage.arguments
        dtype = DTYPES.get(kind.name.removeprefix("torch."))
        if dtype is None or not re.fullmatch(r"\d+", str(key)):
            raise ValueError(f"a tensor has the type {kind.name}")
        return StoredTensor(str(key), dtype, int(offset), tuple(map(int, size)), tuple(map(int, stride)))
    if name == "torch._utils._rebuild_parameter":
        return arguments[0]
    return Item(name, arguments)


def describe(path: Path) -> str:
    """What a file or folder is that open_clip cannot load as weights, and how to get a file that it can.

    Args:
        path: the file.

    Returns:
        A clause and an advice; empty if nothing is known of it.
    """
    if path.is_dir():
        return "is a folder; give the file of weights in it, such as open_clip_model.safetensors"
    with path.open("rb") as file:
        begin = file.read(1024)
    text = begin.lstrip().lower()
    if not begin:
        return "is empty; download it again"
    if begin.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the weights; run `git lfs pull` in its repository, or download the file"
    if text.startswith((b"<html", b"<!doctype", b"<?xml")):
        return "is a web page, not weights; open it to see why the download failed, and download the file again"
    try:
        names = _tensor_names(path)
    except DAMAGED:
        return "is damaged or no file of weights (safetensors, or torch.save of a state dict); download it again"
    if any(key.startswith("state_dict/model.") for key in names) or "pytorch-lightning_version" in names:
        return (
            "is a checkpoint of PyTorch Lightning, whose other objects are never loaded; where it was trained, save "
            "the CLIP inside with safetensors.torch.save_file(model.state_dict(), FILE)"
        )
    return ""


def _tensor_names(path: Path) -> set[str]:
    """Names in a file of weights, without its tensors: those of a nested dictionary behind `state_dict/`."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
            if name is None or archive.getinfo(name).file_size > MAX_PICKLE_BYTES:
                return set()
            root = read_pickle(archive.read(name))
        names = root.state if isinstance(root, Item) else root
        inner = names.get("state_dict", {})
        inner = inner.state if isinstance(inner, Item) else inner
        return {str(key) for key in names} | {f"state_dict/{key}" for key in inner}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return set(file.keys())
    except SafetensorError as error:
        raise ValueError(str(error)) from error
