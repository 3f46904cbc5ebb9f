"""From the checkpoints of the stages that hear the words to `presets/clear.voice`: the bundled voices again, their words clearer.

    python -m models.clear --stream FOLDER --song FOLDER --out presets/clear.voice [--quality figures.json]

`FOLDER`s are those of `models.source_filter.adversarial` and `models.lhq.adversarial`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from models.command import run
from models.equaliser import read_equalisers
from models.lhq.bank import finished, member_name, song_graphs, stored
from models.pack import STREAM_MODEL, PackManifest, VoiceCard, write_pack
from models.source_filter.adversarial import CHECKPOINT
from models.source_filter.bank import read_voices, targets_only
from models.source_filter.data import Recordings
from models.source_filter.export import export_stream
from models.source_filter.features import SAMPLE_RATE
from models.source_filter.tracker import load_tracker
from models.source_filter.weights import load_checkpoint

SUFFIX = "-clear"
RECIPE = Path(__file__).parent / "source_filter" / "bank.toml"
# Of the content: all of it tells a few more of the words, and of the source's throat as well. The stream engine's pjs and kerstin,
# after 600 steps from the blend, had speaker cosines to the source of .61 and .60 with all of it.
RESTRAINT = 0.85


def clearer(card: VoiceCard, quality: dict[str, float]) -> VoiceCard:
    """The card of a bundled voice, as that of its clearer sister."""
    about = {
        "name": card.name + SUFFIX,
        "display_name": f"{card.display_name}, clear words",
        "kind": f"{card.kind}. Clearer words than {card.name}, less likeness",
        "limits": f"Less like the singer than {card.name}. {card.limits}",
        "training_data": f"{card.training_data}. Whisper tiny.en (OpenAI, MIT licence) heard whether the words survived",
        "quality": quality,
    }
    return VoiceCard.model_validate(card.model_dump() | about)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the bundled voices with clearer words.")
    parser.add_argument("--stream", type=Path, required=True, help="the folder of the stream engine's adversarial.pt")
    parser.add_argument("--song", type=Path, required=True, help="the folder of the song engine's sharp-student.pt")
    parser.add_argument("--out", type=Path, required=True, help="the pack to write")
    parser.add_argument("--quality", type=Path, help="JSON: voice -> figure -> number, as measured")
    arguments = parser.parse_args()
    quality = json.loads(arguments.quality.read_text()) if arguments.quality else {}
    cards, tones = read_voices(RECIPE, Recordings(arguments.stream / "packed"), {}, "clear_stream")
    names = [card.name for card in cards]
    trained = targets_only(load_checkpoint(arguments.stream / CHECKPOINT))
    if trained.voices != names:
        raise ValueError(f"expected a network of the voices {names}, got one of {trained.voices}")
    trained.network.encoder.whiten.restrain(RESTRAINT)
    cards = [clearer(card, quality.get(card.name + SUFFIX, {})) for card in cards]
    voices = {card.name: number for number, card in enumerate(cards)}
    equalisers = {name + SUFFIX: levels for name, levels in read_equalisers(RECIPE, "clear_song").items()}
    sisters = {name + SUFFIX: name for name in names}
    parts = song_graphs(arguments.song, finished(arguments.song, "lhq"), sisters, RESTRAINT, equalisers)
    songs = {part: member_name("lhq", part) for part in parts}
    members = {songs[part]: stored("lhq", graph) for part, graph in parts.items()}
    members[STREAM_MODEL] = export_stream(trained.network, trained.prior, load_tracker(), voices, tones)
    licence = "GPL-3.0 and CC BY-SA 4.0, see each voice"
    manifest = PackManifest(title="Clear words: pjs, kerstin, alys", voices=cards, sample_rate=SAMPLE_RATE, licence=licence)
    write_pack(arguments.out, manifest.model_copy(update={"songs": {"lhq": songs}}), members)


if __name__ == "__main__":
    run(main)
