import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from torch.nn import functional as F
from transformers import AutoTokenizer, BertConfig, EvalPrediction

import tqlearn.data
from tqlearn.hf import (
    BertForJointIntentSlot,
    JointCollator,
    encode_joint,
    evaluate_joint,
    joint_config,
    joint_metrics,
    predict_joint,
    trainer_metrics,
    word_tokenizer,
)

WORDS = [["fly", "to", "new", "york"], ["hi"], ["fly", "home"], ["fly", "to", "rome"]]
SLOTS = [["O", "O", "B-to", "I-to"], ["O"], ["O", "B-home"], ["O", "O", "B-to"]]
INTENT = ["go", "greet", "go", "go"]


def split(*rows):
    return Dataset.from_dict(
        {
            "tokens": [WORDS[i] for i in rows],
            "slots": [SLOTS[i] for i in rows],
            "intent": [INTENT[i] for i in rows],
        }
    )


@pytest.fixture
def dd():
    return DatasetDict(train=split(0, 1, 3), test=split(2))


@pytest.fixture
def tokenizer(dd):
    return word_tokenizer(dd, min_count=1)


def tiny(dd, tokenizer, **options):
    small = {"hidden_size": 12, "num_attention_heads": 2, "intermediate_size": 24}
    config = joint_config(*tqlearn.data.labels(dd), vocab_size=len(tokenizer), **small, **options)
    return BertForJointIntentSlot(config)


@pytest.fixture
def model(dd, tokenizer):
    return tiny(dd, tokenizer).eval()


def batch_of(dd, tokenizer, name="train"):
    encoded = encode_joint(dd, tokenizer, *tqlearn.data.labels(dd), max_length=16)[name]
    return JointCollator(tokenizer)(list(encoded))


def test_count_of_the_dense_atis_model():
    """Spec sheet 5.1: 800 words, 2 layers, 768, 22 intents, 121 slots."""
    config = joint_config([f"i{i}" for i in range(22)], [f"s{i}" for i in range(121)])
    with torch.device("meta"):
        model = BertForJointIntentSlot(config)
    assert sum(p.numel() for p in model.parameters()) == 16_479_119
    assert config.layer_norm_eps == model.slot_norm.eps == 1e-12
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.1


def test_config_refuses():
    with pytest.raises(ValueError, match="the config has no intent_labels"):
        BertForJointIntentSlot(BertConfig(num_hidden_layers=1))
    with pytest.raises(ValueError, match="need >= 2 intents and slots, got 1 and 2"):
        joint_config(["a"], ["O", "b"])
    with pytest.raises(ValueError, match="pooling must be one of .* got 'max'"):
        joint_config(["a", "b"], ["O", "b"], pooling="max")


def test_encode(dd, tokenizer):
    intents, slots = tqlearn.data.labels(dd)
    encoded = encode_joint(dd, tokenizer, intents, slots)
    row = encoded["train"][0]
    assert tokenizer.convert_ids_to_tokens(row["input_ids"]) == ["[CLS]", *WORDS[0]]
    assert row["slot_labels"] == [-100] + [slots.index(tag) for tag in SLOTS[0]]
    assert row["intent_labels"] == intents.index("go")
    unseen = encoded["test"][0]["slot_labels"]
    assert unseen == [-100, slots.index("O"), slots.index("UNK")]
    plain = encode_joint({"train": dd["train"][:]}, tokenizer, intents, slots)  # lists, no Dataset
    assert plain["train"][:] == encoded["train"][:]


def test_encode_tags_first_pieces_only(dd):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {p: i for i, p in enumerate(["[PAD]", "[UNK]", "[CLS]", "fl", "##y", "to", "r", "##o"])}
    raw = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 2)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"}
    pieces = PreTrainedTokenizerFast(tokenizer_object=raw, **names)
    rows = {"tokens": [["fly", "to", "ro"]], "slots": [["O", "B-to", "I-to"]], "intent": ["go"]}
    one = DatasetDict(train=Dataset.from_dict(rows))
    intents, slots = tqlearn.data.labels(one)
    row = encode_joint(one, pieces, intents, slots)["train"][0]
    o, b, i = (slots.index(tag) for tag in ("O", "B-to", "I-to"))
    assert row["input_ids"] == [2, 3, 4, 5, 6, 7]
    assert row["slot_labels"] == [-100, o, -100, b, i, -100]
    cut = encode_joint(one, pieces, intents, slots, max_length=4)["train"][0]
    assert cut["slot_labels"] == [-100, o, -100, b]
    model = tiny(one, pieces)
    torch.nn.init.zeros_(model.slot_classifier.weight)
    model.slot_classifier.bias.data = F.one_hot(torch.tensor(b), len(slots)).float()
    assert predict_joint(model, pieces, rows["tokens"])[1] == [["B-to"] * 3]
    assert predict_joint(model, pieces, rows["tokens"], max_length=4)[1] == [["B-to", "B-to", "O"]]


