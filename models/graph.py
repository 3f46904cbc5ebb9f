"""ONNX graphs opened for running: self-contained, readable, and with what they say about themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import onnxruntime as ort  # type: ignore[import-untyped]
from pydantic import ValidationError

from models.onnx_file import OnnxFileError, check_references
from models.schema import Schema, first_problem

METADATA_KEY = "plugin_bridge"

Metadata = TypeVar("Metadata", bound=Schema)


class ModelError(ValueError):
    """A graph is not what this program can run; the message is one sentence."""


class Tensor(NamedTuple):
    """What the runtime tells of a graph's input or output. A dimension that is not fixed is a name, or None."""

    type: str
    shape: list[Any]


class Graph(NamedTuple):
    """A loaded graph. Any number of threads may run its session.

    Attributes
    ----------
    metadata : str or None
        The text under `METADATA_KEY` in the model's properties.
    """

    session: ort.InferenceSession
    metadata: str | None
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


def load_graph(data: bytes, name: str) -> Graph:
    """Load an ONNX file, for one thread at a time of each caller.

    Parameters
    ----------
    data : bytes
    name : str
        What error messages call it.

    Raises
    ------
    ModelError
        If it is no ONNX model, or refers to anything besides itself.
    """
    try:
        check_references(data)
    except OnnxFileError as error:
        raise ModelError(f"{name} {error}") from None
    try:
        # Its fallback would try the same again, and print.
        session = ort.InferenceSession(data, session_options(), providers=["CPUExecutionProvider"], enable_fallback=0)
        metadata = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        inputs = {value.name: Tensor(value.type, value.shape) for value in session.get_inputs()}
        outputs = {value.name: Tensor(value.type, value.shape) for value in session.get_outputs()}
    except Exception as error:  # the runtime's exceptions share no narrower base class
        raise ModelError(f"{name} is not an ONNX graph that can be run: {first_line(error)}") from error
    return Graph(session, metadata, inputs, outputs)


def read_metadata(graph: Graph, schema: type[Metadata], name: str, what: str) -> Metadata:
    """What a graph says about itself; `name` is what error messages call it, `what` the thing it then is not.

    Raises
    ------
    ModelError
        If it says nothing, or something else than the schema has.
    """
    if graph.metadata is None:
        raise ModelError(f"{name} has no metadata under the key {METADATA_KEY!r}, so it is no {what}")
    try:
        return schema.model_validate_json(graph.metadata)
    except ValidationError as error:
        raise ModelError(f"{name} has metadata that is not valid: {first_problem(error)}") from None


def first_line(error: Exception) -> str:
    """What the runtime says went wrong, on one line."""
    lines = str(error).strip().splitlines()
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", lines[0])[:300] if lines else type(error).__name__


def session_options() -> ort.SessionOptions:
    """One thread, no spinning, nothing printed."""
    options = ort.SessionOptions()
    # One thread and no spinning: a step is shorter than a hand-over to a pool, and the host owns the other cores.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # "session.set_denormal_as_zero" stays off: it would change the arithmetic of the thread that loads the first model,
    # and of all that it starts, for good. A graph keeps its decaying states above the denormals itself.
    # The runtime's own flatbuffer format is checked less than protobuf, and a pack never needs it.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # What matters arrives as an exception; nothing is printed besides.
    options.log_severity_level = 4
    return options
