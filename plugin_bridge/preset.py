"""Presets: a voice, the converter's parameters and a chain of effects, under a name, as a JSON file."""

from __future__ import annotations

import importlib.resources
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from models.schema import NAME_PATTERN, Line, Schema, VoiceName, first_problem
from plugin_bridge.files import replacing
from plugin_bridge.parameters import PARAMETERS
from plugin_bridge.user_file import read_json
from plugin_bridge.voices import scaled

if TYPE_CHECKING:
    import pedalboard

SUFFIX = ".json"
MOST_BYTES = 1 << 16
MOST_EFFECTS = 16
CONVERTER = "VoiceConverter"

_DECIBELS = (-100.0, 60.0)
_SHARE = (0.0, 1.0)
_HERTZ = (20.0, 20_000.0)
_MILLISECONDS = (0.1, 5000.0)
# A feedback of 1 never ends, and of more grows without bound.
_FEEDBACK = (0.0, 0.95)
_SHELF = {"cutoff_frequency_hz": _HERTZ, "gain_db": (-40.0, 40.0), "q": (0.1, 20.0)}

# pedalboard's plugins that a preset may name, and the range of each value. Those that add latency are not among them (a
# change of preset must not move the sound in time), nor those that read files.
EFFECTS: dict[str, dict[str, tuple[float, float]]] = {
    "Bitcrush": {"bit_depth": (1.0, 32.0)},
    "Chorus": {
        "rate_hz": (0.01, 20.0),
        "depth": _SHARE,
        "centre_delay_ms": (1.0, 100.0),
        "feedback": _FEEDBACK,
        "mix": _SHARE,
    },
    "Clipping": {"threshold_db": _DECIBELS},
    "Compressor": {
        "threshold_db": _DECIBELS,
        "ratio": (1.0, 100.0),
        "attack_ms": _MILLISECONDS,
        "release_ms": _MILLISECONDS,
    },
    "Delay": {"delay_seconds": (0.0, 5.0), "feedback": _FEEDBACK, "mix": _SHARE},
    "Distortion": {"drive_db": (0.0, 60.0)},
    "Gain": {"gain_db": _DECIBELS},
    "HighShelfFilter": _SHELF,
    "HighpassFilter": {"cutoff_frequency_hz": _HERTZ},
    "Limiter": {"threshold_db": _DECIBELS, "release_ms": _MILLISECONDS},
    "LowShelfFilter": _SHELF,
    "LowpassFilter": {"cutoff_frequency_hz": _HERTZ},
    "NoiseGate": {
        "threshold_db": _DECIBELS,
        "ratio": (1.0, 100.0),
        "attack_ms": _MILLISECONDS,
        "release_ms": _MILLISECONDS,
    },
    "PeakFilter": _SHELF,
    "Phaser": {
        "rate_hz": (0.01, 20.0),
        "depth": _SHARE,
        "centre_frequency_hz": _HERTZ,
        "feedback": _FEEDBACK,
        "mix": _SHARE,
    },
    "Reverb": {
        "room_size": _SHARE,
        "damping": _SHARE,
        "wet_level": _SHARE,
        "dry_level": _SHARE,
        "width": _SHARE,
        "freeze_mode": _SHARE,
    },
}

# `bypass` is not among them: who loads a preset while bypassed stays bypassed.
PRESET_NUMBERS = tuple(name for name, parameter in PARAMETERS.items() if parameter.kind == "number")


class PresetError(ValueError):
    """A preset is not there, not valid, or may not be written; the message is one sentence."""


class Effect(Schema):
    """One place of a chain: a plugin of `EFFECTS` with the values that differ from its own, or the converter."""

    plugin: str
    values: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Effect:
        if self.plugin == CONVERTER:
            if self.values:
                raise ValueError("the values of VoiceConverter belong in parameters")
            return self
        if self.plugin not in EFFECTS:
            raise ValueError(f"there is no plugin {self.plugin[:40]!r} for presets, there are {', '.join(EFFECTS)}")
        ranges = EFFECTS[self.plugin]
        for name, value in self.values.items():
            if name not in ranges:
                raise ValueError(f"{self.plugin} has no value {name[:40]!r}, it has {', '.join(ranges)}")
            low, high = ranges[name]
            if not low <= value <= high:
                raise ValueError(f"{name} of {self.plugin} must be between {low:g} and {high:g}, got {value:g}")
        return self

    def build(self, sample_rate: float) -> pedalboard.Plugin:
        """The plugin, new. Frequencies that the rate (in Hz) cannot carry become the highest that is safe."""
        import pedalboard

        values = {
            name: min(value, 0.45 * sample_rate) if name.endswith("frequency_hz") else value
            for name, value in self.values.items()
        }
        plugin: pedalboard.Plugin = getattr(pedalboard, self.plugin)(**values)
        return plugin


PLAIN_CHAIN = (Effect(plugin=CONVERTER),)


