"""Compaction: equal outputs, the controls that must fail, exact counts, folders that load anywhere.

Spec sheet Block Pruning, acceptance checks 6 to 8 and the shapes of 11.
"""

import copy
import json
import subprocess

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)
from warm import FRESH

import tqlearn as tq
import tqlearn.hf  # noqa: F401  (teaches from_pretrained)
from tqlearn.sparsity.anatomy import encoder_weights, layer_sizes, transformer_layers
from tqlearn.sparsity.blocks import block_density, block_masks

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "num_labels": 3, "initializer_range": 0.2,
}  # fmt: skip
DISTIL = {
    "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "num_labels": 3,
    "initializer_range": 0.2,
}  # fmt: skip
TEXT = {"vocab_size": 100, "max_position_embeddings": 40}
FAMILIES = {
    "bert": (BertForSequenceClassification, BertConfig(**SMALL, **TEXT)),
    "roberta": (RobertaForSequenceClassification, RobertaConfig(**SMALL, **TEXT)),
    "distilbert": (DistilBertForSequenceClassification, DistilBertConfig(**DISTIL, **TEXT)),
    "vit": (ViTForImageClassification, ViTConfig(**SMALL, image_size=16, patch_size=8)),
}
HEADS = [4, 4, 6, 7, 7, 5, 6, 7, 5, 5, 5, 3]
DIMENSIONS = [552, 717, 795, 789, 833, 792, 620, 466, 283, 112, 96, 238]


def made(family="bert", seed=0):
    """A small model with biases that are not zero, as training leaves them."""
    torch.manual_seed(seed)
    cls, config = FAMILIES[family]
    model = cls(copy.deepcopy(config)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.5)
    return model


def inputs(family="bert"):
    torch.manual_seed(1)
    if family == "vit":
        return {"pixel_values": torch.randn(3, 3, 16, 16)}
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 6:], mask[2, 3:] = 0, 0  # ragged
    return {"input_ids": torch.randint(3, 100, (3, 9)), "attention_mask": mask}


@torch.no_grad()
def logits(model, batch):
    dtype = model.dtype
    batch = {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.items()}
    return model(**batch).logits


@torch.no_grad()
def kill(model, layer, heads=(), which=("value",), bias=True, dims=(), rows=True):
    """Zero the slices of some heads and dimensions; ``bias`` says whether biases go too."""
    at = transformer_layers(model)[layer]
    for h in heads:
        part = slice(h * at.head_size, (h + 1) * at.head_size)
        for name in which:
            module = model.get_submodule(getattr(at, name))
            if name == "output":
                module.weight[:, part] = 0
                continue
            module.weight[part] = 0
            if bias:
                module.bias[part] = 0
    up, down = model.get_submodule(at.up), model.get_submodule(at.down)
    for i in dims:
        if rows:
            up.weight[i] = 0
        else:
            down.weight[:, i] = 0
    return model


def dead(model):
    """V-dead heads with and without a bias, an O-dead head, dimensions dead on either side."""
    kill(model, 0, heads=[0], dims=range(5, 20))
    kill(model, 0, heads=[2], bias=False)
    kill(model, 1, heads=[1, 3], which=("output",), dims=range(40, 60), rows=False)
    return model


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_outputs(family, kind):
    """Check 6: 1e-5 in float32, 1e-12 in float64, and the smaller sizes."""
    model, batch = dead(made(family)), inputs(family)
    model.set_attn_implementation(kind)
    small = tq.compact(model)
    assert layer_sizes(small) == {"heads": [2, 2], "dimensions": [49, 44]}
    assert layer_sizes(model) == {"heads": [4, 4], "dimensions": [64, 64]}
    assert (logits(small, batch) - logits(model, batch)).abs().max() <= 1e-5
    found = logits(tq.compact(model.double()), batch) - logits(model, batch)
    # ViT's eager attention takes its softmax in float32: the weights sum to 1 to that precision
    assert found.abs().max() <= (1e-7 if (family, kind) == ("vit", "eager") else 1e-12)
    assert type(small.get_submodule(transformer_layers(small)[0].query)) is torch.nn.Linear


