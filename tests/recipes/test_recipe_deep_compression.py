"""The Deep Compression recipe: its phases keep masks and weights, in every order and model."""

import json
import shutil

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
)

import tqlearn as tq
from tqlearn.hf import small_vit, small_wav2vec2
from tqlearn.hf.checkpoints import load_checkpoint
from tqlearn.hf.classifiers import array_classifier
from tqlearn.hf.pictures import picture_processor
from tqlearn.hf.sounds import sound_extractor
from tqlearn.recipes import deep_compression as recipe
from tqlearn.sparsity.nm import NMMask
from tqlearn.sparsity.patterns import sparse_model_bytes

SMALL = BertConfig(
    vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=64, max_position_embeddings=16, num_labels=3,
)  # fmt: skip
LAYER = "bert.encoder.layer.0.intermediate.dense"
KINDS = ("bert", "vit", "wav2vec2")


def batches(kind="bert"):
    generator = torch.Generator().manual_seed(0)
    if kind == "vit":
        return [{"pixel_values": torch.randn(4, 1, 8, 8, generator=generator)}]
    if kind == "wav2vec2":
        return [{"input_values": torch.randn(4, 1600, generator=generator)}]
    ids = torch.randint(0, 50, (4, 8), generator=generator)
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}]


def fresh(kind):
    torch.manual_seed(0)
    if kind == "vit":
        return small_vit("012", 8, 1, width=16, layers=2)
    if kind == "wav2vec2":
        return small_wav2vec2("012", width=16, layers=2, channels=8)
    return BertForSequenceClassification(SMALL)


@pytest.fixture
def model():
    return fresh("bert")


