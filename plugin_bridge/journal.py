"""What was rendered with which settings, so that a batch can go on: in the user's cache, a small file for each target."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plugin_bridge.files import FileError, Job, replacing
from plugin_bridge.recording import open_recording
from plugin_bridge.render import Rendering


def keep(done: Rendering, settings: Mapping[str, Any]) -> None:
    """Remember a rendering; without a place for it, none."""
    kept = {
        "settings": settings,
        "written": stamp(done.target),
        "rendering": {**asdict(done), "source": str(done.source), "target": str(done.target)},
    }
    with suppress(FileError), replacing(_place(done.target)) as file:
        file.write(json.dumps(kept).encode())


def recall(job: Job, settings: Mapping[str, Any]) -> Rendering | None:
    """What became of a job with these settings, if it is still there and whole."""
    try:
        kept = json.loads(_place(job.target).read_bytes())
        # What something else wrote to the same place since then is not what was rendered.
        if kept["settings"] != settings or kept["written"] != stamp(job.target):
            return None
        with open_recording(job.source) as source, open_recording(job.target) as target:
            if target.sample_rate != source.sample_rate or target.samples < source.samples:
                return None
        return Rendering(**{**kept["rendering"], "source": job.source, "target": job.target})
    except (OSError, ValueError, TypeError, KeyError):  # a file gone or damaged, or a record that is not of ours
        return None


def stamp(path: Path | None) -> list[str | int] | None:
    """Another one for another file, or once it was written anew."""
    if path is None:
        return None
    where = os.path.realpath(path)
    try:
        found = path.stat()
    except OSError:
        return [where]
    return [where, found.st_size, found.st_mtime_ns]


def _place(target: Path) -> Path:
    import platformdirs

    name = hashlib.sha256(os.fsencode(os.path.realpath(target))).hexdigest()
    return Path(platformdirs.user_cache_dir("plugin_bridge", appauthor=False)) / "rendered" / f"{name}.json"
