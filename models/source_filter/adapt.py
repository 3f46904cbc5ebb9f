"""A new voice from a folder of recordings: the shipped base, adapted."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from swift_f0 import SwiftF0

from models.checkpoint import restoring
from models.device import CPU
from models.pack import VoiceCard
from models.schema import check_name
from models.source_filter.adversarial import CHECKPOINT as SHARP
from models.source_filter.adversarial import AdversarialConfig, Game, Losses, play
from models.source_filter.bank import write_bank
from models.source_filter.cleaning import clean, narrowness
from models.source_filter.data import Packer, Recordings, audio_files, pieces, read_settings
from models.source_filter.export import Tone
from models.source_filter.features import HOP, SAMPLE_RATE
from models.source_filter.network import Network
from models.source_filter.train import CHECKPOINT, TrainingConfig, TrainingProgress, fit, held_out_loss
from models.source_filter.weights import Trained, load_checkpoint, load_trained

RECIPE = Path(__file__).with_name("adapt.toml")
DEFAULT_STEPS = 2_000
SHARPENED = 0.3  # share of the steps that are taken against discriminators, each of which ...
COST = 2.0  # ... takes about so many times as long as one without
BASE_CREDITS = (
    "PJS by Junya Koguchi and Shinnosuke Takamichi, CC BY-SA 4.0; Kerstin of rhasspy's dataset-voice-kerstin, CC0 1.0; ALYS by "
    "VoxWave S.A.S., open-sourced by Lucien Cartier-Tilet, GPL-3.0; LibriSpeech (c) 2014 Vassil Panayotov, CC BY 4.0"
)
LEAST_SECONDS = 20.0  # below, not every vowel occurs
ABOUT = "recordings.json"  # in the packed folder: whose recordings it holds, and which


def adaptable(base: Trained, name: str) -> Trained:
    """The base with a single voice: its encoder frozen, its embedding the mean of those it had."""
    network = Network(replace(base.network.config, voices=1))
    state = base.network.state_dict()
    state["voices.weight"] = state["voices.weight"].mean(0, keepdim=True)
    network.load_state_dict(state)
    network.encoder.requires_grad_(False)
    return Trained(network, base.prior, [name])


def own_recordings(name: str, folder: Path, work: Path, tell: Callable[[str], None]) -> Recordings:
    """The recordings in `folder` of the voice `name`, cleaned and packed into `work` / "packed", a part of them held out.

    What is wrong with them, `tell` hears in sentences when they are packed. Raises ValueError, one sentence, and leaves nothing
    behind, where the name or the recordings do not do; or where those in `work` are others.
    """
    check_name(name)
    files = audio_files(folder)
    if not files:
        raise ValueError(f"expected recordings in {folder}, found no audio file there")
    packed, about = work / "packed", {"voice": name, "recordings": {str(path.relative_to(folder)): digest(path) for path in files}}
    if packed.exists():
        check_unchanged(json.loads((packed / ABOUT).read_text()), about, work)
        return Recordings(packed)
    partial = work / "packed.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a kill
    partial.mkdir(parents=True)
    try:
        pack_own(name, folder, files, partial, tell)
        (partial / ABOUT).write_text(json.dumps(about))
        partial.replace(packed)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Recordings(packed)


def pack_own(name: str, folder: Path, files: list[Path], out: Path, tell: Callable[[str], None]) -> None:
    """Clean and pack recordings of the voice `name`; ValueError, one sentence, if that does not leave enough."""
    tracker = SwiftF0(threads=1, spin=False)
    used: dict[str, float] = {}  # and the bandwidth of each
    with Packer(out) as packer:
        for path in files:
            shown = str(path.relative_to(folder))
            recording = clean(path, shown, tracker)
            if recording.problem:
                tell(recording.problem)
            if not len(recording.audio):
                continue
            used[shown] = recording.bandwidth_hz
            hop = 0
            for audio in pieces(recording.audio):
                track = recording.track[hop : hop + len(audio) // HOP]
                packer.add(audio, track, shown, name, True, recording.bandwidth_hz, held_out=False)
                hop += len(track)
        # A long recording is many clips, a few short ones are not: one in three of those is held out.
        every = 10 if len(packer.clips) >= 10 else 3
        packer.clips = [replace(clip, held_out=number % every == 0) for number, clip in enumerate(packer.clips, 1)]
        seconds = sum(clip.samples for clip in packer.clips) / SAMPLE_RATE
        if seconds < LEAST_SECONDS or not any(clip.held_out for clip in packer.clips):
            wanted = f"at least {LEAST_SECONDS:.0f} s in three or more recordings of {name}"
            raise ValueError(f"expected {wanted}, found {seconds:.0f} s in {len(used)}")
    if problem := narrowness(used):
        tell(problem)


def digest(path: Path) -> str:
    """By which a recording is known again; empty if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def check_unchanged(before: dict[str, Any], now: dict[str, Any], work: Path) -> None:
    """ValueError, one sentence, if the training in `work` was begun with another voice or with other recordings."""
    if before["voice"] != now["voice"]:
        raise ValueError(f"expected the voice of the training in {work}, {before['voice']}, got {now['voice']}")
    differing = sorted(dict(before["recordings"].items() ^ now["recordings"].items()))
    if differing:
        more = f" and {len(differing) - 1} more are" if len(differing) > 1 else " is"
        raise ValueError(
            f"expected the recordings with which the training in {work} was begun, but {differing[0]}{more} new, changed or gone: "
            "another --work begins with what is there now"
        )


