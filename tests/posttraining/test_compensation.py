"""Error compensation: golden numbers of the spec sheet, the normal equations, whole models."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import tqlearn as tq
from tqlearn.posttraining import sweep
from tqlearn.quantizers import grid

N, J, R = (torch.arange(1, n + 1, dtype=torch.float64) for n in (40, 12, 6))
X = (0.37 * N[:, None] * J).sin() + 0.5 * (0.11 * N[:, None]).cos()
W = (0.7 * R[:, None] * J).cos() + 0.1 * R[:, None]
H = X.T @ X


def symmetric(bits):
    """Codes -2^(b-1) .. 2^(b-1) - 1 of a scale per row that is read from W."""
    top = 2 ** (bits - 1) - 1
    scale = W.abs().amax(1, keepdim=True) / top
    return lambda x, k=None: (x / scale).round().clamp(-top - 1, top) * scale


def error(q, x=X, w=W):
    return float((x @ (w - q).T).square().sum() / (x @ w.T).square().sum())


@pytest.mark.parametrize(
    ("bits", "nearest", "plain", "by_size"),
    [(4, 0.002644, 0.002014, 0.001946), (3, 0.018511, 0.011712, 0.012014),
     (2, 0.108288, 0.076633, 0.074762)],
)  # fmt: skip
@pytest.mark.parametrize("block", [1, 5, 128])
def test_gptq_golden_numbers(bits, nearest, plain, by_size, block):
    rounded = symmetric(bits)
    assert error(rounded(W)) == pytest.approx(nearest, abs=1e-6)
    assert error(sweep(W, H, rounded, block=block)) == pytest.approx(plain, abs=1e-6)
    found = sweep(W, H, rounded, by_size=True, block=block)
    assert error(found) == pytest.approx(by_size, abs=1e-6)


@pytest.mark.parametrize("block", [1, 4, 6, 128])
def test_sparse_gpt_golden_number(block):
    found = sweep(W, H, lambda column, k: column, pattern="2:4", block=block)
    assert error(found) == pytest.approx(0.047645, abs=1e-6)
    assert (found.reshape(-1, 4) == 0).sum(1).tolist() == [2] * 18


def test_the_sweep_is_the_normal_equations():
    """After every column, those that are left are the exact best answer to those that are fixed."""
    rounded, damped = symmetric(3), H + 0.01 * H.diagonal().mean() * torch.eye(12).double()
    expected, rest = torch.empty_like(W), W.clone()
    for k in range(12):
        expected[:, k] = rounded(rest[:, k : k + 1])[:, 0]
        s, f = slice(0, k + 1), slice(k + 1, 12)
        moved = (W - expected)[:, s] @ damped[s, f] @ torch.linalg.inv(damped[f, f])
        rest[:, f] = W[:, f] + moved
    assert torch.allclose(sweep(W, H, rounded), expected, atol=1e-9)


def test_a_diagonal_hessian_rounds_to_nearest():
    rounded = symmetric(3)
    assert torch.equal(sweep(W, torch.diag(J), rounded), rounded(W))


def test_a_dead_input_costs_nothing():
    x = X.clone()
    x[:, 3] = 0
    found = sweep(W, x.T @ x, symmetric(4))
    assert torch.isfinite(found).all() and not found[:, 3].any()
    assert error(found, x) < error(symmetric(4)(W), x)


@pytest.mark.parametrize("factor", [1.0, 1e-6, 1e6])
def test_a_dead_input_leaves_the_factor_of_the_hessian_alone(factor):
    x = X.clone()
    x[:, 3] = 0
    wanted = sweep(W, x.T @ x, symmetric(3))
    assert error(wanted, x) < 0.8 * error(symmetric(3)(W), x)
    torch.testing.assert_close(sweep(W, factor * x.T @ x, symmetric(3)), wanted)


def test_inputs_that_are_all_zero_round_to_nearest():
    assert torch.equal(sweep(W, 0 * H, symmetric(3)), symmetric(3)(W))


class Experts(nn.Module):
    """Two layers, each for the rows that are its own."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x, second):
        return self.a(x[~second]), self.b(x[second])


