"""Training of the vocoder: recordings to their spectrograms, and back.

First a multi-resolution spectral loss alone, then discriminators that see spectrograms beside it: the loss leaves every choice
that a spectrogram does not settle at the mean of all, and they do not. Step n draws all its randomness from (seed, n), so that
a run resumed from any checkpoint continues exactly.

    python -m models.lhq.train_vocoder --data PACKED --work FOLDER [--steps N] [--adversarial-steps N] [--minutes M]

PACKED is what `models.source_filter.data.pack` writes; FOLDER/vocoder.pt is the checkpoint, with the averaged network in it.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dsp.f0 import refined
from models.checkpoint import restoring, save
from models.command import count, run, time_limit
from models.device import CPU, DEVICES, pick_device
from models.interruption import Interruption
from models.lhq.mel import log_mel, normalise
from models.lhq.synthesis import HOP, SAMPLE_RATE, noise_frames, phase_of, pulse_frames
from models.lhq.vocoder import Synthesis, Vocoder, VocoderConfig
from models.llvc.losses import discriminator_loss, feature_loss, generator_loss
from models.source_filter import features as source
from models.source_filter.adversarial import Judges
from models.source_filter.data import Recordings
from models.source_filter.train import schedule, spectral_loss

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class TrainingConfig:
    """How it is trained."""

    seed: int = 5
    batch: int = 8
    frames: int = 120
    edge: int = 10  # frames at both ends of a crop without loss: their spectra see its ends
    helpers: float = 0.12  # share of the crops from other people than the targets
    stretch: float = 0.3  # log2: crops are played so much faster or slower, for pitches that nobody sang
    blur: float = 0.4  # share of the crops whose spectrogram is blurred and noisy, as one that a denoiser made
    lingering: float = 0.3  # share of the crops whose voicing lasts too long, as pitch trackers have it
    learning_rate: float = 1e-3
    adversarial_rate: float = 2e-4
    adversarial: float = 0.05
    features: float = 0.3
    average: float = 0.998


@dataclass(frozen=True)
class Batch:
    """Crops of recordings on the song engine's grid. Spectra and pitch are those of `frames` frames."""

    audio: Tensor  # [batch, frames * HOP]
    mel: Tensor  # [batch, frames, bins]
    f0: Tensor  # [batch, frames] Hz
    voiced: Tensor  # [batch, frames]
    pulses: Tensor  # [batch, frames, 2 * HOP], zero where unvoiced
    noise: Tensor  # [batch, frames, NOISE_STEPS, 2 * NOISE_HOP]
    bandwidth_hz: Tensor  # [batch]

    def to(self, device: torch.device) -> Batch:
        """The same there."""
        return Batch(*(value.to(device) for value in vars(self).values()))


