"""Voices for every test: small packs whose output is known by a formula, found by name like any other voice."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packs import write_standard_packs


@pytest.fixture(scope="session", autouse=True)
def voice_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `packs.write_standard_packs`, in which voices are looked for first; the user's own is hidden."""
    folder = tmp_path_factory.mktemp("voices")
    write_standard_packs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLUGIN_BRIDGE_VOICES", str(folder))
        patch.setenv("XDG_DATA_HOME", str(folder / "nobody"))
        patch.setenv("XDG_CACHE_HOME", str(folder / "nobody"))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def interrupts_are_heard() -> None:
    """Also in a job of the shell's background, where SIGINT is ignored: trainings are interrupted by it, as by a user."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Of torch, which a command may have left with more: small networks are no faster on several, and far slower beside others."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
