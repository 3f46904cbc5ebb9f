"""A vocal out of a mix, with a separation model that the user has: MDX-Net as ONNX, the format of Ultimate Vocal Remover.

The network takes spectrograms of 44.1 kHz stereo as [1, 4, bins, frames], real and imaginary part of left and right, and gives
those of one stem. How long its transform is, how loud its stem and which, stands nowhere in the file: see `mdx_models`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from models.graph import Graph, ModelError, first_line, load_graph
from plugin_bridge.analysis import Audio, watched
from plugin_bridge.blocks import Reader, at_rate, file_rate
from plugin_bridge.files import FileError, open_writer, replacing
from plugin_bridge.mdx_models import MdxModel, registered
from plugin_bridge.recording import Recording, open_recording
from plugin_bridge.stages import Stages, in_order

RATE = 44_100
HOP = 1024
OVERLAP = 0.25  # of a chunk with the next
N_FFT = {2560: 5120}  # of all models with so many bins; those of 2048 and 3072 have one of two
LONGEST_N_FFT = 1 << 16
MUTED_BINS = 3  # up to 20 Hz, where the networks were not trained
LARGEST_MODEL = 1 << 30
HOW_TO_GET_ONE = (
    "a vocal stem comes out of any mixing program, or out of the mix with an MDX-Net model of Ultimate Vocal Remover, such as "
    "UVR-MDX-NET-Voc_FT.onnx, given as --separate MODEL.onnx"
)

Stem = Literal["vocals", "accompaniment"]
STEMS: dict[str, Stem] = {"Vocals": "vocals", "Instrumental": "accompaniment"}  # as `mdx_models` has them


@dataclass(frozen=True)
class Separation:
    """Files of the same rate, channels and length as the mix, whose sum is the mix."""

    vocals: Path
    accompaniment: Path


class Separator:
    """A loaded separation model. Any number of threads may `run` it.

    Parameters
    ----------
    path : Path
    n_fft : int, optional
        Length of its transform in samples; by default the published one, or that of all models with its number of bins.
    stem : "vocals" or "accompaniment", optional
        What it gives; by default what is published, or what its name says.

    Raises
    ------
    FileError
        If there is no such file; with how to get one.
    ModelError
        If it is no such model, or one of which something must be told.
    """

    def __init__(self, path: Path, n_fft: int | None = None, stem: Stem | None = None) -> None:
        try:
            size = path.stat().st_size
            data = path.read_bytes() if size <= LARGEST_MODEL and path.is_file() else b""
        except OSError as error:
            raise FileError(f"the separation model {path} cannot be read ({error.strerror or error}); {HOW_TO_GET_ONE}") from None
        self._graph = load_graph(data, str(path))
        self._input, self._bins, self._frames = _checked(self._graph, str(path))
        known = registered(path, data, self._bins)
        if n_fft is None:
            n_fft = known.n_fft if known else N_FFT.get(self._bins)
        if n_fft is None:
            raise ModelError(f"{path} has {self._bins} bins, for which no length of its transform is known: give --separate-fft")
        least = 2 * self._bins - 2
        if n_fft % 2 or not least <= n_fft <= LONGEST_N_FFT:
            wanted = f"must have an even length of {least} to {LONGEST_N_FFT} samples, got {n_fft}"
            raise ModelError(f"{path} has {self._bins} bins, so its transform {wanted}")
        self.n_fft = n_fft
        if self.chunk <= self.n_fft // 2:
            wanted = f"at least {self.n_fft // 2 // HOP + 2} for a transform of {self.n_fft} samples"
            raise ModelError(f"{path} hears {self._frames} frames at once, but it needs {wanted}")
        self.stem: Stem = stem or _stem(path, known)
        self._gain = np.float32(known.compensate if known else 1.0)
        self.path = path
        self._window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.n_fft) / self.n_fft)).astype(np.float32)

    @property
    def chunk(self) -> int:
        """Samples that the model hears at once."""
        return HOP * (self._frames - 1)

    def run(self, chunk: Audio) -> Audio:
        """The stem of `chunk` samples, [2, chunk], at 44.1 kHz."""
        spectra = self._spectra(chunk)
        spectra[:, :MUTED_BINS] = 0
        try:
            given = self._graph.session.run(None, {self._input: spectra[None]})[0][0]
        except Exception as error:
            raise ModelError(f"{self.path} fails when it runs: {first_line(error)}") from error
        if given.shape != spectra.shape or not np.isfinite(given).all():
            raise ModelError(f"{self.path} must give finite numbers of the shape {spectra.shape}, got {given.shape}")
        return self._audio(given) * self._gain

    def _spectra(self, audio: Audio) -> Audio:
        """[2, chunk] -> [4, bins, frames], frames centred, with the audio mirrored at its ends."""
        padded = np.pad(audio, ((0, 0), (self.n_fft // 2, self.n_fft // 2)), mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.n_fft, axis=1)[:, ::HOP]
        spectra = np.fft.rfft(frames * self._window, axis=2)[:, :, : self._bins].transpose(0, 2, 1)
        out: Audio = np.stack([spectra.real, spectra.imag], 1).reshape(4, self._bins, self._frames).astype(np.float32)
        return out

    def _audio(self, spectra: Audio) -> Audio:
        """Inverse of `_spectra`."""
        pairs = spectra.reshape(2, 2, self._bins, self._frames)
        whole = np.zeros((2, self._frames, self.n_fft // 2 + 1), np.complex64)
        whole[:, :, : self._bins] = (pairs[:, 0] + 1j * pairs[:, 1]).transpose(0, 2, 1)
        frames = np.fft.irfft(whole, self.n_fft, axis=2) * self._window
        length = self.n_fft + HOP * (self._frames - 1)
        out, weight = np.zeros((2, length)), np.zeros(length)
        for k in range(self._frames):
            place = slice(k * HOP, k * HOP + self.n_fft)
            out[:, place] += frames[:, k]
            weight[place] += self._window**2
        inside = slice(self.n_fft // 2, length - self.n_fft // 2)
        return (out[:, inside] / np.maximum(weight[inside], 1e-8)).astype(np.float32)


def separate(
    source: Path, separator: Separator, folder: Path, threads: int, stages: Stages, advance: Callable[[float], None]
) -> Separation:
    """Part a mix into two files in `folder`; `advance` is called with the share (0..1) that is done.

    Raises
    ------
    FileError
        If it cannot be read, or what becomes of it not be written.
    ModelError
        If the model fails.
    """
    parts = Separation(folder / "vocals.wav", folder / "accompaniment.wav")
    with open_recording(source) as recording:
        rate, channels = int(recording.sample_rate), recording.channels
        if rate != recording.sample_rate or channels > 2:
            raise FileError(f"{source} must be mono or stereo of a whole number of Hz to be separated")
        done = 0
        with (
            replacing(parts.vocals) as first,
            replacing(parts.accompaniment) as second,
            open_writer(first, parts.vocals, rate, channels, 32) as vocals,
            open_writer(second, parts.accompaniment, rate, channels, 32) as accompaniment,
        ):
            for mix, stem in _stems(recording, separator, threads, stages):
                with stages.watch("write"):
                    for writer, block in zip((vocals, accompaniment), _ordered(separator.stem, stem, mix - stem), strict=True):
                        writer.write(block)
                done += mix.shape[1]
                advance(done / recording.samples)
    return parts


def _ordered(stem: Stem, given: Audio, rest: Audio) -> tuple[Audio, Audio]:
    return (given, rest) if stem == "vocals" else (rest, given)


def _stems(recording: Recording, separator: Separator, threads: int, stages: Stages) -> Iterator[tuple[Audio, Audio]]:
    """Blocks of the mix and of the model's stem, at the mix's own rate and with its channels."""
    rate, own = file_rate(recording.sample_rate), Fraction(RATE)
    channels = recording.channels
    mix = at_rate(watched(recording, stages), channels, rate, own)
    length = -(-recording.samples * RATE // int(rate))
    stem = Reader(at_rate(_overlapped(Reader(mix, channels), length, separator, threads, stages), channels, own, rate), channels)
    for block in watched(recording, stages):
        yield block, stem.read(block.shape[1])


def _overlapped(mix: Reader, length: int, separator: Separator, threads: int, stages: Stages) -> Iterator[Audio]:
    """The stem [channels, n] of a mix at 44.1 kHz: chunks run side by side, and faded into each other."""
    chunk = separator.chunk
    lead = separator.n_fft // 2  # a chunk's ends are half made of what it mirrors: the first begins before the mix
    step = int((1 - OVERLAP) * chunk)
    window = np.hanning(chunk + 2)[1:-1].astype(np.float32)

    def chunks() -> Iterator[Audio]:
        held = np.pad(mix.read(chunk - lead), ((0, 0), (lead, 0)))
        for _ in range(0, length + lead, step):
            yield held
            held = np.concatenate([held[:, step:], mix.read(step)], axis=1)

    def run(audio: Audio) -> Audio:
        with stages.watch("separation"):
            stereo = audio if audio.shape[0] == 2 else np.concatenate([audio, audio])
            return separator.run(stereo)[: audio.shape[0]]

    total = np.zeros((1, chunk), np.float32)
    weight = np.zeros(chunk, np.float32)
    skip = lead
    for stem in in_order(run, chunks(), threads):
        total = total + stem * window
        weight += window
        yield total[:, min(skip, step) : step] / weight[min(skip, step) : step]
        skip = max(0, skip - step)
        total = np.pad(total[:, step:], ((0, 0), (0, step)))
        weight = np.pad(weight[step:], (0, step))


def _stem(path: Path, known: MdxModel | None) -> Stem:
    """What a model gives, by what is published about it or by its name."""
    if known is not None:
        if known.stem not in STEMS:
            raise ModelError(f"{path} parts {known.stem.lower()} from the rest, where one of vocals is needed; {HOW_TO_GET_ONE}")
        return STEMS[known.stem]
    name = path.stem.lower()
    if ("inst" in name) == ("voc" in name):
        raise ModelError(f"whether {path} gives the vocals or the accompaniment is not known: give --separate-stem")
    return "vocals" if "voc" in name else "accompaniment"


def _checked(graph: Graph, name: str) -> tuple[str, int, int]:
    """Input, bins and frames of a graph that has the form of an MDX-Net."""
    for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
        if len(values) != 1:
            raise ModelError(f"{name} must have one {kind}, as an MDX-Net has, it has {sorted(values)[:10]}")
    (input_name,) = graph.inputs
    tensor = graph.inputs[input_name]
    shape = tensor.shape
    fits = len(shape) == 4 and shape[1] == 4 and (shape[0] in (1, None) or isinstance(shape[0], str))
    if tensor.type != "tensor(float)" or not fits or not all(isinstance(size, int) and 2 <= size <= 1 << 14 for size in shape[2:]):
        raise ModelError(f"{name} must take float32 [1, 4, bins, frames], as an MDX-Net does, got {tensor.type} {shape}")
    return input_name, shape[2], shape[3]
