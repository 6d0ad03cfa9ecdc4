"""Spec sheet KroneckerBERT, acceptance checks 4, 5, 6 and 8: layers against the dense product."""

import pytest
import torch
from test_layers import linear_of
from test_trains import close, golden
from torch import nn
from torch.testing import assert_close

from tqlearn import Kronecker, compress
from tqlearn.factors.kronecker import kronecker_dense, rearrange
from tqlearn.factors.kronecker_layers import KroneckerEmbedding, KroneckerLinear
from tqlearn.factors.low_rank import low_rank

# name -> out_modes, in_modes, and which order and way the counts call for
SHAPES = {
    "KB8 attention": ((384, 2), (384, 2), True, "transpose"),
    "KB8 up": ((8, 384), (2, 384), True, "batch"),
    "KB8 down": ((2, 384), (8, 384), False, "batch"),
    "KB21 attention": ((384, 2), (48, 16), True, "spread"),
    "KB21 up": ((16, 192), (2, 384), True, "batch"),
    "KB21 down": ((2, 384), (16, 192), False, "batch"),
    "left first, transposed": ((4, 6), (20, 10), False, "transpose"),
    "left first, spread": ((24, 16), (96, 2), False, "spread"),
}


def golden_layer(dtype=torch.float64, rank=1):
    dense = linear_of(golden().to(dtype), bias=False)
    return KroneckerLinear.from_linear(dense, (4, 6), (6, 6), rank)


def test_golden_forward():
    y = golden_layer()((0.2 * torch.arange(36, dtype=torch.float64)).cos()).detach()
    assert_close(y[:3].tolist(), [7.40848962, 8.47534520, 5.23817168], atol=1e-7, rtol=0)
    close(y.sum(), 7.451101802)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("left_by", ["batch", "spread", "transpose"])
@pytest.mark.parametrize("right_first", [True, False])
@pytest.mark.parametrize("shape", [(36,), (1, 36), (5, 36), (2, 3, 36)])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_every_order_is_the_dense_product(shape, right_first, left_by, rank, dtype, tol):
    layer = golden_layer(dtype, rank)
    layer.right_first, layer.left_by = right_first, left_by
    weight, x = kronecker_dense(layer.factors), torch.randn(shape, dtype=dtype)
    y = layer(x)
    assert y.shape == (*shape[:-1], 24) and y.is_contiguous()
    assert_close(y, x @ weight.T, atol=tol * 50, rtol=tol)
    assert_close(layer.dense()(x), x @ weight.T, atol=tol * 50, rtol=tol)


@pytest.mark.parametrize("name", SHAPES)
def test_the_cheaper_order_is_chosen(name):
    out_modes, in_modes, right_first, left_by = SHAPES[name]
    layer = KroneckerLinear(out_modes, in_modes)
    assert (layer.right_first, layer.left_by) == (right_first, left_by)
    x = torch.randn(3, layer.in_features)
    expected = x @ kronecker_dense(layer.factors).T + layer.bias
    assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)


def test_all_products_equal_the_dense_layer():
    dense = nn.Linear(36, 24).double()
    layer = KroneckerLinear.from_linear(dense, (4, 6), (6, 6), rank=1000)
    x = torch.randn(5, 36).double()
    assert layer.rank == 24
    assert_close(layer(x), dense(x), atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("left_by", ["batch", "spread", "transpose"])
@pytest.mark.parametrize("right_first", [True, False])
def test_gradients_are_those_of_the_spec_sheet(right_first, left_by):
    """dA = sum dY B X^T, dB = sum dY^T A X, dX = A^T dY B."""
    layer = golden_layer()
    layer.right_first, layer.left_by = right_first, left_by
    x = torch.randn(5, 36, dtype=torch.float64, requires_grad=True)
    up = torch.randn(5, 24, dtype=torch.float64)
    layer(x).backward(up)
    (a, b), grid, up = layer.factors[0], x.detach().reshape(5, 6, 6), up.reshape(5, 4, 6)
    assert_close(a.grad, (up @ b @ grid.mT).sum(0))
    assert_close(b.grad, (up.mT @ a @ grid).sum(0))
    assert_close(x.grad, (a.T @ up @ b).reshape(5, 36))


@pytest.mark.parametrize("name", ["KB8 up", "KB8 down", "KB8 attention", "KB21 attention"])
def test_gradients_of_factors_input_and_bias(name):
    _, _, right_first, left_by = SHAPES[name]
    layer = KroneckerLinear((2, 3), (3, 2), rank=2).double()
    layer.right_first, layer.left_by = right_first, left_by
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def call(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), x)

    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(call, (x, *values), eps=1e-6, rtol=1e-6)


