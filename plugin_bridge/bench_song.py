"""How long the song engine takes from file to file, stage by stage, on a song whose every sound is made here."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pedalboard.io import AudioFile

from dsp.resampling import resample
from dsp.singer import Note, sing
from models.pack import Size
from plugin_bridge.render import SongRenderer
from plugin_bridge.songs import described
from plugin_bridge.voices import parse_voice

SAMPLE_RATE = 44_100
SINGER_RATE = 48_000
PAUSE_S = 1.5  # after each phrase: a song is not sung all the time
MELODY = (57, 59, 60, 64, 62, 60, 59, 57, 64, 65, 67, 64, 62, 59, 60, 57)
WARM_UP_S = 5.0  # rendered before anything is measured: the first slice loads libraries and faults pages in


def synthetic_song(seconds: float) -> NDArray[np.float32]:
    """A song [n] at 44.1 kHz of 10 s phrases with pauses between."""
    notes = [Note(pitch, 0.625, "aeiou"[k % 5], "mnslr"[k % 5]) for k, pitch in enumerate(MELODY)]
    phrase = resample(sing(notes, SINGER_RATE).audio, SINGER_RATE, SAMPLE_RATE)
    verse = np.concatenate([phrase, np.zeros(int(PAUSE_S * SAMPLE_RATE), np.float32)])
    return np.resize(verse, int(seconds * SAMPLE_RATE))


def measure_song(
    voice: str, size: Size, seconds: float, threads: tuple[int, ...] = (1, 2), steps: int = 1
) -> dict[str, Any]:
    """Render a song in so many steps with each number of threads; what `songs.described` says of each, by number.

    Raises
    ------
    ValueError
        For an unknown voice, or one without a song engine of this size.
    """
    renderer = SongRenderer(parse_voice(voice), size=size, steps=steps)
    runs: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        target = Path(folder) / "out.flac"
        for name, length in (("warm-up", WARM_UP_S), ("song", seconds)):
            source = Path(folder) / f"{name}.flac"
            with AudioFile(str(source), "w", SAMPLE_RATE, 1, bit_depth=24) as file:
                file.write(synthetic_song(length)[None])
            for count in threads:
                renderer.threads = count
                runs[str(count)] = described(renderer.render(source, target))
    for run in runs.values():
        del run["source"], run["target"]
    return {"voice": voice, "size": size, "seconds": seconds, "threads": runs}
