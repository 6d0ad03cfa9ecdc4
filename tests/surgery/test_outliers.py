"""preview warns of outliers under one coarse scale, with numbers that are true."""

import pytest
import torch
from torch import nn

import tqlearn as tq
from tqlearn.surgery.outliers import BLOCKS, sample

EDITS = [tq.LSQ, tq.LSQPlus, tq.SAWB, tq.Uniform, tq.LearnedClip]


def net(outlier=None, width=256, column=17, rows=128):
    """128 rows are as many blocks as are looked at."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, rows), nn.ReLU(), nn.Linear(rows, 8))
    if outlier:
        model[0].weight.data[:, column] *= outlier
    return model


def error(model, edit):
    student = tq.calibrate(tq.compress(model, {"0": [edit]}))
    return float((student[0].weight.detach() - model[0].weight.detach()).norm()) / float(
        model[0].weight.detach().norm()
    )


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("bits", [2, 4])
def test_a_planted_outlier_is_told_with_the_errors_that_compress_makes(edit, bits):
    model, way = net(outlier=30), tq.LSQ(bits=bits, init="mse", per=64)
    with pytest.warns(UserWarning, match=rf"^0\.weight: one scale at {bits} bits loses") as told:
        shown = tq.preview(model, {"0": [edit(bits=bits)]})
    (found,) = shown.coarse.values()
    assert found.one == pytest.approx(error(model, edit(bits=bits)), rel=0.02)
    assert found.groups == pytest.approx(error(model, way), rel=0.03)
    assert found.one > 1.5 * found.groups
    line = f"0.weight: one scale at {bits} bits loses {found.one:.0%} to rounding, a scale for "
    line += f'each 64 neighbors {found.groups:.0%}: LSQ(bits={bits}, init="mse", per=64)'
    assert str(told[0].message) == line and f"outliers: {line}" in str(shown).splitlines()
    assert line in shown._repr_html_()
    assert tq.preview(model, {"0": [way]}).coarse == {}


def test_a_large_weight_is_judged_by_a_sample():
    """A third of its blocks, so the numbers are near to those of all."""
    model = net(outlier=30, rows=384)
    with pytest.warns(UserWarning, match="loses"):
        found = tq.preview(model, {"0": [tq.LSQ(bits=4)]}).coarse["0.weight"]
    assert found.one == pytest.approx(error(model, tq.LSQ(bits=4)), rel=0.1)
    way = tq.LSQ(bits=4, init="mse", per=64)
    assert found.groups == pytest.approx(error(model, way), rel=0.1)


@pytest.mark.parametrize(
    "edits",
    [
        [tq.LSQ(bits=8)],
        [tq.LSQ(bits=4, per=64)],
        [tq.LSQ(bits=4, per="channel")],
        [tq.TT(rank=4), tq.LSQ(bits=4)],
        [tq.TwoFour(), tq.LSQ(bits=4)],
        [tq.TwoFour()],
    ],
    ids=str,
)
def test_other_plans_are_not_told_of_it(edits):
    assert tq.preview(net(outlier=30), {"0": edits}).coarse == {}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("kind", ["even", "normal", "embedding"])
def test_ordinary_weights_are_not_told_of_it(edit, bits, kind):
    torch.manual_seed(0)
    layer = nn.Embedding(400, 128) if kind == "embedding" else nn.Linear(256, 192)
    if kind == "normal":
        nn.init.normal_(layer.weight)
    shown = tq.preview(nn.Sequential(layer), {"0": [edit(bits=bits)]})
    assert shown.coarse == {} and "outliers" not in str(shown)


def test_the_embedded_teacher_has_none(recwarn):
    teacher, _ = tq.teachers.load("embedded")
    assert tq.preview(teacher, {"*": [tq.LSQ(bits=4)]}).coarse == {} and not recwarn.list


def test_odd_zero_and_absent_weights_are_passed_by():
    zero = net(outlier=30)
    zero[0].weight.data.zero_()
    for model in (net(outlier=30, width=17, column=3), net(outlier=30).to("meta"), zero):
        assert tq.preview(model, {"0": [tq.LSQ(bits=4)]}).coarse == {}


def test_one_number_ruins_a_grid_that_holds_all():
    """Uniform's ends are the smallest and the largest of all, in the sample or not; LSQ's not."""
    model = net(rows=384)
    weight = model[0].weight.data.flatten()
    looked_at = sample(torch.arange(float(len(weight))).reshape(384, 256), 64)
    weight[min(set(range(len(weight))) - set(looked_at.int().flatten().tolist()))] = 1.0
    assert tq.preview(model, {"0": [tq.LSQ(bits=4, init="mse")]}).coarse == {}
    with pytest.warns(UserWarning, match=r"0\.weight: one scale at 4 bits loses"):
        shown = tq.preview(model, {"0": [tq.Uniform(bits=4)]})
    assert shown.coarse["0.weight"].one > 0.5 and shown.coarse["0.weight"].groups < 0.15


def test_the_worst_come_first_and_the_rest_is_counted():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(128, 64) for _ in range(6)))
    for number, layer in enumerate(model):
        layer.weight.data[:, 5] *= 10 + 10 * number
    with pytest.warns(UserWarning, match=r"^\d\.weight: .*; and 5 more weights, see what preview"):
        shown = tq.preview(model, {"*": [tq.LSQ(bits=4)]})
    lines = [line for line in str(shown).splitlines() if line.startswith("outliers")]
    gains = [shown.coarse[line[10:18]] for line in lines[:3]]
    gains = [one.one - one.groups for one in gains]
    assert gains == sorted(gains, reverse=True) and len(shown.coarse) == 6
    assert gains[-1] >= max(
        one.one - one.groups
        for name, one in shown.coarse.items()
        if name not in {line[10:18] for line in lines[:3]}
    )
    assert lines[3:] == ["outliers: 3 more"]


def test_the_sample_is_spread_over_rows_and_columns():
    """No rhythm with the rows: every place in a row is looked at about equally often."""
    weight = torch.arange(4096 * 576).reshape(4096, 576).float()
    blocks = sample(weight, 64)
    assert blocks.shape == (BLOCKS, 64) and torch.equal(blocks, sample(weight, 64))
    places = (blocks[:, 0] % 576 / 64).long().bincount(minlength=9)
    rows = (blocks[:, 0] / 576 / 512).long().bincount(minlength=8)
    assert places.min() > 0.7 * BLOCKS / 9 and rows.min() > 0.9 * BLOCKS / 8
    assert torch.equal(sample(weight[:4], 64), weight[:4].reshape(-1, 64))


def test_half_floats():
    with pytest.warns(UserWarning, match="loses"):
        shown = tq.preview(net(outlier=30).half(), {"0": [tq.LSQ(bits=4)]})
    assert shown.coarse["0.weight"].one > 1.5 * shown.coarse["0.weight"].groups
