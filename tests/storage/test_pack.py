"""Real bytes: codes, files and reports. Spec sheet QTC, acceptance check 11."""

import json
import struct

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import tqlearn as tq
from tqlearn.shapes import packed_bytes
from tqlearn.storage.codes import pack_bits, unpack_bits
from tqlearn.storage.packed import Packed


def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(24, 36), nn.GELU(), nn.Linear(36, 10)).eval()


def student(bits=4):
    plan = {"0": [tq.TT(rank=5), tq.LSQ(bits=bits)], "2": [tq.LSQ(bits=bits)]}
    return tq.calibrate(tq.compress(net(), plan))


def header_bytes(path):
    with open(path, "rb") as file:
        return 8 + struct.unpack("<Q", file.read(8))[0]


@pytest.mark.parametrize("bits", [3, 4])
def test_a_large_tensor_is_packed_in_parts(monkeypatch, bits):
    """Into one stream, which is that of the whole; the last part is a short one."""
    q = tq.quantizers.lsq.LSQ(bits).calibrate(x := torch.randn(5, 21))
    whole = pack_bits(q.codes(x), bits, q.qmin)
    monkeypatch.setattr("tqlearn.storage.packed.CHUNK", 16)
    packed, stream = Packed.of(x, q)
    assert torch.equal(stream, whole) and torch.equal(packed(stream), q(x))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("numel", [1, 7, 8, 1000])
def test_codes_survive(bits, numel):
    qmin = -(2 ** (bits - 1))
    codes = torch.randint(qmin, -qmin, (numel,))
    packed = pack_bits(codes, bits, qmin)
    assert packed.dtype == torch.uint8 and packed.numel() == packed_bytes(numel, bits)
    assert torch.equal(unpack_bits(packed, bits, qmin, (numel,)).long(), codes)


def test_the_bit_order_is_the_documented_one():
    assert pack_bits(torch.tensor([-4, 3, -3]), 3, -4).tolist() == [0b01_111_000, 0b0]
    with pytest.raises(ValueError, match=r"must lie in -8 .. 7 for 4 bits, got 0 .. 8"):
        pack_bits(torch.tensor([0, 8]), 4, -8)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_packed_outputs_are_bit_equal(bits):
    model, x = student(bits), torch.randn(6, 24)
    packed = tq.pack(model)
    assert torch.equal(packed(x), model(x))
    kept = tq.pack(model, keep_floats=True)
    assert torch.equal(kept(x), model(x))
    assert torch.equal(kept(x), model(x))  # the second call uses the kept values
    again = tq.unpack(packed)
    assert torch.equal(again(x), model(x))
    assert not [p for p in packed.parameters() if p.dim() > 1]
    again(x).sum().backward()
    assert again[2].parametrizations.weight.original.grad is not None


def test_file_size_is_the_formula(tmp_path):
    """Check 11: sum(ceil(core * b / 8)) + 4 * (scales + uncompressed), plus the header."""
    model = student(bits=3)
    codes = [c.numel() for c in model[0].cores] + [36 * 10]
    expected = sum(packed_bytes(n, 3) for n in codes) + 4 * (len(codes) + 36 + 10)
    path = tq.save(tq.pack(model), tmp_path / "model.safetensors")
    assert path.stat().st_size - header_bytes(path) == expected
    report = tq.report(model)
    assert report.with_metadata == expected
    assert report.nominal == expected - 4 * len(codes)
    assert report.parameters == sum(codes) + 46
    assert report.file > report.with_metadata  # the header is counted, not hidden


def test_report_of_a_dense_model_and_ratios():
    model, dense = student(), net()
    report = tq.report(model, reference=dense)
    assert report.reference.nominal == 4 * sum(p.numel() for p in dense.parameters())
    assert report.ratios["nominal"] == report.reference.nominal / report.nominal
    assert tq.report(tq.pack(model)).nominal == report.nominal  # packed or not, the same count
    assert tq.report(tq.pack(model)).file == report.file
    assert "whole file" in str(report) and f"{report.file:,}" in report._repr_html_()
    assert report.summary()["ratio"]["file"] == round(report.ratios["file"], 3)
    with pytest.raises(ValueError, match="ratios need a reference"):
        tq.report(dense).ratios  # noqa: B018


def test_a_shared_weight_counts_once():
    model = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)})
    model["b"].weight = model["a"].weight
    report = tq.report(model)
    assert report.parameters == 64 + 16 and report.file < 4 * 2 * 64 + 400


