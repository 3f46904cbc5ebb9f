"""Plugins as a stream: n samples in, n samples out, with exactly known latency. `Board` is made of these."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeGuard

import numpy as np
import pedalboard
from numpy.typing import NDArray

from plugin_bridge.effect import AudioEffect

Audio: TypeAlias = NDArray[np.float32]

# A native plugin forgets its sound when a block is longer than every block before, so each one is shown a block of this
# many samples first and then never a longer one. Longer than live blocks are, and short enough for Convolution, whose
# work for each call grows with the longest block.
_LARGEST_BLOCK = 1024

# Native plugins with latency give other (some of them wrong) samples for each way to cut the same audio into blocks, so
# they get blocks of one length: the host's own if it is constant, else this. Shorter costs calls, longer costs latency.
_GRAIN = 64

# A plugin that gives nothing for so long is taken to give nothing ever. PitchShift, the slowest, holds back 1.1 s.
_LONGEST_LATENCY_SECONDS = 30.0


class Processor(Protocol):
    """What a `Board` asks of a processor that is not one of pedalboard's plugins: see `VoiceConverter`."""

    @property
    def latency_samples(self) -> int: ...
    @property
    def lookahead_samples(self) -> int: ...
    def prepare(self, sample_rate: float, block_size: int | None = None, channels: int = 1) -> None: ...
    def process(self, input_array: Audio, sample_rate: float, buffer_size: int = 8192, reset: bool = True) -> Audio: ...
    def process_block(self, x: Audio, out: Audio | None = None) -> Audio: ...
    def reset(self) -> None: ...


def is_processor(plugin: object) -> TypeGuard[Processor]:
    """Whether a plugin follows `Processor`. Its class is looked at alone: to read a property of it may take long."""
    names = ("latency_samples", "lookahead_samples", "prepare", "process", "process_block", "reset")
    return all(hasattr(type(plugin), name) for name in names)


@dataclass(frozen=True)
class Stream:
    """What is constant while a stream runs. `block_size` None: every block may have another length."""

    sample_rate: float
    channels: int
    block_size: int | None

    @property
    def largest(self) -> int:
        """Length of the longest block that a native plugin gets."""
        return max(self.block_size or _LARGEST_BLOCK, self.channels + 1)

    @property
    def grain(self) -> int:
        """Length of the blocks that a native plugin with latency gets.

        More than the channels: such plugins forget which axis of a shorter array is time.
        """
        if self.block_size is not None and self.block_size > self.channels:
            return self.block_size
        return max(_GRAIN, self.channels + 1)

    @property
    def wait_for_grain(self) -> int:
        """Least delay with which a full grain is always there in time."""
        return self.grain - math.gcd(self.block_size or 1, self.grain)


def silence(channels: int, samples: int) -> Audio:
    """[channels, samples]."""
    return np.zeros((channels, samples), np.float32)


class _Queue:
    """Samples that wait for their turn."""

    def __init__(self, channels: int, initial_silence: int = 0) -> None:
        self._channels = channels
        self._blocks: deque[Audio] = deque()
        self._length = 0
        self.push(silence(channels, initial_silence))

    def __len__(self) -> int:
        return self._length

    def push(self, samples: Audio) -> None:
        """Take samples [channels, n], which must not change from now on."""
        if samples.shape[1]:
            self._blocks.append(samples)
            self._length += samples.shape[1]

    def pop(self, samples: int) -> Audio:
        """[channels, samples]; at most `len(self)`."""
        out = np.empty((self._channels, samples), np.float32)
        filled = 0
        while filled < samples:
            block = self._blocks[0]
            take = min(block.shape[1], samples - filled)
            out[:, filled : filled + take] = block[:, :take]
            filled += take
            if take == block.shape[1]:
                self._blocks.popleft()
            else:
                self._blocks[0] = block[:, take:]
        self._length -= samples
        return out


