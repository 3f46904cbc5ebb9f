"""The song engine at run time: four ONNX graphs and the vocoder's filters, on any range of a take's frames.

Every frame is made from what lies within the receptive fields around it, at its place on the one grid of the take, so that
slices of a take put together are the take converted in one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dsp.equaliser import BANDS as EQUALISER_BANDS
from dsp.equaliser import gains_db
from dsp.filters import gain_centres_hz
from models.graph import Graph, ModelError, first_line, load_graph, read_metadata
from models.lhq import diffusion
from models.lhq.encoders import WIDEST, EncoderCard, on_grid
from models.lhq.features import BANDS
from models.lhq.mel import DEFAULT
from models.lhq.noise import frame_noise
from models.lhq.synthesis import FRAMES_AFTER, FRAMES_BEFORE, GAINS, NOISE_STEPS, phase_of, synthesise
from models.pack import Part
from models.schema import Schema, VoiceName

Floats = NDArray[np.float32]

PARTS: tuple[Part, ...] = get_args(Part)
SAMPLE_RATE = DEFAULT.sample_rate
HOP = DEFAULT.hop
CONDITION = 256 + DEFAULT.bins  # values in a frame of the condition: the condition itself and a coarse mel
DIFFUSION_STREAM = 1_000  # of `frame_noise`, plus the number of steps that are left
MOST_STEPS = 64
TRIAL_FRAMES = 40  # of silence, with which a graph must run before it is trusted
LONGEST_FRAMES = 4_000  # more than a slice of a take has, with its context


Equaliser = Annotated[list[Annotated[float, Field(ge=-24, le=24)]], Field(min_length=EQUALISER_BANDS, max_length=EQUALISER_BANDS)]


class SongMetadata(Schema):
    """What a graph of the song engine says about itself, as JSON under `METADATA_KEY` in the model's properties.

    `receptive_frames` on each side are what a frame of the output may depend on; `voices` has the condition graph alone, and
    the denoiser alone the standard deviation that its z must have at t = 1, `noise_scale`. With `encoder`, again of the condition
    graph, content comes from an encoder that the user has, and there is no content graph. `equaliser_db`, of the condition graph as
    well, is what conversions lack of the long-term spectrum of some of its voices: see `dsp.equaliser`.
    """

    format: Literal[1]
    kind: Literal["song"]
    part: Part
    sample_rate: Literal[40_000]
    hop: Literal[400]
    receptive_frames: int = Field(ge=0, le=2_000)
    voices: list[VoiceName] = Field(default_factory=list, max_length=256)
    noise_scale: float = Field(default=1.0, gt=0, le=10)
    mel: Literal["default"] = "default"
    encoder: EncoderCard | None = None
    equaliser_db: dict[VoiceName, Equaliser] = Field(default_factory=dict)


@dataclass(frozen=True)
class Frames:
    """What a conversion knows of each frame of a take.

    Attributes
    ----------
    features : float32 [T, 80]
        `features.content_features` of the source; or, for a model with an encoder that the user has, what that one gives, float16
        [T / 2 rounded up, dimensions], see `encoders.Encoder.frames`.
    f0 : float32 [T]
        Wanted pitch in Hz, interpolated where there is none: positive everywhere.
    voiced : float32 [T]
        0 or 1.
    loudness : float32 [T]
        `features.loudness` of the source.
    phase : float64 [T]
        `synthesis.phase_of` the wanted pitch, in cycles.
    """

    features: NDArray[np.floating]
    f0: Floats
    voiced: Floats
    loudness: Floats
    phase: NDArray[np.float64]

    @classmethod
    def of(cls, features: NDArray[np.floating], f0: NDArray[np.floating], voiced: NDArray[np.bool_], loudness: Floats) -> Frames:
        """With the phase that this pitch has over the whole take."""
        hz = f0.astype(np.float32)  # first: a slice goes on from its phase with these very numbers
        return cls(features, hz, voiced.astype(np.float32), loudness, phase_of(hz))


Watch = Callable[[str], AbstractContextManager[None]]
"""Called with the name of a stage; the time within the context is the stage's."""


def no_watch(stage: str) -> AbstractContextManager[None]:
    """Takes no time."""
    return nullcontext()


