"""One recording after another with the song engine: stems as they are, mixes parted first and mixed again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from plugin_bridge.files import FileError, Job, beside, check_apart, check_writable
from plugin_bridge.journal import keep, recall, stamp
from plugin_bridge.recording import open_recording
from plugin_bridge.render import Progress, Rendering, SongRenderer, Wishes
from plugin_bridge.separation import Separator, separate
from plugin_bridge.stages import Stages
from plugin_bridge.voices import voice_target, voice_text

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
        """Render one recording and remember it; raises what `SongRenderer.render` and `separate` do."""
        settings = self._settings(job)  # with the files as they are before it begins
        done = self._made(job, progress)
        keep(done, settings)
        return done

    def done_before(self, job: Job) -> Rendering | None:
        """What became of a job when it was rendered with these settings, if all that it is to make is there."""
        # A table of pitch may be another recording's by now, and is no more than the half of the work.
        return None if self.f0_out is not None else recall(job, self._settings(job))

    def _settings(self, job: Job) -> dict[str, Any]:
        """All on which the sound depends, ready for JSON; the files by when they were written."""
        pack = voice_target(self.renderer.voice).pack
        separator = self.separator
        return {
            "source": stamp(job.source),
            **asdict(replace(self.wishes, f0=None)),
            "f0": stamp(self.wishes.f0),
            "voice": voice_text(self.renderer.voice),
            "pack": hashlib.sha256(pack.manifest.model_dump_json().encode()).hexdigest(),
            "size": self.renderer.size,
            "steps": self.renderer.steps,
            "seed": self.renderer.seed,
            "method": self.renderer.method,
            "instrumental": stamp(self.instrumental),
            "separator": None if separator is None else [separator.n_fft, separator.stem, stamp(separator.path)],
        }

    def _made(self, job: Job, progress: Callable[[Progress], None]) -> Rendering:
        if self.f0_out is not None:
            check_apart([self.f0_out], [job.source])  # which is not what is rendered where it is a mix
        if self.separator is None:
            return self._render(job.source, job.target, self.instrumental, progress)
        with open_recording(job.source) as mix:
            check_writable(job.target, int(mix.sample_rate), mix.channels)  # rendering asks, too, after most of the work
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
