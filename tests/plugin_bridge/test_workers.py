"""Several processes at a job each: all is done, what fails is told with its job, and a process that is killed is not waited for."""

import os

import pytest

from plugin_bridge.workers import spread


def test_every_job_is_done_and_what_fails_is_told_with_it():
    found = {job: made.exception() or made.result() for job, made in spread(int, ["1", "2", "x", "3"], 2)}
    failure = found.pop("x")
    assert found == {"1": 1, "2": 2, "3": 3}
    assert isinstance(failure, ValueError) and "'x'" in str(failure)


def test_a_process_that_is_ended_ends_the_work():
    with pytest.raises(ChildProcessError, match="the system ended a worker"):
        list(spread(os._exit, [1, 1], 1))
