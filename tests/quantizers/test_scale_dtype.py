"""Scales of 16 bits: what training sees, what the file holds, and what is refused."""

import json

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

import tqlearn as tq
from tqlearn.posttraining import awq, mixed_precision, rotate
from tqlearn.quantizers.lsq import LSQ
from tqlearn.quantizers.rounding import scale_in
from tqlearn.storage import weigh
from tqlearn.storage.checks import check
from tqlearn.storage.digests import Stored
from tqlearn.storage.files import state_of
from tqlearn.storage.pack import stored_bytes
from tqlearn.surgery import sketch

SHORT = {"float16": torch.float16, "bfloat16": torch.bfloat16}
IDS = torch.arange(12)[None]
NAME = "0.parametrizations.weight.0.scale"


def net(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 8)).to(dtype).eval()


def llama():
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)).eval()


def edit(kind="float16", per=8):
    return tq.LSQ(bits=4, init="mse", per=per, scale_dtype=kind)


def student(kind="float16", dtype=torch.float32, per=8, before=()):
    return tq.calibrate(tq.compress(net(dtype), {"0": [*before, edit(kind, per)]}))


@pytest.mark.parametrize("kind", SHORT)
def test_forward_is_plain_rounding_with_the_rounded_scale(kind):
    small = student(kind)
    q, w = small[0].parametrizations.weight[0], small[0].parametrizations.weight.original
    scale = q.scale.detach().to(SHORT[kind]).float()
    assert (scale != q.scale).any() and q.scale.dtype == torch.float32
    plain = (w.reshape(q.groups, -1) / scale).clamp(-8, 7).round() * scale
    assert torch.equal(small[0].weight, plain.reshape(w.shape))
    assert torch.equal(q.decode(q.codes(w)), small[0].weight)


def test_the_gradient_is_the_one_at_the_rounded_scale():
    q = LSQ(bits=3, groups=6, scale_dtype="float16").calibrate(torch.randn(6, 20))
    x, g = torch.randn(6, 20, requires_grad=True), torch.randn(6, 20)
    q(x).backward(g)
    fine = LSQ(bits=3, groups=6)
    fine.scale.data = q.scale.detach().half().float()
    x2 = x.detach().clone().requires_grad_()
    fine(x2).backward(g)
    assert torch.equal(q.scale.grad, fine.scale.grad) and torch.equal(x.grad, x2.grad)
    assert q.scale.grad.abs().min() > 0


def test_steps_below_a_rounding_add_up():
    """The scale behind the rounded one is in float32: training is not stuck on 16 bits."""
    q = LSQ(bits=4, scale_dtype="bfloat16").calibrate(torch.randn(200))
    before = q.used_scale().item()
    for _ in range(100):
        q.scale.data.mul_(1.0005)
    assert q.used_scale().item() > 1.03 * before


@pytest.mark.parametrize("kind", SHORT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("before", [(), (tq.TwoFour(),)], ids=["dense", "2:4"])
def test_packed_saved_and_loaded_is_the_same_to_the_bit(kind, dtype, before, tmp_path):
    small = student(kind, dtype, before=before)
    want, packed = small[0].weight.detach(), tq.pack(small)
    assert torch.equal(packed[0].weight, want)
    path = tq.save(packed, tmp_path / "x.safetensors")
    with safe_open(path, "pt") as file:
        assert file.get_tensor(NAME).dtype == SHORT[kind]
    again = tq.load(net(dtype), path)
    assert torch.equal(again[0].weight, want)
    other = tq.unpack(again)
    assert torch.equal(other[0].weight, want)
    q = other[0].parametrizations.weight[-1]
    assert q.scale_dtype == kind and q.scale.dtype in (torch.float32, torch.float64)
    assert torch.equal(tq.pack(other)[0].weight, want)


@pytest.mark.parametrize("kind", SHORT)
def test_casts_leave_the_16_bits(kind):
    packed = tq.pack(student(kind))
    fine, scale = packed[0].weight.detach().clone(), packed.get_buffer(NAME).clone()
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float32):
        packed = packed.to(dtype)
        held = packed.get_buffer(NAME)
        assert held.dtype == SHORT[kind] and torch.equal(held, scale)
        assert torch.equal(packed[0].weight.detach(), fine.to(dtype))