def test_encode_refuses(dd, tokenizer):
    with pytest.raises(ValueError, match='both label lists need "UNK"'):
        encode_joint(dd, tokenizer, ["go"], ["O", "UNK"])
    tokenizer.cls_token = None
    with pytest.raises(ValueError, match=r"the tokenizer needs a \[CLS\]"):
        encode_joint(dd, tokenizer, *tqlearn.data.labels(dd))


def test_collator_pads_to_the_longest(dd, tokenizer):
    batch = batch_of(dd, tokenizer)
    assert batch["input_ids"].shape == batch["slot_labels"].shape == (3, 5)
    assert batch["input_ids"][1].tolist()[2:] == [tokenizer.pad_token_id] * 3
    assert batch["attention_mask"].sum(1).tolist() == [5, 2, 4]
    assert batch["slot_labels"][1].tolist()[2:] == [-100] * 3
    assert batch["intent_labels"].tolist() == [0, 1, 0]


def test_loss_is_the_sum_of_two_smoothed_cross_entropies(dd, tokenizer, model):
    batch = batch_of(dd, tokenizer)
    output = model(**batch)

    def smoothed(logits, gold, smoothing=0.1):
        logp = logits.log_softmax(-1)
        return -((1 - smoothing) * logp[torch.arange(len(gold)), gold] + smoothing * logp.mean(-1))

    kept = batch["slot_labels"] != -100
    intent = smoothed(output.intent_logits, batch["intent_labels"]).mean()
    slot = smoothed(output.slot_logits[kept], batch["slot_labels"][kept]).mean()
    torch.testing.assert_close(output.loss, intent + slot)
    only_ids = {k: v for k, v in batch.items() if not k.endswith("_labels")}
    assert model(**only_ids).loss is None


def test_heads_by_hand(dd, tokenizer, model):
    batch = batch_of(dd, tokenizer)
    output = model(**batch, output_hidden_states=True)
    hidden = output.hidden_states[-1]
    assert len(output.hidden_states) == 3
    intent = model.intent_classifier(torch.tanh(model.intent_dense(hidden[:, 0])))
    torch.testing.assert_close(output.intent_logits, intent)
    slot = model.slot_classifier(model.slot_norm(F.gelu(model.slot_dense(hidden))))
    torch.testing.assert_close(output.slot_logits, slot)


def test_padding_changes_nothing(dd, tokenizer, model):
    together = model(**batch_of(dd, tokenizer))
    ids = tokenizer([WORDS[1]], is_split_into_words=True, return_tensors="pt")
    alone = model(ids["input_ids"], ids["attention_mask"])
    torch.testing.assert_close(alone.intent_logits[0], together.intent_logits[1])
    torch.testing.assert_close(alone.slot_logits[0], together.slot_logits[1, :2])


def test_mean_pooling_ignores_padding(dd, tokenizer):
    model = tiny(dd, tokenizer, pooling="mean").eval()
    batch = batch_of(dd, tokenizer)
    output = model(**batch, output_hidden_states=True)
    pooled = output.hidden_states[-1][1, :2].mean(0)  # "[CLS] hi", then three paddings
    intent = model.intent_classifier(torch.tanh(model.intent_dense(pooled)))
    torch.testing.assert_close(output.intent_logits[1], intent)
    alone = model(batch["input_ids"][1:2, :2])  # no mask: nothing is padding
    torch.testing.assert_close(alone.intent_logits[0], intent)


def test_attentions_need_eager(dd, tokenizer, model):
    batch = batch_of(dd, tokenizer)
    with pytest.raises(ValueError, match='set_attn_implementation."eager".'):
        model(**batch, output_attentions=True)
    before = model(**batch).intent_logits
    model.set_attn_implementation("eager")
    output = model(**batch, output_attentions=True)
    assert [a.shape for a in output.attentions] == [(3, 2, 5, 5)] * 2
    torch.testing.assert_close(output.attentions[0].sum(-1), torch.ones(3, 2, 5))
    torch.testing.assert_close(output.intent_logits, before)


