"""Notebook 01: what its explorer computes and draws, and its exercises at the edges."""

import time
from itertools import pairwise

import pytest
import torch

from tqlearn import shapes
from tqlearn.factors.low_rank import low_rank
from tqlearn.lab import exercises
from tqlearn.lab.check import check
from tqlearn.lab.exercises import n01_low_rank as n01
from tqlearn.lab.explorers import low_rank as explorer
from tqlearn.lab.explorers.base import unbroken


@pytest.fixture(scope="module")
def matrices():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(64, 32, generator=generator)
    return {"noise": noise, "wide": noise.T.repeat(1, 2), "square": noise[:32]}


@pytest.fixture(scope="module")
def spectra(matrices):
    return {name: explorer.spectrum(matrix) for name, matrix in matrices.items()}


@pytest.fixture
def widget(spectra):
    return explorer.low_rank_explorer(spectra)


def test_the_spectrum_of_a_matrix_that_one_can_read():
    found = explorer.spectrum(torch.tensor([[0.0, 4.0], [3.0, 0.0], [0.0, 0.0]]))
    assert found["shape"] == (3, 2) and found["break_even"] == pytest.approx(6 / 5)
    assert found["values"] == pytest.approx([0.8, 0.6])
    assert found["errors"] == pytest.approx([1.0, 0.6, 0.0])


def test_errors_are_those_of_the_librarys_pair(matrices, spectra):
    for name, matrix in matrices.items():
        for rank in (1, 7, 31):
            left, right, _ = low_rank(matrix, rank)
            error = float((matrix - left @ right).norm() / matrix.norm())
            assert spectra[name]["errors"][rank] == pytest.approx(error, rel=1e-4)


def test_costs_by_hand(spectra):
    row = explorer.low_rank_costs(spectra["noise"], 8)
    assert row["numbers"] == 8 * (64 + 32) == shapes.low_rank_parameters(64, 32, 8)
    assert row["dense"] == 2048 and row["ratio"] == pytest.approx(2048 / 768) and row["pays"]
    assert row["error"] == spectra["noise"]["errors"][8]


def test_a_rank_above_the_short_side_is_the_short_side(spectra):
    assert explorer.low_rank_costs(spectra["square"], 128) == explorer.low_rank_costs(
        spectra["square"], 32
    )
    assert explorer.low_rank_costs(spectra["square"], 32)["error"] == 0


@pytest.mark.parametrize(("rank", "pays"), [(15, True), (16, False), (17, False)])
def test_a_square_pair_breaks_even_at_half_its_rank(spectra, rank, pays):
    row = explorer.low_rank_costs(spectra["square"], rank)
    assert row["pays"] is pays and spectra["square"]["break_even"] == 16
    assert (row["numbers"] < row["dense"]) is pays


def test_more_rank_costs_more_and_loses_less(spectra):
    rows = explorer.low_rank_table(spectra, tuple(range(1, 33)))
    assert len(rows) == 3 * 32
    for name in spectra:
        mine = [row for row in rows if row["matrix"] == name]
        assert all(a["error"] > b["error"] for a, b in pairwise(mine))
        assert all(a["numbers"] < b["numbers"] for a, b in pairwise(mine))


def test_all_squares_together_are_one(spectra):
    for found in spectra.values():
        assert sum(value**2 for value in found["values"]) == pytest.approx(1)
        assert found["errors"][0] == pytest.approx(1)


def test_the_kept_part_is_in_color(spectra):
    fig, _ = explorer.draw_spectrum("noise", 5, spectra)
    kept, dropped = fig.data[:2]
    assert (*kept.x,) == (1, 2, 3, 4, 5) and (*dropped.x,) == tuple(range(6, 33))
    assert [*kept.y, *dropped.y] == spectra["noise"]["values"]
    assert fig.data[2].x[0] == pytest.approx(64 * 32 / 96)
    assert fig.data[5].x[0] == pytest.approx(100 * 5 * 96 / 2048)
    assert fig.data[5].y[0] == pytest.approx(100 * spectra["noise"]["errors"][5])


