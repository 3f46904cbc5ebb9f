"""Pairs whose conversions have their target's long-term spectrum.

A voice that filters its source keeps some of the source's colour, in each recording another one. Taught by its own conversions,
those of each recording equalised (`dsp.equaliser`), it loses a part of it within a few hundred steps:

    plugin-bridge make-pairs NAME other-people/ pairs/
    python -m models.llvc.equalised recordings/ pairs/ equalised/
    plugin-bridge train-llvc NAME equalised/ work/ --start NAME.pt --recipe models/llvc/equalised.toml

`recordings` are the target's, of any rate: of theirs, and of pairs at 48 kHz, what lies above 8 kHz has no part in it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray
from pedalboard.io import AudioFile

from dsp.equaliser import RATE, equalised, equaliser_db, long_term_spectrum_db
from models.command import run
from models.equaliser import spectra
from models.llvc.pairs import CONVERTED, ORIGINAL, TEACHER, TRAINING, VALIDATION
from models.replacing import replacing

RATES = (RATE, 48_000)  # of pairs: those of LLVC's variants
HIGHEST_PEAK = 0.99
CLIP_NUMBER = len("_000")  # at the end of a clip's name: before it is the recording's


def read(path: Path) -> tuple[NDArray[np.float32], int]:
    """A clip [n] and its rate; ValueError, one sentence, for another rate than LLVC's."""
    with AudioFile(str(path)) as file:
        rate = int(file.samplerate)
        if rate not in RATES:
            raise ValueError(f"expected pairs of {' or '.join(map(str, RATES))} Hz, but {path} has {file.samplerate:g} Hz")
        return np.asarray(file.read(file.frames)[0], np.float32), rate


def write(path: Path, audio: NDArray[np.float32], rate: int) -> None:
    """16 bits, beside first and then renamed."""
    with replacing(path) as stream, AudioFile(stream, "w", rate, 1, bit_depth=16, format="wav") as file:
        file.write(audio[None])


def equalise(target: list[NDArray[np.float64]], pairs: Path, out: Path) -> int:
    """Write the pairs of `pairs`/train and val into `out`, equalised to spectra of the target; the number of recordings.

    Raises ValueError, one sentence, if there are none, or `out` is `pairs`.
    """
    if out.resolve() == pairs.resolve():
        raise ValueError(f"the equalised pairs need another folder than those that they are made of, {pairs}")
    recordings: dict[tuple[str, str], list[str]] = {}
    for part in (TRAINING, VALIDATION):
        (out / part).mkdir(parents=True, exist_ok=True)
        for path in sorted((pairs / part).glob(f"*{CONVERTED}")):
            name = path.name.removesuffix(CONVERTED)
            recordings.setdefault((part, name[:-CLIP_NUMBER]), []).append(name)
    if not recordings:
        raise ValueError(f"expected pairs such as train/a_000{CONVERTED} in {pairs}, found none")
    for (part, _), names in recordings.items():
        converted = [read(pairs / part / (name + CONVERTED)) for name in names]
        heard = np.concatenate([clip if rate == RATE else soxr.resample(clip, rate, RATE) for clip, rate in converted])
        lack = equaliser_db(target, [long_term_spectrum_db(heard)])
        for name, (clip, rate) in zip(names, converted, strict=True):
            made = equalised(clip, list(lack), rate)
            # Both halves softer alike, where one would be too loud.
            softer = np.float32(min(1.0, HIGHEST_PEAK / max(float(np.abs(made).max()), 1e-9)))
            write(out / part / (name + CONVERTED), made * softer, rate)
            original, rate = read(pairs / part / (name + ORIGINAL))
            write(out / part / (name + ORIGINAL), original * softer, rate)
    shutil.copy(pairs / TEACHER, out / TEACHER)
    return len(recordings)


def main() -> None:
    parser = argparse.ArgumentParser(description="Equalise the conversions of pairs to the recordings of their target.")
    parser.add_argument("recordings", type=Path, help="of the target")
    parser.add_argument("pairs", type=Path, help="as plugin-bridge make-pairs makes them")
    parser.add_argument("out", type=Path, help="the folder for the pairs to learn from")
    arguments = parser.parse_args()
    print(f"{equalise(spectra(arguments.recordings), arguments.pairs, arguments.out)} recordings")


if __name__ == "__main__":
    run(main)