@pytest.mark.parametrize("which", ["query", "key"])
def test_a_dead_query_or_key_is_no_dead_head(which, capsys):
    """Check 7: such a head averages its values; removing it must change the logits."""
    model, batch = kill(made(), 0, heads=[1], which=(which,)), inputs()
    exact, authors = tq.compact(model), tq.compact(model, rule="authors")
    assert layer_sizes(exact)["heads"] == [4, 4] and layer_sizes(authors)["heads"] == [3, 4]
    assert torch.equal(logits(exact, batch), logits(model, batch))
    assert (logits(authors, batch) - logits(model, batch)).abs().max() > 1e-3
    said = "the outputs change by what goes in\n    bert.encoder.layer.0: 1 heads\n"
    assert said in capsys.readouterr().out
    found = tq.survey(model, "authors")
    assert found.changed == {"bert.encoder.layer.0": {"heads": 1}}
    assert "3 of 4" in str(found) and "changes the outputs: 1 heads" in str(found)
    assert tq.survey(model).changed == {}


def test_a_live_value_bias_must_be_folded():
    """Check 7: weights of V dead, bias alive. Without the fold it fails, with it it passes."""
    model, batch = kill(made(), 0, heads=[1], bias=False), inputs()
    exact, authors = tq.compact(model), tq.compact(model, rule="authors")
    for small in (exact, authors):
        assert layer_sizes(small)["heads"] == [3, 4]
    assert (logits(exact, batch) - logits(model, batch)).abs().max() <= 1e-5
    assert (logits(authors, batch) - logits(model, batch)).abs().max() > 1e-3
    assert tq.survey(model, "authors").changed == {"bert.encoder.layer.0": {"heads": 1}}
    before = model.bert.encoder.layer[0].attention.output.dense
    value = model.bert.encoder.layer[0].attention.self.value.bias[8:16]
    after = exact.bert.encoder.layer[0].attention.output.dense.bias
    torch.testing.assert_close(after, before.bias + before.weight[:, 8:16] @ value)


def test_a_live_dimension_bias_must_be_folded():
    model, batch = kill(made(), 1, dims=range(10)), inputs()
    exact, authors = tq.compact(model), tq.compact(model, rule="authors")
    assert layer_sizes(exact)["dimensions"] == layer_sizes(authors)["dimensions"] == [64, 54]
    assert (logits(exact, batch) - logits(model, batch)).abs().max() <= 1e-5
    assert (logits(authors, batch) - logits(model, batch)).abs().max() > 1e-3
    assert tq.survey(model, "authors").changed == {"bert.encoder.layer.1": {"dimensions": 10}}


def test_both_rules_agree_where_the_bias_mask_did_its_work():
    model, batch = kill(made(), 0, heads=[1], which=("query", "key", "value")), inputs()
    one, two = tq.compact(model), tq.compact(model, rule="authors")
    assert torch.equal(logits(one, batch), logits(two, batch))
    assert tq.survey(model, "authors").changed == {}


def test_one_head_and_one_dimension_stay():
    model, batch = kill(made(), 0, heads=range(4), bias=False, dims=range(64)), inputs()
    small = tq.compact(model)
    assert layer_sizes(small) == {"heads": [1, 4], "dimensions": [1, 64]}
    assert (logits(small, batch) - logits(model, batch)).abs().max() <= 1e-5


