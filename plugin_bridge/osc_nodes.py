"""The address space, made from the table of parameters: what each address takes, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from plugin_bridge.converter import Voice
from plugin_bridge.osc_packets import Argument
from plugin_bridge.parameters import PARAMETERS, Parameter
from plugin_bridge.preset import PresetError, checked_name, find_preset, presets
from plugin_bridge.signal_path import LONGEST_RAMP_MS, Change, check_number_or_switch
from plugin_bridge.voices import voice_target, voice_text, voices

PREFIX = "/vc"
RAMP, PRESET, MORPH = f"{PREFIX}/ramp", f"{PREFIX}/preset/load", f"{PREFIX}/morph"

# As JSON: what to `do`, for the server itself ("ping", "sync", "subscribe"), for `ControlSurface.ready_command`, or for MIDI.
Command: TypeAlias = dict[str, Any]


class RefusedError(ValueError):
    """A message is not obeyed; the text says why."""


@dataclass(frozen=True)
class Standing:
    """How things stand in the process of the audio.

    Attributes
    ----------
    values : mapping of str to change
        Every parameter, and "ramp_ms", as wanted.
    preset : str
        The one that is on.
    reached : bool
        Whether all that was wanted has reached the sound.
    latency_samples, latency_ms
        Of the converter and its effects.
    status : mapping, optional
        A `Status`, if that was asked for, and audio is running.
    midi : (str, list of str), optional
        The address that is being learned, and all bindings, if that was asked for.
    """

    values: Mapping[str, Change]
    preset: str
    reached: bool
    latency_samples: int
    latency_ms: float
    status: Mapping[str, Argument] | None = None
    midi: tuple[str, list[str]] | None = None


@dataclass(frozen=True)
class Node:
    """One address.

    Attributes
    ----------
    types : str
        OSC type tags of the arguments; empty if they vary.
    minimum, maximum : float or None
        Of every argument.
    names : callable, optional
        The strings there are to choose from.
    read : callable, optional
        The present arguments: the answer to a message without any. RefusedError if there is none.
    asks : str
        The optional part of the standing that `read` needs.
    write : callable, optional
        What a message with arguments asks for; RefusedError, ValueError or TypeError if that is nothing.
    triggered : bool
        A message without arguments acts, too; a number below 0.5 (a button let go) does not.
    """

    address: str
    description: str
    types: str = ""
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""
    names: Callable[[], list[str]] | None = None
    read: Callable[[Standing], tuple[Argument, ...]] | None = None
    asks: str = ""
    write: Callable[[tuple[Argument, ...]], Command] | None = None
    triggered: bool = False

    def is_let_go(self, arguments: tuple[Argument, ...]) -> bool:
        """Whether a button says that nobody presses it any more."""
        return self.triggered and bool(self.types) and bool(arguments) and one_number(arguments) < 0.5


def _number_nodes(parameter: Parameter) -> list[Node]:
    name, low, span = parameter.name, parameter.minimum, parameter.maximum - parameter.minimum
    switch = parameter.kind == "switch"

    def read(standing: Standing) -> tuple[Argument, ...]:
        return (cast("float | bool", standing.values[name]),)

    def write(given: tuple[Argument, ...]) -> Command:
        number = one_number(given)
        if switch and not 0 <= number <= 1:
            raise RefusedError(f"{name} must be 0 or 1, got {number:g}")
        return _change(name, number >= 0.5 if switch else number)

    def read_share(standing: Standing) -> tuple[Argument, ...]:
        return ((float(cast("float | bool", standing.values[name])) - low) / span,)

    def write_share(given: tuple[Argument, ...]) -> Command:
        number = _share(given)
        return _change(name, number >= 0.5 if switch else low + span * number)

    types = "i" if switch else "f"
    text = parameter.description
    return [
        Node(parameter.osc, text, types, low, parameter.maximum, parameter.unit, read=read, write=write),
        Node(f"{parameter.osc}/n", text, "f", 0.0, 1.0, read=read_share, write=write_share),
    ]


def _voice_nodes(parameter: Parameter) -> list[Node]:
    def write(given: tuple[Argument, ...]) -> Command:
        if len(given) == 1 and isinstance(given[0], str):
            _check_bare([given[0]])
            return _voice(given[0])
        number = one_number(given)
        names = voices()
        if number != int(number) or not 0 <= number < len(names):
            raise RefusedError(f"a voice's number must be a whole one from 0 to {len(names) - 1}, got {number:g}")
        return _voice(names[int(number)])

    def read_share(standing: Standing) -> tuple[Argument, ...]:
        names, voice = voices(), standing.values["voice"]
        return (names.index(voice) / max(1, len(names) - 1) if isinstance(voice, str) and voice in names else 0.0,)

    def write_share(given: tuple[Argument, ...]) -> Command:
        names = voices()
        return _voice(names[round(_share(given) * (len(names) - 1))])

    def read(standing: Standing) -> tuple[Argument, ...]:
        return (voice_text(_voice_of(standing)),)

    text = f"{parameter.description} A name, or a number."
    by_place = "Target voice by its place in the list."
    return [
        Node(parameter.osc, text, "s", names=voices, read=read, write=write),
        Node(f"{parameter.osc}/n", by_place, "f", 0.0, 1.0, read=read_share, write=write_share),
    ]


def _read_morph(standing: Standing) -> tuple[Argument, ...]:
    voice = _voice_of(standing)
    shares: Mapping[str, float] = {voice: 1.0} if isinstance(voice, str) else voice
    return tuple(part for pair in shares.items() for part in pair)


def _write_morph(given: tuple[Argument, ...]) -> Command:
    if not any(isinstance(value, str) for value in given):
        return {"do": "morph", "weights": [one_number((value,)) for value in given]}
    names = [value for value in given[::2] if isinstance(value, str)]
    if 2 * len(set(names)) != len(given):
        raise RefusedError("names and weights must come in turn, and each name once")
    _check_bare(names)
    weights = dict(zip(names, (one_number((value,)) for value in given[1::2]), strict=True))
    # A voice without weight would say that it is in the mix.
    return _voice({name: weight for name, weight in weights.items() if weight != 0})


def _write_load(given: tuple[Argument, ...]) -> Command:
    name = _text(given)
    find_preset(name)
    return {"do": "load", "preset": name}


def _write_subscribe(given: tuple[Argument, ...]) -> Command:
    port = one_number(given[:1]) if given else None
    seconds = one_number(given[1:2]) if len(given) > 1 else math.inf
    if (port is not None and (port != int(port) or not 1 <= port <= 65535)) or seconds < 0 or len(given) > 2:
        raise RefusedError("the port must be 1 to 65535 and the seconds not negative")
    return {"do": "subscribe", "port": None if port is None else int(port), "seconds": seconds}


def _write_sync(given: tuple[Argument, ...]) -> Command:
    number = one_number(given)
    if number != int(number) or not -(2**31) <= number < 2**31:
        raise RefusedError("a whole number of 32 bits is needed")
    return {"do": "sync", "number": int(number)}


def _read_status(standing: Standing) -> tuple[Argument, ...]:
    if standing.status is None:
        raise RefusedError("no audio is running")
    return tuple(part for name, value in standing.status.items() for part in (name, value))


def _trigger(address: str, description: str, command: Command) -> Node:
    return Node(f"{PREFIX}/{address}", description, "i", 0.0, 1.0, write=lambda given: command, triggered=True)


def _listed(names: Callable[[], list[str]]) -> Callable[[Standing], tuple[Argument, ...]]:
    return lambda standing: tuple(names())


def _space() -> list[Node]:
    nodes: list[Node] = []
    for parameter in PARAMETERS.values():
        nodes += _voice_nodes(parameter) if parameter.kind == "voice" else _number_nodes(parameter)
    return [
        *nodes,
        Node(f"{PREFIX}/voice/list", "Names of the voices; /vc/voice takes their numbers, from 0.", read=_listed(voices)),
        Node(
            MORPH,
            "A mix of voices of one pack: names and weights in turn, or the weights of all voices of the present pack.",
            read=_read_morph,
            write=_write_morph,
        ),
        Node(
            RAMP,
            "Time in which numbers glide to what is sent.",
            "f",
            0.0,
            LONGEST_RAMP_MS,
            "ms",
            read=lambda standing: (cast(float, standing.values["ramp_ms"]),),
            write=lambda given: _change("ramp_ms", one_number(given)),
        ),
        _trigger("panic", "Silence at once, and a fresh start.", {"do": "change", "changes": {"panic": True}}),
        Node(
            PRESET,
            "The preset of this name.",
            "s",
            names=presets,
            read=lambda standing: (standing.preset,),
            write=_write_load,
        ),
        Node(
            f"{PREFIX}/preset/save",
            "Keep what is on under this name.",
            "s",
            write=lambda given: {"do": "save", "preset": checked_name(_text(given))},
        ),
        _trigger("preset/next", "The next preset.", {"do": "step", "by": 1}),
        _trigger("preset/prev", "The preset before.", {"do": "step", "by": -1}),
        Node(f"{PREFIX}/preset/list", "Names of the presets.", read=_listed(presets)),
        Node(
            f"{PREFIX}/subscribe",
            "Send every change to this port of the sender's machine, for so many seconds (0 ends it); without a port, "
            "to where this message came from.",
            write=_write_subscribe,
            triggered=True,
        ),
        Node(
            f"{PREFIX}/status",
            "How the conversion is doing: names and values in turn.",
            read=_read_status,
            asks="status",
        ),
        Node(
            f"{PREFIX}/latency",
            "Of the converter and its effects: samples, and milliseconds.",
            "if",
            read=lambda standing: (standing.latency_samples, standing.latency_ms),
        ),
        Node(
            f"{PREFIX}/ping",
            "Answered by /vc/pong with the same arguments.",
            write=lambda given: {"do": "ping", "arguments": given},
            triggered=True,
        ),
        Node(
            f"{PREFIX}/sync",
            "Answered by /vc/synced with the same number once all that came before has reached the sound.",
            "i",
            write=_write_sync,
        ),
    ]


def _both(address: str) -> tuple[str, str]:
    return address, f"{address}/n"


PARAMETER_ADDRESSES = tuple(address for parameter in PARAMETERS.values() for address in _both(parameter.osc))


def addresses_of(changed: Iterable[str]) -> list[str]:
    """Where what changed, by name, can be read."""
    addresses: list[str] = []
    for name in changed:
        if name in PARAMETERS:
            addresses += _both(PARAMETERS[name].osc)
        if name == "voice":
            addresses.append(MORPH)
        elif name == "ramp_ms":
            addresses.append(RAMP)
        elif name == "chain":
            addresses.append(PRESET)
    return addresses


def one_number(given: tuple[Argument, ...]) -> float:
    """The one argument there must be, which must be a finite number; RefusedError if not."""
    if len(given) != 1 or not isinstance(given[0], (int, float)):
        raise RefusedError(f"one number is needed, got {_shown(given)}")
    number = float(given[0])
    if not math.isfinite(number):
        raise RefusedError(f"a finite number is needed, got {number}")
    return number


def _share(given: tuple[Argument, ...]) -> float:
    number = one_number(given)
    if not 0 <= number <= 1:
        raise RefusedError(f"a number from 0 to 1 is needed, got {number:g}")
    return number


def _text(given: tuple[Argument, ...]) -> str:
    if len(given) != 1 or not isinstance(given[0], str):
        raise RefusedError(f"one name is needed, got {_shown(given)}")
    if "/" in given[0] or "\\" in given[0] or "." in given[0]:
        raise PresetError(f"a name is needed, not a path, got {given[0][:80]!r}")
    return given[0]


def _check_bare(texts: list[str]) -> None:
    """RefusedError unless they are voices' names: over the network no file is opened by its path."""
    names = voices()
    for text in texts:
        if text not in names:
            raise RefusedError(f"no voice is called {text[:80]!r}, there are {', '.join(names)}")


def _change(name: str, value: float | bool) -> Command:
    return {"do": "change", "changes": {name: check_number_or_switch(name, value)}}


def _voice(voice: Voice) -> Command:
    voice_target(voice)
    return {"do": "change", "changes": {"voice": voice}}


def _voice_of(standing: Standing) -> Voice:
    return cast("Voice", standing.values["voice"])


def _shown(given: tuple[Argument, ...]) -> str:
    return repr(given[0])[:80] if len(given) == 1 else f"{len(given)} arguments"


NODES: Mapping[str, Node] = {node.address: node for node in _space()}
