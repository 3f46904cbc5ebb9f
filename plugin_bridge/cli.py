"""The command line: `plugin-bridge voices | convert | render | live | demo | bench | evaluate | train | ... | doctor`.

What a command does lies in the module of its name; here are its options and what it prints. Results go to standard
output, progress and errors to standard error. Exit codes: 0 all well, 1 `doctor` found something missing, 2 something
asked for could not be done, 130 interrupted.
"""

from __future__ import annotations

import io
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn, cast

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from typer.models import OptionInfo

from models.interruption import ENDINGS
from plugin_bridge.parameters import PARAMETERS

# The modules behind the commands are imported where they are used: `--help` answers at once.
if TYPE_CHECKING:
    from typing_extensions import Buffer

    from dsp.f0 import Method
    from models.pack import Size, VoiceCard
    from plugin_bridge.convert import Conversion, Settings
    from plugin_bridge.files import Job
    from plugin_bridge.render import Progress as SongProgress
    from plugin_bridge.render import Rendering
    from plugin_bridge.separation import Stem
    from plugin_bridge.songs import SongJobs

DEFAULT_VOICE = str(PARAMETERS["voice"].default)
FAILED = 2
INTERRUPTED = 130

# What the summary and the page tell of each conversion.
FIGURES = ("Length", "Transposed", "x real time", "Peak")
WIDE = 200  # columns, where a table goes to a file or a program: no line is broken for a screen that is not there

# How an LLVC voice is exported.
Device = Annotated[str | None, typer.Option(help="Where to train: cpu, or cuda, a GPU; by default a GPU if there is one.")]
ChunkFactor = Annotated[int, typer.Option(min=1, max=16, help="Chunks a step: more are faster, and later.")]
Int8 = Annotated[bool, typer.Option("--int8", help="Integer weights: faster, smaller, and a little less exact.")]

app = typer.Typer(
    name="plugin-bridge",
    help="Neural voice and singing conversion, where an audio effect sits.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line of this process."""
    _open_streams()
    # A conversion that is terminated, or whose terminal is closed, tidies up like an interrupted one.
    for number in ENDINGS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _terminate)
    output, encoding = _Output(), sys.stdout.encoding
    # What a terminal takes, Python alone knows on some systems; and whoever calls this may have put something of theirs there.
    if not sys.stdout.isatty() and sys.stdout is sys.__stdout__:
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(output), encoding=encoding)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may be anything, terminals may not
    try:
        app()
    except SystemExit as end:
        sys.stdout.flush()
        # A reader that has seen enough, as `head` has, is no failure.
        if output.lost is not None and not isinstance(output.lost, BrokenPipeError):
            _say(f"standard output cannot be written: {output.lost.strerror}")
            sys.exit(end.code or FAILED)
        raise


class _Output(io.FileIO):
    """Standard output to a file or a program: neither a full disk nor a reader that is gone ends the work half-way."""

    def __init__(self) -> None:
        super().__init__(1, "w", closefd=False)
        self.lost: OSError | None = None

    def write(self, data: Buffer) -> int:
        """All of `data`, unless something could not be written before."""
        if self.lost is None:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = error
        return memoryview(data).nbytes


