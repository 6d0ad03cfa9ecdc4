"""tq.export(target="onnx"): onnxruntime computes what torch does, on codes that stay codes."""

import importlib.util
import runpy

import pytest
import torch
from conftest import BENCHMARKS, require
from torch import nn

import tqlearn as tq
from tqlearn.export.grids import rounding_of
from tqlearn.export.tracing import axes_of, lined_up
from tqlearn.quantizers import RunningRange

INNER = 32
PRODUCTS = {  # branch -> edits of a linear layer, and the operator that multiplies
    "four bits": ([tq.LSQ(4)], "MatMulNBits"),
    "two bits, by row": ([tq.LSQ(2, per="channel")], "MatMulNBits"),
    "three bits": ([tq.LSQ(3)], "MatMulNBits"),
    "six bits": ([tq.LSQ(6)], "MatMulNBits"),
    "ternary": ([tq.Ternary()], "MatMulNBits"),
    "no zero": ([tq.SAWB(4, zero=False)], "MatMulNBits"),
    "odd zero": ([tq.SAWB(4)], "MatMulNBits"),
    "groups": ([tq.LSQ(4, per=16)], "MatMulNBits"),
    "groups, short scales": ([tq.LSQ(4, per=16, scale_dtype="bfloat16")], "MatMulNBits"),
    "groups of 8": ([tq.LSQ(4, per=8)], "MatMul"),
    "asymmetric": ([tq.Uniform(8, per="channel")], "MatMulNBits"),
    "asymmetric groups": ([tq.Uniform(4, per=16)], "MatMul"),
    "2:4": ([tq.TwoFour(), tq.SAWB(4)], "MatMulNBits"),
    "2:4, 2 bits": ([tq.TwoFour(), tq.LSQ(2, per=16)], "MatMulNBits"),
    "1:4": ([tq.TwoFour("1:4"), tq.LSQ(4)], "MatMulNBits"),
    "4:8": ([tq.TwoFour("4:8"), tq.LSQ(4)], "MatMulNBits"),
    "2:4, 3 bits": ([tq.TwoFour(), tq.LSQ(3)], "MatMulNBits"),
    "2:4 in floats": ([tq.TwoFour()], "MatMul"),
    "train": ([tq.TT(rank=4, order=2), tq.LSQ(4)], "MatMul"),
    "pair": ([tq.LowRank(rank=16), tq.LSQ(8)], "MatMul"),
    "pair, 4 bits": ([tq.LowRank(rank=24), tq.LSQ(4)], "MatMulNBits"),
    "product": ([tq.Kronecker(rank=2), tq.LSQ(4)], "MatMul"),
    "rounded": ([tq.LSQ(8), tq.Inputs(tq.LSQ(8))], "MatMulIntegerToFloat"),
    "rounded, by row": ([tq.LSQ(4, per="channel"), tq.Inputs(tq.LSQ(4))], "MatMulIntegerToFloat"),
    "rounded, shifted": ([tq.Uniform(8), tq.Inputs(tq.Uniform(8))], "MatMulIntegerToFloat"),
    "rounded, wide": ([tq.LSQ(8, init="max"), tq.Inputs(tq.LSQ(8))], "MatMulIntegerToFloat"),
    "rounded train": (
        [tq.TT(rank=24, order=2), tq.LSQ(8, activations=8)],
        "MatMulIntegerToFloat",
    ),
    "rounded, clipped": ([tq.LSQ(8), tq.Inputs(tq.PACT(6))], "MatMulIntegerToFloat"),
}
TABLES = {
    "words, 4 bits": ([tq.LSQ(4)], "GatherBlockQuantized"),
    "words, 2 bits": ([tq.LSQ(2, per="channel")], "GatherBlockQuantized"),
    "words, groups": ([tq.LSQ(8, per=16)], "GatherBlockQuantized"),
    "words, short scales": (
        [tq.LSQ(8, per=16, scale_dtype="float16")],
        "GatherBlockQuantized",
    ),
    "words, asymmetric": ([tq.Uniform(4, per="channel")], "GatherBlockQuantized"),
    "words, train": ([tq.TTM(rank=4, order=2), tq.LSQ(4)], "Gather"),
}


