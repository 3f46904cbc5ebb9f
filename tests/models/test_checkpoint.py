"""What a training finds in its folder in place of its checkpoint is refused in one sentence, and no code in it is run."""

import os
import pickle
from dataclasses import asdict
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from models.checkpoint import CheckpointError, restoring, save  # noqa: E402
from models.lhq.bank import load_vocoder  # noqa: E402
from models.lhq.content import Conditioner, ContentConfig, load_content  # noqa: E402
from models.lhq.train_denoiser import load_result  # noqa: E402
from models.source_filter.weights import load_checkpoint  # noqa: E402

torch.set_num_threads(1)


class Hostile:
    """Unpickled, it would make a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def resume(path):
    """As a training goes on: a network, its optimiser, and the number of the step."""
    network = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(network.parameters())
    with restoring(path) as state:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        return state["step"]


def saved(path, **changes):
    network = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(network.parameters())
    network(torch.ones(3)).sum().backward()
    optimiser.step()
    torch.save({"network": network.state_dict(), "optimiser": optimiser.state_dict(), "step": 7} | changes, path)


def laughs():
    """A few hundred bytes in a file; as text, 10^30."""
    value = ["ha"]
    for _ in range(30):
        value = [value] * 10
    return value


def test_a_checkpoint_is_taken_over(tmp_path):
    saved(tmp_path / "checkpoint.pt")
    assert resume(tmp_path / "checkpoint.pt") == 7


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "cannot be read: "),
        (lambda path: path.write_bytes(b""), "cannot be read: "),
        (lambda path: path.write_bytes(b"text"), "cannot be read: "),
        (lambda path: path.write_bytes(pickle.dumps({"step": 1})), "cannot be read: "),
        (lambda path: path.unlink(), "cannot be read: No such file"),
        (lambda path: (path.unlink(), path.mkdir()), "is no file"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "is no file"),
        (lambda path: torch.save([1, 2], path), "there is none"),
        (lambda path: torch.save({"step": 7}, path), "it lacks 'network'"),
        (lambda path: saved(path, network=torch.nn.Linear(3, 4).state_dict()), "does not fit: size mismatch for weight"),
        (lambda path: saved(path, network=3), "does not fit: "),
        (lambda path: saved(path, optimiser={"state": {}, "param_groups": []}), "does not fit: "),
        (lambda path: saved(path, step="7"), "its step is '7'"),
        (lambda path: saved(path, step=-1), "its step is '-1'"),
        (lambda path: saved(path, step=laughs()), "its step is 'list'"),
    ],
)
def test_what_is_no_checkpoint_of_the_training_is_named(tmp_path, make, problem):
    path = tmp_path / "checkpoint.pt"
    saved(path)
    make(path)
    with pytest.raises(CheckpointError, match=rf"^expected a checkpoint of this training in {path}, but .*{problem}") as caught:
        resume(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    saved(tmp_path / "checkpoint.pt", more=Hostile(tmp_path / "harm"))
    with pytest.raises(CheckpointError, match="cannot be read: "):
        resume(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "harm").exists()


def student(path: Path):
    return load_result(path, Conditioner(ContentConfig(voices=1)))


@pytest.mark.parametrize("load", [load_checkpoint, load_content, load_vocoder, student])
def test_the_results_of_trainings_are_read_alike(tmp_path, load):
    path = tmp_path / "result.pt"
    saved(path)
    with pytest.raises(CheckpointError, match=rf"^expected .* in {path}, but it lacks '"):
        load(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=rf"^expected .* in {path}, but it cannot be read"):
        load(path)


def test_voices_that_have_no_names_are_refused(tmp_path):
    config = ContentConfig(voices=1)
    state = {"config": asdict(config), "average": Conditioner(config).state_dict(), "voices": [laughs()]}
    torch.save(state, tmp_path / "content.pt")
    with pytest.raises(CheckpointError, match=r"does not fit: its voices have no names$"):
        load_content(tmp_path / "content.pt")


def test_a_full_disk_leaves_the_checkpoint_that_was_there_and_nothing_else(tmp_path):
    resource = pytest.importorskip("resource")  # Windows has no such limits
    path, most = tmp_path / "checkpoint.pt", resource.getrlimit(resource.RLIMIT_FSIZE)
    save(path, {"step": 7})
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, most[1]))
    try:
        with pytest.raises(OSError, match=r"checkpoint\.pt cannot be written: \w"):
            save(path, {"step": 8, "weights": torch.zeros(1 << 16)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert torch.load(path)["step"] == 7
    assert list(tmp_path.iterdir()) == [path]
