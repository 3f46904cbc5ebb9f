"""Checkpoints of the authors' training, and of ours, as generators: tensors alone, every one checked.

What is no tensor of the expected name, shape and kind is refused, and all else in the file is left alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from models.checkpoint import CheckpointError, read_checkpoint
from models.llvc.network import POSITIONS, Generator, GeneratorConfig
from models.schema import SampleRate, Schema, first_problem, read_bounded

MAX_CONFIG_BYTES = 1 << 20
MAX_CHUNK_SAMPLES = 16_384
NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class _Prenet(Schema):
    """`convnet_config`. The values that are fixed here are those of every published config."""

    convnet_prenet: bool
    out_channels: list[Literal[1]] = Field(max_length=64)
    kernel_sizes: list[Literal[3]] = Field(max_length=64)
    dilations: list[Literal[1]] = Field(max_length=64)
    dropout: float = Field(ge=0, lt=1)
    combine_residuals: None
    skip_connection: Literal["add"]
    use_residual_blocks: Literal[True]


class _Sizes(Schema):
    """`model_params`."""

    label_len: int  # the authors' network ignores it
    L: int = Field(ge=1, le=1024)
    enc_dim: int = Field(ge=16, le=1024)
    num_enc_layers: int = Field(ge=1, le=10)
    dec_dim: int = Field(ge=16, le=1024, multiple_of=16)
    num_dec_layers: Literal[1]
    dec_buf_len: int = Field(ge=1, le=POSITIONS // 2)
    dec_chunk_size: int = Field(ge=1, le=POSITIONS // 2)
    out_buf_len: int = Field(ge=1, le=16)
    use_pos_enc: Literal[True]
    skip_connection: Literal[True] = True
    proj: Literal[True] = True
    lookahead: Literal[True] = True
    decoder_dropout: float = Field(ge=0, lt=1)
    convnet_config: _Prenet


class _Data(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    sr: SampleRate


class _Config(BaseModel):
    """Of a `config.json` what conversion needs; how it was trained does not matter here."""

    model_config = ConfigDict(extra="ignore", strict=True)
    data: _Data
    model_params: _Sizes
    voices: int = Field(default=1, ge=1, le=64)  # ours alone: theirs have one


def read_config(path: Path) -> GeneratorConfig:
    """The sizes in a `config.json` as the authors write it.

    Raises
    ------
    CheckpointError
        Naming the first thing that does not fit.
    """
    try:
        config = _Config.model_validate_json(read_bounded(path, MAX_CONFIG_BYTES))
    except OSError as error:
        problem = f"it cannot be read: {error.strerror or error}"
        raise CheckpointError(f"expected the config of an LLVC training in {path}, but {problem}") from None
    except ValidationError as error:
        raise CheckpointError(f"expected the config of an LLVC training in {path}, but {first_problem(error)}") from None
    sizes, prenet = config.model_params, config.model_params.convnet_config
    if sizes.enc_dim % sizes.dec_dim:
        raise CheckpointError(f"{path}: enc_dim must be a multiple of dec_dim, {sizes.dec_dim}, got {sizes.enc_dim}")
    layers = len(prenet.kernel_sizes)
    if not layers == len(prenet.dilations) == len(prenet.out_channels):
        raise CheckpointError(f"{path}: convnet_config must have as many kernel_sizes as dilations and out_channels")
    if prenet.convnet_prenet and not layers:
        raise CheckpointError(f"{path}: convnet_config must have layers if convnet_prenet is true")
    if sizes.L * sizes.dec_chunk_size > MAX_CHUNK_SAMPLES:
        chunk = sizes.L * sizes.dec_chunk_size
        raise CheckpointError(f"{path}: L times dec_chunk_size must be at most {MAX_CHUNK_SAMPLES} samples, got {chunk}")
    return GeneratorConfig(
        sample_rate=config.data.sr,
        stride=sizes.L,
        width=sizes.enc_dim,
        encoder_layers=sizes.num_enc_layers,
        decoder_width=sizes.dec_dim,
        chunk=sizes.dec_chunk_size,
        context=sizes.dec_buf_len,
        output_context=sizes.out_buf_len,
        prenet_layers=layers if prenet.convnet_prenet else 0,
        prenet_dropout=prenet.dropout,
        decoder_dropout=sizes.decoder_dropout,
        voices=config.voices,
    )


def config_text(config: GeneratorConfig) -> str:
    """A `config.json` that `read_config` turns into `config`, in the authors' layout."""
    prenet = _Prenet(
        convnet_prenet=config.prenet_layers > 0,
        out_channels=[1] * config.prenet_layers,
        kernel_sizes=[3] * config.prenet_layers,
        dilations=[1] * config.prenet_layers,
        dropout=config.prenet_dropout,
        combine_residuals=None,
        skip_connection="add",
        use_residual_blocks=True,
    )
    sizes = _Sizes(
        label_len=1,
        L=config.stride,
        enc_dim=config.width,
        num_enc_layers=config.encoder_layers,
        dec_dim=config.decoder_width,
        num_dec_layers=1,
        dec_buf_len=config.context,
        dec_chunk_size=config.chunk,
        out_buf_len=config.output_context,
        use_pos_enc=True,
        decoder_dropout=config.decoder_dropout,
        convnet_config=prenet,
    )
    return _Config(data=_Data(sr=config.sample_rate), model_params=sizes, voices=config.voices).model_dump_json(indent=2)


def load_generator(path: Path, config: GeneratorConfig) -> Generator:
    """The generator of a checkpoint whose `model` entry holds its state; all else in the file is left alone.

    Raises
    ------
    CheckpointError
        Naming the first tensor that is missing, not expected, or not as expected.
    """
    state = _read_tensors(path)
    generator = Generator(config)
    expected = generator.state_dict()
    if missing := sorted(expected.keys() - state.keys()):
        raise CheckpointError(f"expected a tensor {missing[0]!r} in {path}, as its config has it, but there is none")
    if extra := sorted(state.keys() - expected.keys()):
        raise CheckpointError(f"{path} holds {extra[0][:100]!r}, which the network of its config does not have")
    for name, wanted in expected.items():
        tensor = state[name]
        if tensor.shape != wanted.shape:
            raise CheckpointError(f"expected {name} of shape {list(wanted.shape)} in {path}, got {list(tensor.shape)}")
        if tensor.is_meta:
            raise CheckpointError(f"expected numbers as {name} in {path}, got nothing but their shape")
        if tensor.layout != torch.strided or tensor.dtype not in NUMBERS:
            raise CheckpointError(f"expected floating-point numbers as {name} in {path}, got {tensor.dtype}")
        if not torch.isfinite(tensor.float()).all():  # as they will be: of float64 some would be too large
            raise CheckpointError(f"expected finite numbers as {name} in {path}, got NaN or infinity")
    generator.load_state_dict(state)
    return generator.eval()


def _read_tensors(path: Path) -> dict[str, Tensor]:
    what = "a checkpoint with a generator's state under 'model'"
    # Mapped: of all that is in it the generator alone is read.
    state = read_checkpoint(path, what, mapped=True).get("model")
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError(f"expected {what} in {path}, but there is none")
    return state