def trained(student, kind="bert", steps=5):
    adam = torch.optim.AdamW(student.parameters(), lr=1e-2, weight_decay=0.1)
    (batch,) = batches(kind)
    student.train()
    for _ in range(steps):
        adam.zero_grad()
        student(**batch, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        adam.step()
    return student


def reloaded(student, kind, folder):
    """Save a student as the recipe does, and return what comes back."""
    student.save_pretrained(folder)
    if kind == "bert":
        return BertForSequenceClassification.from_pretrained(folder).eval()
    (picture_processor(8, 1) if kind == "vit" else sound_extractor()).save_pretrained(folder)
    return load_checkpoint(folder)[0]


def kept(student):
    """Return the mask of every masked weight."""
    return {n: m.mask.clone() for n, m in student.named_modules() if isinstance(m, NMMask)}


def test_query_key_value_get_the_plain_rules_and_all_others_the_plus_ones():
    plan = recipe.plan({"prune", "quantize"})
    assert plan["*.layer*.*query"] == [
        tq.TwoFour(), tq.SAWB(4, plus=False), tq.Inputs(tq.PACT(4, plus=False))
    ]  # fmt: skip
    assert [*plan][-1] == "*.layer*.*" and plan["*.layer*.*"][1].plus
    assert recipe.plan({"prune"})["*.layer*.*"] == [tq.TwoFour()]
    assert recipe.plan({"quantize"}, per="channel")["*.layer*.*"][0].per == "channel"


@pytest.mark.parametrize(
    ("kind", "outside"),
    [
        ("bert", {"bert.pooler.dense", "classifier"}),
        ("vit", {"classifier"}),
        ("wav2vec2", {"wav2vec2.feature_projection.projection", "projector", "classifier"}),
    ],
)
def test_six_matrices_of_every_layer_and_their_inputs(kind, outside):
    student = recipe.apply(fresh(kind), {"prune", "quantize"}, batches(kind))
    linear = {n: m for n, m in student.named_modules() if isinstance(m, nn.Linear)}
    inside = {n: m for n, m in linear.items() if hasattr(m, "quant_input")}
    assert len(inside) == 2 * 6 and linear.keys() - inside.keys() == outside
    for name, layer in inside.items():
        mask, sawb = layer.parametrizations.weight
        first = name.rsplit(".", 1)[1] in recipe.PROJECTIONS
        assert mask.pattern == "2:4" and sawb.bits == layer.quant_input.bits == 4
        assert sawb.statistics == "search" and sawb.plus != first
    masked = sum(isinstance(m, NMMask) for m in student.modules())
    assert masked == 12, "convolutions, patches and positions have none"


BASES = {  # nominal bytes, with places; spec sheet, 7
    "bert": (BertModel, BertConfig(), 119_424_000, 130_040_832),
    "vit": (ViTForImageClassification, ViTConfig(num_labels=1000), 27_765_664, 38_382_496),
    "wav2vec2": (Wav2Vec2ForCTC, Wav2Vec2Config(), 59_080_320, 69_697_152),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BASES)
def test_the_plan_makes_the_three_base_models_as_small_as_the_spec_sheet_says(kind):
    make, config, nominal, with_places = BASES[kind]
    with torch.device("meta"):
        model = make(config)
    student = tq.compress(model, recipe.plan_for(model, {"prune", "quantize"}))
    edited = [m.weight.numel() for m in student.modules() if hasattr(m, "quant_input")]
    assert (len(edited), sum(edited)) == (72, 84_934_656)
    total = sum(p.numel() for p in model.parameters())
    assert sparse_model_bytes(total, sum(edited)) == (nominal, with_places)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_survives_training_saving_loading_and_quantization(kind, tmp_path):
    """Exactly zero at every dropped place, two of every four, in every group of every matrix."""
    sparse = trained(recipe.apply(fresh(kind), {"prune"}, batches(kind)), kind)
    both = trained(recipe.apply(sparse, {"prune", "quantize"}, batches(kind)), kind).eval()
    masks = kept(both)
    assert len(masks) == 12 and masks.keys() == kept(sparse).keys()
    models = {"sparse": sparse, "both": both}
    models["loaded"] = reloaded(both, kind, tmp_path / "whole")
    packed = tq.pack(both)
    models["packed"] = packed
    models["unpacked"] = reloaded(packed, kind, tmp_path / "packed")
    for name, mask in masks.items():
        assert (mask.reshape(-1, 4).sum(1) == 2).all()
        assert torch.equal(mask, kept(sparse)[name])
        layer = name.split(".parametrizations")[0]
        for student in models.values():
            assert not student.get_submodule(layer).weight[~mask].any()
    assert all(torch.equal(kept(models["loaded"])[name], mask) for name, mask in masks.items())
    (batch,) = batches(kind)
    with torch.no_grad():
        logits = both(**batch).logits
        for name in ("loaded", "packed", "unpacked"):
            assert torch.equal(models[name](**batch).logits, logits), name


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


def test_what_leads_into_a_wav2vec2_goes_on_as_well():
    """weight_norm's pair of tensors behind the positions' convolution is no edit of ours."""
    four = trained(recipe.apply(fresh("wav2vec2"), {"quantize"}, batches("wav2vec2")), "wav2vec2")
    bare = recipe.without_edits(four)
    ours = [n for n in bare.state_dict() if "parametrizations" in n and "pos_conv" not in n]
    assert not ours
    for name, value in bare.state_dict().items():
        if name in four.state_dict():
            assert torch.equal(value, four.state_dict()[name]), name
    assert bare.wav2vec2.encoder.pos_conv_embed.conv.weight.std() > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--phases", "sparse"], r"phases are \['both', 'dense', .*got 'sparse'"),
        (["--shares", "1", "2", "3"], "one for each of .*, got"),
        (["--shares", "1", "0"], "shares are positive numbers"),
        (["--teacher", "scratch"], "text needs a pre-trained encoder"),
        (["--num_layers", "3"], "text needs a pre-trained encoder"),
        (["--augment", "shift"], "augment is for pictures only"),
    ],
)
def test_refused_commands(tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        recipe.main([*words, "--output_dir", str(tmp_path)])


def test_sizes_are_for_a_fresh_model_only():
    rows = Dataset.from_dict({"audio": [[0.0]] * 3, "label": [0, 1, 2]})
    made, extractor = array_classifier("scratch", rows, 32, 1)
    assert made.config.hidden_size == 32 and made.config.num_labels == 3
    assert extractor.sampling_rate == 8000
    with pytest.raises(ValueError, match="'a/b' has its own: {'width': 32}"):
        array_classifier("a/b", rows, 32)
    with pytest.raises(ValueError, match="patches are for pictures only, got patch_size=4"):
        array_classifier("scratch", rows, patch_size=4)
    pictures = Dataset.from_dict({"image": [[[[0.0]] * 8] * 8] * 3, "label": [0, 1, 2]})
    pictures = pictures.with_format("numpy")
    assert array_classifier("scratch", pictures, patch_size=4)[0].config.patch_size == 4


def short(folder, *words):
    """A tiny ViT on digits, six steps in all, two checkpoints in every phase."""
    command = ["--data", "digits", "--hidden_size", "16", "--num_layers", "1", "--max_steps", "12"]
    command += ["--phases", "dense", "prune", "quantize", "--shares", "1", "1", "2", "--use_cpu"]
    command += ["--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "steps"]
    command += ["--save_steps", "2", "--learning_rate", "1e-2", "--disable_tqdm", "True"]
    return recipe.main([*command, *words, "--output_dir", str(folder)])


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_model(tmp_path, few_rows):
    """The last phase died after a checkpoint: same weights, the best checkpoint's at that."""
    record = short(tmp_path)
    assert record["steps"] == 6 and 2 < record["ratio"]["nominal"] < 8
    before = weights(tmp_path)
    checkpoints = sorted((tmp_path / "2_quantize").glob("checkpoint-*"))
    state = json.loads((checkpoints[-1] / "trainer_state.json").read_text())
    best = load_file(f"{state['best_model_checkpoint']}/model.safetensors")
    assert torch.equal(best["classifier.weight"], before["classifier.weight"])
    assert any(".layers.0." in name and "parametrizations" in name for name in best)
    shutil.rmtree(checkpoints[-1])
    (tmp_path / "model.safetensors").unlink()
    again = short(tmp_path, "--resume_from_checkpoint", "last")
    assert again["metrics"] == record["metrics"]
    after = weights(tmp_path)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_dense_baseline_is_saved_as_it_is(tmp_path, few_rows):
    record = short(tmp_path, "--phases", "dense", "dense", "--shares", "1", "1")
    assert record["phases"] == ["dense", "dense"] and record["ratio"]["file"] == pytest.approx(
        1, abs=0.01
    )
    assert not any("code" in name for name in weights(tmp_path))


@pytest.mark.slow
def test_the_grid_without_a_zero_has_no_sparse_format(tmp_path, few_rows):
    """It trains and comes back, dropped weights away from zero; no size is claimed for it."""
    record = short(tmp_path, "--zero", "False")
    assert "bytes" not in record and "ratio" not in record and record["steps"] == 6
    again, _ = load_checkpoint(tmp_path)
    masks = kept(again)
    assert len(masks) == 6
    for name, mask in masks.items():
        weight = again.get_submodule(name.split(".parametrizations")[0]).weight
        assert weight[~mask].all() and len(weight.unique()) <= 16


@pytest.mark.slow
def test_the_command(tmp_path, few_rows):
    """The embedded default, a few steps per phase: packed, sparse, and loaded again."""
    command = ["--max_steps", "6", "--eval_strategy", "no", "--load_best_model_at_end", "False"]
    command += ["--use_cpu", "True", "--disable_tqdm", "True", "--output_dir", str(tmp_path)]
    recipe.main(command)
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["phases"] == ["prune", "quantize"] and record["steps"] == 3
    again, _ = tq.teachers.load(str(tmp_path))
    weight = again.get_submodule(LAYER).weight.reshape(-1, 4)
    assert ((weight == 0).sum(1) >= 2).all() and 5 < len(weight.unique()) <= 15
