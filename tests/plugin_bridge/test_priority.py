"""Real-time priority: taken where it may be had, given back, and not handed on."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from jack_server import realtime

from plugin_bridge.priority import AUDIO_PRIORITY, OTHERS_PRIORITY, hurried_threads, hurry_audio

if sys.platform != "linux":
    pytest.skip("elsewhere PortAudio sees to it", allow_module_level=True)

needs_realtime = pytest.mark.skipif(not realtime(), reason="needs the right to real-time priority")


@pytest.fixture(autouse=True)
def ordinary() -> Iterator[None]:
    """Whoever runs the tests in a hurry: these begin without."""
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    yield
    os.sched_setscheduler(0, policy, parameter)


def standing() -> tuple[int, int]:
    """Policy and priority of the calling thread."""
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, os.sched_getparam(0).sched_priority


@needs_realtime
def test_the_audio_comes_first_and_what_it_was_given_before_stays() -> None:
    def ask_twice() -> list[tuple[int, int]]:
        assert hurry_audio()
        first = standing()
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(AUDIO_PRIORITY + 1))  # as a JACK server may have it
        assert hurry_audio()
        return [first, standing()]

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(ask_twice).result() == [(os.SCHED_FIFO, AUDIO_PRIORITY), (os.SCHED_FIFO, AUDIO_PRIORITY + 1)]


@needs_realtime
def test_threads_are_hurried_for_as_long_as_it_takes_and_what_they_start_is_not() -> None:
    before = standing()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(standing).result()  # it runs
        with hurried_threads():
            assert thread.submit(standing).result() == standing() == (os.SCHED_RR, OTHERS_PRIORITY)
            code = "import os; print(os.sched_getscheduler(0), os.sched_getparam(0).sched_priority)"
            child = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
            assert child.stdout.split() == [str(os.SCHED_OTHER), "0"]
        assert thread.submit(standing).result() == before
    assert standing() == before
    with hurried_threads():  # and again
        assert standing() == (os.SCHED_RR, OTHERS_PRIORITY)


def test_a_system_that_refuses_is_lived_with() -> None:
    code = (
        "import os, resource\n"
        "from plugin_bridge.priority import hurried_threads, hurry_audio\n"
        "resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "with hurried_threads():\n"
        "    print(hurry_audio(), os.sched_getscheduler(0))\n"
    )
    refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (refused.stdout.split(), refused.stderr) == (["False", str(os.SCHED_OTHER)], "")


@needs_realtime
def test_a_thread_that_ended_meanwhile_does_no_harm() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    with hurried_threads():
        done.set()
        thread.join()
    assert standing()[0] == os.SCHED_OTHER
