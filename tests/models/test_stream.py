"""The runtime of streaming graphs: what it computes, that it copies and allocates nothing, and what it refuses."""

import threading
import tracemalloc

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from packs import accumulator_model, constant, delay_model, model_proto, stream_metadata, value

from models.graph import ModelError
from models.stream import ModelStream, StreamModel


def load(model: onnx.ModelProto) -> StreamModel:
    return StreamModel.from_bytes(model.SerializeToString(), "test.onnx")


def run(stream: ModelStream, audio: np.ndarray) -> np.ndarray:
    chunk = len(stream.audio_in)
    output = []
    for start in range(0, len(audio), chunk):
        stream.audio_in[:] = audio[start : start + chunk]
        stream.step()
        output.append(stream.audio_out.copy())
    return np.concatenate(output)


def noise(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(length).astype(np.float32)


@pytest.mark.parametrize(("chunk", "lookahead"), [(512, 256), (480, 96), (208, 16), (64, 200), (1, 3)])
def test_state_carries_the_stream_across_steps(chunk, lookahead):
    audio = noise(chunk * 9)
    stream = load(delay_model({"a": 1.0}, chunk=chunk, lookahead=lookahead)).open()
    expected = np.concatenate([np.zeros(lookahead, np.float32), audio])[: len(audio)]
    assert np.array_equal(run(stream, audio), expected)


def test_a_state_that_never_forgets_agrees_with_the_recursion_in_double_precision():
    audio = noise(512 * 12)
    expected, last = [], 0.0
    for sample in audio.astype(np.float64):
        last = 0.999 * last + 0.001 * sample
        expected.append(last)
    assert np.max(np.abs(run(load(accumulator_model("a")).open(), audio) - expected)) < 1e-6


@pytest.mark.parametrize("in_place", [[], ["state_ring"]])
def test_a_state_that_is_written_in_place_is_the_same_state(in_place):
    """A ring of three chunks, of which a step reads the oldest and then writes the newest over it."""
    nodes = [
        helper.make_node("Cast", ["state_row"], ["row"], to=TensorProto.INT64),
        helper.make_node("Gather", ["state_ring", "row"], ["oldest"]),
        helper.make_node("Reshape", ["oldest", "like_audio"], ["audio_out"]),
        helper.make_node("Mul", ["audio_out", "nothing"], ["silence"]),
        helper.make_node("Add", ["audio", "silence"], ["newest"]),  # nothing is written before it is read
        helper.make_node("Reshape", ["row", "like_index"], ["index"]),
        helper.make_node("ScatterND", ["state_ring", "index", "newest"], ["next_state_ring"]),
        helper.make_node("Add", ["state_row", "one"], ["next_row"]),
        helper.make_node("Mod", ["next_row", "rows"], ["next_state_row"], fmod=1),
    ]
    inputs = [AUDIO, VOICE, value("state_ring", [3, 8]), value("state_row", [1])]
    outputs = [AUDIO_OUT, value("next_state_ring", [3, 8]), value("next_state_row", [1])]
    constants = [constant("like_audio", [1, 8], np.int64), constant("like_index", [1, 1], np.int64)]
    constants += [constant("nothing", [0.0]), constant("one", [1.0]), constant("rows", [3.0])]
    stream = load(model_proto(nodes, inputs, outputs, constants, METADATA | {"in_place": in_place})).open()
    audio = noise(8 * 10)
    for _ in range(2):
        assert np.array_equal(run(stream, audio), np.concatenate([np.zeros(24, np.float32), audio])[:80])
        stream.reset()


def test_reset_is_a_new_stream_after_any_number_of_steps():
    audio = noise(512 * 3)
    model = load(accumulator_model("a"))
    fresh = run(model.open(), audio)
    stream = model.open()
    for steps in (1, 2, 3):
        run(stream, noise(512 * steps, seed=steps))
        stream.reset()
        assert np.array_equal(run(stream, audio), fresh)
        stream.reset()
        assert not stream.audio_out.any()


def test_the_weights_reach_the_graph_and_the_first_voice_is_the_start():
    audio = noise(512 * 2)
    stream = load(delay_model({"a": 1.0, "b": 0.5}, lookahead=0 + 1, pitch_controls=True)).open()
    assert stream.voice.tolist() == [1.0, 0.0]
    assert stream.pitch_ratio.tolist() == stream.formant_ratio.tolist() == [1.0]
    stream.voice[:] = 0.25, 0.5
    assert np.array_equal(run(stream, audio)[1:], 0.5 * audio[:-1])


def test_ratios_reach_a_graph_that_declares_them_and_only_that():
    nodes = [
        helper.make_node("Mul", ["audio", "pitch_ratio"], ["scaled"]),
        helper.make_node("Div", ["scaled", "formant_ratio"], ["audio_out"]),
    ]
    inputs = [value("audio", [1, 4]), value("voice", [1, 1]), value("pitch_ratio", [1]), value("formant_ratio", [1])]
    metadata = stream_metadata(voices=["a"], sample_rate=48_000, chunk=4, lookahead=0, pitch_controls=True)
    stream = load(model_proto(nodes, inputs, [value("audio_out", [1, 4])], (), metadata)).open()
    stream.pitch_ratio[0], stream.formant_ratio[0] = 3.0, 2.0
    assert run(stream, np.ones(4, np.float32)).tolist() == [1.5] * 4

    without = load(delay_model({"a": 1.0}))
    assert without.controls == {"voice"}
    stream = without.open()
    stream.pitch_ratio[0] = 3.0
    assert np.array_equal(run(stream, noise(1024))[256:], noise(1024)[:-256])


def test_what_the_graph_says_of_itself_is_told():
    model = load(delay_model({"a": 1.0, "b": 0.5}, sample_rate=16_000, chunk=208, lookahead=16, pitch_controls=True))
    assert (model.sample_rate, model.chunk, model.lookahead, model.receptive_field) == (16_000, 208, 16, 16)
    assert model.voices == ("a", "b")
    assert model.controls == {"voice", "pitch_ratio", "formant_ratio"}


def test_a_step_allocates_no_arrays():
    chunk = 16_384
    stream = load(delay_model({"a": 1.0}, chunk=chunk, pitch_controls=True)).open()
    buffers = [stream.audio_in, stream.audio_out, stream.voice, stream.pitch_ratio, stream.formant_ratio]
    stream.step()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(20):
            stream.step()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Any array of a chunk would be 64 KiB, at the peak if not after; what remains is Python's own small change.
    assert peak - before < 8192
    assert after - before < 8192
    now = [stream.audio_in, stream.audio_out, stream.voice, stream.pitch_ratio, stream.formant_ratio]
    assert all(one is other for one, other in zip(buffers, now, strict=True))


def test_streams_of_one_model_do_not_know_of_each_other_in_threads():
    model = load(accumulator_model("a"))
    sources = [noise(512 * 40, seed=seed) for seed in range(6)]
    expected = [run(model.open(), source) for source in sources]
    found: dict[int, np.ndarray] = {}

    def convert(index: int) -> None:
        found[index] = run(model.open(), sources[index])

    threads = [threading.Thread(target=convert, args=(index,)) for index in range(len(sources))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, one in enumerate(expected):
        assert np.array_equal(found[index], one)


def test_loading_leaves_the_float_arithmetic_of_the_host_alone():
    load(delay_model({"a": 1.0})).open().step()
    assert np.full(1, 1e-30, np.float32)[0] * np.float32(1e-10) > 0  # a denormal number is not flushed to zero


def refusal(model: onnx.ModelProto | bytes) -> str:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    with pytest.raises(ModelError) as caught:
        StreamModel.from_bytes(data, "hostile.onnx")
    message = str(caught.value)
    assert "hostile.onnx" in message and "\n" not in message and len(message) < 500
    return message


def graph(**changes: object) -> onnx.ModelProto:
    """A graph of chunk 8 with a state of 4 that copies its input; each part may be replaced."""
    parts: dict[str, object] = {
        "nodes": [
            helper.make_node("Identity", ["audio"], ["audio_out"]),
            helper.make_node("Identity", ["state_x"], ["next_state_x"]),
        ],
        "inputs": [value("audio", [1, 8]), value("voice", [1, 1]), value("state_x", [1, 4])],
        "outputs": [value("audio_out", [1, 8]), value("next_state_x", [1, 4])],
        "constants": [],
        "metadata": stream_metadata(voices=["a"], sample_rate=48_000, chunk=8, lookahead=0),
        "opsets": [],
    }
    assert changes.keys() <= parts.keys()
    return model_proto(**(parts | changes))  # type: ignore[arg-type]


def test_the_unchanged_graph_is_good():
    assert load(graph()).chunk == 8


METADATA = stream_metadata(voices=["a"], sample_rate=48_000, chunk=8, lookahead=0)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (None, "no metadata"),
        ("", "not valid"),
        ("not json", "not valid"),
        ("[]", "not valid"),
        ("{}", "not valid: format"),
        ("[" * 100_000, "not valid"),
        ('{"format": NaN}', "not valid"),
        (METADATA | {"format": 2}, "format"),
        (METADATA | {"kind": "song"}, "kind"),
        (METADATA | {"sample_rate": 7999}, "sample_rate"),
        (METADATA | {"sample_rate": "48000"}, "sample_rate"),
        (METADATA | {"sample_rate": float("nan")}, "sample_rate"),
        (METADATA | {"chunk": 0}, "chunk"),
        (METADATA | {"chunk": 8.5}, "chunk"),
        (METADATA | {"chunk": True}, "chunk"),
        (METADATA | {"chunk": 10**30}, "chunk"),
        (METADATA | {"lookahead": -1}, "lookahead"),
        (METADATA | {"receptive_field": None}, "receptive_field"),
        (METADATA | {"voices": []}, "voices"),
        (METADATA | {"voices": "a"}, "voices"),
        (METADATA | {"voices": ["../a"]}, "voices"),
        (METADATA | {"voices": ["a", "a"]}, "voices must differ"),
        (METADATA | {"controls": ["voice", "tempo"]}, "controls"),
        (METADATA | {"controls": ["voice", "voice"]}, "controls must differ"),
        (METADATA | {"controls": []}, "must contain 'voice'"),
        (METADATA | {"extra": 1}, "extra"),
        (METADATA | {"voices": ["a", "b"]}, "'voice' must have the shape [1, 2], got [1, 1]"),
        (METADATA | {"chunk": 16}, "'audio' must have the shape [1, 16], got [1, 8]"),
        (METADATA | {"controls": ["voice", "pitch_ratio"]}, "must have an input 'pitch_ratio'"),
        (METADATA | {"in_place": "state_x"}, "in_place"),
        (METADATA | {"in_place": ["state_x", "audio"]}, "in_place must name states of ['state_x'], got 'audio'"),
    ],
)
def test_metadata_that_is_off_is_named(metadata, words):
    assert words in refusal(graph(metadata=metadata))


