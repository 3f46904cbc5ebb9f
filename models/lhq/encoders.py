"""Content encoders that users already hold: ContentVec and HuBERT, as ONNX files or as Hugging Face folders.

They hear 16 kHz and give a frame each 20 ms; here their frames are interpolated onto the song's grid. A song pack that was
trained with one of them takes its content instead of our own encoder's.
"""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.graph import Graph, ModelError, first_line, load_graph
from models.lhq.mel import DEFAULT
from models.lhq.noise import frame_noise
from models.schema import Line, Schema

Floats = NDArray[np.float32]

RATE = 16_000
HOP = 320
# Of the seven convolutions (kernels 10, 3, 3, 3, 3, 2, 2; strides 5, 2, 2, 2, 2, 2, 2): frame k hears the samples
# 320 k ... 320 k + 399, so its centre lies 200 samples after 320 k.
FIELD = 400
WIDEST = 1024  # values in a frame; the largest HuBERT's
DIMENSIONS = (256, 768)  # layer 9 with its projection, layer 9 or 12 without
STRETCH, MARGIN = 30 * RATE // HOP, 2 * RATE // HOP  # frames encoded at once, and heard around them: attention is quadratic
ONNX_BYTES = 2**30  # the largest there is has 400 MB
PROBED = 32  # values of what an encoder hears in the probe: enough to tell two networks apart
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of a Hugging Face folder, in the order of preference
MASK = "masked_spec_embed"  # what training puts in place of frames; some files do without
LIKENESS = 0.3  # relative error of these up to which it is the same network: stored in 8 bits it is off by less than 0.1


class EncoderCard(Schema):
    """Which encoder a song pack was trained with.

    `layer` is that of the transformer, where it is known; `probe` what the encoder hears in a sound that is always the same.
    """

    name: Line
    kind: Literal["onnx", "folder"]
    dimensions: int = Field(ge=1, le=WIDEST)
    layer: int | None = Field(default=None, ge=0, le=1000)
    probe: list[float] = Field(min_length=PROBED, max_length=PROBED)

    def __str__(self) -> str:
        layer = "" if self.layer is None else f" of layer {self.layer}"
        return f"{self.name} ({self.dimensions} values a frame{layer})"

    def matches(self, other: EncoderCard) -> bool:
        """Whether the other is the same network, in whatever file."""
        mine, theirs = np.array(self.probe), np.array(other.probe)
        off = float(np.linalg.norm(mine - theirs))
        return self.dimensions == other.dimensions and off <= LIKENESS * float(np.linalg.norm(mine))


