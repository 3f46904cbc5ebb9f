"""A list of processors that sounds, and is called, like one effect."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, MutableSequence
from typing import Literal, SupportsIndex, TypeAlias, cast, overload

import numpy as np
import pedalboard
from numpy.typing import NDArray

from dsp.layout import ChannelLayout
from plugin_bridge.chain import Audio, Nodes, Processor, Series, Shape, Stream, build, is_processor, shape_of, silence
from plugin_bridge.effect import AudioEffect
from plugin_bridge.protocol import check_audio, check_block, normal, positive, rate

Plugin: TypeAlias = "pedalboard.Plugin | Processor"


class Board(AudioEffect, MutableSequence["Plugin | None"]):
    """Runs `VoiceConverter`s, pedalboard plugins and other boards one after the other.

    It is used as `pedalboard.Pedalboard`, which takes none but native plugins, is: a list that can be called. Native
    `Pedalboard`s, `Chain`s and `Mix`es may stand in it; None is passed over. The plugins in the list are the ones given, so
    that their parameters can be turned at any time.

    Native plugins keep their sound however the audio is cut into blocks, and the latency of each (measured when a stream
    begins) is compensated. `pedalboard.PitchShift` is an exception: in streams, up to pedalboard 0.9.26, it gives nothing
    but silence, more than a second late. For whole signals (`reset=True`) it works; live, use
    `VoiceConverter.pitch_shift`.

    Any thread may call anything; calls that process audio wait for each other. The list may change meanwhile: the next
    call hears the change, and the plugins that stay keep their sound.

    Parameters
    ----------
    plugins : iterable, optional

    Raises
    ------
    TypeError
        For anything else in the list.
    ValueError
        For an instrument.

    Examples
    --------
    >>> board = Board([pedalboard.Compressor(), VoiceConverter("pjs"), pedalboard.Reverb()])
    >>> wet = board(dry, 44100)
    """

    def __init__(self, plugins: Iterable[Plugin | None] | None = None) -> None:
        self._lock = threading.RLock()
        self._layout = ChannelLayout()
        self._plugins: list[Plugin | None] = []
        self._prepared: Stream | None = None  # for process_block
        # The chain as it was last arranged, for `_stream`, and how it runs.
        self._stream: Stream | None = None
        self._shape: Shape = ()
        self._nodes: Nodes = {}
        self._chain = Series([])
        self._running: Literal["no", "live", "aligned"] = "no"
        self._omitted = 0  # samples of an aligned stream so far
        self._flat = True  # the last live block was [n]
        self.extend([] if plugins is None else plugins)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Plugin | None: ...
    @overload
    def __getitem__(self, index: slice) -> list[Plugin | None]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Plugin | list[Plugin | None] | None:
        return self._plugins[index]

    def __setitem__(self, index: SupportsIndex | slice, value: Plugin | Iterable[Plugin | None] | None) -> None:
        if isinstance(index, slice):
            plugins = list(cast("Iterable[Plugin | None]", value))
            self._admit(plugins)
            self._plugins[index] = plugins
        else:
            self._admit([cast("Plugin | None", value)])
            self._plugins[index] = cast("Plugin | None", value)

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        del self._plugins[index]

    def __len__(self) -> int:
        return len(self._plugins)

    def __iter__(self) -> Iterator[Plugin | None]:
        """Over the list as it is now: changes meanwhile, in any thread, neither skip nor repeat a plugin."""
        return iter(self._plugins.copy())

    def insert(self, index: int, value: Plugin | None) -> None:
        """Put a plugin before `index`, as `list.insert` does."""
        self._admit([value])
        self._plugins.insert(index, value)

    def remove(self, value: Plugin | None) -> None:
        """Take the plugin out; ValueError if it is not there."""
        self._plugins.remove(value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with {len(self)} plugin{'' if len(self) == 1 else 's'}: {self._plugins}>"

    def _admit(self, plugins: list[Plugin | None]) -> None:
        """Refuse what cannot be in the list. What is new becomes ready here, not in the thread that processes."""
        for plugin in plugins:
            if plugin is None:
                continue
            if not (isinstance(plugin, pedalboard.Plugin) or is_processor(plugin)):
                raise TypeError(f"a Board takes pedalboard plugins, VoiceConverters and Boards, got {plugin!r}")
            if getattr(plugin, "is_instrument", False):
                raise ValueError(f"a Board takes effects, got an instrument, {plugin!r}")
        stream, nodes = self._stream, self._nodes  # another thread may begin another stream meanwhile
        if stream is not None:
            with contextlib.suppress(RuntimeError):  # pedalboard, too, says it when the list is processed
                self._build(shape_of(plugins, {}), stream, nodes, nodes)

    @property
    def latency_samples(self) -> int:
        """Samples by which the output of `process_block` is late, at the host's rate.

        Native plugins count as 0 before the first stream or signal: how they behave depends on its rate.
        """
        with self._lock:
            if self._stream is None:
                return sum(plugin.latency_samples for plugin in self if is_processor(plugin))
            return self._arrange(self._stream).latency

    @property
    def lookahead_samples(self) -> int:
        """The part of `latency_samples` that is the models' own."""
        with self._lock:
            if self._stream is None:
                return sum(plugin.lookahead_samples for plugin in self if is_processor(plugin))
            return self._arrange(self._stream).lookahead

    def prepare(self, sample_rate: float, block_size: int | None = None, channels: int = 1) -> None:
        """Make ready for `process_block`, from silence, and measure the latency.

        Costs some ms for each native plugin with latency.

        Parameters
        ----------
        sample_rate : float
            Hz.
        block_size : int or None
            Samples in every block; None for blocks of any size, with more latency.
        channels : int
        """
        block_size = None if block_size is None else positive("block_size", block_size)
        stream = Stream(rate(sample_rate), positive("channels", channels), block_size)
        with self._lock:
            self._stream = None
            chain = self._arrange(stream)
            self._prepared = stream
            self._begin(chain, "live")

    def prepared_for(self, sample_rate: float, block_size: int | None, channels: int) -> bool:
        """Whether `process_block` takes what `prepare` with these arguments makes ready for."""
        return self._prepared == Stream(sample_rate, channels, block_size)

    def release(self) -> None:
        """Let latencies be others, once the stream under way has ended: what was prepared holds no longer."""
        with self._lock:
            self._chain.release()

    def process_block(self, x: NDArray[np.floating], out: Audio | None = None) -> Audio:
        """Process the next block of a live stream; the first `latency_samples` of a stream are silence.

        Parameters
        ----------
        x : ndarray
            [channels, n], or [n] for one channel; n as prepared, or a multiple of that.
        out : float32 ndarray, optional
            Where to write instead of a new array.

        Returns
        -------
        ndarray
            Of x's shape.

        Raises
        ------
        RuntimeError
            Before `prepare`.
        ValueError
            For another shape than prepared.
        TypeError
            For anything but float32 or float64.
        """
        with self._lock:
            stream = self._prepared
            if stream is None:
                raise RuntimeError("process_block needs prepare(sample_rate, block_size, channels) first")
            check_block(x, out, stream.channels, stream.block_size)
            chain = self._arrange(stream)
            if self._running != "live":
                self._begin(chain, "live")
            self._flat = x.ndim == 1
            y = normal(self._step(chain, _clean(np.atleast_2d(x)))).reshape(x.shape)
        if out is None:
            return y
        out[...] = y
        return out

    def process(
        self, input_array: NDArray[np.floating], sample_rate: float, buffer_size: int = 8192, reset: bool = True
    ) -> Audio:
        """Process audio as `pedalboard.Pedalboard.process` does.

        Parameters
        ----------
        input_array : ndarray
            [n], [channels, n] or [n, channels], float32 or float64.
        sample_rate : float
            Hz.
        buffer_size : int
            Most samples that a native plugin gets at once.
        reset : bool
            True: a whole signal; the output is as long and in time. False: the next piece of a stream; the stream's first
            `latency_samples` are omitted, so that what is returned, joined, is in time, and `flush` returns the rest.

        Returns
        -------
        float32 ndarray
            New, with the axes of the input.
        """
        check_audio(input_array)
        hertz, size = rate(sample_rate), positive("buffer_size", buffer_size)
        with self._lock:
            samples = self._layout.read(input_array)
            if samples.size == 0:
                if reset:
                    self._end(self._chain)  # as with any other whole signal
                return np.zeros(input_array.shape, np.float32)
            x = _clean(samples)
            chain = self._arrange(Stream(hertz, x.shape[0], None))
            if reset:
                self._end(chain)
                # What looks ahead hears, after the end, the plugins before it ring on, as it does in a stream.
                end = silence(x.shape[0], chain.latency)
                y = chain.render(np.concatenate([x, end], axis=1), size)[:, : x.shape[1]]
            else:
                if self._running != "aligned":
                    self._begin(chain, "aligned")
                y = self._step(chain, x)
                omit = min(max(chain.latency - self._omitted, 0), y.shape[1])
                self._omitted += omit
                y = y[:, omit:]
            return self._layout.restore(normal(y))

    __call__ = process

    def flush(self) -> Audio:
        """End the stream and return the at most `latency_samples` that it still owes, with the axes of the last input.

        The next stream begins from silence.
        """
        with self._lock:
            stream = self._stream
            if stream is None or self._running == "no":
                return self._layout.restore(silence(1 if stream is None else stream.channels, 0))
            chain = self._arrange(stream)
            latency = chain.latency
            size = stream.block_size or max(latency, 1)
            ends = [silence(stream.channels, 0)]
            ends += [self._step(chain, silence(stream.channels, size)) for _ in range(-(-latency // size))]
            end = normal(np.concatenate(ends, axis=1)[:, :latency])
            live = self._running == "live"
            chain.clear()
            self._end(chain)
            if not live:
                return self._layout.restore(end[:, latency - min(latency, self._omitted) :])
            return end[0] if self._flat else end

    def reset(self) -> None:
        """Silence every plugin, and forget what earlier arrays looked like."""
        with self._lock:
            self._layout.forget()
            if self._stream is not None:
                chain = self._arrange(self._stream)
                chain.clear()
                self._end(chain)
            else:
                for plugin in self:
                    if plugin is not None:
                        plugin.reset()

    def _arrange(self, stream: Stream) -> Series:
        """The chain of the plugins now in the list; those that were in it before go on where they were."""
        shape = shape_of(self._plugins, {id(self): self})
        if stream == self._stream and shape == self._shape:
            return self._chain
        before = self._nodes if stream == self._stream else {}
        if stream != self._stream:
            self._running = "no"
        now: Nodes = {}
        self._stream = None  # if a plugin refuses the stream, those before it are prepared for it already
        self._chain = self._build(shape, stream, before, now)
        self._nodes, self._shape, self._stream = now, shape, stream
        return self._chain

    def _build(self, shape: Shape, stream: Stream, before: Nodes, now: Nodes) -> Series:
        return build(shape, stream, before, now, bind=self._running != "no" or stream.block_size is not None)

    def _step(self, chain: Series, x: Audio) -> Audio:
        try:
            return chain.step(x)
        except BaseException:
            self._end(chain)  # broken off, as by Ctrl-C, with samples in some plugins and not in others
            raise

    def _end(self, chain: Series) -> None:
        """The stream is over. What was prepared by `process`, and not by whoever asked for it, binds nobody any more."""
        if self._running == "aligned":
            chain.release()
        self._running = "no"

    def _begin(self, chain: Series, how: Literal["live", "aligned"]) -> None:
        chain.restart(0)
        self._running = how
        self._omitted = 0


def _clean(samples: NDArray[np.floating]) -> Audio:
    return normal(np.ascontiguousarray(samples, np.float32))
