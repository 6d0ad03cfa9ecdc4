"""Rotations: Hadamard matrices of many widths, and models whose outputs stay."""

from contextlib import nullcontext

import pytest
import torch
from small_models import batches, far, inputs_of, logits, made
from test_compensation import W
from test_scaling import LOUD, norm_error, rounded
from torch import nn

import tqlearn as tq
from tqlearn.posttraining import hadamard, rotate, spread, walk

APART = r"two weights now, [\d,]+ bytes more"


@pytest.mark.parametrize("n", [1, 2, 8, 12, 20, 24, 28, 36, 44, 60, 72, 384, 576])
def test_a_hadamard_matrix_has_orthogonal_rows_of_ones(n):
    h = hadamard(n)
    assert set(h.unique().tolist()) <= {-1.0, 1.0}
    assert torch.equal(h @ h.T, n * torch.eye(n).double())


@pytest.mark.parametrize("n", [1, 3, 6, 8, 18, 36, 52, 576])
@pytest.mark.parametrize("keep_ones", [False, True])
def test_spread_is_orthogonal_and_random(n, keep_ones):
    r = spread(n, seed=3, keep_ones=keep_ones)
    torch.testing.assert_close(r @ r.T, torch.eye(n).double())
    assert torch.equal(r, spread(n, seed=3, keep_ones=keep_ones))
    if keep_ones:
        torch.testing.assert_close(r.sum(0), torch.ones(n).double())
        torch.testing.assert_close(r.sum(1), torch.ones(n).double())
    if n > 8:
        assert not torch.equal(r, spread(n, seed=4, keep_ones=keep_ones))
    if n in (36, 576):  # one loud channel is heard everywhere, and nowhere much
        assert r.abs().amax() * n**0.5 < (4 if keep_ones else 1 + 1e-9)


def test_hadamard_golden_numbers():
    """Four bits for inputs (one scale) and weights (one per row); blocks of 4 on the inputs."""
    r = torch.block_diag(*[hadamard(4) / 2] * 3)
    both = [(LOUD, W), (LOUD @ r, W @ r)]
    plain, turned = (norm_error(rounded(x, 4) @ rounded(w, 4, dim=1).T) for x, w in both)
    assert (plain, turned) == pytest.approx((0.259896, 0.179559), abs=1e-6)


STREAMS = ["llama", "llama, classes", "mistral", "qwen2", "qwen3", "smollm3", "gpt2"]


@pytest.mark.parametrize("name", STREAMS)
def test_a_rotated_model_equals_the_original(name):
    model = made(name)
    given = batches(model)
    tied = name != "llama, classes"
    with pytest.warns(UserWarning, match=APART) if tied else nullcontext():
        turned = rotate(model, seed=2)
    assert type(turned) is type(model)
    for batch in given:
        assert far(logits(turned, batch), logits(model, batch)) < 1e-5
    table, new = (m.get_input_embeddings().weight for m in (model, turned))
    with torch.no_grad():
        assert far(new, table) > 0.1 and far(new @ new.T, table @ table.T) < 1e-5
    if tied:
        assert turned.get_output_embeddings().weight is not new
        assert model.get_output_embeddings().weight is table


@pytest.mark.parametrize("name", ["bert", "t5", "gemma", "vit", "llama"])
def test_values_turn_wherever_attention_is_known(name):
    model = made(name)
    turned, batch = rotate(model, stream=False), batches(model, 1)[0]
    assert far(logits(turned, batch), logits(model, batch)) < 1e-5
    moved = [k for k, t in turned.named_parameters() if not torch.equal(t, model.get_parameter(k))]
    ends = {"bert": ("value", "output.dense"), "t5": ("v", "o")}.get(name, ("v_proj", "o_proj"))
    assert {key.rpartition(".")[0].endswith(ends) for key in moved} == {True}
    assert len(moved) >= (12 if name == "t5" else 4)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_table_stays_tied_where_the_last_gain_is_the_same_for_all(name):
    model = made(name)
    final = model.model.norm if name == "llama" else model.transformer.ln_f
    final.weight.data.fill_(1.5)
    turned, batch = rotate(model), batches(model, 1)[0]
    assert turned.get_output_embeddings().weight is turned.get_input_embeddings().weight
    assert far(logits(turned, batch), logits(model, batch)) < 1e-5


def outlier_of(x):
    x = x.detach()
    return float(x.abs().amax() / x.square().mean().sqrt())


def test_outliers_of_the_stream_and_of_the_weights_shrink():
    model = made("llama")
    model.model.embed_tokens.weight.data[:, 5] *= 20
    with pytest.warns(UserWarning, match=APART):
        turned = rotate(model)
    found = []
    for one in (model, turned):
        x = inputs_of(one, "model.layers.0", batches(model, 1))
        found.append((outlier_of(x), outlier_of(one.model.embed_tokens.weight)))
    assert all(after < 0.7 * before for before, after in zip(*found, strict=True))