def test_save_and_load(tmp_path):
    model, x = student(), torch.randn(4, 24)
    for kind, saved in {"packed": tq.pack(model), "trainable": model}.items():
        path = tq.save(saved, tmp_path / f"{kind}.safetensors")
        loaded = tq.load(net(), path)
        assert torch.equal(loaded(x), model(x))
        assert tq.describe(loaded) == tq.describe(saved)


def test_bad_files_are_refused(tmp_path):
    good = tq.save(tq.pack(student()), tmp_path / "good.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(good.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        tq.load(net(), cut)
    foreign = tmp_path / "foreign.safetensors"
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, foreign)
    with pytest.raises(ValueError, match="no tqlearn layout"):
        tq.load(net(), foreign)
    with pytest.raises(ValueError, match="layout names '2', which Sequential does not have"):
        tq.load(nn.Sequential(nn.Linear(24, 36)), good)


def test_a_layout_that_asks_for_an_unknown_class_or_version():
    layout = json.loads(json.dumps(tq.describe(student())))
    layout["modules"]["0"]["class"] = "os.system"
    with pytest.raises(ValueError, match="names the class 'os.system', known are .*@tqlearn.reg"):
        tq.rebuild(net(), layout)
    with pytest.raises(ValueError, match="reads layout version 1, the file has 99"):
        tq.rebuild(net(), layout | {"version": 99})


def test_an_unregistered_parametrization_cannot_be_described():
    class Halve(nn.Module):
        def forward(self, x):
            return x / 2

    model = net()
    parametrize.register_parametrization(model[0], "weight", Halve())
    with pytest.raises(ValueError, match="0.weight carries a Halve.*@tqlearn.register"):
        tq.describe(model)


def test_register_refuses_what_could_not_be_rebuilt():
    with pytest.raises(TypeError, match="needs a config"):
        tq.register(type("Nameless", (nn.Module,), {}))
    with pytest.raises(ValueError, match="'LSQ' is taken by tqlearn.quantize"):
        tq.register(type("LSQ", (nn.Module,), {"config": lambda self: {}}))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_model_of_another_type_packs_and_loads(dtype, tmp_path):
    plan = {"0": [tq.TT(rank=5), tq.LSQ(bits=4)], "2": [tq.LSQ(bits=4)]}
    model, x = tq.calibrate(tq.compress(net().to(dtype), plan)), torch.randn(4, 24).to(dtype)
    packed = tq.pack(model)
    assert packed(x).dtype == dtype and torch.equal(packed(x), model(x))
    path = tq.save(packed, tmp_path / "model.safetensors")
    assert torch.equal(tq.load(net().to(dtype), path)(x), model(x))


def test_packed_under_inference_mode():
    """Inference tensors count no versions, and must not reach a later backward."""
    model, x = student(), torch.randn(4, 24)
    for keep in (False, True):
        packed, y = tq.pack(model, keep_floats=keep), model(x)
        with torch.inference_mode():
            assert torch.equal(packed(x), y) and torch.equal(packed(x), y)
            assert torch.equal(tq.pack(model, keep_floats=keep)(x), y)
        packed(x).sum().backward()
        assert packed[0].bias.grad is not None


def test_packed_can_be_exported():
    packed, x = tq.pack(student()), torch.randn(4, 24)
    assert torch.equal(torch.export.export(packed, (x,)).module()(x), packed(x))


def test_kept_values_follow_a_change_of_type():
    packed, x = tq.pack(student(), keep_floats=True), torch.randn(4, 24)
    packed(x)
    assert packed.double()(x.double()).dtype == torch.float64


def test_a_weight_norm_of_the_dense_model_stays():
    """As in Wav2Vec2: two tensors behind one weight are no place for our edits."""
    model = net()
    nn.utils.parametrizations.weight_norm(model[2])
    model_student, x = tq.calibrate(tq.compress(model, {"0": [tq.LSQ(bits=4)]})), torch.randn(2, 24)
    assert list(tq.describe(model_student)["modules"]) == ["0"]
    assert tq.report(model_student).parameters == 24 * 36 + 36 + 36 * 10 + 10 + 10
    for verb in (tq.pack, tq.bake):
        assert torch.equal(verb(model_student)(x), model_student(x))
    with pytest.raises(ValueError, match="weight is computed by WeightNorm from two tensors"):
        tq.compress(model, {"2": [tq.LSQ(bits=4)]})


def test_packed_codes_take_no_quantizer():
    with pytest.raises(TypeError, match=r"no weight to quantize.*call tqlearn.unpack\(model\)"):
        tq.compress(tq.pack(student()), {"2": [tq.LSQ(bits=4)]})


def test_a_compressed_model_is_not_rebuilt_twice(tmp_path):
    path = tq.save(student(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="2.weight is compressed already; give a freshly built"):
        tq.load(student(), path)