def draw(recordings: Recordings, config: TrainingConfig, rng: np.random.Generator, *, held_out: bool = False) -> Batch:
    """A batch of random crops; those held out of training come as they are, neither stretched nor blurred."""
    samples = config.frames * HOP
    longest = samples * source.SAMPLE_RATE / SAMPLE_RATE * 2**config.stretch
    crop = recordings.crop(rng, config.batch, -(-int(longest + 2 * source.HOP) // source.CHUNK), config.helpers, held_out)
    columns: list[list[Floats]] = [[] for _ in range(7)]
    for row in range(config.batch):
        speed = 1.0 if held_out else 2 ** rng.uniform(-config.stretch, config.stretch)
        audio = soxr.resample(crop.audio[row], source.SAMPLE_RATE * speed, SAMPLE_RATE)[:samples].astype(np.float32)
        audio *= 1.0 if held_out else 10 ** rng.uniform(-0.6, 0.1)
        seconds = np.arange(config.frames) * HOP / SAMPLE_RATE
        at = seconds * speed * source.SAMPLE_RATE / source.HOP
        hops = np.arange(crop.f0.shape[1])
        f0 = np.exp(np.interp(at, hops, np.log(crop.f0[row]))) * speed
        voiced = np.interp(at, hops, crop.voicing[row]) > 0.5
        f0 = np.where(voiced, refined(audio.astype(np.float64), SAMPLE_RATE, np.where(voiced, f0, 0.0)), f0)  # as songs have it
        mel = normalise(log_mel(audio)[: config.frames])
        if not held_out and rng.random() < config.lingering:
            voiced = np.convolve(voiced, np.ones(2 * int(rng.integers(1, 6)) + 1), "same") > 0.5
        if not held_out and rng.random() < config.blur:
            mel = blurred(mel, rng)
        pulses = pulse_frames(f0, phase_of(f0, rng.random())) * voiced[:, None]
        noise = noise_frames(0, config.frames, int(rng.integers(1 << 62)))
        bandwidth_hz = crop.bandwidth_hz[row] * speed
        for column, values in zip(columns, (audio, mel, f0, voiced, pulses, noise, bandwidth_hz), strict=True):
            column.append(np.asarray(values, np.float32))
    return Batch(*(torch.from_numpy(np.stack(column)) for column in columns))


def blurred(mel: Floats, rng: np.random.Generator) -> Floats:
    """A normalised spectrogram smoothed over time and bands and disturbed a little, each as much as chance has it."""
    for axis in (0, 1):
        share = rng.uniform(0.0, 0.4)
        neighbours = 0.5 * (np.roll(mel, 1, axis) + np.roll(mel, -1, axis))
        mel = ((1 - share) * mel + share * neighbours).astype(np.float32)
    noise = rng.normal(0.0, rng.uniform(0.0, 0.03), mel.shape)
    return np.maximum(mel + noise.astype(np.float32), -1)


def rendered(network: Vocoder, synthesis: Synthesis, batch: Batch, config: TrainingConfig) -> tuple[Tensor, Tensor]:
    """(made, recorded) [batch, samples]: the crops' inner frames, which know all that they depend on."""
    harmonic, noise = network(batch.mel, batch.f0, batch.voiced)
    made = synthesis(harmonic, noise, batch.pulses, batch.noise)
    inner = slice(config.edge * HOP, (config.frames - config.edge) * HOP)
    return made[:, inner], batch.audio[:, inner]


@dataclass(frozen=True)
class Progress:
    """What a watcher of a run sees: means over the steps since the last report; the last three 0 without discriminators."""

    step: int
    spectral: float
    held_out: float
    adversarial: float
    features: float
    discriminators: float


def fit(
    recordings: Recordings,
    work: Path,
    steps: int,
    adversarial_steps: int,
    report: Callable[[Progress], None],
    *,
    config: TrainingConfig | None = None,
    sizes: VocoderConfig | None = None,
    start: tuple[Vocoder, Judges] | None = None,
    report_every: int = 50,
    save_seconds: float = 120.0,
    stop_at: float = float("inf"),
    device: torch.device = CPU,
) -> Vocoder:
    """Train `steps` steps, and `adversarial_steps` more against discriminators, or until the clock's `stop_at`.

    Resumes from `work`/vocoder.pt, or begins with networks to adapt, `start`, instead of fresh ones of these `sizes`; returns the
    averaged network, on the CPU.
    """
    config = config or TrainingConfig()
    torch.manual_seed(config.seed)
    network, judges = copy.deepcopy(start) if start else (Vocoder(sizes or VocoderConfig()), Judges(1))
    sizes, synthesis = network.config, Synthesis().to(device)
    network, judges = network.to(device), judges.to(device)
    average = copy.deepcopy(network)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    opponent = torch.optim.AdamW(judges.parameters(), lr=config.adversarial_rate, betas=(0.8, 0.99), weight_decay=0.01)
    parts: dict[str, Any] = {"network": network, "average": average, "judges": judges, "optimiser": optimiser, "opponent": opponent}
    step, path = 0, work / "vocoder.pt"
    if path.exists():
        with restoring(path) as state:
            for name, part in parts.items():
                part.load_state_dict(state[name])
            step = state["step"]

    def write() -> None:
        save(path, {name: part.state_dict() for name, part in parts.items()} | {"step": step, "config": asdict(sizes)})

    held_out = draw(recordings, config, np.random.default_rng(config.seed), held_out=True).to(device)
    losses: list[list[float]] = []
    saved = time.monotonic()
    with Interruption() as interruption:
        while step < steps + adversarial_steps and time.monotonic() < stop_at and not interruption.came:
            batch = draw(recordings, config, np.random.default_rng([config.seed, step])).to(device)
            against = step - steps
            rate = config.learning_rate * schedule(step / max(1, steps), step)
            if against >= 0:
                rate = config.adversarial_rate * min(1.0, (against + 1) / 100, max(0.1, 2 * (1 - against / adversarial_steps)))
            for group in (*optimiser.param_groups, *opponent.param_groups):
                group["lr"] = rate
            made, recorded = rendered(network, synthesis, batch, config)
            loss = spectral_loss(made, recorded, batch.bandwidth_hz, SAMPLE_RATE)
            figures = [loss.item(), 0.0, 0.0, 0.0]
            if against >= 0:
                added, figures[1:] = play(judges, opponent, made, recorded, batch.bandwidth_hz, config)
                loss = loss + added
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            step += 1
            # The average follows fast at first, or it would be the random start for a thousand steps.
            keep = min(config.average, step / (step + 10))
            with torch.no_grad():
                for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
                    slow.lerp_(fast, 1 - keep)
            losses.append(figures)
            if step % report_every == 0 or step == steps + adversarial_steps:
                with torch.no_grad():
                    judged = spectral_loss(*rendered(average, synthesis, held_out, config), held_out.bandwidth_hz, SAMPLE_RATE)
                spectral, *others = np.mean(losses, 0).tolist()
                report(Progress(step, spectral, judged.item(), *others))
                losses = []
            if time.monotonic() - saved > save_seconds:
                write()
                saved = time.monotonic()
        write()
    return average.eval().cpu()


def play(
    judges: Judges, opponent: torch.optim.Optimizer, made: Tensor, recorded: Tensor, bandwidth_hz: Tensor, config: TrainingConfig
) -> tuple[Tensor, list[float]]:
    """One step of the discriminators, and what they add to the vocoder's loss: (loss, [adversarial, features, their own])."""
    # A recording that ends below would be known by that.
    full = bandwidth_hz >= 0.95 * SAMPLE_RATE / 2
    if not full.any():
        return torch.zeros((), device=made.device), [0.0, 0.0, 0.0]
    made, recorded = made[full], recorded[full]
    speaker = torch.zeros(len(made), dtype=torch.int64, device=made.device)
    real = judges(recorded, speaker)
    lost = discriminator_loss(recorded=real, made=judges(made.detach(), speaker))
    opponent.zero_grad(set_to_none=True)
    lost.backward()
    opponent.step()
    judges.requires_grad_(False)
    verdicts = judges(made, speaker)
    judges.requires_grad_(True)
    won = generator_loss(made=verdicts) / len(verdicts)
    alike = feature_loss(recorded=real, made=verdicts) / len(verdicts)
    figures = [won.item(), alike.item(), lost.item() / len(verdicts)]
    return config.adversarial * won + config.features * alike, figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the song engine's vocoder.")
    parser.add_argument("--data", type=Path, required=True, help="folder of packed recordings")
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--steps", type=count, default=3_000)
    parser.add_argument("--adversarial-steps", type=int, default=600)
    parser.add_argument("--minutes", type=time_limit, default=float("inf"))
    parser.add_argument("--threads", type=count, default=1)
    parser.add_argument("--device", choices=DEVICES, help="by default a GPU if there is one")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def report(progress: Progress) -> None:
        figures = " ".join(f"{name} {value:.4f}" for name, value in vars(progress).items() if name != "step" and value)
        print(f"step {progress.step} {figures} {time.monotonic() - began:.0f} s", flush=True)

    often: dict[str, Any] = {"stop_at": began + 60 * arguments.minutes, "device": pick_device(arguments.device)}
    fit(Recordings(arguments.data), arguments.work, arguments.steps, arguments.adversarial_steps, report, **often)


if __name__ == "__main__":
    run(main)
