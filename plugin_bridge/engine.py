"""One voice pack at work in a stream of host blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dsp.blocks import BlockAdapter, least_latency
from dsp.smoothing import Ramp

if TYPE_CHECKING:
    from models.stream import ModelStream, StreamModel

# Full scale * 16 = +24 dB, as much as the largest gain of our own. A chain of effects may run that hot and still be music;
# beyond are only broken numbers, which would sit in a model's state for as long as it remembers.
HIGHEST_SAMPLE = 16.0


@dataclass(frozen=True)
class Setup:
    """What a stream was prepared for; `latency` in host samples."""

    rate: Fraction
    block: int | None
    channels: int
    capacity: int
    latency: int


@dataclass
class Controls:
    """What steers every model, in semitones, as functions of the host stream's position."""

    pitch_shift: Ramp
    formant_shift: Ramp


@dataclass
class Faults:
    """How often a model failed."""

    count: int = 0


class Engine:
    """Converts [streams, n] host samples, `setup.latency` samples late, whatever the model's chunk, look-ahead and rate.

    A model that fails, or that gives anything but finite numbers, is started anew and its chunk is silence: never the dry
    source, because a voice may be worn as a disguise. Drive it from one thread; nothing is allocated after construction.

    Parameters
    ----------
    model : StreamModel
    setup : Setup
    streams : int
        Signals converted side by side, each with a model state of its own.
    controls : Controls
    faults : Faults
        Counts chunks that failed, on any stream.
    weights : sequence of float
        Of the model's voices.
    """

    def __init__(
        self,
        model: StreamModel,
        setup: Setup,
        streams: int,
        controls: Controls,
        faults: Faults,
        weights: Sequence[float],
    ) -> None:
        self.model = model
        self.wanted_weights = tuple(weights)  # any thread may replace it
        self._controls = controls
        self._faults = faults
        self._chunk = float(model.chunk * setup.rate / model.sample_rate)  # in host samples
        self._streams: list[ModelStream] = [model.open() for _ in range(streams)]
        self._weights = [Ramp(controls.pitch_shift.length, weight) for weight in weights]
        self._adapter = BlockAdapter(
            self._convert,
            channels=streams,
            host_rate=setup.rate,
            rate=Fraction(model.sample_rate),
            chunk=model.chunk,
            lookahead=model.lookahead,
            latency=setup.latency,
            capacity=setup.capacity,
        )
        self._finite = np.empty(model.chunk, np.bool_)
        self._rise = (np.arange(1, model.chunk + 1) / model.chunk).astype(np.float32)
        self._failed = [False] * streams
        for stream in self._streams:
            stream.step()  # the runtime reserves its memory in the first run: not in the audio thread
        self.reset(0)

    def reset(self, origin: int) -> None:
        """Silence, with the weights wanted; the next sample is number `origin` of the host stream."""
        self._origin = origin
        self._adapter.reset()
        for stream in self._streams:
            stream.reset()
        for ramp, weight in zip(self._weights, self.wanted_weights, strict=True):
            ramp.snap(weight)
        self._failed[:] = [False] * len(self._streams)

    def take_weights(self, position: int) -> None:
        """Move to the weights wanted, from `position` of the host stream on."""
        for ramp, weight in zip(self._weights, self.wanted_weights, strict=True):
            ramp.aim(weight, position)

    def run(self, source: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Take the next [streams, n] host samples, write as many converted ones."""
        self._adapter.run(source, out)

    def _convert(self, chunk: int) -> None:
        # Where the chunk begins in the host stream: the controls are read there, so that they do not depend on blocks.
        position = self._origin + chunk * self._chunk
        pitch_ratio = 2 ** (self._controls.pitch_shift.at(position) / 12)
        formant_ratio = 2 ** (self._controls.formant_shift.at(position) / 12)
        for index, stream in enumerate(self._streams):
            stream.audio_in[:] = self._adapter.chunk_in[index]
            stream.pitch_ratio[0] = pitch_ratio
            stream.formant_ratio[0] = formant_ratio
            for voice, ramp in enumerate(self._weights):
                stream.voice[voice] = ramp.at(position)
            out = self._adapter.chunk_out[index]
            if self._step(stream):
                np.clip(stream.audio_out, -HIGHEST_SAMPLE, HIGHEST_SAMPLE, out=out)
                if self._failed[index]:
                    out *= self._rise
                self._failed[index] = False
            else:
                out.fill(0.0)
                stream.reset()
                self._faults.count += 1
                self._failed[index] = True

    def _step(self, stream: ModelStream) -> bool:
        try:
            stream.step()
        except Exception:  # whatever the runtime raises, the stream goes on
            return False
        return bool(np.isfinite(stream.audio_out, out=self._finite).all())


def engine_latency(model: StreamModel, rate: Fraction, block: int | None) -> int:
    """Least latency of a model at a host rate and block size, in host samples."""
    return least_latency(rate, Fraction(model.sample_rate), model.chunk, model.lookahead, block)