def _open_streams() -> None:
    """Nowhere, for standard streams that are closed, as those of a service may be: what is written there goes to nobody.

    Else the next file that is opened has their number, and gets what a library has to say.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    # A terminal that is closed tells its programs, and so does its shell: another one would break off the tidying up.
    for other in ENDINGS:
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


def _number(name: str) -> OptionInfo:
    parameter = PARAMETERS[name]
    limits = f"{parameter.minimum:g} to {parameter.maximum:g} {parameter.unit}".rstrip()
    return cast("OptionInfo", typer.Option(help=f"{parameter.description} {limits}."))


@app.command()
def voices(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="Show these voices' cards instead.")] = None,
) -> None:
    """List the voices at hand, with their range and licence; or all that the cards of some of them say."""
    from plugin_bridge.voices import broken_packs, find_voice
    from plugin_bridge.voices import voices as voice_names

    if names:
        try:
            cards = [find_voice(name).card for name in names]
        except ValueError as error:
            _fail(str(error))
        for card in cards:
            _print_card(card)
        return
    table = _table("Voice", "Name", "Language", "Kind", "Range", "Licence")
    for name in voice_names():
        card = find_voice(name).card
        low, high = card.f0_range_hz
        table.add_row(name, card.display_name, card.language, card.kind, f"{low:.0f}-{high:.0f} Hz", card.licence)
    _print_table(table)
    for problem in broken_packs():
        _say(f"left out: {problem}")


@app.command()
def presets() -> None:
    """List the presets at hand: voice, settings and effects under a name."""
    from plugin_bridge.preset import PresetError, broken_presets, find_preset
    from plugin_bridge.preset import presets as preset_names
    from plugin_bridge.preset import user_folder as preset_folder

    table = _table("Preset", "Title", "Voice", "Settings", "Chain")
    for name in preset_names():
        try:
            preset = find_preset(name)
        except PresetError:
            continue  # gone between two looks
        voice = "as it is" if preset.voice is None else _voice_text(preset.voice)
        settings = ", ".join(f"{key} {value:g}" for key, value in preset.parameters.items())
        chain = " > ".join(effect.plugin for effect in preset.chain)
        table.add_row(name, Text(preset.title), voice, settings, chain)
    _print_table(table)
    for problem in broken_presets():
        _say(f"left out: {problem}")
    print(f"Your own go into {preset_folder()}")


@app.command()
def convert(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="IN... OUT", readable=False, help="Recordings or whole folders, and the file or folder to write."),
    ],
    voice: Annotated[
        str, typer.Option(help="A voice's name, the path of a .voice file, or a mixture such as pjs=0.7,kerstin=0.3.")
    ] = DEFAULT_VOICE,
    pitch: Annotated[float, _number("pitch_shift")] = 0.0,
    formant: Annotated[float, _number("formant_shift")] = 0.0,
    mix: Annotated[float, _number("mix")] = 1.0,
    gain: Annotated[float, _number("gain_db")] = 0.0,
    gate: Annotated[float, _number("gate_db")] = -90.0,
    transpose: Annotated[
        str,
        typer.Option(
            metavar="auto|N",
            help="Semitones on top of --pitch; auto moves each recording into the voice's range, by octaves if it can.",
        ),
    ] = "0",
    automation: Annotated[
        Path | None,
        typer.Option(help="Gestures in time: TAKE.json of live --record, or .csv lines of seconds, OSC address, value."),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="stream, the real-time engine; or song, which sounds best: see render, which has more options.")
    ] = "stream",
    report: Annotated[
        Path | None, typer.Option(metavar="PAGE.html", help="Write a page with spectrograms, pitch and players, before and after.")
    ] = None,
) -> None:
    """Convert recordings to a voice, with the rate, channels and length they have.

    One recording goes to a file, whose suffix gives the format (wav, flac, aiff, ogg, mp3); several, or a folder, go to
    a folder, in the same tree.
    """
    if len(paths) < 2:
        _fail("convert needs at least one recording and, last, the file or folder to write")
    _check_engine(engine)
    if report is not None and report.suffix.lower() not in (".html", ".htm"):
        _fail(f"the report is a page, so its name must end in .html, not {report.name!r}")
    from plugin_bridge.convert import Settings
    from plugin_bridge.files import plan
    from plugin_bridge.timeline import read_timeline
    from plugin_bridge.voices import parse_voice

    try:
        settings = Settings(
            voice=parse_voice(voice),
            pitch_shift=pitch,
            formant_shift=formant,
            mix=mix,
            gain_db=gain,
            gate_db=gate,
            transpose="auto" if transpose == "auto" else _parse_number("--transpose", transpose),
            automation=None if automation is None else read_timeline(automation),
            engine=cast("Literal['stream', 'song']", engine),
        )
        # A value out of range, an unknown voice or a broken pack is told once, not for each recording.
        settings.check()
        jobs, problems = plan(paths[:-1], paths[-1], read=[*_files_of(automation), *_pack_files(voice)], written=_files_of(report))
    except (ValueError, OSError) as error:
        _fail(str(error))
    for problem in problems:
        _say(problem)
    done: list[Conversion] = []
    failures, interrupted = 0, False
    try:
        failures = _convert_all(jobs, settings, done)
    except KeyboardInterrupt:
        interrupted = True
    if done:
        _print_summary(done)
        if report is not None and not interrupted:
            _write_report(report, done, _voice_text(settings.voice), settings.pitch_shift)
    _finish(f"{len(done)} of {len(jobs)} recordings are done, the one under way was left out", interrupted, failures or problems)


@app.command()
def render(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="IN... OUT", readable=False, help="Vocal stems or whole folders, and the file or folder to write."),
    ],
    voice: Annotated[str, typer.Option(help="As for convert; its pack needs a song engine.")] = DEFAULT_VOICE,
    pitch: Annotated[float, _number("pitch_shift")] = 0.0,
    formant: Annotated[float, _number("formant_shift")] = 0.0,
    transpose: Annotated[str, typer.Option(metavar="auto|N", help="As for convert.")] = "0",
    size: Annotated[str, typer.Option(help="Of the song engine: lhq, or mobile, which is faster.")] = "lhq",
    steps: Annotated[int, typer.Option(min=1, max=64, help="Of the diffusion: more take longer, and bring little.")] = 1,
    threads: Annotated[int, typer.Option(min=1, max=256, help="CPU threads; the result is the same.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise: the same seed gives the same bytes.")] = 0,
    method: Annotated[str, typer.Option(help="That tracks the pitch: swift (network), dio (fast) or harvest (slow).")] = "swift",
    encoder: Annotated[
        Path | None, typer.Option(help="The content encoder of a voice that was trained with one of yours: .onnx, or a folder.")
    ] = None,
    f0: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Pitch of the source (time_s, hz, voiced), in place of what is tracked.")
    ] = None,
    f0_out: Annotated[Path | None, typer.Option(metavar="CSV", help="Write the pitch of the source, to look at or edit.")] = None,
    instrumental: Annotated[Path | None, typer.Option(help="The accompaniment: OUT is the mix, at the balance it had.")] = None,
    separate: Annotated[
        Path | None,
        typer.Option(metavar="MODEL.onnx", help="IN are mixes: part them with this MDX-Net model, render the vocal, mix again."),
    ] = None,
    separate_fft: Annotated[int | None, typer.Option(help="Length of that model's transform, if it is none of UVR's.")] = None,
    separate_stem: Annotated[
        str | None, typer.Option(help="What that model gives, likewise: vocals or accompaniment; by default what its name says.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave out what was rendered before, of the same file with the same settings.")
    ] = False,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write what became of each recording, and each stage's time.")
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="PAGE.html", help="As for convert.")] = None,
) -> None:
    """Convert whole vocals with the song engine, which takes its time and sounds best.

    A stem keeps its rate, channels and length. Several, or a folder, go to a folder, as for convert.
    """
    if len(paths) < 2:
        _fail("render needs at least one recording and, last, the file or folder to write")
    if report is not None and report.suffix.lower() not in (".html", ".htm"):
        _fail(f"the report is a page, so its name must end in .html, not {report.name!r}")
    if method not in ("dio", "harvest", "swift"):
        _fail(f"the method must be dio, harvest or swift, not {method!r}")
    _check_size(size)
    if separate_stem not in (None, "vocals", "accompaniment"):
        _fail(f"what the model gives must be vocals or accompaniment, not {separate_stem!r}")
    if separate is None and (separate_fft is not None or separate_stem is not None):
        _fail("--separate-fft and --separate-stem are about the model of --separate, which was not given")
    if separate is not None and instrumental is not None:
        _fail("--separate finds the accompaniment in the mix itself, so --instrumental has no place beside it")
    from plugin_bridge.files import plan
    from plugin_bridge.render import SongRenderer, Wishes
    from plugin_bridge.separation import Separator
    from plugin_bridge.songs import SongJobs
    from plugin_bridge.voices import parse_voice

    try:
        wishes = Wishes(pitch, formant, "auto" if transpose == "auto" else _parse_number("--transpose", transpose), f0)
        read = [*_files_of(f0, instrumental, separate, encoder), *_pack_files(voice)]
        jobs, problems = plan(paths[:-1], paths[-1], read=read, written=_files_of(f0_out, json_out, report))
        single = [name for name, path in (("--f0", f0), ("--f0-out", f0_out), ("--instrumental", instrumental)) if path is not None]
        if single and len(jobs) > 1:
            _fail(f"{single[0]} is of one recording, but there are {len(jobs)}")
        renderer = SongRenderer(
            parse_voice(voice),
            threads=threads,
            size=cast("Size", size),
            steps=steps,
            seed=seed,
            method=cast("Method", method),
            encoder=encoder,
        )
        separator = None if separate is None else Separator(separate, separate_fft, cast("Stem | None", separate_stem))
    except (ValueError, OSError) as error:
        _fail(str(error))
    for problem in problems:
        _say(problem)
    songs = SongJobs(renderer, wishes, separator, f0_out, instrumental)
    before = {job: found for job in jobs if resume and (found := songs.done_before(job)) is not None}
    todo = [job for job in jobs if job not in before]
    if before:
        _say(f"{len(before)} of {len(jobs)} recordings were done before")
    done: list[Rendering] = []
    failures, interrupted = 0, False
    try:
        failures = _render_all(todo, songs, done)
    except KeyboardInterrupt:
        interrupted = True
    made = {one.target: one for one in (*before.values(), *done)}
    there = [made[job.target] for job in jobs if job.target in made]
    if there:
        _print_summary(there)
        _print_stages(there)
        if not interrupted:
            if json_out is not None:
                _write_json(json_out, songs.described(there))
            if report is not None:
                _write_report(report, there, voice, pitch)
    left = f"{len(done)} of {len(todo)} recordings are done, the one under way was left out; --resume goes on"
    _finish(left, interrupted, failures or problems)


@app.command()
def live(
    voice: Annotated[str | None, typer.Option(help="As for convert; by default the preset's, or pjs.")] = None,
    preset: Annotated[str | None, typer.Option(help="A preset's name, or the path of a .json file.")] = None,
    pitch: Annotated[float | None, _number("pitch_shift")] = None,
    formant: Annotated[float | None, _number("formant_shift")] = None,
    mix: Annotated[float | None, _number("mix")] = None,
    gain: Annotated[float | None, _number("gain_db")] = None,
    gate: Annotated[float | None, _number("gate_db")] = None,
    input_device: Annotated[str | None, typer.Option("--input", help="Input device: its number, or part of its name.")] = None,
    output_device: Annotated[str | None, typer.Option("--output", help="Output device, likewise.")] = None,
    channel: Annotated[int, typer.Option(min=1, max=256, help="Input channel, from 1.")] = 1,
    rate: Annotated[float | None, typer.Option(help="Sample rate in Hz; by default the device's.")] = None,
    block: Annotated[int, typer.Option(min=0, max=8192, help="Samples in a block; 0 leaves it to the device.")] = 256,
    monitor: Annotated[float, typer.Option(help="0 to 1: how much of the source is heard at once.")] = 0.0,
    record: Annotated[Path | None, typer.Option(metavar="TAKE.wav", help="Also writes TAKE.dry.wav and TAKE.json.")] = None,
    midi: Annotated[
        str | None, typer.Option(metavar="PORT", help="MIDI port: its number, part of its name, or virtual for one to connect to.")
    ] = None,
    midi_learn: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS[=VALUE|=LOW..HIGH]",
            help="Bind what is touched next to an OSC address, such as /vc/pitch=-12..12 or /vc/voice=pjs. May be repeated.",
        ),
    ] = None,
    midi_ports: Annotated[bool, typer.Option("--midi-list", help="List the MIDI ports and what is bound, and stop.")] = False,
    osc_port: Annotated[int, typer.Option(min=0, max=65535, help="Port for OSC; 0 for none.")] = 9000,
    osc_host: Annotated[
        str, typer.Option(help="Interface for OSC. 0.0.0.0 lets everybody in the network steer.")
    ] = "127.0.0.1",
    web: Annotated[bool, typer.Option("--web", help="Serve a page to steer it from, on a phone too.")] = False,
    web_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port of the page, 9080 by default.")] = None,
    web_host: Annotated[
        str | None, typer.Option(help="Interface of the page. 0.0.0.0 opens it to whoever gets its address, with a token in it.")
    ] = None,
    freewheel: Annotated[
        bool, typer.Option("--freewheel", help="For a JACK server that renders: nothing is left out for being late.")
    ] = False,
    show_devices: Annotated[bool, typer.Option("--list", help="List the devices, and stop.")] = False,
) -> None:
    """Convert live, from an input to an output, steered over OSC and from a page. Ctrl-C ends it."""
    from plugin_bridge.live import Device, ServerLostError, list_devices
    from plugin_bridge.performance import Performance
    from plugin_bridge.voices import parse_voice

    try:
        if midi_ports:
            _print_midi()
            return
        if show_devices:
            print(list_devices())
            return
        page = (web_host or "127.0.0.1", 9080 if web_port is None else web_port)
        given = {"pitch_shift": pitch, "formant_shift": formant, "mix": mix, "gain_db": gain, "gate_db": gate}
        performance = Performance(
            Device(_device(input_device), _device(output_device), channel, rate, block),
            voice=None if voice is None else parse_voice(voice),
            preset=preset,
            numbers={name: value for name, value in given.items() if value is not None},
            monitor=monitor,
            record=record,
            midi=midi,
            lessons=midi_learn or (),
            osc=None if osc_port == 0 else (osc_host, osc_port),
            web=page if web or web_port is not None or web_host is not None else None,
            freewheel=freewheel,
            tell=_say,
        )
    except (ValueError, TypeError, OSError) as error:
        _fail(str(error))
    try:
        performance.run()
    except KeyboardInterrupt:
        # From here to the end of the process: another Ctrl-C would disturb the closing of the recording and of the device.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _say("stopped")
    except ServerLostError:
        performance.restart_process()
    except ValueError as error:
        _fail(str(error))
    finally:
        performance.close()


def _print_midi() -> None:
    from plugin_bridge.midi import list_ports
    from plugin_bridge.midi_map import read_map, user_file

    for number, name in enumerate(list_ports()):
        print(f"{number} {name}")
    for binding in read_map(user_file()).bindings:
        print(binding)
    print(f"What is bound is kept in {user_file()}")


def _device(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


@app.command()
def demo(
    voices: Annotated[list[str] | None, typer.Argument(help="Voices to hear; all by default.")] = None,
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("demo_out"),
) -> None:
    """Convert the bundled sung phrase to every voice, and make a page to look at and listen to."""
    from plugin_bridge.demo import HEADS, DemoResult, describe, run_demo
    from plugin_bridge.voices import find_voice
    from plugin_bridge.voices import voices as voice_names

    names = voices or [name for name in voice_names() if find_voice(name).pack.streams]
    if not names:
        _fail("there are no voices at all; `plugin-bridge doctor` says more")
    results: list[DemoResult] = []
    try:
        with _progress(MofNCompleteColumn()) as progress:
            task = progress.add_task("Converting the demo phrase", total=len(names))

            def done(result: DemoResult) -> None:
                results.append(result)
                progress.advance(task)

            page = run_demo(out, names, done)
    except (ValueError, OSError) as error:
        _fail(str(error))
    table = _table(*HEADS, "Audio")
    for result in results:
        table.add_row(*describe(result), Text(str(result.path)))
    _print_table(table)
    print(page.resolve())


@app.command()
def bench(
    context: typer.Context,
    voice: Annotated[str, typer.Option(help="The voice to measure.")] = DEFAULT_VOICE,
    seconds: Annotated[float, typer.Option(min=1.0, max=3600.0, help="Audio for each measurement.")] = 20.0,
    out: Annotated[
        Path | None, typer.Option(help="The JSON file to write; by default bench.json, bench-engines.json or bench-song.json.")
    ] = None,
    engines: Annotated[
        bool, typer.Option("--engines", help="Instead, LLVC's variants: size, latency, speed beside the authors' loop, quality.")
    ] = False,
    song: Annotated[
        float | None,
        typer.Option(min=10.0, max=36_000.0, metavar="SECONDS", help="Instead, the song engine, file to file, on so long a song."),
    ] = None,
    size: Annotated[str, typer.Option(help="Of the song engine.")] = "lhq",
) -> None:
    """Measure speed, step times, latency and memory on this machine."""
    if song is None:
        _refuse(context, ("size",), "is of the song engine: add --song SECONDS")
    else:
        _refuse(context, ("engines",), "has no place beside --song, which measures the song engine instead")
        _refuse(context, ("seconds",), "has no place beside --song, which says how long the song is")
    if engines:
        _refuse(context, ("voice",), "has no place beside --engines, which measures LLVC's variants")
    _check_size(size)
    out = out or Path("bench-song.json" if song is not None else "bench-engines.json" if engines else "bench.json")
    _check_place(out)
    if song is not None:
        _bench_song(voice, size, song, out)
        return
    from plugin_bridge.bench import measure

    if engines:
        _bench_engines(seconds, out)
        return
    try:
        figures = measure(voice, seconds)
    except (ValueError, OSError) as error:
        _fail(str(error))
    graph, step = figures["graph"], figures["graph"]["step_ms"]
    table = _table("What", "Value", title=f"{voice}, on one thread")
    table.add_row("Speed", f"{graph['times_real_time']:.1f} x real time")
    table.add_row("Load", f"{100 * graph['cpu_seconds_per_second']:.1f} % of a thread while live")
    table.add_row("Chunk", f"{graph['chunk']} samples ({graph['chunk_ms']:.2f} ms) at {graph['sample_rate']} Hz")
    for name, value in step.items():
        table.add_row(f"Step {name}", f"{value:.3f} ms ({100 * value / graph['chunk_ms']:.0f} % of a chunk)")
    for name, mib in figures["memory_mib"].items():
        table.add_row(f"Memory {name}", "not known here" if mib is None else f"{mib:.0f} MiB")
    for speed in figures["conversion"]:
        table.add_row(f"Conversion at {speed['sample_rate']} Hz", f"{speed['times_real_time']:.1f} x real time")
    _print_table(table)
    rates = sorted({row["sample_rate"] for row in figures["latency"]})
    latency = _table("Block", *(f"{rate} Hz" for rate in rates), title="Reported latency in samples")
    blocks = dict.fromkeys(row["block"] for row in figures["latency"])
    for block in blocks:
        cells = [
            f"{row['latency_samples']} ({row['latency_ms']:.1f} ms)"
            for rate in rates
            for row in figures["latency"]
            if row["sample_rate"] == rate and row["block"] == block
        ]
        latency.add_row("varying" if block is None else str(block), *cells)
    _print_table(latency)
    _write_json(out, figures)


def _bench_engines(seconds: float, out: Path) -> None:
    from plugin_bridge.doctor import train_remedy
    from plugin_bridge.engines import COLUMNS, measure_engines

    try:
        with _progress(MofNCompleteColumn()) as progress:
            task = progress.add_task("Measuring LLVC", total=None)
            figures = measure_engines(seconds, lambda _: progress.advance(task))
    except ImportError as error:
        _fail(f"the reference needs {error.name or 'torch'}, which is not there; {train_remedy()}")
    except (ValueError, OSError) as error:
        _fail(str(error))
    table = _table(*COLUMNS, title="LLVC on one thread, times real time; in brackets, times the reference")
    for row in figures:
        table.add_row(*row.row())
    _print_table(table)
    _write_json(out, [asdict(row) for row in figures])


@app.command("evaluate")
def evaluate_voice(
    context: typer.Context,
    voice: Annotated[str, typer.Argument(help="As for convert: a name, a .voice file, or a mixture.")],
    folder: Annotated[
        Path | None, typer.Argument(help="A folder with recordings to convert; without one, a synthetic singer is converted.")
    ] = None,
    refs: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Recordings of the voice itself, best ones it was not trained on.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder to write to; by default evaluation/VOICE, or singing in there.")
    ] = None,
    transpose: Annotated[
        str, typer.Option(metavar="auto|N", help="Semitones; auto moves each recording into the voice's range.")
    ] = "auto",
    dnsmos: Annotated[Path | None, typer.Option(metavar="sig_bak_ovr.onnx", help="The DNSMOS model of the DNS challenge.")] = None,
    words: Annotated[bool, typer.Option("--words", help="Count misheard phones and letters too, and WORLD's.")] = False,
    rooms: Annotated[bool, typer.Option("--rooms", help="With --refs: likeness under noise and in a room, too.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many recordings, spread over the folder.")] = None,
    engine: Annotated[str, typer.Option(help="stream, or song.")] = "stream",
    size: Annotated[str, typer.Option(help="Of the song engine: lhq, or mobile.")] = "lhq",
    steps: Annotated[int, typer.Option(min=1, max=64, help="Of the song engine's diffusion.")] = 1,
    song_table: Annotated[
        bool,
        typer.Option("--song-table", help="With --refs: both sizes of the song engine at 1, 2, 4 and 16 steps, speed included."),
    ] = False,
) -> None:
    """Convert recordings and measure what became of them: likeness, quality, pitch, time, dynamics.

    Without a folder, measure what becomes of a synthetic singer: vibrato, glides, steady tones, creaking, levels, pauses.
    """
    _check_engine(engine)
    _check_size(size)
    if folder is None:
        of_recordings = ("refs", "transpose", "dnsmos", "words", "rooms", "limit", "song_table")
        _refuse(context, of_recordings, "is for recordings, and without a folder a synthetic singer is converted: name the folder")
    if song_table:
        _refuse(context, ("size", "steps"), "has no place beside --song-table, which measures them all")
        _refuse(context, ("words", "rooms"), "is not in the table of --song-table: ask for it without")
        if engine != "song":
            _refuse(context, ("engine",), f"{engine} has no place beside --song-table, which measures the song engine")
    elif engine != "song":
        _refuse(context, ("size", "steps"), "is of the song engine: add --engine song")
    if rooms and refs is None:
        _fail("--rooms needs --refs, the recordings of the voice that likeness in a room is held against")
    if out is None:  # none overwrites another
        name = Path(voice).stem if voice.endswith(".voice") else voice
        out = Path("evaluation", f"{name}-song" if song_table or engine == "song" else name)
        out = out / "singing" if folder is None else out
    from plugin_bridge.convert import Settings
    from plugin_bridge.doctor import evaluate_remedy
    from plugin_bridge.evaluate import DYNAMICS, LIKENESS, PAGE, PITCH, WORDS, evaluate
    from plugin_bridge.evaluate import FIGURES as MEASURED
    from plugin_bridge.voices import parse_voice

    try:
        settings = Settings(
            parse_voice(voice),
            engine=cast("Literal['stream', 'song']", engine),
            size=cast("Size", size),
            steps=steps,
        )
        if folder is None:
            _evaluate_singing(settings, out)
            return
        settings = replace(settings, transpose="auto" if transpose == "auto" else _parse_number("--transpose", transpose))
        if song_table:
            _song_table(settings, folder, out, refs, dnsmos, limit)
            return
        with _progress(MofNCompleteColumn(), TimeRemainingColumn(elapsed_when_finished=True)) as progress:
            task = progress.add_task("Evaluating", total=None)
            evaluation = evaluate(
                settings,
                folder,
                out,
                refs=refs,
                dnsmos=dnsmos,
                words=words,
                rooms=rooms,
                limit=limit,
                advance=lambda done, of: progress.update(task, completed=done, total=of),
            )
    except KeyboardInterrupt:
        there = out.is_dir()
        _say(f"interrupted: what was converted so far is in {out}" if there else "interrupted, before anything was converted")
        raise typer.Exit(INTERRUPTED) from None
    except ImportError as error:
        _fail(f"evaluating needs {error.name}, which is not there; {evaluate_remedy()}")
    except (ValueError, OSError) as error:
        _fail(str(error))
    tables = ((LIKENESS, "Likeness and quality"), (PITCH, "Pitch and time"), (DYNAMICS, "Dynamics"), (WORDS, "Words"))
    for columns, title in tables:
        heads, *rows = evaluation.table(columns)
        if len(heads) == 1 and columns is not LIKENESS:
            continue  # nothing but names, which stand above
        table = _table(*heads, title=title)
        for column, head in zip(table.columns[1:], heads[1:], strict=True):
            column.header, column.no_wrap = head.replace(" ", "\n"), True  # where it is narrow, names are folded, no numbers
        for label, *cells in rows:
            table.add_row(Text(label), *cells)
        _print_table(table)
    if evaluation.nearer_text:
        print(evaluation.nearer_text)
    for path in (out / MEASURED, out / PAGE):
        print(path.resolve())
    for problem in evaluation.problems:
        _say(problem)
    if evaluation.problems:
        raise typer.Exit(FAILED)


def _song_table(
    settings: Settings, folder: Path, out: Path, refs: Path | None, dnsmos: Path | None, limit: int | None
) -> None:
    from plugin_bridge.song_table import COLUMNS, STEPS, measure_songs

    if refs is None:
        _fail("--song-table needs --refs, the recordings that are copied and compared with")
    with _progress(MofNCompleteColumn()) as progress:
        task = progress.add_task("Measuring the song engine", total=2 * len(STEPS))
        rows, problems = measure_songs(
            settings, folder, out, refs, dnsmos=dnsmos, limit=limit, done=lambda _: progress.advance(task)
        )
    table = _table(*COLUMNS, title=f"{_voice_text(settings.voice)}, the song engine on two threads")
    for row in rows:
        table.add_row(*row.row())
    _print_table(table)
    _write_json(out / "songs.json", [row.as_json() for row in rows])
    for problem in problems:
        _say(problem)
    if problems:
        raise typer.Exit(FAILED)


def _evaluate_singing(settings: Settings, out: Path) -> None:
    from plugin_bridge.evaluate import FIGURES as MEASURED
    from plugin_bridge.evaluate import PAGE
    from plugin_bridge.singing import COLUMNS, evaluate_singing

    try:
        with _progress(MofNCompleteColumn(), TimeRemainingColumn(elapsed_when_finished=True)) as progress:
            task = progress.add_task("Evaluating", total=None)
            findings = evaluate_singing(settings, out, advance=lambda done, of: progress.update(task, completed=done, total=of))
    except KeyboardInterrupt:
        _say("interrupted, before there were figures")
        raise typer.Exit(INTERRUPTED) from None
    table = _table(*COLUMNS, title=f"{_voice_text(settings.voice)}, {settings.engine} engine, on a synthetic singer")
    for finding in findings:
        table.add_row(*finding.row())
    _print_table(table)
    for path in (out / MEASURED, out / PAGE):
        print(path.resolve())


@app.command()
def doctor() -> None:
    """Say what this installation has, what is missing, and what to do about it."""
    from plugin_bridge.doctor import examine

    healthy = True
    table = _table("State", "What", "Found")
    signs = {"ok": "[green]ok[/]", "optional": "[yellow]--[/]", "missing": "[red]MISSING[/]"}
    for finding in examine():
        healthy &= finding.state != "missing"
        table.add_row(signs[finding.state], finding.what, Text(finding.detail, overflow="fold"))
    _print_table(table)
    print("All that converting needs is there." if healthy else "Something that converting needs is missing.")
    raise typer.Exit(0 if healthy else 1)


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="The new voice's name: letters, digits, - and _.")],
    folder: Annotated[Path, typer.Argument(help="A folder with recordings of that one voice, dry and alone.")],
    out: Annotated[Path | None, typer.Option(help="The voice pack to write; by default where every command finds it.")] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="The folder that holds the unfinished training; by default in the user's cache."),
    ] = None,
    device: Device = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; by default what the recipe says.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Stop after so many minutes at the latest.")] = None,
    threads: Annotated[int, typer.Option(min=1, max=256, help="CPU threads.")] = 2,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier training of this name stopped.")] = False,
) -> None:
    """Train a voice on your own recordings, for the stream engine. Ctrl-C stops it; --resume goes on."""
    from models.pack import VoicePack, add_quality
    from plugin_bridge.doctor import train_remedy

    target, work = _training_places(name, folder, out, work, resume, "training")
    try:
        from models.device import pick_device
        from models.source_filter.adapt import train_voice
        from models.source_filter.data import Recordings
        from models.source_filter.train import TrainingProgress
        from plugin_bridge.held_out import judge_held_out
    except ImportError as error:
        _fail(f"training needs {error.name or 'torch'}, which is not there; {train_remedy()}")

    try:
        with _training(name, steps) as (show, tell):

            def report(now: TrainingProgress) -> None:
                losses = f"loss {now.loss:.3f}, held out {now.held_out_loss:.3f}"
                show(now.step, now.steps, losses, now.seconds_left)

            chosen = pick_device(device)  # before anything is written
            pack = train_voice(
                name, folder, work, steps=steps, minutes=minutes, threads=threads, device=chosen, tell=tell, progress=report
            )
            figures = judge_held_out(pack, Recordings(work / "packed"))
            add_quality(VoicePack.open(pack), figures.quality())
            _place_pack(pack, target)
    except KeyboardInterrupt:
        _end_interrupted(work)
    except (ValueError, OSError) as error:
        _fail(str(error))
    print(f"Recordings that were not trained on, {_duration(figures.seconds)} of them, converted: {figures}")
    print(target.resolve())


@app.command("train-song")
def train_song(
    name: Annotated[str, typer.Argument(help="The voice's name, new or one that train has made: letters, digits, - and _.")],
    folder: Annotated[Path, typer.Argument(help="A folder with recordings of that one voice, dry and alone.")],
    out: Annotated[
        Path | None, typer.Option(help="The voice pack to write, or to add songs to; by default where every command finds it.")
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="The folder that holds the unfinished training; by default in the user's cache."),
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(help="A content encoder of yours in place of ours: ContentVec or HuBERT, .onnx or Hugging Face folder."),
    ] = None,
    device: Device = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the denoiser's training; by default the recipe's.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Train for so many minutes at most, besides reading the recordings.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=256, help="CPU threads.")] = 2,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier training of this name stopped.")] = False,
) -> None:
    """Train the song engine of a voice on your own recordings, for render. Ctrl-C stops it; --resume goes on."""
    from plugin_bridge.doctor import train_remedy

    target, work = _training_places(name, folder, out, work, resume, "training-songs")
    try:
        from models.device import pick_device
        from models.lhq.adapt import SongTraining, train_voice
    except ImportError as error:
        _fail(f"training needs {error.name or 'torch'}, which is not there; {train_remedy()}")
    try:
        with _training(name, steps) as (show, tell):

            def report(now: SongTraining) -> None:
                losses = "" if now.stage == "packing" else f", loss {now.loss:.3f}, held out {now.held_out:.3f}"
                show(now.step, now.steps, now.stage + losses, now.seconds_left)

            chosen = pick_device(device)  # before anything is written
            pack = train_voice(
                name,
                folder,
                work,
                encoder=encoder,
                steps=steps,
                minutes=minutes,
                threads=threads,
                device=chosen,
                tell=tell,
                progress=report,
            )
            card = _place_pack(pack, target)
    except KeyboardInterrupt:
        _end_interrupted(work)
    except (ValueError, OSError) as error:
        _fail(str(error))
    before, after = card.quality["song_held_out_db_before"], card.quality["song_held_out_db"]
    print(f"Recordings that were not trained on: {after:.2f} dB from their spectrograms, {before:.2f} before")
    print(target.resolve())


def _new_pack(name: str, out: Path | None) -> Path:
    """Where the pack of a new voice goes; a name or a place that does not do ends the command before anything is made."""
    from plugin_bridge.voices import check_new_name, user_folder

    try:
        check_new_name(name)
    except ValueError as error:
        _fail(str(error))
    target = out or user_folder() / f"{name}.voice"
    if target.suffix != ".voice":
        _fail(f"a voice pack's name must end in .voice, not {target.name!r}")
    _check_place(target, "voice pack")
    return target


def _check_place(target: Path, what: str = "file") -> None:
    """Fail before the work if what comes of it could not be written there."""
    if target.is_dir():
        _fail(f"{target} is a folder, so no {what} can take its place")
    above = next(folder for folder in target.absolute().parents if folder.exists())
    if not above.is_dir():
        _fail(f"{target} cannot be written, as {above} is no folder")


def _check_folder(folder: Path, what: str) -> None:
    """Fail before the work if there can be no folder for it."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        _fail(f"{folder} is to be the folder for {what}, but {there} is a file")


