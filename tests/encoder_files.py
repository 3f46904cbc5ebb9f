"""Content encoders of ContentVec's shape, made for tests: their frames say where in the audio they heard what."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.lhq.encoders import FIELD, HOP


def encoder_file(
    path: Path,
    channels: int = 256,
    *,
    source: str = "source",
    embed: str = "embed",
    rank: int = 3,
    declared: object = None,
    field: int = FIELD,
    gain: float = 1.0,
) -> Path:
    """A convolution over the audio: channel c of a frame is (c + 1) `gain` times the mean of the 400 samples that it hears."""
    kernel = np.float32(gain) * np.repeat(np.arange(1, channels + 1, dtype=np.float32)[:, None, None] / field, field, 2)
    nodes = [
        helper.make_node("Conv", [source, "kernel"], ["frames"], strides=[HOP]),
        helper.make_node("Transpose", ["frames"], [embed if rank == 3 else "turned"], perm=[0, 2, 1]),
    ]
    if rank == 2:
        nodes.append(helper.make_node("Squeeze", ["turned", "axis"], [embed]))
    shape = [1, "T", declared or channels][3 - rank :]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, [1, 1, "N"])],
        [helper.make_tensor_value_info(embed, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(np.array([0]), "axis")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
