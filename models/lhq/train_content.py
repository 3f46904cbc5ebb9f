"""Stage 1: content encoder and condition network, by a coarse mel spectrogram of the recording itself.

The encoder hears disturbed features of a take, half the time in another voice; the condition network, told pitch, loudness and
whose voice it is, gives the take's own mel. Step n draws all its randomness from (seed, n), so a run resumed from a checkpoint
continues exactly.

    python -m models.lhq.train_content --data FOLDER --work FOLDER [--steps N | --minutes M]
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dsp.mel import mel_centres
from models.checkpoint import restoring, save
from models.command import count, run
from models.device import CPU, DEVICES, half_precision, pick_device
from models.interruption import Interruption
from models.lhq.content import MEAN_FRAMES, Conditioner, Conditioning, ContentConfig
from models.lhq.data import Batch, Takes, pack_features
from models.lhq.features import FLOOR
from models.lhq.mel import DEFAULT
from models.lhq.mel import FLOOR as MEL_FLOOR
from models.lhq.others import OtherVoices
from models.source_filter.data import INDEX, Recordings, pack, read_corpora, read_settings, telling
from models.source_filter.disturb import disturb
from models.source_filter.train import schedule
from models.source_filter.weights import load_checkpoint, load_trained

CHECKPOINT = "content.pt"
CORPORA = Path(__file__).parents[1] / "source_filter" / "bank.toml"
# Frames 69 dB and more below the loudest of a crop count least, from 35 dB on fully: silence is easy, and there is much of it.
QUIET, FULL = 8.0, 4.0
LEAST_WEIGHT = 0.1


@dataclass(frozen=True)
class ContentTraining:
    """The `[training]` table of the recipe; the comments are there."""

    seed: int
    batch: int
    frames: int
    helpers: float
    shifted: float
    paired: int
    learning_rate: float
    average: float
    consistency: float
    gain: tuple[float, float]


@dataclass(frozen=True)
class Progress:
    """Losses since the last report (means; `loss` in nepers of mel), of the held-out takes, and time."""

    step: int
    loss: float
    agreement: float
    held_out_loss: float
    seconds: float


def frame_weight(loudness: Tensor) -> Tensor:
    """Loudness [batch, T] -> weight of each frame in the loss."""
    below = loudness.amax(1, keepdim=True) - loudness
    return torch.clamp((QUIET - below) / (QUIET - FULL), LEAST_WEIGHT, 1.0)


def mel_loss(made: Tensor, wanted: Tensor, loudness: Tensor, bandwidth_hz: Tensor) -> Tensor:
    """Mean absolute error in nepers of normalised mels [batch, T, bins], below each recording's bandwidth."""
    centres = torch.tensor(mel_centres(DEFAULT.bins, DEFAULT.low_hz, DEFAULT.high_hz), dtype=torch.float32)
    weight = frame_weight(loudness)[..., None] * (centres <= bandwidth_hz[:, None, None]).to(made.device)
    return (torch.abs(made - wanted) * weight).sum() / weight.sum() * (-math.log(MEL_FLOOR) / 2)


def disturbed(features: Tensor, generator: torch.Generator) -> Tensor:
    """Content features [batch, T, BANDS], each clip warped, equalised and made noisy in its own way."""
    return 0.5 * torch.log(disturb(torch.exp(2 * features), generator) + FLOOR)


@dataclass(frozen=True)
class Heard:
    """A batch after the networks: condition [batch, T, 256], coarse mel and the wanted one [batch, T, bins], loudness
    [batch, T], and the disagreement of the contents of two views."""

    condition: Tensor
    coarse: Tensor
    mel: Tensor
    loudness: Tensor
    agreement: Tensor


def weighted_mean(x: Tensor, weight: Tensor) -> Tensor:
    """Of [batch, T, channels] with the frames' weights [batch, T, 1]."""
    return (x * weight).sum() / (weight.sum() * x.shape[2])


