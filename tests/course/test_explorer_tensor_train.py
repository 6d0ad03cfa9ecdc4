"""Notebook 02: what its explorer computes and draws, and its exercises at the edges."""

import math
import time
from itertools import pairwise

import pytest
import torch

from tqlearn import shapes
from tqlearn.factors import trains
from tqlearn.lab import exercises
from tqlearn.lab.check import check
from tqlearn.lab.exercises import n02_tensor_train as n02
from tqlearn.lab.explorers import tensor_train as explorer
from tqlearn.lab.explorers.base import unbroken


@pytest.fixture(scope="module")
def matrices():
    generator = torch.Generator().manual_seed(0)
    smooth = 1 / (1 + torch.arange(64)[:, None] + torch.arange(32))
    return {"noise": torch.randn(64, 32, generator=generator), "smooth": smooth}


@pytest.fixture(scope="module")
def rows(matrices):
    return explorer.train_table(matrices)


@pytest.fixture
def widget(rows, matrices):
    return explorer.tensor_train_explorer(rows, matrices)


def find(rows, matrix, digits, rank):
    return next(
        row for row in rows if (row["matrix"], row["digits"], row["rank"]) == (matrix, digits, rank)
    )


@pytest.mark.parametrize(
    ("size", "digits", "modes"),
    [(512, 1, (512,)), (512, 2, (16, 32)), (128, 3, (4, 4, 8)), (12, 0, (2, 2, 3))],
)
def test_digit_modes(size, digits, modes):
    assert sorted(explorer.digit_modes(size, digits)) == sorted(modes)


def test_costs_by_hand():
    """64 x 32 as 8 8 / 8 4: rank 3 is below every limit, so 1 3 3 3 1."""
    row = explorer.train_costs(torch.randn(64, 32), 2, 3)
    assert row["ranks"] == (1, 3, 3, 3, 1) and row["dense"] == 2048
    assert row["numbers"] == 8 * 3 + 3 * 8 * 3 + 3 * 8 * 3 + 3 * 4
    merging = 8 * 3 * 8 * 3 + 3 * 8 * 3 * 4
    assert row["macs"] == pytest.approx(3 * (64 + 32) + merging / explorer.TOKENS)


def test_the_error_is_that_of_the_rebuilt_train(matrices):
    weight = matrices["noise"]
    row = explorer.train_costs(weight, 3, 6)
    modes = (*explorer.digit_modes(64, 3), *explorer.digit_modes(32, 3)[::-1])
    cores, _ = trains.tt_svd(weight.reshape(modes), 6)
    rebuilt = trains.tt_dense(cores).reshape(64, 32)
    assert row["error"] == pytest.approx(float((weight - rebuilt).norm() / weight.norm()), 1e-4)


def test_one_digit_a_side_is_the_pair(rows, matrices):
    for name, weight in matrices.items():
        for pair in explorer.pair_costs(weight):
            if pair["rank"] in explorer.TRAIN_RANKS:
                row = find(rows, name, 1, pair["rank"])
                assert row["numbers"] == pair["numbers"] == row["macs"]
                assert row["error"] == pytest.approx(pair["error"], abs=1e-6)


def test_pairs_against_a_truncated_svd(matrices):
    weight = matrices["noise"]
    pairs = explorer.pair_costs(weight)
    U, S, V = torch.linalg.svd(weight, full_matrices=False)
    for rank in (1, 7, 31):
        near = U[:, :rank] * S[:rank] @ V[:rank]
        error = float((weight - near).norm() / weight.norm())
        assert pairs[rank - 1]["rank"] == rank
        assert pairs[rank - 1]["error"] == pytest.approx(error, rel=1e-4)
    assert pairs[-1]["error"] == 0 and len(pairs) == 32


def test_more_rank_costs_more_and_loses_less(rows, matrices):
    for name in matrices:
        for digits in explorer.DIGITS.values():
            mine = [row for row in rows if (row["matrix"], row["digits"]) == (name, digits)]
            errors = [row["error"] for row in mine]
            assert all(b <= a + 1e-6 for a, b in pairwise(errors)), "up to float32"
            numbers = [row["numbers"] for row in mine]
            assert numbers == sorted(numbers)


