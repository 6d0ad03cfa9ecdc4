"""A translation Transformer quantized whole: what is, what is not, sizes, saving, integers."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import tqlearn as tq
from tqlearn import MinMax
from tqlearn.models import Transformer, beam_search, sizes
from tqlearn.quantizers import integers
from tqlearn.quantizers.ranges import Uniform
from tqlearn.quantizers.running_ranges import RunningRange

SMALL = {"vocabulary": 23, "width": 16, "ffn": 24, "heads": 4, "layers": 2, "length": 40}
SOURCE = torch.tensor([[5, 6, 7, 8, 2], [9, 10, 2, 0, 0]])
LABELS = torch.tensor([[11, 12, 13, 14, 2], [13, 2, -100, -100, -100]])
BATCH = {"input_ids": SOURCE, "attention_mask": (SOURCE != 0).long(), "labels": LABELS}


def teacher():
    torch.manual_seed(0)
    return Transformer(**SMALL).eval()


def student(plan=None, **settings):
    plan = plan or {"*": [MinMax(**({"bits": 8} | settings))]}
    return tq.calibrate(tq.compress(teacher(), plan), [BATCH, BATCH])


def test_check_6_census():
    """17 quantizers per encoder layer, 28 per decoder layer, 2 sums; no bias, no beta."""

    def count(module):
        return sum(isinstance(m, RunningRange) for m in module.modules())

    model = student()
    assert [count(layer) for layer in model.encoder["layers"]] == [17, 17]
    assert [count(layer) for layer in model.decoder["layers"]] == [28, 28]
    assert count(model) == 2 * (17 + 28) + 2
    on_weights = [n for n, m in model.named_modules() if type(m) is Uniform]
    assert len(on_weights) == 2 * (6 + 10) + 1 + 2 * (2 + 3)  # matrices, table, gammas
    names = [name.rsplit(".", 1)[1] for name, _ in model.named_parameters()]
    assert set(names) == {"bias", "original"} and model.positions.bits == 8
    assert sum(p.numel() for p in model.parameters()) == sum(
        p.numel() for p in teacher().parameters()
    )


def test_hooks_see_every_place_once():
    model, seen = student(), []
    for name, module in model.named_modules():
        if isinstance(module, RunningRange):
            module.register_forward_hook(lambda m, i, o, name=name: seen.append(name))
    model(**BATCH)
    assert len(seen) == len(set(seen)) == 92


def test_activations_alone_are_an_ordinary_plan():
    model = student({"*.quant_*": [MinMax(8)]})
    assert not any(hasattr(m, "parametrizations") for m in model.modules())
    assert sum(isinstance(m, RunningRange) for m in model.modules()) == 92
    one = tq.compress(teacher(), {"*.quant_queries": [MinMax(8)]})
    assert sum(isinstance(m, RunningRange) for m in one.modules()) == 6


def test_eight_bits_stay_close_and_two_do_not():
    kept, plain = LABELS != -100, teacher()(**BATCH)["logits"]
    found = (student(bits=b)(**BATCH)["logits"] for b in (8, 6, 4, 2))
    errors = [(logits - plain)[kept].abs().mean().item() for logits in found]
    assert errors == sorted(errors) and errors[0] < 0.05 < errors[3], errors


def test_calibration_knows_which_mask_is_whose():
    """Source and target of equal length: the points are told, so nobody guesses by the shape."""
    one, two = student(), student()
    ids = SOURCE.masked_fill(SOURCE == 0, 17)
    tq.calibrate(two, [BATCH | {"input_ids": ids}] * 2)
    states = [{k: v for k, v in m.state_dict().items() if ".quant_" in k} for m in (one, two)]
    assert_close(*states)


def test_word_by_word_equals_all_at_once():
    model = student(bits=4)
    with torch.no_grad():
        whole, state = model(**BATCH)["logits"], model.start(SOURCE)
        shifted = torch.tensor([[1, 11, 12, 13, 14], [1, 13, 2, 0, 0]])
        for t, words in enumerate(shifted.T):
            logits, state = model.step(words, state)
            rows = LABELS[:, t] != -100
            assert_close(logits[rows], whole[rows, t])
    assert all(len(row) <= 12 for row in beam_search(model, SOURCE, limit=12))


def test_saved_and_loaded(tmp_path):
    model = student(bits=6)
    packed = tq.pack(model)
    expected = model(**BATCH)["logits"]
    assert_close(packed(**BATCH)["logits"], expected)
    file = tq.save(packed, tmp_path / "model.safetensors")
    again = tq.load(Transformer(**SMALL), file).eval()
    assert torch.equal(again(**BATCH)["logits"], packed(**BATCH)["logits"])
    assert again.positions.bits == 6
    unpacked = tq.unpack(again)
    assert_close(unpacked(**BATCH)["logits"], expected)


def test_teacher_is_untouched_and_report_counts():
    plain = teacher()
    before = copy.deepcopy(plain.state_dict())
    model = tq.calibrate(tq.compress(plain, {"*": [MinMax(8)]}), [BATCH])
    assert_close(plain.state_dict(), before)
    found = tq.report(model, reference=plain)
    quantized = sum(p.numel() for n, p in model.named_parameters() if "original" in n)
    assert found.nominal == found.parameters * 4 - 3 * quantized


def test_gradients_pass_the_whole_model():
    model = student().train()
    model(**BATCH)["loss"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_check_7_integer_product():
    torch.manual_seed(0)
    x, w = torch.randn(50, 300) * 3 + 1, torch.randn(70, 300)
    q = RunningRange(8)
    q(x[None])
    for groups in (1, 70):
        p = Uniform(8, groups=groups)
        p(w)
        exact = q.eval()(x).double() @ p.eval()(w).double().T
        grids = (q.scale, q.low), (p.scale, p.low)
        found = integers.product(q.codes(x), p.codes(w), *grids)
        assert (found - exact).abs().max() / exact.abs().max() < 1e-5
    with pytest.raises(ValueError, match="must share one range"):
        integers.product(q.codes(x), p.codes(w), (torch.ones(2), q.low), (p.scale, p.low))
    with pytest.raises(ValueError, match="overflow int32"):
        many = torch.zeros(1, 40000, dtype=torch.int16)
        integers.product(many, many, (q.scale, q.low), (q.scale, q.low))


def test_check_7_in_the_model():
    """Every linear layer behind a point with one range gives the same in integers."""
    model, inputs = student(bucket="tensor"), {}
    layer = model.decoder["layers"][1]
    pairs = {
        "down": (layer.feed_forward.down, layer.feed_forward.quant_hidden),
        "output": (layer.cross.output, layer.cross.quant_context),
        "up": (layer.feed_forward.up, layer.norm_cross.quant_output),
    }
    for name, (_, point) in pairs.items():
        point.register_forward_hook(lambda m, i, o, name=name: inputs.update({name: (i[0], o)}))
    model(**BATCH)
    for name, (linear, point) in pairs.items():
        raw, rounded = inputs[name]
        expected = linear(rounded)
        found = integers.linear(linear, point, raw)
        assert (found - expected).abs().max() / expected.abs().max() < 1e-5, name


BASE, BIG = (512, 2048, 6, 37000), (1024, 4096, 6, 37000)


def test_check_8_implied_parameters():
    gigabits = {BASE: 2.02, (512, 2048, 6, 32000): 1.94, BIG: 6.85, (1024, 4096, 6, 32000): 6.69}
    for shape, published in gigabits.items():
        assert sizes.float_bits(*shape) / 1e9 == pytest.approx(published, rel=0.005)
    body = [sum(v for k, v in sizes.matrix_numbers(*s).items() if k != "embeddings") for s in
            (BASE, BIG)]  # fmt: skip
    assert body == [44_040_192, 176_160_768]
    assert sizes.float_bits(*BASE) == 2_015_494_144 and sizes.float_bits(*BIG) == 6_849_560_576


@pytest.mark.parametrize(
    ("shape", "published", "tolerance"),
    [(BASE, (3.91, 5.18, 7.66), 0.06), (BIG, (3.95, 5.24, 7.79), 0.08)],
)
def test_check_8_compression(shape, published, tolerance):
    """Within the tolerance to two digits; with the activations' ranges, on the other side."""
    for bits, ratio in zip((8, 6, 4), published, strict=True):
        found, whole = (
            sizes.float_bits(*shape) / sizes.quantized_bits(*shape, bits, activations=a)
            for a in (False, True)
        )
        assert abs(round(found, 2) - ratio) <= tolerance + 1e-9
        assert whole < ratio < found


def test_sizes_are_those_of_a_model():
    arguments = SMALL["width"], SMALL["ffn"], SMALL["layers"], SMALL["vocabulary"]
    matrices = sum(p.numel() for p in teacher().parameters() if p.dim() > 1)
    assert sum(sizes.matrix_numbers(*arguments).values()) == matrices
    model = student(bits=8)
    held = itertools.chain(
        (
            8 * (p.numel()) if "original" in n else 32 * p.numel()
            for n, p in model.named_parameters()
        ),
        (32 * b.numel() for n, b in model.named_buffers() if not n.endswith("table")),
    )
    assert sum(held) == sizes.quantized_bits(*arguments, bits=8, activations=True)
    assert isinstance(model.embedding, nn.Embedding)
