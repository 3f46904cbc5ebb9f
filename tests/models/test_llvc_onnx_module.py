"""Gradients through ONNX encoders: torch makes of them what ONNX Runtime makes, operator by operator and as a whole."""

import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from encoder_files import encoder_file
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")

from models.llvc.encoder_loss import EncoderLoss, load_encoder  # noqa: E402
from models.llvc.onnx_module import OPERATORS, OnnxModule  # noqa: E402

torch.set_num_threads(1)

FLOATS = {np.dtype("float32"): TensorProto.FLOAT, np.dtype("int64"): TensorProto.INT64, np.dtype("bool"): TensorProto.BOOL}


class Attention(torch.nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (torch.nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        batch, frames, width = x.shape
        parts = (part(x).view(batch, frames, self.heads, -1).transpose(1, 2) for part in (self.query, self.key, self.value))
        query, key, value = parts
        weights = torch.softmax(query @ key.transpose(2, 3) * (width // self.heads) ** -0.5, -1)
        return self.out((weights @ value).transpose(1, 2).reshape(batch, frames, width))


class Layer(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attention, self.norm, self.last_norm = Attention(width, 4), torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.feed = torch.nn.Sequential(torch.nn.Linear(width, 2 * width), torch.nn.GELU(), torch.nn.Linear(2 * width, width))

    def forward(self, x):
        x = self.norm(x + self.attention(x))
        return self.last_norm(x + self.feed(x))


class Hubert(torch.nn.Module):
    """HuBERT's layers, narrower: seven convolutions, a convolution that tells places, a transformer."""

    def __init__(self, channels=16, width=32):
        super().__init__()
        sizes = zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), (1, *[channels] * 6), strict=True)
        self.convolutions = torch.nn.ModuleList(torch.nn.Conv1d(before, channels, *size, bias=False) for *size, before in sizes)
        self.group_norm, self.norm = torch.nn.GroupNorm(channels, channels), torch.nn.LayerNorm(channels)
        self.project, self.layers = torch.nn.Linear(channels, width), torch.nn.ModuleList(Layer(width) for _ in range(2))
        self.places = torch.nn.Conv1d(width, width, 128, padding=64, groups=16)
        self.last = torch.nn.Linear(width, 256)

    def forward(self, source):
        x = source
        for number, convolution in enumerate(self.convolutions):
            x = convolution(x)
            x = torch.nn.functional.gelu(self.group_norm(x) if number == 0 else x)
        x = self.project(self.norm(x.transpose(1, 2)))
        x = x + torch.nn.functional.gelu(self.places(x.transpose(1, 2))[:, :, :-1]).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return self.last(x)


def hubert_file(path, opset):
    torch.manual_seed(0)
    model = Hubert().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.randn(1, 1, 16_000),), str(path), opset_version=opset, dynamo=False, input_names=["source"],
            output_names=["embed"], dynamic_axes={"source": {2: "N"}, "embed": {1: "T"}},
        )  # fmt: skip
    return path


@pytest.fixture(scope="module", params=[12, 17, 20])
def hubert(request, tmp_path_factory):
    return hubert_file(tmp_path_factory.mktemp("hubert") / "hubert.onnx", request.param)


def test_an_onnx_hubert_gives_what_the_runtime_gives(hubert):
    session = ort.InferenceSession(str(hubert), providers=["CPUExecutionProvider"])
    audio = 0.1 * torch.randn(2, 9_000)
    found = load_encoder(hubert, 16_000)(audio)
    for clip, frames in zip(audio, found, strict=True):
        (wanted,) = session.run(["embed"], {"source": clip[None, None].numpy()})
        np.testing.assert_allclose(frames, wanted[0], atol=1e-5)
    assert load_encoder(hubert, 48_000)(0.1 * torch.randn(1, 27_000)).shape == (1, 27, 256)


def test_it_runs_where_its_input_is(hubert):
    """As on a GPU, where numbers that lie elsewhere would not go together; the shapes are still known."""
    module = OnnxModule(onnx.load(hubert), "source", "embed").to("meta")
    assert module(torch.empty(1, 1, 9_000, device="meta")).shape == (1, 27, 256)


def test_a_range_lies_where_its_numbers_do(monkeypatch):
    """Numbers with a fraction are weights, which go to a GPU with the module. That device's own numbers are told here."""
    told = iter([2.0, 0.0, 0.5])  # limit, start, delta
    monkeypatch.setattr(torch.Tensor, "item", lambda value: next(told))
    module = OnnxModule(model_of("Range", [np.float32(0), np.float32(2), np.float32(0.5)], {}, 17), "in0", "out0").to("meta")
    made = module(torch.empty((), device="meta"))
    assert (made.shape, made.device.type) == ((4,), "meta")


@pytest.mark.parametrize("distance", ["l1", "mse"])
def test_the_loss_and_its_gradient_through_an_onnx_hubert(hubert, distance):
    torch.manual_seed(1)
    loss = EncoderLoss(load_encoder(hubert, 16_000), distance).train().double()
    made, recorded = (0.1 * torch.randn(2, 4_000, dtype=torch.float64) for _ in range(2))
    found, wanted = loss.encoder(made), loss.encoder(recorded)
    off = (found - wanted).detach()
    assert loss.distance == distance

    def value(audio):
        heard = loss.encoder(audio) - wanted
        return (heard.abs() if distance == "l1" else heard.square()).mean()

    made.requires_grad_()
    (slope,) = torch.autograd.grad(value(made), made)
    way = torch.randn_like(made)
    with torch.no_grad():
        difference = (value(made + 1e-6 * way) - value(made - 1e-6 * way)) / 2e-6
    assert (slope * way).sum().item() == pytest.approx(difference.item(), rel=1e-4)

    single = EncoderLoss(load_encoder(hubert, 16_000), distance)
    heard = made.detach().float().requires_grad_()
    measured = single(heard, recorded.float())
    assert measured.item() == pytest.approx((off.abs() if distance == "l1" else off.square()).mean().item(), rel=1e-3)
    measured.backward()
    torch.testing.assert_close(heard.grad.double(), slope, rtol=1e-2, atol=1e-3 * slope.abs().max().item())
    assert all(parameter.grad is None for parameter in single.parameters())
    assert single(recorded, recorded) == 0


def ints(*values):
    return np.array(values, np.int64)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X = noise(2, 6, 5)
SCALE, SHIFT = noise(6, seed=1), noise(6, seed=2)
# Operator, inputs (None is left out), attributes, operator set, and the number of outputs where there are several.
CASES = [
    *((name, [X], {}, 17) for name in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Identity", "Neg", "Reciprocal", "Relu")),
    *((name, [X], {}, 17) for name in ("Shape", "Sigmoid", "Sign", "Sin", "Size", "Softplus", "Tanh", "Transpose", "Elu")),
    *((name, [np.abs(X)], {}, 17) for name in ("Log", "Sqrt")),
    *((name, [X, noise(6, 1, seed=1)], {}, 17) for name in ("Add", "Div", "Mul", "Sub", "Equal", "Greater", "GreaterOrEqual")),
    *((name, [X, noise(5, seed=1)], {}, 17) for name in ("Less", "LessOrEqual", "Max", "Min")),
    ("Max", [X, SHIFT[:, None], X[:1]], {}, 17),
    ("MatMul", [X, noise(5, 3)], {}, 17),
    *((name, [X > 0, noise(6, 5) > 0], {}, 17) for name in ("And", "Or", "Xor")),
    ("Not", [X > 0], {}, 17),
    ("Where", [X > 0, X, np.float32(3)], {}, 17),
    ("Pow", [np.abs(X), np.float32(1.5)], {}, 17),
    ("Pow", [ints(1, 2, 3), np.float32(2)], {}, 17),
    ("Div", [ints(7, -7), ints(2, 2)], {}, 17),
    ("Mod", [ints(7, -7), ints(3, 3)], {}, 17),
    ("Mod", [X, noise(5, seed=1)], {"fmod": 1}, 17),
    ("Clip", [X, np.float32(-0.5), np.float32(0.5)], {}, 17),
    ("Clip", [X, None, np.float32(0.5)], {}, 17),
    ("Clip", [X], {"min": -0.5, "max": 0.5}, 10),
    ("Elu", [X], {"alpha": 0.5}, 17),
    ("LeakyRelu", [X], {"alpha": 0.2}, 17),
    ("Gelu", [X], {}, 20),
    ("Gelu", [X], {"approximate": "tanh"}, 20),
    ("Softmax", [X], {"axis": 1}, 17),
    ("Softmax", [X], {"axis": 1}, 11),
    ("Dropout", [X], {}, 17),
    ("Cast", [X], {"to": TensorProto.INT64}, 17),
    ("Cast", [ints(1, 2)], {"to": TensorProto.FLOAT}, 17),
    ("Constant", [], {"value": numpy_helper.from_array(X)}, 17),
    ("Constant", [], {"value_ints": [1, 2]}, 17),
    ("Constant", [], {"value_float": 0.5}, 17),
    ("ConstantOfShape", [ints(2, 3)], {}, 17),
    ("ConstantOfShape", [ints(2, 3)], {"value": numpy_helper.from_array(ints(7))}, 17),
    ("Range", [np.int64(2), np.int64(11), np.int64(3)], {}, 17),
    ("Range", [np.float32(1), np.float32(-1), np.float32(-0.5)], {}, 17),
    ("Shape", [X], {"start": 1, "end": -1}, 17),
    ("Reshape", [X, ints(0, -1, 3)], {}, 17),
    ("Flatten", [X], {}, 17),
    ("Flatten", [X], {"axis": -1}, 17),
    ("Squeeze", [X[:1, :, :1]], {}, 17),
    ("Squeeze", [X[:1, :, :1], ints(-1)], {}, 17),
    ("Squeeze", [X[:1, :, :1]], {"axes": [0, 2]}, 11),
    ("Unsqueeze", [X, ints(0, -1)], {}, 17),
    ("Unsqueeze", [X], {"axes": [1]}, 11),
    ("Transpose", [X], {"perm": [0, 2, 1]}, 17),
    ("Expand", [X[:, :1], ints(2, 1, 6, 1)], {}, 17),
    ("Tile", [X, ints(1, 2, 3)], {}, 17),
    ("Concat", [X, X[:, :2]], {"axis": 1}, 17),
    ("Split", [X], {"axis": 1}, 17, 3),
    ("Split", [X, ints(1, 4, 1)], {"axis": 1}, 17, 3),
    ("Split", [X], {"axis": 1, "split": [2, 4]}, 11, 2),
    ("Split", [X], {"axis": -1, "num_outputs": 2}, 18, 2),
    ("Slice", [X, ints(1, -4), ints(2**62, -1), ints(0, 2)], {}, 17),
    ("Slice", [X, ints(-1), ints(-(2**62)), ints(1), ints(-2)], {}, 17),
    ("Slice", [X, ints(0, 1, 1)[:2], ints(2, 3)], {}, 17),
    ("Slice", [X], {"starts": [1], "ends": [9], "axes": [1]}, 9),
    ("Pad", [X, ints(0, 1, 2, 0, 0, 3), np.float32(0.5)], {}, 17),
    ("Pad", [X, ints(0, 1, -2, 0, 0, 3)], {}, 17),
    ("Pad", [X, ints(0, 0, 2, 0, 0, 3)], {"mode": "reflect"}, 17),
    ("Pad", [X, ints(0, 0, 2, 0, 0, 3)], {"mode": "edge"}, 17),
    ("Pad", [X, ints(2, 3), None, ints(-1)], {}, 18),
    ("Gather", [X, ints(-1, 2)], {"axis": 1}, 17),
    ("Gather", [X, np.int64(1)], {}, 17),
    ("Gather", [X, ints(0, 1, 1, 0).reshape(2, 2)], {"axis": 2}, 17),
    ("GatherElements", [X, np.full((2, 3, 5), -1)], {"axis": 1}, 17),
    ("NonZero", [X > 0.5], {}, 17),
    ("ScatterND", [X, ints(0, 5, 1, 2).reshape(2, 2), noise(2, 5, seed=3)], {}, 17),
    ("Trilu", [X], {"upper": 0}, 17),
    ("Trilu", [X, np.int64(1)], {}, 17),
    *((f"Reduce{name}", [X], {"axes": [1, -1], "keepdims": 0}, 11) for name in ("Mean", "Sum", "Max", "Min", "L2", "Prod")),
    *((f"Reduce{name}", [X, ints(1)], {}, 18) for name in ("Mean", "Sum", "Max", "Min", "L2", "Prod")),
    *((f"Reduce{name}", [X], {}, 18) for name in ("Mean", "Sum", "Max", "Min", "L2", "Prod")),
    ("ReduceMean", [X], {"noop_with_empty_axes": 1}, 18),
    ("ReduceSum", [ints(1, 2, 3)], {}, 17),
    ("Conv", [X, noise(4, 3, 3, seed=1), SHIFT[:4]], {"group": 2, "strides": [2], "dilations": [2], "pads": [1, 3]}, 17),
    ("Conv", [X[:, :, :, None], noise(4, 6, 3, 1, seed=1)], {"pads": [1, 0, 2, 0]}, 17),
    ("Gemm", [X[0], noise(6, 3, seed=1), noise(3, seed=2)], {"transA": 1, "alpha": 0.5, "beta": 2.0}, 17),
    ("Gemm", [X[0], noise(3, 5, seed=1)], {"transB": 1}, 17),
    ("LayerNormalization", [X, noise(5, seed=1), noise(5, seed=2)], {"epsilon": 1e-3}, 17),
    ("LayerNormalization", [X, noise(6, 5, seed=1)], {"axis": 1}, 17),
    ("GroupNormalization", [X, SCALE, SHIFT], {"num_groups": 3}, 21),
    ("GroupNormalization", [X, SCALE[:3], SHIFT[:3]], {"num_groups": 3}, 18),
    ("InstanceNormalization", [X, SCALE, SHIFT], {}, 17),
    ("BatchNormalization", [X, SCALE, SHIFT, noise(6, seed=3), np.abs(noise(6, seed=4))], {}, 17),
]


def model_of(kind, inputs, attributes, opset, outputs=1, domain=""):
    """One operator. Its first input is the graph's own, the others are tensors of the file."""
    names = ["" if value is None else f"in{place}" for place, value in enumerate(inputs)]
    made = [f"out{place}" for place in range(outputs)]
    sources = [
        helper.make_tensor_value_info(name, FLOATS[np.asarray(value).dtype], np.shape(value))
        for name, value in list(zip(names, inputs, strict=True))[:1]
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, names, made, domain=domain, **attributes)],
        "one",
        sources,
        [onnx.ValueInfoProto(name=name) for name in made],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in zip(names[1:], inputs[1:], strict=True) if name],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[3]}")
