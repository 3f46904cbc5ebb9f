"""What a live voice goes through: effects, the converter, effects; steered by gestures that land on known samples."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dsp.smoothing import RAMP_SECONDS, Ramp, scale
from plugin_bridge.board import Board
from plugin_bridge.converter import LoadedVoice, Voice, VoiceConverter
from plugin_bridge.engine import SHIFTS
from plugin_bridge.parameters import PARAMETERS
from plugin_bridge.preset import PLAIN_CHAIN, Effect, split_chain

CAPACITY = 4096  # samples worked on at once; larger blocks are cut
GLIDE_STEP = 256  # samples between two values of a glide; the converter's own ramp of 30 ms makes a line of them
PANIC_SECONDS = 0.005  # as fast as a sung vowel can end without a click
LONGEST_RAMP_MS = 10_000.0
LONGEST_LOG = 10_000  # changes that are kept for a recorder that does not come for them

# Changes by name: a parameter's, or "chain" (as in a preset), "ramp_ms", "panic".
Change: TypeAlias = "float | bool | Voice | tuple[Effect, ...]"
Changes: TypeAlias = "Mapping[str, Change]"


@dataclass(frozen=True)
class Gesture:
    """Changes that happen together, and what was made ready for them."""

    changes: Changes
    voice: LoadedVoice | None = None
    before: _Chain | None = None
    after: _Chain | None = None

    def then(self, later: Gesture) -> Gesture:
        """Both at once; of changes of the same thing the later one."""
        return Gesture(
            {**self.changes, **later.changes},
            later.voice or self.voice,
            later.before or self.before,
            later.after or self.after,
        )


class Mailbox:
    """Gestures on their way to the audio thread, which never waits: they become one until it takes them."""

    def __init__(self) -> None:
        self._slot: deque[Gesture] = deque(maxlen=1)
        self._posting = threading.Lock()

    def post(self, gesture: Gesture) -> None:
        """From any thread."""
        with self._posting:
            waiting = self.take()
            self._slot.append(gesture if waiting is None else waiting.then(gesture))

    def __len__(self) -> int:
        """1 while a gesture waits."""
        with self._posting:
            return len(self._slot)

    def take(self) -> Gesture | None:
        """From the audio thread."""
        try:
            return self._slot.pop()
        except IndexError:
            return None


@dataclass(frozen=True)
class _Chain:
    """Effects that are ready to run; `board` is None where there are none."""

    effects: tuple[Effect, ...]
    board: Board | None


class _Section:
    """Effects before or after the converter, which change with a fade."""

    def __init__(self, channels: int, sample_rate: float, capacity: int) -> None:
        self._channels, self._sample_rate, self._capacity = channels, sample_rate, capacity
        self._chain = _Chain((), None)
        self._next: _Chain | None = None
        self._waiting: _Chain | None = None
        self._share = Ramp(round(RAMP_SECONDS * sample_rate), 1.0)
        self._gain = np.empty(capacity, np.float32)
        self._other = np.empty((channels, capacity), np.float32)
        self._count = np.arange(capacity, dtype=np.float32)

    def load(self, effects: Sequence[Effect]) -> _Chain:
        """Effects ready to run, from any thread."""
        if not effects:
            return _Chain((), None)
        board = Board([effect.build(self._sample_rate) for effect in effects])
        board.prepare(self._sample_rate, None, self._channels)
        # The plugins reserve their memory in the first call: not in the audio thread.
        board.process_block(np.zeros((self._channels, self._capacity), np.float32))
        board.reset()
        return _Chain(tuple(effects), board)

    def take(self, chain: _Chain, position: int) -> None:
        """Change to these effects from `position` on; at once if nothing was heard yet."""
        if position == 0:
            self._chain, self._next, self._waiting = chain, None, None
        elif self._next is not None:
            self._waiting = chain
        elif chain.effects != self._chain.effects:
            self._next = chain
            self._share.snap(0.0)
            self._share.aim(1.0, position)

    def reset(self) -> None:
        for chain in (self._chain, self._next):
            if chain is not None and chain.board is not None:
                chain.board.reset()

    def run(self, x: NDArray[np.float32], position: int) -> None:
        """Process [channels, n] in place."""
        if self._next is None:
            _process(self._chain, x)
            return
        n = x.shape[1]
        gain, other = self._gain[:n], self._other[:, :n]
        other[:] = x
        _process(self._chain, x)
        _process(self._next, other)
        # The two differ by effects alone, so that they add up in amplitude.
        self._share.fill(position, self._count, gain)
        scale(other, gain)
        np.subtract(1.0, gain, out=gain)
        scale(x, gain)
        x += other
        if self._share.stays(1.0, position + n):
            self._chain, self._next = self._next, None
            if self._waiting is not None:
                waiting, self._waiting = self._waiting, None
                self.take(waiting, position + n)


def _process(chain: _Chain, x: NDArray[np.float32]) -> None:
    if chain.board is not None:
        chain.board.process_block(x, x)


@dataclass
class _Glide:
    """A number on its way."""

    start: float
    target: float
    origin: int
    length: int

    def at(self, position: int) -> float:
        done = (position - self.origin) / self.length
        return self.target if done >= 1 else self.start + done * (self.target - self.start)


@dataclass
class SignalPath:
    """Runs one voice through effects, a `VoiceConverter` and effects, block by block.

    `process` and `skip` belong to the audio thread; once running they wait for nothing, and allocate no arrays but those
    that native plugins return. `ready` and `post` belong to one other thread.

    Every change is applied at the start of a block and put, with its position, into `log`: given the same input and the
    same changes at the same positions, the output is the same, bit for bit.

    Parameters
    ----------
    sample_rate : float
        Hz.
    block_size : int or None
        Samples in every block; None for blocks of any size, with more latency.
    channels : int
        Of the output, and of the effects after the converter.
    inputs : int
        Channels of the source and the converter: as many as `channels`, or 1.
    chain : tuple of Effect
        As in a preset: the effects, and the converter in its place.
    steer_pitch : bool
        As for `VoiceConverter.prepare`.

    Attributes
    ----------
    position : int
        Samples taken so far.
    latency_samples : int
        By which the output is late; constant.
    log : deque of (position, changes)
    """

    converter: VoiceConverter
    sample_rate: float
    block_size: int | None
    channels: int = 1
    chain: tuple[Effect, ...] = PLAIN_CHAIN
    inputs: int = 1
    steer_pitch: bool = False
    position: int = field(default=0, init=False)
    log: deque[tuple[int, Changes]] = field(default_factory=lambda: deque(maxlen=LONGEST_LOG), init=False)

    def __post_init__(self) -> None:
        self.converter.prepare(self.sample_rate, self.block_size, self.inputs, steer_pitch=self.steer_pitch)
        self.latency_samples = self.converter.latency_samples
        block = self.block_size or 1
        self._capacity = max(1, CAPACITY // block) * block
        self._mailbox = Mailbox()
        self._before = _Section(self.inputs, self.sample_rate, self._capacity)
        self._after = _Section(self.channels, self.sample_rate, self._capacity)
        before, after = split_chain(self.chain)
        self._before.take(self._before.load(before), 0)
        self._after.take(self._after.load(after), 0)
        self._coming: LoadedVoice | None = None  # the last made ready, which may not be on yet
        self._glides: dict[str, _Glide] = {}
        self._ramp_ms = 0.0
        # Output gain: down on a panic, up when what the converter says is live again.
        self._gate = Ramp(round(PANIC_SECONDS * self.sample_rate), 1.0)
        self._reset_at: int | None = None
        self._open_at: int | None = None
        self._source, self._wet = (np.zeros((self.inputs, self._capacity), np.float32) for _ in range(2))
        self._mixed = np.zeros((self.channels, self._capacity), np.float32)
        self._gain = np.empty(self._capacity, np.float32)
        self._count = np.arange(self._capacity, dtype=np.float32)

    def ready(self, changes: Changes) -> Gesture:
        """Check changes and load what they need.

        Raises
        ------
        ValueError, TypeError
            If one of them is out of range, of the wrong type, or about a voice that is not there.
        """
        voice = before = after = None
        checked: dict[str, Change] = {}
        shifts = {name: check_number_or_switch(name, changes[name]) for name in SHIFTS if name in changes}
        for name, value in changes.items():
            if name == "voice":
                voice = self.converter.load_voice(value, shifts)  # type: ignore[arg-type]
                shown = voice.target.shown
                checked[name] = dict(shown) if isinstance(shown, dict) else shown
            elif name == "chain":
                assert isinstance(value, tuple), "checked where it came in"
                first, last = split_chain(value)
                before, after = self._before.load(first), self._after.load(last)
                checked[name] = value
            else:
                checked[name] = check_number_or_switch(name, value)
        if voice is None:
            for name, number in shifts.items():
                self.converter.check_number(name, number, self._coming)
        else:
            self._coming = voice
        return Gesture(checked, voice, before, after)

    def post(self, gesture: Gesture) -> None:
        """Have the audio thread apply a gesture at the start of its next block."""
        self._mailbox.post(gesture)

    @property
    def posted(self) -> bool:
        """Whether something posted has not been applied yet."""
        return bool(self._mailbox)

    def apply(self, gesture: Gesture) -> None:
        """Apply a gesture here and now: in the audio thread."""
        told: dict[str, Change] = {}
        changes = gesture.changes
        if "ramp_ms" in changes:
            self._ramp_ms = float(changes["ramp_ms"])  # type: ignore[arg-type]
        for name, value in changes.items():
            if name == "ramp_ms":
                continue
            if name == "panic":
                self._panic()
            elif name == "voice" and gesture.voice is not None:
                self.converter.take_voice(gesture.voice)
            elif name == "chain" and gesture.before is not None and gesture.after is not None:
                self._before.take(gesture.before, self.position)
                self._after.take(gesture.after, self.position)
                self.chain = value  # type: ignore[assignment]
            elif name == "bypass":
                self.converter.bypass = value  # type: ignore[assignment]
            else:
                self._glides.pop(name, None)
                length = round(self._ramp_ms / 1000 * self.sample_rate)
                if length and self.position:
                    self._glides[name] = _Glide(getattr(self.converter, name), value, self.position, length)  # type: ignore[arg-type]
                    continue
                self.converter.take_number(name, value)  # type: ignore[arg-type]
            told[name] = value
        if told:
            self.log.append((self.position, told))

    def process(self, source: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Take source [inputs, n], or [n] for one, write out [channels, n]; n as prepared, or a multiple of that."""
        gesture = self._mailbox.take()
        if gesture is not None:
            self.apply(gesture)
        self.advance(source, out)

    def advance(self, source: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """`process` without a look into the mailbox."""
        n, start = source.shape[-1], 0
        while start < n:
            stop = min(n, start + self._capacity)
            self._begin_moments()
            if self._glides:
                self._glide()
                stop = min(stop, start + self._whole_blocks(GLIDE_STEP))
            for moment in (self._reset_at, self._open_at):
                if moment is not None and moment > self.position:
                    stop = min(stop, start + self._whole_blocks(moment - self.position))
            self._advance(source[..., start:stop], out[:, start:stop])
            start = stop

    def skip(self, n: int) -> None:
        """Leave out the next n samples, whole blocks: they came too late to be of use.

        The converter goes on where it was; what it still holds from before is kept from being heard.
        """
        self.log.append((self.position, {"skip": n}))
        self.position += n
        for glide in self._glides.values():
            glide.origin += n
        self._mute()

    def _whole_blocks(self, samples: int) -> int:
        block = self.block_size or 1
        return max(block, -(-samples // block) * block)

    def _glide(self) -> None:
        told: dict[str, Change] = {}
        for name, glide in list(self._glides.items()):
            value = told[name] = glide.at(self.position)
            self.converter.take_number(name, value)
            if value == glide.target:
                del self._glides[name]
        self.log.append((self.position, told))

    def _panic(self) -> None:
        self._fade_to(0.0, round(PANIC_SECONDS * self.sample_rate))
        self._reset_at, self._open_at = self.position + self._gate.length, None

    def _fade_to(self, gain: float, length: int) -> None:
        self._gate.snap(self._gate.at(self.position - 1))
        self._gate.length = length
        self._gate.aim(gain, self.position)

    def _mute(self, warm_up: int = 0) -> None:
        """Silence, until what is heard was said after now, and `warm_up` samples more."""
        self._gate.snap(0.0)
        self._open_at = self.position + self.latency_samples + warm_up

    def _begin_moments(self) -> None:
        """What is due here: the fresh start of a panic, and the end of silence."""
        if self._reset_at is not None and self.position >= self._reset_at:
            warm_up = self.converter.restart()
            self._before.reset()
            self._after.reset()
            self._reset_at = None
            self._mute(warm_up)
        if self._open_at is not None and self.position >= self._open_at:
            self._fade_to(1.0, round(RAMP_SECONDS * self.sample_rate))
            self._open_at = None

    def _advance(self, source: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        n = source.shape[-1]
        x, wet, mixed = self._source[:, :n], self._wet[:, :n], self._mixed[:, :n]
        x[:] = source
        self._before.run(x, self.position)
        self.converter.process_block(x, wet)
        mixed[:] = wet
        self._after.run(mixed, self.position)
        if not self._gate.stays(1.0, self.position):
            gain = self._gain[:n]
            self._gate.fill(self.position, self._count, gain)
            scale(mixed, gain)
        out[:] = mixed
        self.position += n


def check_number_or_switch(name: str, value: object) -> float | bool:
    """A value for a change that is not a voice or a chain, checked as `ready` needs it."""
    if name == "panic":
        return True
    if name == "ramp_ms":
        number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else -1.0
        if not 0 <= number <= LONGEST_RAMP_MS:
            raise ValueError(f"the ramp must be between 0 and {LONGEST_RAMP_MS:g} ms, got {value!r}")
        return number
    if name not in PARAMETERS:
        raise ValueError(f"there is nothing called {name!r} to change")
    parameter = PARAMETERS[name]
    return parameter.switch(value) if parameter.kind == "switch" else parameter.number(value)