def _training_places(
    name: str, folder: Path, out: Path | None, work: Path | None, resume: bool, cache: str
) -> tuple[Path, Path]:
    """Where the pack and the unfinished training of a voice lie; `cache` is the folder for the latter in the user's own."""
    import platformdirs

    target = _new_pack(name, out)
    if not folder.is_dir():
        _fail(f"{folder} is not a folder with recordings")
    work = work or Path(platformdirs.user_cache_dir("plugin_bridge", appauthor=False)) / cache / name
    _check_folder(work, "the training")
    started = _begun(work)
    if started and not resume:
        _fail(f"{work} holds a training that was begun; give --resume to go on with it, or another --work")
    if resume and not started:
        _fail(f"{work} holds no training to go on with")
    return target, work


def _begun(work: Path) -> bool:
    """Whether the folder of a training holds anything of one."""
    return work.is_dir() and any(work.iterdir())


def _end_interrupted(work: Path) -> NoReturn:
    """End a training that Ctrl-C stopped; what it has learned is in its folder."""
    if _begun(work):
        _say("interrupted: the same command with --resume goes on")
    else:
        _say("interrupted, before there was anything to go on with")
    raise typer.Exit(INTERRUPTED)


def _place_pack(made: Path, target: Path) -> VoiceCard:
    """Put a pack that was trained at its place, with the engine for which it was not trained if it was there; its card."""
    from models.pack import VoicePack, complete_pack
    from plugin_bridge.files import replacing

    complete_pack(VoicePack.open(made), target, made)
    with replacing(target) as file:
        file.write(made.read_bytes())
    return VoicePack.open(target).manifest.voices[0]


