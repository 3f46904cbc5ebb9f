"""What a voice makes of singing: figures on a synthetic singer, whose f0 is known at every sample, without any pitch tracker."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsp.envelope import level_correlation, onset_rise_ms, pause_level_db
from dsp.harmonics import STEP_S, deviation_cents, harmonic, harmonicity_db, suboctave_db
from dsp.pitch import FRAME_S, PitchTrack, track_pitch
from dsp.singer import Note, Song, sing
from plugin_bridge.convert import Settings
from plugin_bridge.converter import VoiceConverter
from plugin_bridge.evaluate import FIGURES, PAGE, check_kind
from plugin_bridge.files import FileError, replacing
from plugin_bridge.report import Take, write_report
from plugin_bridge.song_converter import SongConverter
from plugin_bridge.voices import UnknownVoiceError, find_voice, voice_text

Array = NDArray[np.floating[Any]]

SAMPLE_RATE = 48_000
HEIGHTS = (40, 47, 54, 61, 68)  # MIDI: a bass's low E to a woman's G sharp
RANGE = (35, 38, 43, 50, 57, 64, 71, 78, 84)  # 62 to 1047 Hz
VIBRATOS = ((4.0, 30.0), (5.5, 60.0), (7.0, 100.0), (7.0, 30.0))  # Hz, cents
CREAKS = (0.2, 0.4)  # how much weaker every other cycle is: 2 and 4.4 dB
VIBRATO_BAND_HZ = (3.0, 9.0)
FLUTTER_BAND_HZ = (5.0, 60.0)  # what is heard as roughness or chorus, not as a swell
SETTLED_S = 0.5  # from where a note, its scoop and the converter's means have settled
BUZZ_HZ = (3_000.0, 8_000.0)
MORPHS = (0.25, 0.5, 0.75)  # of the other voice
PHRASE = (
    (0, 0.5, "a", "t"), (3, 0.4, "e", "k"), (5, 0.7, "i", "s"), (7, 0.5, "o", "p"),
    (0, 1.0, "", ""), (2, 0.5, "a", "k"), (0, 0.5, "e", "t"), (-2, 1.0, "u", "p"),
)  # fmt: skip
COLUMNS = ("What", "Median", "Worst", "Wanted")


@dataclass(frozen=True)
class Finding:
    """One figure: what was measured, in `unit`, the median and the worst of all cases, and what is wished for of the worst."""

    what: str
    unit: str
    median: float
    worst: float
    wanted: str

    def as_json(self) -> dict[str, str | float | None]:
        """Ready for JSON, which knows no NaN."""
        return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in asdict(self).items()}

    def row(self) -> tuple[str, ...]:
        """For `COLUMNS`."""
        figures = (f"{value:.2f} {self.unit}".strip() for value in (self.median, self.worst))
        return (self.what, *figures, f"{self.wanted} {self.unit}".strip())


def evaluate_singing(
    settings: Settings, out: Path, *, advance: Callable[[int, int], None] = lambda done, of: None
) -> list[Finding]:
    """Measure a voice on sung tones, glides and phrases; writes the figures as JSON and a page with a phrase to `out`.

    Parameters
    ----------
    settings
        The voice, the engine, its size and steps; nothing is shifted, mixed or made louder.
    advance
        Called after each kind of test, with how many are done and of how many.

    Raises
    ------
    ValueError
        If the voice or its engine is not as it should be, or `out` is no folder.
    """
    settings.check()
    if out.is_file():
        raise FileError(f"{out} is a file, but the figures and the page need a folder to go to")
    check_kind(out, "findings")
    if settings.engine == "song":
        converter: VoiceConverter = SongConverter(settings.voice, size=settings.size, steps=settings.steps)
    else:
        converter = VoiceConverter(settings.voice)
    findings = []
    for done, test in enumerate(TESTS):
        findings += list(test(converter))
        advance(done + 1, len(TESTS))
    summary = {
        "versions": {name: version(name) for name in ("plugin_bridge", "onnxruntime")},
        "settings": asdict(settings),
        "findings": [finding.as_json() for finding in findings],
    }
    with replacing(out / FIGURES) as file:
        file.write(json.dumps(summary, indent=2, allow_nan=False).encode() + b"\n")
    voice = voice_text(settings.voice)
    lead = (
        f"A synthetic singer, whose pitch is known at every sample, converted to {voice} by the {settings.engine} engine. Each "
        "figure is of several cases; the worst is held against what is wanted. One of the phrases is shown."
    )
    write_report(out / PAGE, f"Singing of {voice}", lead, [COLUMNS, *(finding.row() for finding in findings)], [_shown(converter)])
    return findings


def _shown(converter: VoiceConverter) -> Take:
    """A phrase of a middle height."""
    song = _phrase(HEIGHTS[len(HEIGHTS) // 2])
    made = converter(song.audio, SAMPLE_RATE)
    frame = round(FRAME_S * SAMPLE_RATE)
    hz = np.asarray(song.f0_hz[::frame], np.float64)
    sung = PitchTrack(np.arange(len(hz), dtype=np.float64) * FRAME_S, hz, song.voiced[::frame])
    return Take("A phrase", song.audio[None], made[None], SAMPLE_RATE, sung, track_pitch(made, SAMPLE_RATE), 0.0, [])


def _vibrato(converter: VoiceConverter) -> Iterator[Finding]:
    depths, lags, rates = [], [], []
    for height in HEIGHTS:
        for rate_hz, cents in VIBRATOS:
            song = sing([Note(height, 2.5)], SAMPLE_RATE, vibrato_hz=rate_hz, vibrato_cents=cents, vibrato_delay=0.1, seed=height)
            f0, inside = _filled(song), _settled(song)
            sung = 1200 * np.log2(f0[:: SAMPLE_RATE // 1000])
            made = sung + deviation_cents(converter(song.audio, SAMPLE_RATE), f0, SAMPLE_RATE)
            depth, lag, rate = compare_waves(sung[inside], made[inside])
            depths.append(100 * (depth - 1))
            lags.append(lag)
            rates.append(100 * (rate - 1))
    yield _finding("Vibrato depth against the singer's", "%", depths, "within 10")
    yield _finding("Vibrato rate against the singer's", "%", rates, "within 1")
    yield _finding("Vibrato comes late by", "ms", lags, "within 10")


def compare_waves(sung: Array, made: Array) -> tuple[float, float, float]:
    """How much deeper, later (ms) and faster the vibrato of `made` [n] is than that of `sung` [n], both in cents each ms."""
    size = 1 << (2 * len(sung) - 1).bit_length()
    hz = np.fft.rfftfreq(size, STEP_S)
    outside = (hz < VIBRATO_BAND_HZ[0]) | (hz > VIBRATO_BAND_HZ[1])
    spectra = []
    for curve in (sung, made):
        line = np.polyval(np.polyfit(np.arange(len(curve)), curve, 1), np.arange(len(curve)))
        spectrum = np.fft.rfft((curve - line) * np.hanning(len(curve)), size)
        spectrum[outside] = 0
        spectra.append(spectrum)
    first, second = spectra
    correlation = np.fft.irfft(second * np.conj(first), size)
    longest = 100
    lags = np.arange(-longest, longest + 1)
    best = int(lags[np.argmax(correlation[lags])])
    depth = correlation[best] / np.fft.irfft(np.abs(first) ** 2, size)[0]
    weights = [np.abs(spectrum) ** 2 for spectrum in spectra]
    rates = [float((hz * weight).sum() / weight.sum()) for weight in weights]
    return float(depth), best * STEP_S * 1e3, rates[1] / rates[0]


def _glides(converter: VoiceConverter) -> Iterator[Finding]:
    off, steps = [], []
    for height in HEIGHTS:
        for interval in (12, -12):
            notes = [Note(height + max(0, -interval), 1.0), Note(height + max(0, interval), 1.0)]
            song = sing(notes, SAMPLE_RATE, vibrato_cents=0, portamento=1.0, seed=height)
            found = deviation_cents(converter(song.audio, SAMPLE_RATE), _filled(song), SAMPLE_RATE)[_settled(song)]
            off.append(float(np.median(np.abs(found))))
            steps.append(float(np.max(np.abs(found[15:] - found[:-15]))))
    yield _finding("Glides over an octave in a second, off by", "cents", off, "within 10")
    yield _finding("Largest step within 15 ms of a glide", "cents", steps, "within 20")


def _tones(converter: VoiceConverter) -> Iterator[Finding]:
    off, missed, flutter, low = [], [], [], []
    for height in RANGE:
        notes = [Note(height, 1.5, "a", "m"), Note(height, 0.4, ""), Note(height, 1.0, "o", "t")]
        song = sing(notes, SAMPLE_RATE, vibrato_cents=0, seed=height)
        audio, f0 = converter(song.audio, SAMPLE_RATE), _filled(song)
        voiced = _held(song, 0.03)
        share = _in_tune(audio, f0)
        missed.append(100 * float(np.mean(share[voiced] < 0.5)))
        inside = slice(round(SETTLED_S / STEP_S), round(1.2 / STEP_S))
        off.append(float(np.median(np.abs(deviation_cents(audio, f0, SAMPLE_RATE)[inside]))))
        flutter.append(_flutter_db(audio, f0, inside) - _flutter_db(song.audio, f0, inside))
        low.append(float(np.percentile(suboctave_db(audio, f0, SAMPLE_RATE)[voiced], 95)))
    yield _finding("Steady tones, 62 to 1047 Hz, off by", "cents", off, "within 6")
    yield _finding("Time of such tones with another pitch, onsets included", "%", missed, "within 0.5")
    yield _finding("Flutter of their harmonics beyond the singer's", "dB", flutter, "within 1")
    yield _finding("Level an octave too low, at the 95th percentile", "dB", low, "below -10")


def _creak(converter: VoiceConverter) -> Iterator[Finding]:
    more = []
    for height in HEIGHTS[:3]:
        for creak in CREAKS:
            notes = [Note(height, 1.2, "a", "m"), Note(height, 0.5, ""), Note(height + 2, 0.8, "o")]
            song = sing(notes, SAMPLE_RATE, vibrato_cents=0, creak=creak, seed=height)
            f0, voiced = _filled(song), _held(song, 0.03)
            levels = [suboctave_db(x, f0, SAMPLE_RATE)[voiced] for x in (song.audio, converter(song.audio, SAMPLE_RATE))]
            more.append(float(np.mean(levels[1]) - np.mean(levels[0])))
    yield _finding("Creaking voice: octave too low, beyond the singer's own", "dB", more, "below 0")


def _formants(converter: VoiceConverter) -> Iterator[Finding]:
    more = []
    for height in HEIGHTS[1:4]:
        song = sing([Note(height, 1.5)], SAMPLE_RATE, vibrato_cents=0, seed=height)
        f0, inside = _filled(song), _settled(song)
        heard = {}
        for shift in (0.0, -4.0, 4.0):
            converter.formant_shift = shift
            heard[shift] = float(np.median(harmonicity_db(converter(song.audio, SAMPLE_RATE), f0, SAMPLE_RATE, *BUZZ_HZ)[inside]))
        more += [heard[shift] - heard[0.0] for shift in (-4.0, 4.0)]
    converter.formant_shift = 0.0
    yield _finding("Formants moved by 4 semitones: more harmonics at 3-8 kHz", "dB", more, "below 6")


def _morphs(converter: VoiceConverter) -> Iterator[Finding]:
    """Nothing, if the voice is a mix already or alone in its pack."""
    voice = converter.voice
    if isinstance(voice, dict) or not (others := _others(voice)):
        return
    more = []
    for height in HEIGHTS[1:4]:
        song = sing([Note(height, 1.5)], SAMPLE_RATE, vibrato_cents=0, seed=height)
        f0, inside = _filled(song), _settled(song)

        def heard(mix: str | dict[str, float], song: Song = song, f0: Array = f0, inside: slice = inside) -> float:
            converter.voice = mix
            return float(np.median(harmonicity_db(converter(song.audio, SAMPLE_RATE), f0, SAMPLE_RATE, *BUZZ_HZ)[inside]))

        for other in others:
            alone = max(heard(voice), heard(other))
            more += [heard({voice: 1 - share, other: share}) - alone for share in MORPHS]
    converter.voice = voice
    yield _finding("Morphs with its pack's voices: more harmonics at 3-8 kHz", "dB", more, "below 6")


def _others(voice: str) -> list[str]:
    """The other voices of the pack, that a mix with this one can name."""
    address = find_voice(voice)
    names = [card.name for card in address.pack.manifest.voices]
    try:
        return [name for name in names if name != names[address.index] and find_voice(name).pack is address.pack]
    except UnknownVoiceError:  # a pack by its path
        return []


def _phrases(converter: VoiceConverter) -> Iterator[Finding]:
    levels, rises, pauses = [], [], []
    for height in HEIGHTS[:4]:
        song = _phrase(height)
        # Sung louder and softer, by 20 dB, over some three seconds.
        swell = 10 ** (-0.5 * (1 - np.cos(2 * np.pi * np.arange(len(song.audio)) / SAMPLE_RATE / 3)))
        audio = (song.audio * swell).astype(np.float32)
        levels.append(level_correlation(audio, converter(audio, SAMPLE_RATE), SAMPLE_RATE))
        made = converter(song.audio, SAMPLE_RATE)
        before, after = onset_rise_ms(song.audio, made, SAMPLE_RATE)
        rises.append(after - before)
        quiet = song.audio.copy()
        rest = slice(round(2.15 * SAMPLE_RATE), round(2.95 * SAMPLE_RATE))  # PHRASE's rest, whose breath is not a pause
        quiet[rest] = 0
        pauses.append(pause_level_db(quiet, converter(quiet, SAMPLE_RATE), SAMPLE_RATE))
    yield Finding("Loudness contour's correlation with the singer's", "", float(np.median(levels)), min(levels), "at least 0.97")
    yield _finding("Plosives rise more slowly by", "ms", rises, "within 5")
    yield _finding("Pauses against the phrases", "dB", pauses, "below -50")


def _phrase(height: int) -> Song:
    notes = [Note(height + step, seconds, vowel, consonant) for step, seconds, vowel, consonant in PHRASE]
    return sing(notes, SAMPLE_RATE, seed=height)


TESTS: Sequence[Callable[[VoiceConverter], Iterator[Finding]]]
TESTS = (_vibrato, _glides, _tones, _creak, _formants, _morphs, _phrases)


def _finding(what: str, unit: str, values: list[float], wanted: str) -> Finding:
    """`worst` is the largest, or where `wanted` bounds both sides, the farthest from none."""
    worst = max(values, key=abs) if wanted.startswith("within") else max(values)
    return Finding(what, unit, float(np.median(values)), worst, wanted)


def _filled(song: Song) -> Array:
    """f0 at every sample, interpolated where the singer is unvoiced."""
    voiced = np.flatnonzero(song.voiced)
    return np.interp(np.arange(len(song.f0_hz)), voiced, song.f0_hz[voiced])


def _settled(song: Song) -> slice:
    """Ms of a song of vowels alone, without its start and its end."""
    return slice(round(SETTLED_S / STEP_S), round(len(song.audio) / song.sample_rate / STEP_S) - 250)


def _held(song: Song, margin_s: float) -> NDArray[np.bool_]:
    """Ms that are voiced, and have been and will be for `margin_s`."""
    voiced = song.voiced[:: SAMPLE_RATE // 1000]
    reach = 2 * round(margin_s / STEP_S) + 1
    held: NDArray[np.bool_] = np.convolve(voiced, np.ones(reach), "same") > reach - 0.5
    return held


def _in_tune(audio: NDArray[np.float32], f0: Array) -> Array:
    """Each ms, the share of the power below the sixth harmonic that lies on the harmonics of `f0`."""
    typical = float(np.median(f0))
    spectrum = np.fft.rfft(audio.astype(np.float64))
    hz = np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE)
    spectrum[(hz > 5.5 * typical) | (hz < 0.4 * typical)] = 0
    low = np.fft.irfft(spectrum, len(audio))
    window_s = max(0.03, 4 / float(f0.min()))
    on = np.sum([np.abs(harmonic(low, f0, SAMPLE_RATE, number, window_s)) ** 2 for number in range(1, 6)], axis=0) / 2
    window = np.hanning(round(window_s * SAMPLE_RATE))
    size = 1 << (len(low) + len(window)).bit_length()
    power = np.fft.irfft(np.fft.rfft(low**2, size) * np.fft.rfft(window / window.sum(), size), size)
    power = power[len(window) // 2 :][: len(low)][:: SAMPLE_RATE // 1000]
    return np.asarray(on[: len(power)] / np.maximum(power, 1e-12))


def _flutter_db(audio: NDArray[np.float32], f0: Array, inside: slice) -> float:
    """Standard deviation, in dB, of the first six harmonics' levels, of what moves faster than a swell; weighted by power."""
    window_s = max(0.03, 4 / float(f0.min()))
    total = weight = 0.0
    for number in range(1, 7):
        amplitude = np.abs(harmonic(audio, f0, SAMPLE_RATE, number, window_s))[inside]
        db = 20 * np.log10(amplitude + 1e-9)
        spectrum = np.fft.rfft((db - db.mean()) * np.hanning(len(db)))
        hz = np.fft.rfftfreq(len(db), STEP_S)
        spectrum[(hz < FLUTTER_BAND_HZ[0]) | (hz > FLUTTER_BAND_HZ[1])] = 0
        power = float(np.mean(amplitude**2))
        total += power * float(np.std(np.fft.irfft(spectrum, len(db)))) / np.sqrt(np.mean(np.hanning(len(db)) ** 2))
        weight += power
    return total / weight