def test_the_pair_beside_a_train_is_the_largest_that_fits(rows):
    for row in rows:
        if row["pair"] is None:
            assert row["numbers"] < 64 + 32
        else:
            assert row["pair"]["numbers"] <= row["numbers"]
            assert row["pair"]["rank"] == min(row["numbers"] // (64 + 32), 32)


def test_a_train_of_twos_wins_where_digits_mean_something(rows):
    smooth = find(rows, "smooth", 0, 4)
    assert smooth["error"] < 0.02 and smooth["numbers"] < 3 * (64 + 32)
    assert find(rows, "noise", 0, 4)["error"] > 0.9


def test_a_moved_slider_draws_what_a_fresh_figure_would(widget, rows, matrices):
    pairs = {name: explorer.pair_costs(weight) for name, weight in matrices.items()}
    before = widget.figure.to_plotly_json()
    for digits, rank, matrix in ((0, 4, "smooth"), (1, 1, "noise"), (3, 32, "smooth")):
        widget.controls["digits"].value, widget.controls["rank"].value = digits, rank
        widget.controls["matrix"].value = matrix
        fresh, words = explorer.draw_trains(digits, rank, matrix, rows, pairs)
        assert widget.caption.value == unbroken(words)
        assert widget.figure.layout.title.text == fresh.layout.title.text
        for mine, other in zip(widget.figure.data, fresh.data, strict=True):
            assert (*mine.x,) == (*other.x,) and (*mine.y,) == (*other.y,)
    now = widget.figure.to_plotly_json()
    assert now["layout"]["title"] != before["layout"]["title"]
    assert now["data"][2]["x"] != before["data"][2]["x"]


def test_the_smallest_train_of_the_lesson_lies_within_the_axes(widget):
    """512 x 128 in digits of 2: at rank 1 sixteen pairs of numbers."""
    percent = 100 * shapes.tt_parameters([2] * 9 + [2] * 7, 1) / (512 * 128)
    assert widget.figure.layout.xaxis.range[0] < math.log10(percent) - 0.1


def test_the_caption_says_when_no_pair_is_that_small(rows, matrices):
    pairs = {name: explorer.pair_costs(weight) for name, weight in matrices.items()}
    assert "No low-rank pair" in explorer.draw_trains(0, 1, "noise", rows, pairs)[1]
    words = explorer.draw_trains(2, 16, "noise", rows, pairs)[1]
    assert "multiplications per token, 2,048 without" in words and "a pair of rank" in words


def test_a_callback_takes_less_than_300_ms(widget):
    start = time.thread_time()
    widget.controls["rank"].value = 4
    assert time.thread_time() - start < 0.3


@pytest.mark.parametrize(("name", "rank"), [("A4", 30), ("B6", 30), ("twos", 7)])
def test_train_numbers_is_the_librarys_count(name, rank):
    modes = {"A4": (24, 32, 32, 24), "B6": (12, 8, 8, 8, 8, 12), "twos": (2,) * 9}[name]
    assert n02.train_numbers(modes, rank) == shapes.tt_parameters(modes, rank)


@pytest.mark.parametrize("seed", range(3))
def test_ranks_within_keep_the_promise_and_waste_nothing(seed):
    for box, tolerance in exercises.find("02.2").arguments(seed):
        ranks = n02.ranks_within(box, tolerance)
        cores, dropped = trains.tt_svd(box, ranks)
        assert dropped.norm() <= tolerance * box.norm() * (1 + 1e-9)
        assert [core.shape[2] for core in cores] == ranks[1:], "none above the admissible"
        share = tolerance * box.norm() / (box.dim() - 1) ** 0.5
        for k, rank in enumerate(ranks[1:-1], 1):
            if rank > 1:  # one less, and this cut alone would exceed its share
                fewer = [*ranks[:k], rank - 1, *ranks[k + 1 :]]
                assert trains.tt_svd(box, fewer)[1][k - 1] > share


def test_ranks_within_of_a_loose_and_a_tight_tolerance():
    box = torch.randn(3, 4, 5, dtype=torch.float64)
    assert n02.ranks_within(box, 2.0) == [1, 1, 1, 1]
    assert n02.ranks_within(box, 1e-12) == [1, 3, 5, 1]


def test_train_layer_is_the_matrix_at_the_librarys_cost():
    for x, cores, p in exercises.find("02.3").arguments(5):
        weight = trains.tt_dense(cores).flatten(0, p - 1).flatten(1)
        torch.testing.assert_close(n02.train_layer(x, cores, p), x @ weight.T)
        observed = exercises.find("02.3").observe(n02.train_layer, (x, cores, p))
        modes = [core.shape[1] for core in cores]
        ranks = (*[core.shape[0] for core in cores], 1)
        left = shapes.merge_macs(modes[:p], ranks[: p + 1])
        right = shapes.merge_macs(modes[p:][::-1], ranks[p:][::-1])
        tokens = len(x) * ranks[p] * (weight.shape[0] + weight.shape[1])
        assert observed.flops == 2 * (left + right + tokens)


def test_train_layer_with_one_core_a_side():
    left, right = torch.randn(1, 6, 3), torch.randn(3, 5, 1)
    x = torch.randn(2, 5)
    expected = x @ (left[0] @ right[..., 0]).T
    torch.testing.assert_close(n02.train_layer(x, [left, right], 1), expected)


def test_a_layer_that_builds_the_matrix_some_other_way_costs_too_much():
    def rebuilds(x, cores, p):
        return x @ trains.tt_dense(cores).flatten(0, p - 1).flatten(1).T

    assert "times the work" in check("02.3", rebuilds).line


def test_weave_is_what_the_library_cuts():
    table = torch.randn(30, 24, dtype=torch.float64)
    woven = n02.weave(table, (5, 3, 2), (2, 4, 3))
    assert woven.shape == (10, 12, 6)
    _, mine = trains.tt_svd(woven, 3)
    _, library = trains.ttm_svd(table, (5, 3, 2), (2, 4, 3), 3)
    torch.testing.assert_close(mine, library)
    assert woven[2 * 2 + 1, 1 * 4 + 3, 0 * 3 + 2] == table[2 * 6 + 1 * 2, 1 * 12 + 3 * 3 + 2]
