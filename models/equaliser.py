"""Derives the equaliser of a voice (`dsp.equaliser`) from its recordings and from conversions into it.

    plugin-bridge convert other-people/ conversions/ --voice NAME [--engine song]
    python -m models.equaliser recordings/ conversions/

prints it, for the voice's table `[voice.equaliser_db]` in a recipe, which has one for each network.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from dsp.equaliser import RATE, equaliser_db, long_term_spectrum_db
from models.command import run
from models.source_filter.data import audio_files, load_mono, read_table
from models.source_filter.features import SAMPLE_RATE


def spectra(folder: Path) -> list[NDArray[np.float64]]:
    """Long-term spectra of all recordings below a folder; ValueError, one sentence, if there is none."""
    files = audio_files(folder)
    if not files:
        raise ValueError(f"expected recordings in {folder}, found no audio file there")
    return [long_term_spectrum_db(soxr.resample(load_mono(file), SAMPLE_RATE, RATE)) for file in files]


def read_equalisers(recipe: Path, network: str) -> dict[str, list[float]]:
    """The equalisers of a recipe's voices for one of their networks; a voice may have none."""
    found = {table["name"]: table.get("equaliser_db", {}).get(network) for table in read_table(recipe, "voice")}
    return {name: levels for name, levels in found.items() if levels}


def main() -> None:
    parser = argparse.ArgumentParser(description="Derive the equaliser of a voice.")
    parser.add_argument("recordings", type=Path, help="of the voice")
    parser.add_argument("conversions", type=Path, help="of other people into it, by a voice without an equaliser")
    arguments = parser.parse_args()
    found = equaliser_db(spectra(arguments.recordings), spectra(arguments.conversions))
    print(f"[{', '.join(f'{value:.1f}' for value in found)}]")


if __name__ == "__main__":
    run(main)
