"""Stage 2 of the song engine's training: exact after a kill, phases that do what they say."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from lhq_training import BLOCKS, CONTENT, DRAWN, write_takes  # noqa: E402

from models.lhq.content import MEAN_FRAMES, Conditioner  # noqa: E402
from models.lhq.data import Takes  # noqa: E402
from models.lhq.denoiser import DenoiserConfig  # noqa: E402
from models.lhq.evolution import LatencyTable  # noqa: E402
from models.lhq.train_content import ContentTraining  # noqa: E402
from models.lhq.train_denoiser import ON, PHASES, DenoiserTraining, Phase, Progress, Run, fit, go_back, go_on, load_result  # noqa: E402

torch.set_num_threads(1)
TABLE = LatencyTable(1.0, dict(zip(BLOCKS, (1.0, 1.0, 2.0), strict=True)))
SIZES = DenoiserConfig(1.0, width=32, heads=2, time=16, blocks=BLOCKS)
TRAINING = DenoiserTraining(
    **DRAWN,
    frames=32,
    skip=0.3,
    learning_rate=2e-3,
    condition_learning_rate=1e-4,
    distillation_learning_rate=5e-3,
    coarse=0.5,
    average=0.9,
    distillation_average=0.9,
    kept=0.25,
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_takes(tmp_path_factory.mktemp("packed"))


def new_run(packed: Path, targets: tuple[float, float] = (4.0, 3.0), phases: tuple[Phase, ...] = PHASES) -> Run:
    content = ContentTraining(1, 4, 32, 0.25, 0.3, 2, 1e-3, 0.9, 0.4, (-1.0, 0.5))
    return Run(Takes(packed), TRAINING, content, {"lhq": targets[0], "mobile": targets[1]}, phases=phases)


def conditioner() -> Conditioner:
    torch.manual_seed(7)
    return Conditioner(CONTENT)


def started(packed: Path) -> Run:
    run = new_run(packed)
    run.start(conditioner(), SIZES, TABLE)
    return run


def train(run: Run, folder: Path, stop_after: int | None = None) -> list[Progress]:
    seen: list[Progress] = []
    fit(run, folder, seen.append, steps=30, report_every=4, stop_after=stop_after)
    return seen


@pytest.fixture(scope="module")
def trained(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Progress]]:
    """A whole run of all phases in some 30 steps."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(started(packed), folder)


@pytest.mark.parametrize("killed_after", [16, 27, 32])
def test_a_run_killed_and_resumed_is_the_run_that_was_not(
    packed: Path, trained: tuple[Path, list[Progress]], tmp_path: Path, killed_after: int
) -> None:
    """Killed while it evolves, is distilled, is shrunk: the results are bit-equal."""
    train(started(packed), tmp_path, stop_after=killed_after)
    assert not (tmp_path / "mobile.pt").exists()
    resumed = new_run(packed)
    resumed.resume(torch.load(tmp_path / "denoiser.pt", weights_only=True), Conditioner(CONTENT))
    train(resumed, tmp_path)
    for name in ("teacher", "student", "mobile"):
        (one, its), (other, others) = (load_result(f / f"{name}.pt", Conditioner(CONTENT)) for f in (trained[0], tmp_path))
        assert one.config == other.config
        for ours, theirs in zip(
            [*one.parameters(), *its.parameters()], [*other.parameters(), *others.parameters()], strict=True
        ):
            assert torch.equal(ours, theirs)
    assert (tmp_path / "evolution.json").read_text() == (trained[0] / "evolution.json").read_text()


def test_an_interrupted_run_goes_on_exactly(packed: Path, tmp_path: Path) -> None:
    def interrupt(now: Progress) -> None:
        signal.raise_signal(signal.SIGINT)

    states = []
    for name in ("interrupted", "whole"):
        (tmp_path / name).mkdir()
        run = started(packed)
        if name == "interrupted":
            with pytest.raises(KeyboardInterrupt):
                fit(run, tmp_path / name, interrupt, steps=30, report_every=4)
            run = new_run(packed)
            run.resume(torch.load(tmp_path / name / "denoiser.pt", weights_only=True), Conditioner(CONTENT))
            assert (run.phase, run.step) == (0, 4)
        fit(run, tmp_path / name, lambda now: None, steps=30, stop_after=6 - run.step)
        states.append(torch.load(tmp_path / name / "denoiser.pt", weights_only=True))
    assert states[0]["step"] == states[1]["step"] == 6
    for name, value in states[0]["average"].items():
        assert torch.equal(value, states[1]["average"][name]), name


