"""Graphs of a few hundred bytes that would take any memory or any time are refused before they run; those of real packs are not."""

import hashlib
import zipfile
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from packs import constant, delay_model, model_proto, stream_metadata, value, write_test_pack

from models.graph import ModelError, load_graph
from models.graph_cost import MOST_NODES, MOST_WORK, check_cost
from models.lhq.song import LONGEST_FRAMES, TRIAL_FRAMES
from models.pack import VoicePack

AUDIO, AUDIO_OUT = value("audio", [1, 8]), value("audio_out", [1, 8])
METADATA = stream_metadata(voices=["a"], sample_rate=48_000, chunk=8, lookahead=0)


def model(nodes: list[onnx.NodeProto], *constants: onnx.TensorProto) -> onnx.ModelProto:
    """A stream's graph, which gives what it hears times the sum of `big`."""
    end = [
        helper.make_node("ReduceMax", ["big"], ["most"], keepdims=0),
        helper.make_node("Mul", ["audio", "most"], ["audio_out"]),
    ]
    return model_proto([*nodes, *end], [AUDIO, value("voice", [1, 1])], [AUDIO_OUT], constants, METADATA)


def refusal(graph: onnx.ModelProto) -> str:
    with pytest.raises(ModelError) as refused:
        check_cost(graph.SerializeToString(), "hostile.onnx")
    message = str(refused.value)
    assert message.startswith("hostile.onnx ") and "\n" not in message
    return message


def ints(name: str, values: object) -> onnx.TensorProto:
    return constant(name, values, np.int64)