@pytest.mark.parametrize("per", ["tensor", "channel", 8])
def test_bytes_counted_are_bytes_written(per):
    groups = {"tensor": 1, "channel": 24, 8: 192}[per]
    long, short = (tq.report(student(kind, per=per)) for kind in ("float32", "float16"))
    assert long.with_metadata - short.with_metadata == 2 * groups
    assert short.with_metadata - short.nominal == 2 * groups and short.nominal == long.nominal
    told = weigh(sketch(net(), {"0": [edit(per=per)]}))
    assert told == short
    assert tq.report(tq.pack(student(per=per))) == short
    if per == 8:  # the headers differ by some letters
        assert abs(long.file - short.file - 2 * groups) < 64


def test_a_table_is_looked_up_as_it_was():
    torch.manual_seed(0)
    table = nn.Sequential(nn.Embedding(30, 64))
    small = tq.calibrate(tq.compress(table, {"0": [edit("bfloat16", 16)]}))
    ids = torch.tensor([[3, 29, 3]])
    assert torch.equal(tq.pack(small)(ids), small(ids))


def test_error_compensation_rounds_with_the_16_bits():
    small, x = student("bfloat16"), torch.randn(200, 64) @ torch.randn(64, 64)
    (before, after), *_ = tq.compensate(small, [x]).values()
    packed = tq.pack(small)
    assert after < before and torch.equal(packed(x), small(x))


def test_scales_beyond_float16_are_refused():
    rows = torch.randn(4, 32)
    for factor, said in ((1e-7, "e-08"), (1e7, "e\\+06")):
        x = rows.clone()
        x[2] *= factor
        q = LSQ(bits=4, init="max", groups=4, scale_dtype="float16")
        with pytest.raises(ValueError, match=f"from 9.5e-07 to 6.6e\\+04; 1 of 4 .*{said};"):
            q.calibrate(x)
        assert torch.isnan(q.scale).all()
        wide = LSQ(bits=4, init="max", groups=4, scale_dtype="bfloat16").calibrate(x)
        assert_close(wide(x)[2], x[2], rtol=0, atol=0.51 * wide.used_scale()[2].item())


def test_a_refusal_names_the_weight_and_changes_nothing():
    model = net()
    model[2].weight.data[3] *= 1e-7
    small = tq.compress(model, {"*": [edit()]})
    with pytest.raises(ValueError, match="^2.weight: float16 takes .* choose .*'bfloat16'"):
        tq.calibrate(small)
    assert all(torch.isnan(small[k].parametrizations.weight[0].scale).all() for k in (0, 2))


def test_a_group_of_zeros_takes_the_least_scale():
    x = torch.randn(3, 16)
    x[1] = 0
    q = LSQ(bits=4, groups=3, scale_dtype="float16").calibrate(x)
    assert (q(x)[1] == 0).all() and q.used_scale()[1] == 2**-24


def test_a_scale_that_training_drove_away():
    small = student()
    scale = small[0].parametrizations.weight[0].scale
    scale.data[5] = -1.0
    assert scale_in(torch.float16, scale)[5] == 2**-24
    assert torch.equal(tq.pack(small)[0].weight, small[0].weight)
    scale.data[5] = 1e5
    assert not small[0].weight.isfinite().all(), "seen in the first loss"
    for verb in (tq.pack, tq.report):
        with pytest.raises(ValueError, match="weight.0' has a scale of 1.0e\\+05, .* float16 is 6"):
            verb(small)


def test_refused_arguments():
    with pytest.raises(ValueError, match="scale_dtype is one of .*'bfloat16'.*, got 'float8'"):
        tq.LSQ(bits=4, scale_dtype="float8")
    with pytest.raises(ValueError, match="an input's one scale is in float32, got .*'float16'"):
        tq.compress(net(), {"0": [tq.Inputs(tq.LSQ(8, scale_dtype="float16"))]})
    for other in (tq.LSQPlus, tq.LearnedClip, tq.PACT, tq.SAWB, tq.Uniform):
        with pytest.raises(TypeError, match="scale_dtype"):
            other(bits=4, scale_dtype="float16")


