"""Weights that are computed: looks at them, products with them, and where a write goes."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

import tqlearn as tq

STRUCTURES = [tq.TT(rank=5), tq.LowRank(rank=5), tq.Kronecker(rank=2)]
TABLES = [tq.TTM(rank=5, order=2), tq.Kronecker(rank=2)]


def layer():
    torch.manual_seed(3)
    return nn.Linear(24, 36)


def factored(edit):
    table = isinstance(edit, tq.TTM)
    return edit(nn.Embedding(30, 16) if table else layer())


@pytest.mark.parametrize("edit", [*STRUCTURES, *TABLES], ids=repr)
def test_the_dense_weight_of_a_factored_layer(edit):
    new = factored(edit)
    dense = new.dense().weight
    weight = new.weight
    assert (weight.dtype, weight.device, weight.shape) == (dense.dtype, dense.device, dense.shape)
    assert weight.requires_grad and weight.dim() == 2 and len(weight) == len(dense)
    assert weight.size(0) == dense.size(0) and weight.is_floating_point()
    assert "weight" not in new.state_dict() and "weight" not in dict(new.named_parameters())
    x = torch.randn(3, dense.shape[1])
    assert_close(F.linear(x, weight), x @ dense.T, atol=1e-6, rtol=1e-5)
    assert_close(weight @ x.T, dense @ x.T, atol=1e-6, rtol=1e-5)
    assert_close(torch.cat([weight, dense]), torch.cat([dense, dense]))
    assert new.bfloat16().weight.dtype == torch.bfloat16


def test_a_look_multiplies_nothing(monkeypatch):
    new = factored(tq.TT(rank=5))
    monkeypatch.setattr(type(new), "product", lambda self: pytest.fail("a look built the weight"))
    weight = new.weight
    assert (weight.dtype, weight.shape, weight.ndim) == (torch.float32, (36, 24), 2)
    assert weight.device.type == weight.data.device.type == "cpu"


@pytest.mark.parametrize("edit", STRUCTURES, ids=repr)
def test_gradients_reach_the_cores(edit):
    new, x = factored(edit).double(), torch.randn(3, 24).double()
    by_weight = torch.autograd.grad(F.linear(x, new.weight, new.bias).square().sum(), new.cores)
    by_layer = torch.autograd.grad(new(x).square().sum(), new.cores)
    for a, b in zip(by_weight, by_layer, strict=True):
        assert_close(a, b)
    assert not (new.weight.data * 2).requires_grad


def test_a_look_up_in_a_factored_table_is_its_own():
    new, ids = factored(tq.TTM(rank=5, order=2)), torch.tensor([[0, 29], [3, 3]])
    assert torch.equal(F.embedding(ids, new.weight), new(ids))


WRITES = [
    lambda w: w.data.add_(1),
    lambda w: w.data.zero_(),
    lambda w: w.copy_(torch.ones(36, 24)),
    lambda w: w.__setitem__(0, 1.0),
    lambda w: setattr(w, "data", torch.ones(36, 24)),
]


@pytest.mark.parametrize("write", WRITES)
def test_a_write_into_a_product_of_cores_is_refused(write):
    new = factored(tq.TT(rank=5))
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"tqlearn.bake\(model, dense=True\)"):
        write(new.weight)


@pytest.mark.parametrize("edit", STRUCTURES, ids=repr)
def test_torch_encoders_read_the_weight(edit):
    """nn.TransformerEncoder and nn.MultiheadAttention ask for it, in eval for a fast path."""
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 48, batch_first=True), 2)
    plan = {"*.linear?": [edit], "*.out_proj": [edit]}
    student, x = tq.compress(model.eval(), plan), torch.randn(2, 5, 32)
    dense = tq.bake(student, dense=True).eval()
    assert_close(student(x), dense(x), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert_close(student(x), dense(x), atol=1e-5, rtol=1e-5)


# writes into weights under stages

CHAINS = [
    [tq.LSQ(8)],
    [tq.LSQ(8, per="channel")],
    [tq.SAWB(8)],
    [tq.Uniform(8)],
    [tq.PACT(8, init="max")],
    [tq.TwoFour()],
    [tq.TwoFour(update="ste")],
    [tq.TwoFour(), tq.LSQ(8)],
]
ADDS = {
    "data": lambda w, d: setattr(w, "data", w.data + d),
    "data +=": lambda w, d: w.data.__iadd__(d),
    "add_": lambda w, d: w.add_(d),
    "rows": lambda w, d: [w.data[i].add_(d[i]) for i in range(len(w))],
    "columns": lambda w, d: w.T.copy_((w.detach().clone() + d).T),
}


@pytest.mark.parametrize("edits", CHAINS, ids=repr)
@pytest.mark.parametrize("how", ADDS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_write_is_masked_and_quantized_anew(edits, how, packed):
    student = tq.calibrate(tq.compress(nn.Sequential(layer()), {"0": edits})).eval()
    student = tq.pack(student) if packed else student
    before, delta = student[0].weight.detach().clone(), 0.5 * torch.randn(36, 24)
    with torch.no_grad():
        ADDS[how](student[0].weight, delta)
    new, wanted = student[0].weight.detach(), before + delta
    kept = before != 0 if "ste" not in repr(edits) else new != 0  # a mask that is chosen anew
    kept = kept if "TwoFour" in repr(edits) else torch.ones_like(kept)
    assert not new[~kept].any()
    assert_close(new[kept], wanted[kept], atol=0.03, rtol=0)  # 8 bits over about 4: half a step
    if not packed:
        assert torch.equal(tq.pack(student)[0].weight, new)
    again = copy.deepcopy(student)
    assert torch.equal(again[0].weight, new)


def added(values, d):
    torch.add(values, d, out=values)


def row_by_row(values, d):
    for row, more in zip(values, d, strict=True):
        row.add_(more)


FUNCTIONS = {  # ways that no method of the whole weight tells
    "out=": added,
    "foreach": lambda w, d: torch._foreach_add_([w], [d]),
    "rows of an iterator": row_by_row,
    "unbind": lambda w, d: [row.add_(more) for row, more in zip(w.unbind(), d, strict=True)],
    "ravel": lambda w, d: w.data.ravel().add_(d.flatten()),
    "torch.transpose": lambda w, d: torch.transpose(w.data, 0, 1).add_(d.T),
    "torch.chunk": lambda w, d: [
        part.add_(more) for part, more in zip(torch.chunk(w, 2), d.chunk(2), strict=True)
    ],
    "swapaxes": lambda w, d: w.data.swapaxes(0, 1).add_(d.T),
    "as_strided": lambda w, d: torch.as_strided(w, (w.numel(),), (1,)).add_(d.flatten()),
    "a vector of parameters": lambda w, d: nn.utils.vector_to_parameters((w + d).flatten(), [w]),
    "addcmul_": lambda w, d: w.addcmul_(d, torch.ones_like(d)),
}


@pytest.mark.parametrize("how", FUNCTIONS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_whatever_function_writes(how, packed, mode):
    student = tq.calibrate(tq.compress(nn.Sequential(layer()), {"0": [tq.LSQ(8)]})).eval()
    student = tq.pack(student) if packed else student
    before, delta = student[0].weight.detach().clone(), 0.5 * torch.randn(36, 24)
    with mode():
        FUNCTIONS[how](student[0].weight, delta)
    assert_close(student[0].weight.detach(), before + delta, atol=0.03, rtol=0)


@pytest.mark.parametrize("packed", [False, True])
def test_writes_that_an_activation_or_a_start_makes(packed):
    student = tq.calibrate(tq.compress(nn.Sequential(layer()), {"0": [tq.LSQ(8)]}))
    student = tq.pack(student) if packed else student
    nn.init.constant_(student[0].weight, 0.5)
    assert_close(student[0].weight.detach(), torch.full((36, 24), 0.5), atol=0.01, rtol=0)
    with torch.no_grad():
        student[0].weight.copy_(torch.randn(36, 24))
        F.relu(student[0].weight, inplace=True)
    assert student[0].weight.min() == 0 < student[0].weight.max()


@pytest.mark.parametrize("write", [added, row_by_row, lambda w, d: w.data.view(-1).add_(1)])
@pytest.mark.parametrize("edit", STRUCTURES, ids=repr)
def test_no_function_writes_into_a_product_of_cores(edit, write):
    new = factored(edit)
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"tqlearn.bake\(model, dense=True\)"):
        write(new.weight, torch.randn(36, 24))
    with pytest.raises(RuntimeError, match="product of its cores"):
        new.weight = nn.Parameter(torch.zeros(36, 24))


@pytest.mark.parametrize("edit", STRUCTURES, ids=repr)
@pytest.mark.parametrize("stages", [[], [tq.LSQ(4)], [tq.TwoFour(pad=True), tq.SAWB(4)]], ids=repr)
@pytest.mark.parametrize("packed", [False, True])
def test_a_weight_can_be_halved_and_doubled(edit, stages, packed):
    """RWKV does, between training and evaluation; no code moves."""
    for edits in ([edit, *stages], stages):
        if edits:
            student = tq.calibrate(tq.compress(nn.Sequential(layer()), {"0": edits}))
            student = tq.pack(student) if packed else student
            before = student[0].weight.detach().clone()
            with torch.no_grad():
                student[0].weight.div_(2)
            assert torch.equal(student[0].weight.detach(), before / 2)
            with torch.no_grad():
                student[0].weight.mul_(2)
            assert torch.equal(student[0].weight.detach(), before)


def test_two_kinds_of_computed_weights_in_one_call_keep_both_gradients():
    """MobileBERT puts two tables into one torch.cat."""
    net = nn.Sequential(nn.Linear(8, 4, bias=False), nn.Linear(4, 8, bias=False))
    student = tq.calibrate(tq.compress(net, {"0": [tq.LSQ(4)], "1": [tq.LowRank(rank=2)]}))
    torch.cat([student[0].weight.t(), student[1].weight]).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in student.parameters())


def test_an_array_of_a_computed_weight_is_read_only():
    student = tq.calibrate(tq.compress(nn.Sequential(layer()), {"0": [tq.LSQ(4)]}))
    for net in (student, tq.pack(student), nn.Sequential(factored(tq.TT(rank=2)))):
        with pytest.raises(ValueError, match="read-only"):
            net[0].weight.detach().numpy()[0] = 0


def test_no_other_tensor_in_the_place_of_a_computed_one():
    student = tq.calibrate(tq.compress(nn.Sequential(layer()), {"0": [tq.LSQ(4)]}))
    for net in (student, tq.pack(student)):
        for wrong in (
            lambda net=net: setattr(net[0], "weight", nn.Parameter(torch.zeros(36, 24))),
            lambda net=net: net[0].register_parameter("weight", nn.Parameter(torch.zeros(2))),
            lambda net=net: delattr(net[0], "weight"),
        ):
            with pytest.raises(ValueError, match=r"weight.data.copy_, or call tqlearn.bake"):
                wrong()
        net[0].register_parameter("mine", nn.Parameter(torch.zeros(2)))
    plain = tq.bake(student)[0]
    plain.weight = nn.Parameter(torch.zeros(36, 24))
    assert not plain(torch.ones(1, 24)).sub(plain.bias).any()


@pytest.mark.parametrize("edits", [[tq.LSQ(4)], [tq.TT(rank=2)], [tq.TT(rank=2), tq.LSQ(4)]])
@pytest.mark.parametrize("packed", [False, True])
def test_freezing_a_computed_weight_freezes_what_is_behind(edits, packed):
    student = tq.calibrate(tq.compress(nn.Sequential(layer()), {"0": edits}))
    student = tq.pack(student) if packed else student
    student[0].weight.requires_grad_(False)
    assert not tq.unpack(student)[0].weight.requires_grad and student[0].bias.requires_grad
    student[0].weight.requires_grad = True
    thawed = tq.unpack(student)
    thawed(torch.randn(3, 24)).square().sum().backward()
    assert all(p.grad is not None for p in thawed.parameters())


def test_a_hook_that_would_see_one_look_alone_is_refused():
    student = tq.calibrate(tq.compress(nn.Sequential(layer()), {"0": [tq.LSQ(4)]}))
    with pytest.raises(RuntimeError, match="parametrizations.weight.original"):
        student[0].weight.register_hook(lambda grad: 0 * grad)


def test_a_number_of_a_computed_weight_can_be_printed():
    weight = tq.calibrate(tq.compress(nn.Sequential(layer()), {"0": [tq.LSQ(4)]}))[0].weight
    number = weight[0, 0]
    assert type(number) is type(weight) and f"{number:8.3f}" == f"{number.item():8.3f}"
    assert f"{weight}" == str(weight)
    with pytest.raises(TypeError, match="unsupported format"):
        f"{weight:.3f}"


def test_a_computed_weight_is_copied_and_pickled_alone():
    student = tq.calibrate(tq.compress(nn.Sequential(layer()), {"0": [tq.LSQ(4)]}))
    for net in (student, tq.pack(student), nn.Sequential(factored(tq.TT(rank=2)))):
        weight, file = net[0].weight, io.BytesIO()
        torch.save(weight, file)
        file.seek(0)
        for new in (copy.deepcopy(weight), torch.load(file)):
            assert type(new) is torch.Tensor and torch.equal(new, weight)
            new.detach().zero_()
        assert weight.any()


def test_a_small_write_keeps_a_learned_scale():
    student = tq.calibrate(tq.compress(nn.Sequential(layer()), {"0": [tq.LSQ(4)]}))
    scale = student[0].parametrizations.weight[0].scale
    scale.data.copy_(tq.quantizers.LSQ(4, init="mse").calibrate(layer().weight).scale)
    before = scale.item()  # as if it had learned: nearer than LSQ's own start
    student[0].weight.data.mul_(1.001)
    assert scale.item() == before
    student[0].weight.data.copy_(3 * layer().weight)
    anew = tq.quantizers.LSQ(4).calibrate(student[0].parametrizations.weight.original)
    assert scale.item() == anew.scale.item() > 2 * before


def test_a_write_that_would_be_lost_raises():
    student = tq.calibrate(tq.compress(nn.Sequential(layer()), {"0": [tq.LSQ(4)]}))
    with pytest.raises(RuntimeError, match=r"add_ on a weight under a mask or quantizer"):
        student[0].weight.add_(1)
    with pytest.raises(ValueError, match=r"keeps its shape \(36, 24\)"):
        student[0].weight.data = torch.zeros(3)


def test_reading_costs_no_gradient_and_no_type():
    student = tq.calibrate(tq.compress(nn.Sequential(layer()), {"0": [tq.LSQ(4)]}))
    weight = student[0].weight
    assert type(weight * 2) is torch.Tensor and type(weight.data.abs()) is torch.Tensor
    weight.sum().backward()
    assert student[0].parametrizations.weight.original.grad is not None


@pytest.mark.parametrize("edit", [tq.LSQ(4), tq.Uniform(4)])
def test_a_scale_of_packed_codes_can_be_written(edit):
    packed = tq.pack(tq.calibrate(tq.compress(nn.Sequential(layer()), {"0": [edit]})))
    before, stage = packed[0].weight.detach().clone(), packed[0].parametrizations.weight[0]
    for number in [stage.scale] if stage.grid is None else [stage.grid.low, stage.grid.high]:
        number.data.mul_(2)
    assert_close(packed[0].weight.detach(), 2 * before)


@pytest.mark.parametrize("edit", [tq.LSQ(4), tq.SAWB(4), tq.TwoFour()], ids=repr)
def test_writing_what_is_there_changes_nothing(edit):
    """RWKV divides weights by one whenever training begins or ends."""
    new = tq.calibrate(tq.compress(nn.Sequential(layer()), {"0": [edit]}))
    for net in (new, tq.pack(new)):
        before = {key: value.clone() for key, value in net.state_dict().items()}
        with torch.no_grad():
            net[0].weight.div_(1)
        assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
        with torch.no_grad():
            net[0].weight.div_(2)
        assert any(not torch.equal(before[key], value) for key, value in net.state_dict().items())
