"""Spec sheet QTC, acceptance checks 2 and 4, and the properties behind them."""

import pytest
import tensorly as tl
import torch
from tensorly.decomposition import tensor_train
from torch.nn.functional import pad
from torch.testing import assert_close

from tqlearn.factors.low_rank import low_rank
from tqlearn.factors.trains import balance_norms, tt_dense, tt_svd, ttm_dense, ttm_svd
from tqlearn.quantizers import LSQ


def golden():
    """The golden matrix of the spec sheets, 24 x 36, float64."""
    i = torch.arange(24, dtype=torch.float64)[:, None]
    j = torch.arange(36, dtype=torch.float64)[None]
    waves = (0.7 * i + 0.3 * j).sin() + 0.5 * (0.11 * i * j).cos()
    return waves + 0.1 * (1.3 * i**2 + 0.5 * j).sin()


def close(value, expected, tol=1e-9):
    assert abs(float(value) - expected) < tol, (float(value), expected)


def test_golden_matrix():
    w = golden()
    assert_close(w[0, :3].tolist(), [0.5, 0.84346276, 1.14878957], atol=1e-8, rtol=0)
    close(w[23, 35], 1.5110057573, 1e-10)
    close(w.norm(), 24.152751779168)


@pytest.mark.parametrize(
    ("ranks", "dropped", "error", "count"),
    [
        ((1, 4, 24, 6, 1), (0, 0, 0), 0, 1492),
        ((1, 3, 6, 4, 1), (5.21763858, 6.7290844, 1.67731061), 8.678577077213, 288),
        ((1, 2, 3, 2, 1), (7.4491898, 6.51262848, 2.51618844), 10.2096015, 92),
    ],
)
def test_tt_svd_of_the_golden_matrix(ranks, dropped, error, count):
    w = golden().reshape(4, 6, 6, 6)
    cores, eps = tt_svd(w, ranks)
    assert sum(core.numel() for core in cores) == count
    assert_close(eps.tolist(), list(map(float, dropped)), atol=1e-7, rtol=0)
    distance = (w - tt_dense(cores)).norm()
    close(distance, error, 1e-12 if error == 0 else 1e-7)
    close(distance, float(eps.norm()), 1e-9)  # exact, without rebuilding


def test_error_of_the_second_case_to_nine_digits():
    w = golden().reshape(4, 6, 6, 6)
    close((w - tt_dense(tt_svd(w, (1, 3, 6, 4, 1))[0])).norm(), 8.678577077213)


def test_norm_balancing():
    cores, _ = tt_svd(golden().reshape(4, 6, 6, 6), (1, 3, 6, 4, 1))
    balanced = balance_norms(cores)
    for core in balanced:
        close(core.norm(), 3.7188062884505)
    assert_close(tt_dense(balanced), tt_dense(cores), atol=1e-12, rtol=0)


@pytest.mark.parametrize("init", ["max", "lsq", "mse"])
def test_norms_are_nothing_to_rounding(init):
    """A calibrated scale grows with its core, so plain and balanced cores have the same codes."""
    cores, _ = tt_svd(golden().reshape(4, 6, 6, 6), (1, 3, 6, 4, 1))
    for plain, balanced in zip(cores, balance_norms(cores), strict=True):
        codes = [
            LSQ(4, init=init).double().calibrate(core).codes(core) for core in (plain, balanced)
        ]
        assert plain.norm() != balanced.norm() and torch.equal(*codes)


def test_balancing_leaves_a_zero_tensor_alone():
    cores, _ = tt_svd(torch.zeros(4, 4), 2)
    assert tt_dense(balance_norms(cores)).abs().max() == 0


def test_ttm_of_the_golden_table():
    w = golden()
    cores, _ = ttm_svd(w, (4, 6), (6, 6), ranks=2)
    table = ttm_dense(cores)
    close((w - table).norm(), 10.056088700)
    first = [-0.85913108, -0.75256772, -0.64130335, -0.61764547]
    assert_close(table[7, :4].tolist(), first, atol=1e-8, rtol=0)
    close(table[23].sum(), -3.2338580968)


def test_ttm_with_three_modes():
    w = golden()
    cores, eps = ttm_svd(w, (2, 3, 4), (3, 3, 4), (1, 3, 4, 1))
    assert_close(eps.tolist(), [7.4114964213, 4.9844928093], atol=1e-9, rtol=0)
    close((w - ttm_dense(cores)).norm(), 8.9317102376)
    assert sum(core.numel() for core in cores) == 190


def test_padded_rows_cost_no_error():
    w = golden()[:22]
    cores, eps = ttm_svd(w, (4, 6), (6, 6), ranks=36)
    table = ttm_dense(cores)
    assert_close(table[:22], w, atol=1e-12, rtol=0)
    assert table[22:].abs().max() < 1e-12
    assert eps.norm() < 1e-12


def test_agrees_with_tensorly():
    tl.set_backend("pytorch")
    w = golden().reshape(4, 6, 6, 6)
    ours = tt_dense(tt_svd(w, (1, 3, 6, 4, 1))[0])
    theirs = tl.tt_to_tensor(tensor_train(w, rank=[1, 3, 6, 4, 1]))
    assert_close(ours, theirs, atol=1e-10, rtol=0)