def own_card(name: str, recordings: Recordings, quality: dict[str, float]) -> VoiceCard:
    """The card of a voice that somebody trained on recordings of their own."""
    low, high = recordings.f0_range_hz(name)
    files, samples = len({clip.file for clip in recordings.clips}), sum(clip.samples for clip in recordings.clips)
    return VoiceCard(
        name=name,
        display_name=name,
        f0_range_hz=(round(low, 1), round(high, 1)),
        licence="that of its recordings, and GPL-3.0 and CC BY-SA 4.0 of the base",
        singer="the singer of the recordings",
        credits=f"the singer of the recordings, and those of the base that learned from them: {BASE_CREDITS}",
        training_data=f"{files} recordings, {samples / SAMPLE_RATE / 60:.1f} minutes",
        limits=f"At its best from {low:.0f} to {high:.0f} Hz, where it was heard. One voice at a time, without reverb.",
        quality=quality,
    )


def train_voice(
    name: str,
    folder: Path,
    work: Path,
    *,
    steps: int | None,
    minutes: float | None,
    threads: int,
    device: torch.device,
    tell: Callable[[str], None],
    progress: Callable[[TrainingProgress], None],
) -> Path:
    """Train the voice `name` on the recordings in `folder`; returns the pack, written into `work`.

    What is wrong with the recordings, `tell` hears first. Stops after `steps`, or after `minutes` if that comes first. `work`
    keeps packed recordings and checkpoints: called again with the same one, training goes on where it stopped. Raises ValueError,
    one sentence, where the recordings do not do, or are not those of the training in `work`.
    """
    torch.set_num_threads(threads)
    stop_at = time.monotonic() + 60 * minutes if minutes else float("inf")
    recordings = own_recordings(name, folder, work, tell)
    trained, loss = adapt(name, recordings, work, steps or DEFAULT_STEPS, stop_at, progress, device)
    card = own_card(name, recordings, {"held_out_loss": round(loss, 4)} if np.isfinite(loss) else {})
    out = work / f"{name}.voice"
    write_bank(trained, [card], [Tone(card.f0_range_hz)], name, card.licence, out)
    return out


def adapt(
    name: str,
    recordings: Recordings,
    work: Path,
    steps: int,
    stop_at: float,
    progress: Callable[[TrainingProgress], None],
    device: torch.device = CPU,
) -> tuple[Trained, float]:
    """The base adapted to the recordings, in `steps` or until the monotonic clock's `stop_at`; and its last held-out loss.

    A share of the time belongs to the stage against discriminators, so that the voice is whole however little there is. Called
    again, steps that were left undone before that stage are taken first, and it begins anew from them. NaN is the loss of a
    call that had nothing to do.
    """
    began = time.monotonic()
    config = read_settings(TrainingConfig, RECIPE, "training")
    sharp = int(SHARPENED * steps)
    plain = steps - sharp
    a_step, losses = 0.0, float("nan")

    def watch(now: TrainingProgress) -> None:
        nonlocal a_step, losses
        losses = now.held_out_loss
        if now.step < plain:
            a_step = now.seconds_left / (plain - now.step)
        left = min(now.seconds_left + COST * a_step * sharp, stop_at - time.monotonic())
        progress(replace(now, steps=steps, seconds_left=left))

    undone = plain - steps_taken(work / CHECKPOINT)
    if undone > 0:
        # What was sharpened when time was short, was sharpened too early.
        (work / SHARP).unlink(missing_ok=True)
        share = undone / (undone + COST * sharp)
        base = adaptable(load_trained(), name)
        trained = fit(recordings, config, work, plain, watch, start=base, stop_at=began + share * (stop_at - began), device=device)
    else:
        trained = load_checkpoint(work / CHECKPOINT)
    if sharp:
        torch.manual_seed(config.seed)
        sharpening = read_settings(AdversarialConfig, RECIPE, "adversarial")
        game = Game(trained.network, trained.prior, 1, config, sharpening)
        started = time.monotonic()
        first = steps_taken(work / SHARP)

        def sharpened(step: int, now: Losses) -> None:
            nonlocal losses
            losses = held_out_loss(game.trainer.network, game.trainer.mean.prior, config, recordings)
            left = (time.monotonic() - started) / (step - first) * (sharp - step)
            progress(TrainingProgress(plain + step, steps, now.spectral, losses, min(left, stop_at - time.monotonic())))

        play(recordings, game, work, sharp, sharpened, stop_at=stop_at, device=device)
        trained = load_checkpoint(work / SHARP)
    return trained, losses


def steps_taken(checkpoint: Path) -> int:
    """How far a stage is by its checkpoint; 0 if it has none."""
    if not checkpoint.exists():
        return 0
    with restoring(checkpoint) as state:
        return int(state["step"])
