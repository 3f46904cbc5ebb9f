"""What `pip install .` brings: the wheel holds the whole program with its voices, and runs from anywhere."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("plugin_bridge", "models", "dsp", "presets")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: building leaves things behind in its folder."""
    copy = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", str(copy / "wheels"), str(copy)], check=True)
    (path,) = (copy / "wheels").iterdir()
    return path


def test_every_file_of_the_packages_is_in_the_wheel(wheel):
    on_disk = {
        path.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        assert on_disk <= set(archive.namelist())


def test_the_program_runs_from_the_wheel_alone(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    script = (
        "import plugin_bridge, presets, sys; from plugin_bridge.demo import demo_phrase\n"
        "print(plugin_bridge.__file__, presets.__file__, demo_phrase()[0].shape[1], *plugin_bridge.voices())"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "PLUGIN_BRIDGE_VOICES": ""}
    command = [sys.executable, "-P"] if sys.version_info >= (3, 11) else [sys.executable]
    done = subprocess.run([*command, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    package, presets, samples, *names = done.stdout.split()
    assert Path(package).is_relative_to(tmp_path / "site") and Path(presets).is_relative_to(tmp_path / "site")
    assert int(samples) > 48000
    bundled = sorted(path.name for path in (ROOT / "presets").glob("*.voice"))
    assert sorted(path.name for path in (tmp_path / "site" / "presets").glob("*.voice")) == bundled
    assert bool(names) == bool(bundled)