def test_save_and_load(dd, tokenizer, model, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = BertForJointIntentSlot.from_pretrained(tmp_path)
    batch = batch_of(dd, AutoTokenizer.from_pretrained(tmp_path))
    assert torch.equal(again(**batch).slot_logits, model(**batch).slot_logits)
    assert again.config.intent_labels == ["go", "greet", "UNK"]
    assert again.config.label_smoothing == 0.1


def test_it_learns(dd, tokenizer):
    model = tiny(dd, tokenizer, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model.config.label_smoothing = 0.0
    batch = batch_of(dd, tokenizer)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(model(**batch).loss)
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]
    metrics = evaluate_joint(model, tokenizer, dd["train"])
    assert metrics == {"intent_accuracy": 100.0, "token_accuracy": 100.0, "slot_f1": 100.0}
    assert model.training, "evaluation leaves the mode as it was"
    unseen = evaluate_joint(model, tokenizer, dd["test"])
    assert unseen["slot_f1"] == 0.0 and unseen["token_accuracy"] <= 50.0
    order = predict_joint(model, tokenizer, [WORDS[i] for i in (3, 1, 0)], batch_size=2)
    assert order == (["go", "greet", "go"], [SLOTS[3], SLOTS[1], SLOTS[0]])


def test_metrics_by_hand():
    gold = [["B-a", "I-a", "O", "B-b"], ["O", "B-b"]]
    pred = [["B-a", "O", "O", "B-b"], ["O", "B-a"]]
    metrics = joint_metrics(["x", "new"], ["x", "UNK"], gold, pred)
    assert metrics["intent_accuracy"] == 50.0
    assert metrics["token_accuracy"] == pytest.approx(100 * 4 / 6)
    assert metrics["slot_f1"] == pytest.approx(100 / 3)  # 1 of 3 predicted, 1 of 3 true spans
    assert all(isinstance(value, float) for value in metrics.values())


def test_metrics_unknown_is_a_wrong_span_and_quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = joint_metrics(["x"], ["x"], [["B-a", "O"]], [["B-a", "UNK"]])
        none = joint_metrics(["x"], ["x"], [["O"]], [["O"]])
    assert one["slot_f1"] == pytest.approx(100 * 2 / 3)
    assert none["slot_f1"] == 0.0


def test_metrics_refuse():
    with pytest.raises(ValueError, match="at least one; got 0 and 0"):
        joint_metrics([], [], [], [])
    with pytest.raises(ValueError, match="one tag per word"):
        joint_metrics(["x"], ["x"], [["O", "O"]], [["O"]])


def test_evaluate_refuses_empty(dd, tokenizer, model):
    with pytest.raises(ValueError, match="empty split"):
        evaluate_joint(model, tokenizer, dd["test"].select([]))


def test_trainer_metrics_count_unseen_gold_as_wrong():
    intents, slots = ["go", "UNK"], ["O", "B-to", "UNK"]
    gold = np.array([0, 1]), np.array([[-100, 0, 1], [-100, 2, -100]])
    intent_logits = np.eye(2)[[0, 1]]
    slot_logits = np.eye(3)[[[0, 0, 1], [0, 2, 0]]]
    metrics = trainer_metrics(intents, slots)(EvalPrediction((intent_logits, slot_logits), gold))
    assert metrics["intent_accuracy"] == 50.0
    assert metrics["token_accuracy"] == pytest.approx(100 * 2 / 3)
    assert metrics["slot_f1"] == pytest.approx(50.0)  # B-to right; B-UNK against B-unseen wrong
    assert metrics["score"] == pytest.approx(50.0)


def test_word_tokenizer(dd, tmp_path):
    tokenizer = word_tokenizer(dd, min_count=2)
    vocab = tokenizer.get_vocab()
    assert vocab == {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "fly": 3, "to": 4}
    ids = tokenizer(["fly", "to", "rome"], is_split_into_words=True)["input_ids"]
    assert ids == [2, 3, 4, 1]
    assert set(word_tokenizer(dd, size=5, min_count=1).get_vocab()) == set(vocab)
    with pytest.raises(ValueError, match="size must exceed the 3 special tokens"):
        word_tokenizer(dd, size=3)
    with pytest.raises(ValueError, match="no words"):
        word_tokenizer(DatasetDict(train=dd["train"].select([])))


def test_real_atis(data_folder):
    """Unseen labels become UNK and count as wrong; the word vocabulary fits into 800 rows."""
    dd = tqlearn.data.load("atis", source="local", folder=data_folder)
    intents, slots = tqlearn.data.labels(dd)
    tokenizer = word_tokenizer(dd)
    assert len(tokenizer) == 613
    encoded = encode_joint(dd, tokenizer, intents, slots)
    unknown = {
        name: (
            sum(i == intents.index("UNK") for i in rows["intent_labels"]),
            sum(tag == slots.index("UNK") for tags in rows["slot_labels"] for tag in tags),
        )
        for name, rows in encoded.items()
    }
    assert unknown["train"] == (0, 0) and unknown["test"] == (5, 6)
    gold = list(dd["test"]["intent"])
    perfect = [g if g in intents else "UNK" for g in gold]
    tags = list(dd["test"]["slots"])
    best = joint_metrics(gold, perfect, tags, tags)["intent_accuracy"]
    assert best == pytest.approx(100 * 888 / 893)