def node(kind: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


HEARD = [node("ReduceSum", "audio", "sum", keepdims=0), node("Cast", "sum", "n", to=TensorProto.INT64)]


@pytest.mark.parametrize(
    "graph",
    [
        model([*HEARD, node("Add", "n half", "more"), node("ConstantOfShape", "more", "big")], ints("half", [1 << 29])),
        model([*HEARD, node("Range", "n end one", "row"), node("Cast", "row", "big", to=1)], ints("end", 1 << 29), ints("one", 1)),
        model([*HEARD, node("Add", "n half", "more"), node("Expand", "audio more", "big")], ints("half", [1 << 29, 8])),
        model([*HEARD, node("Add", "n half", "more"), node("Tile", "audio more", "big")], ints("half", [1 << 29, 8])),
        model([*HEARD, node("Add", "n half", "more"), node("Pad", "audio more", "big")], ints("half", [1 << 29, 0, 0, 0])),
    ],
    ids=["ConstantOfShape", "Range", "Expand", "Tile", "Pad"],
)
def test_a_size_that_depends_on_what_is_heard_is_refused(graph):
    assert "must tell the size of" in refusal(graph)


def test_a_size_that_the_file_declares_is_not_believed():
    graph = model([*HEARD, node("Add", "n half", "more"), node("ConstantOfShape", "more", "big")], ints("half", [1 << 29]))
    graph.graph.value_info.append(value("big", [8]))
    assert "must tell the size of 'big'" in refusal(graph)


@pytest.mark.parametrize(
    "graph",
    [
        model([node("ConstantOfShape", "size", "big")], ints("size", [1 << 29])),
        model([node("Expand", "audio size", "big")], ints("size", [1 << 29, 8])),
        model([node("Identity", "audio", "x0"), *(node("Concat", f"x{k} x{k}", f"x{k + 1}", axis=0) for k in range(40)),
               node("Identity", "x40", "big")]),
        model([node("Expand", "audio size", "tall"), node("Transpose", "tall", "wide"), node("Expand", "wide more", "flat"),
               node("MatMul", "tall flat", "big")], ints("size", [1 << 20, 8]), ints("more", [8, 1 << 20])),
        model([node("Transpose", "audio", "column"), node("Tile", "column times", "long"), node("Transpose", "long", "wide"),
               node("Add", "long wide", "big")], ints("times", [1 << 16, 1])),
    ],
    ids=["ConstantOfShape", "Expand", "Concat", "MatMul", "Add"],
)  # fmt: skip
def test_more_values_than_a_network_has_are_refused(graph):
    assert "must hold at most" in refusal(graph)


def test_a_size_that_the_runtime_learns_only_by_computing_is_refused_without_computing_it():
    hidden = [node("Where", "yes size size", "hidden"), node("ConstantOfShape", "hidden", "huge"), node("Mul", "audio huge", "big")]
    assert "must tell the size of 'huge'" in refusal(model(hidden, constant("yes", True, np.bool_), ints("size", [1 << 40, 8])))


@pytest.mark.parametrize(
    "graph",
    [
        model([node("Expand", "one size", "x0"), *(node("MatMul", f"x{k} x{k}", f"x{k + 1}") for k in range(9)),
               node("Identity", "x9", "big")], constant("one", 1.0), ints("size", [1024, 1024])),
        model([node("Expand", "one size", "long"), node("Expand", "one half", "kernel"), node("Conv", "long kernel", "big")],
              constant("one", 1.0), ints("size", [1, 1, 1 << 22]), ints("half", [1, 1, 1 << 21])),
    ],
    ids=["MatMul", "Conv"],
)  # fmt: skip
def test_more_work_than_a_network_does_is_refused(graph):
    assert "multiplications" in refusal(graph)


def test_too_many_operators_are_refused():
    nodes = [node("Neg", f"x{k}" if k else "audio", f"x{k + 1}") for k in range(MOST_NODES)]
    assert f"at most {MOST_NODES} operators" in refusal(model([*nodes, node("Neg", "audio", "big")]))


def loop(inner: list[onnx.NodeProto]) -> onnx.NodeProto:
    """2^62 turns of nothing."""
    inputs = [value("turn", [], TensorProto.INT64), value("on", [], TensorProto.BOOL), value("was", [1, 8])]
    outputs = [value("still", [], TensorProto.BOOL), value("is", [1, 8])]
    nodes = [*inner, node("Identity", "on", "still"), node("Identity", "was", "is")]
    return helper.make_node("Loop", ["turns", "", "audio"], ["big"], body=helper.make_graph(nodes, "body", inputs, outputs))


def test_a_loop_is_refused_wherever_it_is_and_whatever_the_file_is_for(tmp_path):
    turns, yes = ints("turns", 1 << 62), constant("yes", True, np.bool_)
    plain = model([loop([])], turns)
    branch = helper.make_graph([loop([])], "branch", [], [value("big", [1, 8])])
    within = model([helper.make_node("If", ["yes"], ["big"], then_branch=branch, else_branch=branch)], turns, yes)
    function = model([helper.make_node("Spin", ["audio", "turns"], ["big"], domain="own")], turns)
    function.opset_import.append(helper.make_opsetid("own", 1))
    opsets = [helper.make_opsetid("", 17)]
    function.functions.append(helper.make_function("own", "Spin", ["audio", "turns"], ["big"], [loop([])], opsets))
    for graph in (plain, within, function):
        assert "'Loop', which may never end" in refusal(graph)
        with pytest.raises(ModelError, match="'Loop', which may never end"):
            load_graph(graph.SerializeToString(), "encoder.onnx")
    with pytest.raises(ModelError, match="'Loop', which may never end"):
        write_test_pack(tmp_path / "loop.voice", plain)


def test_branches_and_functions_have_no_place_in_a_pack():
    branch = helper.make_graph([node("Identity", "audio", "big")], "branch", [], [value("big", [1, 8])])
    either = helper.make_node("If", ["yes"], ["big"], then_branch=branch, else_branch=branch)
    assert "operator 'If'" in refusal(model([either], constant("yes", True, np.bool_)))
    own = model([helper.make_node("Own", ["audio"], ["big"], domain="own")])
    own.opset_import.append(helper.make_opsetid("own", 1))
    opsets = [helper.make_opsetid("", 17)]
    own.functions.append(helper.make_function("own", "Own", ["x"], ["y"], [node("Neg", "x", "y")], opsets))
    assert "functions of its own" in refusal(own)


def test_a_sparse_tensor_is_refused():
    graph = model([node("Identity", "sparse", "big")])
    values, places = constant("sparse", [1.0]), ints("places", [0])
    graph.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [1 << 40]))
    assert "sparse" in refusal(graph)