def test_an_operator_is_the_runtimes(case):
    _, inputs, _, _, *rest = case
    model = model_of(*case)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    first = np.array(inputs[0]) if inputs else np.zeros(1, np.float32)
    wanted = session.run(None, {"in0": first} if inputs else {})
    for place in range(*rest or (1,)):
        found = OnnxModule(model, "in0", f"out{place}")(torch.from_numpy(first))
        assert found.numpy().dtype == wanted[place].dtype
        np.testing.assert_allclose(found.numpy(), wanted[place], rtol=1e-5, atol=1e-5)
        assert found.shape == wanted[place].shape


def test_every_operator_is_held_to_the_runtime():
    assert {case[0] for case in CASES} == {*OPERATORS, "Constant"}


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        (("Det", [noise(3, 3)], {}, 17), "its operator 'Det' is not known here"),
        (("Gelu", [X], {}, 17, 1, "com.microsoft"), "its operator 'Gelu' is not known here"),
        (("ConstantOfShape", [ints(2**20, 2**20)], {}, 17), "a tensor in it would have 1099511627776 values"),
        (("Tile", [X, ints(1, 2**20, 2**20)], {}, 17), "a tensor in it would have"),
        (("Expand", [X, ints(2**30, 1, 1, 1)], {}, 17), "a tensor in it would have"),
        (("Pad", [X, ints(0, 0, 2**40, 0, 0, 0)], {}, 17), "a tensor in it would have"),
        (("Range", [np.int64(0), np.int64(2**40), np.int64(1)], {}, 17), "a tensor in it would have"),
        (("Reshape", [X, ints(7, 7)], {}, 17), "its operator Reshape fails: "),
        (("Cast", [X], {"to": TensorProto.UINT8}, 17), "it casts to a kind of number that has no gradients"),
        (("Cast", [X], {}, 17), "its operator Cast wants 'to', which nothing gives"),
        (("Conv", [X, noise(4, 6, 3)], {"auto_pad": "SAME_UPPER"}, 17), "a convolution that pads by itself"),
        (("Add", [X, np.ones(5, np.uint8)], {}, 17), "its tensor 'in1' is of a kind that has no gradients"),
        (("Add", [X, None], {}, 17), "its operator Add fails: "),
    ],
)
def test_graphs_that_are_refused(case, problem):
    model = model_of(*case)
    with pytest.raises(ValueError) as error:
        OnnxModule(model, "in0", "out0")(torch.from_numpy(np.array(case[1][0])))
    assert problem in str(error.value) and "\n" not in str(error.value)