@pytest.mark.slow
def test_the_headline_model():
    """Check 8: 22,248,960 of 84,934,656 = 0.26195, 3.82 times fewer, counted and built."""
    weights, whole = (
        encoder_weights(HEADS, DIMENSIONS, 768),
        encoder_weights([12] * 12, [3072] * 12, 768),
    )
    assert (sum(HEADS), weights, whole) == (64, 22_248_960, 84_934_656)
    assert round(weights / whole, 5) == 0.26195 and round(whole / weights, 2) == 3.82
    model = BertForSequenceClassification(BertConfig(vocab_size=30, hidden_size=768))
    for i, (heads, dims) in enumerate(zip(HEADS, DIMENSIONS, strict=True)):
        kill(model, i, heads=range(heads, 12), dims=range(dims, 3072))
    found = tq.survey(model)
    assert (found.weights, found.weights_before) == (22_248_960, 84_934_656)
    assert round(found.density, 5) == 0.26195
    small = tq.compact(model)
    assert layer_sizes(small) == {"heads": HEADS, "dimensions": DIMENSIONS}
    matrices = [
        small.get_submodule(n).weight for x in transformer_layers(small) for n in x.matrices
    ]
    assert sum(weight.numel() for weight in matrices) == 22_248_960


def pruned(variant, family="bert", block=(4, 4), spread=3.0):
    """A model under a plan, its scores on both sides of the threshold."""
    student = tq.compress(made(family), tq.block_plan(made(family), variant, block)).eval()
    for i, mask in enumerate(block_masks(student).values()):
        if mask.source is mask:
            generator = torch.Generator().manual_seed(i)
            mask.scores.data = spread * torch.randn(mask.scores.shape, generator=generator) - 2.5
    return student


@pytest.mark.parametrize("variant", ["block", "struct", "hybrid"])
@pytest.mark.parametrize("family", FAMILIES)
def test_plans_of_every_variant(family, variant):
    student, batch = pruned(variant, family), inputs(family)
    masks, layers = block_masks(student), transformer_layers(student)
    assert len(masks) == 12 and {mask.kind for mask in masks.values()} == {"attention", "dense"}
    for layer in layers:
        query, output = masks[layer.query], masks[layer.output]
        assert query.grid == ((4, 1) if variant == "struct" else (8, 8))
        assert output.grid == query.grid[::-1] and output.block == query.block[::-1]
        assert (masks[layer.down].source is masks[layer.up]) == (variant != "block")
    assert 0 < block_density(student)["all"] < 1
    small = tq.compact(student)
    assert (logits(small, batch) - logits(student, batch)).abs().max() <= 1e-5
    if variant != "block":
        assert max(layer_sizes(small)["dimensions"]) < 64
    assert block_masks(small) == {}


def test_shared_scores_are_saved_once_and_come_back(tmp_path):
    student, batch = pruned("hybrid"), inputs()
    student.save_pretrained(tmp_path)
    layout = json.loads(
        json.loads((tmp_path / "config.json").read_text())["quantization_config"]["layout"]
    )
    entry = layout["modules"]["bert.encoder.layer.0.output.dense"]["parametrizations"]["weight"][0]
    assert entry["args"]["group"] == "bert.encoder.layer.0.ffn"
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(logits(again, batch), logits(student, batch))
    masks, layer = block_masks(again), transformer_layers(again)[1]
    assert masks[layer.down].source is masks[layer.up]
    assert not masks[layer.up].source.scores.is_meta


RELOAD = """
import sys, torch
from transformers import AutoModel
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification
import tqlearn.hf
for folder in sys.argv[1:]:
    auto = AutoModelForSequenceClassification
    if "vit" in folder:
        auto = AutoModelForImageClassification
    model = auto.from_pretrained(folder)
    batch = torch.load(folder + "/batch.pt")
    with torch.no_grad():
        torch.save(model(**batch).logits, folder + "/logits.pt")
        states = AutoModel.from_pretrained(folder)(**batch).last_hidden_state
        torch.save(states, folder + "/states.pt")
"""