@pytest.mark.parametrize("tied", [True, False])
def test_rotated_rounded_compensated_saved_loaded_and_written_with(tied, tmp_path):
    model = made("llama")
    if tied:
        model.model.norm.weight.data.fill_(1.0)
    with nullcontext() if tied else pytest.warns(UserWarning, match=APART):
        turned = rotate(model)
    turned.save_pretrained(tmp_path / "floats")
    again = type(model).from_pretrained(tmp_path / "floats")
    given = batches(model)
    assert torch.equal(logits(again, given[0]), logits(turned, given[0]))
    plan = {
        "*.up_proj": [tq.TwoFour(), tq.LSQ(4, init="mse", per=16)],  # GPTQ and SparseGPT in one
        "*.layers.*": [tq.LSQ(4, init="mse", per=16)],
        "*embed_tokens": [tq.LSQ(4, per=16)],
    }
    student = tq.calibrate(tq.compress(turned, plan))
    with pytest.warns(UserWarning, match="1 weights stay rounded to nearest"):
        found = tq.compensate(student, given)
    assert len(found) == 14 and sum(after < before for before, after in found.values()) >= 12
    groups = student.model.layers[0].mlp.up_proj.weight.reshape(-1, 4)
    assert bool(((groups == 0).sum(1) >= 2).all())
    packed = tq.pack(student)
    packed.save_pretrained(tmp_path / "packed")
    loaded = type(model).from_pretrained(tmp_path / "packed")
    assert tq.report(loaded).file < 0.45 * tq.report(model).file
    with torch.no_grad():
        wanted = student.generate(given[0]["input_ids"][:1], max_new_tokens=5, do_sample=False)
        written = loaded.generate(given[0]["input_ids"][:1], max_new_tokens=5, do_sample=False)
    assert torch.equal(written, wanted)
    for batch in given:
        assert torch.equal(logits(loaded, batch), logits(student, batch))
    same = loaded.lm_head.weight.shape == loaded.model.embed_tokens.weight.shape
    equal = same and torch.equal(loaded.lm_head.weight * 1, loaded.model.embed_tokens.weight * 1)
    assert equal == tied


def test_a_walk_sees_the_turned_inputs():
    """H of a reader becomes R^T H R: what GPTQ knows of the inputs turns with them."""
    model = made("llama", num_hidden_layers=1)
    model.model.layers[0].input_layernorm.weight.data.fill_(1.0)
    with pytest.warns(UserWarning, match=APART):
        turned = rotate(model, seed=5)
    name, found = "model.layers.0.self_attn.q_proj", []
    for one in (model, turned):
        ((_, moments),) = walk(one, {name: one.get_submodule(name)}, batches(model))
        found.append(moments.square)
    r = spread(32, 5)
    torch.testing.assert_close(found[1], r.T @ found[0] @ r, rtol=1e-4, atol=1e-5)


def test_refusals():
    with pytest.raises(ValueError, match="stream of a BertForSequenceClassification cannot"):
        rotate(made("bert"))
    with pytest.raises(ValueError, match="a LlamaModel gives the stream itself as its output"):
        rotate(made("llama").model)
    with pytest.raises(ValueError, match="nothing is left to rotate"):
        rotate(made("llama"), stream=False, values=False)
    with pytest.raises(TypeError, match="rotate: stream must be True or False, got 1"):
        rotate(made("llama"), stream=1)
    with pytest.raises(ValueError, match="no Hadamard matrix of 18 rows is known here"):
        hadamard(18)
    with pytest.raises(ValueError, match="changes floats, but model.layers.0.*q_proj carries"):
        rotate(tq.compress(made("llama"), {"*q_proj": [tq.LSQ(4)]}))
    with pytest.raises(ValueError, match=r"v_proj is a LowRankLinear, not a linear layer"):
        rotate(tq.compress(made("llama"), {"*v_proj": [tq.LowRank(rank=2)]}), stream=False)
    strange = made("llama")
    strange.model.layers[1].adapter = nn.Linear(32, 32)
    with pytest.raises(ValueError, match=r"layers\.1\.adapter\.weight of a LlamaForCausalLM is"):
        rotate(strange)
    gone = made("gpt2")
    gone.transformer.ln_f.weight.data.fill_(1.0)
    gone.transformer.h[0].ln_1.weight.data[3] = 0
    with pytest.raises(ValueError, match="a channel with a bias and a gain of 0"):
        rotate(gone)
