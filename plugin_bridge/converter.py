"""The voice converter as an effect: Pedalboard's call protocol, and a live one of blocks."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
from numpy.typing import NDArray

from dsp.layout import ChannelLayout
from dsp.resampling import exact_rate
from plugin_bridge.effect import AudioEffect
from plugin_bridge.engine import SHIFTS, Engine, Faults, Setup, engine_latency, needs_stage
from plugin_bridge.parameters import PARAMETERS
from plugin_bridge.protocol import apart_from, check_audio, check_block, number, positive
from plugin_bridge.stream import HostStream
from plugin_bridge.voices import Voice as Voice
from plugin_bridge.voices import VoiceTarget, voice_target

if TYPE_CHECKING:
    from pathlib import Path

    from models.stream import StreamModel

MOST_CHANNELS = 8

# Samples of a block that are worked on at once; larger blocks are cut into pieces of at most this size (or of one
# `block_size`, if that is larger). All memory is of this size, so that a block larger than any before allocates nothing.
CAPACITY = 8192
LARGEST_BLOCK = 65_536


@dataclass(frozen=True)
class LoadedVoice:
    """A voice that `VoiceConverter.load_voice` made ready: its engine if the stream needs another one than it has."""

    target: VoiceTarget
    model: StreamModel | None = None
    stream: HostStream | None = None
    engine: Engine | None = None


class _Number:
    """A numeric parameter as a property."""

    def __init__(self, name: str) -> None:
        self._parameter = PARAMETERS[name]
        self.__doc__ = self._parameter.description

    @overload
    def __get__(self, converter: None, owner: type) -> _Number: ...
    @overload
    def __get__(self, converter: VoiceConverter, owner: type) -> float: ...
    def __get__(self, converter: VoiceConverter | None, owner: type) -> _Number | float:
        return self if converter is None else converter._numbers[self._parameter.name]

    def __set__(self, converter: VoiceConverter, value: float) -> None:
        number = self._parameter.number(value)
        converter._numbers[self._parameter.name] = number


class VoiceConverter(AudioEffect):
    """Converts a voice into another, where an effect sits.

    Called like a Pedalboard plugin (`process`, `reset`), or block by block (`prepare`, `process_block`). Parameters may be
    set at any time from any thread; a change takes effect at the start of the next call and is complete 30 ms later.
    Calls that process audio wait for each other. One instance is one stream.

    Parameters
    ----------
    voice : str, Path or mapping of str to float
        A name of `voices()`, the path of a pack, or names with weights (voices of one pack; the weights are scaled to
        add up to 1).
    pitch_shift : float
        -24 to 24 semitones. Where a voice has no control of it, the source is shifted before it is converted, which costs 20 ms
        of latency as long as a stream lasts that began with a shift; in one that began without, a shift waits for the next.
    formant_shift : float
        -12 to 12 semitones.
    mix : float
        0 (source) to 1 (converted). The source is delayed by the latency and mixed linearly: what is aligned and has the
        same pitch adds up in amplitude.
    gain_db : float
        -60 to 24 dB, of the mix.
    gate_db : float
        -90 to 0 dB of full scale: while the peaks of the source stay below it for 50 ms the output is muted, within
        100 ms. -90 switches the gate off.
    bypass : bool
        The source, late by the latency, bit for bit. The model goes on, so that switching back is smooth.
    stereo : "mid" or "each"
        Convert the mean of all channels and put it on all of them (the source in the mix keeps its channels), or convert
        each channel with a model state of its own, at a cost for each.

    engine : "stream" or "song"
        The song engine sounds best, and is for whole recordings: `process` with `reset=True` alone, also in a `Board`. It takes
        `SongRenderer`'s arguments besides: threads, size, steps, seed, method, encoder.

    Attributes
    ----------
    errors : int
        Chunks (of any channel) that the model failed on, or gave numbers that are not finite for. They became silence.

    Raises
    ------
    UnknownVoiceError, PackError
        From the constructor and from setting `voice`.
    ValueError, TypeError
        For a parameter out of range or of the wrong type.

    Notes
    -----
    1 to 8 channels. NaN in the input counts as 0, and samples are limited to +-16 (+24 dB). Where the input is exact
    silence for longer than the model remembers, the output is too.
    """

    __slots__ = (
        "__weakref__",
        "_begun",
        "_bypass",
        "_engines",
        "_faults",
        "_flat",
        "_last_loaded",
        "_layout",
        "_lock",
        "_newest",
        "_numbers",
        "_outdated",
        "_promised",
        "_running",
        "_setting",
        "_stereo",
        "_stream",
        "_target",
        "_trimmed",
    )

    _kind = ""  # at the end of `repr`, what else than the parameters tells a converter of this class from others

    def __new__(
        cls, voice: Voice | Path = "pjs", *, engine: Literal["stream", "song"] = "stream", **settings: object
    ) -> VoiceConverter:
        """A converter of the kind that `engine` names."""
        if engine not in ("stream", "song"):
            raise ValueError(f"engine must be 'stream' or 'song', got {engine!r}")
        if engine == "song" and cls is VoiceConverter:
            from plugin_bridge.song_converter import SongConverter

            return super().__new__(SongConverter)
        return super().__new__(cls)

    def __init__(
        self,
        voice: Voice | Path = "pjs",
        *,
        pitch_shift: float = 0.0,
        formant_shift: float = 0.0,
        mix: float = 1.0,
        gain_db: float = 0.0,
        gate_db: float = -90.0,
        bypass: bool = False,
        stereo: Literal["mid", "each"] = "mid",
        engine: Literal["stream", "song"] = "stream",
    ) -> None:
        if stereo not in ("mid", "each"):
            raise ValueError(f"stereo must be 'mid' or 'each', got {stereo!r}")
        if engine != "stream":  # `__new__` makes a SongConverter of a VoiceConverter, and cannot of a class of the user's own
            raise ValueError(f"the engine of a {type(self).__name__} must be 'stream', got {engine!r}")
        self._stereo = stereo
        # What any thread may set, and the audio thread takes at the start of a call. A dict's items change atomically.
        self._numbers: dict[str, float] = {}
        self.bypass = bypass
        self._target = voice_target(voice)
        self._engines: deque[Engine] = deque(maxlen=1)  # for the next voice, ready to run; the latest wins
        # Order of the locks: audio, then setting. A thread that sets a voice holds `_setting` alone, so that audio goes on.
        self._lock = threading.Lock()
        self._setting = threading.Lock()
        self._layout = ChannelLayout()
        self._faults = Faults()
        self._stream: HostStream | None = None
        self._newest: Engine | None = None  # the engine of `_target` for `_stream`
        self._last_loaded: StreamModel | None = None  # for which `_load_voice` made an engine
        self._outdated = False  # `_target` does not fit `_stream`'s latency: make a new one when audio comes
        self._promised = False  # `prepare` was called: the latency must hold until it is called again
        self._running = False  # in the middle of a stream
        self._trimmed = False  # the last call was to `process`, which leaves out the first `latency_samples`
        self._begun = 0  # where, in all that the stream heard, the pieces of `process` begin
        self._flat = True  # `process_block` was last given [n] rather than [channels, n]
        self.pitch_shift, self.formant_shift = pitch_shift, formant_shift
        self.mix, self.gain_db, self.gate_db = mix, gain_db, gate_db

    pitch_shift = _Number("pitch_shift")
    formant_shift = _Number("formant_shift")
    mix = _Number("mix")
    gain_db = _Number("gain_db")
    gate_db = _Number("gate_db")

    @property
    def bypass(self) -> bool:
        """The source instead of the output, at the same latency."""
        return self._bypass

    @bypass.setter
    def bypass(self, value: bool) -> None:
        self._bypass = PARAMETERS["bypass"].switch(value)

    @property
    def voice(self) -> str | dict[str, float]:
        """The name, or the weights scaled to add up to 1. Setting it loads the voice, in the thread that sets it.

        Within a pack the weights move in 30 ms. To another pack the change is an equal-power crossfade of 30 ms, once the
        new model has heard as much of the stream as it can remember (at most 0.2 s, plus the latency); meanwhile both run.

        Raises
        ------
        ValueError
            If the stream under way was prepared for a latency that is too short for the new voice.
        """
        shown = self._target.shown
        return dict(shown) if isinstance(shown, dict) else shown

    @voice.setter
    def voice(self, voice: Voice | Path) -> None:
        target = voice_target(voice)
        with self._setting:
            self._take_voice(self._load_voice(target, self._numbers))

    def load_voice(self, voice: Voice, shifts: Mapping[str, float] | None = None) -> LoadedVoice:
        """All of a change of voice that takes time, for a host that must know the block in which it happens.

        Call it from one thread. `shifts` are those of `pitch_shift` and `formant_shift` that will be set together with it.
        Raises what setting `voice`, and then these, does.
        """
        return self._load_voice(voice_target(voice), {**self._numbers, **(shifts or {})})

    def take_voice(self, loaded: LoadedVoice) -> None:
        """Set the voice that `load_voice` made ready; fit for the audio thread, between blocks.

        Raises
        ------
        RuntimeError
            If `prepare` was called in between.
        """
        with self._setting:
            self._take_voice(loaded)

    def _load_voice(self, target: VoiceTarget, numbers: Mapping[str, float]) -> LoadedVoice:
        stream = self._stream
        if stream is None or self._stale():
            return LoadedVoice(target)
        stream.retired.clear()
        model, newest, last = target.pack.stream_model(), self._newest, self._last_loaded
        if newest is not None and newest.model is model and (last is None or last is model):
            return LoadedVoice(target, model, stream)
        bound = self._promised or self._running
        # Where a stream is bound to a latency that leaves no room to shift the source, the voice is heard without.
        least = engine_latency(model, stream.setup.rate, stream.setup.block, not bound and needs_stage(model, numbers))
        if least > stream.setup.latency:
            if bound:
                raise ValueError(
                    f"voice {target.shown!r} needs a latency of {least} samples and the stream was prepared for "
                    f"{stream.setup.latency}: set it before prepare() or reset()"
                )
            return LoadedVoice(target, model, stream)
        # Also when another voice was loaded last: that may be taken, or not, before this one.
        self._last_loaded = model
        return LoadedVoice(target, model, stream, stream.engine(model, target.weights))

    def _take_voice(self, loaded: LoadedVoice) -> None:
        stream, newest = self._stream, self._newest
        fresh = stream is not None and not self._stale()
        if (loaded.stream is None and fresh) or loaded.stream not in (None, stream):
            raise RuntimeError("the voice was loaded for another stream: load it again")
        if loaded.stream is not None and fresh:
            if newest is not None and newest.model is loaded.model:
                newest.wanted_weights = loaded.target.weights
            elif loaded.engine is not None:
                self._newest = loaded.engine
                self._engines.append(loaded.engine)
            else:
                self._outdated = True
        self._target = loaded.target

    @property
    def errors(self) -> int:
        """Chunks that became silence because the model failed on them."""
        return self._faults.count

    @property
    def latency_samples(self) -> int:
        """Samples at the host's rate between input and output, constant in a stream.

        For what was prepared last, by `prepare` or by `process` (which prepares for any block size); before that, at the
        model's own rate, for any block size.
        """
        stream = self._stream
        if stream is not None and not self._stale():
            return stream.setup.latency
        model = self._target.pack.stream_model()
        rate = stream.setup.rate if stream else Fraction(model.sample_rate)
        return engine_latency(model, rate, None, needs_stage(model, self._numbers))

    @property
    def lookahead_samples(self) -> int:
        """The part of the latency that is the model's look-ahead, rounded up to samples at the host's rate."""
        model, stream = self._target.pack.stream_model(), self._stream
        return math.ceil(model.lookahead * stream.setup.rate / model.sample_rate) if stream else model.lookahead

    def check_number(self, name: str, number: float, loaded: LoadedVoice | None = None) -> None:
        """ValueError if `pitch_shift` or `formant_shift` would have to wait for the next stream, for lack of latency.

        `loaded` is a voice that `load_voice` made ready and that will be taken first.
        """
        target = self._target if loaded is None else loaded.target
        newest = self._newest if loaded is None or loaded.engine is None else loaded.engine
        if not number or name not in SHIFTS or newest is None or self._outdated or not (self._promised or self._running):
            return
        if not newest.serves({name: number}):
            raise ValueError(
                f"voice {target.shown!r} has no {name} of its own, and the stream was prepared without one: set it, or "
                f"steer_pitch, before prepare() or reset()"
            )

    def take_number(self, name: str, number: float) -> None:
        """Set a parameter that was checked before; fit for the audio thread. It has no effect where it has become impossible."""
        self._numbers[name] = number

    def _stale(self) -> bool:
        """Whether a new stream is made when audio comes: for another voice, or with or without the latency of a shift."""
        newest, bound = self._newest, self._promised or self._running
        return self._outdated or (not bound and newest is not None and newest.staged != needs_stage(newest.model, self._numbers))

    def prepare(
        self, sample_rate: float, block_size: int | None = None, channels: int = 1, *, steer_pitch: bool = False
    ) -> None:
        """Load the voice and start a new stream for `process_block`.

        It holds until `process` is called with another rate or channel count, or with `reset=False` after a `block_size`.

        Parameters
        ----------
        sample_rate : float
            8,000 to 192,000 Hz.
        block_size : int, optional
            Samples in every block, which makes the latency shorter than if blocks may have any size (None).
        channels : int
            1 to 8.
        steer_pitch : bool
            For voices that have no control of pitch or formants: let `pitch_shift` and `formant_shift` leave 0 later on, which
            costs 20 ms of latency. It is so anyway if they are not 0 now; else they wait for the next stream.
        """
        rate = exact_rate(number("sample_rate", sample_rate))
        if block_size is not None:
            block_size = positive("block_size", block_size)
            if block_size > LARGEST_BLOCK:
                raise ValueError(f"block_size must be at most {LARGEST_BLOCK} samples, got {block_size}")
        channels = positive("channels", channels)
        if channels > MOST_CHANNELS:
            raise ValueError(f"channels must be 1 to {MOST_CHANNELS}, got {channels}")
        with self._lock:
            self._prepare(rate, block_size, channels, steer_pitch)
            self._promised = True

    def prepared_for(self, sample_rate: float, block_size: int | None, channels: int) -> bool:
        """Whether `process_block` takes what `prepare` with these arguments makes ready for: `process` may have ended that."""
        with self._lock:
            setup = self._stream.setup if self._stream is not None and self._promised else None
        return setup is not None and (setup.rate, setup.block, setup.channels) == (exact_rate(sample_rate), block_size, channels)

    def release(self) -> None:
        """Let the latency be another one, once the stream under way has ended: what was prepared holds no longer."""
        with self._lock:
            self._promised = False

    def _prepare(self, rate: Fraction, block: int | None, channels: int, steer_pitch: bool = False) -> HostStream:
        with self._setting:
            model = self._target.pack.stream_model()
            capacity = CAPACITY if block is None else max(1, CAPACITY // block) * block
            staged = steer_pitch or needs_stage(model, self._numbers)
            setup = Setup(rate, block, channels, capacity, engine_latency(model, rate, block, staged))
            stream = HostStream(setup, self._stereo == "each", self._faults)
            self._engines.clear()
            self._newest = stream.engine(model, self._target.weights)
            stream.restart(self._newest, self._numbers, self._bypass)
            self._stream, self._outdated, self._last_loaded = stream, False, None
        self._promised = self._running = False
        return stream

    def reset(self) -> None:
        """Forget the stream and the channel layout; what was prepared stays prepared."""
        with self._lock:
            self._layout.forget()
            if self._stream is not None:
                self._restart(self._stream)

    def restart(self) -> int:
        """`reset` in the middle of a stream: what the model knows of the source in the long run stays.

        Returns
        -------
        int
            Samples until the output (late by `latency_samples` besides) sounds as if nothing had been forgotten.
        """
        with self._lock:
            stream = self._stream
            if stream is None:
                return 0
            self._restart(stream, keep_mean=True)
            return stream.warm_up_samples

    def _restart(self, stream: HostStream, *, keep_mean: bool = False) -> None:
        """From silence, with the voice and the parameters that are wanted now."""
        if self._stale():
            return  # a new stream is made when audio comes
        with self._setting:
            assert self._newest is not None, "there is one with every stream"
            self._engines.clear()
            stream.restart(self._newest, self._numbers, self._bypass, keep_mean=keep_mean)
        self._running = False

    def __call__(
        self,
        input_array: NDArray[np.floating],
        sample_rate: float,
        buffer_size: int = 8192,
        reset: bool = True,
    ) -> NDArray[np.float32]:
        """See `process`."""
        return self.process(input_array, sample_rate, buffer_size, reset)

    def process(
        self,
        input_array: NDArray[np.floating],
        sample_rate: float,
        buffer_size: int = 8192,
        reset: bool = True,
    ) -> NDArray[np.float32]:
        """Convert audio, as a Pedalboard plugin does.

        Parameters
        ----------
        input_array : float32 or float64 array, [n], [channels, n] or [n, channels]
            The axes are told apart as Pedalboard does. It is not changed.
        sample_rate : float
            8,000 to 192,000 Hz. Another rate or channel count than before starts a new stream.
        buffer_size : int
            At least 1. The output does not depend on it.
        reset : bool
            True: a recording on its own; the output is as long as the input and in time with it. False: the next piece of
            a stream; its first `latency_samples` of output are left out, so that the pieces put together are in time with
            the input, and `flush` gives the rest.

        Returns
        -------
        float32 array, new, with the axes of the input

        Raises
        ------
        TypeError
            If the input is no array of float32 or float64.
        ValueError
            If rate, buffer size or channel count are out of range.
        RuntimeError
            If a square array leaves open which axis is time.
        """
        check_audio(input_array)
        rate = exact_rate(number("sample_rate", sample_rate))
        positive("buffer_size", buffer_size)
        with self._lock:
            samples = self._layout.read(input_array)
            if samples.shape[0] > MOST_CHANNELS:
                self._layout.forget()
                raise ValueError(f"audio must have at most {MOST_CHANNELS} channels, got {samples.shape[0]}")
            return self._layout.restore(self._processed(samples, rate, reset))

    def _processed(self, samples: NDArray[np.floating], rate: Fraction, reset: bool) -> NDArray[np.float32]:
        """What `process` makes of checked audio [channels, n]: as many channels. Called under the lock."""
        channels, n = samples.shape
        goes_on, self._trimmed = self._running and self._trimmed, True
        if reset:
            self._running = False  # a stream ends here, and what it was bound to
        if samples.size == 0:
            if reset and self._stream is not None:
                self._restart(self._stream)
            return np.zeros(samples.shape, np.float32)
        stream = self._stream_for(rate, channels, any_block=not reset)
        latency = stream.setup.latency
        if reset:
            self._restart(stream)
            out = np.empty((channels, n), np.float32)
            self._feed(stream, samples, n + latency, latency, out)
        else:
            if not (goes_on and self._running):
                self._begun = stream.position  # after a whole signal or live blocks, what they left still sounds
            omit = min(n, self._owed(stream))
            out = np.empty((channels, n - omit), np.float32)
            stream.take(self._numbers, self._bypass, self._engines)
            self._running = True
            self._feed(stream, samples, n, omit, out)
        return out

    def _owed(self, stream: HostStream) -> int:
        """Samples that the pieces of `process` are still to leave out."""
        return max(0, stream.setup.latency - (stream.position - self._begun))

    def _stream_for(self, rate: Fraction, channels: int, any_block: bool) -> HostStream:
        """The stream there is, if it serves, else a new one."""
        stream = self._stream
        if stream is not None and not self._stale():
            setup = stream.setup
            if (setup.rate, setup.channels) == (rate, channels) and not (any_block and setup.block is not None):
                return stream
        return self._prepare(rate, None, channels)

    def _feed(
        self, stream: HostStream, samples: NDArray[np.floating], count: int, omit: int, out: NDArray[np.float32]
    ) -> None:
        """Feed `count` samples, silence after the end of `samples`; write the output after the first `omit` to `out`."""
        setup = stream.setup
        if setup.block is not None:
            count = -(-count // setup.block) * setup.block
        size = min(setup.capacity, count)
        padded: NDArray[np.floating] = np.zeros((setup.channels, size), samples.dtype)
        given = np.empty((setup.channels, size), np.float32)
        for start in range(0, count, setup.capacity):
            stop = min(start + setup.capacity, count)
            block = samples[:, start:stop]
            if block.shape[1] < stop - start:
                padded[:, : block.shape[1]] = block
                padded[:, block.shape[1] :] = 0.0
                block = padded[:, : stop - start]
            self._advance(stream, block, given[:, : stop - start])
            first, last = max(start, omit), min(stop, omit + out.shape[1])
            if first < last:
                out[:, first - omit : last - omit] = given[:, first - start : last - start]

    def _advance(self, stream: HostStream, block: NDArray[np.floating], out: NDArray[np.float32]) -> None:
        try:
            stream.advance(block, out)
        except BaseException:
            self._restart(stream)  # broken off, as by Ctrl-C, between what was heard and what is remembered
            raise

    def flush(self) -> NDArray[np.float32]:
        """End the stream and return what it still owes: the output for the last `latency_samples` of input.

        After `process(..., reset=False)` that makes the output as long as the input. Afterwards a new stream starts.

        Returns
        -------
        float32 array
            With the axes of the last input; without samples when there is no stream under way.
        """
        with self._lock:
            stream = self._stream
            channels = stream.setup.channels if stream else 1
            out = np.empty((channels, 0), np.float32)
            if stream is not None and self._running:
                latency = stream.setup.latency
                omit = self._owed(stream) if self._trimmed else 0
                out = np.empty((channels, latency - omit), np.float32)
                self._feed(stream, np.empty((channels, 0), np.float32), latency, omit, out)
                self._restart(stream)
            if self._trimmed:
                return self._layout.restore(out)
            return out[0] if self._flat else out

    def process_block(
        self, x: NDArray[np.floating], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Convert the next block of a live stream: as many samples out as in, `latency_samples` late.

        Allocates no memory for audio when `out` is given, as an array of its own or as `x`.

        Parameters
        ----------
        x : float32 or float64 array, [channels, n], or [n] for one channel
            Any n, if `prepare` was called without a block size, else a multiple of that.
        out : float32 array of the shape of x, optional
            Written and returned; it may be `x` itself, or lie anywhere over it, for which a copy is made. A new array by default.

        Raises
        ------
        RuntimeError
            If `prepare` was not called.
        ValueError, TypeError
            If shapes, sizes or types are others than prepared for.
        """
        with self._lock:
            stream = self._stream
            if stream is None or not self._promised:
                raise RuntimeError("process_block needs prepare(sample_rate, block_size, channels) first")
            setup = stream.setup
            check_block(x, out, setup.channels, setup.block)
            n = x.shape[-1]
            if out is None:
                out = np.empty(x.shape, np.float32)
            self._flat = x.ndim == 1
            self._running, self._trimmed = True, False
            x = apart_from(out, x)
            block, given = (x[None, :], out[None, :]) if self._flat else (x, out)
            stream.take(self._numbers, self._bypass, self._engines)
            for start in range(0, n, setup.capacity):
                part = slice(start, start + setup.capacity)
                self._advance(stream, block[:, part], given[:, part])
            return out

    def __repr__(self) -> str:
        settings = " ".join(f"{name}={getattr(self, name)!r}" for name in PARAMETERS)
        return f"<plugin_bridge.VoiceConverter {settings}{self._kind} at {id(self):#x}>"
