"""What a page may say: every message checked against the table of parameters before anything else sees it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from models.schema import Schema, VoiceName, first_problem
from plugin_bridge.parameters import PARAMETERS
from plugin_bridge.voices import voices

LONGEST_MESSAGE = 1024  # bytes


class MessageError(ValueError):
    """A message is not obeyed; the text says why."""


class Change(Schema):
    """A parameter moves."""

    do: Literal["change"]
    name: Annotated[str, Field(max_length=40)]
    value: bool | float | Annotated[str, Field(max_length=40)]


class Panic(Schema):
    """Silence at once."""

    do: Literal["panic"]


class Load(Schema):
    """A preset is wanted."""

    do: Literal["load"]
    preset: VoiceName


class Step(Schema):
    """The next preset is wanted, or the one before."""

    do: Literal["step"]
    by: Literal[1, -1]


class Save(Schema):
    """What is on is to be kept."""

    do: Literal["save"]
    preset: VoiceName


Message: TypeAlias = Change | Panic | Load | Step | Save
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="do")])


def read_message(text: str) -> Message:
    """A message, whose values are in range.

    Raises
    ------
    MessageError
        If it is anything else.
    """
    try:
        message = _MESSAGE.validate_json(text)
    except ValidationError as error:
        raise MessageError(first_problem(error)) from None
    if isinstance(message, Change):
        return Change(do="change", name=message.name, value=_checked(message.name, message.value))
    return message


def _checked(name: str, value: bool | float | str) -> bool | float | str:
    parameter = PARAMETERS.get(name)
    if parameter is None:
        raise MessageError(f"there is no parameter {name!r}, there are {', '.join(PARAMETERS)}")
    if parameter.kind == "voice":
        # A name alone: over the network no file is opened by its path.
        if value not in voices():
            raise MessageError(f"no voice is called {value!r}, there are {', '.join(voices())}")
        return value
    try:
        return parameter.switch(value) if parameter.kind == "switch" else parameter.number(value)
    except (ValueError, TypeError) as error:
        raise MessageError(str(error)) from None


def parameter_table() -> list[dict[str, Any]]:
    """The parameters as a page needs them, in order."""
    return [
        {
            "name": parameter.name,
            "kind": parameter.kind,
            "unit": parameter.unit,
            "minimum": parameter.minimum,
            "maximum": parameter.maximum,
            "default": parameter.default,
            "description": parameter.description,
        }
        for parameter in PARAMETERS.values()
    ]