HEADS = {  # way to attend -> the operators of it
    "attends": {"Attention"},
    "attends, some keys": {"Attention", "Expand"},
    "attends, some pairs": {"Attention"},
    "attends, fewer queries": {"Attention", "Expand"},
    "attends, heads in front": {"Attention", "Transpose"},
    "attends, from heads": {"Attention", "Transpose"},
    "attends, causal": {"Softmax"},
}


class Branches(nn.Module):
    """One layer for each way a weight can be stored: a trace costs more than all that is in it."""

    def __init__(self):
        super().__init__()
        self.names = {name: f"m{i}" for i, name in enumerate(PRODUCTS | TABLES)}
        for name in PRODUCTS:
            self.add_module(self.names[name], nn.Linear(INNER, 24))
        for name in TABLES:
            self.add_module(self.names[name], nn.Embedding(40, INNER))
        self.shared = nn.Embedding(40, INNER)
        self.out = nn.Linear(INNER, 40, bias=False)
        self.out.weight = self.shared.weight
        self.conv = nn.Conv1d(INNER, 12, 3)

    def forward(self, x, ids):
        found = {name: getattr(self, own)(x if name in PRODUCTS else ids)
                 for name, own in self.names.items()}  # fmt: skip
        found["shared"] = self.shared(ids)
        found["tied"] = self.out(x)
        found["conv"] = self.conv(x.transpose(1, 2))
        return found | attended(x, ids)


def attended(x, ids):
    """Attention as models have it, and as none has: a row of a mask may leave no key."""
    q, k, v = (y.unflatten(-1, (4, 8)).transpose(1, 2) for y in (x, x * 2, x + 1))
    attend = nn.functional.scaled_dot_product_attention
    keys, pairs = ids > 10, (ids[:, :, None] % 3 > 0) & (ids[:, None] > 10)
    outs = [
        attend(q, k, v),
        attend(q, k, v, keys[:, None, None]),
        attend(q, k, v, pairs[:, None], scale=0.5),
        attend(q[:, :, 1:], k, v, keys[:, None, None]),
        attend(q, k, v),
        attend(q * 2, k, v),
        attend(q, k, v, is_causal=True),
    ]
    back = [
        y if "front" in name else y.transpose(1, 2).flatten(2)
        for name, y in zip(HEADS, outs, strict=True)
    ]
    return dict(zip(HEADS, back, strict=True))


def batch(rows, tokens):
    x = torch.randn(rows, tokens, INNER)
    return {"x": x, "ids": torch.randint(40, (rows, tokens))}


@pytest.fixture(scope="module")
def ship():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        require(importlib.util.find_spec(name), f"{name} is missing: pip install 'tqlearn[ship]'")


@pytest.fixture(scope="module")
def session():
    """``benchmarks/engines.py``'s, which this file cannot import by its name."""
    return runpy.run_path(str(BENCHMARKS / "engines.py"))["session"]


@pytest.fixture(scope="module")
def exported(ship, session, tmp_path_factory):
    """The model, a session, and who computes what in the graph that onnxruntime runs."""
    import onnx

    torch.manual_seed(0)
    net = Branches()
    edits = {net.names[name]: made for name, (made, _) in (PRODUCTS | TABLES).items()}
    plan = edits | {"shared": [tq.LSQ(4)], "conv": [tq.LSQ(4, per="channel")]}
    student = tq.calibrate(tq.compress(net, plan), [batch(4, 9)]).eval()
    folder = tmp_path_factory.mktemp("onnx")
    file, seen = folder / "net.onnx", folder / "seen.onnx"
    given = batch(1, 5)  # a batch of one is doubled for the trace
    axes = {"x": {0: "batch", 1: "length"}}
    assert tq.export(student, file, given, axes=axes) == file
    engine = session(file, seen)
    return student, engine, onnx.load(file), onnx.load(seen)