def test_a_layer_that_no_row_reaches_is_refused_and_stays():
    student = tq.calibrate(tq.compress(Experts(), {"*": [tq.LSQ(bits=3, init="mse")]}))
    before = student.b.weight.clone()
    batch = {"x": torch.randn(20, 8), "second": torch.zeros(20, dtype=torch.bool)}
    with pytest.raises(ValueError, match="no real token of the batches reached 'b'"):
        tq.compensate(student, [batch])
    assert torch.equal(student.b.weight, before)
    batch["x"][3, 2] = torch.nan
    with pytest.raises(ValueError, match="inputs of 'a' hold a NaN or infinity"):
        tq.rescale(student, [batch | {"second": torch.arange(20) > 9}])


def test_a_student_in_training_mode_keeps_its_clips_and_its_mode():
    torch.manual_seed(0)
    student = tq.calibrate(tq.compress(nn.Sequential(nn.Linear(16, 8)), {"0": [tq.SAWB(bits=4)]}))
    student.train()
    scale = student[0].parametrizations.weight[0].scale
    before = scale.clone()
    ((nearest, left),) = tq.compensate(student, [torch.randn(200, 16)]).values()
    assert torch.equal(scale, before) and left < nearest and student[0].training


def test_refusals():
    with pytest.raises(ValueError, match="tear the groups of a pattern apart"):
        sweep(W, H, symmetric(4), pattern="2:4", by_size=True)
    with pytest.raises(ValueError, match="NaN or infinite"):
        sweep(W, H * torch.nan, symmetric(4))
    net = nn.Sequential(nn.Linear(12, 6))
    with pytest.raises(ValueError, match="no linear layer has a quantizer"):
        tq.compensate(net, [X.float()])
    student = tq.compress(net, {"0": [tq.LSQ(bits=4)]})
    with pytest.raises(ValueError, match="no scale yet"):
        tq.compensate(student, [X.float()])
    unused = nn.ModuleDict({"used": nn.Linear(12, 6), "idle": nn.Linear(12, 6)})
    unused.forward = lambda x: unused["used"](x)
    student = tq.calibrate(tq.compress(unused, {"*": [tq.LSQ(bits=4)]}))
    student.forward = lambda x: student["used"](x)
    with pytest.raises(ValueError, match="no batch reached 1 layers, the first is 'idle'"):
        tq.compensate(student, [X.float()])


def mixed(n=64, width=48):
    """Inputs that go together, so that there is something to compensate with."""
    return torch.randn(n, 12) @ torch.randn(12, width) + 0.3 * torch.randn(n, width)


EDITS = [
    [tq.LSQ(bits=3)], [tq.LSQ(bits=3, per="channel")], [tq.LSQ(bits=2, per=16)],
    [tq.SAWB(bits=2)], [tq.PACT(bits=3)], [tq.Uniform(bits=3, integer_zero=True)],
    [tq.LSQPlus(bits=3)], [tq.LearnedClip(bits=2)], [tq.TwoFour()], [tq.TwoFour(update="ste")],
    [tq.TwoFour(), tq.LSQ(bits=4)], [tq.TwoFour(pattern="4:8 pairs"), tq.SAWB(bits=4)],
]  # fmt: skip