@app.command("make-pairs")
def make_pairs(
    voice: Annotated[str, typer.Argument(help="The voice to learn from: a name, or the path of a .voice file.")],
    folder: Annotated[Path, typer.Argument(help="A folder with recordings of many speakers.")],
    out: Annotated[Path, typer.Argument(help="The folder for the pairs; what is finished there already stays.")],
    rate: Annotated[int, typer.Option(min=8_000, max=192_000, help="Of the pairs, in Hz; 48000 for llvc-48k.")] = 16_000,
    transpose: Annotated[
        str, typer.Option(metavar="auto|N", help="Semitones; auto moves each recording into the voice's range.")
    ] = "auto",
    workers: Annotated[int, typer.Option(min=1, max=256, help="Recordings at a time, one CPU core each.")] = 1,
) -> None:
    """Convert recordings into pairs for train-llvc: clips of a few seconds, before and after."""
    from plugin_bridge import pairs
    from plugin_bridge.doctor import train_remedy

    _check_folder(out, "the pairs")
    if find_spec("soxr") is None:
        _fail(f"making pairs needs soxr, which is not there; {train_remedy()}")
    clips = failures = 0
    try:
        semitones = None if transpose == "auto" else _parse_number("--transpose", transpose)
        with _progress(MofNCompleteColumn(), TimeRemainingColumn(elapsed_when_finished=True)) as progress:
            task = progress.add_task("Making pairs", total=len(pairs.plan_pairs(folder, out)))
            for _, made, problem in pairs.make_pairs(voice, folder, out, sample_rate=rate, transpose=semitones, workers=workers):
                clips += made
                failures += problem is not None
                if problem:
                    _say(problem, progress.console)
                progress.advance(task)
    except KeyboardInterrupt:
        _say("interrupted: the same command goes on where it stopped")
        raise typer.Exit(INTERRUPTED) from None
    except (ValueError, OSError) as error:
        _fail(str(error))
    print(f"{clips} pairs in {out.resolve()}")
    if failures:
        raise typer.Exit(FAILED)