def producers(graph, name):
    """Return the operators on the way back from an output, up to the inputs of the model."""
    by_output = {out: node for node in graph.node for out in node.output}
    found, wanted = {}, [name]
    while wanted:
        name = wanted.pop()
        if name in by_output and name not in found:
            found[name] = by_output[name].op_type
            wanted += by_output[name].input
    return set(found.values())


@pytest.fixture(scope="module")
def outputs(exported):
    """What torch and onnxruntime give for two sizes that the trace has not seen."""
    student, engine, *_ = exported
    names = [value.name for value in engine.get_outputs()]
    found = []
    for rows, tokens in ((3, 4), (1, 7)):
        torch.manual_seed(1)
        given = batch(rows, tokens)
        with torch.no_grad():
            want = student(**given)
        have = engine.run(None, {k: v.numpy() for k, v in given.items()})
        found.append((want, dict(zip(names, map(torch.from_numpy, have), strict=True))))
    return found


@pytest.mark.parametrize("name", [*PRODUCTS, *TABLES, *HEADS, "shared", "tied", "conv"])
def test_equal_to_torch(outputs, name):
    for want, have in outputs:
        top = want[name].abs().max()
        torch.testing.assert_close(have[name] / top, want[name] / top, rtol=0, atol=3e-6)


@pytest.mark.parametrize("name", [*PRODUCTS, *TABLES])
def test_the_operator_that_runs(exported, name):
    *_, seen = exported
    assert (PRODUCTS | TABLES)[name][1] in producers(seen.graph, name)


@pytest.mark.slow
def test_groups_that_fill_no_whole_bytes(ship, session, tmp_path):
    """A stream ends within eight groups: rows and columns of few, whatever the bits and pattern."""

    class Odd(nn.ModuleDict):
        def forward(self, x):
            return {name: layer(x) for name, layer in self.items()}

    patterns = "2:4", "1:4", "1:2"
    ways = {
        f"{out} {bits} {pattern}".replace(" ", "_").replace(":", "of"): (out, bits, pattern)
        for out in (1, 3, 7)
        for bits in (2, 3, 4, 8)
        for pattern in patterns
    }
    torch.manual_seed(0)
    net = Odd({name: nn.Linear(16, out) for name, (out, _, _) in ways.items()})
    plan = {name: [tq.TwoFour(p), tq.LSQ(bits)] for name, (_, bits, p) in ways.items()}
    student, x = tq.calibrate(tq.compress(net, plan)).eval(), torch.randn(4, 16)
    engine = session(tq.export(student, tmp_path / "odd.onnx", {"x": x}, axes={"x": {0: "batch"}}))
    names = [output.name for output in engine.get_outputs()]
    found = dict(zip(names, engine.run(None, {"x": x.numpy()}), strict=True))
    with torch.no_grad():
        for name, wanted in student(x).items():
            torch.testing.assert_close(torch.from_numpy(found[name]), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name", [name for name in PRODUCTS if ":" in name and "floats" not in name]
)
def test_groups_are_looked_up_where_their_codes_and_places_fill_bytes(exported, name):
    """An index for each group, not one of 64 bits for each kept number."""
    *_, graph, _ = exported
    found = producers(graph.graph, name)
    assert ("ScatterElements" in found) == (name in ("4:8", "2:4, 3 bits"))
    assert ("Gather" in found) and ("BitwiseOr" in found) == ("ScatterElements" in found)


@pytest.mark.parametrize(
    ("name", "signed"),
    [
        ("rounded", True),
        ("rounded, by row", True),
        ("rounded train", True),
        ("rounded, wide", False),
    ],
)
def test_weights_are_signed_where_16_bits_hold_two_products(exported, name, signed):
    """Codes of "wide" fill 8 bits; a product has its bias with it, and factors meet as integers."""
    *_, seen = exported
    types = {tensor.name: tensor.data_type for tensor in seen.graph.initializer}
    by_output = {out: node for node in seen.graph.node for out in node.output}
    node = by_output[name]
    while node.op_type != "MatMulIntegerToFloat":
        assert node.op_type in ("Identity", "Reshape")
        node = by_output[node.input[0]]
    assert types[node.input[1]] == (3 if signed else 2) and len(node.input) == 7  # int8, uint8
    assert ("QLinearMatMul" in producers(seen.graph, name)) == ("train" in name)


