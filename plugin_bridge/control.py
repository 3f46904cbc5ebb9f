"""What a performer steers, whatever the controller: the wanted values, presets, and the gestures made of both."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from plugin_bridge.converter import Voice
from plugin_bridge.parameters import PARAMETERS
from plugin_bridge.preset import PRESET_NUMBERS, Effect, PresetError, find_preset, make_preset, presets, save_preset
from plugin_bridge.signal_path import Change, Changes, Gesture, SignalPath
from plugin_bridge.voices import find_voice, voice_text


@dataclass(frozen=True)
class Status:
    """How a live conversion is doing.

    Attributes
    ----------
    running : bool
        Whether audio flows.
    sample_rate : float
        Hz.
    block_size : int
        Samples; 0 where the device varies it.
    latency_samples, latency_ms
        Of the converter and its effects.
    round_trip_samples, round_trip_ms : float
        With the device's own latency, as the device states it; NaN if it does not.
    load_median, load_p99 : float
        Share of a block's time that processing took lately.
    xruns : int
        Blocks lost against the clock since the start.
    skipped : int
        Samples left out because processing was late.
    errors : int
        Blocks that became silence because something failed on them.
    """

    running: bool
    device: str
    sample_rate: float
    block_size: int
    latency_samples: int
    latency_ms: float
    round_trip_samples: float
    round_trip_ms: float
    load_median: float
    load_p99: float
    xruns: int
    skipped: int
    errors: int
    voice: str


class ControlSurface:
    """Values as wanted, one way to change them, and news of every change. Any thread may use it.

    Parameters
    ----------
    path : SignalPath
    preset : str, optional
        Name of the preset that is on.

    Attributes
    ----------
    listeners : list of callable
        Called with the changes, in the thread that made them.
    status : callable, optional
        Set by the host: how it is doing.
    changing : lock
        Held from `ready` to `post`, by whoever calls both: a voice is made ready for the one that is on, or comes next.
    """

    def __init__(self, path: SignalPath, preset: str = "") -> None:
        self.path = path
        self.preset = preset
        self.listeners: list[Callable[[Changes], None]] = []
        self.status: Callable[[], Status] | None = None
        self.changing = threading.RLock()
        self._values: dict[str, Change] = {name: getattr(path.converter, name) for name in PARAMETERS}
        self._values |= {"ramp_ms": 0.0, "chain": path.chain}

    def value(self, name: str) -> Change:
        """What a parameter, "ramp_ms" or "chain" was last set to; it may still be on its way there."""
        return self._values[name]

    @property
    def voice_text(self) -> str:
        """The voice, or the mix of voices, as `--voice` takes it."""
        return voice_text(cast("Voice", self._values["voice"]))

    def ready(self, changes: Changes) -> Gesture:
        """See `SignalPath.ready`."""
        with self.changing:
            return self.path.ready(changes)

    def post(self, gesture: Gesture) -> None:
        """Apply a gesture at the start of the next block."""
        with self.changing:
            self.path.post(gesture)
            self._values |= {name: value for name, value in gesture.changes.items() if name in self._values}
            for listener in self.listeners:
                listener(gesture.changes)

    def change(self, changes: Changes) -> None:
        """Check changes and apply them together at the start of the next block; ValueError or TypeError as `ready`."""
        with self.changing:
            self.post(self.ready(changes))

    def ready_preset(self, name: str) -> Gesture:
        """A preset's changes, ready; PresetError if there is none of this name, or it is not valid."""
        with self.changing:
            preset = find_preset(name)
            changes: dict[str, Change] = dict(preset.numbers())
            changes["chain"] = preset.chain
            if preset.voice is not None:
                changes["voice"] = preset.voice
            gesture = self.ready(changes)
            self.preset = name
            return gesture

    def ready_neighbour(self, step: int) -> Gesture:
        """The next preset that can be on, or with a `step` of -1 the one before, around the end, ready.

        What cannot be on here, as its voice is gone or would be late, is passed over.

        Raises
        ------
        ValueError, OSError
            If none can: what is wrong with the nearest.
        """
        with self.changing:
            here = self.preset
            if step > 0:
                ahead = sorted(presets(), key=lambda name: (name <= here, name))
            else:
                ahead = sorted(presets(), key=lambda name: (name < here, name), reverse=True)
            problems: list[ValueError | OSError] = []
            for name in ahead:
                try:
                    return self.ready_preset(name)
                except (ValueError, OSError) as error:
                    problems.append(error)
            raise problems[0] if problems else PresetError("there are no presets")

    def ready_command(self, command: Mapping[str, Any]) -> Gesture | None:
        """Do what a controller in another process asks for; what changes by it, if anything does, is ready.

        What to `do` is "change" (the `changes`, by name), "panic", "morph" (to `weights` of all voices of the present pack),
        "load" (the `preset` of a name), "step" (`by` 1 or -1) or "save" (under the name of a `preset`).

        Raises
        ------
        ValueError, TypeError, OSError
            If that cannot be done.
        """
        match command["do"]:
            case "change":
                return self.ready(command["changes"])
            case "panic":
                return self.ready({"panic": True})
            case "morph":
                return self.ready({"voice": self._present_pack(command["weights"])})
            case "load":
                return self.ready_preset(command["preset"])
            case "step":
                return self.ready_neighbour(command["by"])
            case "save":
                self.save_preset(command["preset"])
                return None
        raise ValueError(f"there is nothing called {command['do']!r} to do")

    def _present_pack(self, weights: Sequence[float]) -> dict[str, float]:
        """A mix of the voices of the present pack."""
        voice = cast("Voice", self._values["voice"])
        pack = find_voice(voice if isinstance(voice, str) else next(iter(voice))).pack
        names = [card.name for card in pack.manifest.voices]
        if len(weights) != len(names):
            raise ValueError(f"the pack has {len(names)} voices ({', '.join(names)}), got {len(weights)} weights")
        # A voice without weight would say that it is in the mix.
        return {name: weight for name, weight in zip(names, weights, strict=True) if weight != 0}

    def save_preset(self, name: str) -> None:
        """Keep what is on, but for the bypass, as a preset of the user's."""
        with self.changing:
            values = {number: cast(float, self._values[number]) for number in PRESET_NUMBERS}
            chain = cast("tuple[Effect, ...]", self._values["chain"])
            save_preset(name, make_preset(name, cast("Voice", self._values["voice"]), values, chain))
            self.preset = name
