"""What the keys, knobs and wheels of a MIDI controller steer: bindings, learned or written by hand, in a file of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, ValidationError, field_validator, model_validator

from models.schema import Line, Schema, first_problem
from plugin_bridge.files import replacing
from plugin_bridge.parameters import PARAMETERS, Parameter
from plugin_bridge.user_file import read_json

MOST_BYTES = 1 << 20
MOST_BINDINGS = 2048  # each channel has 128 keys, 120 controllers, 128 programs and a wheel; nobody steers with all of them

PANIC, LOAD, NEXT, PREVIOUS = "/vc/panic", "/vc/preset/load", "/vc/preset/next", "/vc/preset/prev"
_PARAMETERS = {parameter.osc: parameter for parameter in PARAMETERS.values()}
ADDRESSES = (*_PARAMETERS, PANIC, LOAD, NEXT, PREVIOUS)

Kind: TypeAlias = Literal["note", "control", "program", "bend"]
Source: TypeAlias = tuple[Kind, int, int]


class MidiError(ValueError):
    """A port, a binding or the file of bindings is not there or not valid; the message is one sentence."""


class Binding(Schema):
    """One key, controller, program or pitch wheel, and what it steers.

    With a `value` it is a button: a key pressed, a program chosen, or a controller that rises to 64 or more sets it. Without,
    a controller or wheel moves a number between `low` and `high`, chooses a voice along the list, or holds a switch on
    (64 or more); a key turns a switch over. For panic and the next or previous preset everything is a button.

    Attributes
    ----------
    channel : int
        1 to 16.
    number : int
        Of the key, controller or program, 0 to 127; 0 for the wheel, of which a channel has one.
    address : str
        One of `ADDRESSES`, as in OSC.
    low, high : float, optional
        What both ends of a controller mean; the whole range by default. `low` may be the larger.
    value : float, bool, str, optional
    """

    kind: Kind
    channel: Annotated[int, Field(ge=1, le=16)]
    number: Annotated[int, Field(ge=0, le=127)] = 0
    address: Line
    low: float | None = None
    high: float | None = None
    value: bool | float | Line | None = None

    @property
    def source(self) -> Source:
        """What it listens to."""
        return self.kind, self.channel, self.number

    @property
    def parameter(self) -> Parameter | None:
        """What it steers, if that is a parameter."""
        return _PARAMETERS.get(self.address)

    @property
    def is_button(self) -> bool:
        """Whether it acts when pressed, not all the while."""
        return self.value is not None or self.kind in ("note", "program") or self.parameter is None

    def __str__(self) -> str:
        number = "" if self.kind == "bend" else f" {self.number}"
        what = self.address if self.value is None else f"{self.address} {self.value}"
        return f"{self.kind}{number} on channel {self.channel}: {what}"

    @model_validator(mode="after")
    def _check(self) -> Binding:
        parameter, value = self.parameter, self.value
        if self.address not in ADDRESSES:
            raise ValueError(f"{self.address[:80]!r} is nothing that MIDI steers, there are {', '.join(ADDRESSES)}")
        if self.kind == "control" and self.number >= 120:
            raise ValueError(f"controllers are 0 to 119, got {self.number}")
        if self.kind == "bend" and (self.number or self.is_button or parameter is None or parameter.kind != "number"):
            raise ValueError("the wheel has no number and no value, and moves numbers alone")
        if parameter is None or parameter.kind != "number":
            if self.low is not None or self.high is not None:
                raise ValueError("only a number goes from low to high")
            self._check_button(parameter)
            return self
        if self.is_button and not (isinstance(value, float) and self.low is None and self.high is None):
            raise ValueError(f"a button for {self.address} needs a number as its value, and no low or high")
        for number in (self.low, self.high, value):
            if number is not None:
                parameter.number(number)
        return self

    def _check_button(self, parameter: Parameter | None) -> None:
        """Of what is not a number."""
        named = isinstance(self.value, str)
        if self.address == LOAD:
            good, wanted = named, "the name of a preset"
        elif parameter is None:
            good, wanted = self.value is None, "no value"
        elif parameter.kind == "switch":
            good, wanted = self.value is None or isinstance(self.value, bool), "true, false or no value"
        else:
            good = named or (self.value is None and self.kind == "control")
            wanted = "the name of a voice"
        if not good:
            raise ValueError(f"{self.address} needs {wanted}, got {str(self.value)[:40]!r}")

    def at(self, share: float) -> float:
        """A number parameter's value where the controller or wheel is at `share`, 0 to 1, of its way."""
        parameter = self.parameter
        assert parameter is not None, "checked"
        low = parameter.minimum if self.low is None else self.low
        high = parameter.maximum if self.high is None else self.high
        # Not a hair beyond an end, where it would be refused.
        return min(max(low + share * (high - low), min(low, high)), max(low, high))