class SongModel:
    """The graphs of one size of a pack. Immutable; any number of threads may `convert`, each on a core of its own.

    Attributes
    ----------
    voices : tuple of str
        Names, in the order of the `voice` weights.
    encoder : EncoderCard or None
        The encoder that content must come from, if it is none of the model's own.
    """

    def __init__(self, graphs: Mapping[Part, Graph], metadata: Mapping[Part, SongMetadata]) -> None:
        self._graphs = graphs
        self._noise_scale = np.float32(metadata["denoiser"].noise_scale)
        self._reach: dict[Part, int] = {part: found.receptive_frames for part, found in metadata.items()}
        self.voices: tuple[str, ...] = tuple(metadata["condition"].voices)
        self.encoder = metadata["condition"].encoder
        self._equaliser = equalisers(self.voices, metadata["condition"].equaliser_db)

    @classmethod
    def from_bytes(cls, data: Mapping[Part, bytes], names: Mapping[Part, str], where: str) -> SongModel:
        """Load and check the graphs.

        Parameters
        ----------
        data : ONNX file of each part, without "content" if that comes from an encoder that the user has
        names, where
            What error messages call each of them, and what they are in.

        Raises
        ------
        ModelError
            Naming the first thing that was expected and what came instead.
        """
        graphs: dict[Part, Graph] = {}
        metadata: dict[Part, SongMetadata] = {}
        parts = [part for part in PARTS if part in data]
        for part in parts:
            name = f"{names[part]} in {where}"
            graphs[part] = load_graph(data[part], name)
            metadata[part] = _metadata(graphs[part], part, name)
        encoder = metadata["condition"].encoder
        if (encoder is None) != ("content" in graphs):
            either = "a content graph, or a condition graph that names the encoder it was trained with, and not both"
            raise ModelError(f"the song engine in {where} must have {either}")
        sizes = _Sizes(
            encoder.dimensions if encoder else _width(graphs["content"], "content", f"{names['content']} in {where}"),
            _width(graphs["condition"], "condition", f"{names['condition']} in {where}"),
            len(metadata["condition"].voices),
        )
        for part in parts:
            problem = _signature_problem(part, graphs[part], sizes)
            if problem:
                raise ModelError(f"{names[part]} in {where}: {problem[:400]}")
        model = cls(graphs, metadata)
        for part in parts:
            model._try(part, sizes, f"{names[part]} in {where}")
        return model

    def _try(self, part: Part, sizes: _Sizes, name: str) -> None:
        """A few frames of silence: shapes are declared, but only running a graph shows that it keeps to them."""
        shapes = _inputs(part, sizes)
        inputs = {key: np.zeros([size or TRIAL_FRAMES for size in shape], np.float32) for key, shape in shapes.items()}
        if "f0" in inputs:
            inputs["f0"] += 200
        try:
            outputs = self._run(part, **inputs)
        except Exception as error:
            raise ModelError(f"{name} fails when it runs: {first_line(error)}") from error
        for (key, shape), output in zip(_outputs(part, sizes).items(), outputs, strict=True):
            wanted = tuple(size or TRIAL_FRAMES for size in shape)
            if output.shape != wanted or not np.isfinite(output).all():
                raise ModelError(f"{name} must turn silence into finite numbers {key!r} of the shape {wanted}, got {output.shape}")

    def _run(self, part: Part, **inputs: Floats) -> Sequence[Floats]:
        """Outputs in the order of `_outputs`."""
        outputs: Sequence[Floats] = self._graphs[part].session.run(list(_outputs(part, _Sizes())), inputs)
        return outputs

    def convert(
        self,
        take: Frames,
        start: int,
        stop: int,
        voice: Floats,
        *,
        range_hz: tuple[float, float] = (0.0, np.inf),
        formant_shift: float = 0.0,
        steps: int = 1,
        seed: int = 0,
        watch: Watch = no_watch,
    ) -> Floats:
        """Sound of the frames `start` to `stop` - 1 of a take.

        Parameters
        ----------
        voice : float32 [n_voices]
            Weights.
        range_hz : (float, float)
            Pitches at which the voice was heard in training. The networks draw pitches beyond as the nearest of these: harmonics
            they never saw they draw in wrong places. The sound has the wanted pitch all the same, under the envelope so drawn.
        formant_shift : semitones
        steps : int
            Of the diffusion.
        seed : int
            Of all noise.
        watch
            Told of the stages "content", "condition", "denoiser", "vocoder", "synthesis".

        Returns
        -------
        float32 [(stop - start) * 400]
            Samples `start` * 400 on, at 40 kHz.

        Raises
        ------
        ModelError
            If a graph fails, or gives numbers that are not finite.
        """
        frames = len(take.f0)
        drawable = np.clip(take.f0, np.float32(range_hz[0]), np.float32(range_hz[1]))
        wanted = _Range(start, stop)
        sounding = wanted.wider(FRAMES_BEFORE, FRAMES_AFTER, frames)
        drawn = sounding.wider(self._reach["vocoder"], self._reach["vocoder"], frames)
        denoised = drawn.wider(steps * self._reach["denoiser"], steps * self._reach["denoiser"], frames)
        conditioned = denoised.wider(self._reach["condition"], self._reach["condition"], frames)
        try:
            with watch("content"):
                content = self._content(take, conditioned)
            with watch("condition"):
                (condition,) = self._run(
                    "condition",
                    content=content[None],
                    f0=conditioned.of(drawable)[None],
                    voiced=conditioned.of(take.voiced)[None],
                    loudness=conditioned.of(take.loudness)[None],
                    shift=np.array([formant_shift], np.float32),
                    voice=np.asarray(voice, np.float32)[None],
                )
            with watch("denoiser"):
                known = denoised.within(conditioned, condition[0])[None]

                def denoise(z: Floats, t: float) -> Floats:
                    return self._run("denoiser", z=np.asarray(z, np.float32), t=np.array([t], np.float32), condition=known)[0]

                def noise(step: int) -> Floats:
                    count = denoised.stop - denoised.start
                    return self._noise_scale * frame_noise(seed, DIFFUSION_STREAM + step, denoised.start, count, DEFAULT.bins)[None]

                # A student of one step answers with a draw, not with a mean: the posterior is then the way on, where DDIM would
                # count the noise twice (twice the steps: 1.07 times the held-out takes' change from frame to frame, not 0.95).
                mel = diffusion.sample(denoise, noise(steps), steps, noise=noise)
            with watch("vocoder"):
                harmonic, noise_gain = self._run(
                    "vocoder",
                    mel=drawn.within(denoised, mel[0])[None],
                    f0=drawn.of(drawable)[None],
                    voiced=drawn.of(take.voiced)[None],
                )
            with watch("synthesis"):
                equaliser = np.asarray(voice, np.float32) @ self._equaliser
                audio = synthesise(
                    sounding.within(drawn, harmonic[0]) + equaliser,
                    sounding.within(drawn, noise_gain[0]) + np.tile(equaliser, NOISE_STEPS),
                    sounding.of(take.f0),
                    sounding.of(take.voiced),
                    sounding.start,
                    float(take.phase[sounding.start]),
                    seed=seed,
                )
        except Exception as error:
            raise ModelError(f"the song engine fails on {(stop - start) / 100:.1f} s of audio: {first_line(error)}") from error
        if not np.isfinite(audio).all():
            raise ModelError("the song engine gives numbers that are not finite")
        return audio[(start - sounding.start) * HOP : (stop - sounding.start) * HOP]

    def copy(self, mel: Floats, f0: NDArray[np.floating], voiced: NDArray[np.bool_]) -> Floats:
        """The sound [T * 400] of a normalised spectrogram [T, bins] as it is, for a pitch in Hz and a voicing [T]."""
        hz, on = f0.astype(np.float32), voiced.astype(np.float32)
        harmonic, noise = self._run("vocoder", mel=mel[None], f0=hz[None], voiced=on[None])
        return synthesise(harmonic[0], noise[0], hz, on, 0, 0.0)

    def _content(self, take: Frames, wanted: _Range) -> Floats:
        """Content of these frames."""
        if self.encoder is not None:
            first = wanted.start // 2  # of its frames, one for two of ours
            given = np.asarray(take.features[first : wanted.stop // 2 + 1], np.float32)
            return on_grid(given, wanted.stop - 2 * first)[wanted.start - 2 * first :]
        heard = wanted.wider(self._reach["content"], self._reach["content"], len(take.f0))
        (content,) = self._run("content", features=heard.of(take.features)[None])
        return wanted.within(heard, content[0])


def equalisers(voices: Sequence[str], found: Mapping[str, Sequence[float]]) -> Floats:
    """[voices, GAINS] log gains; nothing for a voice that has none."""
    table = np.zeros((len(voices), GAINS), np.float32)
    for name, levels in found.items():
        table[voices.index(name)] = np.log(10) / 20 * gains_db(levels, gain_centres_hz(SAMPLE_RATE, GAINS))
    return table


@dataclass(frozen=True)
class _Range:
    """Frames of a take."""

    start: int
    stop: int

    def wider(self, before: int, after: int, frames: int) -> _Range:
        """With so many frames of context, where the take has them."""
        return _Range(max(0, self.start - before), min(frames, self.stop + after))

    def of(self, values: NDArray[np.floating]) -> Floats:
        """These frames of values of the whole take."""
        return np.asarray(values[self.start : self.stop], np.float32)

    def within(self, wider: _Range, values: Floats) -> Floats:
        """These frames of values of a wider range."""
        return values[self.start - wider.start : self.stop - wider.start]


Shape = list[int | None]  # None: as many as there are frames


@dataclass(frozen=True)
class _Sizes:
    """Values in a frame of content and condition, and voices."""

    content: int = 1
    condition: int = 1
    voices: int = 1


def _inputs(part: Part, sizes: _Sizes) -> dict[str, Shape]:
    track: Shape = [1, None]
    shapes: dict[Part, dict[str, Shape]] = {
        "content": {"features": [1, None, BANDS]},
        "condition": {
            "content": [1, None, sizes.content],
            "f0": track,
            "voiced": track,
            "loudness": track,
            "shift": [1],
            "voice": [1, sizes.voices],
        },
        "denoiser": {"z": [1, None, DEFAULT.bins], "t": [1], "condition": [1, None, sizes.condition]},
        "vocoder": {"mel": [1, None, DEFAULT.bins], "f0": track, "voiced": track},
    }
    return shapes[part]


def _outputs(part: Part, sizes: _Sizes) -> dict[str, Shape]:
    shapes: dict[Part, dict[str, Shape]] = {
        "content": {"content": [1, None, sizes.content]},
        "condition": {"condition": [1, None, sizes.condition]},
        "denoiser": {"x": [1, None, DEFAULT.bins]},
        "vocoder": {"harmonic": [1, None, GAINS], "noise": [1, None, NOISE_STEPS * GAINS]},
    }
    return shapes[part]


def _metadata(graph: Graph, part: Part, name: str) -> SongMetadata:
    metadata = read_metadata(graph, SongMetadata, name, "part of a song engine")
    if metadata.part != part:
        raise ModelError(f"{name} must be the part {part!r} of a song engine, it is {metadata.part!r}")
    if part == "condition" and not metadata.voices:
        raise ModelError(f"{name} must name its voices, it names none")
    if len(set(metadata.voices)) != len(metadata.voices):
        raise ModelError(f"{name}: its voices must differ from each other, got {metadata.voices}")
    if strange := sorted(metadata.equaliser_db.keys() - set(metadata.voices)):
        raise ModelError(f"{name} must have equalisers for its voices {metadata.voices} alone, it has one for {strange[0]!r}")
    return metadata


def _width(graph: Graph, output: str, name: str) -> int:
    shape = graph.outputs[output].shape if output in graph.outputs else []
    if len(shape) != 3 or not isinstance(shape[2], int) or not 1 <= shape[2] <= WIDEST:
        wanted = f"an output {output!r} of the shape [1, T, C] with C of 1 to {WIDEST}"
        raise ModelError(f"{name} must have {wanted}, it has {str(dict(graph.outputs))[:300]}")
    return int(shape[2])


def _signature_problem(part: Part, graph: Graph, sizes: _Sizes) -> str | None:
    for kind, found, wanted in (("input", graph.inputs, _inputs(part, sizes)), ("output", graph.outputs, _outputs(part, sizes))):
        if missing := sorted(wanted.keys() - found.keys()):
            return f"the graph must have an {kind} {missing[0]!r}, it has {sorted(found)}"
        if extra := sorted(found.keys() - wanted.keys()):
            return f"the graph has an {kind} {extra[0]!r} that no {part} has"
        for name, shape in wanted.items():
            if found[name].type != "tensor(float)":
                return f"{name!r} must be a float32 tensor, got {found[name].type}"
            # The number of frames must be left open; so may the runtime leave what it cannot tell of an output.
            free = [not isinstance(size, int) for size in found[name].shape]
            fits = len(found[name].shape) == len(shape) and all(
                open_ if size is None else open_ or size == got
                for open_, size, got in zip(free, shape, found[name].shape, strict=True)
            )
            if not fits:
                return f"{kind} {name!r} must have the shape {['T' if s is None else s for s in shape]}, got {found[name].shape}"
    return None
