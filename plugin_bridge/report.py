"""One page that shows and plays conversions: a single HTML file that needs nothing else, not even a network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray
from pedalboard.io import AudioFile

from dsp.pitch import PitchTrack, compare_pitch, track_pitch
from dsp.resampling import HIGHEST_RATE, resample
from dsp.spectra import Spectrogram, spectrogram
from plugin_bridge.closeups import CloseUp, draw_close_ups, label
from plugin_bridge.files import MOST_CHANNELS, replacing
from plugin_bridge.recording import BLOCK_SAMPLES, Recording, audible, open_recording

EXCERPT_S = 15.0  # of each recording: some 2 MB of the page, and still readable as a picture
MOST_TAKES = 12  # on one page, which stays below some 50 MB
RANGE_DB = 80.0  # from the loudest point down; below it, rooms and reverbs hide the voice
BANDS_HZ = np.geomspace(60.0, 16000.0, 288)
BEFORE, AFTER = "#8a8f98", "#d1495b"  # apart in lightness too, for eyes that do not tell red from green
OVERLAY = "#7ee8fa"
_KEYS = ("C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B")


@dataclass(frozen=True)
class Take:
    """A recording and its conversion, as the page shows them.

    Attributes
    ----------
    before, after : float32 [channels, n]
    sample_rate : Hz of both
    before_pitch, after_pitch : PitchTrack
        Of the two; the conversion's may be measured ahead of effects that blur it.
    shift_semitones : float
        By which the conversion is meant to be higher than the source.
    facts
        Pairs of a name and a value, listed below the heading.
    """

    heading: str
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    sample_rate: float
    before_pitch: PitchTrack
    after_pitch: PitchTrack
    shift_semitones: float
    facts: Sequence[tuple[str, str]]


def take_from_files(heading: str, source: Path, target: Path, shift_semitones: float, facts: Sequence[tuple[str, str]]) -> Take:
    """The loudest 15 seconds of a recording and the same seconds of its conversion."""
    with open_recording(source) as recording:
        rate = recording.sample_rate
        length = int(EXCERPT_S * rate)
        start = _loudest_start(recording, length)
        before = recording.read(start, length)
    with open_recording(target) as recording:
        after = recording.read(start, length)
    if before.shape[1] == length:
        facts = [*facts, ("Shown", f"{_clock(start / rate)} to {_clock((start + before.shape[1]) / rate)}")]
    before_pitch, after_pitch = track_pitch(_mono(before), rate), track_pitch(_mono(after), rate)
    return Take(heading, before, after, rate, before_pitch, after_pitch, shift_semitones, facts)


def write_report(
    path: Path,
    title: str,
    lead: str,
    table: Sequence[Sequence[str]],
    takes: Sequence[Take],
    close_ups: Mapping[str, Sequence[CloseUp]] | None = None,
) -> None:
    """Write the page.

    Parameters
    ----------
    title, lead
        Its heading and the sentences below it.
    table
        Rows of cells, the first row being the column heads.
    takes
        Each holds its audio: more than `MOST_TAKES` make a page that browsers take long to open.
    close_ups
        By kind, as `plugin_bridge.closeups.clearest` has them; drawn before the takes.

    Raises
    ------
    FileError
        If the page cannot be written.
    """
    sections = "\n".join(_section(number, take) for number, take in enumerate(takes))
    if close_ups:
        sections = _close_ups(close_ups) + sections
    page = _PAGE.format(title=html.escape(title), lead=html.escape(lead), table=_table(table), sections=sections)
    with replacing(path) as file:
        file.write(page.encode("utf-8", "backslashreplace"))


def _loudest_start(recording: Recording, length: int) -> int:
    """Where the `length` samples with the most energy begin, to a second or two: a stem may be silent for minutes."""
    energy = [float(np.square(np.clip(np.nan_to_num(block), -1, 1), dtype=np.float64).sum()) for block in recording.blocks()]
    window = max(1, length // BLOCK_SAMPLES)
    if recording.samples <= length:
        return 0
    return BLOCK_SAMPLES * int(np.argmax(np.convolve(energy, np.ones(window), "valid")))


def _section(number: int, take: Take) -> str:
    agreement = compare_pitch(take.before_pitch, take.after_pitch, take.shift_semitones)
    facts = [*take.facts, ("Pitch error", cents(agreement.median_cents))]
    moved = f" moved by {take.shift_semitones:+g} semitones" if take.shift_semitones else ""
    description = (
        f"Three pictures over the same time for {take.heading}: the spectrogram before, median pitch "
        f"{hertz(take.before_pitch.median_hz)}; the spectrogram after, median pitch {hertz(take.after_pitch.median_hz)}; and both "
        f"pitch curves, the source's{moved}, median distance {cents(agreement.median_cents)}."
    )
    return _SECTION.format(
        number=number,
        heading=html.escape(take.heading),
        facts="".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in facts),
        before=_data_url("audio/flac", _flac(take.before, take.sample_rate)),
        after=_data_url("audio/flac", _flac(take.after, take.sample_rate)),
        picture=_data_url("image/png", draw(take)),
        description=html.escape(description),
    )


def _close_ups(close_ups: Mapping[str, Sequence[CloseUp]]) -> str:
    pictures = "\n".join(
        _CLOSE_UP.format(
            picture=_data_url("image/png", draw_close_ups(pairs)),
            labels="".join(f"<span>{html.escape(label(pair))}</span>" for pair in pairs),
            description=html.escape(f"Spectrograms, the source's above the conversion's: {'; '.join(map(label, pairs))}."),
        )
        for pairs in close_ups.values()
    )
    return _CLOSE_UPS.format(pictures=pictures)


def draw(take: Take) -> bytes:
    """The picture of a take as PNG: both spectrograms with their pitch, and both pitch curves."""
    figure = Figure(figsize=(11, 8.2), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, 1, sharex=True, height_ratios=[1, 1, 0.8])
    shown = [_spectrogram(audio, take.sample_rate) for audio in (take.before, take.after)]
    tracks = (take.before_pitch, take.after_pitch)
    for ax, spectra, track, name in zip(axes, shown, tracks, ("Before", "After"), strict=False):
        _draw_spectrogram(ax, spectra, track, name)
    _draw_pitch(axes[2], take)
    axes[2].set_xlabel("Time in s")
    axes[2].set_xlim(0, max(take.before.shape[1], 1) / take.sample_rate)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _draw_spectrogram(ax: Axes, shown: Spectrogram, track: PitchTrack, name: str) -> None:
    # Bands are equally spaced in the logarithm: drawn as an image over octaves, labelled in Hz.
    octaves = np.log2(shown.frequencies_hz)
    top = float(shown.level_db.max(initial=-RANGE_DB))
    end = float(shown.times_s[-1]) if len(shown.times_s) else 1.0
    ax.imshow(
        shown.level_db,
        origin="lower",
        aspect="auto",
        extent=(0.0, max(end, 1e-3), float(octaves[0]), float(octaves[-1])),
        vmin=top - RANGE_DB,
        vmax=top,
        cmap="magma",
        interpolation="bilinear",
    )
    ax.plot(track.times_s, np.log2(np.where(track.voiced, track.hz, np.nan)), color=OVERLAY, lw=1.1)
    ticks = np.array([100, 200, 500, 1000, 2000, 5000, 10000])
    ax.set_yticks(np.log2(ticks), [f"{hz:g}" if hz < 1000 else f"{hz // 1000}k" for hz in ticks])
    ax.set_ylim(float(octaves[0]), float(octaves[-1]))
    ax.set_ylabel("Frequency in Hz")
    ax.set_title(name, loc="left", fontweight="bold")


def _draw_pitch(ax: Axes, take: Take) -> None:
    before, after = take.before_pitch, take.after_pitch
    wanted = before.hz * 2 ** (take.shift_semitones / 12)
    moved = f", moved by {take.shift_semitones:+g} semitones" if take.shift_semitones else ""
    ax.plot(before.times_s, np.where(before.voiced, wanted, np.nan), color=BEFORE, lw=3.4, label=f"before{moved}")
    ax.plot(after.times_s, np.where(after.voiced, after.hz, np.nan), color=AFTER, lw=1.3, label="after")
    ax.set_yscale("log", base=2)
    heard = np.concatenate([wanted[before.voiced], after.hz[after.voiced]])
    # The middle 99 %: a lone octave error must not squeeze the melody flat.
    low, high = np.quantile(heard, [0.005, 0.995]) if len(heard) else (100.0, 400.0)
    ax.set_ylim(low / 1.12, high * 1.12)
    lowest, highest = (int(np.round(12 * np.log2(hz / 440) + 69)) for hz in ax.get_ylim())
    # White keys, then a triad, then Cs: as many as there is room for.
    keys = "CDEFGAB" if highest - lowest <= 15 else "CEG" if highest - lowest <= 30 else "C"
    notes = [note for note in range(lowest, highest + 1) if _KEYS[note % 12] in keys]
    ax.set_yticks([440 * 2 ** ((note - 69) / 12) for note in notes], [_note_name(note) for note in notes])
    ax.set_ylim(low / 1.12, high * 1.12)
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(True, color="#e3e5e8", lw=0.8)
    ax.set_ylabel("Pitch")
    ax.set_title("Pitch before and after", loc="left", fontweight="bold")
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False, ncols=2)  # above: nothing is covered


def cents(value: float) -> str:
    """A pitch distance for people."""
    return "no pitch" if np.isnan(value) else f"{value:.1f} cents"


def hertz(value: float) -> str:
    """A pitch for people."""
    return "none" if np.isnan(value) else f"{value:.0f} Hz"


def _spectrogram(audio: NDArray[np.float32], sample_rate: float) -> Spectrogram:
    return spectrogram(_mono(audio), sample_rate, BANDS_HZ)


def _mono(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    # Float files may hold anything: what is not finite is drawn as silence, what is out of range as its limit.
    mono: NDArray[np.float32] = np.clip(np.nan_to_num(audio, nan=0, posinf=0, neginf=0), -4, 4).mean(axis=0)
    return mono


def _flac(audio: NDArray[np.float32], sample_rate: float) -> bytes:
    # FLAC: every browser of today plays it, and before and after stay in time to the sample.
    rate = int(sample_rate)
    if audio.shape[0] > MOST_CHANNELS["flac"]:
        audio = _mono(audio)[None]
    if rate > HIGHEST_RATE or (rate >= 1 << 16 and rate % 10):  # FLAC counts so high in tens, and not without end
        audio = np.stack([resample(channel, rate, HIGHEST_RATE) for channel in audible(audio)])
        rate = HIGHEST_RATE
    return AudioFile.encode(audio, rate, "flac", num_channels=audio.shape[0], bit_depth=16)


def _note_name(midi: int) -> str:
    return f"{_KEYS[midi % 12]}{midi // 12 - 1}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    heads = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    lines = [
        f'<tr><th scope="row">{html.escape(row[0])}</th>' + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in body
    ]
    return f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody>"


_SECTION = """<section aria-labelledby="take-{number}">
<h2 id="take-{number}">{heading}</h2>
<dl>{facts}</dl>
<div class="players">
<figure><figcaption>Before</figcaption>
<audio controls preload="metadata" aria-label="{heading}, before" src="{before}"></audio></figure>
<figure><figcaption>After</figcaption>
<audio controls preload="metadata" aria-label="{heading}, after" src="{after}"></audio></figure>
</div>
<img src="{picture}" alt="{description}" width="1210" height="902">
</section>"""

_CLOSE_UPS = """<section aria-labelledby="close-ups">
<h2 id="close-ups">Sibilants, plosives and breath</h2>
<p>The clearest of each kind that were found in the sources, 0.3 s around it, above the same moment of the conversion, in windows of
5 ms: a burst that is smeared, late or missing shows here.</p>
{pictures}
</section>
"""

_CLOSE_UP = """<figure class="close-ups">
<figcaption>{labels}</figcaption>
<img src="{picture}" alt="{description}" width="1210" height="572">
</figure>"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1c1f24; --soft: #59616c; --page: #f4f5f7; --card: #ffffff; --line: #dfe2e6;
  --accent: #b3364a; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #eceef1; --soft: #a6aeb9; --page: #14161a; --card: #1e2127;
  --line: #343942; --accent: #ff8296; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }}
