"""Spec sheet QTC, acceptance check 1: every count to the unit."""

from math import prod

import pytest

from tqlearn import shapes
from tqlearn.factors.layers import TTLinear

# name -> (attention, FFN-down, embedding): modes out + in (or joint), ranks
CONFIGURATIONS = {
    "A4 30": (
        ((24, 32, 32, 24), (1, 24, 30, 24, 1)),
        ((32, 24, 48, 64), (1, 30, 30, 30, 1)),
        ((16, 20, 10, 10), (4, 4, 8, 6), (1, 20, 20, 20, 1)),
    ),
    "A4 50": (
        ((24, 32, 32, 24), (1, 24, 50, 24, 1)),
        ((32, 24, 48, 64), (1, 50, 50, 50, 1)),
        ((16, 20, 10, 10), (4, 4, 8, 6), (1, 20, 20, 20, 1)),
    ),
    **{
        f"B6 {r}": (
            ((12, 8, 8, 8, 8, 12), (1, 12, r, r, r, 12, 1)),
            ((12, 8, 8, 12, 16, 16), (1, 12, r, r, r, 16, 1)),
            ((16, 20, 10, 10), (4, 4, 8, 6), (1, r, r, r, 1)),
        )
        for r in (30, 50, 64)
    },
}
TABLE = {  # attention, FFN, embedding, all cores, total parameters
    "A4 30": (47_232, 67_680, 66_480, 4_005_168, 4_524_339),
    "A4 50": (77_952, 184_800, 66_480, 8_321_328, 8_840_499),
    "B6 30": (20_448, 28_960, 147_720, 1_844_712, 2_363_883),
    "B6 50": (49_888, 68_000, 406_200, 4_482_712, 5_001_883),
    "B6 64": (78_112, 104_848, 663_296, 7_007_136, 7_526_307),
}
REMAINDER = 519_171  # positions, types, norms, biases, pooler bias, 3-class head


@pytest.mark.parametrize("name", TABLE)
def test_bert_base_counts(name):
    attention, ffn, embedding = CONFIGURATIONS[name]
    a, f = shapes.tt_parameters(*attention), shapes.tt_parameters(*ffn)
    e = shapes.ttm_parameters(*embedding)
    cores = 48 * a + 24 * f + a + e
    assert (a, f, e, cores, cores + REMAINDER) == TABLE[name]


def test_remainder_and_dense_bert_base():
    groups = shapes.bert_parameters()
    assert sum(groups.values()) == 109_482_240
    assert groups["attention"] + groups["feed-forward"] == 84_934_656
    kept = sum(groups[k] for k in ("position embeddings", "token types", "layer norms", "biases"))
    assert kept + 768 + 3 * 768 + 3 == REMAINDER


def test_configuration_t():
    attention = shapes.tt_parameters((12, 8, 8, 8, 8, 12), (1, 12, 20, 20, 20, 12, 1))
    ffn = shapes.tt_parameters((12, 8, 8, 12, 16, 16), (1, 12, 20, 20, 20, 16, 1))
    table = shapes.ttm_parameters((8, 5, 5, 4, 8), (4, 4, 4, 4, 3), (1, 30, 30, 30, 30, 1))
    cores = 2 * (4 * attention + 2 * ffn) + 2 * attention + table
    assert (attention, ffn, table, cores) == (10_528, 15_440, 52_080, 219_120)
    assert cores + 529_295 == 748_415


def test_reversed_ffn_has_the_same_count():
    down = shapes.tt_parameters((12, 8, 8, 12, 16, 16), (1, 12, 30, 30, 30, 16, 1))
    up = shapes.tt_parameters((16, 16, 12, 8, 8, 12), (1, 16, 30, 30, 30, 12, 1))
    assert down == up


@pytest.mark.parametrize(
    ("name", "total", "per_token"),
    [
        ("A4 30", 1.546, 1.274),
        ("B6 30", 1.587, 1.274),
        ("B6 50", 2.976, 2.123),
        ("B6 64", 4.107, 2.718),
    ],
)
def test_flops_of_twelve_layers(name, total, per_token):
    """Spec sheet 6.2: 128 tokens, 2 FLOPs per MAC, merges counted once, the heavy half included."""
    attention, ffn, _ = CONFIGURATIONS[name]
    down = (ffn[0], ffn[1])
    up = (ffn[0][::-1], ffn[1][::-1])

    def macs(config, tokens):
        modes, ranks = config
        half = len(modes) // 2
        return shapes.tt_macs(modes[:half], modes[half:], ranks, tokens)

    layer = [attention] * 4 + [down, up]
    flops = {t: 2 * 12 * sum(macs(config, t) for config in layer) for t in (0, 128)}
    assert flops[128] / 1e9 == pytest.approx(total, abs=6e-4)
    assert (flops[128] - flops[0]) / 1e9 == pytest.approx(per_token, abs=6e-4)


def test_merge_macs_match_a_loop():
    """Count the products that TTLinear.halves really does."""
    layer = TTLinear((4, 6), (6, 4), ranks=(1, 3, 5, 2, 1))
    counted = 4 * 3 * 6 * 5 + 5 * 6 * 2 * 4  # (4, 3)(3, 30) and (30, 2)(2, 4)
    assert shapes.tt_macs((4, 6), (6, 4), layer.ranks, tokens=7) == counted + 7 * 5 * (24 + 24)


def test_a4_attention_saves_nothing_over_low_rank():
    tensor_train = shapes.tt_parameters(*CONFIGURATIONS["A4 30"][0])
    assert tensor_train == 47_232 > shapes.low_rank_parameters(768, 768, 30) == 46_080


@pytest.mark.parametrize("n", [1, 7, 30, 384, 768, 3072, 30522])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_factorize_multiplies_back(n, order):
    assert prod(shapes.factorize(n, order)) == n
    assert n <= prod(shapes.cover(n, order)) <= n * (1 + 1 / max(1, int(n ** (1 / order)))) ** order


def test_ranks_are_clipped_to_the_admissible():
    assert shapes.tt_ranks((4, 6, 6, 6), 100) == (1, 4, 24, 6, 1)
    assert shapes.tt_ranks((32, 24, 48, 64), (1, 50, 50, 50, 1)) == (1, 32, 50, 50, 1)


def test_refusals():
    with pytest.raises(ValueError, match="4 modes .* need 5 ranks that start and end with 1"):
        shapes.tt_ranks((4, 6, 6, 6), (1, 3, 1))
    with pytest.raises(ValueError, match="at least 1"):
        shapes.tt_ranks((4, 6), (1, 0, 1))
    with pytest.raises(ValueError, match="size and an order of at least 1"):
        shapes.factorize(0, 2)
    with pytest.raises(ValueError, match="size and an order of at least 1"):
        shapes.cover(4, 0)
