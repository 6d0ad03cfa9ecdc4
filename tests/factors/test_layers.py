"""Spec sheet QTC, acceptance checks 3, 4, 5 and 7: the layers against the dense product."""

import pytest
import torch
from test_trains import golden
from torch import nn
from torch.testing import assert_close

from tqlearn.factors.embeddings import TTMEmbedding
from tqlearn.factors.layers import LowRankLinear, TTLinear
from tqlearn.factors.low_rank import low_rank
from tqlearn.factors.trains import tt_dense, ttm_dense
from tqlearn.quantizers.edits import LSQ


def linear_of(weight, bias=True):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias).to(weight)
    layer.weight.data.copy_(weight)
    return layer


def golden_layer(dtype=torch.float64):
    dense = linear_of(golden().to(dtype), bias=False)
    return TTLinear.from_linear(dense, (4, 6), (6, 6), (1, 3, 6, 4, 1))


def test_golden_forward():
    layer = golden_layer()
    x = (0.2 * torch.arange(36, dtype=torch.float64)).cos()
    y = layer(x).detach()
    expected = [13.8331576, 5.95420585, 3.49043585]
    assert_close(y[:3].tolist(), expected, atol=1e-7, rtol=0)
    assert float(y.sum()) == pytest.approx(-3.976041944292, abs=1e-9)


@pytest.mark.parametrize("shape", [(36,), (1, 36), (5, 36), (2, 3, 36)])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_forward_is_the_dense_product(shape, dtype, tol):
    layer = golden_layer(dtype)
    weight = tt_dense(layer.cores).reshape(24, 36)
    x = torch.randn(shape, dtype=dtype)
    assert layer(x).shape == (*shape[:-1], 24)
    assert_close(layer(x), x @ weight.T, atol=tol * 50, rtol=tol)
    assert_close(layer.dense()(x), x @ weight.T, atol=tol * 50, rtol=tol)


@pytest.mark.parametrize(
    ("out_modes", "in_modes", "ranks"),
    [
        ((24, 32), (32, 24), (1, 24, 30, 24, 1)),
        ((12, 8, 8), (8, 8, 12), (1, 12, 30, 30, 30, 12, 1)),
        ((12, 8, 8), (12, 16, 16), (1, 12, 30, 30, 30, 16, 1)),
        ((48, 64), (24, 32), (1, 30, 30, 24, 1)),
        ((4, 4, 8, 6), (4, 4, 8, 6), 10),
        ((768,), (768,), 5),
        ((2, 3, 4), (6, 4), 7),  # p and q may differ
    ],
)
def test_every_configuration_equals_its_dense_product(out_modes, in_modes, ranks):
    layer = TTLinear(out_modes, in_modes, ranks).double()
    x = torch.randn(3, layer.in_features, dtype=torch.float64)
    weight = tt_dense(layer.cores).reshape(layer.out_features, layer.in_features)
    assert_close(layer(x), x @ weight.T + layer.bias)


def test_full_rank_equals_the_dense_layer():
    dense = nn.Linear(36, 24).double()
    layer = TTLinear.from_linear(dense, (4, 6), (6, 6), 100)
    x = torch.randn(5, 36).double()
    assert_close(layer(x), dense(x), atol=1e-12, rtol=1e-10)


def test_gradients_of_cores_input_and_bias():
    layer = TTLinear((2, 3), (3, 2), (1, 2, 3, 2, 1)).double()
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def call(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), x)

    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(call, (x, *values), eps=1e-6, rtol=1e-6)


def test_random_start_has_the_standard_deviation_asked_for():
    """Check 5: 768 x 768, B6 r=30, std within 5 % of sqrt(1/(M+N)) = 0.025516."""
    stds = []
    for seed in range(6):
        torch.manual_seed(seed)
        layer = TTLinear((12, 8, 8), (8, 8, 12), (1, 12, 30, 30, 30, 12, 1))
        stds.append(tt_dense(layer.cores).std().detach())
    assert float(torch.stack(stds).mean()) == pytest.approx(0.025516, rel=0.05)


