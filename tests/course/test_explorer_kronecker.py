"""Notebook 03: what its explorer computes and draws, the three structures, and its exercises."""

import time
from itertools import pairwise

import pytest
import torch

from tqlearn import shapes
from tqlearn.factors import kronecker, trains
from tqlearn.factors.kronecker_layers import KroneckerEmbedding, KroneckerLinear
from tqlearn.lab import exercises
from tqlearn.lab.check import check
from tqlearn.lab.exercises import n03_kronecker as n03
from tqlearn.lab.explorers import kronecker as explorer
from tqlearn.lab.explorers import structures as three
from tqlearn.lab.explorers.base import unbroken
from tqlearn.lab.explorers.tensor_train import pair_costs


@pytest.fixture(scope="module")
def matrices():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(8, 4, generator=generator), torch.randn(3, 4, generator=generator)
    hidden = torch.kron(a, b)
    return {"noise": torch.randn(24, 16, generator=generator), "hidden": hidden}


@pytest.fixture(scope="module")
def table(matrices):
    return explorer.kronecker_table(matrices)


@pytest.fixture
def widget(table, matrices):
    return explorer.kronecker_explorer(table, matrices)


def find(table, matrix, rows, cols):
    return next(
        row for row in table if (row["matrix"], row["rows"], row["cols"]) == (matrix, rows, cols)
    )


def test_every_pair_of_divisors_is_there(table):
    shapes_of_a = [(row["rows"], row["cols"]) for row in table if row["matrix"] == "noise"]
    assert len(shapes_of_a) == len(set(shapes_of_a)) == 8 * 5


def test_costs_by_hand(table):
    """24 x 16 with A 6 x 2: B is 4 x 8. B first: 2 rows of 8 to 4, then 6 from 2, 4 times."""
    row = find(table, "noise", 6, 2)
    assert row["numbers"] == 6 * 2 + 4 * 8 and row["dense"] == 384
    assert row["b_first"] == 2 * 8 * 4 + 6 * 2 * 4
    assert row["a_first"] == 6 * 2 * 8 + 6 * 8 * 4
    assert len(row["errors"]) == 12
    thrice = explorer.at(row, 3)
    assert (thrice["numbers"], thrice["b_first"]) == (3 * 44, 3 * 112)
    assert thrice["error"] == row["errors"][2]


