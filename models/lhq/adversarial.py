"""Stage 3: the students of one step, against discriminators.

A student answers noise at once, and what is left of its teacher's choices is near their mean: spectra smoother than any recording,
in which a voice is hard to know. Here it goes on training, with the condition network, against discriminators of spectrograms, as
in adversarial diffusion distillation (Sauer et al. 2023): on takes of the voices, which a recording exists for, and on other
people's in their stead, which it does not. Those have to be heard by a speech recogniser as their sources are (`Words`): what the
encoder tells, and what is made of it, are the words. In broad bands, and where nothing sounds, they must stay what they were when
the stage began; and at the times that one step does not use, the student stays what it was.

    python -m models.lhq.adversarial --work FOLDER [--size mobile] [--steps N]

reads student.pt of `models.lhq.train_denoiser` in FOLDER, or mobile.pt, and writes sharp-student.pt or sharp-mobile.pt beside it.
What it learnt of the words with the encoder cost it likeness: `--blended` goes on from a blend (`models.lhq.blend`) of what it was
before and after, put into another FOLDER as student.pt.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from models.checkpoint import restoring, save
from models.command import count, run
from models.device import CPU, DEVICES, pick_device
from models.image_judge import ImageJudge
from models.interruption import Interruption
from models.lhq.bands import BandsOfMel
from models.lhq.bank import STUDENTS
from models.lhq.content import MEAN_FRAMES, Conditioner, load_content
from models.lhq.data import Batch, Takes
from models.lhq.denoiser import Denoiser
from models.lhq.diffusion import diffuse
from models.lhq.distillation import other_times
from models.lhq.export import TEMPERATURE
from models.lhq.mel import FLOOR
from models.lhq.objectives import Task, denoising
from models.lhq.train_content import CHECKPOINT as CONTENT
from models.lhq.train_content import ContentTraining, conditioned, disturbed, encoded, hear, mel_loss
from models.lhq.train_denoiser import load_result
from models.llvc.discriminators import Discriminators, Verdict
from models.llvc.losses import discriminator_loss
from models.source_filter.adversarial import into_range, makers_losses
from models.source_filter.data import read_settings
from models.words import CHANNELS, Words, distance, misheard, said

NEPERS = -math.log(FLOOR) / 2  # in a unit of normalised mel
POOLS = ((1, 1), (1, 2), (4, 2))  # bins and frames that become one, for each judge: detail, movement, the broad envelope
BROAD = (5, 4)  # bins and frames over which a conversion must stay what it was: formants and syllables
BETWEEN = 6.0  # weight of the frames in which nothing is sung
AUDIBLE = 4.0  # nepers: 35 dB
SILENT = 5.5  # nepers: a consonant is louder than 48 dB under its vowel


@dataclass(frozen=True)
class AdversarialConfig:
    """The `[adversarial]` table of the recipe; the comments are there."""

    seed: int
    batch: int
    frames: int
    shifted: float
    learning_rate: float
    encoder_learns: bool
    average: float
    adversarial: float
    features: float
    kept: float
    content_noise: float
    consistency: float
    words: float
    told: float
    others: float
    held: tuple[str, ...]


@dataclass(frozen=True)
class Losses:
    """Of one step, unweighted."""

    mel: float
    adversarial: float
    features: float
    kept: float
    words: float
    told: float
    agreement: float
    others: float
    discriminators: float


class Judges(Discriminators):
    """(Normalised mel [batch, T, bins], sounding [batch, T], speaker int64 [batch]) -> one `Verdict` for each of `POOLS`.

    They see what is sung and nothing between: where a voice is known by little but sustained notes, silence and consonants with
    the stripes of harmonics in them were judged the likelier.
    """

    def __init__(self, speakers: int) -> None:
        super().__init__([ImageJudge(speakers) for _ in POOLS])

    def forward(self, mel: Tensor, sounding: Tensor, speaker: Tensor) -> list[Verdict]:  # type: ignore[override]
        image = ((2 * mel + 1) * sounding[..., None]).transpose(1, 2)[:, None]  # to about zero mean and unit variance
        return [judge.judge(avg_pool2d(image, pool), speaker) for judge, pool in zip(self.members, POOLS, strict=True)]  # type: ignore[operator]


def in_voices(
    batch: Batch, speaker: NDArray[np.int64], ranges: list[tuple[float, float]], rng: np.random.Generator
) -> Batch:
    """The batch as the voices `speaker` [batch] are to sing it."""
    f0 = into_range(batch.f0, batch.voiced, ranges, speaker, rng)
    return replace(batch, f0=f0, speaker=speaker, shift=np.zeros_like(batch.shift))


def pitch_range_hz(takes: Takes, voice: str) -> tuple[float, float]:
    """1st and 99th percentile of what a voice sings in its takes."""
    own = [take for take in takes.takes if take.speaker == voice and not take.held_out and not take.shift]
    scalars = np.concatenate([takes.scalars[take.start : take.start + take.frames] for take in own])
    low, high = np.percentile(scalars[scalars[:, 2] > 0.5, 1], [1, 99])
    return float(low), float(high)


class Game(nn.Module):
    """Both sides: student and condition network, which learn, their judges, and what the two were in the beginning."""

    def __init__(
        self,
        student: Denoiser,
        conditioner: Conditioner,
        voices: int,
        content: ContentTraining,
        config: AdversarialConfig,
        words: Words | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        # In a tuple: those that hear the words are nobody's to train or to save.
        self.words = None if words is None else (words, BandsOfMel())
        self.learns = words is not None and config.encoder_learns
        self.teller = nn.Linear(conditioner.config.content, CHANNELS) if self.learns else None
        self.content = content if self.learns else replace(content, paired=0)
        if words:
            conditioner.config = replace(conditioner.config, content_noise=config.content_noise)
        self.start = copy.deepcopy(nn.ModuleList([student, conditioner])).requires_grad_(False)
        self.student, self.conditioner = student.requires_grad_(True), conditioner.requires_grad_(True)
        conditioner.encoder.requires_grad_(self.learns)
        self.judges = Judges(voices)

    def move(self, device: torch.device) -> None:
        """To where it is to be played: with those that hear the words."""
        self.to(device)
        for module in self.words or ():
            module.to(device)

    def learners(self) -> list[nn.Module]:
        """What the stage is for."""
        return [self.student, self.conditioner]

    def other_people(self, batch: Batch, generator: torch.Generator) -> tuple[Task, Task, Tensor]:
        """What the student is asked for by a batch that its voices never sang, now and when the stage began; and its content."""
        start = self.start[1]
        assert isinstance(start, Conditioner)
        mel, loudness, none = torch.from_numpy(batch.mel), torch.from_numpy(batch.loudness), torch.zeros(())
        features = torch.from_numpy(batch.features)
        # Who hears the words must not learn to hear the throat with them: the encoder is not told which one it was.
        told = disturbed(features, generator) if self.words else features
        content = self.conditioner.encoder.whiten(encoded(self.conditioner, told))
        with torch.no_grad():
            before = conditioned(start, start.encoder.whiten(encoded(start, features)), mel, loudness, batch, none)
        heard = self.conditioner.disturb(content) if self.words else content
        now = conditioned(self.conditioner, heard, mel, loudness, batch, none)
        # Here the coarse mel has no recording to learn from, only what is made on top of it.
        return replace(Task.of(now, batch), coarse=now.coarse), Task.of(before, batch), content

    def heard(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """What is said in a mel [batch, T, bins], and where anything is."""
        assert self.words
        words, bands = self.words
        power = bands(mel)
        return words(power), said(power)

    def words_lost(self, source: Tensor, made: Tensor, content: Tensor) -> tuple[Tensor, Tensor]:
        """How far from what is said in a source, mel [batch, T, bins], are what is said in its conversion, and, where the encoder
        learns, what its content [batch, T, content] tells."""
        with torch.no_grad():
            wanted, weight = self.heard(source)
        lost = misheard(self.heard(made)[0], wanted, weight)
        if self.teller is None:
            return lost, torch.zeros(())
        return lost, distance(self.teller(self.conditioner.disturb(content))[:, ::2], wanted, weight)

    def elsewhere(self, task: Task, rng: np.random.Generator, noise: Tensor) -> Tensor:
        """How far the student is from what it was, in the unit of the noise, at the times that one step does not use."""
        scale = self.student.config.scale
        student = self.start[0]
        assert isinstance(student, Denoiser)
        t = torch.tensor(other_times(rng, len(noise), 1), dtype=torch.float32, device=noise.device)[:, None, None]
        z = diffuse(task.x, scale * noise, t)
        with torch.no_grad():
            wanted = denoising(student, task)(z, t)
        return task.mean_square((denoising(self.student, task)(z, t) - wanted) / scale)


def one_step(student: Denoiser, task: Task, noise: Tensor) -> Tensor:
    """The mel that one step makes of noise [batch, T, bins] of unit variance, as in a song."""
    return denoising(student, task)(TEMPERATURE * student.config.scale * noise, torch.ones(len(noise)))


def audible(batch: Batch, range_nepers: float) -> NDArray[np.bool_]:
    """[batch, T]: where it is not so far below the loudest of its crop."""
    return np.asarray(batch.loudness > batch.loudness.max(1, keepdims=True) - range_nepers)


def sounding(batch: Batch, held: list[int]) -> Tensor:
    """[batch, T]: 1 where something is sung by a voice that is not held, and not far below the loudest of its crop; else 0."""
    loud = audible(batch, AUDIBLE)
    free = ~np.isin(batch.speaker, held)[:, None]
    return torch.from_numpy((loud & free & (batch.voiced > 0.5)).astype(np.float32))


def changed(made: Tensor, before: Tensor, free: Tensor) -> Tensor:
    """How far a conversion is from what it was, in nepers: in broad bands, and where it is not `free` in everything."""
    between = torch.abs(made - before).mean(2)[free == 0].sum() / free.numel()
    return NEPERS * (torch.abs(broad(made - before)).mean() + BETWEEN * between)


def broad(mel: Tensor) -> Tensor:
    """Means of a mel [batch, T, bins] over `BROAD` tiles."""
    return avg_pool2d(mel.transpose(1, 2)[:, None], BROAD)


def play(
    takes: Takes,
    game: Game,
    work: Path,
    name: str,
    steps: int,
    report: Callable[[int, Losses], None],
    *,
    report_every: int = 50,
    save_seconds: float = 120.0,
    device: torch.device = CPU,
) -> None:
    """Train until `steps`, resuming from `work`/sharp-`name`; the averages in there are what `bank` reads.

    Batches and their disturbances are made on the CPU, the networks run on `device`. A run goes on on either.
    """
    config = game.config
    game.move(device)
    averages = copy.deepcopy(game.learners())
    learning = [p for module in game.learners() for p in module.parameters() if p.requires_grad]
    if game.teller:
        learning += game.teller.parameters()
    optimiser = torch.optim.AdamW(learning, lr=config.learning_rate, betas=(0.8, 0.99), weight_decay=0.01)
    opponent = torch.optim.AdamW(game.judges.parameters(), lr=config.learning_rate, betas=(0.8, 0.99), weight_decay=0.01)
    ranges = [pitch_range_hz(takes, voice) for voice in takes.voices]
    held = [takes.voices.index(voice) for voice in config.held if voice in takes.voices]  # other recordings have other voices
    step, path = 0, work / f"sharp-{name}"
    parts: dict[str, Any] = {"game": game, "optimiser": optimiser, "opponent": opponent}
    if path.exists():
        # On the CPU first: AdamW's count of steps stays there, and each of its parameters would else be waited for.
        with restoring(path) as state:
            for key, part in parts.items():
                part.load_state_dict(state[key])
            for average, key in zip(averages, ("denoiser", "conditioner"), strict=True):
                average.load_state_dict(state[key])
            step = state["step"]

    def write() -> None:
        state = {key: part.state_dict() for key, part in parts.items()} | {"step": step}
        state |= {"denoiser": averages[0].state_dict(), "conditioner": averages[1].state_dict()}
        save(path, state | {"sizes": asdict(game.student.config), "steps": 1})

    starting = game.start[0]
    assert isinstance(starting, Denoiser)
    saved, losses = time.monotonic(), []
    with Interruption() as interruption:
        while step < steps and not interruption.came:
            rng = np.random.default_rng([config.seed, step])
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            torch.manual_seed(config.seed * 1_000_003 + step)
            for group in (*optimiser.param_groups, *opponent.param_groups):
                group["lr"] = config.learning_rate * min(1.0, (step + 1) / 100, max(0.1, 2 * (1 - step / steps)))
            own = takes.batch(rng, config.batch, config.frames, MEAN_FRAMES, helpers=0.0, shifted=config.shifted)
            others = takes.batch(rng, config.batch, config.frames, MEAN_FRAMES, helpers=config.others, shifted=0.0)
            target = rng.integers(len(takes.voices), size=config.batch)
            moved = in_voices(others, target, ranges, rng)
            noise = torch.randn(2 * config.batch, config.frames, takes.mel.shape[1], generator=generator)
            first, second = noise.to(device).split(config.batch)

            heard = hear(game.conditioner, own, game.content, generator)
            task, bandwidth = Task.of(heard, own), torch.from_numpy(own.bandwidth_hz)
            asked, asked_before, content = game.other_people(moved, generator)
            rebuilt, converted = one_step(game.student, task, first), one_step(game.student, asked, second)
            with torch.no_grad():
                before = one_step(starting, asked_before, second)
            made = torch.cat([rebuilt, converted])
            sung = sounding(own, held).to(device)
            all_sung = torch.cat([sung, sounding(moved, held).to(device)])
            both = torch.from_numpy(np.concatenate([own.speaker, target])).to(device)
            speaker = both[: config.batch]

            # Recordings count as often as what is made, though there are half as many.
            lost = discriminator_loss(recorded=game.judges(task.x, sung, speaker), made=game.judges(made.detach(), all_sung, both))
            opponent.zero_grad(set_to_none=True)
            lost.backward()
            opponent.step()

            game.judges.requires_grad_(False)
            verdicts = game.judges(made, all_sung, both)
            with torch.no_grad():
                real = game.judges(task.x, sung, speaker)
            won, alike = makers_losses(verdicts, real)
            near = mel_loss(rebuilt, heard.mel, heard.loudness, bandwidth)
            coarse = mel_loss(heard.coarse, heard.mel, heard.loudness, bandwidth)
            lost_words, told = torch.zeros(()), torch.zeros(())
            free = all_sung[config.batch :]
            if game.words:
                free = torch.from_numpy(audible(moved, SILENT)).to(device)  # consonants are for whoever hears the words
                lost_words, told = game.words_lost(torch.from_numpy(others.mel).to(device), converted, content)
            kept = changed(converted, before, free)
            few = slice(0, config.batch // 4)
            other = game.elsewhere(task.rows(few), rng, first[few])
            game.judges.requires_grad_(True)
            optimiser.zero_grad(set_to_none=True)
            total = near + coarse + config.adversarial * won + config.features * alike + config.kept * kept + other
            (total + config.words * lost_words + config.told * told + config.consistency * heard.agreement).backward()
            nn.utils.clip_grad_norm_(learning, 1.0)
            optimiser.step()
            step += 1
            with torch.no_grad():
                for average, trained in zip(averages, game.learners(), strict=True):
                    # With the buffers: what whitens goes with the weights of the encoder that it whitens.
                    for slow, fast in zip(average.state_dict().values(), trained.state_dict().values(), strict=True):
                        slow.lerp_(fast, 1 - config.average)
            row = (near, won, alike, kept, lost_words, told, heard.agreement, other, lost / len(verdicts))
            losses.append([loss.item() for loss in row])
            if step % report_every == 0 or step == steps:
                report(step, Losses(*np.mean(losses, 0).tolist()))
                losses = []
            if time.monotonic() - saved > save_seconds:
                write()
                saved = time.monotonic()
        write()


def main() -> None:
    parser = argparse.ArgumentParser(description="Sharpen a student of one step against discriminators.")
    parser.add_argument("--work", type=Path, required=True, help="the folder of train_content and train_denoiser")
    parser.add_argument("--size", choices=list(STUDENTS), default="lhq")
    parser.add_argument("--steps", type=count, default=1_500, help="beyond, the likeness still rises and DNSMOS falls")
    parser.add_argument("--blended", action="store_true", help="the student is one: the encoder stays, as the recipe says")
    parser.add_argument("--threads", type=count, default=2)
    parser.add_argument("--device", choices=DEVICES, help="by default a GPU if there is one")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = Path(__file__).with_name("denoiser.toml")
    config = read_settings(AdversarialConfig, recipe, "adversarial", *(["blended"] if arguments.blended else []))
    content = read_settings(ContentTraining, recipe.with_name("content.toml"), "training")
    takes = Takes(arguments.work / "packed")
    torch.manual_seed(config.seed)
    conditioner = load_content(arguments.work / CONTENT)[0]
    name = STUDENTS[arguments.size]
    game = Game(*load_result(arguments.work / name, conditioner), len(takes.voices), content, config, Words())
    began = time.monotonic()

    def report(step: int, losses: Losses) -> None:
        figures = " ".join(f"{key} {value:.4f}" for key, value in vars(losses).items())
        print(f"step {step} {figures} {time.monotonic() - began:.0f} s", flush=True)

    play(takes, game, arguments.work, name, arguments.steps, report, device=pick_device(arguments.device))


if __name__ == "__main__":
    run(main)
