"""Spec sheet KroneckerBERT, acceptance checks 1, 2, 3 and 7: counts and the nearest product."""

import pytest
import torch
from test_trains import close, golden
from torch.testing import assert_close

from tqlearn import shapes
from tqlearn.factors.kronecker import kronecker_dense, nearest_kronecker, rearrange

# name -> out_modes, in_modes of attention, FFN up and FFN down; n of the embedding
KB8 = (((384, 2), (384, 2)), ((8, 384), (2, 384)), ((2, 384), (8, 384)), 8)
KB21 = (((384, 2), (48, 16)), ((16, 192), (2, 384)), ((2, 384), (16, 192)), 16)
FIXED, POOLER = 516_096, 590_592


@pytest.mark.parametrize(
    ("name", "attention", "ffn", "embedding", "without_pooler", "total"),
    [
        (KB8, 147_460, 147_472, 2_930_120, 14_063_624, 14_654_216),
        (KB21, 18_464, 73_760, 1_465_072, 4_637_680, 5_228_272),
    ],
)
def test_bert_base_counts(name, attention, ffn, embedding, without_pooler, total):
    *linear, n = name
    square, up, down = (shapes.kronecker_parameters(*modes) for modes in linear)
    table = shapes.kronecker_parameters((768 // n, n), (30522, 1))
    assert (square, up, down, table) == (attention, ffn, ffn, embedding)
    cores = 12 * (4 * square + up + down) + table
    assert (cores + FIXED, cores + FIXED + POOLER) == (without_pooler, total)
    groups = shapes.bert_parameters()
    small = ("position embeddings", "token types", "layer norms", "biases")
    assert (sum(groups[k] for k in small), groups["pooler"]) == (FIXED, POOLER)


@pytest.mark.parametrize(
    ("name", "per_token", "total"),
    [(KB8, (591_360, 598_272, 600_576), 5.475), (KB21, (75_936, 303_744, 306_048), 1.403)],
)
def test_flops_as_the_paper_counts_them(name, per_token, total):
    square, up, down = (shapes.kronecker_flops(*modes) for modes in name[:3])
    assert (square, up, down) == per_token
    assert 12 * 128 * (4 * square + up + down) / 1e9 == pytest.approx(total, abs=5e-4)


def test_dense_flops():
    def dense(m, n):  # a sum over n terms has n - 1 adds
        return 2 * shapes.dense_macs(m, n, tokens=1) - m

    assert (dense(768, 768), dense(3072, 768), dense(768, 3072)) == (1178880, 4715520, 4717824)
    total = 12 * 128 * (4 * dense(768, 768) + dense(3072, 768) + dense(768, 3072))
    assert total / 1e9 == pytest.approx(21.73, abs=5e-3)


def test_macs_of_both_orders():
    up, down = KB8[1:3]
    assert shapes.kronecker_macs(*up) == (301_056, 1_185_792)
    assert shapes.kronecker_macs(*down) == (1_185_792, 301_056)
    assert shapes.kronecker_parameters(*up, rank=3) == 3 * 147_472
    assert shapes.kronecker_flops(*up, rank=3) == 3 * 598_272


GOLDEN = [  # shape of A, of B, three singular values, error of one term
    ((12, 18), (2, 2), (20.86225137, 10.52428402, 4.61786815), 12.170533525),
    ((4, 6), (6, 6), (16.55604388, 14.42663889, 3.56704655), 17.585585844),
    ((2, 2), (12, 18), (18.38800380, 13.72012915, 5.51269887), 15.660036227),
    ((6, 9), (4, 4), (16.67192547, 14.52985719, 3.99094486), 17.475763781),
    ((24, 1), (1, 36), (16.20772991, 14.70032999, 3.15191036), 17.907118962),
]


@pytest.mark.parametrize(("a", "b", "sigma", "error"), GOLDEN)
def test_nearest_product_of_the_golden_matrix(a, b, sigma, error):
    w = golden()
    modes = (a[0], b[0]), (a[1], b[1])
    values = torch.linalg.svdvals(rearrange(w, *modes))
    assert_close(values[:3].tolist(), list(sigma), atol=1e-8, rtol=0)
    factors, dropped = nearest_kronecker(w, *modes)
    assert [tuple(f.shape) for f in factors[0]] == [a, b]
    close(dropped, error)
    close((w - kronecker_dense(factors)).norm(), error)
    close(dropped, float((w.norm() ** 2 - values[0] ** 2).sqrt()), 1e-10)
    close(factors[0][0].norm(), float(factors[0][1].norm()))  # the scale is split evenly


def test_sums_of_products():
    w = golden()
    factors, dropped = nearest_kronecker(w, (4, 6), (6, 6), rank=3)
    close(dropped, 9.402185855)
    close((w - kronecker_dense(factors)).norm(), 9.402185855)
    factors, dropped = nearest_kronecker(w, (4, 6), (6, 6), rank=None)
    assert len(factors) == 24 and dropped < 1e-12
    assert (w - kronecker_dense(factors)).norm() < 1e-12


def test_the_rank_one_svd_is_a_special_case():
    w = golden()
    u, s, v = torch.linalg.svd(w)
    factors, _ = nearest_kronecker(w, (24, 1), (1, 36))
    assert_close(kronecker_dense(factors), s[0] * u[:, :1] * v[:1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("shapes_", [((3, 4), (5, 2)), ((1, 4), (5, 1)), ((24, 18), (1, 2))])
def test_a_product_is_recovered(shapes_):
    (m1, n1), (m2, n2) = shapes_
    a, b = torch.randn(m1, n1).double(), torch.randn(m2, n2).double()
    factors, dropped = nearest_kronecker(torch.kron(a, b), (m1, m2), (n1, n2))
    assert_close(kronecker_dense(factors), torch.kron(a, b), atol=1e-12, rtol=0)
    assert dropped < 1e-12


def test_alternating_least_squares_never_gets_lower():
    """Each half-step is exact: given B, A is the rearranged matrix projected on vec(B)."""
    moved = rearrange(golden(), (4, 6), (6, 6))
    _, dropped = nearest_kronecker(golden(), (4, 6), (6, 6))
    for _ in range(20):
        b = torch.randn(36, dtype=torch.float64)
        for _ in range(200):
            a = moved @ b / (b @ b)
            b = moved.T @ a / (a @ a)
        assert (moved - a[:, None] * b).norm() >= dropped - 1e-9


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        (((384, 2), (384, 2)), 0.8649),
        (((8, 384), (2, 384)), 0.9677),
        (((384, 2), (48, 16)), 0.9830),
        (((16, 192), (2, 384)), 0.9836),
        (((96, 8), (6000, 1)), 0.935),
        (((48, 16), (6000, 1)), 0.968),
    ],
)
def test_gaussian_start_errors(modes, expected):
    out_modes, in_modes = modes
    w = torch.randn(out_modes[0] * out_modes[1], in_modes[0] * in_modes[1])
    _, dropped = nearest_kronecker(w, out_modes, in_modes)
    assert float(dropped / w.norm()) == pytest.approx(expected, abs=0.002)


def test_a_relative_error_instead_of_a_rank():
    w = golden()
    values = torch.linalg.svdvals(rearrange(w, (4, 6), (6, 6)))
    factors, dropped = nearest_kronecker(w, (4, 6), (6, 6), rank=None, error=0.3)
    k = len(factors)
    assert values[k:].norm() <= 0.3 * w.norm() < values[k - 1 :].norm()
    close(dropped, float(values[k:].norm()))


def test_half_floats_are_split_in_float32():
    w = golden().bfloat16()
    factors, _ = nearest_kronecker(w, (4, 6), (6, 6), rank=24)
    assert factors[0][0].dtype == torch.bfloat16
    wide = [(a.float(), b.float()) for a, b in factors]
    assert_close(kronecker_dense(wide), w.float(), atol=0.1, rtol=0)


def test_refusals():
    w = golden()
    with pytest.raises(
        ValueError, match=r"factors 4 x 6 and 6 x 5 .* give 24 x 30, but .* 24 x 36"
    ):
        nearest_kronecker(w, (4, 6), (6, 5))
    with pytest.raises(ValueError, match="two factors, so out_modes and in_modes are pairs"):
        nearest_kronecker(w, (2, 2, 6), (6, 6))
    with pytest.raises(ValueError, match="rank at least 1"):
        nearest_kronecker(w, (4, 6), (6, 6), rank=0)
    with pytest.raises(ValueError, match="at least 0 and below 1, got 1.5"):
        nearest_kronecker(w, (4, 6), (6, 6), error=1.5)
    w[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        nearest_kronecker(w, (4, 6), (6, 6))
