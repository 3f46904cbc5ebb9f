"""One recording after another with the song engine: stems as they are, mixes parted first and mixed again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from plugin_bridge.files import FileError, Job, beside, check_apart
from plugin_bridge.recording import open_recording
from plugin_bridge.render import Progress, Rendering, SongRenderer, Wishes
from plugin_bridge.separation import Separator, separate
from plugin_bridge.stages import Stages
from plugin_bridge.voices import voice_text

SEPARATION_SHARE = 0.8  # of the time, about: separation models are many times the song engine


@dataclass(frozen=True)
class SongJobs:
    """How to render recordings.

    Attributes
    ----------
    renderer, wishes
    separator : Separator, optional
        The recordings are mixes, to be parted by it.
    f0_out, instrumental : Path, optional
        As for `SongRenderer.render`, of the one recording there is.
    """

    renderer: SongRenderer
    wishes: Wishes
    separator: Separator | None = None
    f0_out: Path | None = None
    instrumental: Path | None = None

    def render(self, job: Job, progress: Callable[[Progress], None] = lambda now: None) -> Rendering:
        """Render one recording; raises what `SongRenderer.render` and `separate` do."""
        if self.f0_out is not None:
            check_apart([self.f0_out], [job.source])  # which is not what is rendered where it is a mix
        if self.separator is None:
            return self._render(job.source, job.target, self.instrumental, progress)
        stages, start = Stages(), time.perf_counter()

        def separating(done: float) -> None:
            left = (time.perf_counter() - start) * (1 / (SEPARATION_SHARE * done) - 1) if done else float("inf")
            progress(Progress("separating", done, SEPARATION_SHARE * done, left))

        def rendering(now: Progress) -> None:
            progress(replace(now, whole=SEPARATION_SHARE + (1 - SEPARATION_SHARE) * now.whole))

        with beside(job.target) as folder:
            parts = separate(job.source, self.separator, folder, self.renderer.threads, stages, separating)
            try:
                done = self._render(parts.vocals, job.target, parts.accompaniment, rendering)
            except FileError as error:
                raise FileError(str(error).replace(str(parts.vocals), f"the vocal of {job.source}")) from None
        spent = {name: stages.seconds.get(name, 0.0) + done.stages.get(name, 0.0) for name in stages.seconds | done.stages}
        return replace(done, source=job.source, stages=spent, elapsed_s=time.perf_counter() - start)

    def _render(self, source: Path, target: Path, instrumental: Path | None, progress: Callable[[Progress], None]) -> Rendering:
        return self.renderer.render(
            source,
            target,
            pitch_shift=self.wishes.pitch_shift,
            formant_shift=self.wishes.formant_shift,
            transpose=self.wishes.transpose,
            f0=self.wishes.f0,
            f0_out=self.f0_out,
            instrumental=instrumental,
            progress=progress,
        )

    def described(self, done: Sequence[Rendering]) -> dict[str, Any]:
        """What was done and how long it took, ready for JSON."""
        return {
            "voice": voice_text(self.renderer.voice),
            "size": self.renderer.size,
            "steps": self.renderer.steps,
            "seed": self.renderer.seed,
            "threads": self.renderer.threads,
            "recordings": [described(one) for one in done],
        }


def described(done: Rendering) -> dict[str, Any]:
    """A rendering, ready for JSON; shares are of the recording's length."""
    return {
        "source": str(done.source),
        "target": str(done.target),
        "seconds": done.seconds,
        "sample_rate": done.sample_rate,
        "channels": done.channels,
        "transposition": done.transposition,
        "peak": done.peak,
        "lowered_db": done.lowered_db,
        "slices": done.slices,
        "converted_s": done.converted_s,
        "elapsed_s": done.elapsed_s,
        "share_of_length": done.elapsed_s / done.seconds,
        "stages": {
            stage: {"processor_s": seconds, "share_of_length": seconds / done.seconds} for stage, seconds in done.stages.items()
        },
    }


def is_finished(job: Job) -> bool:
    """Whether a job's target is there, newer than its source, and of at least its length."""
    try:
        if job.target.stat().st_mtime < job.source.stat().st_mtime:
            return False
        with open_recording(job.source) as source, open_recording(job.target) as target:
            return target.sample_rate == source.sample_rate and target.samples >= source.samples
    except (OSError, FileError):
        return False