@pytest.mark.parametrize("rank", [1, 4])
def test_random_start_has_the_standard_deviation_asked_for(rank):
    stds, tables = [], []
    for seed in range(6):
        torch.manual_seed(seed)
        layer = KroneckerLinear((32, 24), (24, 32), rank)
        stds.append(kronecker_dense(layer.factors).std().detach())
        table = KroneckerEmbedding(500, (16, 12), rank)
        tables.append(kronecker_dense(table.factors).std().detach())
    assert float(torch.stack(stds).mean()) == pytest.approx((1 / 1536) ** 0.5, rel=0.05)
    assert float(torch.stack(tables).mean()) == pytest.approx(1.0, rel=0.15)  # only 12 numbers in B


def golden_table(n, rank=1):
    dense = nn.Embedding(10, 12).double()
    dense.weight.data.copy_(golden()[:10, :12])
    return dense, KroneckerEmbedding.from_embedding(dense, (12 // n, n), rank)


@pytest.mark.parametrize(
    ("n", "values", "error"),
    [
        (2, [10.35262547, 1.81544350], 1.815443497),
        (3, [10.12063781, 2.81052586, 0.38252312], 2.836437827),
        (4, [], 3.874291337),
    ],
)
def test_golden_embedding(n, values, error):
    dense, table = golden_table(n)
    moved = rearrange(dense.weight.detach(), (10, 1), (12 // n, n))
    assert moved.shape == (10 * 12 // n, n)
    found = torch.linalg.svdvals(moved)[: len(values)]
    assert_close(found.tolist(), values, atol=1e-8, rtol=0)
    close((dense.weight - table.dense().weight).norm().detach(), error)


@pytest.mark.parametrize("rank", [1, 2])
def test_a_row_is_a_product_and_logits_need_no_table(rank):
    _, table = golden_table(3, rank)
    everything = table.dense().weight.detach()
    for i in range(10):
        row = sum(torch.kron(a[i], b[0]) for a, b in table.factors)
        assert_close(table(torch.tensor(i)), row, atol=1e-12, rtol=0)
    ids = torch.tensor([[0, 9, 7], [7, 7, 1]])
    assert_close(table(ids), everything[ids], atol=1e-12, rtol=0)
    hidden = torch.randn(2, 3, 12, dtype=torch.float64)
    assert_close(table.logits(hidden), hidden @ everything.T, atol=1e-12, rtol=0)


def test_one_wide_row_is_the_low_rank_table():
    dense, _ = golden_table(3)
    table = KroneckerEmbedding.from_embedding(dense, (1, 12), rank=4)
    left, right, _ = low_rank(dense.weight.detach(), 4)
    assert_close(table.dense().weight.detach(), left @ right, atol=1e-12, rtol=0)


def test_gradients_of_look_up_and_logits():
    table = KroneckerEmbedding(8, (2, 3), rank=2).double()
    names = [name for name, _ in table.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in table.parameters()]

    def call(*values):  # id 3 twice: its gradients add up
        state = dict(zip(names, values, strict=True))
        return torch.func.functional_call(table, state, torch.tensor([0, 3, 3, 7]))

    assert torch.autograd.gradcheck(call, values, eps=1e-6, rtol=1e-6)
    hidden = torch.randn(2, 6, dtype=torch.float64)
    table.logits(hidden).square().sum().backward()
    found = [core.grad.clone() for core in table.cores]
    table.zero_grad()
    (hidden @ kronecker_dense(table.factors).T).square().sum().backward()
    for ours, plain in zip(found, [core.grad for core in table.cores], strict=True):
        assert_close(ours, plain)


def test_ids_outside_the_table():
    table = KroneckerEmbedding(22, (6, 6))
    for bad in (22, -1):
        with pytest.raises(IndexError, match="the table has rows 0 to 21"):
            table(torch.tensor([bad]))
    program = torch.export.export(table, (torch.tensor([[0, 21]]),)).module()
    with pytest.raises(RuntimeError, match="rows 0 to 21"):
        program(torch.tensor([[0, 22]]))
    assert table.to("meta")(torch.tensor([[1]], device="meta")).shape == (1, 1, 36)


@pytest.mark.parametrize("name", ["KB8 attention", "KB8 up", "KB8 down"])
def test_a_layer_can_be_exported_with_any_number_of_tokens(name):
    layer = KroneckerLinear(*SHAPES[name][:2])
    x = torch.randn(2, 5, layer.in_features)
    tokens = torch.export.Dim("tokens", min=2, max=64)
    program = torch.export.export(layer, (x,), dynamic_shapes=({1: tokens},)).module()
    more = torch.randn(2, 9, layer.in_features)
    assert_close(program(more), layer(more))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layers_of_half_floats_are_split_in_float32(dtype):
    dense, table = nn.Linear(36, 24).to(dtype), nn.Embedding(24, 36).to(dtype)
    linear = KroneckerLinear.from_linear(dense, (4, 6), (6, 6), 24)
    assert linear.core_0.dtype == linear.bias.dtype == dtype
    assert_close(linear.dense().weight, dense.weight, atol=0.02, rtol=0)
    rows = KroneckerEmbedding.from_embedding(table, (6, 6), 6)
    assert rows(torch.arange(24)).dtype == dtype
    assert_close(rows.dense().weight, table.weight, atol=0.1, rtol=0)


class Block(nn.Module):
    """One attention layer and FFN, with what the paper's losses compare."""

    def __init__(self, width=16):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.up, self.down = nn.Linear(width, 32), nn.Linear(32, width)

    def forward(self, x, mask):
        scores = self.query(x) @ self.key(x).mT / x.shape[-1] ** 0.5
        mixed = scores.masked_fill(~mask[:, None], -1e4).softmax(-1) @ self.value(x)
        return mixed + self.down(self.up(mixed).relu()), scores


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.blocks = nn.Embedding(30, 16), nn.ModuleList([Block(), Block()])

    def forward(self, ids, mask):
        x, found = self.words(ids), []
        found.append(x)
        for block in self.blocks:
            x, scores = block(x, mask)
            found += [scores, x]
        return found


def losses(student, teacher, ids, mask):
    """L_emb, and L_att and L_ffn per layer; what belongs to padding is left out."""
    pairs = zip(student(ids, mask), teacher(ids, mask), strict=True)
    terms = []
    for ours, theirs in pairs:
        scores = ours.shape[-1] == ids.shape[1]
        kept = mask[:, None] & mask[..., None] if scores else mask[..., None]
        difference = ((ours - theirs.detach()) * kept).square().sum()
        terms.append(difference / kept.expand_as(ours).sum())
    return terms


def test_distillation_from_itself_is_exactly_zero_and_gradients_reach_every_factor():
    teacher, ids = Net(), torch.randint(0, 30, (2, 7))
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 5:] = False
    assert [term.item() for term in losses(teacher, teacher, ids, mask)] == [0.0] * 5
    student = compress(teacher, {"*": [Kronecker(rank=1)]})
    for depth, term in enumerate(losses(student, teacher, ids, mask)):
        student.zero_grad()
        term.backward(retain_graph=True)
        block = (depth + 1) // 2  # terms: embedding, scores 1, output 1, scores 2, output 2
        below = student.blocks[: max(block - 1, 0)]
        reached = [student.words] + [m for b in below for m in b.children()]
        if block and depth % 2:
            reached += [student.blocks[block - 1].query, student.blocks[block - 1].key]
        elif block:
            reached += list(student.blocks[block - 1].children())
        for layer in reached:
            for core in layer.cores:
                assert core.grad.isfinite().all() and core.grad.abs().sum() > 0
    ids_other = torch.where(mask, ids, (ids + 1) % 30)  # other words in the padding
    before = losses(student, teacher, ids, mask)
    after = losses(student, teacher, ids_other, mask)
    for one, two in zip(before, after, strict=True):
        assert_close(one, two)


def test_refusals():
    dense = nn.Linear(35, 24)
    with pytest.raises(ValueError, match="factors 4 x 6 and 6 x 6 .* but the matrix is 24 x 35"):
        KroneckerLinear.from_linear(dense, (4, 6), (6, 6))
    with pytest.raises(ValueError, match="factors .* but the matrix is 24 x 36"):
        KroneckerEmbedding.from_embedding(nn.Embedding(24, 36), (7, 5))
    with pytest.raises(ValueError, match="at least 1 Kronecker product, got rank=0"):
        KroneckerLinear((4, 6), (6, 6), rank=0)
    with pytest.raises(ValueError, match="in_modes are pairs"):
        KroneckerLinear((4, 3, 2), (6, 6))
    table = nn.Embedding(24, 36)
    table.weight.data[0, 0] = float("inf")
    with pytest.raises(ValueError, match="NaN or infinite"):
        KroneckerEmbedding.from_embedding(table, (6, 6))
    dense = nn.Linear(36, 24)
    dense.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        KroneckerLinear.from_linear(dense, (4, 6), (6, 6))


def test_autocast_gets_its_type():
    layer, x = Kronecker(rank=1)(nn.Linear(8, 8)), torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == nn.Linear(8, 8)(x).dtype == torch.bfloat16