main {{ max-width: 1100px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }}
h1 {{ font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.01em; }}
h1::after {{ content: ""; display: block; width: 3.5rem; height: 4px; margin-top: .8rem; border-radius: 2px;
  background: var(--accent); }}
h2 {{ font-size: 1.3rem; margin: 0 0 .75rem; overflow-wrap: anywhere; }}
p {{ color: var(--soft); max-width: 70ch; }}
section, .results {{ background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  padding: 1.4rem; margin-top: 1.5rem; }}
.results {{ overflow-x: auto; padding: .6rem 1.4rem; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .55rem 1.2rem .55rem 0; border-bottom: 1px solid var(--line); }}
tbody tr:last-child > * {{ border-bottom: 0; }}
thead th {{ color: var(--soft); font-weight: 500; font-size: .875rem; white-space: nowrap; }}
dl {{ display: flex; flex-wrap: wrap; gap: .4rem 2rem; margin: 0 0 1rem; }}
dt {{ color: var(--soft); font-size: .875rem; }}
dd {{ margin: 0; font-variant-numeric: tabular-nums; font-weight: 600; }}
.players {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: 1rem; }}
figure {{ margin: 0; }}
figcaption {{ font-weight: 600; margin-bottom: .3rem; }}
.close-ups {{ margin-top: 1.2rem; }}
.close-ups figcaption {{ display: grid; grid-template-columns: repeat(3, 1fr); gap: 0 2.5%; padding-left: 6%; margin: 0;
  font-size: .875rem; overflow-wrap: anywhere; }}
.close-ups img {{ margin-top: .3rem; }}
audio {{ width: 100%; }}
audio:focus-visible {{ outline: 3px solid var(--accent); outline-offset: 2px; border-radius: 8px; }}
img {{ width: 100%; height: auto; margin-top: 1.2rem; border-radius: 8px; display: block; background: #fff; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{lead}</p>
<p>Starting one player stops the other and goes on from the same place, so that before and after compare directly.
In the pictures the thin bright line is the pitch.</p>
<div class="results" tabindex="0" role="region" aria-label="Results"><table>{table}</table></div>
{sections}
</main>
<script>
for (const section of document.querySelectorAll("section")) {{
  const pair = [...section.querySelectorAll("audio")];
  for (const player of pair) player.addEventListener("play", () => {{
    for (const other of document.querySelectorAll("audio")) if (other !== player && !other.paused) {{
      other.pause();
      if (pair.includes(other)) player.currentTime = other.currentTime;
    }}
  }});
}}
</script>
</body>
</html>
"""