@pytest.mark.slow
def test_compact_quantize_save_load_in_a_new_process(tmp_path):
    """Equal logits, every family, plain and quantized and packed, in one new process; its
    plain AutoModel takes the encoder out of the same folder.
    """
    folders = {}
    for family in FAMILIES:
        small, batch = tq.compact(pruned("hybrid", family)), inputs(family)
        assert len(set(layer_sizes(small)["dimensions"])) == 2  # sizes differ between layers
        plan = {name: [tq.LSQ(bits=8)] for x in transformer_layers(small) for name in x.matrices}
        quantized = tq.calibrate(tq.compress(small, plan)).eval()
        for word, model in (("", small), ("int8", quantized), ("packed", tq.pack(quantized))):
            folder = tmp_path / f"{family}{word}"
            model.save_pretrained(folder)
            torch.save(batch, folder / "batch.pt")
            with torch.no_grad():
                states = model.base_model(**batch).last_hidden_state
            folders[folder] = logits(model, batch), states
    command = [*FRESH, "-c", RELOAD, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for folder, (wanted, states) in folders.items():
        assert torch.equal(torch.load(folder / "logits.pt"), wanted), folder
        assert torch.equal(torch.load(folder / "states.pt"), states), folder
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    layout = json.loads(config["quantization_config"]["layout"])["modules"]
    assert layout["bert.encoder.layer.0.intermediate.dense"]["class"] == "Linear"


def test_filled():
    """Check 11: shapes as they were, no exact zero left in matrices, the rest untouched."""
    small = tq.compact(pruned("hybrid"))
    full = tq.fill(small)
    assert layer_sizes(full) == layer_sizes(small)
    zeros = 0
    for (name, old), new in zip(small.named_parameters(), full.parameters(), strict=True):
        if old.dim() < 2:
            assert torch.equal(old, new), name
            continue
        assert new.all(), name
        assert torch.equal(old[old != 0], new[old != 0])
        put = new[old == 0]
        zeros += put.numel()
        if put.numel() > 100:
            assert abs(put.mean() - old.mean()) < 0.01 * old.std()
            assert put.std().item() == pytest.approx(0.01 * old.std().item(), rel=0.3)
    assert zeros > 1000
    assert torch.equal(tq.fill(small).classifier.weight, full.classifier.weight)
    with pytest.raises(ValueError, match="fill takes plain weights"):
        tq.fill(pruned("hybrid"))


def test_refusals():
    model = made()
    with pytest.raises(ValueError, match="rule is 'exact' or 'authors', got 'paper'"):
        tq.compact(model, rule="paper")
    with pytest.raises(ValueError, match="Sequential has no layer that the table of anat"):
        tq.compact(torch.nn.Sequential(torch.nn.Linear(2, 2)))
    for plan in ({"*.query": [tq.LSQ(8)]}, {"*.query": [tq.TT(rank=2)]},
                 {"*.query": [tq.Inputs(tq.PACT(8))]}):  # fmt: skip
        with pytest.raises(ValueError, match="query is factored, quantized or packed; compact f"):
            tq.compact(tq.compress(model, plan))
    embedded = tq.compress(model, {"*.word_embeddings": [tq.LSQ(8)]})
    with pytest.raises(ValueError, match="word_embeddings is factored, quantized or packed"):
        tq.compact(embedded)  # it would lose its quantizer
    packed = tq.pack(tq.calibrate(tq.compress(model, {"*.query": [tq.LSQ(8)]})))
    with pytest.raises(ValueError, match="quantized or packed"):
        tq.survey(packed)
    with pytest.raises(ValueError, match="would straddle two: 16 rows, but heads"):
        tq.block_plan(model, "hybrid", (16, 16))
    with pytest.raises(ValueError, match=r"variants are \('block', 'struct', 'hybrid'\)"):
        tq.block_plan(model, "rows")


def test_a_value_without_bias():
    """ViT may do without the biases of query, key and value."""
    torch.manual_seed(0)
    model = ViTForImageClassification(
        ViTConfig(**SMALL, image_size=16, patch_size=8, qkv_bias=False)
    ).eval()
    kill(model, 0, heads=[1], bias=False)
    small = tq.compact(model)
    assert layer_sizes(small)["heads"] == [3, 4]
    batch = inputs("vit")
    assert (logits(small, batch) - logits(model, batch)).abs().max() <= 1e-5