AUDIO, VOICE, STATE = value("audio", [1, 8]), value("voice", [1, 1]), value("state_x", [1, 4])
AUDIO_OUT, NEXT = value("audio_out", [1, 8]), value("next_state_x", [1, 4])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": [AUDIO, VOICE, STATE, value("tempo", [1])]}, "input 'tempo' that neither"),
        ({"inputs": [AUDIO, VOICE, STATE, value("pitch_ratio", [1])]}, "input 'pitch_ratio' that neither"),
        ({"inputs": [AUDIO, VOICE, STATE, value("state_y", [1])]}, "must have an output 'next_state_y'"),
        ({"inputs": [AUDIO, STATE]}, "must have an input 'voice'"),
        ({"inputs": [AUDIO, value("voice", [1]), STATE]}, "'voice' must have the shape [1, 1], got [1]"),
        ({"inputs": [value("audio", [1, "n"]), VOICE, STATE]}, "'audio' must have a fixed shape"),
        ({"inputs": [value("audio", [1, 8, 1]), VOICE, STATE]}, "'audio'"),
        ({"inputs": [AUDIO, VOICE, value("state_x", ["n", 4])]}, "'state_x' must have a fixed shape"),
        ({"inputs": [AUDIO, VOICE, STATE, value("state_big", [1 << 13, 1 << 13])]}, "next_state_big"),
        ({"outputs": [AUDIO_OUT]}, "must have an output 'next_state_x'"),
        ({"outputs": [NEXT]}, "must have an output 'audio_out'"),
        (
            {
                "nodes": [
                    helper.make_node("Cast", ["audio"], ["audio_out"], to=TensorProto.FLOAT16),
                    helper.make_node("Identity", ["state_x"], ["next_state_x"]),
                ],
                "outputs": [value("audio_out", [1, 8], TensorProto.FLOAT16), NEXT],
            },
            "'audio_out' must be a float32 tensor, got tensor(float16)",
        ),
        (
            {
                "nodes": [
                    helper.make_node("Identity", ["audio"], ["audio_out"]),
                    helper.make_node("Concat", ["state_x", "state_x"], ["next_state_x"], axis=1),
                ],
                "outputs": [AUDIO_OUT, value("next_state_x", [1, 8])],
            },
            "'next_state_x' must have the shape [1, 4], got [1, 8]",
        ),
        (
            {
                "nodes": [
                    helper.make_node("Identity", ["audio"], ["audio_out"]),
                    helper.make_node("Identity", ["state_x"], ["next_state_x"]),
                    helper.make_node("Identity", ["state_x"], ["spare"]),
                ],
                "outputs": [AUDIO_OUT, NEXT, value("spare", [1, 4])],
            },
            "output 'spare' that neither",
        ),
    ],
)
def test_a_signature_that_is_off_is_named(changes, words):
    assert words in refusal(graph(**changes))