def hear(
    model: Conditioner, batch: Batch, config: ContentTraining, generator: torch.Generator, *, plain: bool = False
) -> Heard:
    """Pass a batch through encoder and condition network. `plain` leaves features, level and bottleneck undisturbed.

    Without pairs (`config.paired` 0) the encoder's statistics stay as they are. Batch and disturbances are made on the CPU, the
    networks run where the model is.
    """
    device = model.voices.weight.device
    features, mel = torch.from_numpy(batch.features), torch.from_numpy(batch.mel)
    loudness = torch.from_numpy(batch.loudness)
    agreement = torch.zeros((), device=device)
    count = len(features)
    with torch.no_grad():
        if not plain:
            other = torch.from_numpy(batch.other)
            swap = torch.rand(count, 1, 1, generator=generator) < 0.5
            first, second = torch.where(swap, other, features), torch.where(swap, features, other)
            features = disturbed(torch.cat([first, second[count - config.paired :]]), generator)
            mel, loudness = at_other_level(mel, loudness, config.gain, generator)
    content = encoded(model, features)
    if config.paired and not plain:  # the encoder is learning
        content, pair = model.encoder.whiten.fit(content).split([count, config.paired])
        weight = frame_weight(loudness[count - config.paired :])[..., None].to(device)
        agreement = weighted_mean((content[count - config.paired :] - pair).square(), weight)
    else:
        content = model.encoder.whiten(content)
    if not plain:
        content = model.disturb(content)
    return conditioned(model, content, mel, loudness, batch, agreement)


def encoded(model: Conditioner, features: Tensor) -> Tensor:
    """Content features [batch, T + 2 * MEAN_FRAMES, BANDS] -> what the encoder gives for the inner frames, not yet whitened."""
    device = model.voices.weight.device
    with torch.no_grad():
        heard = model.encoder.normalise(features.to(device))[:, MEAN_FRAMES:-MEAN_FRAMES]
    with half_precision(device):
        return model.encoder.encode(heard).float()