@pytest.mark.parametrize("name", HEADS)
def test_attention_is_one_node_and_heads_stay_where_they_are(exported, name):
    *_, graph, seen = exported
    written, run = producers(graph.graph, name), producers(seen.graph, name)
    assert HEADS[name] <= written and ("Attention" in run) != ("Softmax" in run)
    moved = "Transpose" in HEADS[name] or "causal" in name or "fewer" in name
    assert ("Transpose" in written) == moved


def test_the_file_holds_codes_once(exported):
    """Each stream as it is stored, that of the shared table once; floats are scales and biases."""
    student, _, graph, _ = exported
    sizes = {t.name: len(t.raw_data) for t in graph.graph.initializer}
    packed = tq.pack(student).state_dict()
    streams = sum(t.numel() for t in packed.values() if t.dtype == torch.uint8)
    floats = sum(4 * t.numel() for n, t in packed.items() if t.is_floating_point()
                 if "shared" not in n)  # fmt: skip
    groups = 2**12 * 2 + 2**8 + 2**6 * 2  # what every group of 2:4 and 1:4 looks like, in bytes
    assert streams < sum(sizes.values()) - groups < streams + floats + 4000
    assert not {"Decode", "Round"} & {node.op_type for node in graph.graph.node}
    assert not any(node.metadata_props or node.doc_string for node in graph.graph.node)


def test_axes_and_names(exported):
    _, engine, *_ = exported
    assert {v.name: v.shape for v in engine.get_inputs()} == {
        "x": ["batch", "length", INNER], "ids": ["batch", "length"],
    }  # fmt: skip


def test_a_cache_is_a_line_of_tensors():
    """Whatever it comes as; lengths of what was and of what is new are axes of their own."""
    pair = torch.zeros(2, 2, 4, 8), torch.ones(2, 2, 4, 8)
    layer = type("Layer", (), {"keys": pair[0], "values": pair[1]})
    ids = torch.ones(2, 3, dtype=torch.long)
    for past in ([pair], type("Cache", (), {"layers": [layer]})()):
        given, by_name = lined_up(
            {"input_ids": ids, "attention_mask": ids, "past_key_values": past}
        )
        assert by_name and given["past_key_values.0.value"] is pair[1]
        assert axes_of(given) == {
            "input_ids": {0: "batch", 1: "length"},
            "attention_mask": {0: "batch", 1: "total_length"},
            "past_key_values.0.key": {0: "batch", 2: "past_length"},
            "past_key_values.0.value": {0: "batch", 2: "past_length"},
        }


def test_what_is_no_cache_is_refused():
    with pytest.raises(TypeError, match="past_key_values is a cache of a decoder or a pair"):
        lined_up({"past_key_values": object()})


def test_codes_inside_a_branch_are_refused_by_name(ship):
    """A model with ``torch.cond`` has such a graph; written by hand, as it takes long to trace."""
    from onnx import TensorProto, helper

    from tqlearn.export.lowering import Lowering

    inner = helper.make_node("Decode", ["codes"], ["w"], domain="tqlearn", key="layer.weight")
    value = helper.make_tensor_value_info("w", TensorProto.FLOAT, [2])
    body = helper.make_graph([inner], "body", [], [value])
    node = helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=body)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    model = helper.make_model(helper.make_graph([node], "net", [], [out]))
    with pytest.raises(ValueError, match="layer.weight is read inside a branch or a loop"):
        Lowering(model, {}, {}).run()