class Preset(Schema):
    """What a performer calls up by one name.

    Attributes
    ----------
    title, description : str
    voice : str, mapping of str to float, or None
        A name of `voices()`, a mix of voices of one pack, or the voice that is on already.
    parameters : mapping of str to float
        Of the converter, without `bypass`; what is left out has its default.
    chain : sequence of Effect
        In the order of the signal, the converter in exactly one place.
    """

    format: Literal[1] = 1
    title: Line
    description: Line = ""
    voice: VoiceName | Annotated[dict[VoiceName, float], Field(min_length=1, max_length=64)] | None = None
    parameters: dict[str, float] = Field(default_factory=dict)
    chain: Annotated[tuple[Effect, ...], Field(max_length=MOST_EFFECTS + 1, strict=False)] = PLAIN_CHAIN

    @field_validator("voice")
    @classmethod
    def _check_weights(cls, voice: str | dict[str, float] | None) -> str | dict[str, float] | None:
        if isinstance(voice, dict):
            scaled(voice)
        return voice

    @field_validator("parameters")
    @classmethod
    def _check_parameters(cls, parameters: dict[str, float]) -> dict[str, float]:
        for name, value in parameters.items():
            if name not in PRESET_NUMBERS:
                raise ValueError(f"there is no parameter {name[:40]!r} for presets, there are {', '.join(PRESET_NUMBERS)}")
            PARAMETERS[name].number(value)
        return parameters

    @field_validator("chain")
    @classmethod
    def _check_chain(cls, chain: tuple[Effect, ...]) -> tuple[Effect, ...]:
        count = sum(effect.plugin == CONVERTER for effect in chain)
        if count != 1:
            raise ValueError(f"the chain must hold one {CONVERTER}, got {count}")
        return chain

    def numbers(self) -> dict[str, float]:
        """Every parameter of `PRESET_NUMBERS`."""
        return {name: float(self.parameters.get(name, PARAMETERS[name].default)) for name in PRESET_NUMBERS}

    def before(self) -> tuple[Effect, ...]:
        """The effects that the source goes through."""
        return split_chain(self.chain)[0]

    def after(self) -> tuple[Effect, ...]:
        """The effects that the converted voice goes through."""
        return split_chain(self.chain)[1]


def split_chain(chain: tuple[Effect, ...]) -> tuple[tuple[Effect, ...], tuple[Effect, ...]]:
    """The effects before and after the converter."""
    place = [effect.plugin for effect in chain].index(CONVERTER)
    return chain[:place], chain[place + 1 :]


def read_preset(path: Path) -> Preset:
    """The preset in a file.

    Raises
    ------
    PresetError
        If it cannot be read, or something in it is not as it must be.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for, whoever asked for the list
        raise PresetError(f"the preset {path} must be a file")
    return read_json(path, Preset, "preset", MOST_BYTES, PresetError)


def make_preset(
    title: str,
    voice: str | Mapping[str, float] | None,
    parameters: Mapping[str, float],
    chain: tuple[Effect, ...],
) -> Preset:
    """A preset of what is on now; PresetError if, as with a voice called by its path, it cannot be one."""
    try:
        shares = dict(voice) if isinstance(voice, Mapping) else voice
        return Preset(title=title, voice=shares, parameters=dict(parameters), chain=chain)
    except ValidationError as error:
        raise PresetError(f"this cannot be kept as a preset: {first_problem(error)}") from None


def presets() -> list[str]:
    """Names of all presets at hand, sorted. A broken one is left out; `broken_presets` says why."""
    return sorted(_sorted_out()[0])


def broken_presets() -> list[str]:
    """One sentence for each preset that was left out."""
    return _sorted_out()[1]


def find_preset(name: str) -> Preset:
    """The preset of this name, the user's before the bundled one, or that in the file at a path ending in `.json`."""
    if name.endswith(SUFFIX):
        return read_preset(Path(name))
    paths = _paths_by_name()
    if name not in paths:
        names = presets()
        there_are = f"there are {', '.join(names)}" if names else "there are no presets at all"
        raise PresetError(f"no preset is called {name[:80]!r}, {there_are}")
    return read_preset(paths[name])


def save_preset(name: str, preset: Preset) -> Path:
    """Write a preset to the user's folder, in place of an earlier one of this name; returns its path.

    Raises
    ------
    PresetError
        If the name is not fit for one. It may be that of a bundled preset, before which it is then found.
    FileError
        If it cannot be written.
    """
    path = user_folder() / f"{checked_name(name)}{SUFFIX}"
    with replacing(path) as file:
        file.write(preset.model_dump_json(indent=2, exclude_none=True).encode() + b"\n")
    return path


def checked_name(name: str) -> str:
    """`name`, if a preset may be saved under it; else PresetError."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise PresetError(f"a preset's name must be 1 to 32 of a-z, 0-9, - and _, got {name[:80]!r}")
    return name


def user_folder() -> Path:
    """The folder of the user's own presets. It need not exist."""
    import platformdirs

    return Path(platformdirs.user_data_dir("plugin_bridge", appauthor=False)) / "presets"


def is_bundled(name: str) -> bool:
    """Whether the preset found by this name is one that comes with the program."""
    return _paths_by_name()[name].parent != user_folder()


def _sorted_out() -> tuple[list[str], list[str]]:
    """Names of the presets that are good, and what is wrong with the others."""
    names: list[str] = []
    broken: list[str] = []
    for name, path in _paths_by_name().items():
        try:
            status = path.stat()
            problem = _problem(path, (status.st_mtime_ns, status.st_size, status.st_ino))
        except OSError:
            continue  # gone since the folder was listed
        if problem:
            broken.append(problem)
        else:
            names.append(name)
    return names, broken


@lru_cache(maxsize=256)
def _problem(path: Path, stamp: tuple[int, int, int]) -> str:
    """What is wrong with the preset in a file, if anything: read again only if its stamp changed, as lists are asked for often."""
    try:
        read_preset(path)
    except PresetError as error:
        return str(error)
    return ""


def _paths_by_name() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in _folders():
        try:
            paths = sorted(folder.iterdir())
        except OSError:
            continue  # a folder that is not there, or that is not ours to read, holds no presets
        for path in paths:
            if path.suffix == SUFFIX and re.fullmatch(NAME_PATTERN, path.stem):
                found.setdefault(path.stem, path)
    return found


def _folders() -> Iterator[Path]:
    yield user_folder()
    bundled = importlib.resources.files("presets")
    if isinstance(bundled, Path):
        yield bundled
