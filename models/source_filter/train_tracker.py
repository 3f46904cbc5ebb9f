"""Train and evaluate the causal pitch tracker.

    python -m models.source_filter.train_tracker train --data FOLDER... --out tracker.npz
    python -m models.source_filter.train_tracker evaluate FOLDER... --tracker tracker.npz
    python -m models.source_filter.train_tracker evaluate          # against the synthetic singer, by range

Labels come from SwiftF0, which hears the future, and from synthetic voices whose pitch is known exactly. Each recording
is also heard at other speeds, so that every pitch between 60 and 1100 Hz has examples. The loop is the usual one: draw
crops, disturb them, step, log, checkpoint. What step n draws depends on the seed and n alone, so a resumed run equals
an unbroken one.
"""

import argparse
import math
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from swift_f0 import SwiftF0
from torch import Tensor
from torch.nn import functional

from dsp.pitch import track_pitch
from dsp.singer import CONSONANTS, VOWELS, Note, Song, sing
from models.checkpoint import restoring, save
from models.command import count, run
from models.interruption import Interruption
from models.replacing import replacing
from models.source_filter.data import audio_files, load_mono, telling
from models.source_filter.features import HOP, SAMPLE_RATE
from models.source_filter.tracker import (
    ANALYSIS_HOP,
    ANALYSIS_RATE,
    BINS_PER_OCTAVE,
    DECIMATION,
    DECIMATION_TAPS,
    LONG,
    LOWEST_PITCH_HZ,
    PEAK_BINS,
    PITCH_BINS,
    TARGET_DELAY,
    PitchTracker,
    load_tracker,
    save_tracker,
    track,
)

FloatArray = NDArray[np.float32]

LOWEST_HZ, HIGHEST_HZ = 60.0, 1100.0
# A frame that ends at a sample of the 12 kHz signal describes this many samples before it: the target delay, less the
# half-length of the decimation filter, which training, on audio resampled without delay, does not see.
TARGET_LAG = (TARGET_DELAY - DECIMATION_TAPS / 2) / DECIMATION
CROP_HOPS = 96
# The first frames of a crop have no memory behind them.
WARM_UP_HOPS = 10
# Audio before a crop, for reverberation and filters to settle in.
LEAD_IN = 2048
SYNTHETIC_SHARE = 0.3
SYNTHETIC_CLIPS = 1200
OTHER_SPEEDS = 2
# Bins a hop of a glide that counts double: 100 cents in 100 ms.
STEEP = 0.16
# Weight of the decoded pitch's distance, in bins, against the cross-entropies.
DISTANCE_WEIGHT = 2.0
CHECKPOINT_S = 180.0
# The singer's ranges, in Hz: below and above most voices, where trackers fail, and between.
RANGES = ((60, 90), (90, 180), (180, 400), (400, 800), (800, 1100))
SUNG_SECONDS = 30.0  # of each range
# Both references are at home at 16 kHz, and Harvest is several times quicker there than at 48.
REFERENCE_RATE = 16_000


@dataclass
class Corpus:
    """Recordings at 12 kHz one after another, with a label for each hop of 64 samples.

    audio : int16 [hops * 64]; bins : float32 [hops], pitch in bins of the tracker's axis; voicing : float32 [hops],
    probability; weight : float32 [hops], 1 where the pitch is to be learned. Frame i ends at sample 64 * i.
    """

    audio: NDArray[np.int16]
    bins: FloatArray
    voicing: FloatArray
    weight: FloatArray

    @staticmethod
    def join(parts: list["Corpus"]) -> "Corpus":
        fields = ("audio", "bins", "voicing", "weight")
        return Corpus(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))

    def save(self, path: Path) -> None:
        with replacing(path) as file:
            np.savez(file, audio=self.audio, bins=self.bins, voicing=self.voicing, weight=self.weight)

    @staticmethod
    def load(path: Path) -> "Corpus":
        with np.load(path, allow_pickle=False) as arrays:
            return Corpus(*(arrays[name] for name in ("audio", "bins", "voicing", "weight")))