@app.command("train-llvc")
def train_llvc(
    name: Annotated[str, typer.Argument(help="The new voice's name: letters, digits, - and _.")],
    folder: Annotated[Path, typer.Argument(help="A folder with pairs, as make-pairs makes them.")],
    work: Annotated[Path, typer.Argument(help="The folder for the training's checkpoint; one that holds one goes on from it.")],
    also: Annotated[
        list[Path] | None,
        typer.Option(help="Pairs of another voice for the same network, whose voices are then NAME-TEACHER; again for each."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The voice pack to write; by default where every command finds it.")] = None,
    variant: Annotated[str, typer.Option(help="llvc, llvc-nc, llvc-hfg, or llvc-48k for pairs of 48000 Hz.")] = "llvc",
    recipe: Annotated[Path | None, typer.Option(help="A TOML file with a training table; by default the published one.")] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(help="Adds the self-supervised loss: a HuBERT's Hugging Face folder or ONNX file, or a content.pt of lhq's."),
    ] = None,
    start: Annotated[
        Path | None, typer.Option(metavar="G.pth", help="Begin with this checkpoint of the variant, ours or the LLVC project's.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps in all.")] = 500_000,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Stop after so many minutes at the latest.")] = None,
    threads: Annotated[int, typer.Option(min=1, max=256, help="CPU threads.")] = 2,
    device: Device = None,
    chunk_factor: ChunkFactor = 1,
    int8: Int8 = False,
) -> None:
    """Train an LLVC voice on pairs. Ctrl-C stops it; the same command goes on."""
    from plugin_bridge.doctor import train_remedy

    target = _new_pack(name, out)
    _check_folder(work, "the training")
    try:
        from models.device import pick_device
        from models.llvc.bank import train_voice
        from models.llvc.export import ExportOptions
        from models.llvc.network import VARIANTS
        from models.llvc.train import TrainingProgress
    except ImportError as error:
        _fail(f"training needs {error.name or 'torch'}, which is not there; {train_remedy()}")
    if variant not in VARIANTS:
        _fail(f"the variant must be one of {', '.join(VARIANTS)}, not {variant!r}")
    try:
        chosen = pick_device(device)  # before anything is written
        with _training(name, steps) as (show, _):

            def report(now: TrainingProgress) -> None:
                losses = ", ".join(f"{kind} {value:.3f}" for kind, value in now.losses.items())
                show(now.step, steps, f"{losses}, mel held out {now.validation:.3f}", now.seconds_left)

            train_voice(
                name,
                [folder, *(also or [])],
                work,
                target,
                variant=variant,
                recipe=recipe,
                encoder=encoder,
                start=start,
                steps=steps,
                minutes=minutes,
                threads=threads,
                device=chosen,
                options=ExportOptions(chunk_factor, integer=int8),
                progress=report,
            )
    except KeyboardInterrupt:
        _say(f"interrupted: the same command goes on from {work}")
        raise typer.Exit(INTERRUPTED) from None
    except (ImportError, ValueError, OSError) as error:  # a recipe may want the weights of Whisper
        _fail(str(error))
    print(target.resolve())


@app.command("import-llvc")
def import_llvc(
    checkpoint: Annotated[Path, typer.Argument(metavar="G.pth", help="A generator checkpoint of the LLVC project.")],
    config: Annotated[Path, typer.Argument(metavar="config.json", help="The config it was trained with.")],
    name: Annotated[str, typer.Argument(help="The new voice's name: letters, digits, - and _.")],
    out: Annotated[Path | None, typer.Option(help="The voice pack to write; by default where every command finds it.")] = None,
    chunk_factor: ChunkFactor = 1,
    int8: Int8 = False,
    licence: Annotated[str, typer.Option(help="Under which the checkpoint came.")] = "that of the checkpoint",
    credits: Annotated[str, typer.Option(help="Who made it, and whose voice it is.")] = "the checkpoint's authors",
    low: Annotated[float, typer.Option(help="Lowest pitch of the voice, in Hz.")] = 80.0,
    high: Annotated[float, typer.Option(help="Highest pitch of the voice, in Hz.")] = 500.0,
) -> None:
    """Make a voice of a checkpoint of the LLVC project. Only its tensors are read, and each is checked."""
    from plugin_bridge.doctor import train_remedy

    target = _new_pack(name, out)
    try:
        from models.llvc.bank import import_checkpoint
        from models.llvc.export import ExportOptions
    except ImportError as error:
        _fail(f"importing a checkpoint needs {error.name or 'torch'}, which is not there; {train_remedy()}")
    options = ExportOptions(chunk_factor, integer=int8)
    try:
        import_checkpoint(
            checkpoint, config, name, target, options=options, licence=licence, credits=credits, f0_range_hz=(low, high)
        )
    except (ValueError, OSError) as error:
        _fail(str(error))
    print(target.resolve())


def _convert_all(jobs: list[Job], settings: Settings, done: list[Conversion]) -> int:
    """Convert one after the other, with progress; what fails is told and counted, the rest goes on."""
    from plugin_bridge.convert import convert_file
    from plugin_bridge.files import FileError
    from plugin_bridge.recording import open_recording

    failures = 0
    lengths: dict[Path, int] = {}
    for job in jobs:
        try:
            with open_recording(job.source) as recording:
                lengths[job.source] = recording.samples
        except FileError:
            lengths[job.source] = 0  # told below, in its turn
    with _progress(TimeRemainingColumn(elapsed_when_finished=True)) as progress:
        task = progress.add_task("", total=sum(lengths.values()))
        before = 0
        for number, job in enumerate(jobs, 1):
            progress.update(task, description=escape(f"{number} of {len(jobs)}: {job.source.name}"), completed=before)
            try:
                file = convert_file(job.source, job.target, settings, lambda samples: progress.advance(task, samples))
                done.append(file)
                if file.samples < file.promised:
                    promised = _duration(file.promised / file.sample_rate)
                    there = f"{_duration(file.seconds)} of the {promised} that its header promises are there"
                    _say(f"{file.source} was cut short: {there}, and were converted", progress.console)
            except FileError as error:
                _say(str(error), progress.console)
                failures += 1
            except (ValueError, OSError) as error:
                _say(f"{job.source}: {error}", progress.console)
                failures += 1
            before += lengths[job.source]
        progress.update(task, completed=before)
    return failures


def _render_all(jobs: list[Job], songs: SongJobs, done: list[Rendering]) -> int:
    """As `_convert_all`, with the song engine."""
    failures = 0
    columns = [TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.fields[left]}")]
    with _progress(*columns) as progress:
        task = progress.add_task("", total=1.0, left="")
        for number, job in enumerate(jobs, 1):
            name = escape(f"{number} of {len(jobs)}: {job.source.name}")
            progress.update(task, description=name, completed=0, left="")

            def show(now: SongProgress, name: str = name) -> None:
                left = f"{_duration(now.seconds_left)} left"
                progress.update(task, description=f"{name}, {now.stage}", completed=now.whole, left=left)

            try:
                file = songs.render(job, show)
                done.append(file)
                if file.heard < file.promised:
                    _say(f"{file.source} was cut short: what is there was rendered", progress.console)
                if file.lowered_db:
                    softer = f"{file.lowered_db:.1f} dB softer than the song"
                    _say(f"{file.target} is {softer}, or it would be clipped", progress.console)
            except (ValueError, OSError) as error:
                # A sentence of ours names its file, or is about a value.
                named = str(job.source) in str(error) or str(job.target) in str(error)
                _say(str(error) if named else f"{job.source}: {error}", progress.console)
                failures += 1
    return failures


def _bench_song(voice: str, size: str, seconds: float, out: Path) -> None:
    from plugin_bridge.bench_song import measure_song

    try:
        figures = measure_song(voice, cast("Size", size), seconds)
    except (ValueError, OSError) as error:
        _fail(str(error))
    runs = figures["threads"]
    heads = [f"{count} thread{'' if count == '1' else 's'}" for count in runs]
    table = _table("Of the song's length", *heads, title=f"{voice}, {size}, {_duration(seconds)}")
    table.add_row("from file to file", *(f"{100 * run['share_of_length']:.2f} %" for run in runs.values()))
    for stage in next(iter(runs.values()))["stages"]:
        shares = (run["stages"][stage]["share_of_length"] for run in runs.values())
        table.add_row(f"{stage}, processor time", *(f"{100 * share:.2f} %" for share in shares))
    _print_table(table)
    _write_json(out, figures)


def _check_engine(engine: str) -> None:
    if engine not in ("stream", "song"):
        _fail(f"the engine must be stream or song, not {engine!r}")


def _refuse(context: typer.Context, names: Sequence[str], why: str) -> None:
    """Fail if one of these options was given; `why` goes on from its name."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            _fail(f"--{name.replace('_', '-')} {why}")


def _check_size(size: str) -> None:
    if size not in ("lhq", "mobile"):
        _fail(f"the size must be lhq or mobile, not {size!r}")


def _print_stages(done: list[Rendering]) -> None:
    """Share of each stage in the processor's time, over all recordings."""
    totals: dict[str, float] = {}
    for file in done:
        for stage, seconds in file.stages.items():
            totals[stage] = totals.get(stage, 0.0) + seconds
    length = sum(file.seconds for file in done)
    whole = sum(totals.values())
    table = _table("Stage", "Processor time", "Share", "Of the song's length")
    for stage, seconds in [*sorted(totals.items(), key=lambda item: -item[1]), ("all", whole)]:
        table.add_row(stage, f"{seconds:.2f} s", f"{100 * seconds / whole:.0f} %", f"{100 * seconds / length:.2f} %")
    _print_table(table)


def _write_json(path: Path, content: object) -> None:
    from plugin_bridge.files import replacing

    try:
        with replacing(path) as file:
            file.write(json.dumps(content, indent=2).encode() + b"\n")
    except (ValueError, OSError) as error:
        _fail(str(error))
    print(path.resolve())


def _print_summary(done: Sequence[Conversion]) -> None:
    table = _table("Written to", *FIGURES)
    for file in done:
        table.add_row(Text(str(file.target)), *_figures(file))
    _print_table(table)


def _figures(file: Conversion) -> tuple[str, ...]:
    """`FIGURES` of a conversion."""
    level = f"{20 * math.log10(file.peak):.1f} dBFS" if file.peak > 0 else "silent"
    return (
        _duration(file.seconds),
        f"{file.transposition:+g} semitones" if file.transposition else "no",
        f"{file.times_real_time:.1f}",
        f"{level}, clipped" if file.peak > 1 else level,
    )


def _write_report(path: Path, done: Sequence[Conversion], voice: str, pitch_shift: float) -> None:
    from plugin_bridge.report import MOST_TAKES, take_from_files, write_report

    found = [file.source.name for file in done]
    names = [str(file.source) if found.count(file.source.name) > 1 else file.source.name for file in done]
    rows = [("Recording", *FIGURES), *((name, *_figures(file)) for name, file in zip(names, done, strict=True))]
    try:
        takes = [
            take_from_files(
                name,
                file.source,
                file.target,
                pitch_shift + file.transposition,
                list(zip(FIGURES, _figures(file), strict=True)),
            )
            for name, file in zip(names[:MOST_TAKES], done, strict=False)
        ]
        lead = f"Converted to {voice}, with the rate, channels and length the recordings have."
        if len(done) > MOST_TAKES:
            lead += f" The first {MOST_TAKES} of {len(done)} recordings are shown."
        write_report(path, f"Conversion to {voice}", lead, rows, takes)
    except (ValueError, OSError) as error:
        _fail(str(error))
    print(path.resolve())


def _voice_text(voice: str | dict[str, float]) -> str:
    return voice if isinstance(voice, str) else " + ".join(f"{weight:g} {name}" for name, weight in voice.items())


def _files_of(*paths: Path | None) -> list[Path]:
    """The files that options name; a folder stands for those in it."""
    given = [path for path in paths if path is not None]
    return [file for path in given for file in (path, *path.glob("*"))]


def _pack_files(voice: str) -> list[Path]:
    return [Path(voice)] if voice.endswith(".voice") else []


def _parse_number(what: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        also = " or auto" if what == "--transpose" else ""
        raise ValueError(f"{what} must be a number{also}, not {text!r}")
    return value


def _duration(seconds: float) -> str:
    """As a clock shows it; below a minute, with tenths of a second."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def _table(*heads: str, title: str | None = None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for number, head in enumerate(heads):
        table.add_column(head, overflow="fold", justify="left", no_wrap=number > 0 and head in FIGURES)
    return table


def _print_table(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)


def _print_card(card: VoiceCard) -> None:
    """All that a voice's card says, one thing a row; figures by the names that `evaluate` gives them in JSON."""
    table = _table("", card.name)
    low, high = card.f0_range_hz
    about = {
        "Name": card.display_name,
        "Singer": card.singer,
        "Language": card.language,
        "Kind": card.kind,
        "Range": f"{low:.0f}-{high:.0f} Hz",
        "Made of": card.training_data,
        "Limits": card.limits,
        "Licence": card.licence,
        "Credits": card.credits,
        "You": card.duty,
        "Figures": ", ".join(f"{name} {value:g}" for name, value in card.quality.items()),
    }
    for head, text in about.items():
        if text:
            table.add_row(head, Text(text))
    _print_table(table)


def _progress(*columns: ProgressColumn) -> Progress:
    """A progress bar on standard error, where a person looks at it, and nothing in a log file."""
    console = _ErrorConsole(stderr=True)
    return Progress(TextColumn("{task.description}"), BarColumn(), *columns, console=console, disable=not console.is_terminal)


@contextmanager
def _training(name: str, steps: int | None) -> Iterator[tuple[Callable[[int, int, str, float], None], Callable[[str], None]]]:
    """The progress of a training, as a bar or, in a log file, in lines.

    Yields what shows step, steps, losses and seconds left, and what says a sentence without disturbing the bar.
    """
    columns = [TextColumn("{task.fields[losses]}"), TextColumn("{task.fields[left]}")]
    with _progress(MofNCompleteColumn(), *columns) as progress:
        task = progress.add_task(f"Training {name}", total=steps, losses="", left="")

        def show(step: int, of: int, losses: str, seconds_left: float) -> None:
            left = f"{_duration(seconds_left)} left"
            progress.update(task, completed=step, total=of, losses=losses, left=left)
            if not progress.console.is_terminal:
                _say(f"step {step} of {of}: {losses}, {left}")

        try:
            yield show, lambda sentence: _say(sentence, progress.console)
        except RuntimeError as error:
            from torch import OutOfMemoryError  # of a GPU; whoever trains has torch

            if not isinstance(error, OutOfMemoryError):
                raise
            raise ValueError("the GPU has too little memory for this training: --device cpu does without it") from None


class _ErrorConsole(Console):
    """Standard error, which may have lost its reader: no reason to end a performance, nor to close standard output."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


def _say(sentence: str, console: Console | None = None) -> None:
    with suppress(OSError):  # the terminal is gone
        (console or _ErrorConsole(stderr=True)).print(Text(f"plugin-bridge: {sentence}"), soft_wrap=True)


def _finish(left: str, interrupted: bool, problems: object) -> None:
    """End a command that may have been interrupted, leaving things as `left` says, or have met problems; else let it end."""
    if interrupted:
        _say(f"interrupted: {left}")
        raise typer.Exit(INTERRUPTED)
    if problems:
        raise typer.Exit(FAILED)


def _fail(sentence: str) -> NoReturn:
    _say(sentence)
    raise typer.Exit(FAILED)
