"""Gestures in time: what a performer did while recording, or a producer's automation, played back to the sample."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from models.schema import Line, SampleRate, Schema, first_problem
from plugin_bridge.converter import LARGEST_BLOCK, VoiceConverter
from plugin_bridge.engine import SHIFTS
from plugin_bridge.parameters import PARAMETERS
from plugin_bridge.preset import PLAIN_CHAIN, Effect, find_preset
from plugin_bridge.signal_path import Change, Changes, Gesture, SignalPath, check_number_or_switch
from plugin_bridge.user_file import read_bounded, read_json
from plugin_bridge.voices import parse_voice

MOST_EVENTS = 1_000_000
MOST_BYTES = 1 << 27  # for as many numbers as a take is written with
LONGEST_SECONDS = 1e6

RAMP, PANIC, PRESET, CHAIN, SKIP = "/vc/ramp", "/vc/panic", "/vc/preset/load", "/vc/chain", "/vc/skip"
_BY_ADDRESS = {parameter.osc: parameter for parameter in PARAMETERS.values()}

# They act on the output, which is late: for a producer, who looks at the finished recording, they come as much later.
_ON_OUTPUT = ("mix", "gain_db", "bypass", "chain")

Chain = Annotated[tuple[Effect, ...], Field(max_length=64, strict=False)]


class TimelineError(ValueError):
    """A timeline cannot be read or is not valid; the message is one sentence."""


class Event(Schema):
    """One message at one time, in seconds since the start.

    The addresses are those of OSC: every parameter's, with `/n` for 0 to 1, and /vc/ramp, /vc/panic, /vc/preset/load; a
    recorded take has /vc/chain (effects) and /vc/skip (samples that were left out), too.
    """

    time: Annotated[float, Field(ge=0, le=LONGEST_SECONDS)]
    address: Line
    value: float | bool | Line | dict[str, float] | Chain = 1.0

    def changes(self) -> Changes:
        """What the event changes; TimelineError if there is no such thing."""
        address, value = self.address, self.value
        parameter = _BY_ADDRESS.get(address.removesuffix("/n"))
        number = float(value) if isinstance(value, (int, float)) else None
        if parameter is not None and parameter.kind == "voice" and address == parameter.osc:
            if isinstance(value, (str, dict)):
                return {"voice": parse_voice(value) if isinstance(value, str) else value}
        elif parameter is not None and parameter.kind != "voice" and number is not None:
            if address.endswith("/n"):
                if not 0 <= number <= 1:
                    raise TimelineError(f"{address} takes 0 to 1, got {number:g}")
                number = parameter.minimum + number * (parameter.maximum - parameter.minimum)
            return {parameter.name: number >= 0.5 if parameter.kind == "switch" else number}
        elif address == RAMP and number is not None:
            return {"ramp_ms": number}
        elif address == SKIP and number is not None and number >= 0:
            return {"skip": number}
        elif address == PANIC:
            return {"panic": True}
        elif address == CHAIN and isinstance(value, tuple):
            return {"chain": value}
        elif address == PRESET and isinstance(value, str):
            preset = find_preset(value)
            voice: Changes = {} if preset.voice is None else {"voice": preset.voice}
            return {**preset.numbers(), "chain": preset.chain, **voice}
        raise TimelineError(f"{address[:80]} with {str(value)[:40]!r} is nothing that can be automated")


class Timeline(Schema):
    """Events in order of time, and, of a recorded take, how it was made.

    Attributes
    ----------
    sample_rate : int or None
        Hz, of a take; None for automation that fits any recording.
    block_size : int
        Of the take's device; 0 if blocks varied.
    channels : int
        Of the take's output.
    """

    format: Literal[1] = 1
    sample_rate: SampleRate | None = None
    block_size: Annotated[int, Field(ge=0, le=LARGEST_BLOCK)] = 0
    channels: Annotated[int, Field(ge=1, le=2)] = 1
    # Of a million that are wrong the first is told: a problem of each would take gigabytes.
    events: Annotated[tuple[Event, ...], Field(max_length=MOST_EVENTS, strict=False, fail_fast=True)] = ()

    def first_voice(self) -> str | dict[str, float] | None:
        """The voice that it begins with, for whose latency a path must be prepared; None if that is left open."""
        for event in self.events:
            voice = event.changes().get("voice") if event.time == 0 else None
            if isinstance(voice, (str, dict)):
                return voice
        return None

    def steers_pitch(self) -> bool:
        """Whether a path must be prepared for a shift: automation that has one anywhere, a take that began with one."""
        heard = [event.changes() for event in self.events if self.sample_rate is None or event.time == 0]
        return any(changes.get(name) for changes in heard for name in SHIFTS)

    def schedule(self, sample_rate: float, latency: int) -> list[tuple[int, Changes]]:
        """Changes and the sample, of what goes in, before which they happen; in order.

        A take's happen where they did. Automation is meant for what comes out in time with the recording: what acts on the
        output, which is late by `latency` samples, comes that much later.
        """
        timed: list[tuple[int, Changes]] = []
        for event in self.events:
            position = round(event.time * sample_rate)
            changes = event.changes()
            if self.sample_rate is not None:
                timed.append((position, changes))
                continue
            late = {name: value for name, value in changes.items() if name in _ON_OUTPUT}
            early = {name: value for name, value in changes.items() if name not in _ON_OUTPUT}
            # What happens at the very start holds from the first sample on, without a ramp.
            timed += [(position, early), (position + latency if position else 0, late)]
        return sorted(((position, changes) for position, changes in timed if changes), key=lambda pair: pair[0])


def read_timeline(path: Path) -> Timeline:
    """The timeline in a `.json` file, or in a `.csv` file with lines of time, address, value.

    Raises
    ------
    TimelineError
        If it cannot be read, or something in it is not as it must be.
    """
    if path.suffix.lower() == ".csv":
        timeline = _read_csv(path)
    else:
        timeline = read_json(path, Timeline, "timeline", MOST_BYTES, TimelineError)
    try:
        # Told now, rather than in the middle of a rendering.
        timeline.schedule(timeline.sample_rate or 48_000, 0)
    except ValueError as error:
        raise TimelineError(f"the timeline {path} is not valid: {error}") from None
    return timeline


def _read_csv(path: Path) -> Timeline:
    data = read_bounded(path, "timeline", MOST_BYTES, TimelineError)
    try:
        return Timeline(events=tuple(_csv_events(data.decode("utf-8-sig"))))
    except UnicodeDecodeError:
        raise TimelineError(f"the timeline {path} is not text in UTF-8") from None
    except ValidationError as error:
        raise TimelineError(f"the timeline {path} is not valid: {first_problem(error)}") from None
    except (TimelineError, csv.Error) as error:
        raise TimelineError(f"the timeline {path} is not valid: {error}") from None


def _csv_events(text: str) -> Iterator[Event]:
    count = 0
    for number, row in enumerate(csv.reader(io.StringIO(text)), 1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or cells[0].startswith("#") or (number == 1 and cells[0].lower() == "time"):
            continue
        count += 1
        if count > MOST_EVENTS:  # told here, before a file of short lines fills the memory
            raise TimelineError(f"line {number} is one too many, there may be {MOST_EVENTS} events")
        if len(cells) < 2:
            raise TimelineError(f"line {number} must have time, address and value")
        # A mixture has commas of its own.
        value = ",".join(cells[2:])
        try:
            given: float | str = float(value) if value else 1.0
        except ValueError:
            given = value
        try:
            yield Event(time=float(cells[0]), address=cells[1], value=given)
        except ValidationError as error:
            raise TimelineError(f"line {number}: {first_problem(error)}") from None
        except ValueError:
            raise TimelineError(f"line {number}: the time must be a number of seconds, not {cells[0][:40]!r}") from None


def events_of(log: Iterable[tuple[int, Changes]], sample_rate: float) -> Iterator[Event]:
    """A `SignalPath.log` as events."""
    addresses = {name: parameter.osc for name, parameter in PARAMETERS.items()}
    addresses |= {"ramp_ms": RAMP, "panic": PANIC, "chain": CHAIN, "skip": SKIP}
    for position, changes in log:
        for name, value in changes.items():
            shown = dict(value) if isinstance(value, Mapping) else value
            yield Event(time=position / sample_rate, address=addresses[name], value=shown)


class Player:
    """Feeds a `SignalPath` while a timeline's events happen on it, each before its sample."""

    def __init__(self, path: SignalPath, timeline: Timeline) -> None:
        self._path = path
        self._is_take = timeline.sample_rate is not None
        self._waiting = timeline.schedule(path.sample_rate, path.latency_samples)[::-1]

    def _ready(self, changes: Changes) -> Gesture:
        if not self._is_take:
            return self._path.ready(changes)
        # A glide went on, in the take, after a voice had come that cannot be shifted: without effect, and so it is now.
        shifts = {name: check_number_or_switch(name, value) for name, value in changes.items() if name in SHIFTS}
        others = {name: value for name, value in changes.items() if name not in SHIFTS}
        return self._path.ready(others).then(Gesture(shifts))

    def process(self, source: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """The next source [inputs, n] or [n], to out [channels, n]."""
        path, start, n = self._path, 0, source.shape[-1]
        while start < n:
            stop = n
            while self._waiting and self._waiting[-1][0] <= path.position:
                together: dict[str, Change] = {}
                position = self._waiting[-1][0]
                while self._waiting and self._waiting[-1][0] == position:
                    together |= self._waiting.pop()[1]
                skip = together.pop("skip", None)
                if together:
                    path.apply(self._ready(together))
                if skip is not None:
                    count = min(int(float(skip)), n - start)  # type: ignore[arg-type]
                    path.skip(count)
                    out[:, start : start + count] = 0.0
                    start += count
            if start >= n:
                return
            if self._waiting:
                stop = min(n, start + self._waiting[-1][0] - path.position)
            path.advance(source[..., start:stop], out[:, start:stop])
            start = stop


def replay(timeline: Timeline, dry: NDArray[np.float32]) -> NDArray[np.float32]:
    """A take again, from its dry recording [n]: what was heard then, [channels, n], late as it was then.

    Raises
    ------
    TimelineError
        If the timeline is automation, not a take.
    """
    if timeline.sample_rate is None:
        raise TimelineError("this timeline is automation, not a take: it does not say how it was recorded")
    block = timeline.block_size or None
    voice = timeline.first_voice()
    if voice is None:
        raise TimelineError("the take does not begin with a voice")
    steers = timeline.steers_pitch()
    path = SignalPath(VoiceConverter(voice), timeline.sample_rate, block, timeline.channels, PLAIN_CHAIN, steer_pitch=steers)
    n = len(dry)
    whole = n if block is None else -(-n // block) * block
    padded = np.zeros(whole, np.float32)
    padded[:n] = dry
    out = np.empty((timeline.channels, whole), np.float32)
    Player(path, timeline).process(padded, out)
    return out[:, :n]
