"""Sentence classification: encoding, accuracy, teachers; attention that shows its scores."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import BertConfig, BertForSequenceClassification, BertModel

import tqlearn as tq
from tqlearn.distill import hidden_mse, score_mse
from tqlearn.hf import SCORES, encode_sentences, evaluate_sentences, predict_sentences, tasks
from tqlearn.hf.sentences import sentence_metrics
from tqlearn.recipes import qtc


@pytest.fixture(scope="module")
def tokenizer():
    return tq.teachers.load("embedded")[1]


def tiny(**changes):
    fields = {"vocab_size": 1000, "hidden_size": 32, "num_hidden_layers": 2,
              "num_attention_heads": 4, "intermediate_size": 64}  # fmt: skip
    return BertConfig(**fields | changes)


SENTENCES = ["flights to boston", "cheap", "from oslo to denver on monday please", "morning"]


def split(labels=(0, 1, 0, 1)):
    return Dataset.from_dict({"sentence": SENTENCES, "label": list(labels)})


def test_encoding(tokenizer):
    encoded = encode_sentences(DatasetDict({"train": split()}), tokenizer, max_length=6)["train"]
    assert encoded["labels"] == [0, 1, 0, 1]
    assert [len(ids) for ids in encoded["input_ids"]] == encoded["length"]
    assert max(encoded["length"]) == 6, "cut"
    assert encoded["input_ids"][1][0] == tokenizer.cls_token_id
    with pytest.raises(ValueError, match="needs columns sentence and label, got"):
        encode_sentences(DatasetDict({"train": split().remove_columns("label")}), tokenizer)


def test_predictions_come_in_the_order_of_the_sentences(tokenizer):
    model = BertForSequenceClassification(tiny(num_labels=5)).train()
    single = []
    model.eval()
    for sentence in SENTENCES:
        with torch.no_grad():
            single.append(int(model(**tokenizer(sentence, return_tensors="pt")).logits.argmax()))
    model.train()
    assert predict_sentences(model, tokenizer, SENTENCES, batch_size=3) == single
    assert model.training, "left as it was"
    scores = evaluate_sentences(model, tokenizer, split(single), batch_size=3)
    assert scores == {"accuracy": 100.0}
    wrong = [(single[0] + 1) % 5, *single[1:]]
    assert evaluate_sentences(model, tokenizer, split(wrong)) == {"accuracy": 75.0}
    with pytest.raises(ValueError, match="empty split"):
        evaluate_sentences(model, tokenizer, split().select([]))


def test_metrics_of_the_trainer():
    logits = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    for predictions in (logits, (logits, "hidden")):
        found = SimpleNamespace(predictions=predictions, label_ids=np.array([0, 1, 1]))
        assert sentence_metrics(found)["accuracy"] == pytest.approx(100 * 2 / 3)
        assert sentence_metrics(found)["score"] == sentence_metrics(found)["accuracy"]


def test_a_classifier_keeps_its_encoder(tokenizer, tmp_path):
    encoder = BertModel(tiny())
    model = tq.teachers.classifier_from_encoder(encoder, tokenizer, ["no", "yes", "so"])
    assert model.config.id2label == {0: "no", 1: "yes", 2: "so"} and model.num_labels == 3
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        mine, theirs = model.eval().bert(**batch), encoder.eval()(**batch)
    assert torch.equal(mine.pooler_output, theirs.pooler_output)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = tq.teachers.load(str(tmp_path))
    assert isinstance(again, BertForSequenceClassification)
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)


def test_an_encoder_without_a_pooler_gets_a_fresh_one(tokenizer):
    encoder = BertModel(tiny(), add_pooling_layer=False)
    model = tq.teachers.classifier_from_encoder(encoder, tokenizer, ["a", "b"])
    assert model.bert.pooler.dense.weight.abs().sum() > 0


def test_refused_encoders(tokenizer):
    with pytest.raises(ValueError, match="at least two labels, got"):
        tq.teachers.classifier_from_encoder(BertModel(tiny()), tokenizer, ["one"])
    with pytest.raises(TypeError, match="must be a BertModel, got Linear"):
        tq.teachers.classifier_from_encoder(torch.nn.Linear(2, 2), tokenizer, ["a", "b"])
    with pytest.raises(ValueError, match="1000 ids, the encoder 50"):
        tq.teachers.classifier_from_encoder(BertModel(tiny(vocab_size=50)), tokenizer, "ab")


def test_models_that_do_not_fit_the_data_are_refused_before_a_step(tokenizer):
    dd = DatasetDict({"train": split(), "validation": split()})
    joint = tq.teachers.load("embedded")[0]
    with pytest.raises(ValueError, match=r"tells intents and slots, the data has columns \['sent"):
        tasks.require_joint(dd, joint)
    three = DatasetDict({"train": split((0, 1, 2, 1)), "validation": split()})
    with pytest.raises(ValueError, match="has labels up to 2, the model 2 classes, from 0"):
        tasks.prepare(three, tokenizer, tiny(num_labels=2))
    with pytest.raises(ValueError, match="has 8 positions, and a row 9 pieces; lower max_length"):
        tasks.prepare(dd, tokenizer, tiny(max_position_embeddings=8), max_length=9)
    assert tasks.prepare(dd, tokenizer, tiny(max_position_embeddings=8), max_length=8)


def test_qtcs_control_wants_a_head_as_well():
    with pytest.raises(ValueError, match="QTC compresses .*, not BertModel"):
        qtc.student_of(BertModel(tiny()), None, qtc.QTCArguments(dense=True))


@pytest.fixture
def batch(tokenizer):
    return tokenizer(SENTENCES, padding=True, return_tensors="pt")


def test_scores_are_what_the_softmax_was_taken_of(batch):
    model = BertModel(tiny(), add_pooling_layer=False).eval()
    outputs = {}
    for kind in ("eager", SCORES):
        model.set_attn_implementation(kind)
        with torch.no_grad():
            outputs[kind] = model(**batch, output_attentions=True)
    eager, shown = outputs["eager"], outputs[SCORES]
    assert torch.equal(eager.last_hidden_state, shown.last_hidden_state)
    padded = batch["attention_mask"][:, None, None] == 0
    for probabilities, scores in zip(eager.attentions, shown.attentions, strict=True):
        again = scores.masked_fill(padded, float("-inf")).softmax(-1)
        torch.testing.assert_close(again, probabilities)
        assert scores[padded.expand_as(scores)].abs().max() < 100, "no mask was added"


def test_losses_of_a_copy_are_zero_and_padding_does_not_count(batch):
    mask = batch["attention_mask"]
    scores = torch.randn(4, 3, mask.shape[1], mask.shape[1])
    hidden = torch.randn(4, mask.shape[1], 8)
    assert score_mse(scores, scores, mask) == 0 and hidden_mse(hidden, hidden, mask) == 0
    real = mask.bool()
    pairs = (real[:, :, None] & real[:, None]).unsqueeze(1)
    noise = torch.randn_like(scores) * 1e4
    assert score_mse(torch.where(pairs, scores, noise), scores, mask) == 0
    other = scores + 1
    torch.testing.assert_close(score_mse(other, scores, mask), torch.tensor(1.0))
    wild = torch.where(real[..., None], hidden + 2, torch.randn_like(hidden) * 1e4)
    torch.testing.assert_close(hidden_mse(wild, hidden, mask), torch.tensor(4.0))


def test_score_mse_by_a_plain_loop():
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    student, teacher = torch.randn(2, 2, 2, 3, 3)
    total, count = 0.0, 0
    for b in range(2):
        for h in range(2):
            for q in range(3):
                for k in range(3):
                    if mask[b, q] and mask[b, k]:
                        total += float((student[b, h, q, k] - teacher[b, h, q, k]) ** 2)
                        count += 1
    assert float(score_mse(student, teacher, mask)) == pytest.approx(total / count, rel=1e-5)
