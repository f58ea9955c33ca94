"""Tensors of the Open Inference Protocol v2 as they travel: JSON, or JSON followed by raw bytes (the binary extension)."""

import base64
import binascii
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve.problems import Problem

HEADER_LENGTH = "inference-header-content-length"
DTYPES = {"FP32": np.float32, "FP64": np.float64, "BOOL": np.bool_, "INT32": np.int32, "INT64": np.int64}


class Loose(BaseModel):
    """Base of what clients send: fields that newer clients add are let through."""

    model_config = ConfigDict(extra="allow", frozen=True)


class InputTensor(Loose):
    """One input: its values are in `data`, or behind the JSON where `parameters.binary_data_size` says how many bytes."""

    name: str = Field(max_length=100)
    shape: list[int] = Field(max_length=8)
    datatype: str = Field(max_length=10)
    parameters: dict[str, Any] = {}
    data: list[Any] | None = Field(None, description="flat or nested; images as base64 text")


class RequestedOutput(Loose):
    """One output the client wants."""

    name: str = Field(max_length=100)
    parameters: dict[str, Any] = {}


class InferRequest(Loose):
    """The JSON of an inference request."""

    id: str | None = Field(None, max_length=100)
    parameters: dict[str, Any] = {}
    inputs: list[InputTensor] = Field(min_length=1, max_length=8)
    outputs: list[RequestedOutput] | None = Field(None, max_length=8)


class OutputTensor(BaseModel):
    """One output; `data` is missing where the values follow the JSON as raw bytes."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class InferAnswer(BaseModel):
    """The JSON of an inference answer."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[OutputTensor]


def parse(body: bytes, header_length: str | None) -> tuple[InferRequest, dict[str, list[Any]]]:
    """The request and every input's values in order; BYTES as bytes.

    Raises Problem 400 for what is no inference request, or whose tensors do not hold what their shapes say.
    """
    split = len(body)
    if header_length is not None:
        if not header_length.isdecimal() or int(header_length) > len(body):
            raise Problem(400, "Inference-Header-Content-Length is not the length of the JSON at the body's start.")
        split = int(header_length)
    try:
        request = InferRequest.model_validate_json(body[:split])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part)[:60] for part in first["loc"])
        raise Problem(400, f"Not an inference request: {where or 'body'}: {first['msg']}.") from error
    rest, values = memoryview(body)[split:], {}
    for tensor in request.inputs:
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            values[tensor.name] = _from_json(tensor)
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest):
            raise Problem(400, f"Input {tensor.name}: binary_data_size does not fit the body.")
        values[tensor.name] = _from_bytes(tensor, rest[:size])
        rest = rest[size:]
    if len(rest):
        raise Problem(400, "The body is longer than its tensors say.")
    for tensor in request.inputs:
        if len(values[tensor.name]) != _elements(tensor):
            raise Problem(400, f"Input {tensor.name} holds another number of elements than its shape says.")
    return request, values


def answer(result: InferAnswer, arrays: dict[str, np.ndarray], binary: set[str]) -> tuple[bytes, dict[str, str]]:
    """The body and headers of an answer: outputs named in `binary` as raw bytes behind the JSON, the others inside it."""
    chunks = []
    for output in result.outputs:
        array = arrays[output.name]
        if output.name in binary:
            chunks.append(array.tobytes())
            output.parameters = {"binary_data_size": len(chunks[-1])}
        else:
            output.data = array.ravel().tolist()
    head = result.model_dump_json(exclude_none=True).encode()
    if not chunks:
        return head, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return b"".join([head, *chunks]), headers


def _elements(tensor: InputTensor) -> int:
    count = 1
    for length in tensor.shape:
        count *= max(length, 0)
    return count


def _from_json(tensor: InputTensor) -> list[Any]:
    """The values of `data`, flattened; BYTES from base64 if the tensor is so marked or is the image."""
    if tensor.data is None:
        raise Problem(400, f"Input {tensor.name} has neither data nor binary_data_size.")
    flat: list[Any] = []
    for value in tensor.data:
        flat.extend(value if isinstance(value, list) else [value])
    if tensor.datatype != "BYTES":
        return flat
    if not all(isinstance(value, str) for value in flat):
        raise Problem(400, f"Input {tensor.name}: BYTES in JSON are strings.")
    if tensor.name != "image":
        return [value.encode("utf-8", "replace") for value in flat]
    try:
        return [base64.b64decode(value, validate=True) for value in flat]
    except (binascii.Error, ValueError) as error:
        raise Problem(400, "Input image: in JSON, send the file's bytes as base64 text.") from error


def _from_bytes(tensor: InputTensor, raw: memoryview) -> list[Any]:
    """The values of raw bytes: BYTES elements behind their lengths (uint32, little endian), or plain numbers."""
    if tensor.datatype == "BYTES":
        values: list[Any] = []
        while len(raw):
            length = int.from_bytes(raw[:4], "little")
            if len(raw) < 4 + length:
                raise Problem(400, f"Input {tensor.name} is cut short.")
            values.append(bytes(raw[4 : 4 + length]))
            raw = raw[4 + length :]
        return values
    kind = DTYPES.get(tensor.datatype)
    if kind is None or len(raw) % np.dtype(kind).itemsize:
        raise Problem(400, f"Input {tensor.name}: {tensor.datatype[:10]} of {len(raw)} bytes cannot be read.")
    return list(np.frombuffer(raw, kind).tolist())