def at_other_level(mel: Tensor, loudness: Tensor, gain: tuple[float, float], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mel and loudness of a batch, each clip as if sung softer or louder within `gain`, natural logarithms."""
    change = gain[0] + (gain[1] - gain[0]) * torch.rand(len(mel), 1, generator=generator)
    return torch.clamp(mel + change[..., None] * (-2 / math.log(MEL_FLOOR)), min=-1.0), loudness + change


def conditioned(
    model: Conditioning, content: Tensor, mel: Tensor, loudness: Tensor, batch: Batch, agreement: Tensor
) -> Heard:
    """Pass content [batch, T, content], in place of the batch's own, with mel and loudness at their level, through the network."""
    device = model.voices.weight.device
    content, mel, loudness = (x.to(device) for x in (content, mel, loudness))
    f0, voiced, shift = (torch.from_numpy(x).to(device) for x in (batch.f0, batch.voiced, batch.shift))
    with half_precision(device):
        voice = model.voices(torch.from_numpy(batch.speaker).to(device))
        condition = model.condition(content, f0, voiced, loudness, shift, voice)
        made = model.condition.mel(condition, loudness)
    return Heard(condition.float(), made.float(), mel, loudness, agreement)


def losses(
    model: Conditioner, batch: Batch, config: ContentTraining, generator: torch.Generator, *, plain: bool = False
) -> tuple[Tensor, Tensor]:
    """(mel loss, disagreement of the contents of two views); `plain` as for `hear`."""
    heard = hear(model, batch, config, generator, plain=plain)
    loss = mel_loss(heard.coarse, heard.mel, heard.loudness, torch.from_numpy(batch.bandwidth_hz))
    return loss, heard.agreement


def long_term_mean(takes: Takes, config: ContentTraining) -> Tensor:
    """[BANDS + 1]: the takes' mean spectrum and level, energy-weighted: what the encoder's mean starts from."""
    batch = takes.batch(np.random.default_rng(config.seed), 5 * config.batch, config.frames, 0, helpers=0.5, shifted=0.0)
    features = torch.from_numpy(batch.features).flatten(0, 1)
    energy = torch.exp(2 * features).mean(1, keepdim=True)
    level = 0.5 * torch.log(energy)
    return (torch.cat([features - level, level], 1) * energy).sum(0) / energy.sum()


def fit(
    takes: Takes,
    sizes: ContentConfig,
    config: ContentTraining,
    work: Path,
    steps: int,
    report: Callable[[Progress], None],
    *,
    seconds: float = float("inf"),
    report_every: int = 100,
    save_seconds: float = 120.0,
    device: torch.device = CPU,
) -> Conditioner:
    """Train until `steps`, or for `seconds` in all, resuming from `work`/content.pt; returns the averaged networks."""
    torch.manual_seed(config.seed)
    model = Conditioner(sizes)
    model.encoder.normalise.prior.copy_(long_term_mean(takes, config))
    model.to(device)
    average = copy.deepcopy(model).eval()
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    step, spent = 0, 0.0
    checkpoint = work / CHECKPOINT
    if checkpoint.exists():
        with restoring(checkpoint) as state:
            model.load_state_dict(state["network"])
            average.load_state_dict(state["average"])
            optimiser.load_state_dict(state["optimiser"])
            step, spent = state["step"], float(state["seconds"])
    held_out = takes.batch(
        np.random.default_rng(config.seed), 2 * config.batch, config.frames, MEAN_FRAMES, helpers=0.0, shifted=0.0, held_out=True
    )
    began = time.monotonic() - spent

    def write() -> None:
        state: dict[str, Any] = {"network": model.state_dict(), "average": average.state_dict()}
        state |= {"optimiser": optimiser.state_dict(), "step": step, "seconds": time.monotonic() - began}
        state |= {"config": asdict(sizes), "voices": takes.voices}
        save(checkpoint, state)

    recent: list[tuple[float, float]] = []
    saved = time.monotonic()
    with Interruption() as interruption:
        while step < steps and time.monotonic() - began < seconds and not interruption.came:
            done = max(step / steps, (time.monotonic() - began) / seconds)
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * schedule(done, step)
            rng = np.random.default_rng([config.seed, step])
            batch = takes.batch(
                rng, config.batch, config.frames, MEAN_FRAMES, helpers=config.helpers, shifted=config.shifted
            )
            torch.manual_seed(config.seed * 1_000_003 + step)
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            loss, agreement = losses(model, batch, config, generator)
            optimiser.zero_grad(set_to_none=True)
            (loss + config.consistency * agreement).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            step += 1
            # The average follows fast at first, or it would be the random start for a thousand steps.
            keep = min(config.average, step / (step + 10))
            with torch.no_grad():
                for slow, fast in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                    slow.lerp_(fast, 1 - keep)
            recent.append((loss.item(), agreement.item()))
            if step % report_every == 0 or step == steps:
                with torch.no_grad():
                    judged = losses(average, held_out, config, torch.Generator(), plain=True)[0].item()
                loss_mean, agreement_mean = np.mean(recent, 0).tolist()
                report(Progress(step, loss_mean, agreement_mean, judged, time.monotonic() - began))
                recent = []
            if time.monotonic() - saved > save_seconds:
                write()
                saved = time.monotonic()
        write()
    return average


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the song engine's content encoder and condition network.")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the corpora")
    parser.add_argument("--work", type=Path, required=True, help="folder for packed data and checkpoints")
    parser.add_argument("--steps", type=count, default=2_000)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="at most; 0: the recordings are packed, no more")
    parser.add_argument("--threads", type=count, default=2)
    parser.add_argument("--device", choices=DEVICES, help="by default a GPU if there is one")
    parser.add_argument("--others", type=Path, help="checkpoint of the stream engine with all its speakers (default: the base)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = pick_device(arguments.device)

    def trained(progress: Progress) -> None:
        print(
            f"step {progress.step} loss {progress.loss:.4f} agreement {progress.agreement:.3f} "
            f"held out {progress.held_out_loss:.4f} {progress.seconds:.0f} s",
            flush=True,
        )

    config = read_settings(ContentTraining, Path(__file__).with_name("content.toml"), "training")
    if not (arguments.work / "packed" / INDEX).exists():
        pack(arguments.data, read_corpora(CORPORA), arguments.work / "audio", telling("recording"))
        stream = load_checkpoint(arguments.others) if arguments.others else load_trained()
        others = OtherVoices(stream, config.seed)
        pack_features(Recordings(arguments.work / "audio"), others, arguments.work / "packed", config.seed, telling("clip"))
    takes = Takes(arguments.work / "packed")
    if arguments.minutes > 0:
        sizes = ContentConfig(voices=len(takes.speakers))
        fit(takes, sizes, config, arguments.work, arguments.steps, trained, seconds=60 * arguments.minutes, device=device)


if __name__ == "__main__":
    run(main)
