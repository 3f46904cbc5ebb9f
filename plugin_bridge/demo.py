"""The demonstration: one sung phrase through a chain with each bundled voice, as sound, figures and one page."""

from __future__ import annotations

import importlib.resources
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pedalboard import Compressor, Reverb
from pedalboard.io import AudioFile

from dsp.pitch import compare_pitch, track_pitch
from plugin_bridge.board import Board
from plugin_bridge.convert import automatic_transposition, voice_range_hz
from plugin_bridge.converter import VoiceConverter
from plugin_bridge.files import BIT_DEPTH, FileError, replacing
from plugin_bridge.recording import open_recording
from plugin_bridge.report import Take, cents, write_report
from plugin_bridge.voices import find_voice

LIVE_BLOCK = 512  # the block for which the latency is told: what audio interfaces commonly run at
PAGE = "report.html"
HEADS = ("Voice", "x real time", "Latency", "Pitch error", "Transposed")


@dataclass(frozen=True)
class DemoResult:
    """One voice's conversion of the demo phrase.

    Attributes
    ----------
    path : Path
        The audio file.
    transposition : float
        Semitones by which the phrase was moved into the voice's range.
    times_real_time : float
        Speed of the whole chain, on one thread.
    latency_samples : int
        Of the converter, live, at the phrase's rate and blocks of 512; `latency_ms` is the same in ms.
    pitch_error_cents : float
        Median distance from the source's pitch, moved; of the converter alone, since reverberation holds old notes.
    """

    voice: str
    path: Path
    transposition: float
    times_real_time: float
    latency_samples: int
    latency_ms: float
    pitch_error_cents: float


def run_demo(folder: Path, voices: list[str], done: Callable[[DemoResult], None]) -> Path:
    """Convert the demo phrase to each voice, write the audio and one page into `folder`, and return the page's path.

    `done` is called with each result as it is there.

    Raises
    ------
    ValueError
        If there is no such voice or something cannot be written.
    """
    if folder.is_file():
        raise FileError(f"{folder} is a file, but the demo needs a folder to write to")
    # An unknown voice is told before the work. A pack's path stands for its first voice.
    converters = {find_voice(voice).card.name: VoiceConverter(voice) for voice in voices}
    phrase, rate = demo_phrase()
    source = track_pitch(phrase, rate)
    rows = [HEADS]
    takes: list[Take] = []
    for voice, converter in converters.items():
        semitones = automatic_transposition(source.median_hz, *voice_range_hz(converter.voice))
        converter.pitch_shift = semitones
        board = Board([Compressor(), converter, Reverb()])
        board(phrase[:, : int(rate)], rate)  # loads the model and the plugins: not what the speed is about
        start = time.perf_counter()
        converted = np.asarray(board(phrase, rate), np.float32)
        elapsed = time.perf_counter() - start
        pitch = track_pitch(converter(phrase, rate), rate)
        converter.prepare(rate, LIVE_BLOCK, 1)
        path = folder / f"demo_{voice}.wav"
        with replacing(path) as file, AudioFile(file, "w", rate, 1, bit_depth=BIT_DEPTH, format="wav") as writer:
            writer.write(converted)
        result = DemoResult(
            voice=voice,
            path=path,
            transposition=semitones,
            times_real_time=phrase.shape[1] / rate / elapsed,
            latency_samples=converter.latency_samples,
            latency_ms=1e3 * converter.latency_samples / rate,
            pitch_error_cents=compare_pitch(source, pitch, semitones).median_cents,
        )
        cells = describe(result)
        rows.append(cells)
        facts = [(head, cell) for head, cell in zip(HEADS, cells, strict=True) if head not in ("Voice", "Pitch error")]
        takes.append(Take(voice, phrase, converted, rate, source, pitch, semitones, facts))
        done(result)
    page = folder / PAGE
    lead = (
        "A sung phrase of ten seconds through Board([Compressor(), VoiceConverter(voice), Reverb()]), once for each "
        "voice, in time to the sample. Pitch is measured ahead of the reverb, which holds old notes under new ones."
    )
    write_report(page, "One phrase, another singer", lead, rows, takes)
    return page


def demo_phrase() -> tuple[NDArray[np.float32], int]:
    """The bundled phrase, [1, n], and its sample rate."""
    with (
        importlib.resources.as_file(importlib.resources.files("presets") / "demo_phrase.flac") as path,
        open_recording(path) as recording,
    ):
        return recording.read(0, recording.samples), int(recording.sample_rate)


def describe(result: DemoResult) -> tuple[str, str, str, str, str]:
    """A result's cells for people, under `HEADS`."""
    return (
        result.voice,
        f"{result.times_real_time:.1f}",
        f"{result.latency_samples} samples ({result.latency_ms:.1f} ms)",
        cents(result.pitch_error_cents),
        f"{result.transposition:+g} semitones" if result.transposition else "no",
    )
