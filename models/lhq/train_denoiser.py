"""Stage 2: the denoiser. Robust training, evolution, progressive distillation to one step, and a smaller one for `mobile`.

The encoder stays as stage 1 left it, the condition network goes on learning at a small rate with its coarse mel kept. A run is
a list of phases, each a share of the whole; step n of phase m draws all its randomness from (seed, m, n), so a run resumed
from its checkpoint continues exactly. Results, beside the checkpoint `denoiser.pt`: `teacher.pt`, `student.pt`, `mobile.pt`,
and `evolution.json`, what decided the structure.

    python -m models.lhq.train_denoiser --work FOLDER [--steps N | --minutes M] [--teacher FILE]

With an earlier run's teacher it goes on from there, in the structure that was found then.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from models.checkpoint import restoring, save
from models.command import count, run, time_limit
from models.device import CPU, DEVICES, pick_device
from models.interruption import Interruption
from models.lhq.content import MEAN_FRAMES, Conditioner, Conditioning, load_content
from models.lhq.data import Batch, Takes
from models.lhq.denoiser import Denoiser, DenoiserConfig
from models.lhq.diffusion import sample
from models.lhq.evolution import Action, LatencyTable, apply, choose, measure_latencies
from models.lhq.objectives import Task, denoising, distillation_loss, spread_times, teaching_loss
from models.lhq.train_content import CHECKPOINT as CONTENT
from models.lhq.train_content import ContentTraining, Heard, hear, mel_loss
from models.replacing import replacing
from models.source_filter.data import read_settings, read_table

CHECKPOINT = "denoiser.pt"
TRACE = "evolution.json"
DENOISERS = ("network", "average", "teacher")
PLACE = ("phase", "step", "spent", "spent_in_phase")
Conditioned = TypeVar("Conditioned", bound=Conditioning)
WARM = 50  # steps in which the learning rate rises


@dataclass(frozen=True)
class DenoiserTraining:
    """The `[training]` table of the recipe; the comments are there."""

    seed: int
    batch: int
    frames: int
    helpers: float
    shifted: float
    skip: float
    learning_rate: float
    condition_learning_rate: float
    distillation_learning_rate: float
    coarse: float
    average: float
    distillation_average: float
    kept: float


@dataclass(frozen=True)
class Phase:
    """A part of the run, `share` of the whole. It begins with the average that the phase before left.

    Attributes
    ----------
    steps : int
        Of the student, in a distillation; 0: learn from recordings.
    halve : bool
        The average so far becomes the teacher, two steps of which the student does in one.
    size : str
        Size of the song engine, towards whose latency the phase begins with up to `actions` actions of evolution.
    skip : bool
        Blocks are skipped now and then.
    anneal : bool
        The learning rate falls to 0.
    result : str
        Name under which the average is written in the end.
    """

    name: str
    share: float
    steps: int = 0
    halve: bool = False
    size: str = ""
    actions: int = 0
    skip: bool = False
    anneal: bool = False
    result: str = ""


PHASES = (
    Phase("teach", 0.45, skip=True),
    *(Phase(f"evolve {k}", 0.03, skip=True, size="lhq", actions=1) for k in (1, 2, 3)),
    Phase("settle", 0.12, anneal=True, result="teacher"),
    Phase("halve to 8", 0.03, steps=8, halve=True, anneal=True),
    Phase("halve to 4", 0.03, steps=4, halve=True, anneal=True),
    Phase("halve to 2", 0.05, steps=2, halve=True, anneal=True),
    Phase("halve to 1", 0.12, steps=1, halve=True, anneal=True, result="student"),
    # The small one learns to do in its one step what the large one does in its.
    *(Phase(f"shrink {k}", 0.01, steps=1, size="mobile", actions=2) for k in (1, 2)),
    Phase("shrink", 0.09, steps=1, size="mobile", actions=9, anneal=True, result="mobile"),
)


# More of the same, from a teacher whose structure is settled.
ON = (
    Phase("teach", 0.48),
    Phase("settle", 0.2, anneal=True, result="teacher"),
    *(phase for phase in PHASES if phase.steps),
)


@dataclass(frozen=True)
class Progress:
    """Loss since the last report (mean), of the held-out takes, and seconds of the run."""

    phase: str
    step: int
    loss: float
    held_out_loss: float
    seconds: float


class Run:
    """A run at some step: networks, optimiser, and how far it is.

    Features reach `margin` frames beyond a crop, for the encoder.
    """

    margin = MEAN_FRAMES

    def __init__(
        self,
        takes: Takes,
        config: DenoiserTraining,
        content: ContentTraining,
        targets: dict[str, float],
        device: torch.device = CPU,
        phases: tuple[Phase, ...] = PHASES,
    ) -> None:
        self.takes, self.phases = takes, phases
        self.device = device
        self.config = config
        # One view of each clip: the encoder, for whose consistency the second is, learns nothing here.
        self.content = replace(content, paired=0)
        self.targets = targets
        self.phase, self.step = 0, 0
        self.spent, self.spent_in_phase = 0.0, 0.0
        self.actions: list[tuple[str, Action]] = []
        self.table: LatencyTable
        self.conditioner: Conditioning
        self.average_conditioner: Conditioning
        self.network: Denoiser
        self.average: Denoiser
        self.teacher: Denoiser
        self.optimiser: torch.optim.Optimizer
        self.held_out = self.draw(np.random.default_rng(config.seed), held_out=True)

    def start(self, conditioner: Conditioning, sizes: DenoiserConfig, table: LatencyTable) -> None:
        """From what stage 1 left. The noise's scale is the spread of the held-out mels about their coarse ones."""
        self.conditioner, self.average_conditioner = conditioner.to(self.device), copy.deepcopy(conditioner)
        task = self.held_out_task()
        scale = task.mean_square(task.x - task.coarse).sqrt().item()
        torch.manual_seed(self.config.seed)
        self.begin(conditioner, Denoiser(replace(sizes, scale=scale)), table)

    def begin(self, conditioner: Conditioning, denoiser: Denoiser, table: LatencyTable) -> None:
        """From networks that are there."""
        self.conditioner, self.average_conditioner = conditioner.to(self.device), copy.deepcopy(conditioner)
        self.average = self.network = self.teacher = denoiser.to(self.device)
        self.table = table

    def draw(self, rng: np.random.Generator, held_out: bool = False) -> Batch:
        config = self.config
        helpers, shifted = (0.0, 0.0) if held_out else (config.helpers, config.shifted)
        return self.takes.batch(
            rng, config.batch, config.frames, self.margin, helpers=helpers, shifted=shifted, held_out=held_out
        )

    def hear(self, model: Conditioning, batch: Batch, generator: torch.Generator, *, plain: bool = False) -> Heard:
        """A batch through encoder and condition network, see `train_content.hear`."""
        assert isinstance(model, Conditioner)
        return hear(model, batch, self.content, generator, plain=plain)

    def held_out_task(self) -> Task:
        with torch.no_grad():
            heard = self.hear(self.average_conditioner, self.held_out, torch.Generator(), plain=True)
        return Task.of(heard, self.held_out)

    def held_out_loss(self, denoiser: Denoiser, task: Task, keep: list[bool] | None = None) -> float:
        """With the same noise at every call: in a distillation, how far off the teacher's samples the student's are, squared and
        in the unit of the noise; else the loss on v."""
        phase = self.phases[self.phase]
        noise = torch.randn(task.x.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            if not phase.steps:
                return teaching_loss(denoiser, task, spread_times(np.random.default_rng(0), len(noise)), noise, keep).item()
            scale = denoiser.config.scale
            noise = noise.to(self.device)
            wanted = sample(denoising(self.teacher, task), scale * noise, phase.steps * (2 if phase.halve else 1))
            made = sample(denoising(denoiser, task, keep), scale * noise, phase.steps)
            return task.mean_square((made - wanted) / scale).item()

    def enter(self) -> None:
        """Begin the phase."""
        phase = self.phases[self.phase]
        if phase.halve or (phase.steps and not self.phases[self.phase - 1].size):
            self.teacher = copy.deepcopy(self.average).requires_grad_(False)
        network = self.evolved(phase, copy.deepcopy(self.average))
        self.conditioner.load_state_dict(self.average_conditioner.state_dict())
        self.network, self.average = network.requires_grad_(True), copy.deepcopy(network)
        self.spent_in_phase = 0.0
        self.open_optimiser()

    def evolved(self, phase: Phase, network: Denoiser) -> Denoiser:
        """The structure with which the phase begins."""
        task = self.held_out_task()
        for _ in range(phase.actions):
            blocks = network.config.blocks

            def loss(keep: list[bool], judged: Denoiser = network) -> float:
                return self.held_out_loss(judged, task, keep)

            action = choose(blocks, self.table, self.targets[phase.size], loss)
            if action is None:
                break
            network = apply(network, action)
            self.actions.append((phase.size, action))
        return network

    def open_optimiser(self) -> None:
        config = self.config
        self.conditioner.requires_grad_(False)
        if self.phases[self.phase].steps:
            groups: list[dict[str, Any]] = [{"params": list(self.network.parameters()), "rate": config.distillation_learning_rate}]
        else:
            groups = [{"params": list(self.network.parameters()), "rate": config.learning_rate}, *self.conditioning_groups()]
            for group in groups:
                for parameter in group["params"]:
                    parameter.requires_grad_(True)
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01, fused=True)

    def conditioning_groups(self) -> list[dict[str, Any]]:
        """What else learns from recordings, and how fast."""
        known = [*self.conditioner.condition.parameters(), *self.conditioner.voices.parameters()]
        return [{"params": known, "rate": self.config.condition_learning_rate}]

    def loss(self) -> Tensor:
        """Of a training step, which has its randomness from (seed, phase, step)."""
        config, phase = self.config, self.phases[self.phase]
        rng = np.random.default_rng([config.seed, self.phase, self.step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        torch.manual_seed(int(rng.integers(2**62)))
        batch = self.draw(rng)
        with torch.set_grad_enabled(not phase.steps):
            heard = self.hear(self.conditioner, batch, generator)
        task = Task.of(heard, batch)
        noise = torch.randn(task.x.shape, generator=generator)
        if phase.steps:
            return distillation_loss(
                self.network, self.teacher, task, rng, noise, phase.steps, config.kept, phase.halve
            )
        keep = [bool(rng.random() >= config.skip * phase.skip) for _ in self.network.blocks]
        coarse = mel_loss(heard.coarse, heard.mel, heard.loudness, torch.from_numpy(batch.bandwidth_hz))
        return teaching_loss(self.network, task, spread_times(rng, len(noise)), noise, keep) + config.coarse * coarse

    def advance(self, done: float) -> float:
        """One training step at `done`, 0..1, of the phase; its loss."""
        config, phase = self.config, self.phases[self.phase]
        factor = min(1.0, (self.step + 1) / WARM) * (max(0.0, 1 - done) if phase.anneal else 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * factor
        loss = self.loss()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for group in self.optimiser.param_groups:
            nn.utils.clip_grad_norm_(group["params"], 1.0)
        self.optimiser.step()
        self.step += 1
        # The average follows fast at first, or it would be the random start for a thousand steps.
        keep = min(config.distillation_average if phase.steps else config.average, self.step / (self.step + 10))
        pairs = [(self.average, self.network), (self.average_conditioner, self.conditioner)]
        with torch.no_grad():
            for averaged, trained in pairs[: 1 if phase.steps else 2]:
                for slow, fast in zip(averaged.parameters(), trained.parameters(), strict=True):
                    slow.lerp_(fast, 1 - keep)
        return loss.item()

    def state(self) -> dict[str, Any]:
        """For `torch.save`."""
        modules = ("conditioner", "average_conditioner", "network", "average", "teacher")
        return {
            **{name: getattr(self, name).state_dict() for name in modules},
            "sizes": {name: asdict(getattr(self, name).config) for name in DENOISERS},
            "optimiser": self.optimiser.state_dict(),
            "table": self.table.as_json(),
            "actions": [[size, asdict(action)] for size, action in self.actions],
            **{name: getattr(self, name) for name in PLACE},
        }

    def resume(self, state: dict[str, Any], conditioner: Conditioning) -> None:
        """Inverse of `state`; `conditioner` is one of the right sizes."""
        self.conditioner, self.average_conditioner = conditioner.to(self.device), copy.deepcopy(conditioner)
        for name in DENOISERS:
            setattr(self, name, Denoiser(DenoiserConfig.from_json(state["sizes"][name])).to(self.device))
        for name in (*DENOISERS, "conditioner", "average_conditioner"):
            getattr(self, name).load_state_dict(state[name])
        self.table = LatencyTable.from_json(state["table"])
        self.actions = [(size, Action.from_json(action)) for size, action in state["actions"]]
        for name in PLACE:
            setattr(self, name, state[name])
        if self.step:
            self.open_optimiser()
            self.optimiser.load_state_dict(state["optimiser"])

    def trace(self) -> dict[str, Any]:
        """What decided the structure, for people and for doing it again."""
        actions = [{"size": size, **asdict(action)} for size, action in self.actions]
        return {"target_ms": self.targets, **self.table.as_json(), "actions": actions}


def fit(
    run: Run,
    work: Path,
    report: Callable[[Progress], None],
    *,
    steps: int | None = None,
    seconds: float = float("inf"),
    report_every: int = 50,
    save_seconds: float = 120.0,
    stop_after: int | None = None,
    keep_ends: bool = False,
) -> None:
    """Train through all phases, of `steps` steps together or `seconds` in all; results and checkpoints go into `work`.

    `stop_after` ends early, after so many steps of this call, as a kill would but with a checkpoint written. `keep_ends` keeps how
    each phase ended there too, for `go_back`.
    """
    if run.phase == len(run.phases):
        return  # it was done before
    losses: list[float] = []
    saved = last = time.monotonic()
    taken = 0
    with Interruption() as interruption:
        while run.phase < len(run.phases):
            phase = run.phases[run.phase]
            if run.step == 0:
                run.enter()
                last = time.monotonic()
            length = phase.share * steps if steps else float("inf")
            while (done := max(run.step / length, run.spent_in_phase / (phase.share * seconds))) < 1 and taken != stop_after:
                losses.append(run.advance(done))
                taken += 1
                now = time.monotonic()
                run.spent, run.spent_in_phase, last = run.spent + now - last, run.spent_in_phase + now - last, now
                if run.step % report_every == 0:
                    judged = run.held_out_loss(run.average, run.held_out_task())
                    report(Progress(phase.name, run.step, float(np.mean(losses)), judged, run.spent))
                    losses = []
                if now - saved > save_seconds:
                    save(work / CHECKPOINT, run.state())
                    saved = now
                if interruption.came:
                    break
            if taken == stop_after or interruption.came:
                break
            if phase.result:
                write_result(work / f"{phase.result}.pt", run)
            if keep_ends:
                save(end_of(phase, work), run.state())
            run.phase, run.step, losses = run.phase + 1, 0, []
        save(work / CHECKPOINT, run.state())
        with replacing(work / TRACE) as file:
            file.write(json.dumps(run.trace(), indent=1).encode())


def go_back(run: Run, work: Path, steps: int, conditioner: Conditioning) -> None:
    """Back to the end of the first phase that was left, as time was up, before its share of `steps`; nothing if there is none.

    What came after is to come anew, from more training, and the checkpoint in `work` says so. `conditioner` is one of the right
    sizes.
    """
    for phase in run.phases[: run.phase]:
        end = end_of(phase, work)
        if end.exists():
            with restoring(end) as state:
                if state["step"] < phase.share * steps:
                    run.resume(state, conditioner)
                    save(work / CHECKPOINT, run.state())
                    return


def end_of(phase: Phase, work: Path) -> Path:
    """Where `fit` keeps how the phase ended."""
    return work / f"end of {phase.name}.pt"


def write_result(path: Path, run: Run) -> None:
    """The averages: a denoiser and the networks that tell it what to sing."""
    state = {"denoiser": run.average.state_dict(), "sizes": asdict(run.average.config)}
    save(path, state | {"conditioner": run.average_conditioner.state_dict(), "steps": run.phases[run.phase].steps})


def load_result(path: Path, conditioner: Conditioned) -> tuple[Denoiser, Conditioned]:
    """Inverse of `write_result`; `conditioner` is one of the right sizes. Raises CheckpointError if it does not fit."""
    with restoring(path, "a trained denoiser") as state:
        denoiser = Denoiser(DenoiserConfig.from_json(state["sizes"]))
        denoiser.load_state_dict(state["denoiser"])
        conditioner.load_state_dict(state["conditioner"])
    return denoiser.eval(), conditioner.eval()


def go_on(run: Run, teacher: Path, conditioner: Conditioning) -> None:
    """Begin with an earlier run's teacher and what decided its structure; `conditioner` is one of the right sizes."""
    denoiser, conditioner = load_result(teacher, conditioner)
    trace = json.loads(teacher.with_name(TRACE).read_text())
    run.begin(conditioner, denoiser, LatencyTable.from_json(trace))
    run.actions = [(size, Action.from_json(action)) for action in trace["actions"] if (size := action.pop("size")) == "lhq"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the song engine's denoiser, after train_content in the same folder.")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, in which stage 1 has left its own")
    parser.add_argument("--teacher", type=Path, help="go on from this teacher.pt, beside which is its evolution.json")
    parser.add_argument("--steps", type=count, help="of all phases together")
    parser.add_argument("--minutes", type=time_limit, default=float("inf"))
    parser.add_argument("--threads", type=count, default=2)
    parser.add_argument("--device", choices=DEVICES, help="by default a GPU if there is one")
    arguments = parser.parse_args()
    if arguments.steps is None and arguments.minutes == float("inf"):
        parser.error("expected --steps or --minutes, got neither")
    torch.set_num_threads(arguments.threads)
    recipe = Path(__file__).with_name("denoiser.toml")
    config = read_settings(DenoiserTraining, recipe, "training", *(["on"] if arguments.teacher else []))
    content = read_settings(ContentTraining, recipe.with_name("content.toml"), "training")
    targets, device = read_table(recipe, "latency"), pick_device(arguments.device)
    run = Run(Takes(arguments.work / "packed"), config, content, targets, device, ON if arguments.teacher else PHASES)
    conditioner = load_content(arguments.work / CONTENT)[0]
    checkpoint = arguments.work / CHECKPOINT
    if checkpoint.exists():
        with restoring(checkpoint) as state:
            run.resume(state, conditioner)
    elif arguments.teacher:
        go_on(run, arguments.teacher, conditioner)
    else:
        sizes = DenoiserConfig(scale=1.0)
        run.start(conditioner, sizes, measure_latencies(sizes))

    def report(progress: Progress) -> None:
        print(
            f"{progress.phase}: step {progress.step} loss {progress.loss:.4f} held out {progress.held_out_loss:.4f} "
            f"{progress.seconds:.0f} s",
            flush=True,
        )

    fit(run, arguments.work, report, steps=arguments.steps, seconds=60 * arguments.minutes)


if __name__ == "__main__":
    run(main)
