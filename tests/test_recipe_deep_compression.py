"""The Deep Compression recipe: its phases keep masks and weights, in every order."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

import tqlearn as tq
from tqlearn.recipes import deep_compression as recipe
from tqlearn.sparsify import NMMask

SMALL = BertConfig(
    vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=64, max_position_embeddings=16, num_labels=3,
)  # fmt: skip
LAYER = "bert.encoder.layer.0.intermediate.dense"


def batches():
    ids = torch.randint(0, 50, (4, 8), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return BertForSequenceClassification(SMALL)


def trained(student, steps=5):
    adam = torch.optim.AdamW(student.parameters(), lr=1e-2, weight_decay=0.1)
    (batch,) = batches()
    for _ in range(steps):
        adam.zero_grad()
        student(**batch, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        adam.step()
    return student


def kept(student):
    """Return the mask of every masked weight."""
    return {n: m.mask.clone() for n, m in student.named_modules() if isinstance(m, NMMask)}


def test_query_key_value_get_the_plain_rules_and_all_others_the_plus_ones():
    plan = recipe.plan({"prune", "quantize"})
    assert plan["*.layer*.*query"] == [
        tq.TwoFour(), tq.SAWB(4, plus=False, statistics="masked"), tq.Inputs(tq.PACT(4, plus=False))
    ]  # fmt: skip
    assert [*plan][-1] == "*.layer*.*" and plan["*.layer*.*"][1].plus
    assert recipe.plan({"quantize"})["*.layer*.*"][0].statistics == "dense"
    assert recipe.plan({"prune"})["*.layer*.*"] == [tq.TwoFour()]


def test_a_mask_outlives_training_and_the_next_phase(model):
    sparse = trained(recipe.apply(model, {"prune"}, batches()))
    both = trained(recipe.apply(sparse, {"prune", "quantize"}, batches()))
    first, second = kept(sparse), kept(both)
    assert len(first) == 12 and first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    weight = both.get_submodule(LAYER).weight.reshape(-1, 4)
    assert ((weight != 0).sum(1) <= 2).all() and ((weight == 0).sum(1) >= 2).all()
    assert (weight != 0).float().mean() > 0.4  # some kept ones round to zero
    assert len(weight.unique()) <= 15


def test_the_weights_underneath_go_on_from_phase_to_phase(model):
    four = trained(recipe.apply(model, {"quantize"}, batches()))
    master = four.get_submodule(LAYER).parametrizations.weight.original
    bare = recipe.without_edits(four)
    assert torch.equal(bare.get_submodule(LAYER).weight, master)
    assert torch.equal(bare.classifier.weight, four.classifier.weight)
    assert not any("parametrizations" in name for name in bare.state_dict())
    assert getattr(bare.config, "quantization_config", None) is None
    both = recipe.apply(four, {"prune", "quantize"}, batches())
    assert torch.equal(both.get_submodule(LAYER).parametrizations.weight.original, master)
    assert len(kept(four)) == 0 and len(kept(both)) == 12


def test_embeddings_pooler_and_head_stay_in_float(model):
    student = recipe.apply(model, {"prune", "quantize"}, batches())
    plain = [
        n for n, p in student.named_parameters() if "parametrizations" not in n and p.dim() > 1
    ]
    assert sorted(n.split(".")[-2] for n in plain) == [
        "classifier", "dense", "position_embeddings", "token_type_embeddings", "word_embeddings"
    ]  # fmt: skip


def test_an_unknown_phase_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"phases are \['both', 'dense', .*got 'sparse'"):
        recipe.main(["--phases", "sparse", "--output_dir", str(tmp_path)])


def test_the_command(tmp_path):
    """The embedded default, a few steps per phase: packed, sparse, and loaded again."""
    command = [sys.executable, "-m", "tqlearn.recipes.deep_compression", "--max_steps", "6"]
    command += ["--eval_strategy", "no", "--load_best_model_at_end", "False", "--use_cpu", "True"]
    done = subprocess.run(
        [*command, "--disable_tqdm", "True", "--output_dir", str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["phases"] == ["prune", "quantize"] and record["steps"] == 3
    again, _ = tq.teachers.load(str(tmp_path))
    weight = again.get_submodule(LAYER).weight.reshape(-1, 4)
    assert ((weight == 0).sum(1) >= 2).all() and 5 < len(weight.unique()) <= 15
