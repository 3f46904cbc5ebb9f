"""Moments of a recording and of its conversion, one above the other, so close that a burst which rises 5 ms late shows it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator
from numpy.typing import NDArray

from dsp.noises import KINDS, Noise
from dsp.spectra import spectrogram
from plugin_bridge.recording import open_recording

SHOWN_S = 0.3  # some 360 pixels: more than one a ms
SIDE_BY_SIDE = 3
WINDOW_S, HOP_S = 0.005, 0.0005  # bursts stay bursts; partials need not be told apart
BANDS_HZ = np.arange(100.0, 16_001.0, 100.0)  # linear: what hisses, hisses in the upper octaves
RANGE_DB = 60.0  # from the pair's loudest point down


@dataclass(frozen=True)
class CloseUp:
    """A moment, before and after.

    Attributes
    ----------
    recording : str
        Its name.
    noise : Noise
        What is to be seen, in the middle.
    before, after : float32 [n]
        From `start_s` on.
    sample_rate : Hz
    start_s : float
        Where in the recording they begin.
    """

    recording: str
    noise: Noise
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    sample_rate: float
    start_s: float


def clearest(found: Iterable[tuple[Path, Path, Sequence[Noise]]]) -> dict[str, list[CloseUp]]:
    """Of each kind of which there is any the three clearest, from different recordings as far as there are.

    Parameters
    ----------
    found
        For each recording its path, its conversion's, and its noises, the clearest first.

    Raises
    ------
    FileError
        If one of the files can no longer be read.
    """
    ranked = []
    for source, target, noises in found:
        for kind in KINDS:
            ranked += [(rank, noise, source, target) for rank, noise in enumerate(n for n in noises if n.kind == kind)]
    ranked.sort(key=lambda place: (place[0], -place[1].clarity_db))
    shown = {kind: [place for place in ranked if place[1].kind == kind][:SIDE_BY_SIDE] for kind in KINDS}
    return {kind: [_read(*place[1:]) for place in places] for kind, places in shown.items() if places}


def _read(noise: Noise, source: Path, target: Path) -> CloseUp:
    with open_recording(source) as recording:
        rate = recording.sample_rate
        start, length = max(0, round((noise.time_s - SHOWN_S / 2) * rate)), round(SHOWN_S * rate)
        before = recording.read(start, length).mean(axis=0)
    with open_recording(target) as recording:
        after = recording.read(start, length).mean(axis=0)
    return CloseUp(source.name, noise, before, after, rate, start / rate)


def draw_close_ups(close_ups: Sequence[CloseUp]) -> bytes:
    """Their picture as PNG, side by side, each with its source above its conversion."""
    figure = Figure(figsize=(11, 5.2), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, SIDE_BY_SIDE, sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(left=0.06, right=0.98, bottom=0.1, top=0.98, wspace=0.13, hspace=0.08)
    for column, close_up in zip(axes.T, close_ups, strict=False):
        _draw_pair(column, close_up)
    highest_hz = min(float(BANDS_HZ[-1]), max(close_up.sample_rate for close_up in close_ups) / 2)
    axes[0, 0].set_ylim(0, highest_hz / 1e3)
    for ax in axes[:, len(close_ups) :].flat:
        ax.set_axis_off()
    for ax, name in zip(axes[:, 0], ("Before", "After"), strict=True):
        ax.set_ylabel(f"{name}: kHz")
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _draw_pair(column: Sequence[Axes], close_up: CloseUp) -> None:
    bands = BANDS_HZ[close_up.sample_rate / 2 >= BANDS_HZ]
    shown = [
        spectrogram(np.clip(np.nan_to_num(audio), -4, 4), close_up.sample_rate, bands, window_s=WINDOW_S, hop_s=HOP_S)
        for audio in (close_up.before, close_up.after)
    ]
    top = max(float(spectra.level_db.max(initial=-RANGE_DB)) for spectra in shown)
    first_ms = 1e3 * (close_up.start_s - close_up.noise.time_s)
    for ax, spectra in zip(column, shown, strict=True):
        last_ms = first_ms + 1e3 * float(spectra.times_s[-1])
        ax.imshow(
            spectra.level_db,
            origin="lower",
            aspect="auto",
            extent=(first_ms, last_ms, bands[0] / 1e3, bands[-1] / 1e3),
            vmin=top - RANGE_DB,
            vmax=top,
            cmap="magma",
            interpolation="bilinear",
        )
        ax.set_xlim(-500 * SHOWN_S, 500 * SHOWN_S)
        ax.xaxis.set_major_locator(MultipleLocator(50))
        ax.xaxis.set_minor_locator(MultipleLocator(10))
        ax.grid(True, axis="x", color="white", alpha=0.35, lw=0.6)
    column[1].set_xlabel(f"ms from {close_up.noise.time_s:.3f} s")


def label(close_up: CloseUp) -> str:
    """Kind, recording and time, for people: beside the picture, whose font does not have the letters of every name."""
    minutes, seconds = divmod(close_up.noise.time_s, 60)
    return f"{close_up.noise.kind.capitalize()}, {close_up.recording}, {minutes:.0f}:{seconds:05.2f}"
