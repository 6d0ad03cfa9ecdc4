"""The KroneckerBERT recipe: counts, losses, the smoke training of the spec sheet, the command."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

import tqlearn as tq
from tqlearn import teachers
from tqlearn.hf.attention import SCORES
from tqlearn.hf.masked import MaskedWords, encode_texts, hide_words, texts_of
from tqlearn.recipes import kronecker_bert as recipe

SMALL = BertConfig(
    vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=256, max_position_embeddings=16, hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0, num_labels=4,
)  # fmt: skip


@pytest.mark.parametrize(("setting", "count"), [("KB8", 14_654_216), ("KB21", 5_228_272)])
def test_published_shapes_to_the_unit(setting, count):
    """BERT-base with a dense pooler, spec sheet 3.2."""
    with torch.device("meta"):
        dense = BertModel(BertConfig())
    shown = tq.preview(dense, recipe.plan(dense.config, setting))
    assert sum(p.numel() for p in dense.parameters()) - shown.before + shown.after == count


def test_an_unknown_setting_is_refused():
    with pytest.raises(ValueError, match=r"settings \['KB21', 'KB8', 'dense'\], not 'KB5'"):
        recipe.plan(SMALL, "KB5")


def test_the_control_is_the_model_itself():
    model = BertModel(SMALL)
    same = tq.compress(model, recipe.plan(SMALL, "dense"))
    assert same is not model and str(same) == str(model)


def test_a_student_that_nothing_teaches_is_refused(tmp_path):
    command = ["--output_dir", str(tmp_path), "--distill", "False", "--ground_truth", "False"]
    with pytest.raises(ValueError, match="nothing teaches; keep one of the two"):
        recipe.main(command)


def test_every_matrix_of_the_encoder_is_a_product_and_the_pooler_is_not():
    model = tq.compress(BertModel(SMALL), recipe.plan(SMALL, "KB21"))
    dense = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert dense == ["pooler.dense"]


def random_teacher():
    torch.manual_seed(0)
    teacher = BertForSequenceClassification(SMALL).eval()
    for module in teacher.modules():
        if isinstance(module, nn.Linear):
            module.weight.data *= 2.5
    teacher.set_attn_implementation(SCORES)
    return teacher


def batch(generator, size=32):
    ids = torch.randint(0, 100, (size, 16), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def outputs(model, inputs):
    return model(**inputs, output_hidden_states=True, output_attentions=True)


def smoke(init, terms, teacher, steps=40):
    """Train as the spec sheet's check 9 says, 40 steps of three times its rate on half its rows:
    MSE before and after.
    """
    half = tq.Kronecker(1, init=init)  # B is 2 x 2
    torch.manual_seed(1)
    student = tq.compress(teacher, {"*.encoder.*": [half]})
    if init == "random":  # of the same variance as the matrix that it stands for
        dense = dict(teacher.named_modules())
        for name, module in student.named_modules():
            if isinstance(module, tq.factors.KroneckerLinear):
                std = dense[name].weight.std().sqrt().item()
                for core in module.cores:
                    nn.init.normal_(core, std=std)
    adam = torch.optim.Adam(student.parameters(), lr=3e-3)
    fresh = torch.Generator().manual_seed(2)
    held = batch(torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = outputs(teacher, held)

    def distance():
        with torch.no_grad():
            found = outputs(student, held).hidden_states[-1]
        return (found - wanted.hidden_states[-1]).square().mean().item()

    start = distance()
    for _ in range(steps):
        inputs = batch(fresh, 16)
        with torch.no_grad():
            taught = outputs(teacher, inputs)
        found = recipe.losses("task")(outputs(student, inputs) | {"loss": torch.zeros(())}, taught,
                                      inputs)  # fmt: skip
        adam.zero_grad()
        sum(found[term] for term in terms).backward()
        adam.step()
    return start, distance()


@pytest.mark.slow
def test_smoke_training_of_the_spec_sheet():
    """Check 9: full loss far below its start (0.10), a random start worse (1.6), logits useless."""
    teacher = random_teacher()
    full = ("embeddings", "scores", "layers")
    start, end = smoke("svd", full, teacher)
    _, from_random = smoke("random", full, teacher)
    _, logits_alone = smoke("svd", ("soft_classes",), teacher)
    assert end < 0.35 * start
    assert 1.2 * end < from_random
    assert logits_alone > 2 * end


def test_losses_are_zero_for_the_teacher_itself_and_blind_to_padding():
    teacher = random_teacher()
    inputs = batch(torch.Generator().manual_seed(0))
    inputs["attention_mask"][:, 9:] = 0
    same = outputs(teacher, inputs)
    same.loss = torch.zeros(())
    found = recipe.losses()(same, same, inputs)
    assert [*found] == ["embeddings", "scores", "layers", "soft_classes", "task"]
    assert all(term == 0 for term in found.values())
    found = recipe.losses("task", ground_truth=False)(same, same, inputs)
    assert [*found] == ["embeddings", "scores", "layers", "soft_classes"]
    other = SimpleNamespace(
        hidden_states=[h.clone() for h in same.hidden_states],
        attentions=[a.clone() for a in same.attentions],
        loss=torch.ones(()),
    )
    for tensor in other.hidden_states:
        tensor[:, 9:] += 100
    for scores in other.attentions:
        scores[..., 9:] += 100
    found = recipe.losses("general")(other, same, inputs)
    assert [*found] == ["embeddings", "scores", "layers", "words"]
    assert found["embeddings"] == found["scores"] == found["layers"] == 0 and found["words"] == 1


def test_masked_words_through_a_kronecker_table_are_those_of_the_built_one():
    torch.manual_seed(0)
    encoder = tq.compress(BertModel(SMALL), {"embeddings.word_embeddings": [tq.Kronecker(2)]})
    model = MaskedWords(encoder).eval()
    inputs = batch(torch.Generator().manual_seed(0))
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, 3] = inputs["input_ids"][:, 3]
    found = model(**inputs, labels=labels).loss
    hidden = model.bert(**inputs).last_hidden_state[:, 3]
    hidden = model.norm(torch.nn.functional.gelu(model.transform(hidden)))
    table = encoder.embeddings.word_embeddings.dense().weight
    wanted = nn.functional.cross_entropy(hidden @ table.T + model.bias, labels[:, 3])
    assert torch.allclose(found, wanted, atol=1e-5)
    found.backward()
    assert all(core.grad.abs().sum() > 0 for core in encoder.embeddings.word_embeddings.cores)


def test_texts_and_rows():
    from datasets import Dataset

    tokenizer = AutoTokenizer.from_pretrained(teachers.embedded_folder())
    words = ["show", "flights", "to", "boston"]
    assert texts_of(Dataset.from_dict({"tokens": [words]})) == ["show flights to boston"]
    assert texts_of(Dataset.from_dict({"sentence": ["a b"], "label": [0]})) == ["a b"]
    with pytest.raises(ValueError, match="text, sentence or tokens, got"):
        texts_of(Dataset.from_dict({"label": [0]}))
    rows = encode_texts([" ".join(words * 10)], tokenizer, max_length=12)
    assert rows["length"] == [12, 12, 12, 12, 12][: len(rows)] or max(rows["length"]) == 12
    inside = sum(length - 2 for length in rows["length"])
    assert inside == len(tokenizer(" ".join(words * 10))["input_ids"]) - 2  # nothing is lost
    with pytest.raises(ValueError, match="empty list of texts"):
        encode_texts([], tokenizer)


def test_words_hide_behind_the_unknown_token_where_there_is_no_mask_token():
    tokenizer = AutoTokenizer.from_pretrained(teachers.embedded_folder())
    assert tokenizer.mask_token is None
    rows = [{"input_ids": tokenizer("show flights to boston " * 5)["input_ids"]}] * 40
    found = hide_words(tokenizer, seed=0)(rows)
    asked = found["labels"] != -100
    assert 0.1 < asked.float().mean() < 0.2
    hidden = found["input_ids"][asked] == tokenizer.unk_token_id
    assert 0.7 < hidden.float().mean() < 0.9
    original = torch.tensor(rows[0]["input_ids"]).expand_as(asked)
    assert torch.equal(found["labels"][asked], original[asked])
    assert tokenizer.mask_token is None, "the reader's tokenizer stays as it was"
    tokenizer.unk_token = None
    with pytest.raises(ValueError, match="neither a mask token nor an unknown token"):
        hide_words(tokenizer)


def test_an_encoder_of_another_setting_is_refused():
    teacher = BertForSequenceClassification(SMALL)
    student = tq.compress(teacher, recipe.plan(SMALL, "KB8"))
    other = tq.compress(BertModel(SMALL), recipe.plan(SMALL, "KB21"))
    with pytest.raises(ValueError, match="give the same --setting"):
        recipe.take_encoder(student, other)
    same = tq.compress(BertModel(SMALL), recipe.plan(SMALL, "KB8"))
    recipe.take_encoder(student, same)
    core = "encoder.layer.1.output.dense.core_0"
    assert torch.equal(student.bert.state_dict()[core], same.state_dict()[core])
    pooler = "pooler.dense.weight"
    assert torch.equal(student.bert.state_dict()[pooler], teacher.bert.state_dict()[pooler])


@pytest.mark.slow
def test_both_stages_by_one_command(tmp_path, few_rows):
    """The embedded default, a few steps: stage 1, stage 2, a packed student that loads again."""
    options = ["--general_steps", "6", "--max_steps", "6", "--use_cpu", "True"]
    options += ["--eval_strategy", "no", "--load_best_model_at_end", "False"]
    recipe.main([*options, "--disable_tqdm", "True", "--output_dir", str(tmp_path)])
    first = json.loads((tmp_path / "general" / "metrics.json").read_text())
    assert first["steps"] == 6 and first["metrics"]["masked_word_loss"] > 0
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["steps"] == 6 and record["ratio"]["file"] > 2
    again, _ = tq.teachers.load(str(tmp_path))
    assert isinstance(again.bert.embeddings.word_embeddings, tq.factors.KroneckerEmbedding)


def test_minilm_is_fifteen_times_smaller_with_a_dense_pooler():
    """The shape that benchmarks/kronecker_bert_sst2.py compresses, in numbers kept."""
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    with torch.device("meta"):
        dense = BertForSequenceClassification(config)
    shown, whole = tq.preview(dense, recipe.plan(config, "KB21")), dense.num_parameters()
    assert 15 < whole / (whole - shown.before + shown.after) < 16
