"""SmoothQuant and AWQ: golden numbers of the spec sheet, folds that change no output."""

import pytest
import torch
from small_models import batches, far, inputs_of, logits, made
from test_compensation import W, X
from torch import nn

import tqlearn as tq
from tqlearn.posttraining import awq, best_power, folds_of, smooth, smooth_scale
from tqlearn.posttraining.folds import matrix

LOUD = X.clone()
LOUD[:, 4] *= 20  # column 5 of the sheet, which counts from 1


def rounded(x, bits, dim=None):
    """The symmetric grid of the sheet: one scale for all, or one per row (dim 1)."""
    top = 2 ** (bits - 1) - 1
    size = x.abs().max() if dim is None else x.abs().amax(dim, keepdim=True)
    scale = size / top
    return (x / scale).round().clamp(-top - 1, top) * scale


def norm_error(y):
    return float((y - LOUD @ W.T).norm() / (LOUD @ W.T).norm())


def test_smooth_quant_golden_numbers():
    s = smooth_scale(LOUD.abs().amax(0), W.abs().amax(0), 0.5)
    both = [(LOUD, W), (LOUD / s, W * s)]
    plain, smoothed = (norm_error(rounded(x, 8) @ rounded(w, 8).T) for x, w in both)
    assert (plain, smoothed) == pytest.approx((0.016722, 0.006376), abs=1e-6)


def test_awq_golden_numbers():
    def error(s):
        return norm_error(LOUD @ (rounded(W * s, 4, dim=1) / s).T) ** 2

    power, scale = best_power(LOUD.abs().mean(0), error)
    assert error(torch.ones(12)) == pytest.approx(0.008081, abs=1e-6)
    assert error(scale) == pytest.approx(0.000622, abs=1e-6)
    assert power == 0.4 and float(scale.max() * scale.min()) == pytest.approx(1)


# model -> its places in a layer: norm to query, value to output, norm to FFN, up to down
PLACES = {"llama": 4, "qwen2": 4, "qwen3": 4, "gpt2": 3, "vit": 3, "bert": 1, "gemma": 2, "t5": 1}


@pytest.mark.parametrize("name", PLACES)
def test_any_scale_at_any_place_changes_no_output(name):
    model = made(name)
    batch = batches(model, 1)[0]
    wanted, folds = logits(model, batch), folds_of(model)
    layers = 6 if name == "t5" else 2  # T5's decoder attends twice
    assert len(folds) == layers * PLACES[name]
    for fold in folds:
        before = matrix(model.get_submodule(fold.readers[-1])).clone()
        fold.apply(model, torch.rand(len(fold.rows)) * 3 + 0.3)
        assert far(matrix(model.get_submodule(fold.readers[-1])), before) > 0.1
    assert far(logits(model, batch), wanted) < 1e-5


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2"])
def test_smooth_meets_in_the_middle(name):
    model = made(name)
    given = batches(model)
    smoothed = smooth(model, given)
    assert type(smoothed) is type(model)
    for batch in given:
        assert far(logits(smoothed, batch), logits(model, batch)) < 1e-5
    fold = folds_of(smoothed)[-1]
    real = inputs_of(smoothed, fold.readers[0], given)
    columns = [matrix(smoothed.get_submodule(r)).abs().amax(0) for r in fold.readers]
    largest = [fold.gathered(v) for v in (real.abs().amax(0), torch.stack(columns).amax(0))]
    torch.testing.assert_close(*largest)


def loud_llama(**more):
    """Ten times the gain in a few channels of each norm: outliers, as trained decoders have."""
    model = made("llama", **more)
    for layer in model.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.data[:3] *= 10
    return model


def test_smoothed_inputs_lose_less():
    model = loud_llama()
    given = batches(model)
    plan = {"*.layers.*": [tq.Inputs(tq.LSQ(bits=6, init="max"))]}
    found = []
    for start in (model, smooth(model, given)):
        student = tq.calibrate(tq.compress(start, plan), given)
        found.append(sum((logits(student, b) - logits(model, b)).square().sum() for b in given))
    assert found[1] < 0.5 * found[0]


@pytest.mark.parametrize("per", ["channel", 16])
def test_awq_loses_less_and_packs_bit_equal(per, tmp_path):
    model = loud_llama(num_hidden_layers=1)
    given, plan = batches(model, 4), {"*.layers.*": [tq.LSQ(bits=4, init="mse", per=per)]}
    state = {key: t.clone() for key, t in model.state_dict().items()}
    scaled = awq(model, given, plan)
    assert all(torch.equal(t, state[key]) for key, t in model.state_dict().items())
    assert scaled.lm_head.weight is scaled.model.embed_tokens.weight
    found = []
    for batch in given:
        assert far(logits(scaled, batch), logits(model, batch)) < 1e-5
    for start in (model, scaled):
        student = tq.calibrate(tq.compress(start, plan))
        found.append(sum((logits(student, b) - logits(model, b)).square().sum() for b in given))
    assert found[1] < found[0]
    packed = tq.pack(student)
    packed.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(logits(again, given[0]), logits(student, given[0]))


def test_awq_never_errs_more_than_rounding_by_itself():
    """With the power 0 among those it tries, each place is at most as bad as before."""
    model = made("llama", num_hidden_layers=1)
    given, plan = batches(model), {"*.q_proj": [tq.LSQ(bits=3)]}
    errors = []
    for start in (model, awq(model, given, plan)):
        student, query = tq.calibrate(tq.compress(start, plan)), "model.layers.0.self_attn.q_proj"
        moved = start.get_submodule(query).weight - student.get_submodule(query).weight
        moved = moved.detach()
        real = inputs_of(start, query, given)
        errors.append(float((real @ moved.T).square().sum()))
    assert errors[1] <= errors[0] * (1 + 1e-5)


def test_a_masked_weight_keeps_its_zeros():
    model = loud_llama()
    given, plan = batches(model), {"*.mlp.*": [tq.TwoFour(), tq.LSQ(bits=4, per="channel")]}
    scaled = awq(model, given, plan)
    assert far(logits(scaled, given[0]), logits(model, given[0])) < 1e-5


def test_refusals():
    model = made("bert")
    given = batches(model)
    with pytest.raises(ValueError, match="alpha is a share from 0 to 1, got 1.5"):
        smooth(model, given, 1.5)
    with pytest.raises(ValueError, match="no batch reached 2 layers"):
        smooth(model, [])
    with pytest.raises(ValueError, match="no layer that the table of anatomies describes"):
        smooth(nn.Sequential(nn.Linear(4, 4)), given)
    with pytest.raises(ValueError, match="the plan rounds no layer whose inputs can be scaled"):
        awq(model, given, {"*.query": [tq.LSQ(4)]})
    with pytest.raises(ValueError, match="awq looks at weights alone"):
        awq(model, given, {"*.output.dense": [tq.LSQ(4), tq.Inputs(tq.LSQ(8))]})
    student = tq.compress(model, {"*.query": [tq.LSQ(4)]})
    for verb in (lambda m: smooth(m, given), lambda m: awq(m, given, {"*": [tq.LSQ(4)]})):
        with pytest.raises(ValueError, match="changes floats, but bert.encoder.layer.0.*query car"):
            verb(student)
