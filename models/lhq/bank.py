"""From the training's checkpoints to a voice pack that sings: the song engine's graphs beside the stream engine's.

    python -m models.lhq.bank --work FOLDER --out presets/bank.voice
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx
import torch

from models.lhq import export
from models.lhq.content import Conditioner, load_content
from models.lhq.train_content import CHECKPOINT as CONTENT
from models.lhq.train_denoiser import load_result
from models.lhq.vocoder import Vocoder, VocoderConfig
from models.pack import Part, Size, VoicePack, write_pack

STUDENTS: dict[Size, str] = {"lhq": "student.pt", "mobile": "mobile.pt"}
STORED: dict[Size, str] = {"lhq": "half", "mobile": "integer"}


def load_vocoder(path: Path) -> Vocoder:
    """The averaged network of a vocoder's checkpoint."""
    state = torch.load(path, weights_only=True)
    vocoder = Vocoder(VocoderConfig(**state["config"]))
    vocoder.load_state_dict(state["average"])
    return vocoder.eval()


def song_graphs(work: Path, student: str, voices: list[str]) -> dict[Part, onnx.ModelProto]:
    """The four graphs of one student of a work folder. `voices` are those of the pack, in its order.

    Raises ValueError, one sentence, if the training did not know all of them.
    """
    conditioner, trained = load_content(work / CONTENT)
    if missing := [voice for voice in voices if voice not in trained]:
        raise ValueError(f"expected a training of the voices {voices}, but {work / CONTENT} lacks {missing[0]!r}")
    # The condition network went on learning beside the denoiser.
    denoiser, conditioner = load_result(work / student, Conditioner(conditioner.config))
    return {
        "content": export.export_content(conditioner),
        "condition": export.export_condition(conditioner, {voice: trained.index(voice) for voice in voices}),
        "denoiser": export.export_denoiser(denoiser),
        "vocoder": export.export_vocoder(load_vocoder(work / "vocoder.pt")),
    }


def add_songs(pack: VoicePack, work: Path, out: Path) -> dict[Size, float]:
    """Write a pack with the song engine of a work folder added to it; megabytes of each size."""
    names = [card.name for card in pack.manifest.voices]
    songs: dict[Size, dict[Part, str]] = {}
    members = {name: pack.read(name) for name in pack.manifest.members if not name.startswith("song_")}
    sizes = {}
    for size, student in STUDENTS.items():
        if not (work / student).exists():
            continue
        graphs = song_graphs(work, student, names)
        songs[size] = {part: f"song_{size}_{part}.onnx" for part in graphs}
        made = {songs[size][part]: export.STORED[STORED[size]](graph).SerializeToString() for part, graph in graphs.items()}
        sizes[size] = sum(map(len, made.values())) / 1e6
        members |= made
    if not songs:
        raise ValueError(f"expected {' or '.join(STUDENTS.values())} in {work}, found neither")
    write_pack(out, pack.manifest.model_copy(update={"songs": songs}), members)
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description="Add the song engine to a voice pack.")
    parser.add_argument("--work", type=Path, required=True, help="the folder of train_content, train_denoiser, train_vocoder")
    parser.add_argument("--pack", type=Path, help="the pack to add it to, by default the one written")
    parser.add_argument("--out", type=Path, required=True, help="the pack to write")
    arguments = parser.parse_args()
    for size, megabytes in add_songs(VoicePack.open(arguments.pack or arguments.out), arguments.work, arguments.out).items():
        print(f"{size}: {megabytes:.1f} MB")


if __name__ == "__main__":
    main()