def test_random_table_has_unit_standard_deviation():
    stds = []
    for seed in range(6):
        torch.manual_seed(seed)
        table = TTMEmbedding((16, 20, 10), (4, 8, 4), 20)
        stds.append(ttm_dense(table.cores).std().detach())
    assert float(torch.stack(stds).mean()) == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize(
    ("rows", "cols", "ranks"),
    [
        ((4, 6), (6, 6), 2),
        ((2, 3, 4), (3, 3, 4), (1, 3, 4, 1)),
        ((2, 2, 2, 3), (3, 2, 3, 2), 4),
        ((24,), (36,), 1),
        ((24, 1), (1, 36), 5),  # a low-rank pair
        ((24, 1), (9, 4), 5),
    ],
)
def test_look_up_is_a_row_of_the_table(rows, cols, ranks):
    dense = nn.Embedding(24, 36).double()
    dense.weight.data.copy_(golden())
    table = TTMEmbedding.from_embedding(dense, rows, cols, ranks)
    everything = ttm_dense(table.cores)
    ids = torch.tensor([[0, 23, 7], [7, 7, 1]])
    assert_close(table(ids), everything[ids])
    assert_close(table(torch.arange(24)), everything)
    assert table(torch.tensor(5)).shape == (36,)
    assert_close(table.dense().weight, everything)


def test_gradient_of_a_repeated_id_is_the_sum():
    table = TTMEmbedding((4, 6), (6, 6), 3).double()
    weight = torch.randn(36, dtype=torch.float64)
    (table(torch.tensor([7, 7])) @ weight).sum().backward()
    twice = [core.grad.clone() for core in table.cores]
    table.zero_grad()
    (table(torch.tensor([7])) @ weight).sum().backward()
    for once, both in zip([core.grad for core in table.cores], twice, strict=True):
        assert_close(both, 2 * once)


def test_gradient_of_the_look_up():
    table = TTMEmbedding((2, 2, 2), (2, 1, 2), 2).double()
    names = [name for name, _ in table.named_parameters()]
    ids = torch.tensor([0, 3, 3, 7])

    def call(*values):
        return torch.func.functional_call(table, dict(zip(names, values, strict=True)), ids)

    values = [p.detach().clone().requires_grad_() for p in table.parameters()]
    assert torch.autograd.gradcheck(call, values, eps=1e-6, rtol=1e-6)


def test_padded_rows_are_never_looked_up():
    table = TTMEmbedding((4, 6), (6, 6), 2, num_embeddings=22)
    table(torch.tensor([0, 21]))
    for bad in (22, -1):
        with pytest.raises(IndexError, match="the table has rows 0 to 21"):
            table(torch.tensor([bad]))


def test_refusals():
    dense = nn.Linear(35, 24)
    with pytest.raises(ValueError, match=r"modes \(4, 6\) x \(6, 6\) give 24 x 36, but .* 24 x 35"):
        TTLinear.from_linear(dense, (4, 6), (6, 6), 3)
    dense = nn.Linear(36, 24)
    dense.weight.data[0, 0] = float("inf")
    with pytest.raises(ValueError, match="NaN or infinite"):
        TTLinear.from_linear(dense, (4, 6), (6, 6), 3)
    with pytest.raises(ValueError, match="rows at least as many"):
        TTMEmbedding((4, 6), (6, 6), 2, num_embeddings=25)