@pytest.mark.parametrize(("rows", "cols"), [(6, 2), (1, 16), (24, 1), (2, 2), (24, 16), (1, 1)])
def test_errors_are_those_of_the_rebuilt_sums(matrices, rows, cols):
    weight = matrices["noise"].double()
    errors = explorer.sum_errors(weight, rows, cols)
    modes = (rows, 24 // rows), (cols, 16 // cols)
    assert len(errors) == min(rows * cols, 384 // (rows * cols))
    for count in {1, (len(errors) + 1) // 2, len(errors)}:
        factors, _ = kronecker.nearest_kronecker(weight, *modes, rank=count)
        error = (weight - kronecker.kronecker_dense(factors)).norm() / weight.norm()
        assert errors[count - 1] == pytest.approx(float(error), abs=1e-7)


def test_more_products_lose_less_until_nothing_is_lost(table):
    for row in table:
        assert all(b <= a + 1e-9 for a, b in pairwise(row["errors"])) and row["errors"][-1] == 0
        assert row["errors"][0] <= 1


def test_a_column_times_a_row_is_the_pair(table, matrices):
    for name, weight in matrices.items():
        for rows, cols in ((24, 1), (1, 16)):
            row = find(table, name, rows, cols)
            for pair in pair_costs(weight):
                one = explorer.at(row, pair["rank"])
                assert one["numbers"] == pair["numbers"] == min(one["b_first"], one["a_first"])
                assert one["error"] == pytest.approx(pair["error"], abs=1e-6)


def test_a_hidden_product_is_found_in_its_shape_alone(table):
    assert find(table, "hidden", 8, 4)["errors"][0] < 1e-6
    others = [row for row in table if row["matrix"] == "hidden" and row["numbers"] < 100]
    assert all(row["errors"][0] > 0.2 for row in others if (row["rows"], row["cols"]) != (8, 4))


def test_too_many_products_are_clipped_and_said(table, matrices):
    row = find(table, "noise", 2, 2)
    assert explorer.at(row, 64) == explorer.at(row, 4)
    pairs = {name: pair_costs(weight) for name, weight in matrices.items()}
    words = explorer.draw_kronecker(2, 2, 64, "noise", table, pairs)[1]
    assert "4 products are exact" in words
    words = explorer.draw_kronecker(1, 1, 2, "noise", table, pairs)[1]
    assert "1 product is exact, more would be zeros" in words
    assert "are exact" not in explorer.draw_kronecker(2, 2, 4, "noise", table, pairs)[1]


def test_the_caption_names_the_largest_pair_that_fits(table, matrices):
    pairs = {name: pair_costs(weight) for name, weight in matrices.items()}
    words = explorer.draw_kronecker(6, 2, 2, "noise", table, pairs)[1]
    assert "a pair of rank 2 needs 80 numbers" in words and "112 with B first" not in words
    assert "224 with B first, 576 with A first, 384 without" in words
    single = explorer.draw_kronecker(4, 4, 1, "noise", table, pairs)
    assert "A is 4 × 4, 1 product: 40 numbers" in single[0].layout.title.text
    small = {name: [p for p in found if p["rank"] > 5] for name, found in pairs.items()}
    words = explorer.draw_kronecker(6, 2, 2, "noise", table, small)[1]
    assert "No low-rank pair is that small" in words


def test_a_moved_slider_draws_what_a_fresh_figure_would(widget, table, matrices):
    pairs = {name: pair_costs(weight) for name, weight in matrices.items()}
    before = widget.figure.to_plotly_json()
    for rows, cols, products, matrix in (
        (24, 1, 8, "hidden"),
        (1, 1, 64, "noise"),
        (6, 4, 2, "noise"),
    ):
        values = {"rows": rows, "cols": cols, "products": products, "matrix": matrix}
        for name, value in values.items():
            widget.controls[name].value = value
        fresh, words = explorer.draw_kronecker(**values, table=table, pairs=pairs)
        assert widget.caption.value == unbroken(words)
        assert widget.figure.layout.title.text == fresh.layout.title.text
        for mine, other in zip(widget.figure.data, fresh.data, strict=True):
            assert (*mine.x,) == (*other.x,) and (*mine.y,) == (*other.y,)
    now = widget.figure.to_plotly_json()
    assert now["layout"]["title"] != before["layout"]["title"]
    assert now["data"][3]["x"] != before["data"][3]["x"]


def test_a_callback_takes_less_than_300_ms(widget):
    start = time.thread_time()
    widget.controls["products"].value = 4
    assert time.thread_time() - start < 0.3


def test_matrices_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"one shape, got \[\(4, 6\), \(6, 4\)\]"):
        explorer.kronecker_table({"a": torch.randn(4, 6), "b": torch.randn(6, 4)})


def test_structures_are_what_they_say(matrices):
    weight = matrices["noise"]
    budgets = [40.0, 96.0, 192.0]
    found = three.candidates(weight, budgets)
    assert {row["family"] for row in found} == {"pair", "one", "sum", "train"}
    sums = [row for row in found if row["family"] == "sum"]
    assert len(sums) == sum(min(p, 384 // p) for p in _sizes())
    assert len([row for row in found if row["family"] == "one"]) == len(_sizes())
    plain = next(row for row in sums if row["shape"] == "2 x (6 x 2, 4 x 8)")
    assert plain["numbers"] == 2 * 44 and not plain["vector"]
    thin = next(row for row in sums if row["shape"] == "3 x (24 x 2, 1 x 8)")
    assert thin["vector"] and thin["numbers"] == 3 * 56
    for row in [row for row in found if row["family"] == "train"]:
        *modes, _, limit = row["shape"].split()
        modes = [*map(int, modes)]
        cores, dropped = trains.tt_svd(weight.reshape(modes), int(limit))
        assert row["numbers"] == sum(core.numel() for core in cores) <= max(budgets)
        assert row["error"] == pytest.approx(float(dropped.norm() / weight.norm()), rel=1e-5)


def _sizes():
    return [m * n for m in shapes.divisors(24) for n in shapes.divisors(16)]


@pytest.mark.parametrize("budget", [1, 60, 100.5, 500])
def test_the_largest_rank_fills_the_budget(budget):
    modes = (4, 6, 4, 4)
    limit = three.largest_rank(modes, budget)
    if limit:
        assert shapes.tt_parameters(modes, limit) <= budget
    if limit < 16:
        assert shapes.tt_parameters(modes, limit + 1) > budget


def test_the_best_within_a_budget():
    rows = [
        {"family": "sum", "numbers": 10, "error": 0.5, "vector": True},
        {"family": "sum", "numbers": 9, "error": 0.6, "vector": False},
        {"family": "sum", "numbers": 8, "error": 0.5, "vector": True},
        {"family": "sum", "numbers": 11, "error": 0.1, "vector": False},
        {"family": "pair", "numbers": 1, "error": 0.0},
    ]
    assert three.best_within(rows, "sum", 10) == rows[2], "the smaller one of two as good"
    assert three.best_within(rows, "sum", 10, vectors=False) == rows[1]
    assert three.best_within(rows, "sum", 11) == rows[3]
    assert three.best_within(rows, "pair", 1, vectors=False) == rows[4]
    with pytest.raises(ValueError, match="no 'train' has at most 10 numbers"):
        three.best_within(rows, "train", 10)


@pytest.fixture(scope="module")
def best():
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(32, 16, generator=generator)
    low = noise[:, :2] @ noise[:2] + 0.1 * torch.randn(32, 16, generator=generator)
    return three.compare({("a", "low"): low, ("a", "noise"): noise}, (0.25, 0.5))


def test_compare(best):
    assert len(best) == 2 * 2 * 5
    for (_, _, share, _), row in best.items():
        assert row["numbers"] <= 1.01 * share * 512
    for kind in ("low", "noise"):
        for share in (0.25, 0.5):
            errors = {family: best["a", kind, share, family]["error"] for family in three.FAMILIES}
            others = [errors[name] for name in ("pair", "one product", "sum of blocks")]
            assert errors["any sum"] <= min(others) + 1e-9, "one sum, two SVDs in float64"
    gap = {
        kind: best["a", kind, 0.25, "sum of blocks"]["error"]
        - best["a", kind, 0.25, "pair"]["error"]
        for kind in ("low", "noise")
    }
    assert gap["low"] > 0.1 > gap["noise"], "rows hold the pattern of the one and not of the other"


def test_structures_are_drawn_relative_to_the_pair(best):
    fig = three.draw_structures(best)
    assert len(fig.data) == 2 * 4 and fig.layout.xaxis2.title.text == "noise: a"
    for trace in fig.data:
        kind = "low" if trace.xaxis == "x" or trace.xaxis == "x1" else "noise"
        for y, share in zip(trace.y, (0.25, 0.5), strict=True):
            behind = (
                best["a", kind, share, trace.name]["error"]
                - best["a", kind, share, "pair"]["error"]
            )
            assert y == pytest.approx(100 * behind)


@pytest.mark.parametrize("seed", range(3))
def test_blocks_back_undoes_the_librarys_rearrangement(seed):
    for T, out_modes, in_modes in exercises.find("03.1").arguments(seed):
        matrix = n03.blocks_back(T, out_modes, in_modes)
        assert torch.equal(kronecker.rearrange(matrix, out_modes, in_modes), T)
    a, b = torch.randn(2, 3), torch.randn(4, 5)
    back = n03.blocks_back(torch.outer(a.flatten(), b.flatten()), (2, 4), (3, 5))
    torch.testing.assert_close(back, torch.kron(a, b))


def test_tied_logits_are_the_librarys():
    layer = KroneckerEmbedding(50, (6, 4))
    (a, b), h, bias = layer.factors[0], torch.randn(7, 24), torch.randn(50)
    torch.testing.assert_close(n03.tied_logits(h, a, b, bias), layer.logits(h) + bias)
    observed = exercises.find("03.2").observe(n03.tied_logits, (h, a.detach(), b.detach(), bias))
    assert observed.flops == 2 * 7 * (24 + 50 * 6), "d + v d / n per token"


def test_a_narrow_row_makes_tied_logits_an_ordinary_product():
    h, a = torch.randn(3, 8), torch.randn(5, 8)
    torch.testing.assert_close(n03.tied_logits(h, a, torch.ones(1, 1), torch.zeros(5)), h @ a.T)


@pytest.mark.parametrize(
    ("attention", "ffn", "total"),
    [((384, 384), (2, 8), 4 * 591_360 + 598_272 + 600_576),
     ((48, 384), (2, 16), 4 * 75_936 + 303_744 + 306_048)],
)  # fmt: skip
def test_layer_flops_are_the_spec_sheets(attention, ffn, total):
    assert n03.layer_flops(attention, ffn, 768, 3072) == total
    (n1, m1), (f1, g1) = attention, ffn
    library = 4 * shapes.kronecker_flops((m1, 768 // m1), (n1, 768 // n1))
    library += shapes.kronecker_flops((g1, 3072 // g1), (f1, 768 // f1))
    library += shapes.kronecker_flops((f1, 768 // f1), (g1, 3072 // g1))
    assert library == total


@pytest.mark.parametrize("seed", range(2))
def test_kronecker_layer_is_the_librarys_at_its_cost(seed):
    exercise = exercises.find("03.4")
    for x, pairs in exercise.arguments(seed):
        (m1, n1), (m2, n2) = (factor.shape for factor in pairs[0])
        layer = KroneckerLinear((m1, m2), (n1, n2), rank=len(pairs), bias=False)
        layer.set_cores([factor for pair in pairs for factor in pair])
        expected = layer(x)
        torch.testing.assert_close(n03.kronecker_layer(x, pairs), expected, rtol=1e-4, atol=1e-4)
        macs = len(x) * len(pairs) * min(shapes.kronecker_macs((m1, m2), (n1, n2)))
        assert exercise.observe(n03.kronecker_layer, (x, pairs)).flops == 2 * macs


def test_a_layer_may_be_written_with_einsum():
    def one(x, A, B):
        X = x.reshape(len(x), A.shape[1], B.shape[1])
        (m1, n1), (m2, n2) = A.shape, B.shape
        if n1 * m2 * (n2 + m1) <= m1 * n2 * (n1 + m2):
            return torch.einsum("ia,tab->tib", A, torch.einsum("tab,jb->taj", X, B)).flatten(1)
        return torch.einsum("tib,jb->tij", torch.einsum("ia,tab->tib", A, X), B).flatten(1)

    assert check("03.4", lambda x, pairs: sum(one(x, A, B) for A, B in pairs)).passed


def test_a_layer_without_gradients_is_told():
    answer = check("03.4", lambda x, pairs: n03.kronecker_layer(x.detach(), pairs))
    assert "the gradient is not" in answer.line
