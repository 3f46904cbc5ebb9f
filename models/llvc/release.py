"""From checkpoints to the bundled LLVC packs.

    python -m models.llvc.release --work FOLDER --out presets [--quality figures.json]

A card says what its teacher's says, and what the pairs were made of.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from models.command import run
from models.llvc.bank import LIMITS, write_voices
from models.llvc.checkpoint import load_generator
from models.llvc.export import ExportOptions
from models.llvc.network import VARIANTS
from models.pack import VoiceCard, VoicePack
from models.source_filter.data import read_table

SOURCES = "LibriSpeech (c) 2014 Vassil Panayotov, CC BY 4.0, 251 speakers, ten seconds each, and clips of the other bundled voices"


def pupil(table: dict[str, str], teacher: VoiceCard, quality: dict[str, float]) -> VoiceCard:
    """The card of a voice that learned from another voice's conversions."""
    about = {
        "name": table["name"],
        "display_name": table["display_name"],
        "kind": f"{table['variant']}, taught by {teacher.name}",
        "limits": table.get("limits", LIMITS),
        "credits": f"{teacher.credits}. Spoken and sung for the teacher to convert: {SOURCES}",
        "training_data": f"{SOURCES}, converted by {teacher.name}, which learned from: {teacher.training_data}",
        "quality": quality,
    }
    return VoiceCard.model_validate(teacher.model_dump() | about)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the bundled LLVC voices.")
    parser.add_argument("--work", type=Path, required=True, help="the folder of the checkpoints, NAME.pt")
    parser.add_argument("--out", type=Path, required=True, help="the folder of bank.voice, for the packs")
    parser.add_argument("--quality", type=Path, help="JSON: voice -> figure -> number, as measured")
    arguments = parser.parse_args()
    quality = json.loads(arguments.quality.read_text()) if arguments.quality else {}
    teachers = {card.name: card for card in VoicePack.open(arguments.out / "bank.voice").manifest.voices}
    for table in read_table(Path(__file__).with_name("release.toml"), "voice"):
        name = table["name"]
        generator = load_generator(arguments.work / f"{name}.pt", VARIANTS[table["variant"]])
        card = pupil(table, teachers[table["teacher"]], quality.get(name, {}))
        write_voices(generator, [card], card.display_name, ExportOptions(integer=True), arguments.out / f"{name}.voice")


if __name__ == "__main__":
    run(main)