def test_fitting_the_words_that_occur():
    """At a rank too low for all rows, the fit spends it on the frequent ones."""
    dense = nn.Embedding(64, 24)
    counts = [100 if i % 8 == 0 else 0 for i in range(64)]
    used = torch.arange(0, 64, 8)
    plain = TTMEmbedding.from_embedding(dense, (8, 8), (4, 6), 6)
    fitted = TTMEmbedding.from_embedding(dense, (8, 8), (4, 6), 6, counts)
    target = dense.weight.detach()[used]
    errors = [float(((t(used) - target).norm() / target.norm()).detach()) for t in (plain, fitted)]
    assert errors[1] < 0.5 * errors[0]
    assert all(core.grad is None for core in fitted.cores)
    with pytest.raises(ValueError, match="one entry for each of the 64 rows .* got 3 entries"):
        TTMEmbedding.from_embedding(dense, (8, 8), (4, 6), 6, [1, 2, 3])


def test_a_look_up_can_be_exported_and_runs_on_meta():
    """The check of the ids must not read them back: no graph break, no wait on a GPU."""
    table, ids = TTMEmbedding((4, 6), (6, 6), 2, num_embeddings=22), torch.tensor([[0, 21]])
    program = torch.export.export(table, (ids,)).module()
    assert_close(program(ids), table(ids))
    with pytest.raises(RuntimeError, match="rows 0 to 21"):
        program(torch.tensor([[0, 22]]))
    assert table.to("meta")(ids.to("meta")).shape == (1, 2, 36)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layers_of_half_floats_are_split_in_float32(dtype):
    dense, table = nn.Linear(36, 24).to(dtype), nn.Embedding(24, 36).to(dtype)
    linear = TTLinear.from_linear(dense, (4, 6), (6, 6), 100)
    exact = TTLinear.from_linear(nn.Linear(36, 24), (4, 6), (6, 6), 100)
    assert linear.config() == exact.config() and linear.bias.dtype == dtype
    assert_close(linear.dense().weight, dense.weight, atol=0.02, rtol=0)  # half cores, one product
    fitted = TTMEmbedding.from_embedding(table, (4, 6), (6, 6), 2, [1] * 24)
    assert fitted(torch.arange(24)).isfinite().all() and fitted.core_0.dtype == dtype


def test_quantized_cores_cannot_be_set():
    """They are computed at each access: a copy into them would be lost without a word."""
    layer = TTLinear((4, 6), (6, 6), 3)
    values = [torch.ones_like(core) for core in layer.cores]
    layer.set_cores(values)
    assert all(torch.equal(a, b) for a, b in zip(layer.cores, values, strict=True))
    with pytest.raises(ValueError, match="carry masks or quantizers; set the values before"):
        LSQ(bits=4)(layer).set_cores(values)


def test_low_rank_is_the_product_of_its_factors():
    dense = linear_of(golden())
    layer = LowRankLinear.from_linear(dense, 5)
    left, right, dropped = low_rank(golden(), 5)
    x = torch.randn(2, 3, 36, dtype=torch.float64)
    assert_close(layer(x), x @ (left @ right).T + dense.bias)
    assert_close(layer.dense()(x), layer(x))
    assert (layer.dense().weight - golden()).norm().item() == pytest.approx(float(dropped))
    full = LowRankLinear.from_linear(dense, 1000)
    assert full.rank == 24
    assert_close(full(x), dense(x), atol=1e-12, rtol=1e-10)


def test_gradients_of_a_low_rank_layer():
    layer = LowRankLinear(6, 5, rank=2).double()
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def call(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), x)

    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(call, (x, *values), eps=1e-6, rtol=1e-6)


def test_a_low_rank_layer_starts_with_the_standard_deviation_asked_for_and_refuses():
    layer = LowRankLinear(768, 768, rank=30)
    weight = (layer.core_0 @ layer.core_1).detach()
    assert float(weight.std()) == pytest.approx(0.025516, rel=0.05)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        LowRankLinear(6, 5, rank=0)
    dense = nn.Linear(36, 24)
    dense.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        LowRankLinear.from_linear(dense, 3)
    half = LowRankLinear.from_linear(nn.Linear(36, 24).bfloat16(), 24)
    assert half.core_0.dtype == half.bias.dtype == torch.bfloat16
