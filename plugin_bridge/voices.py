"""The voices at hand: found by name in the bundled packs and in the user's folders."""

from __future__ import annotations

import importlib.resources
import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

# The pack reader and its schemas are imported where a pack is opened: `import plugin_bridge` comes through here.
if TYPE_CHECKING:
    from models.pack import VoiceCard, VoicePack

VOICES_VARIABLE = "PLUGIN_BRIDGE_VOICES"
SUFFIX = ".voice"


class UnknownVoiceError(ValueError):
    """No voice has this name; the message lists the names there are."""


@dataclass(frozen=True)
class VoiceAddress:
    """Where a voice lives: `index` is its place in the pack, and so among the model's voice weights."""

    pack: VoicePack
    index: int
    card: VoiceCard


Voice = str | Mapping[str, float]


@dataclass(frozen=True)
class VoiceTarget:
    """A voice, or a mix of voices of one pack: `shown` as it reads back, `weights` of all the voices of the pack."""

    shown: str | dict[str, float]
    pack: VoicePack
    weights: tuple[float, ...]


def voices() -> list[str]:
    """Names of all voices at hand.

    Searched are the folders in the environment variable PLUGIN_BRIDGE_VOICES (separated as in PATH), the user's own
    folder, and the voices that come with the program. A name found twice means the first. A broken pack is left out;
    `broken_packs` says why.
    """
    return list(_addresses()[0])


def broken_packs() -> list[str]:
    """One sentence for each pack that was left out."""
    return _addresses()[1]


def find_voice(name: str) -> VoiceAddress:
    """The voice of this name, or the first voice of the pack at this path.

    Parameters
    ----------
    name : str
        One of `voices()`, or a path that ends in `.voice`.

    Raises
    ------
    UnknownVoiceError
        Listing the names there are.
    PackError
        If `name` is a path to something that is no good pack.
    """
    return _find([name])[name]


def _find(names: Iterable[str]) -> dict[str, VoiceAddress]:
    """As `find_voice`; the folders are looked through once, as a hand on a fader asks for the voices of a mix again and again."""
    found: dict[str, VoiceAddress] = {}
    at_hand: tuple[dict[str, VoiceAddress], list[str]] | None = None
    for name in names:
        if name.endswith(SUFFIX):
            found[name] = _pack_addresses(Path(name))[0]
            continue
        at_hand = at_hand or _addresses()
        addresses, broken = at_hand
        if name not in addresses:
            there_are = f"there are {', '.join(addresses)}" if addresses else "there are no voices at all"
            left_out = f"; {_counted(len(broken))} left out, see plugin-bridge doctor" if broken else ""
            raise UnknownVoiceError(f"no voice is called {name!r}, {there_are}{left_out}")
        found[name] = addresses[name]
    return found


def voice_target(voice: object) -> VoiceTarget:
    """What a name, the path of a pack, or names with weights stand for; the weights are scaled to add up to 1.

    Raises
    ------
    UnknownVoiceError, PackError
        As `find_voice`.
    TypeError, ValueError
        For anything else, weights that cannot be scaled, or voices of different packs.
    """
    if isinstance(voice, Path):
        voice = str(voice)
    if isinstance(voice, str):
        address = find_voice(voice)
        weights = [0.0] * len(address.pack.manifest.voices)
        weights[address.index] = 1.0
        return VoiceTarget(voice, address.pack, tuple(weights))
    if not isinstance(voice, Mapping):
        raise TypeError(f"voice must be a name or a mapping of names to weights, got {type(voice).__name__}")
    if not voice:
        raise ValueError("a mix of voices needs at least one voice, got none")
    shares: dict[str, float] = {}
    for name, weight in voice.items():
        if not isinstance(name, str) or not isinstance(weight, Real):
            raise TypeError(f"a mix of voices must map names to numbers, got {name!r}: {weight!r}")
        shares[name] = float(weight)
    shares = scaled(shares)
    addresses = _find(shares)
    pack = next(iter(addresses.values())).pack
    weights = [0.0] * len(pack.manifest.voices)
    for name, address in addresses.items():
        if address.pack is not pack:
            raise ValueError(
                f"voices of one mix must come from one pack, but {next(iter(shares))!r} is in {pack.path.name} "
                f"and {name!r} in {address.pack.path.name}"
            )
        weights[address.index] += shares[name]
    return VoiceTarget(shares, pack, tuple(weights))