def test_operators_out_of_order_are_refused():
    graph = model([node("Neg", "later", "big"), node("Neg", "audio", "later")])
    assert "order in which they run" in refusal(graph)


def test_a_pack_that_would_take_too_much_is_refused_whole_and_the_rest_work(tmp_path):
    """As a pack from elsewhere comes: everything else about it is good."""
    good = write_test_pack(tmp_path / "good.voice", delay_model({"good": 1.0}))
    hostile = tmp_path / "hostile.voice"
    graph = model([node("ConstantOfShape", "size", "big")], ints("size", [1 << 29])).SerializeToString()
    with zipfile.ZipFile(good) as archive, zipfile.ZipFile(hostile, "w") as changed:
        stream = archive.read("stream.onnx")
        old, new = (hashlib.sha256(data).hexdigest() for data in (stream, graph))
        changed.writestr("voice.json", archive.read("voice.json").decode().replace(old, new))
        changed.writestr("stream.onnx", graph)
    with pytest.raises(ModelError, match=r"stream.onnx in .*hostile.voice must hold at most 134217728 values"):
        VoicePack.open(hostile).stream_model()
    assert VoicePack.open(good).stream_model().voices == ("good",)


PACKS = Path(str(files("presets")))
STREAMS = [(path.name, "stream.onnx") for path in sorted(PACKS.glob("*.voice"))]
SONGS = [("bank.voice", member) for member in VoicePack.open(PACKS / "bank.voice").manifest.members if member.startswith("song")]


@pytest.mark.parametrize(("pack", "member"), STREAMS + SONGS)
def test_what_this_program_exports_passes_at_any_length(pack, member):
    data = VoicePack.open(PACKS / pack).read(member)
    for frames in (TRIAL_FRAMES, LONGEST_FRAMES) if member.startswith("song") else (TRIAL_FRAMES,):
        check_cost(data, member, frames, MOST_WORK * frames // TRIAL_FRAMES)


def recurrent(kind: str, gates: int, times: int, hidden: int) -> onnx.ModelProto:
    shape, weights = (1, gates * hidden, 1), np.zeros((1, gates * hidden, 1), np.float32)
    return model(
        [
            node("Expand", "audio size", "many"),
            node("Reshape", "many row", "x"),
            node(kind, "x w r", "y", hidden_size=hidden),
            node("ReduceMax", "y", "big"),
        ],
        ints("size", [times // 8, 8]),
        ints("row", [times, 1, 1]),
        constant("w", weights.reshape(shape)),
        constant("r", np.zeros((1, gates * hidden, hidden), np.float32)),
    )


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_networks_may_be_as_large_as_others(kind, gates):
    check_cost(recurrent(kind, gates, 64, 64).SerializeToString(), "a recurrent network")
    assert "multiplications" in refusal(recurrent(kind, gates, 1 << 18, 256))


@pytest.mark.parametrize(("length", "fits"), [(512, True), (1 << 20, False)])
def test_transposed_convolutions_count_a_kernel_for_each_value_that_comes(length, fits):
    graph = model(
        [
            node("Expand", "audio size", "many"),
            node("Reshape", "many row", "x"),
            node("ConvTranspose", "x w", "y", strides=[8]),
            node("ReduceMax", "y", "big"),
        ],
        ints("size", [length // 8, 8]),
        ints("row", [1, 8, length // 8]),
        constant("w", np.ones((8, 8, 1024), np.float32)),
    )
    if fits:
        check_cost(graph.SerializeToString(), "a transposed convolution")
    else:
        assert "multiplications" in refusal(graph)
