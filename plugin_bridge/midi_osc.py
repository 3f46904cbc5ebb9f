"""Addresses under which MIDI is taught over OSC."""

from __future__ import annotations

from plugin_bridge.midi_control import MidiControl
from plugin_bridge.midi_map import ADDRESSES
from plugin_bridge.osc_nodes import PREFIX, Command, Node, RefusedError, Standing
from plugin_bridge.osc_packets import Argument

LONGEST_TEXT = 200  # of an argument


def _write_learn(given: tuple[Argument, ...]) -> Command:
    address, *arguments = given
    if len(arguments) > 3 or any(isinstance(argument, str) and len(argument) > LONGEST_TEXT for argument in given):
        raise RefusedError(f"an address, and a value or low and high, are needed, got {len(given)} arguments")
    for argument in arguments:
        # Over the network no file is opened by its path.
        if isinstance(argument, str) and any(part in argument for part in ("/", "\\", ".voice", ".json")):
            raise RefusedError(f"a name is needed, not a path, got {argument[:80]!r}")
    return {"do": "learn", "address": _address(address), "arguments": arguments}


def _write_forget(given: tuple[Argument, ...]) -> Command:
    if len(given) != 1:
        raise RefusedError(f"one address is needed, got {len(given)} arguments")
    return {"do": "forget", "address": _address(given[0])}


def _read(standing: Standing) -> tuple[str, list[str]]:
    assert standing.midi is not None, "it was asked for"
    return standing.midi


def _address(argument: Argument) -> str:
    if not isinstance(argument, str):
        raise RefusedError(f"an address is needed, got {str(argument)[:80]}")
    return argument


MIDI_NODES = (
    Node(
        f"{PREFIX}/midi/learn",
        "Bind what is touched next on the MIDI controller to an address; after it may stand a button's value, or low and "
        'high. "" ends learning. Without arguments: what is being learned.',
        names=lambda: list(ADDRESSES),
        read=lambda standing: (_read(standing)[0],),
        asks="midi",
        write=_write_learn,
    ),
    Node(
        f"{PREFIX}/midi/forget",
        "Remove what is bound to an address.",
        "s",
        names=lambda: list(ADDRESSES),
        write=_write_forget,
    ),
    Node(f"{PREFIX}/midi/list", "What is bound to what.", read=lambda standing: tuple(_read(standing)[1]), asks="midi"),
)


def obey_midi(midi: MidiControl, command: Command) -> None:
    """Do what one of these addresses was told; MidiError or FileError if that cannot be done."""
    match command["do"]:
        case "learn" if command["address"]:
            midi.learn(command["address"], *command["arguments"])
        case "learn":
            midi.cancel()
        case "forget":
            midi.forget(command["address"])


def read_midi(midi: MidiControl) -> tuple[str, list[str]]:
    """What `Standing.midi` says."""
    return midi.learning, [str(binding) for binding in midi.bindings.bindings]