class MidiMap(Schema):
    """All bindings; what one source steers is in one place."""

    format: Literal[1] = 1
    bindings: Annotated[tuple[Binding, ...], Field(max_length=MOST_BINDINGS, strict=False)] = ()

    @field_validator("bindings")
    @classmethod
    def _check_bindings(cls, bindings: tuple[Binding, ...]) -> tuple[Binding, ...]:
        seen: dict[Source, Binding] = {}
        for binding in bindings:
            if binding.source in seen:
                raise ValueError(f"there are two bindings of one source: {seen[binding.source]}, and {binding}")
            seen[binding.source] = binding
        return bindings

    def bound(self, binding: Binding) -> MidiMap:
        """With this binding in place of an earlier one of its source."""
        return MidiMap(bindings=(*(old for old in self.bindings if old.source != binding.source), binding))

    def without(self, address: str) -> MidiMap:
        """Without the bindings of an address."""
        return MidiMap(bindings=tuple(old for old in self.bindings if old.address != address))


def make_binding(source: Source, address: str, arguments: Sequence[object]) -> Binding:
    """A binding as one asks for it: nothing more, the value of a button, or low and high of a controller.

    Raises
    ------
    MidiError
        If that is none.
    """
    kind, channel, number = source
    if len(arguments) > 2:
        raise MidiError(f"{address} takes a value, or low and high, got {len(arguments)} arguments")
    names = ("value",) if len(arguments) == 1 else ("low", "high")
    given = dict(zip(names, arguments, strict=False))
    parameter = _PARAMETERS.get(address)
    if parameter is not None and parameter.kind == "switch" and isinstance(given.get("value"), (int, float)):
        given["value"] = bool(given["value"])  # as in OSC, where switches are numbers
    try:
        return Binding.model_validate({"kind": kind, "channel": channel, "number": number, "address": address, **given})
    except ValidationError as error:
        raise MidiError(f"this cannot be bound: {first_problem(error)}") from None


def parse_lesson(text: str) -> tuple[str, tuple[object, ...]]:
    """An address and what goes with it, as the command line takes them: ADDRESS, ADDRESS=VALUE or ADDRESS=LOW..HIGH."""
    address, given, after = text.partition("=")
    low, through, high = after.partition("..")
    if not given:
        return address, ()
    return address, (_number(low), _number(high)) if through else (_number(after),)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def read_map(path: Path) -> MidiMap:
    """The bindings in a file; none if there is no file yet.

    Raises
    ------
    MidiError
        If it cannot be read, or something in it is not as it must be.
    """
    if not path.exists():
        return MidiMap()
    return read_json(path, MidiMap, "MIDI map", MOST_BYTES, MidiError)


def save_map(path: Path, bindings: MidiMap) -> None:
    """Write the bindings; FileError if that fails."""
    with replacing(path) as file:
        file.write(bindings.model_dump_json(indent=2, exclude_none=True).encode() + b"\n")


def user_file() -> Path:
    """Where the user's bindings are kept. It need not exist."""
    import platformdirs

    return Path(platformdirs.user_data_dir("plugin_bridge", appauthor=False)) / "midi.json"