def test_steps_that_time_left_undone_are_made_up_for_exactly(packed: Path, tmp_path: Path) -> None:
    """Two phases that time ended after a step each, then all steps, with a kill between: as if time had never been short."""
    phases = (Phase("teach", 0.5, anneal=True, result="student"), Phase("shrink", 0.5, steps=1, anneal=True, result="mobile"))

    def call(work: Path, seconds: float = float("inf"), stop_after: int | None = None) -> int:
        """Denoiser's steps in six, or what is left of them; how many phases were done as it began."""
        run = new_run(packed, phases=phases)
        run.start(conditioner(), SIZES, TABLE)
        if (work / "denoiser.pt").exists():
            run.resume(torch.load(work / "denoiser.pt", weights_only=True), Conditioner(CONTENT))
        go_back(run, work, 6, Conditioner(CONTENT))
        began = run.phase
        run.spent = run.spent_in_phase = 0.0
        fit(run, work, print, steps=6, seconds=seconds, stop_after=stop_after, keep_ends=True)
        return began

    short, whole = tmp_path / "short", tmp_path / "whole"
    for work in (short, whole):
        work.mkdir()
    began = [call(short, seconds=1e-9), *(call(short, stop_after=count) for count in (3, None, None))]
    assert began == [0, 0, 1, 2]
    call(whole)
    for result in ("student.pt", "mobile.pt"):
        (one, its), (other, others) = (load_result(work / result, Conditioner(CONTENT)) for work in (short, whole))
        for ours, theirs in zip([*one.parameters(), *its.parameters()], [*other.parameters(), *others.parameters()], strict=True):
            assert torch.equal(ours, theirs)


def test_the_results_have_the_latencies_asked_for_and_the_trace_says_why(trained: tuple[Path, list[Progress]]) -> None:
    folder, _ = trained
    trace = json.loads((folder / "evolution.json").read_text())
    for name, size in (("student", "lhq"), ("mobile", "mobile")):
        denoiser, _ = load_result(folder / f"{name}.pt", Conditioner(CONTENT))
        latency = TABLE.total(denoiser.config.blocks)
        assert latency <= trace["target_ms"][size]
        assert latency == [a for a in trace["actions"] if a["size"] == size][-1]["latency"]


def test_the_encoder_stays_and_the_condition_network_learns(trained: tuple[Path, list[Progress]]) -> None:
    before, (_, after) = conditioner(), load_result(trained[0] / "student.pt", Conditioner(CONTENT))
    for old, new in zip(before.encoder.parameters(), after.encoder.parameters(), strict=True):
        assert torch.equal(old, new)
    assert not torch.equal(before.condition.enter.weight, after.condition.enter.weight)


def test_a_run_goes_on_from_a_teacher_in_its_structure(
    packed: Path, trained: tuple[Path, list[Progress]], tmp_path: Path
) -> None:
    folder, _ = trained
    teacher, _ = load_result(folder / "teacher.pt", Conditioner(CONTENT))
    results = []
    for name in ("once", "again"):
        run = new_run(packed, phases=ON)
        go_on(run, folder / "teacher.pt", Conditioner(CONTENT))
        assert [parameter.tolist() for parameter in run.average.parameters()] == [p.tolist() for p in teacher.parameters()]
        (tmp_path / name).mkdir()
        seen = train(run, tmp_path / name)
        results.append(load_result(tmp_path / name / "student.pt", Conditioner(CONTENT)))
    (student, heard), (same, _) = results
    assert student.config == teacher.config
    assert {"teach", "settle", "halve to 1"} <= {now.phase for now in seen}
    assert not any(torch.equal(*pair) for pair in zip(student.parameters(), teacher.parameters(), strict=True))
    assert all(torch.equal(*pair) for pair in zip(student.parameters(), same.parameters(), strict=True))
    assert all(torch.equal(*pair) for pair in zip(heard.encoder.parameters(), conditioner().encoder.parameters(), strict=True))
    before, after = (json.loads((place / "evolution.json").read_text()) for place in (folder, tmp_path / "once"))
    assert before["block_ms"] == after["block_ms"]
    assert [a for a in before["actions"] if a["size"] == "lhq"] == [a for a in after["actions"] if a["size"] == "lhq"]
    mobile, _ = load_result(tmp_path / "once" / "mobile.pt", Conditioner(CONTENT))
    assert TABLE.total(mobile.config.blocks) <= after["target_ms"]["mobile"]


def test_the_helpers_silence_above_their_bandwidth_teaches_nothing(packed: Path) -> None:
    """Whatever their mel holds there, the loss is the same."""
    run = started(packed)
    run.enter()
    losses = []
    for value in (-1.0, 0.5):
        takes = run.takes
        batch = takes.batch(np.random.default_rng(0), 4, 32, MEAN_FRAMES, helpers=1.0, shifted=0.0)
        batch.mel[:, :, -10:] = value  # bands above 15 kHz
        run.draw = lambda *_, batch=batch: batch  # type: ignore[method-assign]
        losses.append(run.loss().item())
    assert losses[0] == losses[1]


def test_teaching_lowers_the_loss_and_a_student_comes_near_its_teacher(packed: Path) -> None:
    """On noise about a known mean, whose spread is all there is to learn."""
    run = started(packed)
    run.enter()
    task = run.held_out_task()
    before = run.held_out_loss(run.average, task)
    for _ in range(40):
        run.advance(0.0)
    assert run.held_out_loss(run.average, task) < 0.9 * before
    run.phase, run.step = [p.name for p in PHASES].index("halve to 1"), 0
    run.enter()
    started_at = run.held_out_loss(run.average, task)
    for step in range(40):
        run.advance(step / 40)
    assert run.held_out_loss(run.average, task) < 0.9 * started_at
