"""Three ways to the leading singular triples: one answer, and the exact norm of the rest."""

import pytest
import torch
from torch.testing import assert_close

from tqlearn.factors.svd import allowed_norm, leading, truncated_svd

EPS = torch.finfo(torch.float32).eps


def falling(rows, cols, decay=0.9, dtype=torch.float32):
    """A matrix with singular values 1, decay, decay^2 and so on."""
    short = min(rows, cols)
    u, v = (torch.linalg.qr(torch.randn(n, short, dtype=torch.float64))[0] for n in (rows, cols))
    return (u * decay ** torch.arange(short, dtype=torch.float64) @ v.T).to(dtype)


MATRICES = {
    "flat": (lambda: torch.randn(300, 400), 20),
    "tall": (lambda: torch.randn(20_000, 6), 2),
    "wide": (lambda: torch.randn(40, 9_000), 30),
    "falling": (lambda: falling(300, 350, 0.97), 30),
    "one value": (lambda: torch.linalg.qr(torch.randn(300, 300))[0], 25),  # every basis is as good
    "two values": (lambda: torch.diag(torch.tensor([3.0] * 60 + [1.0] * 240)), 40),
    "constant": (lambda: torch.ones(300, 310) + 0.1 * torch.randn(300, 310), 5),
    "steep": (lambda: falling(400, 300, 0.8) + 1e-2 * torch.randn(400, 300), 25),
    "rank above the short side": (lambda: torch.randn(300, 5), 9),
}


@pytest.mark.parametrize("method", ["auto", "exact", "gram", "filter"])
@pytest.mark.parametrize("name", MATRICES)
def test_every_way_leaves_out_as_little_as_the_svd(name, method):
    make, rank = MATRICES[name]
    w = make()
    u, s, v, dropped = truncated_svd(w, rank, method)
    values = torch.linalg.svdvals(w.double())
    r = min(rank, len(values))
    assert (u.shape, s.shape, v.shape) == ((len(w), r), (r,), (r, w.shape[1]))
    assert_close(dropped, values[r:].norm(), rtol=1e-5, atol=1e-6)
    assert_close((w.double() - (u * s @ v).double()).norm(), dropped, rtol=1e-5, atol=1e-4)
    for basis in (u.T.double(), v.double()):  # columns less than 100 eps from orthogonal stay
        assert_close(basis @ basis.T, torch.eye(r).double(), atol=110 * EPS, rtol=0)
    assert_close(s.double(), values[:r], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shape", [(400, 300), (9_000, 40)])
def test_what_is_too_small_for_a_difference_of_squares_is_still_exact(shape):
    """Both matrices keep all but 1e-4 of their norm, below the floor of "filter"."""
    w = falling(*shape, decay=0.5)
    values = torch.linalg.svdvals(w.double())
    _, _, _, dropped = truncated_svd(w, 13, "filter")
    assert_close(dropped, values[13:].norm(), rtol=1e-2, atol=0)


def test_zero_and_low_rank_matrices():
    for w in (torch.zeros(300, 300), torch.randn(300, 25) @ torch.randn(25, 300)):
        for rank in (20, 25, 30):
            u, s, v, dropped = truncated_svd(w, rank, "filter")
            best = torch.linalg.svdvals(w.double())[rank:].norm()
            slack = 300**0.5 * EPS * w.norm().item()  # of sums of 300 products in float32
            distance = (w.double() - (u * s @ v).double()).norm()
            assert_close(distance, best, rtol=1e-5, atol=2 * slack)
            assert_close(dropped, best, rtol=1e-5, atol=slack)


def test_the_same_matrix_gives_the_same_factors_and_uses_no_random_numbers():
    w = torch.randn(300, 400)
    before = torch.get_rng_state()
    first, again = truncated_svd(w, 10, "filter"), truncated_svd(w, 10, "filter")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_auto_never_makes_a_full_svd_of_a_large_matrix(monkeypatch):
    sizes, svd = [], torch.linalg.svd
    monkeypatch.setattr(
        torch.linalg, "svd", lambda a, **k: sizes.append(max(a.shape)) or svd(a, **k)
    )
    truncated_svd(torch.randn(80_000, 8), 1)
    truncated_svd(torch.randn(8, 80_000), 1)
    truncated_svd(torch.randn(800, 800), 20)
    truncated_svd(torch.randn(3_000, 400), 300)
    assert max(sizes, default=0) <= 300
    truncated_svd(torch.randn(512, 256), 60)  # small ones it does: exact to the last digits
    assert sizes[-1] == 512


@pytest.mark.parametrize(("allowed", "kept"), [(0.0, 3), (1.0, 2), (2.0, 2), (2.3, 1), (9.0, 1)])
def test_only_as_many_triples_as_needed(allowed, kept):
    w = torch.diag(torch.tensor([4.0, 2.0, 1.0]))
    _, s, _, dropped = leading(w, None, allowed)
    assert len(s) == kept
    assert_close(float(dropped), [21**0.5, 5**0.5, 1.0, 0.0][kept])
    _, s, _, dropped = leading(w, 1, allowed)  # the limit comes first
    assert len(s) == 1 and float(dropped) == pytest.approx(5**0.5)


def test_refusals():
    with pytest.raises(ValueError, match=r"one of .* got method='svd', rank=2"):
        truncated_svd(torch.eye(4), 2, "svd")
    with pytest.raises(ValueError, match="rank at least 1, got .* rank=0"):
        leading(torch.eye(4), 0, None)
    with pytest.raises(ValueError, match="at least 0 and below 1, got 1.5"):
        allowed_norm(torch.eye(4), 1.5)


def test_filter_takes_double_precision():
    """Its basis comes in float32, whatever the matrix."""
    w = torch.randn(512, 128, dtype=torch.float64)
    u, s, v, dropped = truncated_svd(w, 32, "filter")
    torch.testing.assert_close(s, torch.linalg.svdvals(w)[:32], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close((w - u * s @ v).norm(), dropped, rtol=1e-5, atol=1e-6)
