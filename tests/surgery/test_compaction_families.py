"""Compaction of every entry of the table of anatomies: equal outputs, equal text, equal folders."""

import copy
import re
import subprocess
from pathlib import Path

import anatomy_models
import pytest
import torch
from anatomy_models import (
    CASES,
    MODELS,
    WRITERS,
    assert_same,
    cases,
    inputs,
    kill,
    made,
    outputs,
    weight,
)
from torch import nn
from transformers import AutoConfig, AutoModel
from warm import FRESH

import tqlearn as tq
import tqlearn.hf  # noqa: F401  (teaches from_pretrained)
from tqlearn.sparsity import ANATOMIES, block_masks, layer_sizes, transformer_layers

STAY = ["olmo2", "phi3", "bloom", "falcon"]  # their heads


def test_every_entry_has_a_model():
    assert set(MODELS) == set(ANATOMIES)
    for entry, models in MODELS.items():
        layers = transformer_layers(made(next(iter(models))))
        assert {layer.family for layer in layers} == {entry}


@pytest.mark.parametrize("name", cases())
def test_equal_outputs_and_a_step_of_training_and_a_folder(name, tmp_path):
    """The same numbers from a smaller model; it trains, and a folder brings it back to the bit."""
    whole = made(name)
    batch = inputs(whole)
    dense = outputs(whole, batch)
    model = kill(whole)
    wanted = outputs(model, batch)
    assert (wanted - dense).abs().max() > 1e-3  # what was emptied had a say
    before = layer_sizes(model)
    small = tq.compact(model)
    after = layer_sizes(small)
    gone = 2 * CASES[name][2].get("num_attention_heads", 4) // 4 if name not in STAY else 0
    assert after["heads"] == [heads - gone for heads in before["heads"]]
    assert after["dimensions"] == [size - 2 * (size // 4) for size in before["dimensions"]]
    assert_same(outputs(small, batch), wanted)
    found = tq.survey(model)
    names = {n for x in transformer_layers(small) for n in x.matrices}
    assert found.weights == sum(weight(small, n).numel() for n in names)
    assert found.weights < found.weights_before and not found.changed

    small.save_pretrained(tmp_path)
    again = type(small).from_pretrained(tmp_path)
    assert torch.equal(outputs(again, batch), outputs(small, batch))
    optimizer = torch.optim.SGD(again.parameters(), lr=1e-3)
    outputs_with_gradient(again, batch).square().mean().backward()
    for n in names:
        assert again.get_submodule(n).weight.grad.any(), n
    optimizer.step()
    assert not torch.equal(outputs(again, batch), outputs(small, batch))


def outputs_with_gradient(model, batch):
    with torch.enable_grad():
        found = model(**batch)
        return found.logits if "logits" in found else found.logits_per_image


EAGER = "mpnet", "t5", "gpt2", "llama", "bart", "modernbert"


@pytest.mark.parametrize("name", cases(EAGER, ("t5", "llama")))
def test_eager_attention(name):
    model = kill(made(name))
    model.set_attn_implementation("eager")
    batch, small = inputs(model), tq.compact(model)
    assert_same(outputs(small, batch), outputs(model, batch))


@pytest.mark.parametrize("name", cases(WRITERS, ("bart", "t5", "gpt2", "llama", "mixtral")))
def test_equal_text(name):
    """The same words with the same logits, from a cache, on a ragged batch; and without a cache."""
    model = kill(made(name))
    batch = inputs(model)
    batch.pop("decoder_input_ids", None)
    small = tq.compact(model)
    how = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "no_repeat_ngram_size": 1}
    how |= {"return_dict_in_generate": True, "output_logits": True}
    wanted, found = model.generate(**batch, **how), small.generate(**batch, **how)
    assert torch.equal(found.sequences, wanted.sequences)
    assert len(wanted.sequences[:, -5:].unique()) >= 5
    assert_same(torch.cat(found.logits), torch.cat(wanted.logits))
    slow = small.generate(**batch, **how, use_cache=False)
    assert torch.equal(slow.sequences, wanted.sequences)


@pytest.mark.parametrize("name", cases(("bart", "t5", "llama"), ("bart",)))
def test_equal_text_with_beams(name):
    model = kill(made(name))
    batch = inputs(model)
    batch.pop("decoder_input_ids", None)
    how = {"max_new_tokens": 5, "num_beams": 2, "do_sample": False}
    found = tq.compact(model).generate(**batch, **how)
    assert torch.equal(found, model.generate(**batch, **how))


def test_a_static_cache_takes_layers_of_different_heads():
    model = kill(made("llama"))
    weight(model, "model.layers.0.self_attn.v_proj")[:8] = 0  # one group more in one layer
    small, batch = tq.compact(model), inputs(model)
    assert layer_sizes(small)["heads"] == [2, 4]
    short = {"max_new_tokens": 5, "do_sample": False}
    wanted = model.generate(**batch, **short)
    assert torch.equal(small.generate(**batch, **short, cache_implementation="static"), wanted)


PLANS = [("struct", n) for n in ("mpnet", "deberta", "modernbert", "t5, gated", "gpt2", "bloom")]
PLANS += [("hybrid", n) for n in ("llama", "bart", "glm, one layer for gate and up")]
PLANS += [("block", "modernbert"), ("block", "qwen2, biases"), ("struct", "llama")]


@pytest.mark.parametrize("variant, name", PLANS)
def test_plans(variant, name):
    """Masks with scores on both sides of the threshold give what compaction gives; all learn."""
    model = made(name)
    batch = inputs(model)
    student = tq.compress(model, tq.block_plan(model, variant, (4, 4))).eval()
    masks, layers = block_masks(student), transformer_layers(student)
    assert {*masks} == {n for x in layers for n in x.matrices}
    for mask in masks.values():
        if mask.source is mask:  # half of them stay; the same heads in matrices of one shape
            scores = torch.linspace(-4.4, 0, mask.scores.numel())
            order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(3))
            mask.scores.data = scores[order].view_as(mask.scores)
    small = tq.compact(student)
    assert_same(outputs(small, batch), outputs(student, batch))
    sizes, whole = layer_sizes(small), layer_sizes(student)
    if variant != "block":
        assert sizes["dimensions"] == [size // 2 for size in whole["dimensions"]]
    if variant == "struct" and name != "bloom":
        assert sum(sizes["heads"]) <= sum(whole["heads"]) // 2
    student.train()
    outputs_with_gradient(student, batch).square().mean().backward()
    assert all(mask.source.scores.grad.any() for mask in masks.values())


RELOAD = """
import sys, torch
import tqlearn.hf
sys.path.insert(0, sys.argv[1])
from anatomy_models import CASES, outputs
for folder in sys.argv[2:]:
    batch, name = torch.load(folder + "/batch.pt")
    model = CASES[name][0].from_pretrained(folder)
    torch.save(outputs(model, batch), folder + "/outputs.pt")
"""


@pytest.mark.slow
def test_compacted_then_quantized_and_packed_folders_in_a_new_process(tmp_path):
    folders = {}
    for name in CASES:
        model = made(name)
        batch, small = inputs(model), tq.compact(kill(model))
        plan = {n: [tq.LSQ(bits=8)] for x in transformer_layers(small) for n in x.matrices}
        quantized = tq.calibrate(tq.compress(small, plan)).eval()
        for word, student in (("small", small), ("packed", tq.pack(quantized))):
            folder = tmp_path / f"{len(folders)}{word}"
            student.save_pretrained(folder)
            torch.save((batch, name), folder / "batch.pt")
            folders[folder] = outputs(student, batch)
    here = str(Path(anatomy_models.__file__).parent)
    done = subprocess.run(
        [*FRESH, "-c", RELOAD, here, *map(str, folders)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for folder, wanted in folders.items():
        assert torch.equal(torch.load(folder / "outputs.pt"), wanted), folder


def test_a_single_silent_head_is_more_than_rounding():
    """What ``assert_same`` lets pass is less than any head of a first layer says."""
    for name in CASES:
        model = made(name)
        batch, layer = inputs(model), transformer_layers(model)[0]
        if not hasattr(model.get_submodule(layer.value), "weight"):
            continue  # one parameter of several projections
        before = outputs(model, batch)
        weight(model, layer.value)[layer.rows("value", 4)[1]] = 0
        with pytest.raises(AssertionError):
            assert_same(outputs(model, batch), before)


def test_whole_groups_go():
    """One query head that speaks keeps its key, its value and the other heads of the group."""
    model = made("llama")
    output = weight(model, "model.layers.0.self_attn.o_proj")
    output[:, :24] = 0  # heads 0, 1 and 2: the first group and half of the second
    small = tq.compact(model)
    assert layer_sizes(small)["heads"] == [6, 8]
    attention = small.model.layers[0].self_attn
    assert (attention.k_proj.out_features, attention.v_proj.out_features) == (24, 24)
    batch = inputs(model)
    assert_same(outputs(small, batch), outputs(model, batch))


@pytest.mark.parametrize("name", ["t5", "mpnet"])
def test_one_table_of_positions_keeps_heads_of_a_stack_together(name):
    model = made(name)
    first, second = transformer_layers(model)[:2]
    weight(model, first.value)[first.rows("value", 4)[1:3]] = 0
    weight(model, second.value)[second.rows("value", 4)[2:4]] = 0
    small = tq.compact(model)
    assert layer_sizes(small)["heads"][:2] == [3, 3]  # number 2 alone is dead in both
    assert small.get_submodule(first.table).weight.shape[1] == 3
    batch = inputs(model)
    assert_same(outputs(small, batch), outputs(model, batch))


def test_a_gate_that_is_shut_and_one_that_is_not():
    """act(0) is 0: a dead gate goes; with a bias it scales what comes, and stays."""
    model = made("llama")
    weight(model, "model.layers.0.mlp.gate_proj")[:5] = 0
    weight(model, "model.layers.0.mlp.up_proj")[7:9] = 0
    assert layer_sizes(tq.compact(model))["dimensions"] == [41, 48]
    for name in ("gate_proj", "up_proj"):
        layer = model.model.layers[0].mlp.get_submodule(name)
        layer.bias = nn.Parameter(torch.full((48,), 0.5))
    assert layer_sizes(tq.compact(model))["dimensions"] == [48, 48]
    weight(model, "model.layers.0.mlp.up_proj")[:5] = 0  # now a constant, which needs a bias
    small, batch = tq.compact(model), inputs(model)
    assert layer_sizes(small)["dimensions"] == [43, 48]
    assert small.model.layers[0].mlp.down_proj.bias is not None
    assert_same(outputs(small, batch), outputs(model, batch))
    authors = tq.survey(model, "authors")
    assert authors.changed == {"model.layers.0": {"dimensions": 7}}


def test_what_stays_says_why():
    found = str(tq.survey(made("bloom")))
    assert "0 of 0" in found and "heads stay: ALiBi adds to the scores" in found
    assert "FFN stays: a router chooses among its experts" in str(tq.survey(made("mixtral")))
    assert tq.survey(made("llama")).rows[0]["stays"] == ""


def test_models_that_nobody_tried_are_refused():
    model = made("llama")
    model.config.model_type = "lama"
    with pytest.raises(ValueError, match="LlamaForCausalLM of type lama has layers with the names"):
        tq.compact(model)
    with pytest.raises(ValueError, match="of Llama and Mixtral and OLMo 2, but nobody has tried"):
        tq.block_plan(model)
    other = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="Sequential has no layer that the table of anatomies"):
        tq.survey(other)


def test_numbers_that_an_anatomy_does_not_tell_are_refused():
    model = made("llama")
    model.model.layers[1].self_attn.sinks = nn.Parameter(torch.zeros(8))
    with pytest.raises(ValueError, match=r"layers.1.self_attn.sinks of shape \(8,\) is not in th"):
        tq.compact(model.eval())


def test_sizes_of_another_model_are_refused(tmp_path):
    small = tq.compact(kill(made("gpt2")))
    layout = tq.describe(small)
    attention = layout["modules"]["transformer.h.0.attn"]
    assert attention == {"sizes": {"num_heads": 2, "split_size": 16}}
    attention["sizes"] = {"number": 2}
    with pytest.raises(ValueError, match="GPT2Attention has no 'number' that could have the size"):
        tq.rebuild(made("gpt2"), copy.deepcopy(layout))


@pytest.mark.parametrize("name", ["gpt2", "mpnet"])
def test_twice_and_without_the_head(name, tmp_path):
    """What is compacted can be compacted further, and AutoModel takes the body out of a folder."""
    once = tq.compact(kill(made(name)))
    layer = transformer_layers(once)[0]
    for each in transformer_layers(once):
        weight(once, each.output)[:, each.rows("output", 2)[0]] = 0
    twice, batch = tq.compact(once), inputs(once)
    assert layer_sizes(twice)["heads"] == [1, 1] and layer.head_size == 8
    assert_same(outputs(twice, batch), outputs(once, batch))
    twice.save_pretrained(tmp_path)
    body = AutoModel.from_pretrained(tmp_path)
    wanted = twice.base_model(**batch).last_hidden_state
    assert torch.equal(body(**batch).last_hidden_state, wanted)


def test_a_masked_conv1d_is_a_linear_layer_from_then_on(tmp_path):
    model = made("gpt2")
    batch = inputs(model)
    student = tq.compress(model, tq.block_plan(model, "hybrid", (4, 4))).eval()
    assert isinstance(student.transformer.h[0].attn.c_attn, nn.Linear)
    assert_same(outputs(student, batch), outputs(model, batch))
    student.save_pretrained(tmp_path)
    again = type(student).from_pretrained(tmp_path)
    assert torch.equal(outputs(again, batch), outputs(student, batch))


def test_a_config_of_its_own_type_is_found_inside():
    """CLIP's two towers have types of their own, and so have parts of larger models."""
    model = made("clip")
    assert AutoConfig.for_model("clip").text_config.model_type == "clip_text_model"
    families = {layer.name.split(".")[0]: layer.family for layer in transformer_layers(model)}
    assert families == {"text_model": "CLIP", "vision_model": "CLIP"}


def test_the_page_add_your_architecture(tmp_path, monkeypatch, capsys):
    """Its example as it stands, with an entry for a family that is not in the table."""
    page = Path(__file__).parents[2] / "docs" / "add_your_architecture.md"
    first, second = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    assert "GPT-J" not in ANATOMIES
    monkeypatch.chdir(tmp_path)
    names = {}
    try:
        exec(first + second, names)
    finally:
        del ANATOMIES["GPT-J"]
    rows = capsys.readouterr().out.splitlines()
    assert rows[1].split()[0] == "transformer.h.0" and " 0 of " not in rows[1]
    sizes = names["small"].transformer.h[0]
    assert sizes.attn.num_attention_heads < 4 and 0 < sizes.mlp.fc_in.out_features < 128
    again = type(names["small"]).from_pretrained("runs/small")
    assert torch.equal(again(names["ids"]).logits, names["small"](names["ids"]).logits)
    with pytest.raises(ValueError, match="of type gptj has no layer that the table of anatomies"):
        tq.survey(names["model"])