@pytest.mark.parametrize("edits", EDITS, ids=repr)
def test_outputs_suffer_less_and_pack_bit_equal(edits):
    net = nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 16))
    x = mixed()
    student = tq.calibrate(tq.compress(net, {"*": edits})).eval()
    scales = {n: t.clone() for n, t in student.named_parameters() if "scale" in n or "clip" in n}
    nearest = (student(x) - net(x)).square().mean()
    found = tq.compensate(student, [x[:40], x[40:]])
    assert [*found] == ["0", "2"] and all(after < before for before, after in found.values())
    assert (student(x) - net(x)).square().mean() < nearest
    for name, scale in scales.items():
        assert torch.equal(scale, student.get_parameter(name))
    if isinstance(edits[0], tq.TwoFour):
        for k in (0, 2):
            group = 8 if edits[0].pattern != "2:4" else 4
            assert ((student[k].weight.reshape(-1, group) != 0).sum(1) <= group // 2).all()
    packed = tq.pack(student)
    assert torch.equal(packed(x), student(x))
    assert torch.allclose(student(x), student.eval()(x))


def as_conv1d(linear):
    """GPT-2's layer with the numbers of a linear one."""
    new = Conv1D(linear.out_features, linear.in_features)
    new.weight, new.bias = nn.Parameter(linear.weight.detach().T.contiguous()), linear.bias
    return new


@pytest.mark.parametrize("per", ["tensor", "channel", 3])
def test_a_conv1d_is_swept_by_the_normal_equations(per):
    """Its weight lies the other way round, and so do its groups: rows of inputs, in float64."""
    layer = as_conv1d(nn.Linear(12, 6).double())
    layer.weight.data.copy_(W.T)
    student = tq.calibrate(tq.compress(nn.Sequential(layer), {"0": [tq.LSQ(bits=3, per=per)]}))
    chain = student[0].parametrizations.weight
    scale = chain[0].scale.detach().double().reshape(-1, 1)
    scale = scale.expand(len(scale), 72 // len(scale)).reshape(12, 6).T  # of each weight, (out, in)
    ((nearest, compensated),) = tq.compensate(student, [X]).values()
    h = X.T @ X / len(X)
    damped = h + 0.01 * h.diagonal().mean() * torch.eye(12).double()
    expected, rest = torch.empty_like(W), W.clone()
    for k in range(12):
        expected[:, k] = (rest[:, k] / scale[:, k]).round().clamp(-4, 3) * scale[:, k]
        s, f = slice(0, k + 1), slice(k + 1, 12)
        moved = (W - expected)[:, s] @ damped[s, f] @ torch.linalg.inv(damped[f, f])
        rest[:, f] = W[:, f] + moved
    found = student[0].weight.detach().T
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    rounded = (W / scale).round().clamp(-4, 3) * scale
    assert nearest == pytest.approx(error(rounded), rel=1e-6)
    assert compensated == pytest.approx(error(expected), rel=1e-6) and compensated < nearest


@pytest.mark.parametrize("edits", EDITS, ids=repr)
def test_a_conv1d_suffers_less_and_packs_bit_equal(edits):
    net, x = (
        nn.Sequential(as_conv1d(nn.Linear(48, 32)), nn.ReLU(), as_conv1d(nn.Linear(32, 16))),
        mixed(),
    )
    student = tq.calibrate(tq.compress(net, {"*": edits})).eval()
    nearest = (student(x) - net(x)).square().mean()
    found = tq.compensate(student, [x[:40], x[40:]])
    assert [*found] == ["0", "2"] and all(after < before for before, after in found.values())
    assert (student(x) - net(x)).square().mean() < nearest
    if isinstance(edits[0], tq.TwoFour):
        group = 8 if edits[0].pattern != "2:4" else 4
        for k in (0, 2):
            assert ((student[k].weight.T.reshape(-1, group) != 0).sum(1) <= group // 2).all()
    assert torch.equal(tq.pack(student)(x), student(x))


def test_a_conv1d_with_one_scale_is_the_linear_layer_turned_round():
    for edits in ([tq.LSQ(bits=3)], [tq.TwoFour(), tq.SAWB(bits=4)]):
        linear, x = nn.Linear(48, 16), mixed()
        pair = [nn.Sequential(layer) for layer in (linear, as_conv1d(linear))]
        pair = [tq.calibrate(tq.compress(net, {"0": edits})) for net in pair]
        one, two = (tq.compensate(student, [x], by_size=True)["0"] for student in pair)
        assert one == pytest.approx(two, rel=1e-5)
        torch.testing.assert_close(pair[1][0].weight.T, pair[0][0].weight)


def test_every_layer_sees_what_the_compressed_ones_before_it_give():
    """Swept alone with those inputs, the second layer comes out the same."""
    net, x = nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 16)), mixed()
    student = tq.calibrate(tq.compress(net, {"*": [tq.LSQ(bits=2)]})).eval()
    second = student[2].parametrizations.weight
    q = second[0]
    tq.compensate(student, [x])
    given = student[:2](x).detach()
    expected = sweep(net[2].weight, given.T @ given, lambda column, k: q(column))
    assert torch.allclose(second.original, expected, atol=1e-5)


def test_padding_is_no_data():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(48, 16)

        def forward(self, x, attention_mask):
            return self.layer(x)

    x, mask = mixed(40).reshape(4, 10, 48), torch.ones(4, 10, dtype=torch.long)
    mask[:, 6:] = 0
    found = []
    for fill in (0.0, 100.0):
        torch.manual_seed(1)
        student = tq.calibrate(tq.compress(Padded(), {"layer": [tq.LSQ(bits=3)]}))
        given = torch.where(mask[..., None] == 1, x, fill)
        tq.compensate(student, [{"x": given, "attention_mask": mask}])
        found.append(student.layer.weight.detach())
    assert torch.equal(*found)


def test_what_is_left_to_nearest_is_said():
    net = nn.Sequential(nn.Embedding(9, 12), nn.Linear(12, 6))
    student = tq.calibrate(tq.compress(net, {"*": [tq.LSQ(bits=4)]}))
    with pytest.warns(UserWarning, match=r"1 weights stay rounded to nearest, '0\.weight': comp"):
        found = tq.compensate(student, [torch.tensor([[1, 2, 3]])])
    assert [*found] == ["1"]
    student = tq.calibrate(tq.compress(net, {"0": [tq.LSQ(bits=4)]}))
    with pytest.raises(ValueError, match="no linear layer"):
        tq.compensate(student, [torch.tensor([[1, 2, 3]])])


def test_weights_that_are_left_have_names():
    """Tables, factors, convolutions, and a quantizer of one's own; a norm has none to move."""
    net = nn.ModuleDict({name: nn.Linear(12, 12) for name in ("pair", "own", "last")})
    net.update(
        {"table": nn.Embedding(9, 12), "conv": nn.Conv1d(12, 12, 1), "norm": nn.LayerNorm(12)}
    )
    plan = {"pair": [tq.LowRank(rank=4), tq.LSQ(4)], "own": [own], "*": [tq.LSQ(bits=4)]}
    student = tq.calibrate(tq.compress(net, plan))

    def forward(ids):
        x = student["conv"](student["table"](ids).mT).mT
        return student["last"](student["norm"](student["own"](student["pair"](x))))

    student.forward = forward
    left = "'pair.core_0', 'pair.core_1', 'own.weight', 'table.weight', 'conv.weight': comp"
    with pytest.warns(UserWarning, match=f"5 weights stay rounded to nearest, {left}"):
        assert [*tq.compensate(student, [torch.tensor([[1, 2, 3]])])] == ["last"]
    more = nn.Sequential(*[nn.Embedding(9, 12) for _ in range(7)], nn.Linear(12, 6))
    student = tq.calibrate(tq.compress(more, {"*": [tq.LSQ(bits=4)]}))
    student.forward = lambda ids: student[7](student[0](ids))
    with pytest.warns(UserWarning, match="7 weights .*'3.weight', '4.weight' and 2 more: comp"):
        tq.compensate(student, [torch.tensor([[1, 2, 3]])])


class Tenths(nn.Module):
    """A quantizer that shares nothing with ours but what ``is_quantizer`` asks for."""

    bits, qmin, qmax = 4, -8, 7

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor(0.1))

    def forward(self, x):
        return (x / self.scale).round().clamp(self.qmin, self.qmax) * self.scale

    def codes(self, x):
        return (x / self.scale).round().clamp(self.qmin, self.qmax).to(torch.int16)

    def calibrate(self, x):
        return self


def own(module):
    nn.utils.parametrize.register_parametrization(module, "weight", Tenths())
    return module


def test_layers_of_one_input_share_its_hessian(monkeypatch):
    """Queries, keys and values: one pass for the three."""
    from transformers import BertConfig, BertModel

    from tqlearn.posttraining import Moments

    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=64)  # fmt: skip
    student = tq.compress(BertModel(config), {"encoder.*": [tq.LSQ(bits=3)]})
    made, begin = [], Moments.__init__
    monkeypatch.setattr(Moments, "__init__", lambda *a: made.append(1) or begin(*a))
    batch = {"input_ids": torch.randint(50, (4, 7)), "attention_mask": torch.ones(4, 7).long()}
    found = tq.compensate(tq.calibrate(student), [batch])
    assert len(found) == 12 and len(made) == 8
    assert not grid.uncalibrated(student)


def test_sums_of_half_floats_do_not_overflow():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 8)), 100 * torch.randn(512, 16)
    half = tq.calibrate(tq.compress(model.half(), {"0": [tq.LSQ(4)]}))
    ((nearest, compensated),) = tq.compensate(half, [x.half()]).values()
    assert half[0].weight.isfinite().all() and 0 < compensated < nearest
