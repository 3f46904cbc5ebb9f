"""A streaming model at run time: one ONNX graph with explicit state, driven chunk by chunk without copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]
from numpy.typing import NDArray
from pydantic import Field

from models.graph import ModelError, Tensor, first_line, load_graph, read_metadata
from models.schema import SampleRate, Schema, VoiceName

# Of a graph's states, what is known of the source in the long run: seconds that are better not lost with the rest.
MEAN_STATE = "state_mean"

# 64 MiB of float32: far above any causal network, low enough that a hostile shape cannot exhaust the memory.
MAX_STATE_VALUES = 1 << 24

Control = Literal["voice", "pitch_ratio", "formant_ratio"]


class StreamMetadata(Schema):
    """What a streaming graph says about itself, as JSON under `METADATA_KEY` in the model's properties.

    `sample_rate` is in Hz; `chunk`, `lookahead` and `receptive_field` are in samples at that rate. `in_place` names states, as
    inputs, whose next value may be written over the old one: where the graph writes a few rows of a large state, and has read
    by then what it wants of it, nothing else is copied.
    """

    format: Literal[1]
    kind: Literal["stream"]
    sample_rate: SampleRate
    chunk: int = Field(ge=1, le=16_384)
    lookahead: int = Field(ge=0, le=192_000)
    receptive_field: int = Field(ge=0, le=192_000 * 60)
    voices: list[VoiceName] = Field(min_length=1, max_length=256)
    controls: list[Control]
    in_place: list[str] = Field(default_factory=list, max_length=256)


class StreamModel:
    """A loaded streaming graph. Immutable; any number of threads may `open` it, each stream is driven from one.

    Loading costs some tenths of a second, so load once and share.

    Attributes
    ----------
    sample_rate : int
        Hz, of `audio` in and out.
    chunk : int
        Samples that one step takes and gives.
    lookahead : int
        Samples by which the model's output lies behind its input.
    receptive_field : int
        Samples of the past that an output sample may depend on.
    voices : tuple of str
        Names, in the order of the `voice` weights.
    controls : frozenset of str
        Of `voice`, `pitch_ratio` and `formant_ratio` those that the graph has.
    """

    def __init__(self, session: ort.InferenceSession, metadata: StreamMetadata, state_shapes: dict[str, tuple[int, ...]]) -> None:
        self._session = session
        self.sample_rate = metadata.sample_rate
        self.chunk = metadata.chunk
        self.lookahead = metadata.lookahead
        self.receptive_field = metadata.receptive_field
        self.voices: tuple[str, ...] = tuple(metadata.voices)
        self.controls: frozenset[str] = frozenset(metadata.controls)
        self._state_shapes = state_shapes
        self._in_place = metadata.in_place

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> StreamModel:
        """Load and check a graph.

        Parameters
        ----------
        data : bytes
            An ONNX file.
        name : str
            What error messages call it.

        Raises
        ------
        ModelError
            Naming the first thing that was expected and what came instead.
        """
        graph = load_graph(data, name)
        metadata = read_metadata(graph, StreamMetadata, name, "streaming model")
        problem = _metadata_problem(metadata) or _signature_problem(graph.inputs, graph.outputs, metadata)
        if problem:
            # Cut, because a hostile graph may give its inputs any names.
            raise ModelError(f"{name}: {problem[:400]}")
        states = {name: tuple(tensor.shape) for name, tensor in graph.inputs.items() if name.startswith("state_")}
        model = cls(graph.session, metadata, states)
        model._try(name)
        return model

    def _try(self, name: str) -> None:
        """One step of silence: shapes are declared, but only running a graph shows that it keeps to them."""
        stream = self.open()
        try:
            stream.step()
        except Exception as error:
            raise ModelError(f"{name} fails when it runs: {first_line(error)}") from error
        if not np.isfinite(stream.audio_out).all():
            raise ModelError(f"{name} must turn silence into finite numbers, got NaN or infinity")

    def open(self) -> ModelStream:
        """A new stream at the zero state. Takes well under a millisecond."""
        return ModelStream(self)


class ModelStream:
    """One running state of a `StreamModel`. Drive it from one thread at a time.

    Write `audio_in` and the controls, call `step`, read `audio_out`. The arrays are the runtime's own buffers and
    stay the same objects for the life of the stream.

    Attributes
    ----------
    audio_in, audio_out : float32 [chunk]
        `audio_out` holds until the next `step`.
    voice : float32 [n_voices]
        Weights of the voices; the first voice alone at the start.
    pitch_ratio, formant_ratio : float32 [1]
        1 at the start. Without effect where the model's `controls` lack them.
    """

    def __init__(self, model: StreamModel) -> None:
        self._run = model._session.run_with_iobinding
        # The runtime holds the addresses of these arrays: write into them, never put others in their place.
        self.audio_in: Final[NDArray[np.float32]] = np.zeros(model.chunk, np.float32)
        self.audio_out: Final[NDArray[np.float32]] = np.zeros(model.chunk, np.float32)
        self.voice: Final[NDArray[np.float32]] = np.zeros(len(model.voices), np.float32)
        self.voice[0] = 1.0
        self.pitch_ratio: Final[NDArray[np.float32]] = np.ones(1, np.float32)
        self.formant_ratio: Final[NDArray[np.float32]] = np.ones(1, np.float32)
        # Held once more, so that even then no address dangles.
        self._held = (self.audio_in, self.audio_out, self.voice, self.pitch_ratio, self.formant_ratio)
        # Two sets of state buffers, each in turn the input and the output of a step: the state is never copied.
        self._states = [{name: np.zeros(shape, np.float32) for name, shape in model._state_shapes.items()} for _ in range(2)]
        self._states[1] |= {name: self._states[0][name] for name in model._in_place}
        self._bindings = [self._bind(model, now=0), self._bind(model, now=1)]
        self._now = 0

    def _bind(self, model: StreamModel, now: int) -> ort.IOBinding:
        inputs = {"audio": self.audio_in[None], "voice": self.voice[None]}
        if "pitch_ratio" in model.controls:
            inputs["pitch_ratio"] = self.pitch_ratio
        if "formant_ratio" in model.controls:
            inputs["formant_ratio"] = self.formant_ratio
        outputs = {"audio_out": self.audio_out[None]}
        for name, buffer in self._states[now].items():
            inputs[name] = buffer
        for name, buffer in self._states[1 - now].items():
            outputs[f"next_{name}"] = buffer
        binding = model._session.io_binding()
        for name, buffer in inputs.items():
            binding.bind_input(name, "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
        for name, buffer in outputs.items():
            binding.bind_output(name, "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
        return binding

    def step(self) -> None:
        """Convert `audio_in` into `audio_out` and advance the state. Allocates no arrays."""
        self._run(self._bindings[self._now])
        self._now = 1 - self._now

    def reset(self, *, keep_mean: bool = False) -> None:
        """Back to the zero state, but for the running mean if that is to stay; the controls stay as they are."""
        if keep_mean and MEAN_STATE in self._states[0]:
            self._states[0][MEAN_STATE][:] = self._states[self._now][MEAN_STATE]
        else:
            keep_mean = False
        for states in self._states:
            for name, buffer in states.items():
                if not (keep_mean and name == MEAN_STATE):
                    buffer.fill(0.0)
        self.audio_out.fill(0.0)
        self._now = 0


def _metadata_problem(metadata: StreamMetadata) -> str | None:
    if "voice" not in metadata.controls:
        return "its controls must contain 'voice'"
    if len(set(metadata.controls)) != len(metadata.controls):
        return f"its controls must differ from each other, got {metadata.controls}"
    if len(set(metadata.voices)) != len(metadata.voices):
        return f"its voices must differ from each other, got {metadata.voices}"
    return None


def _signature_problem(inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], metadata: StreamMetadata) -> str | None:
    for name, tensor in [*inputs.items(), *outputs.items()]:
        if tensor.type != "tensor(float)":
            return f"{name!r} must be a float32 tensor, got {tensor.type}"
        # A dimension that is not fixed is a name, or None.
        if not all(isinstance(size, int) and size > 0 for size in tensor.shape):
            return f"{name!r} must have a fixed shape, got {tensor.shape}"

    states = {name for name in inputs if name.startswith("state_")}
    audio = [1, metadata.chunk]
    wanted_inputs: dict[str, list[int]] = {"audio": audio, "voice": [1, len(metadata.voices)]}
    wanted_inputs |= {name: [1] for name in metadata.controls if name != "voice"}
    wanted_inputs |= {name: inputs[name].shape for name in states}
    if strange := set(metadata.in_place) - states:
        return f"its in_place must name states of {sorted(states)}, got {sorted(strange)[0]!r}"
    wanted_outputs = {"audio_out": audio} | {f"next_{name}": inputs[name].shape for name in states}
    for kind, found, wanted in (("input", inputs, wanted_inputs), ("output", outputs, wanted_outputs)):
        if missing := sorted(wanted.keys() - found.keys()):
            return f"the graph must have an {kind} {missing[0]!r}, it has {sorted(found)}"
        if extra := sorted(found.keys() - wanted.keys()):
            return f"the graph has an {kind} {extra[0]!r} that neither its controls nor its states explain"
        for name, shape in wanted.items():
            if found[name].shape != shape:
                return f"{kind} {name!r} must have the shape {shape}, got {found[name].shape}"

    size = sum(int(np.prod(inputs[name].shape, dtype=object)) for name in states)
    if size > MAX_STATE_VALUES:
        return f"its states must hold at most {MAX_STATE_VALUES} values together, got {size}"
    return None
