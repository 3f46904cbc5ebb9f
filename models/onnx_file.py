"""What an ONNX file refers to, read before a runtime acts on it: operator domains, loops, and tensors kept in other files.

A runtime follows such references on its own: a tensor may name any file for its data. The package `onnx` could tell as
well, but running a voice does without it; of the protobuf wire format this takes a page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

# The standard operators, and those that quantisation needs; every build of ONNX Runtime has both.
KNOWN_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})

# A few bytes of these run as long as they like, and nothing interrupts a runtime; no network that is used here has any.
LOOPS = frozenset({"Loop", "Scan", "SequenceMap"})

# A graph within an attribute of a node, and so on: branches. Protobuf itself stops at 100.
_MAX_DEPTH = 30

# A runtime makes whole tensors of them: what takes a few bytes in the file may take any number in memory.
_SPARSE = "has sparse tensors; all of a model's must be whole"


class OnnxFileError(ValueError):
    """The file cannot be used; the message goes on from the file's name."""


def check_references(data: bytes) -> None:
    """Refuse a model that needs anything besides itself and ONNX Runtime.

    Raises
    ------
    OnnxFileError
        If `data` is no ONNX model, keeps tensors in other files or as sparse ones, or has loops or operators of unknown domains.
    """
    parts = list(fields(memoryview(data)))
    graphs = [value for number, value in parts if number == 7]
    functions = [value for number, value in parts if number == 25]
    if not graphs:
        raise OnnxFileError("is not an ONNX model")
    # A model may define functions of its own, under a domain of its own.
    domains = KNOWN_DOMAINS | {text(value) for function in functions for n, value in message(function) if n == 10}
    for graph in graphs:
        _check_nodes(graph, 1, domains, 0)
    for function in functions:
        _check_nodes(function, 7, domains, 0)


def _check_nodes(parent: memoryview | int, node_field: int, domains: frozenset[str], depth: int) -> None:
    """Check a graph (nodes in field 1, tensors in 5, sparse ones in 15) or a function (nodes in field 7)."""
    if depth > _MAX_DEPTH:
        raise OnnxFileError(f"has graphs within graphs more than {_MAX_DEPTH} deep")
    for number, value in message(parent):
        if number == node_field:
            _check_node(value, domains, depth)
        elif node_field == 1 and number == 5:
            _check_tensor(value)
        elif node_field == 1 and number == 15:
            raise OnnxFileError(_SPARSE)


def _check_node(node: memoryview | int, domains: frozenset[str], depth: int) -> None:
    parts = list(message(node))
    domain = "".join(text(value) for number, value in parts if number == 7)
    kind = text(last(parts, 4))
    if domain not in domains:
        raise OnnxFileError(f"has the operator {kind!r} of the unknown domain {domain!r}; only standard ones can be run")
    if kind in LOOPS:
        raise OnnxFileError(f"has the operator {kind!r}, which may never end; a model must have no loops")
    for attribute in (value for number, value in parts if number == 5):
        for number, value in message(attribute):
            if number in (5, 10):
                _check_tensor(value)
            elif number in (22, 23):
                raise OnnxFileError(_SPARSE)
            elif number in (6, 11):
                _check_nodes(value, 1, domains, depth + 1)


def _check_tensor(tensor: memoryview | int) -> None:
    for number, value in message(tensor):
        if number == 13 or (number == 14 and value != 0):
            raise OnnxFileError("keeps tensors in other files; a model must be one self-contained file")


def message(value: memoryview | int) -> Iterator[tuple[int, memoryview | int]]:
    """The `fields` of a message within another."""
    return fields(payload(value))


def last(parts: Sequence[tuple[int, memoryview | int]], number: int) -> memoryview | int:
    """The value of a field that a message has once: of several the last counts, as protobuf has it; empty without any."""
    return next((value for found, value in reversed(parts) if found == number), memoryview(b""))


def text(value: memoryview | int) -> str:
    """The first 200 bytes of a string, for comparing and for showing."""
    return bytes(payload(value)[:200]).decode(errors="replace")


def payload(value: memoryview | int) -> memoryview:
    """A value that has a length: a string, or a message."""
    if isinstance(value, int):
        raise OnnxFileError("is not an ONNX model")
    return value


def fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Field numbers and values of a protobuf message: bytes where they have a length, numbers otherwise."""
    position = 0
    while position < len(data):
        tag, position = read_varint(data, position)
        kind = tag & 7
        if kind == 0:
            value, position = read_varint(data, position)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, position = read_varint(data, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise OnnxFileError("is not an ONNX model")
        if size > len(data) - position:
            raise OnnxFileError("is not an ONNX model, or not all of one")
        yield tag >> 3, data[position : position + size] if kind == 2 else 0
        position += size


def read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """A number, and where the next thing begins."""
    if position < len(data) and data[position] < 0x80:  # most have one byte
        return data[position], position + 1
    value = 0
    for index, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise OnnxFileError("is not an ONNX model, or not all of one")


def field(number: int, content: bytes | memoryview) -> bytes:
    """A field that has a length."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def number_field(number: int, value: int) -> bytes:
    """A field that is a number."""
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
