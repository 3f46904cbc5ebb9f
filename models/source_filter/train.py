"""Training of the source-filter converter: one loop from recordings to a checkpoint.

The network hears disturbed features of a recording and reconstructs the recording itself, in its own voice: no parallel data,
no pretrained network. Step n draws all its randomness from (seed, n), so a run resumed from any checkpoint continues exactly.

    python -m models.source_filter.train --data FOLDER --work FOLDER [--steps N]
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.checkpoint import restoring, save
from models.command import count, run
from models.device import CPU, DEVICES, pick_device
from models.interruption import Interruption
from models.source_filter.data import Crop, Recordings, pack, read_corpora, read_settings, telling
from models.source_filter.disturb import disturb
from models.source_filter.features import BANDS, HOP, SAMPLE_RATE, BandEnergy, RunningMean, frame, split_loudness
from models.source_filter.network import Network, NetworkConfig, prosody
from models.source_filter.synthesis import Filter, harmonics_below_nyquist, pulse_train, voicing_gain
from models.source_filter.weights import Trained

CHECKPOINT = "checkpoint.pt"
SETTLING = 4  # hops: the first lack their predecessors' tails
LOSS_FFTS = (256, 512, 1024, 2048, 4096)  # 5 ms for plosives up to 85 ms for the harmonics of a bass


@dataclass(frozen=True)
class TrainingConfig:
    """The `[training]` table of a recipe; the comments are there."""

    seed: int
    batch: int
    context_chunks: int
    warm_chunks: int
    chunks: int
    helpers: float
    learning_rate: float
    average: float
    consistency: float


@dataclass(frozen=True)
class TrainingProgress:
    """What a watcher of a run sees: losses are means over the steps since the last report."""

    step: int
    steps: int
    loss: float
    held_out_loss: float
    seconds_left: float


def spectral_loss(made: Tensor, wanted: Tensor, bandwidth_hz: Tensor, sample_rate: int = SAMPLE_RATE) -> Tensor:
    """Multi-resolution STFT loss (Yamamoto et al. 2020): log-magnitude L1 and spectral convergence, below each bandwidth."""
    total = torch.zeros((), device=made.device)
    for size in LOSS_FFTS:
        window = torch.hann_window(size, device=made.device)
        spectra = [
            torch.stft(x, size, size // 4, window=window, center=False, return_complex=True).abs() for x in (made, wanted)
        ]
        hz = torch.arange(size // 2 + 1, device=made.device) * sample_rate / size
        # Every mel counts alike, or the loss would look mostly at what lies above 8 kHz.
        weight = torch.where(hz <= bandwidth_hz[:, None], 1 / (700.0 + hz), torch.zeros((), device=made.device))
        weight = (weight / weight.sum(1, keepdim=True))[..., None]
        # Floor some 75 dB under full-scale noise: below, the recording's own hiss is not worth learning.
        floor = 2e-4 * size**0.5
        log_made, log_wanted = (torch.log(s + floor) for s in spectra)
        total = total + (torch.abs(log_made - log_wanted) * weight).sum() / log_made.shape[2] / len(made)
        difference, wanted_power = ((s.square() * weight).sum((1, 2)) for s in (spectra[0] - spectra[1], spectra[1]))
        total = total + 0.5 * (difference.sqrt() / (wanted_power.sqrt() + 2e-3)).mean()
    return total / len(LOSS_FFTS)


class Trainer(nn.Module):
    """Features, network and synthesis over whole clips, differentiable."""

    def __init__(self, network: Network, config: TrainingConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.energy = BandEnergy()
        self.mean = RunningMean(BANDS + 1)
        self.filter = Filter()

    @property
    def device(self) -> torch.device:
        """Where everything is computed; what is random is drawn on the CPU but for the bottleneck's noise."""
        return self.mean.prior.device

    def normalised(self, energy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Band energies -> per chunk (spectra [batch, chunks, 2 * BANDS], loudness and its mean [batch, chunks, 2])."""
        shape, loudness = split_loudness(energy)
        shape, loudness = shape.unflatten(1, (-1, 2)), loudness.unflatten(1, (-1, 2))
        both = torch.cat([shape, loudness], -1).mean(2)
        mean = self.mean.sequence(both, both[..., -1:])
        spectra = (shape - mean[:, :, None, :-1]).flatten(2)
        return spectra, loudness.squeeze(-1), (loudness.squeeze(-1) - mean[:, :, -1:])

    def forward(self, crop: Crop, generator: torch.Generator, plain: bool = False) -> tuple[Tensor, Tensor]:
        """Reconstruct a batch: (spectral loss, consistency loss). `plain` leaves features and bottleneck undisturbed."""
        config = self.config
        audio, f0, voicing = (torch.from_numpy(x).to(self.device) for x in (crop.audio, crop.f0, crop.voicing))
        first = config.context_chunks
        with torch.no_grad():
            energy = self.energy(frame(audio))
            disturbed = [] if plain else [disturb(energy, generator) for _ in range(2)]
            # All in one: the running mean goes chunk by chunk.
            spectra, loudness, relative = self.normalised(torch.cat([energy, *disturbed]))
            loudness, relative = loudness[: len(energy)], relative[: len(energy)]
            heard = spectra[0 if plain else len(energy) :, first:]
        encoder = self.network.encoder
        if plain or not encoder.leave.weight.requires_grad:
            content = encoder(heard)
        else:
            content = encoder.whiten.fit(encoder.encode(heard))
        agreement = torch.zeros((), device=self.device)
        if not plain:
            content, other = content.chunk(2)
            agreement = (content - other).square().mean()
            content = self.network.disturb(content)
        made = self.synthesise(
            content, f0[:, 2 * first :], voicing[:, 2 * first :], loudness[:, first:], relative[:, first:], crop.speaker, generator
        )
        start = 2 * (first + config.warm_chunks) + SETTLING
        wanted = audio[:, start * HOP : start * HOP + made.shape[1]]
        return spectral_loss(made, wanted, torch.from_numpy(crop.bandwidth_hz).to(self.device)), agreement

    def synthesise(
        self,
        content: Tensor,
        f0: Tensor,
        voicing: Tensor,
        loudness: Tensor,
        relative: Tensor,
        speaker: NDArray[np.int64],
        generator: torch.Generator,
    ) -> Tensor:
        """Content [batch, chunks, content] in the voice of `speaker` [batch] -> audio [batch, samples].

        f0 (Hz) and voicing are [batch, 2 * chunks], loudness and `relative` [batch, chunks, 2], as `normalised` gives them. The
        audio begins at hop 2 * warm_chunks + SETTLING.
        """
        pitch, voiced = (x.unflatten(1, (-1, 2)) for x in (f0, voicing))
        voice = self.network.voices(torch.from_numpy(speaker).to(self.device))[:, None]
        gains = self.network.decoder(content, prosody(pitch, voiced, relative), voice)
        level = torch.stack([loudness + voicing_gain(voiced), loudness], -1)
        start = 2 * self.config.warm_chunks
        # The last hop has no successor to glide to.
        gains = (gains + level[..., None]).flatten(1, 2)[:, start:-1]
        frames = gains.shape[1]
        made: Tensor = self.filter(
            self.excitation(f0[:, start - 1 : start + frames + 1]),
            (torch.randint(16_637, (len(f0), 1), generator=generator) + torch.arange(frames)).to(self.device),
            gains[:, :, 0],
            gains[:, :, 1],
        )
        return made[:, SETTLING * HOP :]

    def excitation(self, f0: Tensor) -> Tensor:
        """f0 at the hop centres [batch, frames + 2] -> pulses under the inner frames [batch, frames, 2 * HOP]."""
        ramp = torch.arange(HOP, device=f0.device) / HOP
        log_f0 = torch.log(f0)
        per_sample = torch.exp(log_f0[:, :-1, None] + ramp * (log_f0[:, 1:] - log_f0[:, :-1])[..., None]).flatten(1)
        phase = torch.cumsum(per_sample.double() / SAMPLE_RATE, 1) % 1.0
        pulses = pulse_train(phase.float(), harmonics_below_nyquist(per_sample))
        return pulses.unfold(1, 2 * HOP, HOP)


def schedule(done: float, step: int) -> float:
    """Factor of the learning rate: up over 200 steps, level, and down to a twentieth over the last third of the run."""
    return min(1.0, (step + 1) / 200) * max(0.05, min(1.0, 3 * (1 - done)))


def fit(
    recordings: Recordings,
    config: TrainingConfig,
    work: Path,
    steps: int,
    report: Callable[[TrainingProgress], None],
    *,
    start: Trained | None = None,
    report_every: int = 50,
    save_seconds: float = 120.0,
    stop_at: float = float("inf"),
    device: torch.device = CPU,
) -> Trained:
    """Train until `steps` (or the clock's `stop_at`), resuming from `work`/checkpoint.pt; returns the averaged network.

    A run that began on the CPU goes on on a GPU, and the other way round; what is returned is on the CPU. `start` is a network to
    adapt instead of a fresh one; its parameters that require no gradient stay as they are.
    """
    torch.manual_seed(config.seed)
    network = copy.deepcopy(start.network) if start else Network(NetworkConfig(voices=len(recordings.speakers)))
    trainer = Trainer(network, config).to(device)
    trainer.mean.prior.copy_(start.prior if start else long_term_mean(trainer, recordings, config))
    average = copy.deepcopy(network)
    trained = [p for p in trainer.network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    step = 0
    checkpoint = work / CHECKPOINT
    if checkpoint.exists():
        with restoring(checkpoint) as state:
            trainer.network.load_state_dict(state["network"])
            average.load_state_dict(state["average"])
            optimiser.load_state_dict(state["optimiser"])
            step = state["step"]
            trainer.mean.prior.copy_(state["prior"])

    chunks = config.context_chunks + config.warm_chunks + config.chunks

    def write() -> None:
        state = {"network": trainer.network.state_dict(), "average": average.state_dict(), "step": step}
        state |= {"optimiser": optimiser.state_dict(), "prior": trainer.mean.prior, "config": asdict(config)}
        save(checkpoint, state | {"voices": recordings.voices, "speakers": len(recordings.speakers)})

    losses: list[float] = []
    began, began_step, saved = time.monotonic(), step, time.monotonic()
    with Interruption() as interruption:
        while step < steps and time.monotonic() < stop_at and not interruption.came:
            crop = recordings.crop(np.random.default_rng([config.seed, step]), config.batch, chunks, config.helpers)
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            torch.manual_seed(config.seed * 1_000_003 + step)
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * schedule(step / steps, step)
            spectral, agreement = trainer(crop, generator)
            optimiser.zero_grad(set_to_none=True)
            (spectral + config.consistency * agreement).backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            step += 1
            # The average follows fast at first, or it would be the random start for a thousand steps.
            keep = min(config.average, step / (step + 10))
            with torch.no_grad():
                for slow, fast in zip(average.parameters(), trainer.network.parameters(), strict=True):
                    slow.lerp_(fast, 1 - keep)
                for kept, now in zip(average.buffers(), trainer.network.buffers(), strict=True):
                    kept.copy_(now)
            losses.append(spectral.item())
            if step % report_every == 0 or step == steps:
                rate = (time.monotonic() - began) / (step - began_step)
                left = min((steps - step) * rate, stop_at - time.monotonic())
                loss = held_out_loss(average, trainer.mean.prior, config, recordings)
                report(TrainingProgress(step, steps, float(np.mean(losses)), loss, left))
                losses = []
            if time.monotonic() - saved > save_seconds:
                write()
                saved = time.monotonic()
        write()
    return Trained(average.eval().cpu(), trainer.mean.prior.clone().cpu(), recordings.voices)


def held_out_loss(network: Network, prior: Tensor, config: TrainingConfig, recordings: Recordings) -> float:
    """Spectral loss of a batch of held-out recordings, the same at every call, undisturbed."""
    chunks = config.context_chunks + config.warm_chunks + config.chunks
    crop = recordings.crop(np.random.default_rng(config.seed), config.batch, chunks, 0.0, held_out=True)
    judge = Trainer(network, config).to(prior.device)
    judge.mean.prior.copy_(prior)
    with torch.no_grad():
        loss: float = judge(crop, torch.Generator().manual_seed(0), plain=True)[0].item()
    return loss


def long_term_mean(trainer: Trainer, recordings: Recordings, config: TrainingConfig) -> Tensor:
    """The recordings' mean spectrum and loudness, energy-weighted: what the running mean starts from."""
    crop = recordings.crop(np.random.default_rng(config.seed), 64, config.chunks, 0.5)
    with torch.no_grad():
        shape, loudness = split_loudness(trainer.energy(frame(torch.from_numpy(crop.audio).to(trainer.device))))
    weight = torch.exp(2 * loudness)
    return (torch.cat([shape, loudness], -1) * weight).sum((0, 1)) / weight.sum((0, 1))


def stage_parser(description: str, steps: int) -> argparse.ArgumentParser:
    """What each stage of the bank's training takes on its command line; `steps` are its usual ones."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work", type=Path, required=True, help="folder for packed data and checkpoints")
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("bank.toml"))
    parser.add_argument("--steps", type=count, default=steps)
    parser.add_argument("--threads", type=count, default=2)
    parser.add_argument("--device", choices=DEVICES, help="by default a GPU if there is one")
    return parser


def main() -> None:
    parser = stage_parser("Train the bundled bank.", 6_500)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the recipe's corpora")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device, config = pick_device(arguments.device), read_settings(TrainingConfig, arguments.recipe, "training")
    pack(arguments.data, read_corpora(arguments.recipe), arguments.work / "packed", telling("recording"))
    began = time.monotonic()

    def report(progress: TrainingProgress) -> None:
        print(
            f"step {progress.step} loss {progress.loss:.4f} held out {progress.held_out_loss:.4f} "
            f"{time.monotonic() - began:.0f} s",
            flush=True,
        )

    fit(Recordings(arguments.work / "packed"), config, arguments.work, arguments.steps, report, device=device)


if __name__ == "__main__":
    run(main)
