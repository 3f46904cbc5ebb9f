"""OSC as it comes over the network: datagrams into messages, bounded, and back."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pythonosc.osc_message_builder import OscMessageBuilder
from pythonosc.parsing import osc_types

MOST_DEPTH = 8  # of bundles in bundles
MOST_MESSAGES = 128  # in one packet; all of 7 parameters in both forms are 14
MOST_ARGUMENTS = 64
GREATEST_FLOAT = 3.4e38  # of 32 bits

Argument: TypeAlias = "float | int | str | bool | None"


class MalformedPacketError(ValueError):
    """A packet is not OSC, or more than any controller sends."""


@dataclass(frozen=True)
class Message:
    """An OSC message; `unknown` is the first type tag that is not understood, if one is not."""

    address: str
    arguments: tuple[Argument, ...] = ()
    unknown: str = ""


def decode(packet: bytes) -> list[Message]:
    """The messages of a packet, those in bundles in order and without their time: they are applied on arrival.

    Raises
    ------
    MalformedPacketError
    """
    messages: list[Message] = []
    waiting = [(packet, 0)]
    while waiting:
        data, depth = waiting.pop()
        if not data.startswith(b"#bundle\0"):
            if len(messages) == MOST_MESSAGES:
                raise MalformedPacketError(f"more than {MOST_MESSAGES} messages in a packet")
            messages.append(_decode_message(data))
            continue
        if depth == MOST_DEPTH or len(data) < 16:
            raise MalformedPacketError("a bundle too deep, or cut short")
        elements: list[tuple[bytes, int]] = []
        index = 16  # after the name and the time
        while index < len(data):
            if index + 4 > len(data) or len(elements) == MOST_MESSAGES:
                raise MalformedPacketError("a bundle cut short, or of too many elements")
            size = int(struct.unpack_from(">i", data, index)[0])
            if size <= 0 or size % 4 or index + 4 + size > len(data):
                raise MalformedPacketError(f"an element of {size} bytes in a bundle")
            elements.append((data[index + 4 : index + 4 + size], depth + 1))
            index += 4 + size
        waiting += reversed(elements)
        if len(waiting) > MOST_MESSAGES:
            raise MalformedPacketError(f"more than {MOST_MESSAGES} elements in a packet")
    return messages


def _decode_message(data: bytes) -> Message:
    if len(data) % 4:
        raise MalformedPacketError(f"a message of {len(data)} bytes, which is not a multiple of 4")
    try:
        address, index = osc_types.get_string(data, 0)
        if not address.startswith("/"):
            raise MalformedPacketError("an address must begin with /")
        if index >= len(data):
            return Message(address)  # old senders leave the type tags out
        tags, index = osc_types.get_string(data, index)
        if not tags.startswith(",") or len(tags) > MOST_ARGUMENTS + 1:
            raise MalformedPacketError("type tags must begin with a comma and be few")
        arguments: list[Argument] = []
        for tag in tags[1:]:
            value: Argument
            if tag in _CONSTANTS:
                value = _CONSTANTS[tag]
            elif tag in _READERS:
                value, index = _READERS[tag](data, index)
            else:
                return Message(address, (), tag)
            arguments.append(value)
    except (osc_types.ParseError, UnicodeError, struct.error, IndexError) as error:
        raise MalformedPacketError(str(error)) from None
    return Message(address, tuple(arguments))


_CONSTANTS: dict[str, Argument] = {"T": True, "F": False, "N": None, "I": True}


def _reader(layout: str) -> Callable[[bytes, int], tuple[Argument, int]]:
    """Of a number of fixed size; python-osc's own takes a float that is cut short for one that ends in zeros."""
    number = struct.Struct(layout)
    return lambda data, index: (number.unpack_from(data, index)[0], index + number.size)


_READERS: dict[str, Callable[[bytes, int], tuple[Argument, int]]] = {
    "i": _reader(">i"),
    "h": _reader(">q"),
    "f": _reader(">f"),
    "d": _reader(">d"),
    "s": osc_types.get_string,
    "S": osc_types.get_string,
}


def encode(address: str, arguments: Sequence[Argument]) -> bytes:
    """A message as a datagram; switches go as 0 and 1, which every controller understands."""
    builder = OscMessageBuilder(address)
    for value in arguments:
        builder.add_arg(int(value) if isinstance(value, bool) else value, _tag(value))
    return builder.build().dgram


def _tag(value: Argument) -> str | None:
    """The type of a number that does not fit into 32 bits."""
    if isinstance(value, int):
        return None if -(2**31) <= value < 2**31 else "h"
    return "d" if isinstance(value, float) and GREATEST_FLOAT < abs(value) < math.inf else None
