"""From the training's checkpoints to a voice pack that sings: the song engine's graphs beside the stream engine's.

    python -m models.lhq.bank --work FOLDER --out presets/bank.voice --base models/lhq/base.npz
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import onnx
import torch

from models.checkpoint import restoring
from models.command import run
from models.equaliser import read_equalisers
from models.lhq import export
from models.lhq.content import Conditioner, Conditioning, load_content
from models.lhq.train_content import CHECKPOINT as CONTENT
from models.lhq.train_denoiser import TRACE, load_result
from models.lhq.vocoder import Vocoder, VocoderConfig
from models.lhq.weights import Base, save_base
from models.pack import Part, Size, VoicePack, write_pack
from models.source_filter.adversarial import Judges

STUDENTS: dict[Size, str] = {"lhq": "student.pt", "mobile": "mobile.pt"}
VOICES = Path(__file__).parent.parent / "source_filter" / "bank.toml"
STORED: dict[Size, str] = {"lhq": "half", "mobile": "integer"}


def load_vocoder(path: Path) -> Vocoder:
    """The averaged network of a vocoder's checkpoint. Raises CheckpointError if it does not hold one."""
    with restoring(path, "a vocoder's checkpoint") as state:
        vocoder = Vocoder(VocoderConfig(**state["config"]))
        vocoder.load_state_dict(state["average"])
        return vocoder.eval()


def song_graphs(
    work: Path, student: str, voices: dict[str, str], restraint: float, equalisers: dict[str, list[float]]
) -> dict[Part, onnx.ModelProto]:
    """The four graphs of one student of a work folder. `voices` are those of the pack, in its order, and their names in training.

    `restraint` is the share of the content that the condition network is told: see `Whiten.restrain`. `equalisers` are those of
    some of the pack's voices: see `dsp.equaliser`.

    Raises ValueError, one sentence, if the training did not know all of them.
    """
    conditioner, trained = load_content(work / CONTENT)
    if missing := [voice for voice in voices.values() if voice not in trained]:
        raise ValueError(f"expected a training of the voices {list(voices.values())}, but {work / CONTENT} lacks {missing[0]!r}")
    # The condition network went on learning beside the denoiser.
    denoiser, conditioner = load_result(work / student, Conditioner(conditioner.config))
    conditioner.encoder.whiten.restrain(restraint)
    return {
        "content": export.export_content(conditioner),
        "condition": export.export_condition(
            conditioner, {name: trained.index(voice) for name, voice in voices.items()}, equalisers=equalisers
        ),
        "denoiser": export.export_denoiser(denoiser),
        "vocoder": export.export_vocoder(load_vocoder(work / "vocoder.pt")),
    }


def finished(work: Path, size: Size) -> str:
    """The student of this size that ships: sharpened by stage 3, where that was run."""
    sharp = f"sharp-{STUDENTS[size]}"
    return sharp if (work / sharp).exists() else STUDENTS[size]


def member_name(size: Size, part: Part) -> str:
    """Of a graph in the packs that are written here."""
    return f"song_{size}_{part}.onnx"


def stored(size: Size, graph: onnx.ModelProto) -> bytes:
    """A graph as a file, its weights stored as is usual for the size."""
    data: bytes = export.STORED[STORED[size]](graph).SerializeToString()
    return data


def add_songs(pack: VoicePack, work: Path, out: Path, restraint: float = 1.0) -> dict[Size, float]:
    """Write a pack with the song engine of a work folder added to it; megabytes of each size."""
    names = [card.name for card in pack.manifest.voices]
    equalisers = {name: levels for name, levels in read_equalisers(VOICES, "song").items() if name in names}
    songs: dict[Size, dict[Part, str]] = {}
    members = {name: pack.read(name) for name in pack.manifest.members if not name.startswith("song_")}
    sizes = {}
    for size, student in STUDENTS.items():
        if not (work / student).exists():
            continue
        graphs = song_graphs(work, finished(work, size), {name: name for name in names}, restraint, equalisers)
        songs[size] = {part: member_name(size, part) for part in graphs}
        made = {songs[size][part]: stored(size, graph) for part, graph in graphs.items()}
        sizes[size] = sum(map(len, made.values())) / 1e6
        members |= made
    if not songs:
        raise ValueError(f"expected {' or '.join(STUDENTS.values())} in {work}, found neither")
    write_pack(out, pack.manifest.model_copy(update={"songs": songs}), members)
    return sizes


def write_base(work: Path, pack: VoicePack, out: Path) -> None:
    """The networks of a work folder that new voices begin with; `pack` is the one written from it, whose encoder they hear."""
    names = [card.name for card in pack.manifest.voices]
    conditioner, trained = load_content(work / CONTENT)
    student, conditioner = load_result(work / finished(work, "lhq"), Conditioner(conditioner.config))
    conditioning = Conditioning(replace(conditioner.config, voices=len(names)))
    conditioning.condition.load_state_dict(conditioner.condition.state_dict())
    with torch.no_grad():
        conditioning.voices.weight.copy_(conditioner.voices.weight[[trained.index(name) for name in names]])
    judges = Judges(1)
    with restoring(work / "vocoder.pt", "a vocoder's checkpoint") as state:
        judges.load_state_dict(state["judges"])
    encoder = pack.manifest.members[pack.manifest.songs["lhq"]["content"]]
    mobile = kept_blocks(work, len(student.blocks))
    save_base(Base(conditioning, student, mobile, load_vocoder(work / "vocoder.pt"), judges, encoder), out)


def kept_blocks(work: Path, blocks: int) -> tuple[int, ...]:
    """Numbers of the student's blocks that `mobile` has, by the trace of its evolution."""
    kept = list(range(blocks))
    for action in json.loads((work / TRACE).read_text())["actions"]:
        if action["size"] == "mobile":
            number = action["number"]
            kept[number : number + 1] = [kept[number]] * (2 if action["kind"] == "duplicate" else 0)
    return tuple(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description="Add the song engine to a voice pack.")
    parser.add_argument("--work", type=Path, required=True, help="the folder of train_content, train_denoiser, train_vocoder")
    parser.add_argument("--pack", type=Path, help="the pack to add it to, by default the one written")
    parser.add_argument("--out", type=Path, required=True, help="the pack to write")
    parser.add_argument("--restraint", type=float, default=1.0, help="share of the content that the condition network is told")
    parser.add_argument("--base", type=Path, help="write the weights for training further voices here")
    arguments = parser.parse_args()
    pack = VoicePack.open(arguments.pack or arguments.out)
    for size, megabytes in add_songs(pack, arguments.work, arguments.out, arguments.restraint).items():
        print(f"{size}: {megabytes:.1f} MB")
    if arguments.base:
        write_base(arguments.work, VoicePack.open(arguments.out), arguments.base)


if __name__ == "__main__":
    run(main)
