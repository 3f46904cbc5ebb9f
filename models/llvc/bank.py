"""From a generator, trained here or elsewhere, to a voice pack."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import ValidationError

from models.llvc.checkpoint import load_generator, read_config
from models.llvc.discriminators import discriminator_set
from models.llvc.encoder_loss import load_encoder
from models.llvc.export import ExportOptions, export_stream
from models.llvc.network import VARIANTS, Generator
from models.llvc.pairs import TEACHER, TRAINING, VALIDATION, Pairs, read_teacher
from models.llvc.start import pass_on
from models.llvc.train import Trainer, TrainingProgress, fit, read_recipe
from models.pack import STREAM_MODEL, PackManifest, VoiceCard, write_pack
from models.schema import MAX_LINE, check_name, first_problem

# Of a voice that shapes its source's own sound.
LIMITS = "It shapes the source's own sound: likeness is least where the source is far from the target, and no pitch is its own."


def write_voices(generator: Generator, cards: list[VoiceCard], title: str, options: ExportOptions, out: Path) -> None:
    """Export the stream graph and write the pack. `cards` are in the order of the generator's voices."""
    graph = export_stream(generator, [card.name for card in cards], options)
    licence = ", ".join(sorted({card.licence for card in cards}))
    if len(licence) > MAX_LINE:
        licence = "those of the voices"
    manifest = PackManifest(title=title, voices=cards, sample_rate=generator.config.sample_rate, licence=licence)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_pack(out, manifest, {STREAM_MODEL: graph})


def train_voice(
    name: str,
    folders: list[Path],
    work: Path,
    out: Path,
    *,
    variant: str,
    recipe: Path | None,
    encoder: Path | None,
    start: Path | None,
    steps: int,
    minutes: float | None,
    threads: int,
    device: torch.device,
    options: ExportOptions,
    progress: Callable[[TrainingProgress], None],
) -> None:
    """Train the voice `name` on the pairs in one of `folders`, on `device`, and write its pack to `out`.

    Of several folders the network gets as many voices, `name`-TEACHER each, which can be blended.
    Training begins with `start`, a checkpoint of the variant with as many voices, ours or the authors', or without one as
    `models.llvc.start` has it. `encoder` adds the self-supervised loss: see `models.llvc.encoder_loss.load_encoder`.

    Stops after `steps`, or after `minutes` if that comes first. `work` keeps the checkpoint: called again with the same one,
    training goes on where it stopped. Raises ValueError, one sentence, where the pairs do not do.
    """
    teachers = [read_teacher(folder / TEACHER) for folder in folders]
    names = [name] if len(teachers) == 1 else [f"{name}-{teacher.name}" for teacher in teachers]
    for one in names:
        check_name(one)
    if len(set(names)) < len(names):
        raise ValueError(f"expected pairs of another voice in each folder, got {', '.join(teacher.name for teacher in teachers)}")
    stop_at = time.monotonic() + 60 * minutes if minutes else float("inf")
    torch.set_num_threads(threads)
    config = read_recipe(recipe)
    network = replace(VARIANTS[variant], voices=len(teachers))
    (first, *others), rate = folders, network.sample_rate
    training, validation = (Pairs(first / part, rate, *(one / part for one in others)) for part in (TRAINING, VALIDATION))
    torch.manual_seed(config.seed)
    discriminators = discriminator_set("hifi-gan" if variant == "llvc-hfg" else "periods")
    hears = None if encoder is None else load_encoder(encoder, network.sample_rate)
    generator = pass_on(Generator(network)) if start is None else load_generator(start, network)
    trainer = Trainer(generator, discriminators, config, device, hears)
    report_every = max(1, min(1_000, steps // 20))
    generator = fit(trainer, training, validation, work, steps, progress, report_every=report_every, stop_at=stop_at)
    cards = []
    for voice, (own, teacher) in enumerate(zip(names, teachers, strict=True)):
        clips = sum(pair.voice == voice for pair in training.pairs)
        about = {"name": own, "display_name": own, "kind": f"{variant}, taught by {teacher.name}", "limits": LIMITS, "quality": {}}
        about["training_data"] = f"{clips} clips, converted by {teacher.name}, which learned from: {teacher.training_data}"[:10_000]
        cards.append(teacher.model_copy(update=about))
    write_voices(generator.cpu(), cards, name, options, out)


def import_checkpoint(
    checkpoint: Path,
    config: Path,
    name: str,
    out: Path,
    *,
    options: ExportOptions,
    licence: str,
    credits: str,
    f0_range_hz: tuple[float, float],
) -> None:
    """Make the voice pack `out` of a checkpoint and its `config.json`. Several voices are called `name`-1, `name`-2 and so on.

    Raises
    ------
    ValueError
        One sentence that says what does not fit: `CheckpointError`, `PackError` and `ModelError` are such.
    """
    network = read_config(config)
    names = [name] if network.voices == 1 else [f"{name}-{number}" for number in range(1, network.voices + 1)]
    for one in names:
        check_name(one)
    generator = load_generator(checkpoint, network)
    try:
        cards = [
            VoiceCard(
                name=one,
                display_name=one,
                kind="LLVC",
                f0_range_hz=f0_range_hz,
                licence=licence,
                credits=credits,
                training_data="not told: imported from a checkpoint",
            )
            for one in names
        ]
    except ValidationError as error:
        raise ValueError(f"the voice cannot be described so: {first_problem(error)}") from None
    write_voices(generator, cards, f"{name}, imported from an LLVC checkpoint", options, out)