class Leaf:
    """One plugin of a stream; made for that stream, silent, and driven from one thread at a time."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._lead = 0

    @property
    def latency(self) -> int:
        """Samples by which `step` delays."""
        raise NotImplementedError

    @property
    def lookahead(self) -> int:
        """The part of `latency` that is a model's look-ahead."""
        raise NotImplementedError

    def bind(self) -> None:
        """Make ready for the stream, which is under way, if that is not done yet."""

    def restart(self, lead: int) -> None:
        """Begin a stream whose first `lead` samples are the silence with which the plugins before this one begin.

        The plugin is not played them where that is possible, so that, as offline, it starts with the first sample of the
        audio (a Chorus is then at the same point of its cycle).
        """
        raise NotImplementedError

    def clear(self) -> None:
        """Silence the plugin."""
        raise NotImplementedError

    def release(self) -> None:
        """Undo `bind`: the stream has ended."""

    def _run(self, x: Audio) -> Audio:
        raise NotImplementedError

    def _render(self, x: Audio, buffer_size: int) -> Audio:
        raise NotImplementedError

    def step(self, x: Audio) -> Audio:
        """Next [channels, n] of the stream to [channels, n]."""
        skip = min(self._lead, x.shape[1])
        if not skip:
            return self._run(x) if x.shape[1] else x
        self._lead -= skip
        y = silence(*x.shape)
        if skip < x.shape[1]:
            y[:, skip:] = self._run(np.ascontiguousarray(x[:, skip:]))
        return y

    def render(self, x: Audio, buffer_size: int) -> Audio:
        """A whole signal, from silence, in time: [channels, n] to [channels, n]."""
        channels, n = x.shape
        if n > channels:
            return self._render(x, buffer_size)
        # Pedalboard's protocol takes the shorter axis for the channels.
        return self._render(np.concatenate([x, silence(channels, channels + 1 - n)], axis=1), buffer_size)[:, :n]


class Native(Leaf):
    """One of pedalboard's plugins, freed of what makes them hard to stream: see `_LARGEST_BLOCK` and `_GRAIN`.

    It has no latency to ask for; with `reset=False` it returns fewer samples than it gets instead. How many it keeps back
    is measured here.
    """

    def __init__(self, plugin: pedalboard.Plugin, stream: Stream) -> None:
        super().__init__(stream)
        self._plugin = plugin
        self._measure()
        self.restart(0)

    def _measure(self) -> None:
        self.clear()
        returned = self._feed(silence(self._stream.channels, self._stream.largest)).shape[1]
        self.clear()
        late = returned < self._stream.largest
        self._latency = self._withheld() + self._stream.wait_for_grain if late else 0

    def _withheld(self) -> int:
        """Samples that the plugin keeps back when it gets grain after grain.

        A call never returns more than it gets, so that this number can only grow. For every native plugin with latency
        it has come to its end within a second of output.
        """
        grain = silence(self._stream.channels, self._stream.grain)
        rate = self._stream.sample_rate
        fed = got = 0
        while got < rate:
            got += self._feed(grain).shape[1]
            fed += grain.shape[1]
            if not got and fed > _LONGEST_LATENCY_SECONDS * rate:
                raise RuntimeError(
                    f"{self._plugin!r} returned no audio for {_LONGEST_LATENCY_SECONDS:g} s: its latency is not known"
                )
        self.clear()
        return fed - got

    @property
    def latency(self) -> int:
        return self._latency

    @property
    def lookahead(self) -> int:
        return 0

    def restart(self, lead: int) -> None:
        # Grains that are the host's blocks must start where those do.
        self._lead = lead if self._stream.block_size is None or not self._latency else 0
        self._waiting = _Queue(self._stream.channels)
        self._done = _Queue(self._stream.channels, self._latency)
        if self._latency:
            self.clear()

    def clear(self) -> None:
        # Not by the plugin's own reset(): another thread's call of the same plugin would not wait for it, and it forgets
        # the longest block. Nothing less than that block prepares a plugin well (Convolution crashes if the first is
        # empty), and an empty one afterwards leaves an oscillator at its start.
        for samples in (self._stream.largest, 0):
            x = silence(self._stream.channels, samples)
            self._plugin.process(x, self._stream.sample_rate, self._stream.largest, True)

    def _feed(self, x: Audio) -> Audio:
        return self._plugin.process(x, self._stream.sample_rate, self._stream.largest, False)

    def _take(self, x: Audio) -> None:
        if not self._latency:
            self._done.push(self._feed(x))
            return
        self._waiting.push(x.copy())
        while len(self._waiting) >= self._stream.grain:
            self._done.push(self._feed(self._waiting.pop(self._stream.grain)))

    def _run(self, x: Audio) -> Audio:
        n = x.shape[1]
        self._take(x)
        if n - len(self._done) > self._stream.grain // 2:
            # A parameter that was turned changed the latency, and the plugin began anew.
            self._measure()
            self.restart(0)
            self._take(x)
        missing = n - len(self._done)
        if missing > 0:
            # A resampler between odd rates may keep back one sample more after a long time.
            self._done.push(silence(x.shape[0], missing))
            self._latency += missing
        return self._done.pop(n)

    def _render(self, x: Audio, buffer_size: int) -> Audio:
        return self._plugin.process(x, self._stream.sample_rate, min(buffer_size, x.shape[1]), True)