def test_a_file_with_scales_of_another_type_is_refused():
    packed = tq.pack(student())
    layout = json.loads(json.dumps(tq.describe(packed)))
    stored = {name: Stored.of(tensor) for name, tensor in state_of(packed)[0].items()}
    check(layout, stored)
    for scale in (packed.get_buffer(NAME).float(), packed.get_buffer(NAME).bfloat16()):
        with pytest.raises(ValueError, match="scale' is of type .*F.*, the layout needs F16"):
            check(layout, stored | {NAME: Stored.of(scale)})
    for bad in (0.0, torch.inf, -1.0):
        scale = packed.get_buffer(NAME).clone()
        scale[3] = bad
        with pytest.raises(ValueError, match="a scale that is no positive number"):
            check(layout, stored | {NAME: Stored.of(scale)})


def test_layouts_of_float32_scales_say_nothing_of_them():
    assert "scale_dtype" not in json.dumps(tq.describe(student("float32")))
    assert LSQ(bits=4, scale_dtype="float16").config() == {"bits": 4, "scale_dtype": "float16"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", SHORT)
def test_transformers_loads_them_as_they_are(kind, dtype, tmp_path):
    """Whatever type the model is asked for: it rounds values once, and no scale."""
    packed = tq.pack(tq.calibrate(tq.compress(llama(), {"*": [edit(kind)]})))
    packed.save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    wanted = dict(packed.named_buffers())
    for name, held in again.named_buffers():
        if name.endswith(".scale"):
            assert held.dtype == SHORT[kind] and torch.equal(held, wanted[name])
    for name, module in packed.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            found = again.get_submodule(name).weight.detach()
            assert found.dtype == dtype and torch.equal(found, module.weight.detach().to(dtype))
    assert again(IDS).logits.dtype == dtype


def test_a_quantizer_of_ones_own_with_more_numbers_is_counted_as_it_is_kept():
    class Shifted(LSQ):
        def __init__(self, *args, **more):
            super().__init__(*args, **more)
            self.register_buffer("more", torch.zeros(3))

    q = Shifted(bits=4, groups=24, scale_dtype="float16").calibrate(net()[0].weight.detach())
    assert stored_bytes(nn.Sequential(q), 24 * 64) == (24 * 64 // 2, 4 * (24 + 3))


@pytest.mark.filterwarnings("ignore:.* two weights now")
@pytest.mark.parametrize("before", [awq, lambda model, *_: rotate(model)], ids=["AWQ", "rotated"])
def test_methods_after_training_see_the_grid_of_the_file(before):
    plan, batches = {"*.layers.*": [edit("bfloat16")]}, [{"input_ids": IDS}]
    small = tq.calibrate(tq.compress(before(llama(), batches, plan), plan))
    errors = tq.compensate(small, batches)
    assert all(after < rounded for rounded, after in errors.values())
    packed = tq.pack(small)
    assert torch.equal(packed(IDS).logits, small(IDS).logits)
    scale = packed.model.layers[0].mlp.up_proj.parametrizations.weight[0].scale
    assert scale.dtype == torch.bfloat16


def test_mixed_precision_counts_two_bytes_a_scale():
    choices = {"*.layers.*": [[edit("float32")], [edit("float16")]]}
    model, batches = llama(), [{"input_ids": IDS}]
    layers = [m for name, m in model.named_modules() if ".layers." in name and "_proj" in name]
    room = sum(m.weight.numel() * (4 + 2) // 8 for m in layers)  # a scale per 8
    plan = mixed_precision(model, batches, choices, room)
    assert len(plan) == 7 and all(one == [edit("float16")] for one in plan.values())
    with pytest.raises(ValueError, match="budget"):
        mixed_precision(model, batches, choices, room - 1)
