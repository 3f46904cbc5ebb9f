"""Addresses under which MIDI is taught over OSC."""

from __future__ import annotations

from plugin_bridge.midi_control import MidiControl
from plugin_bridge.midi_map import ADDRESSES
from plugin_bridge.osc import PREFIX, Argument, Node, Peer, RefusedError


def midi_nodes(midi: MidiControl) -> list[Node]:
    """For `OscServer`: learn, forget and list."""

    def learn(given: tuple[Argument, ...], peer: Peer) -> None:
        address, *arguments = given
        if address == "":
            midi.cancel()
            return
        for argument in arguments:
            # Over the network no file is opened by its path.
            if isinstance(argument, str) and any(part in argument for part in ("/", "\\", ".voice", ".json")):
                raise RefusedError(f"a name is needed, not a path, got {argument[:80]!r}")
        midi.learn(_address(address), *arguments)

    def forget(given: tuple[Argument, ...], peer: Peer) -> None:
        if len(given) != 1:
            raise RefusedError(f"one address is needed, got {len(given)} arguments")
        midi.forget(_address(given[0]))

    return [
        Node(
            f"{PREFIX}/midi/learn",
            "Bind what is touched next on the MIDI controller to an address; after it may stand a button's value, or low and "
            'high. "" ends learning. Without arguments: what is being learned.',
            names=lambda: list(ADDRESSES),
            read=lambda: (midi.learning,),
            write=learn,
        ),
        Node(f"{PREFIX}/midi/forget", "Remove what is bound to an address.", "s", names=lambda: list(ADDRESSES), write=forget),
        Node(f"{PREFIX}/midi/list", "What is bound to what.", read=lambda: tuple(map(str, midi.bindings.bindings))),
    ]


def _address(argument: Argument) -> str:
    if not isinstance(argument, str):
        raise RefusedError(f"an address is needed, got {str(argument)[:80]}")
    return argument