def test_a4_attention_is_the_truncated_svd():
    """Outer ranks are maximal, so the tensor train of a square matrix is its rank-30 SVD."""
    w = torch.randn(768, 768)
    _, eps = tt_svd(w.reshape(24, 32, 32, 24), (1, 24, 30, 24, 1))
    best = torch.linalg.svdvals(w.double())[30:].norm()
    assert_close(eps.norm(), best, rtol=1e-6, atol=0)  # float32 SVD
    _, eps = tt_svd(w.double().reshape(24, 32, 32, 24), (1, 24, 30, 24, 1))
    assert_close(eps.norm(), best, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("modes", "ranks", "expected"),
    [
        ((24, 32, 32, 24), (1, 24, 30, 24, 1), 0.928),
        ((12, 8, 8, 8, 8, 12), (1, 12, 30, 30, 30, 12, 1), 0.974),
        ((12, 8, 8, 8, 8, 12), (1, 12, 64, 64, 64, 12, 1), 0.901),
    ],
)
def test_gaussian_errors(modes, ranks, expected):
    w = torch.randn(768, 768)
    _, eps = tt_svd(w.reshape(modes), ranks)
    assert float(eps.norm() / w.norm()) == pytest.approx(expected, abs=0.002)


def test_gradient_of_tt_dense():
    cores, _ = tt_svd(torch.randn(2, 3, 4, dtype=torch.float64), 2)
    cores = [core.requires_grad_() for core in cores]
    assert torch.autograd.gradcheck(lambda *c: tt_dense(c), cores)


def test_order_one_needs_no_cut():
    cores, eps = tt_svd(torch.arange(5.0), 3)
    assert [tuple(core.shape) for core in cores] == [(1, 5, 1)] and eps.numel() == 0


def test_refusals():
    with pytest.raises(ValueError, match="NaN or infinite"):
        tt_svd(torch.tensor([[1.0, float("nan")]]), 1)
    with pytest.raises(ValueError, match=r"modes \(4, 5\) x \(6, 6\) give 20 x 36, but .* 24 x 36"):
        ttm_svd(golden(), (4, 5), (6, 6), 2)
    with pytest.raises(ValueError, match="pairs its modes, got 2 row modes"):
        ttm_svd(golden(), (4, 6), (36,), 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_floats_are_split_in_float32(dtype):
    w = golden().to(dtype).reshape(4, 6, 6, 6)
    cores, eps = tt_svd(w, (1, 3, 6, 4, 1))
    exact, exact_eps = tt_svd(w.float(), (1, 3, 6, 4, 1))
    assert all(torch.equal(a, b.to(dtype)) for a, b in zip(cores, exact, strict=True))
    assert torch.equal(eps, exact_eps)


def test_low_rank_is_the_truncated_svd():
    w = golden()
    values = torch.linalg.svdvals(w)
    left, right, dropped = low_rank(w, 5)
    close(dropped, float(values[5:].norm()))
    close((w - left @ right).norm(), float(values[5:].norm()))
    assert_close(left.T @ left, right @ right.T, atol=1e-12, rtol=0)  # the scale is split evenly
    left, right, dropped = low_rank(w)
    assert left.shape == (24, 24) and dropped < 1e-12
    assert_close(left @ right, w, atol=1e-12, rtol=0)


@pytest.mark.parametrize("error", [0.05, 0.3, 0.7])
def test_a_relative_error_instead_of_a_rank(error):
    w = golden()
    left, right, dropped = low_rank(w, error=error)
    kept, values = left.shape[1], torch.linalg.svdvals(w)
    close((w - left @ right).norm(), float(dropped))
    assert values[kept:].norm() <= error * w.norm() < values[kept - 1 :].norm()
    for cores, eps, dense in (
        (*tt_svd(w.reshape(4, 6, 6, 6), error=error), tt_dense),
        (*ttm_svd(w, (2, 3, 4), (3, 3, 4), error=error), ttm_dense),
    ):
        distance = (w - dense(cores).reshape(24, 36)).norm()
        close(distance, float(eps.norm()))
        assert 0.4 * error * w.norm() < distance <= error * w.norm()


def test_what_one_cut_leaves_over_the_next_may_spend():
    """The first cut is exact: its share goes to the second, which then keeps no more than SVD."""
    w = torch.kron(torch.ones(1, 4), torch.randn(40, 30)).double().T  # 120 x 40, rank of cut 1: 1
    cores, eps = tt_svd(w.reshape(4, 30, 40), error=0.5)
    assert cores[0].shape[-1] == 1 and eps[0] < 1e-12
    assert cores[1].shape[-1] == low_rank(w, error=0.5)[0].shape[1]


@pytest.mark.parametrize("error", [-0.1, 1.0])
def test_an_error_outside_its_range_is_refused(error):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        low_rank(golden(), error=error)
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        tt_svd(golden(), error=error)


def test_a_limit_comes_before_an_error():
    cores, eps = tt_svd(golden().reshape(4, 6, 6, 6), 2, error=0.01)
    assert [core.shape[-1] for core in cores] == [2, 2, 2, 1]
    assert eps.norm() > 0.01 * golden().norm()


def test_large_matrices_take_the_short_way_to_the_same_error():
    w = torch.randn(768, 768)
    tensor = w.reshape(24, 32, 32, 24)
    cores, eps = tt_svd(tensor, (1, 24, 30, 24, 1))
    _, exact = tt_svd(tensor, (1, 24, 30, 24, 1), method="exact")
    assert_close(eps.norm(), exact.norm(), rtol=1e-6, atol=0)
    distance = (w - tt_dense(cores).reshape(768, 768)).double().norm()
    assert_close(distance, eps.norm(), rtol=1e-6, atol=0)


def test_a_table_is_copied_once(monkeypatch):
    """Peak memory: padding and reordering must not each make a copy of a large table."""
    w = torch.randn(100, 36)
    seen = []
    monkeypatch.setattr(torch.nn.functional, "pad", lambda t, by: seen.append(len(t)) or pad(t, by))
    cores, _ = ttm_svd(w, (4, 30), (6, 6))
    assert max(seen) == 30
    assert_close(ttm_dense(cores)[:100], w, atol=1e-4, rtol=1e-4)
    assert ttm_dense(cores)[100:].abs().max() < 1e-4
