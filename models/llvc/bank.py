"""From a generator, trained here or elsewhere, to a voice pack."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
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
from models.schema import NAME_PATTERN, first_problem


def write_voices(generator: Generator, cards: list[VoiceCard], title: str, options: ExportOptions, out: Path) -> None:
    """Export the stream graph and write the pack. `cards` are in the order of the generator's voices."""
    graph = export_stream(generator, [card.name for card in cards], options)
    licence = ", ".join(sorted({card.licence for card in cards}))
    manifest = PackManifest(title=title, voices=cards, sample_rate=generator.config.sample_rate, licence=licence)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_pack(out, manifest, {STREAM_MODEL: graph})


def train_voice(
    name: str,
    folder: Path,
    work: Path,
    out: Path,
    *,
    variant: str,
    recipe: Path | None,
    encoder: Path | None,
    steps: int,
    minutes: float | None,
    threads: int,
    device: torch.device,
    options: ExportOptions,
    progress: Callable[[TrainingProgress], None],
) -> None:
    """Train the voice `name` on the pairs in `folder`, on `device`, and write its pack to `out`.

    `encoder` adds the self-supervised loss: see `models.llvc.encoder_loss.load_encoder`.

    Stops after `steps`, or after `minutes` if that comes first. `work` keeps the checkpoint: called again with the same one,
    training goes on where it stopped. Raises ValueError, one sentence, where the pairs do not do.
    """
    check_name(name)
    stop_at = time.monotonic() + 60 * minutes if minutes else float("inf")
    torch.set_num_threads(threads)
    card = read_teacher(folder / TEACHER)
    config = read_recipe(recipe)
    network = VARIANTS[variant]
    training, validation = (Pairs(folder / split, network.sample_rate) for split in (TRAINING, VALIDATION))
    torch.manual_seed(config.seed)
    discriminators = discriminator_set("hifi-gan" if variant == "llvc-hfg" else "periods")
    hears = None if encoder is None else load_encoder(encoder, network.sample_rate)
    trainer = Trainer(pass_on(Generator(network)), discriminators, config, device, hears)
    report_every = max(1, min(1_000, steps // 20))
    generator = fit(trainer, training, validation, work, steps, progress, report_every=report_every, stop_at=stop_at)
    about = {"name": name, "display_name": name, "kind": f"{variant}, taught by {card.name}", "quality": {}}
    about["training_data"] = f"{len(training)} clips, converted by {card.name}, which learned from: {card.training_data}"[:10_000]
    write_voices(generator.cpu(), [card.model_copy(update=about)], name, options, out)


def check_name(name: str) -> None:
    """ValueError, one sentence, unless `name` can be a voice's."""
    if not re.match(NAME_PATTERN, name):
        raise ValueError(f"expected a name of up to 32 lower-case letters, digits, - and _, got {name!r}")


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
    """Make the voice pack `out` of a checkpoint and its `config.json`.

    Raises
    ------
    ValueError
        One sentence that says what does not fit: `CheckpointError`, `PackError` and `ModelError` are such.
    """
    check_name(name)
    generator = load_generator(checkpoint, read_config(config))
    try:
        card = VoiceCard(
            name=name,
            display_name=name,
            kind="LLVC",
            f0_range_hz=f0_range_hz,
            licence=licence,
            credits=credits,
            training_data="not told: imported from a checkpoint",
        )
    except ValidationError as error:
        raise ValueError(f"the voice cannot be described so: {first_problem(error)}") from None
    write_voices(generator, [card], f"{name}, imported from an LLVC checkpoint", options, out)
