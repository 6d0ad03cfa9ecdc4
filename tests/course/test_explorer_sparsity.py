"""Notebook 06: the sparsity explorer's numbers, its drawing, and the edges of the exercises."""

import time

import pytest
import torch
from torch import nn

import tqlearn as tq
from tqlearn.lab import exercises
from tqlearn.lab.check import check, rejoin
from tqlearn.lab.explorers.sparsity import (
    ANY,
    PATTERNS,
    SCORES,
    mask_for,
    scores_of,
    sparsity_costs,
    sparsity_explorer,
    sparsity_table,
    storage,
)
from tqlearn.sparsity.nm import nm_mask
from tqlearn.sparsity.wanda import input_norms, remask
from tqlearn.stages import mask_of

GENERATOR = torch.Generator().manual_seed(0)
W = torch.randn(40, 64, generator=GENERATOR) / 10
X = torch.randn(300, 64, generator=GENERATOR) * torch.linspace(0.1, 3, 64)
GRAM = X.T @ X / len(X)


def test_a_matrix_by_hand():
    """Inputs of power 1, 100, 1, 1: by size 1 and 2 go, by size times input 2 and 3."""
    w, gram = torch.tensor([[3.0, 1.0, 4.0, 2.0]]), torch.diag(torch.tensor([1.0, 100, 1, 1]))
    by_size, aware = (sparsity_costs(w, gram, "2:4", score) for score in SCORES)
    assert by_size["corner"] == [[3.0, None, 4.0, None]]
    assert aware["corner"] == [[None, 1.0, 4.0, None]]
    assert by_size["error"] == pytest.approx((5 / 30) ** 0.5)
    assert aware["error"] == pytest.approx((13 / 30) ** 0.5)
    assert by_size["output_error"] == pytest.approx(((100 + 4) / (9 + 100 + 16 + 4)) ** 0.5)
    assert aware["output_error"] == pytest.approx(((9 + 4) / 129) ** 0.5)


@pytest.mark.parametrize(
    ("pattern", "numbers", "places"),
    [("1:2", 589_824, 147_456), ("2:4", 589_824, 294_912), ("4:8", 589_824, 442_368),
     ("8:16", 589_824, 589_824), (ANY, 589_824, 294_912), ("4:8 pairs", 589_824, 147_456),
     ("1:4", 294_912, 147_456), ("3:4", 884_736, 442_368)],
)  # fmt: skip
def test_bytes_of_a_layer_of_bert(pattern, numbers, places):
    assert storage((768, 3072), pattern) == {"numbers": numbers, "places": places}
    assert pattern in PATTERNS


def test_bytes_and_errors_are_those_of_the_library():
    model = tq.compress(nn.Sequential(layer()), {"0": [tq.TwoFour(), tq.LSQ(bits=4)]})
    size, row = tq.report(tq.calibrate(model)), sparsity_costs(W, GRAM, "2:4", SCORES[0])
    bias = 4 * 40
    assert (size.nominal, size.with_metadata) == (
        row["numbers"] + bias,
        row["numbers"] + row["places"] + bias + 4,  # and a scale
    )
    assert row["bits"] == 3.0
    pruned = W * mask_of(tq.TwoFour()(layer()))
    error = ((X @ (pruned - W).T).norm() / (X @ W.T).norm()).item()
    assert row["output_error"] == pytest.approx(error, rel=1e-4)


def layer() -> nn.Linear:
    made = nn.Linear(64, 40)
    made.weight.data = W.clone()
    return made


def test_the_activation_aware_score_is_the_librarys():
    model = nn.Sequential(layer())
    student = tq.compress(model, {"0": [tq.TwoFour()]})
    remask(student, input_norms(model, [X]))
    assert torch.equal(mask_for(scores_of(W, GRAM, SCORES[1]), "2:4"), mask_of(student[0]))
    assert torch.equal(mask_for(scores_of(W, GRAM, SCORES[0]), "4:8"), nm_mask(W.abs(), "4:8"))


@pytest.mark.parametrize("score", SCORES)
def test_more_freedom_loses_less(score):
    rows = {
        row["pattern"]: row for row in sparsity_table({"w": (W, GRAM)}) if row["score"] == score
    }
    ladder = [rows[p] for p in ("1:2", "2:4", "4:8", "8:16", ANY)]
    key = "error" if score == SCORES[0] else "output_error"
    assert [row[key] for row in ladder] == sorted((row[key] for row in ladder), reverse=True)
    assert rows["4:8 pairs"]["error"] > rows["4:8"]["error"]
    assert rows["1:4"]["error"] > rows["2:4"]["error"] > rows["3:4"]["error"]
    assert len(rows) == len(PATTERNS)


def test_any_half_is_exactly_half_also_with_ties():
    scores = (3 * torch.rand(7, 10, generator=torch.Generator().manual_seed(1))).round()
    mask = mask_for(scores, ANY)
    assert mask.sum() == 35 and scores[mask].min() >= scores[~mask].max()


@pytest.fixture
def explorer():
    return sparsity_explorer(sparsity_table({"one": (W, GRAM), "other": (2 * W[:20], GRAM)}))