def scaled(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights of the voices of a mix so that they add up to 1; ValueError if one is negative, or all are 0, or too large."""
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"the weight of a voice must be finite and not negative, got {name!r}: {weight:g}")
    total = sum(weights.values())
    if not 0 < total < math.inf:
        raise ValueError(f"the weights of a mix of voices must add up to more than 0, got {voice_text(weights)}")
    return {name: weight / total for name, weight in weights.items()}


def check_new_name(name: str) -> None:
    """ValueError, one sentence, unless a voice of a user's own can have this name: that of a bundled one would hide that one."""
    from models.schema import check_name

    check_name(name)
    bundled = [address.card.name for path in _packs_in(_bundled_folders()) for address in _pack_addresses(path)]
    if name in bundled:
        raise ValueError(f"expected a name that no bundled voice has, got {name!r}; bundled are {', '.join(bundled)}")


def user_folder() -> Path:
    """The folder in which a user's own packs are looked for. It need not exist."""
    import platformdirs

    return Path(platformdirs.user_data_dir("plugin_bridge", appauthor=False)) / "voices"


def parse_voice(text: str) -> str | dict[str, float]:
    """A voice's name, the path of a pack, or a mix such as `pjs=0.7,kerstin=0.3`; ValueError if a weight is no number."""
    if "=" not in text or text.endswith(SUFFIX):
        return text
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = part.partition("=")
        try:
            weights[name.strip()] = float(weight)
        except ValueError:
            raise ValueError(f"the weight of {name.strip()} must be a number, not {weight!r}") from None
    return weights


def voice_text(voice: str | Mapping[str, float]) -> str:
    """A voice, or a mix of voices, as `parse_voice` reads it."""
    return voice if isinstance(voice, str) else ",".join(f"{name}={weight:g}" for name, weight in voice.items())


def _counted(packs: int) -> str:
    return "1 broken pack was" if packs == 1 else f"{packs} broken packs were"


def _addresses() -> tuple[dict[str, VoiceAddress], list[str]]:
    from models.pack import PackError

    found: dict[str, VoiceAddress] = {}
    broken: list[str] = []
    for path in _packs_in(_folders()):
        try:
            for address in _pack_addresses(path):
                found.setdefault(address.card.name, address)
        except PackError as error:
            broken.append(str(error))
    return found, broken


def _packs_in(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        try:
            paths = sorted(folder.iterdir())
        except OSError:
            continue  # a folder that is not there, or that is not ours to read, holds no voices
        yield from (path for path in paths if path.suffix == SUFFIX and not path.name.startswith("."))


def _folders() -> Iterator[Path]:
    yield from (Path(folder) for folder in os.environ.get(VOICES_VARIABLE, "").split(os.pathsep) if folder)
    yield user_folder()
    yield from _bundled_folders()


def _bundled_folders() -> Iterator[Path]:
    bundled = importlib.resources.files("presets")
    if isinstance(bundled, Path):
        yield bundled


@dataclass(frozen=True)
class _Opened:
    """A pack as it was when the file had this stamp; only one of the last two is set."""

    stamp: tuple[int, int, int]
    addresses: list[VoiceAddress]
    problem: str


_opened: dict[Path, _Opened] = {}
_opened_lock = threading.Lock()


def _pack_addresses(path: Path) -> list[VoiceAddress]:
    """The voices of a pack, opened again only if the file changed. The pack, and so its loaded model, is shared."""
    from models.pack import PackError, VoicePack

    path = path.absolute()
    with _opened_lock:
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError:
            stamp = (-1, -1, -1)
        known = _opened.get(path)
        if known is None or known.stamp != stamp:
            try:
                pack = VoicePack.open(path)
                cards = enumerate(pack.manifest.voices)
                known = _Opened(stamp, [VoiceAddress(pack, index, card) for index, card in cards], "")
            except PackError as error:
                known = _Opened(stamp, [], str(error))
            _opened[path] = known
    if known.problem:
        raise PackError(known.problem)
    return known.addresses
