"""From a checkpoint to what is shipped: the base weights and a voice pack.

    python -m models.source_filter.bank --work FOLDER --out presets/bank.voice [--base models/source_filter/base.npz]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from models.command import run
from models.equaliser import read_equalisers
from models.pack import STREAM_MODEL, PackManifest, VoiceCard, write_pack
from models.schema import first_problem
from models.source_filter.data import Recordings, read_table
from models.source_filter.export import Tone, export_stream
from models.source_filter.features import SAMPLE_RATE
from models.source_filter.network import Network
from models.source_filter.tracker import load_tracker
from models.source_filter.weights import Trained, load_checkpoint, save_trained


def targets_only(trained: Trained) -> Trained:
    """Without the helping speakers' embeddings: nobody is to be imitated who did not lend their voice for it."""
    network = Network(replace(trained.network.config, voices=len(trained.voices)))
    state = trained.network.state_dict()
    state["voices.weight"] = state["voices.weight"][: len(trained.voices)]
    network.load_state_dict(state)
    return Trained(network.eval(), trained.prior, trained.voices)


def write_bank(trained: Trained, cards: list[VoiceCard], tones: list[Tone], title: str, licence: str, out: Path) -> None:
    """Export the stream graph and write the pack. `cards` and `tones` are in the order of the network's voices."""
    voices = {card.name: number for number, card in enumerate(cards)}
    if list(voices) != trained.voices:
        raise ValueError(f"expected cards for the voices {trained.voices}, got {list(voices)}")
    graph = export_stream(trained.network, trained.prior, load_tracker(), voices, tones)
    write_pack(out, PackManifest(title=title, voices=cards, sample_rate=SAMPLE_RATE, licence=licence), {STREAM_MODEL: graph})


def read_voices(
    recipe: Path, recordings: Recordings, quality: dict[str, dict[str, float]], network: str
) -> tuple[list[VoiceCard], list[Tone]]:
    """The `[[voice]]` tables of a recipe, with the range heard in the recordings and the measured figures.

    `network` is the one whose equalisers the tones have.
    """
    cards, tones, equalisers = [], [], read_equalisers(recipe, network)
    for table in read_table(recipe, "voice"):
        heard = recordings.f0_range_hz(table["name"])
        tone = Tone(**{"timbre_hz": heard, **table.pop("tone", {})})
        tones.append(replace(tone, equaliser_db=equalisers.get(table["name"], tone.equaliser_db)))
        table.pop("equaliser_db", None)
        rounded = (round(heard[0], 1), round(heard[1], 1))
        try:
            cards.append(VoiceCard(**table, f0_range_hz=rounded, quality=quality.get(table["name"], {})))
        except ValidationError as error:
            raise ValueError(f"expected the card of {table['name']} in {recipe}, but {first_problem(error)}") from None
    return cards, tones


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the bundled bank from a training run.")
    parser.add_argument("--work", type=Path, required=True, help="the training's folder: adversarial.pt, else checkpoint.pt")
    parser.add_argument("--out", type=Path, required=True, help="the pack to write")
    parser.add_argument("--base", type=Path, help="write the weights for training further voices here")
    parser.add_argument("--restraint", type=float, default=1.0, help="share of the content that the decoder is told")
    parser.add_argument("--quality", type=Path, help="JSON: voice -> figure -> number, as measured")
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("bank.toml"))
    arguments = parser.parse_args()
    finished = arguments.work / "adversarial.pt"
    trained = targets_only(load_checkpoint(finished if finished.exists() else arguments.work / "checkpoint.pt"))
    trained.network.encoder.whiten.restrain(arguments.restraint)
    quality = json.loads(arguments.quality.read_text()) if arguments.quality else {}
    cards, tones = read_voices(arguments.recipe, Recordings(arguments.work / "packed"), quality, "stream")
    if arguments.base:
        save_trained(trained, arguments.base)
    # The strictest of the voices' licences holds for the network that carries them all.
    licence = "GPL-3.0 and CC BY-SA 4.0, see each voice"
    write_bank(trained, cards, tones, "The bundled bank: pjs, kerstin, alys", licence, arguments.out)


if __name__ == "__main__":
    run(main)