def test_the_figure_draws_the_table(explorer):
    explorer.controls["pattern"].value, explorer.controls["score"].value = "4:8", SCORES[1]
    row = sparsity_costs(W, GRAM, "4:8", SCORES[1])
    corner, gray, blue, mark = explorer.figure.data
    assert [list(line) for line in corner.z] == row["corner"]
    assert (mark.x[0], mark.y[0]) == (row["bits"], pytest.approx(100 * row["output_error"]))
    axes = explorer.figure.layout.xaxis, explorer.figure.layout.yaxis
    assert [(axis.showgrid, axis.zeroline) for axis in axes] == [(False, False)] * 2
    at = PATTERNS.index("4:8")
    assert (blue.x[at], blue.y[at]) == (mark.x[0], mark.y[0])
    other = sparsity_costs(W, GRAM, "4:8", SCORES[0])["output_error"]
    assert gray.y[at] == pytest.approx(100 * other)
    words = f"{row['numbers']:,} + {row['places']:,} bytes: 16.0 times smaller"
    assert (
        words in explorer.caption.value and "9.1 times with their places" in explorer.caption.value
    )


def test_a_moved_control_draws_what_a_fresh_figure_would(explorer):
    for pattern, score, matrix in (("1:4", 1, "one"), (ANY, 0, "other"), ("4:8 pairs", 1, "one")):
        before = explorer.caption.value
        settings = {"pattern": pattern, "score": SCORES[score], "matrix": matrix}
        for name, value in settings.items():
            explorer.controls[name].value = value
        fresh, words = explorer.draw(**settings)
        assert explorer.caption.value == words != before
        assert explorer.figure.layout.title.text == fresh.layout.title.text
        for mine, other in zip(explorer.figure.data, fresh.data, strict=True):
            mine, other = mine.to_plotly_json(), other.to_plotly_json()
            for key in ("x", "y", "z", "text"):
                assert str(mine.get(key)) == str(other.get(key)), key


def test_a_callback_takes_less_than_300_ms(explorer):
    start = time.thread_time()
    explorer.controls["pattern"].value = "8:16"
    assert time.thread_time() - start < 0.3


def test_pairs_are_the_librarys_and_may_be_chosen_in_other_ways():
    (w,) = exercises.find("06.1").arguments(5)[1]
    assert torch.equal(exercises.find("06.1").answer(w), nm_mask(w.abs(), "4:8 pairs"))

    def pair_mask(w):
        squares = w.reshape(*w.shape[:-1], -1, 4, 2).square().sum(-1, keepdim=True)
        third = squares.sort(dim=-2).values[..., 2:3, :]
        return (squares >= third).expand(*squares.shape[:-1], 2).reshape(w.shape)

    assert check("06.1", pair_mask).passed
    split = check("06.1", lambda w: torch.arange(w.numel()).reshape(w.shape) % 3 == 0).line
    assert "some are split" in split
    assert "four of every eight" in check("06.1", lambda w: w.abs() >= 0).line


def test_the_packed_product_is_the_dense_one():
    mask = nm_mask(W.abs())
    places = mask.reshape(-1, 4).nonzero()[:, 1].reshape(40, -1, 2)
    values = W[mask].reshape(40, -1, 2)
    product = exercises.find("06.2").answer(X, values, places)
    torch.testing.assert_close(product, X @ (W * mask).T, rtol=1e-4, atol=1e-5)

    def packed_product(x, values, places):
        dense = torch.zeros(*values.shape[:2], 4).scatter(2, places, values)
        return x @ dense.flatten(1).T

    assert check("06.2", packed_product).passed, "unpacking first is slower, not wrong"


def test_the_decay_loss_is_sr_stes_gradient():
    w = W.clone().requires_grad_()
    exercises.find("06.3").answer(w, 0.3).backward()
    mask = tq.sparsity.NMMask([40, 64], update="sr-ste", decay=0.3)
    leaf = W.clone().requires_grad_()
    mask(leaf).backward(torch.zeros_like(W))
    torch.testing.assert_close(w.grad, leaf.grad)
    assert w.grad.count_nonzero() == W.numel() // 2


def test_a_decay_loss_without_a_gradient_is_told(capsys):
    right = exercises.find("06.3").answer

    def decay_loss(w, decay):
        return right(w.detach(), decay)

    assert "no gradient passes through" in check("06.3", decay_loss).line
    assert rejoin("06.3", decay_loss) is right
    assert "with the reference" in capsys.readouterr().out


def test_the_refit_is_the_least_squares_fit_of_the_kept_inputs():
    mask = nm_mask(W.abs())
    fitted = exercises.find("06.4").answer(W.double(), mask, (X.double().T @ X.double()) / len(X))
    for row, kept, new in zip(W.double(), mask, fitted, strict=True):
        best = torch.linalg.lstsq(X.double()[:, kept], X.double() @ row).solution
        torch.testing.assert_close(new[kept], best)
        assert not new[~kept].any()


def test_a_refit_that_fills_the_holes_or_makes_it_worse_is_told():
    assert "exactly zero" in check("06.4", lambda w, mask, gram: w + 0).line
    assert "further off" in check("06.4", lambda w, mask, gram: 3 * w * mask).line