@pytest.mark.slow
def test_a_decoder_writes_the_same_with_its_cache(ship, session, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        bos_token_id=1, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    student = tq.calibrate(tq.compress(model, {"*": [tq.LSQ(4)]}))
    ids = torch.randint(3, 60, (2, 3))
    past = student(ids, use_cache=True).past_key_values
    mask = torch.ones(2, 6, dtype=torch.long)
    given = {"input_ids": ids, "attention_mask": mask, "past_key_values": past}
    engine = session(tq.export(student, tmp_path / "llama.onnx", given))
    names = [value.name for value in engine.get_outputs()]
    assert names == ["logits", "present.0.key", "present.0.value"]
    empty = torch.zeros(2, 2, 0, 8).numpy()
    cache, step, text = {"key": empty, "value": empty}, ids, ids
    for _ in range(6):
        fed = {"input_ids": step.numpy(), "attention_mask": torch.ones_like(text).numpy()}
        fed |= {f"past_key_values.0.{kind}": x for kind, x in cache.items()}
        found = dict(zip(names, engine.run(None, fed), strict=True))
        cache = {kind: found[f"present.0.{kind}"] for kind in cache}
        step = torch.from_numpy(found["logits"])[:, -1:].argmax(-1)
        text = torch.cat([text, step], 1)
    wanted = student.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6,
                              do_sample=False)  # fmt: skip
    assert torch.equal(text, wanted)


@tq.register
class Bent(nn.Module):
    """A quantizer whose codes are no multiples of a scale."""

    bits, qmin, qmax = 4, -8, 7

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor(0.1))

    def calibrate(self, x):
        return self

    def codes(self, x):
        return (x / self.scale).clamp(-8, 7).round().to(torch.int16)

    def forward(self, x):
        return self.codes(x).float() ** 3 * self.scale

    def config(self):
        return {}


def bent(layer):
    layer.quant_input = Bent()
    return layer


def halved(layer):
    return layer.half()


@pytest.mark.parametrize(
    ("edits", "inputs", "words"),
    [
        ([tq.LSQ(4)], torch.ones(2, 8), "1 quantizers have no scale yet, the first is '0"),
        ([bent], torch.ones(2, 8), "0.quant_input is not .code - zero. . scale.*bake"),
        ([halved], torch.ones(2, 8), "0.weight is torch.float16.*model.float"),
        ([], {"x": "text"}, "x is a str; leave it out"),
        ([], None, "give inputs, such as a batch"),
    ],
)
def test_refused_by_name_before_anything_is_written(ship, tmp_path, edits, inputs, words):
    net = tq.compress(nn.Sequential(nn.Linear(8, 4)), {"0": edits})
    with pytest.raises((ValueError, TypeError), match=words):
        tq.export(net, tmp_path / "deep" / "net.onnx", inputs)
    assert not [*tmp_path.iterdir()]


def test_refusals_of_arguments(ship, tmp_path):
    net, x = nn.Linear(8, 4), torch.ones(2, 8)
    with pytest.raises(ValueError, match=r"target is one of .*'onnx'.* got 'tflite'"):
        tq.export(net, tmp_path / "x", x, target="tflite")
    with pytest.raises(ValueError, match="is a folder, and ONNX is a file"):
        tq.export(net, tmp_path, x)
    with pytest.raises(ValueError, match=r"axes are of inputs \['input_0'\], got \['y'\]"):
        tq.export(net, tmp_path / "x.onnx", x, axes={"y": {0: "batch"}})
    with pytest.raises(ValueError, match="axis 1 of input_0 shall vary.*two rows and tokens"):
        tq.export(net, tmp_path / "x.onnx", torch.ones(2, 1))
    assert not [*tmp_path.iterdir()]


def test_what_torch_cannot_trace_is_said(ship, tmp_path, monkeypatch):
    """In the words of the error behind torch's pages of advice."""
    from torch.onnx import OnnxExporterError

    def fail(*args, **kwargs):
        raise OnnxExporterError("pages of advice") from RuntimeError("data-dependent\nand more")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ValueError, match="cannot trace this Linear: data-dependent; if that is"):
        tq.export(nn.Linear(8, 4), tmp_path / "x.onnx", torch.ones(2, 8))
    assert not [*tmp_path.iterdir()]


def test_a_range_per_feature_is_one_per_feature():
    q = RunningRange(bits=8, features=3).calibrate(torch.randn(2, 4, 3)).eval()
    found = rounding_of("here", q)
    assert found.scale.shape == found.whole.shape == (3,) and found.levels == 256
    with pytest.raises(ValueError, match="here is switched off"):
        tq.quantizers.switch(q, rounds=False)
        rounding_of("here", q)
