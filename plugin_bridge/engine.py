"""One voice pack at work in a stream of host blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dsp.blocks import BlockAdapter, least_latency
from dsp.shifting import PitchShifter, shifter_latency
from dsp.smoothing import Ramp

if TYPE_CHECKING:
    from models.stream import ModelStream, StreamModel

# Full scale * 16 = +24 dB, as much as the largest gain of our own. A chain of effects may run that hot and still be music;
# beyond are only broken numbers, which would sit in a model's state for as long as it remembers.
HIGHEST_SAMPLE = 16.0

# Parameters in semitones, and the controls of the models that have them. For those that have not, the source is shifted.
SHIFTS = {"pitch_shift": "pitch_ratio", "formant_shift": "formant_ratio"}


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

    For a model that lacks a control of pitch or formants a `PitchShifter` comes before it, wherever the latency has room for it.

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
        staged = lacks_shifts(model) and engine_latency(model, setup.rate, setup.block, staged=True) <= setup.latency
        self._shifters = [PitchShifter(model.sample_rate, model.chunk) for _ in range(streams)] if staged else []
        self._own_pitch, self._own_formants = (control in model.controls for control in SHIFTS.values())
        late = shifter_latency(model.sample_rate) if staged else 0
        # Seconds after which silence that comes in comes out; a shifter holds no more than it is late, three times over.
        self.memory = (model.receptive_field + 3 * late) / model.sample_rate
        self._weights = [Ramp(controls.pitch_shift.length, weight) for weight in weights]
        self._adapter = BlockAdapter(
            self._convert,
            channels=streams,
            host_rate=setup.rate,
            rate=Fraction(model.sample_rate),
            chunk=model.chunk,
            lookahead=model.lookahead + late,
            latency=setup.latency,
            capacity=setup.capacity,
        )
        self._finite = np.empty(model.chunk, np.bool_)
        self._rise = (np.arange(1, model.chunk + 1) / model.chunk).astype(np.float32)
        self._failed = [False] * streams
        for stream in self._streams:
            stream.step()  # the runtime reserves its memory in the first run: not in the audio thread
        self.reset(0)

    def reset(self, origin: int, *, keep_mean: bool = False) -> None:
        """Silence, with the weights wanted; the next sample is number `origin` of the host stream.

        With `keep_mean` the source is still the same: what a model knows of it in the long run stays.
        """
        self._origin = origin
        self._adapter.reset()
        for stream in self._streams:
            stream.reset(keep_mean=keep_mean)
        for shifter in self._shifters:
            shifter.reset()
        for ramp, weight in zip(self._weights, self.wanted_weights, strict=True):
            ramp.snap(weight)
        self._failed[:] = [False] * len(self._streams)

    @property
    def staged(self) -> bool:
        """Whether a shifter comes before the model."""
        return bool(self._shifters)

    def serves(self, numbers: Mapping[str, float]) -> bool:
        """Whether it can shift as these parameters want it to."""
        return bool(self._shifters) or not needs_stage(self.model, numbers)

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
            source = self._adapter.chunk_in[index]
            if self._shifters:
                before = 1.0 if self._own_pitch else pitch_ratio, 1.0 if self._own_formants else formant_ratio
                self._shifters[index].process(source, *before, stream.audio_in)
            else:
                stream.audio_in[:] = source
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


def lacks_shifts(model: StreamModel) -> bool:
    """Whether pitch or formants must be shifted before the model."""
    return not model.controls.issuperset(SHIFTS.values())


def needs_stage(model: StreamModel, numbers: Mapping[str, float]) -> bool:
    """Whether these parameters ask for a shift that the model itself cannot make."""
    return any(numbers.get(name) and control not in model.controls for name, control in SHIFTS.items())


def engine_latency(model: StreamModel, rate: Fraction, block: int | None, staged: bool = False) -> int:
    """Least latency of a model at a host rate and block size, in host samples; `staged`: with a shifter, if the model needs one."""
    late = shifter_latency(model.sample_rate) if staged and lacks_shifts(model) else 0
    return least_latency(rate, Fraction(model.sample_rate), model.chunk, model.lookahead + late, block)
