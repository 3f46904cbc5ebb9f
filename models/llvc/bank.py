"""From a generator to a voice pack."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import ValidationError

from models.llvc.checkpoint import load_generator, read_config
from models.llvc.export import ExportOptions, export_stream
from models.llvc.network import Generator
from models.pack import STREAM_MODEL, PackManifest, VoiceCard, write_pack
from models.schema import NAME_PATTERN, first_problem


def write_voices(generator: Generator, cards: list[VoiceCard], title: str, options: ExportOptions, out: Path) -> None:
    """Export the stream graph and write the pack. `cards` are in the order of the generator's voices."""
    graph = export_stream(generator, [card.name for card in cards], options)
    licence = ", ".join(sorted({card.licence for card in cards}))
    manifest = PackManifest(title=title, voices=cards, sample_rate=generator.config.sample_rate, licence=licence)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_pack(out, manifest, {STREAM_MODEL: graph})


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
    if not re.match(NAME_PATTERN, name):
        raise ValueError(f"expected a name of up to 32 lower-case letters, digits, - and _, got {name!r}")
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
