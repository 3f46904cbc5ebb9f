"""The self-supervised loss of LLVC's training: speech encoders are to hear the same in the conversion as in its model.

The paper's encoder is HuBERT's convolutional front end; any that `transformers` reads from a folder serves (HuBERT, ContentVec,
wav2vec 2.0, WavLM). An ONNX file of such an encoder serves whole, with its transformer, and so does the content encoder of
`models.lhq`, by its stage-1 checkpoint.
"""

from __future__ import annotations

import importlib
import math
import pickle
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, pad

from dsp.mel import mel_weights
from models.lhq.content import ContentEncoder, load_content
from models.lhq.encoders import FIELD, HOP, read_onnx
from models.lhq.features import BANDS, FLOOR, LOW_HZ, TOP_HZ, WINDOW
from models.lhq.mel import DEFAULT
from models.llvc.onnx_module import OnnxModule

Distance = Literal["l1", "mse"]
DISTANCES: tuple[Distance, ...] = get_args(Distance)

SPEECH_RATE = 16_000  # of all the encoders of that family
TAPS_A_SAMPLE = 16  # of the filter before every n-th sample is taken
ONNX_ERROR = 1e-3  # of what torch makes of an ONNX graph, relative to ONNX Runtime's; rounding alone leaves some 1e-5