class Own(Leaf):
    """A `VoiceConverter`, a `Board`, or whatever else follows `Processor`."""

    def __init__(self, plugin: Processor, stream: Stream, bind: bool) -> None:
        super().__init__(stream)
        self._plugin = plugin
        self._prepared = False
        self._silent = True
        if bind:
            self.bind()
        else:
            # Next to nothing, as a whole signal: refuses a rate that is not for it, and makes `latency_samples` the one at
            # this rate. Unlike `prepare` it does not bind the converter to that latency, so that any voice may follow.
            self._render(silence(stream.channels, stream.channels + 1), 1)

    def bind(self) -> None:
        if not self._prepared:
            self._plugin.prepare(self._stream.sample_rate, self._stream.block_size, self._stream.channels)
            self._prepared = self._silent = True

    @property
    def latency(self) -> int:
        return self._plugin.latency_samples

    @property
    def lookahead(self) -> int:
        return self._plugin.lookahead_samples

    def restart(self, lead: int) -> None:
        # A block of constant length must come whole.
        self._lead = lead if self._stream.block_size is None else 0
        stream = self._stream
        if isinstance(self._plugin, AudioEffect) and not self._plugin.prepared_for(
            stream.sample_rate, stream.block_size, stream.channels
        ):
            self._prepared = False  # since the last stream it was called by itself, or in another board
        self.bind()
        if not self._silent:
            self.clear()

    def clear(self) -> None:
        self._plugin.reset()
        self._silent = True

    def release(self) -> None:
        if isinstance(self._plugin, AudioEffect):
            self._plugin.release()

    def _run(self, x: Audio) -> Audio:
        self._silent = False
        return self._plugin.process_block(x)

    def _render(self, x: Audio, buffer_size: int) -> Audio:
        self._silent = False
        return self._plugin.process(x, self._stream.sample_rate, buffer_size, True)


