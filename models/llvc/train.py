"""Training of LLVC: one loop from pairs to a checkpoint.

Step n draws all its randomness from (seed, n), so a run resumed from any checkpoint continues exactly. The checkpoint holds the
averaged generator under `model`, and a `config.json` in the authors' layout lies beside it: `plugin-bridge import-llvc` takes both.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.checkpoint import CheckpointError, restoring, save
from models.device import half_precision
from models.interruption import Interruption
from models.llvc.checkpoint import config_text, read_config
from models.llvc.discriminators import Discriminators
from models.llvc.disturb import disturb
from models.llvc.encoder_loss import DISTANCES, Distance, EncoderLoss
from models.llvc.losses import EnvelopeLoss, MelLoss, discriminator_loss, feature_loss, generator_loss
from models.llvc.network import Generator
from models.llvc.pairs import Pairs
from models.replacing import replacing
from models.whisper import BandPower
from models.words import Words, WordsLost

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CHECKPOINT = "checkpoint.pt"
CONFIG = "config.json"
BETAS, EPSILON = (0.8, 0.999), 1e-9
LARGEST_GRADIENT = 1.0
VALIDATION_PAIRS = 8
LEAST_JUDGED = 37  # samples: shorter, they cannot be reflected to a whole row of the discriminator of this period
SAVE_SECONDS = 300.0


@dataclass(frozen=True)
class TrainingConfig:
    """The `[training]` table of a recipe; the comments are there."""

    seed: int
    batch: int
    clip: int
    segment: int
    judged: int
    learning_rate: float
    decay: float
    average: float
    alone: int
    adversarial: float
    features: float
    mel: float
    envelope: float
    words: float
    warp: float
    colour: float
    encoder: float
    distance: Distance


@dataclass(frozen=True)
class TrainingProgress:
    """What a watcher of a run sees: `losses` are means since the last report, `validation` the mel loss on pairs held out."""

    step: int
    steps: int
    losses: dict[str, float]
    validation: float
    seconds_left: float


def read_recipe(path: Path | None = None) -> TrainingConfig:
    """A recipe, by default the published one; `path` may leave out what is to be as there.

    Raises ValueError, one sentence, for anything else than a `[training]` table of what is known there.
    """
    published = Path(__file__).with_name("train.toml")
    known = tomllib.loads(published.read_text(encoding="utf-8"))["training"]
    try:
        given = {} if path is None else tomllib.loads(path.read_text(encoding="utf-8"))["training"]
        if unknown := sorted(given.keys() - known.keys()):
            raise ValueError(f"there is nothing called {unknown[0]!r}")
        for name, value in given.items():
            wanted = type(known[name])
            if isinstance(value, bool) or not isinstance(value, (int, float) if wanted is float else wanted):
                raise ValueError(f"{name} must be of the kind of {known[name]!r}, not {value!r}")
            if not isinstance(value, str) and not (value >= 0 and value < float("inf")):
                raise ValueError(f"{name} must be at least 0, not {value}")
        config = TrainingConfig(**{**known, **given})
        if config.distance not in DISTANCES:
            raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, not {config.distance!r}")
        if not (config.batch and config.clip):
            raise ValueError("batch and clip must be at least 1")
        if min(config.segment, config.judged) < LEAST_JUDGED:
            raise ValueError(f"segment and judged must be at least {LEAST_JUDGED}, the longest period of the discriminators")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected a recipe with a [training] table in {path}, but {_reason(error)}") from None
    return config


def _reason(error: Exception) -> str:
    return "it has none" if isinstance(error, (KeyError, TypeError, AttributeError)) else str(error).splitlines()[0]


class Trainer:
    """Generator and discriminators, their optimisers, and one step of both. `encoder`, if there is one, adds its loss.

    Raises ValueError, one sentence, for clips too short for the losses.
    """

    def __init__(
        self,
        generator: Generator,
        discriminators: Discriminators,
        config: TrainingConfig,
        device: torch.device,
        encoder: nn.Module | None = None,
    ) -> None:
        self.config, self.device = config, device
        self.encoder = None if encoder is None else EncoderLoss(encoder, config.distance).to(device)
        self.generator, self.discriminators = generator.to(device), discriminators.to(device)
        self.mel = MelLoss(generator.config.sample_rate).to(device)
        if config.clip < self.mel.least_samples:
            least = f"{self.mel.least_samples} samples at {generator.config.sample_rate} Hz"
            raise ValueError(f"a recipe's clip must be at least {least}, for its longest spectrum, not {config.clip}")
        self.envelope = EnvelopeLoss(generator.config.sample_rate).to(device)
        self.words = WordsLost(Words(), BandPower(generator.config.sample_rate)).to(device) if config.words else None
        self.optimisers = [
            torch.optim.AdamW(module.parameters(), config.learning_rate, BETAS, EPSILON, weight_decay=0.0)
            for module in (self.generator, self.discriminators)
        ]
        self.averaged = AveragedModel(self.generator, multi_avg_fn=get_ema_multi_avg_fn(config.average))

    def step(
        self, clips: Tensor, random: np.random.Generator, epoch: int, alone: bool = False, voices: list[int] | None = None
    ) -> dict[str, float]:
        """Train both on pairs [2, batch, 1, clip], or the generator `alone`; returns the losses before it.

        `voices` are those of the pairs, each by its number; by default the first.
        """
        config = self.config
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * config.decay**epoch
        original, recorded = clips.to(self.device).unbind(0)
        spoken = original[:, 0]
        if config.warp or config.colour:
            original = disturb(original, self.generator.config.sample_rate, config.warp, config.colour, random)
        self.generator.train()
        with half_precision(self.device):  # bfloat16 has float32's range: no loss needs scaling
            made = self.generator(original, self._labels(voices)).float()
        losses = {"mel": self.mel(made[:, 0], recorded[:, 0])}
        if config.envelope:
            losses["envelope"] = self.envelope(made[:, 0], recorded[:, 0])
        if self.words is not None:
            losses["words"] = self.words(spoken, made[:, 0])
        weights = {"adversarial": config.adversarial, "features": config.features, "mel": config.mel}
        weights |= {"envelope": config.envelope, "encoder": config.encoder, "words": config.words}
        if self.encoder is not None:
            losses["encoder"] = self.encoder(made[:, 0], recorded[:, 0])
        if alone:
            self._descend(0, torch.stack([weights[name] * value for name, value in losses.items()]).sum())
            return {name: value.item() for name, value in losses.items()}

        part = random_part(recorded.shape[2], config.segment, random)
        self.discriminators.requires_grad_(True)
        with half_precision(self.device):
            loss = discriminator_loss(
                recorded=self.discriminators(recorded[..., part]), made=self.discriminators(made.detach()[..., part])
            )
        self._descend(1, loss)

        part = random_part(recorded.shape[2], config.judged, random)
        self.discriminators.requires_grad_(False)
        with half_precision(self.device):
            with torch.no_grad():
                wanted = self.discriminators(recorded[..., part])
            found = self.discriminators(made[..., part])
        losses |= {"adversarial": generator_loss(made=found), "features": feature_loss(recorded=wanted, made=found)}
        self._descend(0, torch.stack([weights[name] * value for name, value in losses.items()]).sum())
        return {name: value.item() for name, value in (losses | {"discriminators": loss}).items()}

    def _descend(self, which: int, loss: Tensor) -> None:
        module, optimiser = (self.generator, self.discriminators)[which], self.optimisers[which]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), LARGEST_GRADIENT)
        optimiser.step()
        if module is self.generator:
            self.averaged.update_parameters(module)

    def _labels(self, voices: list[int] | None) -> Tensor | None:
        return None if voices is None else torch.eye(self.generator.config.voices, device=self.device)[voices]

    @torch.no_grad()
    def convert(self, original: Tensor, voices: list[int] | None = None) -> Tensor:
        """Clips [batch, 1, clip] as the averaged generator converts them: without dropout."""
        made: Tensor = self.averaged.eval()(original.to(self.device), self._labels(voices))
        return made

    def validate(self, clips: Tensor, voices: list[int] | None = None) -> float:
        """Mel loss on pairs [2, batch, 1, clip], as they are converted."""
        return float(self.mel(self.convert(clips[0], voices)[:, 0], clips[1, :, 0].to(self.device)))

    def state(self) -> dict[str, Any]:
        return {
            "model": self.averaged.module.state_dict(),
            "averaged": self.averaged.n_averaged,
            "generator": self.generator.state_dict(),
            "discriminators": self.discriminators.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }

    def faces(self, discriminators: dict[str, Tensor]) -> bool:
        """Whether a state is that of discriminators such as ours: `llvc` and `llvc-hfg` have one generator."""
        return {name: value.shape for name, value in discriminators.items()} == {
            name: value.shape for name, value in self.discriminators.state_dict().items()
        }

    def load(self, state: dict[str, Any]) -> None:
        # The state is on the CPU: AdamW's count of steps stays there, and each of its parameters would else be waited for.
        self.averaged.module.load_state_dict(state["model"])
        self.averaged.n_averaged.copy_(state["averaged"])
        self.generator.load_state_dict(state["generator"])
        self.discriminators.load_state_dict(state["discriminators"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)


def random_part(samples: int, length: int, random: np.random.Generator) -> slice:
    """`length` of `samples`, anywhere; all, if there are no more."""
    start = int(random.integers(max(0, samples - length) + 1))
    return slice(start, start + length)


def fit(
    trainer: Trainer,
    training: Pairs,
    validation: Pairs,
    work: Path,
    steps: int,
    report: Callable[[TrainingProgress], None],
    *,
    report_every: int = 1_000,
    stop_at: float = float("inf"),
) -> Generator:
    """Train until `steps`, or the monotonic clock's `stop_at`, from where `work`/checkpoint.pt stands; returns the generator.

    An epoch takes every pair once, in an order of its own. Raises ValueError, one sentence, if another network stands in `work`, or
    if there are more voices in the pairs than in the network. The device decides the last bits of the sums; on one CPU, two runs of
    a seed are equal.
    """
    config, network = trainer.config, trainer.generator.config
    if (most := max(pair.voice for pair in training.pairs + validation.pairs)) >= network.voices:
        raise ValueError(f"expected a network of {most + 1} voices for these pairs, got one of {network.voices}")
    if (work / CONFIG).exists() and read_config(work / CONFIG) != network:
        raise ValueError(f"{work} holds the training of a network of other sizes or voices: this one wants a folder of its own")
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / CHECKPOINT
    step = 0
    if checkpoint.exists():
        with restoring(checkpoint) as state:
            if not trainer.faces(state["discriminators"]):
                raise CheckpointError(f"{work} holds a training against other discriminators: this one wants a folder of its own")
            trainer.load(state)
            step = state["step"]
    fixed = list(range(min(len(validation), VALIDATION_PAIRS)))
    held_out = torch.from_numpy(validation.batch(fixed, config.clip, np.random.default_rng(config.seed)))
    held_out_voices = validation.voices(fixed)
    log = open_log(work)

    def write() -> None:
        with replacing(work / CONFIG) as file:
            file.write(config_text(network).encode())
        save(checkpoint, trainer.state() | {"step": step})

    losses: list[dict[str, float]] = []
    began, began_step, saved = time.monotonic(), step, time.monotonic()
    steps_an_epoch = max(1, len(training) // config.batch)
    with Interruption() as interruption:
        while step < steps and time.monotonic() < stop_at and not interruption.came:
            epoch, number = divmod(step, steps_an_epoch)
            order = np.random.default_rng([config.seed, epoch]).permutation(len(training))
            chosen = [int(order[k % len(order)]) for k in range(number * config.batch, (number + 1) * config.batch)]
            random = np.random.default_rng([config.seed, epoch, number])
            torch.manual_seed(config.seed * 1_000_003 + step)
            clips = torch.from_numpy(training.batch(chosen, config.clip, random))
            losses.append(trainer.step(clips, random, epoch, step < config.alone, training.voices(chosen)))
            step += 1
            if step % report_every == 0 or step == steps:
                seconds = (time.monotonic() - began) / (step - began_step)
                # Those of the discriminators begin in the middle of a report.
                means = {name: float(np.mean([row[name] for row in losses if name in row])) for name in losses[-1]}
                progress = TrainingProgress(
                    step,
                    steps,
                    means,
                    trainer.validate(held_out, held_out_voices),
                    min((steps - step) * seconds, stop_at - time.monotonic()),
                )
                report(progress)
                if log:
                    write_log(log, progress, trainer, held_out[:, :3], held_out_voices[:3])
                losses = []
            if time.monotonic() - saved > SAVE_SECONDS:
                write()
                saved = time.monotonic()
        write()
    return cast("Generator", trainer.averaged.module).eval()


def open_log(work: Path) -> Any:
    """A TensorBoard log in `work`, where TensorBoard is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(work / "log"))


def write_log(log: Any, progress: TrainingProgress, trainer: Trainer, held_out: Tensor, voices: list[int]) -> None:
    """Losses as curves, and held-out pairs of `voices` to listen to."""
    for name, value in progress.losses.items():
        log.add_scalar(f"loss/{name}", value, progress.step)
    log.add_scalar("validation/mel", progress.validation, progress.step)
    made = trainer.convert(held_out[0], voices).cpu()
    for kind, clips in (("original", held_out[0]), ("wanted", held_out[1]), ("made", made)):
        for number, clip in enumerate(clips):
            log.add_audio(f"{kind}/{number}", clip, progress.step, trainer.generator.config.sample_rate)
    log.flush()