class EncoderLoss(nn.Module):
    """Mean distance between the features of two waveforms. `encoder` is frozen; gradients pass through it to what was made.

    `forward(made, recorded)`: waveforms [batch, samples].
    """

    def __init__(self, encoder: nn.Module, distance: Distance) -> None:
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.distance = distance

    def train(self, mode: bool = True) -> EncoderLoss:
        return super().train(False)  # no dropout: the distance would be that of two draws

    def forward(self, made: Tensor, recorded: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.encoder(recorded.float())
        off: Tensor = self.encoder(made.float()) - wanted
        return off.abs().mean() if self.distance == "l1" else off.square().mean()


class SpeechFeatures(nn.Module):
    """The convolutional front end of an encoder of raw speech: waveforms [batch, samples] at `sample_rate` -> its features."""

    def __init__(self, front_end: nn.Module, sample_rate: int) -> None:
        super().__init__()
        self.front_end = front_end
        self.factor = sample_rate // SPEECH_RATE
        if sample_rate % SPEECH_RATE:
            raise ValueError(f"expected a multiple of {SPEECH_RATE} Hz for a speech encoder, got {sample_rate} Hz")
        taps = TAPS_A_SAMPLE * self.factor
        place = torch.arange(-taps, taps + 1) / self.factor
        response = torch.sinc(0.95 * place) * torch.hann_window(2 * taps + 3, periodic=False)[1:-1]
        self.register_buffer("response", (response / response.sum())[None, None], persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        if self.factor > 1:
            response = self.get_buffer("response")
            audio = conv1d(pad(audio[:, None], (response.shape[2] // 2,) * 2), response, stride=self.factor)[:, 0]
        return self.front_end(audio)  # type: ignore[no-any-return]


class OnnxFrames(nn.Module):
    """What an ONNX encoder gives for waveforms [batch, samples] at 16 kHz: [batch, frames, channels]."""

    def __init__(self, graph: OnnxModule) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, audio: Tensor) -> Tensor:
        return torch.cat([self.graph(clip[None, None]) for clip in audio])  # the graphs are made for one


class ContentFeatures(nn.Module):
    """`models.lhq`'s content of waveforms [batch, samples], [batch, frames, content].

    The spectra are those of `models.lhq.features`, but taken at the waveform's own rate: with windows and frames of the same
    duration, and bands in hertz, only the width of a bin differs, by less than a percent.
    """

    def __init__(self, encoder: ContentEncoder, sample_rate: int) -> None:
        super().__init__()
        if sample_rate < 2 * TOP_HZ:
            raise ValueError(f"the content encoder wants audio of {2 * TOP_HZ:g} Hz or more, got {sample_rate} Hz")
        self.content = encoder
        self.size = round(WINDOW * sample_rate / DEFAULT.sample_rate / 2) * 2
        self.hop = round(DEFAULT.hop * sample_rate / DEFAULT.sample_rate)
        weights = mel_weights(self.size, sample_rate, BANDS, LOW_HZ, TOP_HZ)
        self.register_buffer("weights", torch.from_numpy(weights.astype(np.float32)), persistent=False)
        self.register_buffer("window", torch.hann_window(self.size) * (4 / self.size), persistent=False)

    def features(self, audio: Tensor) -> Tensor:
        """As `models.lhq.features.content_features`: [batch, frames, BANDS]."""
        spectra = torch.stft(
            audio, self.size, self.hop, window=self.get_buffer("window"), pad_mode="constant", return_complex=True
        ).transpose(1, 2)
        energy = (spectra.real.square() + spectra.imag.square()) @ self.get_buffer("weights")
        return 0.5 * torch.log(energy + FLOOR)

    def forward(self, audio: Tensor) -> Tensor:
        return self.content(self.features(audio))  # type: ignore[no-any-return]


def load_encoder(path: Path, sample_rate: int) -> nn.Module:
    """The encoder in `path`, on waveforms of `sample_rate` Hz.

    Parameters
    ----------
    path : Path
        A folder as Hugging Face's `save_pretrained` writes it (`transformers` must be installed; nothing is fetched, no code of
        the folder is run), an ONNX file as `models.lhq.encoders` takes it, or a stage-1 checkpoint of `models.lhq`.

    Raises
    ------
    ValueError
        One sentence, if it is none of them.
    """
    if path.suffix.lower() == ".onnx":
        return SpeechFeatures(load_onnx(path), sample_rate)
    if not path.is_dir():
        return ContentFeatures(load_content(path)[0].encoder, sample_rate)
    try:
        any_model = importlib.import_module("transformers").AutoModel  # an optional package, which mypy need not have
    except ImportError:
        problem = f"reading the encoder in {path} needs transformers, which is not there"
        raise ValueError(f"{problem}: pip install transformers") from None
    try:
        # A pytorch_model.bin, too, is read as tensors alone.
        offline = {"local_files_only": True, "trust_remote_code": False, "weights_only": True}
        model, told = any_model.from_pretrained(str(path), **offline, output_loading_info=True)
        front_end = model.feature_extractor.float()
        if missing := sorted(name for name in told["missing_keys"] if name.startswith("feature_extractor.")):
            raise ValueError(f"its weights lack {missing[0]}")
        probe = front_end(torch.zeros(1, SPEECH_RATE))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, pickle.UnpicklingError) as error:
        problem = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ValueError(f"expected a speech encoder such as HuBERT in {path}, but {problem}") from None
    if not isinstance(probe, Tensor) or probe.ndim != 3 or not math.isfinite(float(probe.detach().sum())):
        raise ValueError(f"expected features [batch, channels, frames] of the encoder in {path}, got something else")
    return SpeechFeatures(front_end, sample_rate)


def load_onnx(path: Path) -> OnnxFrames:
    """The encoder in an ONNX file, computed by torch. It is held to what ONNX Runtime makes of a second of sound.

    Raises ValueError, one sentence, for a file that is no encoder, and for one that gives no gradients.
    """
    try:
        data, encoder = read_onnx(path)
        frames = OnnxFrames(OnnxModule(onnx.ModelProto.FromString(data), "source", "embed")).requires_grad_(False)
        sound = 0.1 * np.random.default_rng(0).standard_normal(SPEECH_RATE).astype(np.float32)
        wanted = torch.from_numpy(encoder.frames(sound))
        heard = torch.from_numpy(np.pad(sound, (FIELD // 2, FIELD))[: (len(wanted) - 1) * HOP + FIELD])[None].requires_grad_()
        found = frames(heard)
        if found[0].shape != wanted.shape or not (found[0] - wanted).norm() <= ONNX_ERROR * wanted.norm():
            raise ValueError("torch makes something else of it than ONNX Runtime")
        if not found.requires_grad:
            raise ValueError("what it gives does not hang on what it hears")
        found.sum().backward()
        if not (heard.grad is not None and heard.grad.isfinite().all()):
            raise ValueError("its gradient is not finite")
    except ValueError as error:
        raise ValueError(f"the loss needs gradients, which {path.name} cannot give: {error}") from None
    return frames
