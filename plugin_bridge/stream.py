"""Audio through a converter that is prepared: cleaning, conversion, and everything mixed in time with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dsp.gate import Gate
from dsp.resampling import Resampler
from dsp.smoothing import RAMP_SECONDS, Ramp, equal_power_fade, scale
from plugin_bridge.engine import HIGHEST_SAMPLE, Controls, Engine, Faults, Setup
from plugin_bridge.parameters import PARAMETERS

if TYPE_CHECKING:
    from models.stream import StreamModel

# A model that joins a running stream has heard nothing: it hears as much of the past as it can remember, but no more than
# this many seconds, before it is heard itself.
WARM_UP_SECONDS = 0.2

# Below the smallest normal number arithmetic is many times slower on most processors: in our host's as well.
SMALLEST_NORMAL = np.finfo(np.float32).tiny


class HostStream:
    """One stream of host audio through one voice, or through two while the voice changes.

    Drive it from one thread; `engine` alone may be called from another at the same time. `advance` allocates nothing.

    Parameters
    ----------
    setup : Setup
    each : bool
        Convert each channel instead of the mean of all.
    faults : Faults
    """

    def __init__(self, setup: Setup, each: bool, faults: Faults) -> None:
        self.setup = setup
        self._each = each and setup.channels > 1
        self._faults = faults
        self._ramp_length = round(RAMP_SECONDS * setup.rate)
        self._mix, self._gain, self._bypass = (Ramp(self._ramp_length, 0.0) for _ in range(3))
        self._controls = Controls(Ramp(self._ramp_length, 0.0), Ramp(self._ramp_length, 0.0))
        self._gate = Gate(float(setup.rate), setup.latency)
        self._fade = equal_power_fade(self._ramp_length)
        self._dry = Resampler(
            setup.rate, setup.rate, setup.channels, push=setup.capacity, pending=0, delay=Fraction(setup.latency)
        )
        self.position = 0  # samples taken so far
        self._engine: Engine | None = None
        self._joining: Engine | None = None  # takes the place of `_engine` with a fade that begins at `_fade_start`
        self._waiting: Engine | None = None  # will join when that is done
        self._fade_start = 0
        self._keeps_mean = False
        self.retired: list[Engine] = []  # freeing memory takes time: whoever sets a voice does it, not the audio thread

        wide, narrow = (setup.channels, setup.capacity), (self._streams, setup.capacity)
        self._clean, self._late, self._size = (np.empty(wide, np.float32) for _ in range(3))
        self._broken = np.empty(wide, np.bool_)
        self._source, self._wet, self._other = (np.empty(narrow, np.float32) for _ in range(3))
        self._level, self._open, self._share = (np.empty(setup.capacity, np.float32) for _ in range(3))
        self._count = np.arange(setup.capacity, dtype=np.float32)

    @property
    def _streams(self) -> int:
        return self.setup.channels if self._each else 1

    def engine(self, model: StreamModel, weights: Sequence[float]) -> Engine:
        """A new engine for this stream, ready to run."""
        return Engine(model, self.setup, self._streams, self._controls, self._faults, weights)

    def restart(self, engine: Engine, numbers: Mapping[str, float], bypass: bool, *, keep_mean: bool = False) -> None:
        """Go back to silence, at position 0, with these parameters from the first sample on; `keep_mean` as for `Engine.reset`."""
        self.position = 0
        self._set_engine(engine)
        self._joining = self._waiting = None
        self._keeps_mean = keep_mean
        engine.reset(0, keep_mean=keep_mean)
        self._gate.reset()
        self._dry.reset()
        for ramp, value in self._targets(numbers, bypass):
            ramp.snap(value)
        self._set_threshold(numbers)

    def take(self, numbers: Mapping[str, float], bypass: bool, engines: deque[Engine]) -> None:
        """Move to these parameters from here on, and to the voice of the newest of `engines`."""
        assert self._engine is not None, "restart() comes first"
        if self.position == 0:  # nothing was heard yet that a change could disturb
            self.restart(engines.pop() if engines else self._engine, numbers, bypass, keep_mean=self._keeps_mean)
            return
        for ramp, value in self._targets(numbers, bypass):
            ramp.aim(value, self.position)
        self._set_threshold(numbers)
        self._engine.take_weights(self.position)
        if self._joining is not None:
            self._joining.take_weights(self.position)
        if engines:
            if self._waiting is not None:
                self.retired.append(self._waiting)
            self._waiting = engines.pop()

    def _join(self, engine: Engine) -> None:
        """From here on feed this engine too, and fade it in when it is warm."""
        self._joining = engine
        engine.reset(self.position)
        self._fade_start = self.position + self.setup.latency + self._warm_up_samples(engine)

    @property
    def warm_up_samples(self) -> int:
        """Samples after which a fresh start is as good as forgotten."""
        assert self._engine is not None, "restart() comes first"
        return self._warm_up_samples(self._engine)

    def _warm_up_samples(self, engine: Engine) -> int:
        return round(min(WARM_UP_SECONDS, engine.memory) * self.setup.rate)

    def _targets(self, numbers: Mapping[str, float], bypass: bool) -> tuple[tuple[Ramp, float], ...]:
        return (
            (self._mix, numbers["mix"]),
            (self._gain, 10 ** (numbers["gain_db"] / 20)),
            (self._bypass, float(bypass)),
            (self._controls.pitch_shift, numbers["pitch_shift"]),
            (self._controls.formant_shift, numbers["formant_shift"]),
        )

    def _set_threshold(self, numbers: Mapping[str, float]) -> None:
        gate_db = numbers["gate_db"]
        self._gate.threshold = 10 ** (gate_db / 20) if gate_db > PARAMETERS["gate_db"].minimum else 0.0

    def _set_engine(self, engine: Engine) -> None:
        self._engine = engine
        self._gate.tail = round(engine.memory * self.setup.rate)

    def advance(self, block: NDArray[np.floating], out: NDArray[np.float32]) -> None:
        """Take block [channels, n], write what came `latency` samples ago, converted, to out [channels, n].

        n <= setup.capacity. `out` may be `block`.
        """
        with np.errstate(all="ignore"):  # broken input is expected, and a warning would allocate
            done, n = 0, block.shape[1]
            while done < n:
                if self._joining is None and self._waiting is not None:
                    self._join(self._waiting)
                    self._waiting = None
                stop = n
                if self._joining is not None:
                    # Cut where the voices have changed, at the end of a block prepared for, whatever the size of this one:
                    # so the next voice joins at a moment that does not depend on it.
                    grid = self.setup.block or 1
                    left = self._fade_start + self._ramp_length - self.position
                    stop = min(n, done + -(-left // grid) * grid)
                self._advance(block[:, done:stop], out[:, done:stop])
                done = stop

    def _advance(self, block: NDArray[np.floating], out: NDArray[np.float32]) -> None:
        n = block.shape[1]
        clean, late, wet = self._clean[:, :n], self._late[:, :n], self._wet[:, :n]
        np.clip(block, -HIGHEST_SAMPLE, HIGHEST_SAMPLE, out=clean, casting="same_kind")
        self._flush(clean)
        np.abs(clean, out=self._size[:, :n])
        np.max(self._size[:, :n], axis=0, out=self._level[:n])
        gated = self._gate.follow(self._level[:n], self._open[:n])
        self._convert(clean, wet)
        self._dry.push(clean)
        self._dry.pull(late)
        self._combine(wet, late, gated, out)
        if self.position < self.setup.latency:
            # What a linear-phase filter and a model's look-ahead give before the first sample of the source.
            out[:, : self.setup.latency - self.position] = 0.0
        self._flush(out)
        self.position += n

    def _flush(self, samples: NDArray[np.float32]) -> None:
        """NaN and subnormal numbers become 0."""
        size, broken = self._size[:, : samples.shape[1]], self._broken[:, : samples.shape[1]]
        np.abs(samples, out=size)
        np.greater_equal(size, SMALLEST_NORMAL, out=broken)
        np.logical_not(broken, out=broken)
        np.copyto(samples, 0.0, where=broken)

    def _convert(self, clean: NDArray[np.float32], wet: NDArray[np.float32]) -> None:
        """Write the output of the engines, [streams, n]."""
        assert self._engine is not None, "restart() comes first"
        n = clean.shape[1]
        source = clean
        if not self._each and clean.shape[0] > 1:
            source = self._source[:, :n]
            np.add.reduce(clean, axis=0, out=source[0])
            source *= 1 / clean.shape[0]
        self._engine.run(source, wet)
        if self._joining is None:
            return
        other = self._other[:, :n]
        self._joining.run(source, other)
        # Of this block: the old voice before `start`, both until `stop`, then the new one.
        begun = self.position - self._fade_start
        start, stop = min(max(-begun, 0), n), min(max(self._ramp_length - begun, 0), n)
        fade = self._fade[:, max(begun, 0) :][:, : stop - start]
        scale(wet[:, start:stop], fade[0])
        scale(other[:, start:stop], fade[1])
        wet[:, start:stop] += other[:, start:stop]
        wet[:, stop:] = other[:, stop:]
        if begun + n >= self._ramp_length:
            self.retired.append(self._engine)
            self._set_engine(self._joining)
            self._joining = None

    def _combine(
        self, wet: NDArray[np.float32], late: NDArray[np.float32], gated: bool, out: NDArray[np.float32]
    ) -> None:
        """Mix, gain, gate, bypass; wet [streams, n] and late [channels, n], the source in time with it, are used up."""
        n, position = out.shape[1], self.position
        share, scaled = self._share[:n], self._size[:, :n]
        if self._bypass.stays(1.0, position):
            out[:] = late
            return
        out[:] = wet
        if not self._mix.stays(1.0, position):
            self._mix.fill(position, self._count, share)
            scale(out, share)
            np.subtract(1.0, share, out=share)
            scaled[:] = late
            scale(scaled, share)
            out += scaled
        if not self._gain.stays(1.0, position):
            self._gain.fill(position, self._count, share)
            scale(out, share)
        if gated:
            scale(out, self._open[:n])
        if not self._bypass.stays(0.0, position):
            self._bypass.fill(position, self._count, share)
            scale(late, share)
            np.subtract(1.0, share, out=share)
            scale(out, share)
            out += late