def test_a_moved_slider_draws_what_a_fresh_figure_would(widget, spectra):
    before = widget.figure.to_plotly_json()
    for matrix, rank in (("square", 128), ("wide", 1), ("noise", 9)):
        widget.controls["matrix"].value, widget.controls["rank"].value = matrix, rank
        fresh, words = explorer.draw_spectrum(matrix, rank, spectra)
        assert widget.caption.value == unbroken(words)
        assert widget.figure.layout.title.text == fresh.layout.title.text
        for mine, other in zip(widget.figure.data, fresh.data, strict=True):
            assert (*mine.x,) == (*other.x,) and (*mine.y,) == (*other.y,)
    now = widget.figure.to_plotly_json()
    assert now["layout"]["title"] != before["layout"]["title"]
    assert len(now["data"][0]["x"]) == 9 != len(before["data"][0]["x"])


def test_the_caption_says_where_a_pair_does_not_pay(spectra):
    assert "times fewer" in explorer.draw_spectrum("square", 15, spectra)[1]
    words = explorer.draw_spectrum("square", 16, spectra)[1]
    assert "no saving" in words and "breaks even at rank 16" in words


def test_a_callback_takes_less_than_300_ms(widget):
    start = time.thread_time()
    widget.controls["rank"].value = 4
    assert time.thread_time() - start < 0.3


def test_even_pair_is_the_librarys(matrices):
    for matrix in matrices.values():
        left, right = n01.even_pair(matrix, 6)
        mine, other, _ = low_rank(matrix, 6)
        torch.testing.assert_close(left @ right, mine @ other, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(left.norm(dim=0), right.norm(dim=1))


def test_signs_of_singular_vectors_are_nobodys_mistake():
    def other_signs(matrix, rank):
        left, right = n01.even_pair(matrix, rank)
        return -left, -right

    assert check("01.1", other_signs).passed


@pytest.mark.parametrize("seed", range(3))
def test_rank_within_keeps_the_promise_and_wastes_nothing(seed):
    for values, error in exercises.find("01.2").arguments(seed):
        rank = n01.rank_within(values, error)
        assert values[rank:].norm() <= error * values.norm()
        assert rank == 1 or values[rank - 1 :].norm() > error * values.norm()
        library = low_rank(torch.diag(values), error=error)[0].shape[1]
        assert rank == library


def test_rank_within_of_loose_and_tight_errors():
    values = torch.tensor([3.0, 2.0, 1.0])
    assert n01.rank_within(values, 2.0) == 1
    assert n01.rank_within(values, 1e-9) == 3
    assert n01.rank_within(torch.tensor([5.0]), 0.1) == 1


def test_output_error_is_that_of_the_outputs():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(50, 6, generator=generator).double() + 2
    weight = torch.randn(9, 6, generator=generator).double()
    near = weight + 0.3 * torch.randn(9, 6, generator=generator).double()
    expected = float((x @ (weight - near).T).norm() / (x @ weight.T).norm())
    assert n01.output_error(weight, near, x.T @ x / 50) == pytest.approx(expected)
    plain = float((weight - near).norm() / weight.norm())
    assert n01.output_error(weight, near, torch.eye(6).double()) == pytest.approx(plain)
    assert n01.output_error(weight, 0 * weight, x.T @ x) == pytest.approx(1)


def test_a_trace_will_do_and_so_will_a_tensor():
    def by_trace(weight, near, moments):
        off = weight - near
        wrong = torch.trace(off @ moments @ off.T)
        return (wrong / torch.trace(weight @ moments @ weight.T)).sqrt()

    assert check("01.3", by_trace).passed
    assert check("01.3", lambda *given: float(by_trace(*given))).passed


@pytest.mark.parametrize("seed", range(3))
def test_every_bought_term_gives_more_per_number_than_any_left(seed):
    for spectra, shapes_, budget in exercises.find("01.4").arguments(seed):
        ranks = n01.spend(spectra, shapes_, budget)
        price = [rows + cols for rows, cols in shapes_]
        spent = sum(r * p for r, p in zip(ranks, price, strict=True))
        assert budget - max(price) < spent <= budget
        each = [*zip(spectra, ranks, price, strict=True)]
        worst = min(float(s[r - 1]) ** 2 / p for s, r, p in each if r)
        assert all(float(s[r]) ** 2 / p <= worst for s, r, p in each if r < len(s))


def test_spend_nothing_and_everything():
    spectra = [torch.tensor([3.0, 1.0]), torch.tensor([2.0, 1.5, 0.5])]
    assert n01.spend(spectra, [(2, 2), (3, 3)], 3) == [0, 0]
    assert n01.spend(spectra, [(2, 2), (3, 3)], 1000) == [2, 3]
    assert n01.spend(spectra, [(2, 2), (3, 3)], 4 + 6) == [1, 1]
