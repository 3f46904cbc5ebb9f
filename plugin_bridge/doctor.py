"""What this installation has, what is missing, and what to do about it."""

from __future__ import annotations

import importlib
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import Literal

from plugin_bridge.priority import hurry_audio

State = Literal["ok", "optional", "missing"]

NEEDED = (
    *("numpy", "onnxruntime", "pedalboard", "pydantic", "platformdirs", "pyworld", "matplotlib", "pythonosc"),
    *("swift_f0", "starlette", "uvicorn", "websockets"),
)
# Distributions are not always called like what one imports.
DISTRIBUTIONS = {"pyworld": "pyworld-prebuilt", "pythonosc": "python-osc", "rtmidi": "python-rtmidi", "swift_f0": "swift-f0"}
PORTAUDIO_REMEDY = {
    "linux": "install it with: sudo apt-get install libportaudio2 (or your system's package of PortAudio)",
    "darwin": "reinstall sounddevice, whose macOS package brings it: pip install --force-reinstall sounddevice",
    "win32": "reinstall sounddevice, whose Windows package brings it: pip install --force-reinstall sounddevice",
}


@dataclass(frozen=True)
class Finding:
    """One thing looked for: "ok", "optional" (missing, but only some things need it) or "missing"."""

    what: str
    state: State
    detail: str


def examine() -> Iterator[Finding]:
    """Everything worth looking at, one finding at a time."""
    yield _python()
    yield from (_package(name) for name in NEEDED)
    yield from _voices()
    yield _portaudio()
    yield _threads()
    yield _priority()
    yield _extra("MIDI", "plugin-bridge live --midi", ("rtmidi",), midi_remedy())
    yield _extra("Training", "plugin-bridge train", ("torch", "onnx", "soxr"), train_remedy())
    yield _extra("Encoders", "--encoder with a Hugging Face folder", ("transformers", "torch"), encoders_remedy())
    yield _extra("Evaluation", "plugin-bridge evaluate", ("resemblyzer", "soxr"), evaluate_remedy())


def _python() -> Finding:
    ok = (3, 10) <= sys.version_info[:2] <= (3, 13)
    detail = f"{platform.python_version()} ({sys.executable})"
    return Finding("Python", "ok" if ok else "missing", detail if ok else f"{detail}; 3.10 to 3.13 is needed")


def _package(name: str) -> Finding:
    distribution = DISTRIBUTIONS.get(name, name)
    try:
        importlib.import_module(name)
        return Finding(distribution, "ok", version(distribution))
    except (ImportError, OSError, PackageNotFoundError) as error:
        return Finding(distribution, "missing", f"{error}; install it with: pip install {distribution}")


def _voices() -> Iterator[Finding]:
    from plugin_bridge.voices import broken_packs, find_voice, user_folder, voices

    names = voices()
    if not names:
        yield Finding("Voices", "missing", f"none; install the package again, or put a .voice file into {user_folder()}")
    packs = {address.pack.path: address.pack for address in map(find_voice, names)}
    for path, pack in packs.items():
        cards = ", ".join(card.name for card in pack.manifest.voices)
        try:
            if pack.streams:
                pack.stream_model()
            for size in pack.manifest.songs:
                pack.song_model(size)
        except ValueError as error:
            yield Finding("Voices", "missing", str(error))
        else:
            yield Finding("Voices", "ok", f"{cards} ({path})")
    yield from (Finding("Voices", "missing", problem) for problem in broken_packs())


def _portaudio() -> Finding:
    try:
        sounddevice = importlib.import_module("sounddevice")
    except (ImportError, OSError) as error:
        return Finding("PortAudio", "optional", f"{error}; only live audio needs it: {portaudio_remedy()}")
    devices = len(sounddevice.query_devices())
    return Finding("PortAudio", "ok", f"{sounddevice.get_portaudio_version()[1]}, {devices} audio devices")


def portaudio_remedy() -> str:
    """How to install PortAudio on this system."""
    return PORTAUDIO_REMEDY.get(sys.platform, "install PortAudio")


def _threads() -> Finding:
    available = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return Finding("CPU threads", "ok", f"{available} (a converter uses one)")


def _priority() -> Finding:
    with ThreadPoolExecutor(1) as thread:  # the priority ends with it
        granted = thread.submit(hurry_audio).result()
    if granted:
        return Finding("Priority", "ok", "real-time for live audio")
    return Finding("Priority", "optional", f"not real-time; live audio on a busy computer needs it: {priority_remedy()}")


def priority_remedy() -> str:
    """How to let a user's programs have real-time priority: Linux alone refuses it."""
    return "give your user the limit rtprio, as members of the group audio have it once JACK is installed"


def _extra(what: str, command: str, modules: tuple[str, ...], remedy: str) -> Finding:
    """An extra by what it lets one import; its first module's version stands for it."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        return Finding(what, "optional", f"no {', '.join(missing)}; only {command} needs it: {remedy}")
    return Finding(what, "ok", f"{modules[0]} {version(DISTRIBUTIONS.get(modules[0], modules[0]))}")


def midi_remedy() -> str:
    """How to install what MIDI needs and everything else does not."""
    return _extra_remedy("midi")


def train_remedy() -> str:
    """How to install what training needs and converting does not."""
    return _extra_remedy("train")


def encoders_remedy() -> str:
    """How to install what reads a content encoder's Hugging Face folder."""
    return _extra_remedy("encoders")


def evaluate_remedy() -> str:
    """How to install what evaluating needs and converting does not."""
    return _extra_remedy("evaluate")


def _extra_remedy(extra: str) -> str:
    """The packages of an extra, as pip takes them."""
    wanted = [text.split(";") for text in requires("plugin_bridge") or ()]
    packages = [text.strip() for text, *condition in wanted if f"extra == '{extra}'" in "".join(condition).replace('"', "'")]
    return f"install it with: pip install {' '.join(map(shlex.quote, packages))}"