@dataclass(frozen=True)
class Encoder:
    """An encoder of content.

    Attributes
    ----------
    dimensions : int
        Of a frame of content.
    name : str
        Of its file.
    kind : "onnx" or "folder"
    layer : int or None
        Of the transformer whose frames it gives, where that is known.
    """

    dimensions: int
    _embed: Callable[[Floats], Floats]
    name: str = "encoder"
    kind: Literal["onnx", "folder"] = "onnx"
    layer: int | None = None

    def card(self) -> EncoderCard:
        """What tells it from others. Takes as long as encoding a second."""
        second = np.arange(RATE) / RATE
        # A vowel's harmonics, rising by an octave, in a breath of noise.
        phase = 2 * np.pi * 110 * (2**second - 1) / math.log(2)
        tone = sum(np.sin(k * phase) / k for k in range(1, 20))
        probe = 0.1 * tone + 0.01 * frame_noise(0, 0, 0, 1, RATE)[0]
        heard = self.frames(np.asarray(probe, np.float32))
        some = heard[10:50:10][:, np.linspace(0, self.dimensions - 1, PROBED // 4).astype(int)]
        return EncoderCard(
            name=self.name,
            kind=self.kind,
            dimensions=self.dimensions,
            layer=self.layer,
            probe=[float(value) for value in some.ravel()],
        )

    def __call__(self, audio: Floats) -> Floats:
        """Audio [N] at 16 kHz -> content [T, dimensions], a frame each 10 ms, frame k centred on second k / 100.

        As many frames as the same take has at 40 kHz. Raises what `frames` does.
        """
        return on_grid(self.frames(audio), len(audio) * DEFAULT.sample_rate // RATE // DEFAULT.hop + 1)

    def frames(self, audio: Floats) -> Floats:
        """Audio [N] at 16 kHz -> content [N / 320, rounded up, dimensions], frame k centred on sample 320 k.

        Long takes are encoded in stretches of 30 s with 2 s around them.

        Raises
        ------
        ModelError
            If the model fails, or gives something else than frames of numbers.
        """
        frames = max(1, -(-len(audio) // HOP))
        # Centred: half a field before, and after the end what the last frame needs.
        padded = np.pad(np.asarray(audio, np.float32), (FIELD // 2, FIELD))
        content = np.empty((frames, self.dimensions), np.float32)
        for first in range(0, frames, STRETCH):
            start, stop = max(0, first - MARGIN), min(frames, first + STRETCH + MARGIN)
            found = self._embed(padded[start * HOP : (stop - 1) * HOP + FIELD])
            if found.shape != (stop - start, self.dimensions) or not np.isfinite(found).all():
                wanted = f"{stop - start} finite frames of {self.dimensions} values"
                raise ModelError(f"the content encoder should give {wanted}, got an array of the shape {found.shape}")
            last = min(frames, first + STRETCH)
            content[first:last] = found[first - start : last - start]
        return content


def on_grid(content: Floats, frames: int) -> Floats:
    """Content [n, C], frame k centred on sample 320 k at 16 kHz -> [frames, C] on the song grid, by linear interpolation."""
    at = np.arange(frames) * (DEFAULT.hop / DEFAULT.sample_rate * RATE / HOP)
    at = np.minimum(at, len(content) - 1)
    lower = np.minimum(at.astype(np.int64), max(0, len(content) - 2))
    fraction = (at - lower).astype(np.float32)[:, None]
    upper = np.minimum(lower + 1, len(content) - 1)
    between: NDArray[np.float32] = content[lower] * (1 - fraction) + content[upper] * fraction
    return between


def load_encoder(path: Path) -> Encoder:
    """Load an ONNX file (input `source`, output `embed`), or a Hugging Face folder (needs the package `transformers`).

    Raises
    ------
    ModelError
        One sentence that names what was expected and what was found.
    """
    return _load_folder(path) if path.is_dir() else read_onnx(path)[1]


def read_onnx(path: Path) -> tuple[bytes, Encoder]:
    """An ONNX file as `load_encoder` takes it, and the bytes that it was checked by. Raises ModelError."""
    try:
        if path.stat().st_size > ONNX_BYTES:
            raise ModelError(f"expected a content encoder of at most 1 GiB, but {path} has {path.stat().st_size} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"expected a content encoder in {path}, but it cannot be read ({error})") from None
    graph = load_graph(data, str(path))
    # As the files that are passed around are called: vec-768-layer-12.onnx.
    layer = re.search(r"layer[-_]?(\d{1,2})", path.stem)
    return data, Encoder(_dimensions(graph, path), _onnx(graph, path), _shown(path), "onnx", int(layer[1]) if layer else None)


def _shown(path: Path) -> str:
    """A file's name as a card may carry it."""
    return "".join(letter for letter in path.name if letter.isprintable())[-200:]


def _dimensions(graph: Graph, path: Path) -> int:
    """Channels of a ContentVec graph, recognised by the names and ranks of what goes in and out."""
    inputs = {name: (value.type, len(value.shape)) for name, value in graph.inputs.items()}
    outputs = {name: (value.type, len(value.shape)) for name, value in graph.outputs.items()}
    if inputs != {"source": ("tensor(float)", 3)} or outputs.get("embed") != ("tensor(float)", 3):
        found = ", ".join(f"{name} {value.shape}" for name, value in {**graph.inputs, **graph.outputs}.items())
        wanted = "one float32 input 'source' [1, 1, N] and an output 'embed' [1, T, C]"
        raise ModelError(f"a content encoder has {wanted}, but {path} has {found[:200]}")
    declared = graph.outputs["embed"].shape[2]
    # Some exports leave it open.
    channels = declared if isinstance(declared, int) else len(_onnx(graph, path)(np.zeros(FIELD + HOP, np.float32))[0])
    if channels not in DIMENSIONS:
        raise ModelError(f"a content encoder has frames of 256 or 768 values, but those of {path} have {channels}")
    return channels


def _onnx(graph: Graph, path: Path) -> Callable[[Floats], Floats]:
    def embed(audio: Floats) -> Floats:
        try:
            (content,) = graph.session.run(["embed"], {"source": audio[None, None]})
        except Exception as error:  # the runtime's exceptions share no narrower base class
            raise ModelError(f"the content encoder {path} fails on {len(audio)} samples: {first_line(error)}") from error
        return np.asarray(content[0], np.float32)

    return embed


def _load_folder(path: Path) -> Encoder:
    """A Hugging Face folder of a HuBERT or ContentVec: the frames of its last layer."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        kind = config["model_type"]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ModelError(f"expected a Hugging Face model in {path}, but its config.json cannot be read ({error})") from None
    if kind != "hubert":
        raise ModelError(f"expected a model of the type 'hubert' in {path}, found {str(kind)[:60]!r}")
    weights = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if weights is None:
        raise ModelError(f"expected {' or '.join(WEIGHTS)} in {path}, and it has neither")
    try:
        import torch

        hubert = importlib.import_module("transformers").HubertModel  # an optional package, which mypy need not have
    except ImportError:
        problem = "a Hugging Face folder needs the packages torch and transformers: pip install torch transformers"
        raise ModelError(f"{problem} (an ONNX file of the encoder needs neither)") from None
    try:
        if weights.suffix == ".safetensors":
            source: dict[str, Any] = {"pretrained_model_name_or_path": path, "use_safetensors": True}
        else:
            # A pickle: read by ourselves, as tensors alone.
            from models.checkpoint import read_checkpoint

            sizes = hubert.config_class.from_pretrained(path, local_files_only=True)
            source = {"pretrained_model_name_or_path": None, "config": sizes, "state_dict": read_checkpoint(weights, "a HuBERT")}
        model, told = hubert.from_pretrained(**source, local_files_only=True, output_loading_info=True)
    except Exception as error:  # whatever is wrong with a file
        raise ModelError(f"expected a HuBERT in {path}, but it cannot be loaded: {first_line(error)}") from error
    if missing := sorted(set(told["missing_keys"]) - {MASK}):
        raise ModelError(f"expected the weights of a HuBERT in {weights}, but it lacks {missing[0][:100]!r}")
    model = model.float().eval()  # whatever it is stored as
    normalise = _normalises(path)

    def embed(audio: Floats) -> Floats:
        x = torch.from_numpy(audio)[None]
        if normalise:
            x = (x - x.mean()) / torch.sqrt(x.var() + 1e-7)
        with torch.no_grad():
            content: Any = model(x).last_hidden_state[0].numpy()
        return np.asarray(content, np.float32)

    size = int(model.config.hidden_size)
    if size > WIDEST:
        raise ModelError(f"expected a HuBERT whose frames have at most {WIDEST} values in {path}, they have {size}")
    return Encoder(size, embed, _shown(path.resolve()), "folder", int(model.config.num_hidden_layers))


def _normalises(path: Path) -> bool:
    """Whether the folder's preprocessor wants unit variance."""
    try:
        return bool(json.loads((path / "preprocessor_config.json").read_text(encoding="utf-8"))["do_normalize"])
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
        return False
