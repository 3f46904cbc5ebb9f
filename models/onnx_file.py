"""What an ONNX file refers to, read before a runtime acts on it: operator domains, and tensors kept in other files.

A runtime follows such references on its own: a tensor may name any file for its data. The package `onnx` could tell as
well, but running a voice does without it; of the protobuf wire format this takes a page.
"""

from __future__ import annotations

from collections.abc import Iterator

# The standard operators, and those that quantisation needs; every build of ONNX Runtime has both.
KNOWN_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})

# A graph within an attribute of a node, and so on: loops and branches. Protobuf itself stops at 100.
_MAX_DEPTH = 30


class OnnxFileError(ValueError):
    """The file cannot be used; the message goes on from the file's name."""


def check_references(data: bytes) -> None:
    """Refuse a model that needs anything besides itself and ONNX Runtime.

    Raises
    ------
    OnnxFileError
        If `data` is no ONNX model, keeps tensors in other files, or has operators of unknown domains.
    """
    fields = list(_fields(memoryview(data)))
    graphs = [value for number, value in fields if number == 7]
    functions = [value for number, value in fields if number == 25]
    if not graphs:
        raise OnnxFileError("is not an ONNX model")
    # A model may define functions of its own, under a domain of its own.
    domains = KNOWN_DOMAINS | {_text(value) for function in functions for n, value in _message(function) if n == 10}
    for graph in graphs:
        _check_nodes(graph, 1, domains, 0)
    for function in functions:
        _check_nodes(function, 7, domains, 0)


def _check_nodes(parent: memoryview | int, node_field: int, domains: frozenset[str], depth: int) -> None:
    """Check a graph (nodes in field 1, tensors in 5 and 15) or a function (nodes in field 7)."""
    if depth > _MAX_DEPTH:
        raise OnnxFileError(f"has graphs within graphs more than {_MAX_DEPTH} deep")
    for number, value in _message(parent):
        if number == node_field:
            _check_node(value, domains, depth)
        elif node_field == 1 and number == 5:
            _check_tensor(value)
        elif node_field == 1 and number == 15:
            _check_sparse_tensor(value)


def _check_node(node: memoryview | int, domains: frozenset[str], depth: int) -> None:
    fields = list(_message(node))
    domain = "".join(_text(value) for number, value in fields if number == 7)
    if domain not in domains:
        kind = "".join(_text(value) for number, value in fields if number == 4)
        raise OnnxFileError(f"has the operator {kind!r} of the unknown domain {domain!r}; only standard ones can be run")
    for attribute in (value for number, value in fields if number == 5):
        for number, value in _message(attribute):
            if number in (5, 10):
                _check_tensor(value)
            elif number in (22, 23):
                _check_sparse_tensor(value)
            elif number in (6, 11):
                _check_nodes(value, 1, domains, depth + 1)


def _check_sparse_tensor(tensor: memoryview | int) -> None:
    for number, value in _message(tensor):
        if number in (1, 2):
            _check_tensor(value)


def _check_tensor(tensor: memoryview | int) -> None:
    for number, value in _message(tensor):
        if number == 13 or (number == 14 and value != 0):
            raise OnnxFileError("keeps tensors in other files; a model must be one self-contained file")


def _message(value: memoryview | int) -> Iterator[tuple[int, memoryview | int]]:
    return _fields(_bytes(value))


def _text(value: memoryview | int) -> str:
    return bytes(_bytes(value)[:200]).decode(errors="replace")


def _bytes(value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise OnnxFileError("is not an ONNX model")
    return value


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Field numbers and values of a protobuf message: bytes where they have a length, numbers otherwise."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, position = _varint(data, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise OnnxFileError("is not an ONNX model")
        if size > len(data) - position:
            raise OnnxFileError("is not an ONNX model, or not all of one")
        yield tag >> 3, data[position : position + size] if kind == 2 else 0
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise OnnxFileError("is not an ONNX model, or not all of one")
