"""A new voice for the song engine from a folder of recordings: the shipped networks, adapted.

The voice gets an embedding of its own; condition network, denoiser and vocoder go on learning with its recordings alone. The
student of one step learns from them as a diffusion model does, and then teaches the blocks of it that `mobile` has to do the same
without the others. What the encoder says never changes, so it is asked once, when the recordings are packed: our own, or one that
the user has.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.checkpoint import restoring
from models.graph import load_graph
from models.lhq import train_denoiser, train_vocoder
from models.lhq.bank import member_name, stored
from models.lhq.content import Conditioning
from models.lhq.data import Batch, Takes, pack_features
from models.lhq.denoiser import Denoiser
from models.lhq.encoders import RATE, EncoderCard, load_encoder
from models.lhq.evolution import LatencyTable
from models.lhq.export import TEMPERATURE, export_condition, export_denoiser, export_vocoder
from models.lhq.features import content_features
from models.lhq.mel import DEFAULT
from models.lhq.objectives import denoising
from models.lhq.others import OtherVoices
from models.lhq.train_content import ContentTraining, Heard, at_other_level, conditioned, mel_loss
from models.lhq.train_denoiser import DenoiserTraining, Phase, Run, load_result
from models.lhq.vocoder import Vocoder
from models.lhq.weights import Base, load_base
from models.pack import PackManifest, Part, Size, VoicePack, write_pack
from models.source_filter.adapt import own_card, own_recordings
from models.source_filter.data import INDEX, Recordings, read_settings, read_table
from models.source_filter.features import SAMPLE_RATE as RECORDED_RATE
from models.source_filter.weights import load_trained

Floats = NDArray[np.float32]

RECIPE = Path(__file__).with_name("adapt.toml")
SHIPPED = "bank.voice"  # in presets: the pack with the encoder that the base was trained with
DENOISER_SHARE = 0.4  # of the time, about; the vocoder has the rest
VOCODER_AVERAGE = 0.99  # of so few steps
RIDGE = 0.01  # against the unit variance of an encoder's channels
REPORT_EVERY = 20  # steps
SAVE_SECONDS = 60.0
DECIBELS = 20 / math.log(10)  # in a neper
# It is not distilled again. In a new voice, halving its steps from four to one took two thirds as long again, and four recordings
# were no better for it in one step: speaker cosine 0.599 without and 0.593 with it, DNSMOS 3.08 and 3.03.
PHASES = (
    Phase("adapt", 0.8, anneal=True, result="student"),
    Phase("shrink", 0.2, steps=1, size="mobile", anneal=True, result="mobile"),
)
RESULTS: dict[Size, str] = {"lhq": "student.pt", "mobile": "mobile.pt"}


@dataclass(frozen=True)
class Recipe:
    """The `[voice]` table of the recipe; the comments are there."""

    steps: int
    vocoder_steps: int
    vocoder_sharp_steps: int
    embedding_learning_rate: float
    vocoder_learning_rate: float
    vocoder_sharp_learning_rate: float


@dataclass(frozen=True)
class SongTraining:
    """What a watcher of a run sees.

    Attributes
    ----------
    stage : str
        "packing" (steps are recordings, and there is no loss), a phase of the denoiser, or "vocoder".
    step, steps : int
        Of all stages together, after packing.
    loss : float
        Mean since the last report.
    held_out : float
        Of takes that are not trained on: dB between a mel spectrogram and what one step makes of it; the vocoder's spectral loss.
    seconds_left : float
        At the speed so far.
    """

    stage: str
    step: int
    steps: int
    loss: float
    held_out: float
    seconds_left: float


Progress = Callable[[SongTraining], None]


class Listener:
    """The encoder of content, ours or one that the user has: audio [N] at 40 kHz -> content [N // 400 + 1, width].

    Attributes
    ----------
    card : EncoderCard or None
        None of our own.
    shipped : VoicePack
        With our own encoder in it.
    """

    def __init__(self, base: Base, encoder: Path | None) -> None:
        self.shipped = VoicePack.open(Path(str(files("presets"))) / SHIPPED)
        member = self.shipped.manifest.songs["lhq"]["content"]
        if self.shipped.manifest.members[member] != base.encoder:
            raise ValueError(f"expected the encoder of models/lhq/base.npz in {self.shipped.path}, found another: write both anew")
        self._own = load_graph(self.shipped.read(member), member).session
        self._given = None if encoder is None else load_encoder(encoder)
        self.card: EncoderCard | None = None if self._given is None else self._given.card()

    def own(self, audio: Floats) -> Floats:
        """What our own encoder hears."""
        (content,) = self._own.run(["content"], {"features": content_features(audio)[None]})
        return np.asarray(content[0], np.float32)

    def __call__(self, audio: Floats) -> Floats:
        if self._given is None:
            return self.own(audio)
        content = self._given(np.asarray(soxr.resample(audio, DEFAULT.sample_rate, RATE), np.float32))
        # The resampler may round a length down by one sample, and a frame with it.
        frames = DEFAULT.frames(len(audio))
        padded: Floats = np.pad(content, ((0, max(0, frames - len(content))), (0, 0)), mode="edge")[:frames]
        return padded

    def silence(self) -> Floats:
        """[width]: what is heard where nothing is."""
        heard = self(np.zeros(DEFAULT.sample_rate, np.float32))
        return np.asarray(heard[len(heard) // 2])


@dataclass(frozen=True)
class Units:
    """Mean and spread [width] of what an encoder gives. The networks hear it in these units; ours has them already."""

    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, takes: Takes) -> Units:
        """Of all takes; ValueError, one sentence, if the content cannot be held in half precision."""
        total, square = (np.zeros(takes.features.shape[1]) for _ in range(2))
        for take in takes.takes:
            values = np.asarray(takes.features[take.start : take.start + take.frames], np.float64)
            total, square = total + values.sum(0), square + np.square(values).sum(0)
        mean: NDArray[np.float64] = total / len(takes.features)
        if not np.isfinite(mean).all():
            raise ValueError(f"expected content of less than {np.finfo(np.float16).max:.0f}, but the encoder gives more")
        spread = np.sqrt(np.maximum(square / len(takes.features) - mean**2, 0)) + 1e-6
        return cls(torch.tensor(mean, dtype=torch.float32), torch.tensor(spread, dtype=torch.float32))

    def __call__(self, content: Tensor) -> Tensor:
        return (content - self.mean) / self.spread

    def folded(self, conditioning: Conditioning) -> Conditioning:
        """A copy that takes content as the encoder gives it."""
        made = copy.deepcopy(conditioning)
        enter, width = made.condition.enter, len(self.mean)
        with torch.no_grad():
            enter.weight[:, :width] /= self.spread
            enter.bias.sub_(enter.weight[:, :width] @ self.mean)
        return made


class Adaptation(Run):
    """A run whose content is given, and whose structures are those of the base."""

    margin = 0

    def __init__(self, takes: Takes, base: Base, recipe: Recipe, units: Units | None, device: torch.device) -> None:
        self.mobile = base.mobile
        self.embedding_learning_rate = recipe.embedding_learning_rate
        self.units = units
        content = read_settings(ContentTraining, Path(__file__).with_name("content.toml"), "training")
        super().__init__(takes, read_settings(DenoiserTraining, RECIPE, "training"), content, {}, device, PHASES)

    def hear(self, model: Conditioning, batch: Batch, generator: torch.Generator, *, plain: bool = False) -> Heard:
        """As `train_content.hear`, but for the disturbances of what the encoder hears."""
        content, mel, loudness = (torch.from_numpy(x) for x in (batch.features, batch.mel, batch.loudness))
        if not plain:
            swap = torch.rand(len(content), 1, 1, generator=generator) < 0.5
            content = torch.where(swap, torch.from_numpy(batch.other), content)
            mel, loudness = at_other_level(mel, loudness, self.content.gain, generator)
        content = content if self.units is None else self.units(content)
        return conditioned(model, content if plain else model.disturb(content), mel, loudness, batch, torch.zeros(()))

    def evolved(self, phase: Phase, network: Denoiser) -> Denoiser:
        """The blocks that the shipped engine of this size has."""
        return network.with_blocks(self.mobile) if phase.size == "mobile" else network

    def conditioning_groups(self) -> list[dict[str, Any]]:
        """The voice's embedding learns faster than what knows voices already."""
        known = {"params": list(self.conditioner.condition.parameters()), "rate": self.config.condition_learning_rate}
        return [known, {"params": list(self.conditioner.voices.parameters()), "rate": self.embedding_learning_rate}]

    @torch.no_grad()
    def held_out_error_db(self, denoiser: Denoiser) -> float:
        """Mean distance of what one step makes of the held-out takes from their own mel spectrograms."""
        task = self.held_out_task()
        noise = torch.randn(task.x.shape, generator=torch.Generator().manual_seed(0))
        made = denoising(denoiser, task)(TEMPERATURE * denoiser.config.scale * noise.to(task.x.device), 1.0)
        loudness = torch.from_numpy(self.held_out.loudness).to(made.device)
        bandwidth = torch.from_numpy(self.held_out.bandwidth_hz)
        return DECIBELS * mel_loss(made, task.x, loudness, bandwidth).item()


class Clock:
    """Steps and time left of a training in stages that take DENOISER_SHARE and the rest of the time."""

    def __init__(self, progress: Progress, steps: int, vocoder_steps: int, seconds: float) -> None:
        self._progress = progress
        self._steps, self._vocoder_steps, self._seconds = steps, vocoder_steps, seconds
        self._began = time.monotonic()
        self._first: float | None = None

    def denoiser(self, run: Run, loss: float, held_out: float) -> None:
        """Tell of a phase."""
        step = run.step + round(self._steps * sum(phase.share for phase in run.phases[: run.phase]))
        done = max(step / self._steps, run.spent / (DENOISER_SHARE * self._seconds))
        self._tell(run.phases[run.phase].name, step, DENOISER_SHARE * done, loss, held_out)

    def vocoder(self, step: int, loss: float, held_out: float) -> None:
        """Tell of the vocoder."""
        done = DENOISER_SHARE + (1 - DENOISER_SHARE) * step / self._vocoder_steps
        self._tell("vocoder", self._steps + step, done, loss, held_out)

    def _tell(self, stage: str, step: int, done: float, loss: float, held_out: float) -> None:
        if self._first is None:
            # What an earlier call did, this one has not spent its time on.
            self._first, self._began = min(done, 0.999), time.monotonic()
        spent = time.monotonic() - self._began
        left = spent * (1 - done) / (done - self._first) if done > self._first else math.inf
        left = min(left, self._seconds)
        self._progress(SongTraining(stage, step, self._steps + self._vocoder_steps, loss, held_out, left))


def adaptable(base: Base) -> Conditioning:
    """The base's condition network with a single voice, its embedding the mean of those it had."""
    made = Conditioning(replace(base.conditioning.config, voices=1))
    state = base.conditioning.state_dict()
    state["voices.weight"] = state["voices.weight"].mean(0, keepdim=True)
    made.load_state_dict(state)
    return made


def for_content(conditioning: Conditioning, takes: Takes, recordings: Recordings, units: Units, listener: Listener) -> Conditioning:
    """The same network for another encoder's content: it begins with the straight lines from there to our own content."""
    unmoved = [take for take in takes.takes if not take.shift]
    width, ours = len(units.mean), conditioning.config.content
    square, cross, mean = torch.zeros(width, width), torch.zeros(width, ours), torch.zeros(ours)
    count = 0
    for clip, take in zip(recordings.clips, unmoved, strict=True):
        audio = soxr.resample(recordings.read(clip)[0], RECORDED_RATE, DEFAULT.sample_rate)
        wanted = torch.from_numpy(listener.own(audio))
        given = units(torch.from_numpy(np.asarray(takes.features[take.start : take.start + take.frames], np.float32)))
        square, cross, mean, count = square + given.T @ given, cross + given.T @ wanted, mean + wanted.sum(0), count + len(given)
    lines = torch.linalg.solve(square / count + RIDGE * torch.eye(width), cross / count)
    made = Conditioning(replace(conditioning.config, content=width))
    state = conditioning.state_dict()
    before = state["condition.enter.weight"]
    state["condition.enter.weight"] = torch.cat([before[:, :ours] @ lines.T, before[:, ours:]], 1)
    state["condition.enter.bias"] = state["condition.enter.bias"] + before[:, :ours] @ (mean / count)
    made.load_state_dict(state)
    return made


def train_voice(
    name: str,
    folder: Path,
    work: Path,
    *,
    encoder: Path | None,
    steps: int | None,
    minutes: float | None,
    threads: int,
    device: torch.device,
    tell: Callable[[str], None],
    progress: Progress,
) -> Path:
    """Train the song engine of the voice `name` on the recordings in `folder`; returns the pack, written into `work`.

    What is wrong with the recordings, `tell` hears first. `encoder` is a content encoder that the user has, in place of our own.
    The denoiser takes `steps`, by default the recipe's, and all together `minutes` at most, besides packing the recordings. `work`
    keeps packed recordings and checkpoints: called again with the same one, training goes on where it stopped, for as many
    minutes as this call has; steps that too few of them left undone are taken first, and what followed begins anew from them.
    Raises ValueError, one sentence, where something does not do, or the recordings are not those of the training in `work`.
    """
    torch.set_num_threads(threads)
    base, recipe = load_base(), read_settings(Recipe, RECIPE, "voice")
    listener = Listener(base, encoder)
    recordings = own_recordings(name, folder, work, tell)
    takes = packed(recordings, listener, work, progress)
    units = None if listener.card is None else Units.of(takes)
    conditioning = adaptable(base)
    if units is not None:
        conditioning = for_content(conditioning, takes, recordings, units, listener)

    run = Adaptation(takes, base, recipe, units, device)
    run.begin(copy.deepcopy(conditioning), base.denoiser, LatencyTable(0.0, {}))  # nothing is decided by the table
    quality = {"song_held_out_db_before": run.held_out_error_db(base.denoiser)}
    checkpoint = work / train_denoiser.CHECKPOINT
    if checkpoint.exists():
        with restoring(checkpoint) as state:
            run.resume(state, copy.deepcopy(conditioning))
    seconds = 60 * minutes if minutes else math.inf
    steps = steps or recipe.steps
    train_denoiser.go_back(run, work, steps, copy.deepcopy(conditioning))
    run.spent = run.spent_in_phase = 0.0  # of this call's minutes
    vocoder_steps, sharp_steps = (
        max(1, round(steps * own / recipe.steps)) for own in (recipe.vocoder_steps, recipe.vocoder_sharp_steps)
    )
    clock = Clock(progress, steps, vocoder_steps + sharp_steps, seconds)

    def trained(now: train_denoiser.Progress) -> None:
        clock.denoiser(run, now.loss, run.held_out_error_db(run.average))

    often: dict[str, Any] = {"report_every": REPORT_EVERY, "save_seconds": SAVE_SECONDS}
    train_denoiser.fit(run, work, trained, steps=steps, seconds=DENOISER_SHARE * seconds, keep_ends=True, **often)
    vocoder = train_vocoder.fit(
        recordings,
        work,
        vocoder_steps,
        sharp_steps,
        lambda now: clock.vocoder(now.step, now.spectral, now.held_out),
        config=replace(
            train_vocoder.TrainingConfig(),
            helpers=0.0,
            learning_rate=recipe.vocoder_learning_rate,
            adversarial_rate=recipe.vocoder_sharp_learning_rate,
            average=VOCODER_AVERAGE,
        ),
        start=(base.vocoder, base.judges),
        stop_at=time.monotonic() + (1 - DENOISER_SHARE) * seconds,
        device=device,
        **often,
    )
    denoiser, run.average_conditioner = load_result(work / RESULTS["lhq"], copy.deepcopy(conditioning))
    quality["song_held_out_db"] = run.held_out_error_db(denoiser)
    card = own_card(name, recordings, {figure: round(value, 2) for figure, value in quality.items()})
    songs: dict[Size, dict[Part, str]] = {}
    members: dict[str, bytes] = {}
    for size, result in RESULTS.items():
        denoiser, trained_conditioning = load_result(work / result, copy.deepcopy(conditioning))
        made = graphs(size, denoiser, trained_conditioning, vocoder, name, units, listener)
        songs[size] = {part: member_name(size, part) for part in made}
        members |= {songs[size][part]: data for part, data in made.items()}
    out = work / f"{name}.voice"
    manifest = PackManifest(title=name, voices=[card], sample_rate=DEFAULT.sample_rate, licence=card.licence, songs=songs)
    write_pack(out, manifest, members)
    return out


def packed(recordings: Recordings, listener: Listener, work: Path, progress: Progress) -> Takes:
    """The recordings as features and content, packed into `work` / "takes" unless they are there."""
    folder, about = work / "takes", work / "encoder.json"
    card = "null" if listener.card is None else listener.card.model_dump_json()
    if not (folder / INDEX).exists():
        about.write_text(card)

        def report(done: int, clips: int) -> None:
            progress(SongTraining("packing", done, clips, math.nan, math.nan, math.nan))

        seed = read_table(RECIPE, "training")["seed"]
        pack_features(recordings, OtherVoices(load_trained(), seed), folder, seed, report, listener)
    elif about.read_text() != card:
        raise ValueError(f"expected the content encoder with which the training in {work} was begun, got another")
    return Takes(folder, listener.silence())


def graphs(
    size: Size,
    denoiser: Denoiser,
    conditioning: Conditioning,
    vocoder: Vocoder,
    name: str,
    units: Units | None,
    listener: Listener,
) -> dict[Part, bytes]:
    """The files of one size; without one of the content where that comes from an encoder that the user has."""
    heard = conditioning if units is None else units.folded(conditioning)
    made: dict[Part, bytes] = {
        "condition": stored(size, export_condition(heard, {name: 0}, listener.card)),
        "denoiser": stored(size, export_denoiser(denoiser)),
        "vocoder": stored(size, export_vocoder(vocoder)),
    }
    if listener.card is None:
        made["content"] = listener.shipped.read(listener.shipped.manifest.songs[size]["content"])
    return made