def is_held_out(index: int, path: Path) -> bool:
    """Kept for evaluation: every tenth recording of a folder, and all whose number ends in 0 or 5."""
    number = re.findall(r"\d+", path.stem)
    return index % 10 == 0 or (bool(number) and int(number[-1]) % 5 == 0)


def to_bins(hz: NDArray[np.float64]) -> FloatArray:
    return np.asarray(BINS_PER_OCTAVE * np.log2(hz / LOWEST_PITCH_HZ), dtype=np.float32)


# ---- labelled audio


def label_recording(detector: SwiftF0, x: FloatArray, rng: Generator) -> Iterator[Corpus]:
    """The recording at its own speed and at others, chosen so that its median pitch falls anywhere in the range."""
    heard = detector.detect(x, SAMPLE_RATE)
    voiced = heard.confidence >= 0.5
    if voiced.sum() < 5:
        return
    log_pitch = np.interp(heard.timestamps, heard.timestamps[voiced], np.log2(heard.pitch_hz[voiced]))
    median = float(np.median(heard.pitch_hz[voiced]))
    targets = np.exp(rng.uniform(np.log(70), np.log(900), OTHER_SPEEDS))
    for speed in (1.0, *(float(speed) for speed in np.clip(targets / median, 0.5, 2.6))):
        y = soxr.resample(x, SAMPLE_RATE * speed, ANALYSIS_RATE)
        hops = len(y) // ANALYSIS_HOP
        times = (np.arange(hops) * ANALYSIS_HOP - TARGET_LAG) / ANALYSIS_RATE * speed
        pitch = 2.0 ** np.interp(times, heard.timestamps, log_pitch) * speed
        voicing = np.interp(times, heard.timestamps, heard.confidence)
        between = np.interp(times, heard.timestamps, voiced.astype(np.float64))
        weight = (between > 0.999) & (pitch > LOWEST_HZ * 0.97) & (pitch < HIGHEST_HZ * 1.03)
        y = y / max(1e-4, float(np.abs(y).max())) * 0.9
        yield Corpus(
            (y[: hops * ANALYSIS_HOP] * 32767).astype(np.int16),
            to_bins(pitch),
            voicing.astype(np.float32),
            weight.astype(np.float32),
        )


