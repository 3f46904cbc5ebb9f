"""A JACK server without a sound card, for the tests that need one, and other people's tools for it."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from plugin_bridge.priority import hurry_audio

RATE = 48_000
BLOCK = 256
SERVER = f"plugin-bridge-test-{os.getpid()}"


def portaudio() -> bool:
    try:
        import sounddevice  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


needs_portaudio = pytest.mark.skipif(not portaudio(), reason="needs PortAudio: apt-get install libportaudio2")
needs_jack = pytest.mark.skipif(
    not (portaudio() and all(map(shutil.which, ("jackd", "jack_lsp", "jack_iodelay", "jack_freewheel")))),
    reason="needs a JACK server and PortAudio: apt-get install jackd2 libportaudio2",
)


def wait_for(happens: Callable[[], object], what: str) -> None:
    """Wait until it does, a minute at most: a machine may be slow."""
    end = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)


def realtime() -> bool:
    """Whether programs may have real-time priority here."""
    with ThreadPoolExecutor(1) as thread:  # the priority ends with it
        return thread.submit(hurry_audio).result()


@contextmanager
def jack_server() -> Iterator[subprocess.Popen[bytes]]:
    """A JACK server with the dummy driver, of the name that the environment says: a real clock, no sound card."""
    name = os.environ["JACK_DEFAULT_SERVER"]
    # Without real-time priority the server itself is late, on a computer with nothing else to do.
    priority = ["-R", "-P", "10"] if realtime() else ["-r"]
    command = ["jackd", *priority, "--no-mlock", "-n", name, "-d", "dummy", "-r", str(RATE), "-p", str(BLOCK)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(lambda: jack("jack_lsp", check=False).returncode == 0, "the JACK server")
            yield server
        finally:
            server.terminate()


def jack(*command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, check=check, capture_output=True, text=True, timeout=60)  # a server may have hung


@pytest.fixture(scope="module")
def jack_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JACK_DEFAULT_SERVER", SERVER)
        patch.setenv("JACK_NO_START_SERVER", "1")
        patch.setenv("JACK_NO_AUDIO_RESERVATION", "1")
        yield