class Series:
    """Nodes one after the other."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes

    @property
    def latency(self) -> int:
        return sum(node.latency for node in self._nodes)

    @property
    def lookahead(self) -> int:
        return sum(node.lookahead for node in self._nodes)

    def restart(self, lead: int) -> None:
        for node in self._nodes:
            node.restart(lead)
            lead += node.latency

    def clear(self) -> None:
        for node in self._nodes:
            node.clear()

    def release(self) -> None:
        for node in self._nodes:
            node.release()

    def step(self, x: Audio) -> Audio:
        for node in self._nodes:
            x = node.step(x)
        return x

    def render(self, x: Audio, buffer_size: int) -> Audio:
        for node in self._nodes:
            x = node.render(x, buffer_size)
        return x


class Parallel:
    """The sum of branches, each delayed to the slowest one's latency: a `pedalboard.Mix`.

    The native Mix drops, at every call, what its faster branches keep for the slower ones, so that a stream through it is
    out of time; and it crashes when something was appended to it.
    """

    def __init__(self, branches: list[Series], channels: int) -> None:
        self._branches = branches
        self._channels = channels
        self._forget()

    def _forget(self) -> None:
        self._delays = [0] * len(self._branches)
        self._queues = [_Queue(self._channels) for _ in self._branches]

    @property
    def latency(self) -> int:
        return max((branch.latency for branch in self._branches), default=0)

    @property
    def lookahead(self) -> int:
        return max((branch.lookahead for branch in self._branches), default=0)

    def restart(self, lead: int) -> None:
        for branch in self._branches:
            branch.restart(lead)
        self._forget()

    def clear(self) -> None:
        for branch in self._branches:
            branch.clear()

    def release(self) -> None:
        for branch in self._branches:
            branch.release()

    def step(self, x: Audio) -> Audio:
        outputs = [branch.step(x) for branch in self._branches]
        total = silence(*x.shape)
        for i, y in enumerate(outputs):
            early = self.latency - self._branches[i].latency - self._delays[i]
            if early > 0:
                self._queues[i].push(silence(self._channels, early))
                self._delays[i] += early
            if self._delays[i]:
                self._queues[i].push(y.copy())
                y = self._queues[i].pop(x.shape[1])
            total += y
        return total

    def render(self, x: Audio, buffer_size: int) -> Audio:
        total = silence(*x.shape)
        for branch in self._branches:
            total += branch.render(x, buffer_size)
        return total


Node: TypeAlias = Leaf | Series | Parallel

# Plugins as a list held them at some moment: a plugin, None, or (Chain or Mix, what it held). It also keeps the Python
# objects of plugins inside native containers alive: pedalboard would else make new ones, unlike the old, at each look.
Shape: TypeAlias = tuple[object, ...]

Nodes: TypeAlias = dict[object, Node]


def shape_of(plugins: Iterable[object], seen: dict[int, object]) -> Shape:
    """The shape of a list of plugins.

    Raises
    ------
    RuntimeError
        If a plugin is there twice at any depth, or inside itself (pedalboard's sentence); `seen` has those so far by their ids,
        and keeps them alive: another one could get the id of an object that pedalboard made for this look alone.
    """
    shape: list[object] = []
    for plugin in tuple(plugins):  # at once: other threads may change the list
        if plugin is None:
            shape.append(None)
            continue
        if id(plugin) in seen:
            raise RuntimeError(
                "The same plugin instance is being used multiple times in the same chain of plugins, which would cause "
                "undefined results. Please ensure that no duplicate plugins are present before calling."
            )
        seen[id(plugin)] = plugin
        if isinstance(plugin, (pedalboard.Chain, pedalboard.Mix)):
            shape.append((plugin, shape_of(plugin, seen)))
            continue
        if not isinstance(plugin, pedalboard.Plugin) and isinstance(plugin, Iterable):
            shape_of(plugin, seen)  # a Board's own list is its own affair, but must not share plugins with this one
        shape.append(plugin)
    return tuple(shape)


def build(shape: Shape, stream: Stream, before: Nodes, now: Nodes, bind: bool) -> Series:
    """The chain for a shape. Nodes found in `before` go on where they were; all that the chain has come into `now`.

    `bind` prepares processors of ours for this stream, the new ones and those that were built before it began; else they wait
    for `restart`, and are free as long as they get whole signals only.
    """
    nodes: list[Node] = []
    for part in shape:
        if part is None:
            continue
        if isinstance(part, tuple):
            container, inside = part
            if isinstance(container, pedalboard.Mix):
                branches = [build((branch,), stream, before, now, bind) for branch in inside]
                now[part] = before[part] if part in before else Parallel(branches, stream.channels)
                nodes.append(now[part])
            else:
                nodes.append(build(inside, stream, before, now, bind))
            continue
        key = id(part)  # `before` and `now` hold the plugin, so that no other gets its id
        known = before.get(key)
        if isinstance(known, Leaf):
            now[key] = known
            if bind:
                known.bind()
        elif isinstance(part, pedalboard.Plugin):
            now[key] = Native(part, stream)
        else:
            assert is_processor(part)
            now[key] = Own(part, stream, bind)
        nodes.append(now[key])
    return Series(nodes)