def test_a_graph_of_too_many_operators_is_refused():
    model = model_of("Neg", [X], {}, 17)
    model.graph.node.extend(helper.make_node("Neg", [f"out{k}"], [f"out{k + 1}"]) for k in range(20_000))
    with pytest.raises(ValueError, match="it has 20001 operators, more than 20000"):
        OnnxModule(model, "in0", "out20000")


def test_encoder_files_that_are_refused(tmp_path, hubert):
    def sentence(path):
        with pytest.raises(ValueError, match=rf"the loss needs gradients, which {path.name} cannot give: ") as error:
            load_encoder(path, 16_000)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "has one float32 input 'source'" in sentence(encoder_file(tmp_path / "other.onnx", source="sound"))
    (tmp_path / "broken.onnx").write_bytes(hubert.read_bytes()[:5000])
    assert "not all of one" in sentence(tmp_path / "broken.onnx")

    model = onnx.load(encoder_file(tmp_path / "deaf.onnx"))
    model.graph.node.insert(1, helper.make_node("ConstantOfShape", ["shape"], ["silence"]))
    model.graph.node.insert(1, helper.make_node("Shape", ["frames"], ["shape"]))
    model.graph.node[3].input[0] = "silence"
    onnx.save(model, tmp_path / "deaf.onnx")
    assert "does not hang on what it hears" in sentence(tmp_path / "deaf.onnx")

    outside = onnx.load(hubert)
    onnx.save(outside, tmp_path / "outside.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert "keeps tensors in other files" in sentence(tmp_path / "outside.onnx")
