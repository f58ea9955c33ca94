"""Bytes of the Open Inference Protocol v2 <-> tensors: JSON, or JSON followed by raw bytes (the binary extension)."""

from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve.http.bodies import from_base64
from serve.http.json_bodies import parse_json
from serve.http.request_line import plain_number
from serve.problems import Problem, explain

HEADER_LENGTH = "inference-header-content-length"
EXPECTED = (
    "The inputs are image (BYTES [n]: encoded files, in JSON as base64) and, if you like, class_name "
    "(BYTES [n] or [1]: UTF-8 text)."
)


class Loose(BaseModel):
    """Base of what clients send: fields that newer clients add are let through."""

    model_config = ConfigDict(extra="allow", frozen=True)


class InputTensor(Loose):
    """One input: its values are in `data`, or behind the JSON: `parameters.binary_data_size` bytes."""

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


async def parse(
    body: bytes, header_length: str | None, most_values: int, most_elements: int
) -> tuple[InferRequest, dict[str, list[bytes]]]:
    """Read an inference request.

    Args:
        body: JSON, and the raw bytes of tensors behind it.
        header_length: the header that says how long the JSON is; none if it is all.
        most_values: values that the JSON may hold.
        most_elements: elements that a tensor may hold.

    Returns:
        The request, and by name every input's elements in order.

    Raises:
        Problem: 400 for what is no inference request or holds other tensors than `EXPECTED`, 413 for too much.
    """
    split = len(body) if header_length is None else plain_number(header_length)
    if split is None or split > len(body):
        raise Problem(400, "Inference-Header-Content-Length is not the length of the JSON at the body's start.")
    try:
        request = await parse_json(body if split == len(body) else body[:split], InferRequest, most_values)
    except ValidationError as error:
        findings = explain(error.errors(include_url=False, include_context=False, include_input=False))
        raise Problem(400, f"Not an inference request: {findings}. {EXPECTED}") from None
    _check_inputs(request)
    rest, elements = memoryview(body)[split:], {}
    for tensor in request.inputs:
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            elements[tensor.name] = _elements_of_json(tensor, most_elements)
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest):
            raise Problem(400, f"Input {tensor.name}: binary_data_size does not fit the body.")
        elements[tensor.name] = _elements_of_bytes(tensor.name, rest[:size], most_elements)
        rest = rest[size:]
    if len(rest):
        raise Problem(400, "The body is longer than its tensors say.")
    for tensor in request.inputs:
        _check_shape(tensor, len(elements[tensor.name]))
    return request, elements


def encode(result: InferAnswer, arrays: dict[str, np.ndarray], binary: set[str]) -> tuple[bytes, dict[str, str]]:
    """Write an answer.

    Args:
        result: the JSON, without values.
        arrays: by output, its values.
        binary: outputs that go behind the JSON as raw bytes; the others go inside it.

    Returns:
        The body and its headers.
    """
    chunks = []
    for output in result.outputs:
        array = arrays[output.name]
        if output.name in binary:
            chunks.append(_bytes_of(array))
            output.parameters = {"binary_data_size": len(chunks[-1])}
        else:
            output.data = [None if value != value else value for value in array.ravel().tolist()]  # NaN is no JSON
    head = result.model_dump_json(exclude_none=True).encode()
    if not chunks:
        return head, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return b"".join([head, *chunks]), headers


def _bytes_of(array: np.ndarray) -> bytes:
    """Raw values; of texts each behind its length (uint32, little endian)."""
    if array.dtype != object:
        return array.tobytes()
    texts = [text.encode() for text in array.ravel().tolist()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def _check_inputs(request: InferRequest) -> None:
    """Raise Problem 400 for inputs of other names or types, or one that is given twice."""
    names = [tensor.name for tensor in request.inputs]
    if "image" not in names or not {"image", "class_name"} >= set(names):
        raise Problem(400, EXPECTED)
    if len(set(names)) < len(names):
        raise Problem(400, f"An input is given twice. {EXPECTED}")
    for tensor in request.inputs:
        if tensor.datatype != "BYTES":
            raise Problem(400, f"Input {tensor.name} has another datatype than BYTES. {EXPECTED}")


def _check_shape(tensor: InputTensor, count: int) -> None:
    """Raise Problem 400 unless the shape has as many elements as came."""
    product = 1
    for length in tensor.shape:
        product *= min(max(length, 0), 2**31)
    if product != count:
        raise Problem(
            400, f"Input {tensor.name} holds {count} elements, another number than its shape says. {EXPECTED}"
        )


def _elements_of_json(tensor: InputTensor, most: int) -> list[bytes]:
    """The elements of `data`, flat or nested as the shape is; images from base64."""
    if tensor.data is None:
        raise Problem(400, f"Input {tensor.name} has neither data nor binary_data_size. {EXPECTED}")
    flat = tensor.data
    for _ in tensor.shape[1:]:
        if not any(isinstance(element, list) for element in flat):
            break
        flat = [inner for element in flat for inner in (element if isinstance(element, list) else [element])]
    if not all(isinstance(element, str) for element in flat):
        raise Problem(400, f"Input {tensor.name}: BYTES in JSON are strings. {EXPECTED}")
    if len(flat) > most:
        raise _too_many(tensor.name, most)
    if tensor.name != "image":
        return [element.encode() for element in flat]
    try:
        return [from_base64(element) for element in flat]
    except ValueError as error:
        raise Problem(400, f"Input image: in JSON, send the file's bytes as base64 text ({error}).") from error


def _elements_of_bytes(name: str, raw: memoryview, most: int) -> list[bytes]:
    """The elements of raw bytes, each behind its length (uint32, little endian)."""
    elements: list[bytes] = []
    position = 0
    while position < len(raw):
        if len(elements) == most:
            raise _too_many(name, most)
        length = int.from_bytes(raw[position : position + 4], "little")
        if position + 4 + length > len(raw):
            raise Problem(400, f"Input {name} is cut short. {EXPECTED}")
        elements.append(bytes(raw[position + 4 : position + 4 + length]))
        position += 4 + length
    return elements


def _too_many(name: str, most: int) -> Problem:
    return Problem(413, f"More than {most} elements in input {name}; send at most {most} images (limits.max_images).")