def test_states_are_bounded_together():
    shape = [1 << 12, 1 << 12]
    states = [value(f"state_{name}", shape) for name in "xy"]
    nodes = [
        helper.make_node("Identity", ["audio"], ["audio_out"]),
        *(helper.make_node("Identity", [f"state_{name}"], [f"next_state_{name}"]) for name in "xy"),
    ]
    outputs = [AUDIO_OUT, *(value(f"next_state_{name}", shape) for name in "xy")]
    assert "at most 16777216 values" in refusal(graph(nodes=nodes, inputs=[AUDIO, VOICE, *states], outputs=outputs))


@pytest.mark.parametrize(
    "last",
    [
        helper.make_node("Slice", ["audio", "zero", "count", "axis"], ["audio_out"]),  # 1 sample, where 8 are declared
        helper.make_node("GatherElements", ["audio", "beyond"], ["audio_out"], axis=1),  # the hundredth of 8
    ],
)
def test_a_graph_that_fails_only_when_it_runs_is_refused_at_once(last):
    nodes = [
        helper.make_node("Cast", ["voice"], ["one"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["one", "flat"], ["count"]),
        helper.make_node("Expand", ["hundred", "shape"], ["hundreds"]),
        helper.make_node("Mul", ["hundreds", "one"], ["beyond"]),
        last,
        helper.make_node("Identity", ["state_x"], ["next_state_x"]),
    ]
    constants = [
        constant("flat", [1], np.int64),
        constant("zero", [0], np.int64),
        constant("axis", [1], np.int64),
        constant("hundred", [[100]], np.int64),
        constant("shape", [1, 8], np.int64),
    ]
    assert "fails when it runs" in refusal(graph(nodes=nodes, constants=constants))


def test_a_graph_that_makes_nan_of_silence_is_refused():
    nodes = [
        helper.make_node("Div", ["audio", "audio"], ["audio_out"]),
        helper.make_node("Identity", ["state_x"], ["next_state_x"]),
    ]
    assert "finite" in refusal(graph(nodes=nodes))


FOREIGN = [
    helper.make_node("Steal", ["audio"], ["audio_out"], domain="evil.ops"),
    helper.make_node("Identity", ["state_x"], ["next_state_x"]),
]
EVIL = helper.make_opsetid("evil.ops", 1)


def branch(node: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph([node], "branch", [], [value("chosen", [1, 8])])


def test_operators_of_unknown_domains_are_refused_by_name():
    message = refusal(graph(nodes=FOREIGN, opsets=[EVIL]))
    assert "operator 'Steal' of the unknown domain 'evil.ops'" in message


def test_operators_of_unknown_domains_are_found_in_branches():
    nodes = [
        helper.make_node(
            "If",
            ["always"],
            ["audio_out"],
            then_branch=branch(helper.make_node("Identity", ["audio"], ["chosen"])),
            else_branch=branch(helper.make_node("Steal", ["audio"], ["chosen"], domain="evil.ops")),
        ),
        helper.make_node("Identity", ["state_x"], ["next_state_x"]),
    ]
    message = refusal(graph(nodes=nodes, constants=[constant("always", True, np.bool_)], opsets=[EVIL]))
    assert "unknown domain 'evil.ops'" in message


def test_a_function_that_the_model_defines_itself_is_no_unknown_domain():
    def model(body: onnx.NodeProto) -> onnx.ModelProto:
        made = graph(nodes=FOREIGN, opsets=[EVIL])
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("other.ops", 1)]
        made.functions.append(helper.make_function("evil.ops", "Steal", ["x"], ["y"], [body], opsets))
        return made

    stream = load(model(helper.make_node("Neg", ["x"], ["y"]))).open()
    assert np.array_equal(run(stream, noise(8)), -noise(8))
    assert "unknown domain 'other.ops'" in refusal(model(helper.make_node("Neg", ["x"], ["y"], domain="other.ops")))


@pytest.mark.parametrize("where", ["initializer", "attribute"])
def test_a_tensor_kept_in_another_file_is_refused_though_the_file_is_there(where, tmp_path, monkeypatch):
    (tmp_path / "secret.bin").write_bytes(np.full(8, 0.5, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    outside = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=[1, 8], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="secret.bin")
    nodes = [
        helper.make_node("Add", ["audio", "outside"], ["audio_out"]),
        helper.make_node("Identity", ["state_x"], ["next_state_x"]),
    ]
    if where == "attribute":
        nodes.insert(0, helper.make_node("Constant", [], ["outside"], value=outside))
    model = graph(nodes=nodes, constants=[outside] if where == "initializer" else [])
    assert "tensors in other files" in refusal(model)


GOOD = graph().SerializeToString()


@pytest.mark.parametrize("data", [b"", b"ONNX", b"\0" * 100, b"PK\x03\x04", b"\x18\0\0\0ORTM" + b"\0" * 64])
def test_what_is_no_onnx_file_is_refused(data):
    refusal(data)


@pytest.mark.parametrize("length", range(0, len(GOOD), 7))
def test_a_cut_file_is_refused_or_lacks_nothing_needed(length):
    # Cut between its last fields a protobuf message is whole again; it then lacks its metadata or its operator set.
    refusal(GOOD[:length])


def test_a_refusal_prints_nothing(capfd):
    refusal(GOOD.replace(b"audio_out", b"audio\xff\xff\xff\xff"))  # a name that is not UTF-8
    refusal(graph(nodes=[helper.make_node("NoSuchOperator", ["audio"], ["audio_out"])]))
    assert capfd.readouterr() == ("", "")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_spoiled_file_loads_or_is_refused_in_one_sentence(position, change):
    data = bytearray(GOOD)
    data[position] ^= change
    try:
        stream = StreamModel.from_bytes(bytes(data), "hostile.onnx").open()
    except ModelError as error:
        assert "\n" not in str(error)
    else:
        stream.step()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data):
    refusal(data)