def synthesise(rng: Generator, seconds: float = 2.0) -> Corpus:
    """A made-up voice at 12 kHz: notes with glides, vibrato, jitter, roughness and random formants; noises between."""
    n = int(seconds * ANALYSIS_RATE) // ANALYSIS_HOP * ANALYSIS_HOP
    t = np.arange(n) / ANALYSIS_RATE
    octave = rng.uniform(np.log2(LOWEST_HZ), np.log2(HIGHEST_HZ))
    log_pitch, gate, noise_gate, rough = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
    position = 0
    while position < n:
        length = int(ANALYSIS_RATE * np.exp(rng.uniform(np.log(0.04), np.log(0.8))))
        note = slice(position, min(n, position + length))
        kind = rng.random()
        octave = float(np.clip(octave + rng.normal(0, 0.35), np.log2(LOWEST_HZ), np.log2(HIGHEST_HZ)))
        log_pitch[note] = octave + rng.normal(0, 0.3) * (t[note] - t[position]) * (rng.random() < 0.4)
        gate[note] = 10 ** rng.uniform(-1.0, 0.0) if kind < 0.75 else 0.0
        noise_gate[note] = 10 ** rng.uniform(-2.0, 0.0) if 0.75 <= kind < 0.9 else 0.0
        rough[note] = rng.uniform(0, 0.35) if rng.random() < 0.2 else 0.0
        position += length
    glide = np.hanning(int(ANALYSIS_RATE * np.exp(rng.uniform(np.log(0.004), np.log(0.12)))) + 3)
    padded = np.pad(log_pitch, len(glide), mode="edge")
    log_pitch = np.convolve(padded, glide / glide.sum(), "same")[len(glide) : -len(glide)]
    vibrato = rng.uniform(0, 0.12) * (rng.random() < 0.6)
    log_pitch = log_pitch + vibrato * np.sin(2 * np.pi * rng.uniform(4, 7.5) * t + rng.uniform(0, 6.3))
    drift = np.convolve(rng.normal(0, 1, n), np.hanning(241) / np.sqrt((np.hanning(241) ** 2).sum()), "same")
    log_pitch = np.clip(log_pitch + rng.uniform(0, 0.01) * drift, np.log2(LOWEST_HZ), np.log2(HIGHEST_HZ))
    pitch = 2.0**log_pitch
    ramp = np.hanning(int(ANALYSIS_RATE * np.exp(rng.uniform(np.log(0.004), np.log(0.05)))) + 3)
    envelope = np.convolve(gate, ramp / ramp.sum(), "same")

    phase = np.cumsum(pitch) / ANALYSIS_RATE
    formants = rng.uniform((250, 800, 2200), (1000, 2600, 4000)) * rng.uniform(0.8, 1.2, 3)
    widths = rng.uniform(60, 250, 3)
    tilt = rng.uniform(0.3, 2.2)
    frequencies = np.linspace(0, 6000, 601)
    gain = np.full(len(frequencies), 10 ** rng.uniform(-3, -1))
    for formant, width in zip(formants, widths, strict=True):
        gain += 10 ** rng.uniform(-1, 0.3) / np.sqrt(1 + ((frequencies - formant) / width) ** 2)
    voice = np.zeros(n)
    for harmonic in range(1, int(min(60, 5900 / pitch.min())) + 1):
        f = harmonic * pitch
        level = np.interp(f, frequencies, gain, right=0.0) * harmonic**-tilt * (f < 5900)
        voice += level * np.sin(2 * np.pi * harmonic * phase + rng.uniform(0, 6.3) * (rng.random() < 0.5))
    # Every other period differs: what octave errors are made of.
    voice *= 1 + rough * np.cos(np.pi * phase)
    voice = voice * envelope / (np.abs(voice).std() + 1e-9)
    formed = np.interp(np.linspace(0, 6000, n // 2 + 1), frequencies, gain)
    colour = np.fft.irfft(np.fft.rfft(rng.normal(0, 1, n)) * formed, n)
    breath = rng.normal(0, 1, n) * np.convolve(noise_gate, ramp / ramp.sum(), "same")
    x = voice + 0.5 * breath + colour / colour.std() * envelope * 10 ** rng.uniform(-2.5, -0.6)
    at = np.clip(np.arange(0, n, ANALYSIS_HOP) - round(TARGET_LAG), 0, n - 1)
    # Voiced from where the swell is heard above the rest of its own rise.
    swell = envelope[at] / np.maximum(gate.max(), 1e-9)
    voiced = (swell > 0.02) & (gate.max() > 0)
    return Corpus(
        (x / max(1e-4, float(np.abs(x).max())) * 0.9 * 32767).astype(np.int16),
        to_bins(pitch[at]),
        voiced.astype(np.float32),
        (voiced & (swell > 0.05)).astype(np.float32),
    )


def build_corpus(folders: list[Path], cache: Path, seed: int) -> tuple[Corpus, Corpus]:
    """Labelled recordings and synthetic voices, made once and kept in `cache`.

    Raises ValueError, one sentence, where a folder holds nothing to train with.
    """
    cache.mkdir(parents=True, exist_ok=True)
    real_file, synthetic_file = cache / "recordings.npz", cache / "synthetic.npz"
    if not real_file.exists():
        detector, rng = SwiftF0(threads=1, spin=False), np.random.default_rng([seed, 1])
        parts: list[Corpus] = []
        for folder in folders:
            files = [path for i, path in enumerate(audio_files(folder)) if not is_held_out(i, path)]
            if not files:
                raise ValueError(f"expected recordings in {folder}, found none besides those that are held out")
            for i, path in enumerate(files):
                parts.extend(label_recording(detector, load_mono(path), rng))
                if i % 100 == 0:
                    print(f"labelling {folder.name}: {i + 1} of {len(files)}", flush=True)
        if not parts:
            raise ValueError(f"expected a voice in the recordings of {', '.join(map(str, folders))}, found no pitch anywhere")
        Corpus.join(parts).save(real_file)
    if not synthetic_file.exists():
        rng, tell, made = np.random.default_rng([seed, 2]), telling("synthetic voice"), []
        for number in range(1, SYNTHETIC_CLIPS + 1):
            made.append(synthesise(rng))
            tell(number, SYNTHETIC_CLIPS)
        Corpus.join(made).save(synthetic_file)
    return Corpus.load(real_file), Corpus.load(synthetic_file)


# ---- disturbance


def disturb(x: FloatArray, rng: Generator) -> FloatArray:
    """Crops [batch, samples] as other rooms, microphones and codecs would hand them on."""
    batch, n = x.shape
    frequencies = np.fft.rfftfreq(n, 1 / ANALYSIS_RATE)
    spectrum = np.fft.rfft(x, axis=1)
    t = np.arange(ANALYSIS_RATE // 4) / ANALYSIS_RATE
    position = np.log2(np.maximum(frequencies, 40) / 40) / np.log2(6000 / 40)
    noise = np.fft.rfft(rng.normal(0, 1, (batch, n)), axis=1)
    for i in range(batch):
        if rng.random() < 0.3:
            tail = rng.normal(0, 1, len(t)) * np.exp(-6.9 * t / rng.uniform(0.08, 0.5))
            tail *= 10 ** rng.uniform(-1.3, -0.3) / np.sqrt((tail**2).sum())
            tail[0] = 1.0
            spectrum[i] *= np.fft.rfft(tail, n)
        if rng.random() < 0.7:
            gains = sum(rng.normal(0, 4) * np.cos(np.pi * (k + 1) * position + rng.uniform(0, 6.3)) for k in range(4))
            spectrum[i] *= 10 ** (np.asarray(gains) / 20)
        if rng.random() < 0.25:
            spectrum[i] *= 1 / (1 + (np.exp(rng.uniform(np.log(60), np.log(400))) / np.maximum(frequencies, 1)) ** 4)
        if rng.random() < 0.3:
            spectrum[i] *= 1 / (1 + (frequencies / np.exp(rng.uniform(np.log(1200), np.log(5500)))) ** 8)
        if rng.random() < 0.75:
            shape = np.maximum(frequencies, 60) ** -rng.uniform(0, 1)
            coloured = noise[i] * shape
            level = np.sqrt((np.abs(spectrum[i]) ** 2).sum() / (np.abs(coloured) ** 2).sum())
            spectrum[i] += coloured * level * 10 ** (-min(rng.uniform(3, 60), 60) / 20)
    y = np.fft.irfft(spectrum, n, axis=1)
    peak = np.maximum(np.abs(y).max(axis=1, keepdims=True), 1e-4)
    return np.asarray(y / peak * 10 ** (rng.uniform(-40, 3, (batch, 1)) / 20), dtype=np.float32)


def draw(real: Corpus, synthetic: Corpus, batch: int, rng: Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Audio [batch, 576 + 64 * hops], and bins, voicing and weight [batch, hops], of disturbed random crops."""
    reach = LEAD_IN + LONG[0] - ANALYSIS_HOP
    x = np.empty((batch, reach + CROP_HOPS * ANALYSIS_HOP), dtype=np.float32)
    labels = np.empty((3, batch, CROP_HOPS), dtype=np.float32)
    for i in range(batch):
        corpus = synthetic if rng.random() < SYNTHETIC_SHARE else real
        start = int(rng.integers(0, len(corpus.bins) - CROP_HOPS - reach // ANALYSIS_HOP - 2))
        end = start * ANALYSIS_HOP + x.shape[1]
        x[i] = corpus.audio[start * ANALYSIS_HOP : end] / np.float32(32768)
        first = start + reach // ANALYSIS_HOP + 1
        for row, values in enumerate((corpus.bins, corpus.voicing, corpus.weight)):
            labels[row, i] = values[first : first + CROP_HOPS]
    y = disturb(x, rng)[:, LEAD_IN:]
    bins, voicing, weight = (torch.from_numpy(row) for row in labels)
    return torch.from_numpy(y), bins, voicing, weight


# ---- training


def loss_terms(
    tracker: PitchTracker, audio: Tensor, bins: Tensor, voicing: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of the pitch, distance in bins of the decoded pitch, and cross-entropy of the voicing."""
    # Gliding frames count up to three times: most frames are steady, and there a tracker that lags is never wrong.
    slope = functional.pad(torch.abs(bins[:, 1:] - bins[:, :-1]), (1, 0))
    weight = weight * (1 + torch.clamp(slope / STEEP, max=2.0))
    logits, voicing_logits, _ = tracker.analyse(audio, tracker.initial_state(len(audio))[2:5])
    logits, voicing_logits = logits[:, WARM_UP_HOPS:], voicing_logits[:, WARM_UP_HOPS:]
    bins, voicing, weight = bins[:, WARM_UP_HOPS:], voicing[:, WARM_UP_HOPS:], weight[:, WARM_UP_HOPS:]
    total = weight.sum() + 1.0
    axis = torch.arange(PITCH_BINS, dtype=torch.float32)
    distance = axis - bins[..., None]
    target = torch.exp(-0.5 * torch.square(distance / 0.8))
    target = target / target.sum(dim=2, keepdim=True).clamp_min(1e-6)
    log_probability = functional.log_softmax(logits, dim=2)
    pitch = (-(target * log_probability).sum(dim=2) * weight).sum() / total
    near = torch.exp(log_probability) * (torch.abs(distance) <= PEAK_BINS)
    decoded = (near * axis).sum(dim=2) / near.sum(dim=2).clamp_min(1e-4)
    confident = weight * (near.sum(dim=2) > 0.3)
    off = (torch.abs(decoded - bins) * confident).sum() / total
    return pitch, off, functional.binary_cross_entropy_with_logits(voicing_logits, voicing)


def train(folders: list[Path], out: Path, cache: Path, steps: int, batch: int, rate: float, seed: int) -> None:
    """Train for `steps` from `seed`, or go on from the checkpoint in `cache`, and write the weights to `out`."""
    real, synthetic = build_corpus(folders, cache, seed)
    hours = len(real.audio) / ANALYSIS_RATE / 3600, len(synthetic.audio) / ANALYSIS_RATE / 3600
    print(f"{hours[0]:.1f} h of recordings at all speeds, {hours[1]:.1f} h synthetic", flush=True)
    torch.manual_seed(seed)
    tracker = PitchTracker().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(tracker.parameters(), lr=rate, weight_decay=1e-4)
    checkpoint, step = cache / "checkpoint.pt", 0
    if checkpoint.exists():
        with restoring(checkpoint) as saved:
            tracker.load_state_dict(saved["tracker"])
            optimizer.load_state_dict(saved["optimizer"])
            step = saved["step"]
        print(f"going on from step {step}", flush=True)

    def write() -> None:
        save(checkpoint, {"tracker": tracker.state_dict(), "optimizer": optimizer.state_dict(), "step": step})
        save_tracker(tracker, out)

    began = logged = kept = time.monotonic()
    first = told = step
    sums, names = np.zeros(3), ("pitch", "distance", "voicing")
    with Interruption() as interruption:
        while step < steps and not interruption.came:
            warm, progress = min(1.0, (step + 1) / 200), step / steps
            for group in optimizer.param_groups:
                group["lr"] = rate * warm * (0.5 + 0.5 * math.cos(math.pi * progress))
            terms = loss_terms(tracker, *draw(real, synthetic, batch, np.random.default_rng([seed, 3, step])))
            optimizer.zero_grad(set_to_none=True)
            (terms[0] + DISTANCE_WEIGHT * terms[1] + terms[2]).backward()
            torch.nn.utils.clip_grad_norm_(tracker.parameters(), 1.0)
            optimizer.step()
            step += 1
            sums += [float(term.detach()) for term in terms]
            if step % 100 == 0 or step == steps:
                now, taken = time.monotonic(), step - told
                left = (steps - step) * (now - began) / (step - first) / 60
                figures = "  ".join(f"{name} {v:.3f}" for name, v in zip(names, sums / taken, strict=True))
                print(f"step {step}  {figures}  {(now - logged) / taken:.2f} s a step, {left:.0f} min left", flush=True)
                sums, logged, told = np.zeros(3), now, step
            if time.monotonic() - kept > CHECKPOINT_S:
                write()
                kept = time.monotonic()
        write()


# ---- evaluation


def reference(
    detector: SwiftF0, x: FloatArray, times: NDArray[np.float64]
) -> tuple[FloatArray, NDArray[np.int8], NDArray[np.float64]]:
    """Pitch, voicing (1, 0, or -1 where SwiftF0 and Harvest disagree) at `times`, and SwiftF0's onsets in seconds."""
    x = soxr.resample(x, SAMPLE_RATE, REFERENCE_RATE)
    swift, harvest = detector.detect(x, REFERENCE_RATE), track_pitch(x, REFERENCE_RATE)
    confidence = np.interp(times, swift.timestamps, swift.confidence)
    voiced = swift.confidence >= 0.5
    if not voiced.any():
        return np.full(len(times), 150, np.float32), np.zeros(len(times), np.int8), np.zeros(0)
    swift_pitch = np.interp(times, swift.timestamps[voiced], np.log2(swift.pitch_hz[voiced]))
    # Between a voiced and an unvoiced frame, Harvest has no opinion.
    share = np.interp(times, harvest.times_s, harvest.voiced.astype(np.float64))
    harvest_pitch = np.interp(times, harvest.times_s, np.log2(np.where(harvest.voiced, harvest.hz, 100.0)))
    both = (confidence >= 0.5) & (share > 0.999) & (np.abs(swift_pitch - harvest_pitch) < 1 / 12)
    neither = (confidence < 0.5) & (share < 0.001)
    state = np.where(both, 1, np.where(neither, 0, -1)).astype(np.int8)
    pitch = np.where(both, 0.5 * (swift_pitch + harvest_pitch), swift_pitch)
    starts = np.flatnonzero(~voiced[:-1] & voiced[1:])
    crossing = (0.5 - swift.confidence[starts]) / np.diff(swift.confidence)[starts]
    onsets = swift.timestamps[starts] + crossing * (swift.timestamps[1] - swift.timestamps[0])
    return np.asarray(2.0**pitch, dtype=np.float32), state, onsets


def score(tracker: PitchTracker, detector: SwiftF0, clips: Iterable[FloatArray]) -> dict[str, float]:
    """Gross errors and voicing agreement (shares), median distance (cents) and onset delay (ms) over `clips`.

    Only frames count on which SwiftF0 and Harvest agree. Delay is in the time the estimates are for, TARGET_DELAY
    behind the newest sample; an onset is found when the tracker says voiced and is less than half an octave off.
    """
    cents, delays, right, frames = [np.zeros(0)], [], 0, 0
    for x in clips:
        times, f0, voicing = track(x, SAMPLE_RATE, tracker)
        truth, state, onsets = reference(detector, x, times)
        distance = 1200 * np.log2(f0 / truth)
        found = voicing >= 0.5
        cents.append(np.abs(distance[(state == 1) & found]))
        right += int((found[state >= 0] == (state[state >= 0] == 1)).sum())
        frames += int((state >= 0).sum())
        good = found & (np.abs(distance) < 600)
        for onset in onsets:
            before = (times > onset - 0.06) & (times < onset - 0.02)
            after = (times > onset) & (times < onset + 0.1)
            if before.any() and not found[before].any() and after.any() and (state[after] == 1).mean() > 0.7:
                hits = times[(times > onset - 0.02) & (times < onset + 0.1) & good]
                delays.append(1000 * float(hits[0] - onset) if len(hits) else 100.0)
    off = np.concatenate(cents)
    return {
        "gross": float((off > 600).mean()) if len(off) else float("nan"),
        "cents": float(np.median(off)) if len(off) else float("nan"),
        "voicing": right / max(frames, 1),
        "onset_ms": float(np.median(delays)) if delays else float("nan"),
        "minutes": frames * HOP / SAMPLE_RATE / 60,
    }


def score_synthetic(tracker: PitchTracker, seed: int, clips: int = 60) -> dict[str, float]:
    """The same figures against exactly known pitch, on synthetic voices that training has not seen."""
    rng = np.random.default_rng([seed, 4])
    cents, right, frames = [np.zeros(0)], 0, 0
    for _ in range(clips):
        corpus = synthesise(rng)
        x = soxr.resample(corpus.audio.astype(np.float32) / 32768, ANALYSIS_RATE, SAMPLE_RATE)
        _, f0, voicing = track(x, SAMPLE_RATE, tracker)
        n = min(len(f0), len(corpus.bins) - 1)
        # The corpus' frame i ends at sample 64 * i, the stream's at 64 * (i + 1).
        distance = np.abs(to_bins(f0[:n]) - corpus.bins[1 : n + 1]) * 1200 / BINS_PER_OCTAVE
        found, voiced = voicing[:n] >= 0.5, corpus.voicing[1 : n + 1] > 0.5
        cents.append(distance[found & (corpus.weight[1 : n + 1] > 0)])
        right, frames = right + int((found == voiced).sum()), frames + n
    off = np.concatenate(cents)
    return {
        "gross": float((off > 600).mean()) if len(off) else float("nan"),
        "cents": float(np.median(off)) if len(off) else float("nan"),
        "voicing": right / frames,
    }


def sung(low_hz: float, high_hz: float, seconds: float, seed: int) -> Iterator[Song]:
    """Phrases of the synthetic singer within a range: every vowel, consonants of all kinds, vibrato of any rate and depth."""
    rng = np.random.default_rng([seed, 5])
    low, high = (69 + 12 * math.log2(hz / 440) for hz in (low_hz, high_hz))
    tract = float(np.clip(0.95 + 0.15 * math.log2(math.sqrt(low_hz * high_hz) / 110), 0.9, 1.25))
    while seconds > 0:
        notes = []
        for _ in range(8):
            vowel = str(rng.choice([*VOWELS, ""], p=[0.18] * 5 + [0.1]))
            consonant = str(rng.choice(CONSONANTS)) if vowel else ""
            # The scoop before a note and the vibrato stay inside.
            notes.append(Note(float(rng.uniform(low + 0.6, high - 0.6)), float(rng.uniform(0.2, 0.8)), vowel, consonant))
        seconds -= sum(note.seconds for note in notes)
        yield sing(
            notes,
            SAMPLE_RATE,
            vibrato_hz=float(rng.uniform(4, 7)),
            vibrato_cents=float(rng.uniform(20, 60)),
            vibrato_delay=0.1,
            breathiness=float(rng.uniform(0.05, 0.4)),
            tract=tract,
            seed=int(rng.integers(1 << 30)),
        )


def score_singer(tracker: PitchTracker, low_hz: float, high_hz: float, seconds: float = SUNG_SECONDS) -> dict[str, float]:
    """The same figures against the synthetic singer, who tells its f0 and voicing at every sample.

    An onset is where voicing begins after 20 ms without, some 30 dB under the vowel to come.
    """
    cents, delays, right, frames = [np.zeros(0)], [], 0, 0
    for song in sung(low_hz, high_hz, seconds, 0):
        times, f0, voicing = track(song.audio, SAMPLE_RATE, tracker)
        at = np.minimum(np.round(times * SAMPLE_RATE).astype(int), len(song.f0_hz) - 1)
        truth, voiced, found = song.f0_hz[at], song.voiced[at], voicing >= 0.5
        distance = np.abs(1200 * np.log2(f0 / np.where(voiced, truth, f0)))
        cents.append(distance[voiced & found])
        right, frames = right + int((found == voiced).sum()), frames + len(times)
        good = found & voiced & (distance < 600)
        edges = np.flatnonzero(np.diff(song.voiced.astype(np.int8), prepend=0) > 0)
        for edge in edges:
            onset = edge / SAMPLE_RATE
            if song.voiced[max(0, edge - SAMPLE_RATE // 50) : edge].any() or not song.voiced[edge : edge + SAMPLE_RATE // 10].all():
                continue
            hits = times[(times >= onset) & (times < onset + 0.1) & good]
            delays.append(1000 * float(hits[0] - onset) if len(hits) else 100.0)
    off = np.concatenate(cents)
    return {
        "gross": float((off > 600).mean()) if len(off) else float("nan"),
        "cents": float(np.median(off)) if len(off) else float("nan"),
        "voicing": right / frames,
        "onset_ms": float(np.median(delays)) if delays else float("nan"),
        "minutes": frames * HOP / SAMPLE_RATE / 60,
    }


def evaluate(folders: list[Path], tracker_file: Path | None, most: int, seconds: float) -> None:
    """Print one line of figures for each folder of recordings; without any, for synthetic singers and voices.

    Raises ValueError, one sentence, if a folder holds none.
    """
    recordings = {folder: [folder] if folder.is_file() else audio_files(folder) for folder in folders}
    for folder, files in recordings.items():
        if not files:
            raise ValueError(f"expected recordings in {folder}, found no audio file there")
    tracker, detector = load_tracker(tracker_file), SwiftF0(threads=1, spin=False)
    if not folders:
        for low, high in RANGES:
            print(_line(f"singer {low}-{high} Hz", score_singer(tracker, low, high)), flush=True)
    for folder, files in recordings.items():
        held_out = [path for i, path in enumerate(files) if is_held_out(i, path)] if len(files) > 20 else files
        chosen = held_out[:: max(1, len(held_out) // most)][:most]
        figures = score(tracker, detector, (load_mono(path)[: round(seconds * SAMPLE_RATE)] for path in chosen))
        print(_line(folder.name, figures), flush=True)
    print(_line("synthetic", score_synthetic(tracker, 0)))


def _line(name: str, figures: dict[str, float]) -> str:
    text = f"{name:20s} gross {100 * figures['gross']:6.2f} %  median {figures['cents']:5.1f} cents  "
    text += f"voicing {figures['voicing']:.3f}"
    if "onset_ms" in figures:
        text += f"  onset {figures['onset_ms']:+5.1f} ms  ({figures['minutes']:.1f} min)"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description="Train or evaluate the causal pitch tracker.")
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train, or go on from the checkpoint in the cache")
    training.add_argument("--data", type=Path, nargs="+", required=True, help="folders of recordings of single voices")
    training.add_argument("--out", type=Path, required=True, help="where to write the weights (.npz)")
    training.add_argument("--cache", type=Path, default=None, help="labels and checkpoint (default: beside --out)")
    training.add_argument("--steps", type=count, default=3500)
    training.add_argument("--batch", type=count, default=20)
    training.add_argument("--rate", type=float, default=3e-3)
    training.add_argument("--seed", type=int, default=0)
    testing = commands.add_parser("evaluate", help="compare with SwiftF0 and Harvest where these two agree, or with truth")
    testing.add_argument(
        "folders", type=Path, nargs="*", help="folders or files, of large folders the held-out part; none: a synthetic singer"
    )
    testing.add_argument("--tracker", type=Path, default=None, help="weights (default: those of the package)")
    testing.add_argument("--most", type=int, default=12, help="recordings of each folder")
    testing.add_argument("--seconds", type=float, default=60.0, help="of each recording")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "train":
        cache = arguments.cache or arguments.out.with_suffix(".cache")
        train(arguments.data, arguments.out, cache, arguments.steps, arguments.batch, arguments.rate, arguments.seed)
    else:
        evaluate(arguments.folders, arguments.tracker, arguments.most, arguments.seconds)


if __name__ == "__main__":
    run(main)
