"""Extractive questions: windows and their answers, the best span, SQuAD's scores, a tiny model."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertModel,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
)

import tqlearn as tq
import tqlearn.data
from tqlearn.distill import soft_cross_entropy
from tqlearn.hf import (
    answer_scores,
    encode_questions,
    evaluate_questions,
    predict_answers,
    question_metrics,
    tasks,
)
from tqlearn.hf.questions import best_spans, normalize
from tqlearn.recipes import finetune, kdlsq_bert

ROWS = [  # context, question, answer
    ("The Rhine rises in the Alps and ends in Rotterdam .", "Where does it rise ?", "the Alps"),
    ("Marie Curie won two prizes .", "Who won ?", "Marie Curie"),
    ("Marie Curie won two prizes .", "How many prizes ?", "two"),
    ("On Monday it rained in Oslo .", "Where did it rain ?", "Oslo"),
]


def questions(rows=ROWS):
    """A raw split with SQuAD's columns; a row may give the answer's start as fourth entry."""
    found = {"id": [], "context": [], "question": [], "answers": []}
    for number, (context, question, text, *start) in enumerate(rows):
        place = start[0] if start else context.index(text)
        found["id"].append(f"q{number}")
        found["context"].append(context)
        found["question"].append(question)
        found["answers"].append({"text": [text], "answer_start": [place]})
    return Dataset.from_dict(found)


def words_tokenizer(pair="[CLS] $A [SEP] $B:1 [SEP]:1"):
    """One piece per word; pairs as BERT has them."""
    text = " ".join(context + " " + question for context, question, _ in ROWS).lower()
    words = [f"w{i}" for i in range(40)] + sorted(set(text.split()))
    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = [(name, vocab[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=pair, special_tokens=special
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return words_tokenizer()


def encoded(tokenizer, rows, name="validation", **lengths):
    return encode_questions(DatasetDict({name: questions(rows)}), tokenizer, **lengths)[name]


LONG = " ".join(f"w{i}" for i in range(20))


def test_a_row_by_hand(tokenizer):
    """[CLS] who won ? [SEP] marie curie won two prizes . [SEP]"""
    row = encoded(tokenizer, ROWS[1:2])[0]
    pieces = "[CLS] who won ? [SEP] marie curie won two prizes . [SEP]".split()
    assert tokenizer.convert_ids_to_tokens(row["input_ids"]) == pieces
    assert row["token_type_ids"] == [0] * 5 + [1] * 7 and row["attention_mask"] == [1] * 12
    assert (row["start_positions"], row["end_positions"]) == (5, 6)
    assert (row["id"], row["example"], row["length"]) == ("q0", 0, 12)
    outside = [[0, 0]] * 5
    context = [[0, 5], [6, 11], [12, 15], [16, 19], [20, 26], [27, 28]]
    assert row["offsets"] == [*outside, *context, [0, 0]]


def test_training_rows_are_ready_for_a_model(tokenizer):
    rows = encoded(tokenizer, ROWS, "train")
    assert not {"id", "example", "offsets"} & set(rows.column_names)
    batch = DataCollatorWithPadding(tokenizer)([rows[i] for i in range(4)])
    assert batch["input_ids"].shape == (4, rows["length"][0]) and batch["start_positions"][1] == 5


def test_windows_of_a_long_context(tokenizer):
    """Room for 12 - 5 = 7 of 20 words, 3 shared: windows start at words 0, 4, 8, 12, and 16."""
    rows = encoded(tokenizer, [(LONG, "Who won", "w9 w10"), ROWS[1]], max_length=12, stride=3)
    held = [[LONG[a:b] for a, b in row["offsets"] if b > a] for row in rows.select(range(5))]
    assert [" ".join(words) for words in held] == [
        " ".join(f"w{i}" for i in range(start, min(start + 7, 20))) for start in range(0, 20, 4)
    ]
    assert rows["example"] == [0, 0, 0, 0, 0, 1] and rows["id"][4:] == ["q0", "q1"]
    spans = list(zip(rows["start_positions"], rows["end_positions"], strict=True))
    # words 9 and 10 are the last two of window 1 (words 4 to 10), the second and third of window 2
    assert spans[:5] == [(0, 0), (4 + 5, 4 + 6), (4 + 1, 4 + 2), (0, 0), (0, 0)]
    for row, (first, last) in zip(rows, spans, strict=True):
        if last:
            text = (LONG, ROWS[1][0])[row["example"]]
            span = text[row["offsets"][first][0] : row["offsets"][last][1]]
            assert span == ("w9 w10", "Marie Curie")[row["example"]]


def test_an_answer_that_the_window_cuts(tokenizer):
    """Words 5 to 8 fit no window (0 to 6, 6 to 12, ...) as a whole: all point at [CLS]."""
    rows = encoded(tokenizer, [(LONG, "Who won", "w5 w6 w7 w8")], max_length=12, stride=1)
    assert len(rows) == 4
    assert set(rows["start_positions"]) == set(rows["end_positions"]) == {0}


def test_blanks_and_parts_of_words(tokenizer):
    """Blanks around an answer have no piece; an answer inside a word takes the word."""
    rows = encoded(tokenizer, [("w1 w2 w3", "w4", " w2 "), ("w1 w20 w3", "w4", "20 w", 4)])
    assert list(rows["start_positions"]) == [4, 4] and list(rows["end_positions"]) == [4, 5]


@pytest.mark.parametrize(
    ("changes", "lengths", "message"),
    [
        ({}, {"max_length": 8, "stride": 1}, r"max_length 8 and a question of 5 pieces .* for 0"),
        ({}, {"max_length": 20, "stride": 12}, "than the 12 pieces .* room for 12; raise max"),
        ({"question": None}, {}, r"needs columns \['answers', 'context', 'id', 'question'\], got"),
        ({"answers": [{"text": [], "answer_start": []}] * 4}, {}, "'q0' has no answer; leave"),
    ],
)
def test_refused_questions(tokenizer, changes, lengths, message):
    split = questions()
    for column, values in changes.items():
        split = split.remove_columns(column)
        split = split if values is None else split.add_column(column, values)
    with pytest.raises(ValueError, match=message):
        encode_questions(DatasetDict({"train": split}), tokenizer, **lengths)


def test_refused_tokenizer():
    for wrong in (words_tokenizer("$A [SEP] $B:1"), tq.teachers.load("embedded")[1]):
        with pytest.raises(ValueError, match=r"fast tokenizer that puts \[CLS\] before question"):
            encoded(wrong, ROWS)


def test_best_span_by_a_plain_loop():
    start, end = torch.randn(2, 6, 11)
    inside = torch.rand(6, 11) > 0.3
    inside[0] = False
    score, first, last = best_spans(start, end, inside, longest=4)
    assert score[0] == float("-inf") and first[0] == last[0] == 0
    for row in range(1, 6):
        allowed = [
            (float(start[row, i] + end[row, j]), i, j)
            for i in range(11)
            for j in range(i, min(i + 4, 11))
            if inside[row, i] and inside[row, j]
        ]
        assert (float(score[row]), int(first[row]), int(last[row])) == max(allowed)


class Told(torch.nn.Module):
    """A model that says what it is told: a logit for every (id, start or end)."""

    def __init__(self, starts, ends):
        super().__init__()
        self.tables, self.device = (starts, ends), torch.device("cpu")

    def forward(self, input_ids, **kwargs):
        logits = [torch.zeros(input_ids.shape) for _ in self.tables]
        for found, table in zip(logits, self.tables, strict=True):
            for piece, value in table.items():
                found[input_ids == piece] = value
        return SimpleNamespace(start_logits=logits[0], end_logits=logits[1])


def test_the_best_window_wins_and_nothing_outside_the_context(tokenizer):
    ids = tokenizer.get_vocab()
    loud = {ids[name]: 50.0 for name in ("[CLS]", "[SEP]", "[PAD]", "who", "won")}
    model = Told(
        {ids["w2"]: 3.0, ids["w13"]: 4.0, **loud}, {ids["w3"]: 3.0, ids["w14"]: 5.0, **loud}
    )
    split = questions([(LONG, "Who won", "w0"), ("w0  w2 w3.", "Who won", "w0")])
    how = {"max_length": 12, "stride": 3}
    for size in (1, 4, 64):
        found = predict_answers(model.train(), tokenizer, split, size, **how)
        assert found == ["w13 w14", "w2"] and model.training, "w3. is another word; order kept"
    # w2 ... w5 are four pieces
    model = Told({ids["w2"]: 3.0}, {ids["w5"]: 3.0, ids["w1"]: 2.0})
    assert predict_answers(model, tokenizer, split.select([0])) == ["w2 w3 w4 w5"]
    assert predict_answers(model, tokenizer, split.select([0]), max_answer_length=3) == ["w2"]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The  Cat, an ox & a-b", "cat ox ab"),
        ("theatre anna", "theatre anna"),
        ("A.", ""),
        ("10,000 km\n", "10000 km"),
        ("Beyoncé’s", "beyoncé’s"),
        ("a-the b", "athe b"),
    ],
)
def test_normalize(text, plain):
    """Punctuation is ASCII's and goes first: what it held together is one word afterwards."""
    assert normalize(text) == plain


def test_scores_by_hand():
    """Two of three words right of four: P 2/3, R 1/2, F1 4/7. Bags: a word counts as often."""
    check = lambda text, *right: tuple(answer_scores([text], [[*right]]).values())  # noqa: E731
    assert check("Denver Broncos won", "denver broncos in 2016") == pytest.approx((0, 400 / 7))
    assert check("in in Oslo", "in Oslo") == pytest.approx((0, 80))
    assert check("The Alps!", "Rhine", "alps") == (100, 100)
    assert check("the", "a") == (100, 0), "as the script has it: no common word"
    assert check("", "Oslo") == (0, 0)
    # the best reference is taken for either score
    both = answer_scores(["Oslo", "two"], [["Oslo", "in Oslo"], ["two prizes", "three"]])
    assert both == pytest.approx({"exact_match": 50, "f1": (100 + 200 / 3) / 2})
    for predictions, references in (([], []), (["a"], []), (["a"], [[]])):
        with pytest.raises(ValueError, match="needs a list of at least one reference; got"):
            answer_scores(predictions, references)


def published_f1(prediction, truth):
    """Precision and recall of two bags of words, as the paper defines them."""
    common = sum((Counter(prediction) & Counter(truth)).values())
    if not common:
        return 0
    precision, recall = common / len(prediction), common / len(truth)
    return 2 * precision * recall / (precision + recall)


def test_f1_is_the_published_one():
    numbers = np.random.default_rng(0)
    for _ in range(50):
        one, two = (list(numbers.choice(list("bcdef"), numbers.integers(1, 7))) for _ in range(2))
        found = answer_scores([" ".join(one)], [[" ".join(two)]])["f1"]
        assert found == pytest.approx(100 * published_f1(one, two))


def test_metrics_of_the_trainer():
    """Spans 1-1 against 1-2 (F1 2/3), 2-3 against 2-3, 0-0 against 2-2; -100 pads a short row."""
    start = np.array([[0, 5, 0, 0], [0, 0, 5, 1], [5, 0, 0, -100.0]], dtype=np.float32)
    end = np.array([[0, 5, 0, 0], [0, 0, 1, 5], [5, 0, 0, -100.0]], dtype=np.float32)
    gold = np.array([1, 2, 2]), np.array([2, 3, 2])
    found = question_metrics(SimpleNamespace(predictions=(start, end), label_ids=gold))
    assert found["span_accuracy"] == pytest.approx(100 / 3)
    assert found["span_f1"] == found["score"] == pytest.approx(100 * (2 / 3 + 1) / 3)


def tiny(tokenizer, **changes):
    fields = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
              "intermediate_size": 64, "max_position_embeddings": 64,
              "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # fmt: skip
    return BertConfig(vocab_size=len(tokenizer), **fields | changes)


def test_a_tiny_model_learns_four_answers(tokenizer):
    model = BertForQuestionAnswering(tiny(tokenizer))
    rows = encoded(tokenizer, ROWS, "train")
    batch = DataCollatorWithPadding(tokenizer)([rows[i] for i in range(4)]).data
    batch.pop("length")
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        losses.append(model(**batch).loss)
        adam.zero_grad()
        losses[-1].backward()
        adam.step()
    assert losses[-1] < 0.1 < losses[0]
    assert predict_answers(model, tokenizer, questions()) == [answer for *_, answer in ROWS]
    full = {"exact_match": 100.0, "f1": 100.0}
    assert evaluate_questions(model, tokenizer, questions(), batch_size=3) == full
    with pytest.raises(ValueError, match="empty split"):
        evaluate_questions(model, tokenizer, questions().select([]))


def test_an_answerer_keeps_its_encoder(tokenizer, tmp_path):
    config = tiny(tokenizer, num_labels=5)
    config.intent_labels = ["a", "UNK"]  # an encoder that comes out of a joint model
    encoder = BertModel(config)
    model = tq.teachers.answerer_from_encoder(encoder, tokenizer).eval()
    batch = tokenizer(["Who won"], [LONG], return_tensors="pt")
    with torch.no_grad():
        mine, theirs = model.bert(**batch), encoder.eval()(**batch)
    assert torch.equal(mine.last_hidden_state, theirs.last_hidden_state)
    assert model.qa_outputs.out_features == 2 and encoder.config.num_labels == 5
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = tq.teachers.load(str(tmp_path))
    assert isinstance(again, BertForQuestionAnswering)
    with torch.no_grad():
        assert torch.equal(again(**batch).end_logits, model(**batch).end_logits)
    with pytest.raises(TypeError, match="must be a BertModel, got Linear"):
        tq.teachers.answerer_from_encoder(torch.nn.Linear(2, 2), tokenizer)


def test_the_task(tokenizer):
    dd = DatasetDict({"train": questions(), "validation": questions(ROWS[:2])})
    model = BertForQuestionAnswering(tiny(tokenizer))
    job = tasks.prepare(dd, tokenizer, model.config, max_length=40, stride=8)
    assert (job.split, job.max_length) == ("validation", 40)
    assert job.label_names == ["start_positions", "end_positions"]
    assert len(job.trainer["train_dataset"]) == 4 and len(job.trainer["eval_dataset"]) == 2
    assert set(job.evaluate(model, tokenizer, dd["validation"])) == {"exact_match", "f1"}
    with pytest.raises(ValueError, match="has 64 positions, but rows .* may have 384 pieces"):
        tasks.prepare(dd, tokenizer, model.config)
    with pytest.raises(ValueError, match=r"splits train and validation, got \['train'\]"):
        tasks.prepare(DatasetDict({"train": dd["train"]}), tokenizer, model.config)


def test_kdlsq_takes_starts_and_ends_a_hundred_times(tokenizer):
    """Spec sheet KDLSQ, section 5: both terms, means over batch and positions, times 100."""
    model = BertForQuestionAnswering(tiny(tokenizer)).eval()
    model.set_attn_implementation(tq.hf.SCORES)
    rows = encoded(tokenizer, ROWS, "train")
    inputs = DataCollatorWithPadding(tokenizer)([rows[i] for i in range(4)]).data
    inputs.pop("length")
    extra = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        student, teacher = model(**inputs, **extra), model(**inputs, **extra)
    teacher.start_logits = torch.randn_like(teacher.start_logits)
    found = kdlsq_bert.losses()(student, teacher, inputs)
    assert [*found] == ["embeddings", "scores", "layers", "soft_starts", "soft_ends", "task"]
    for term, s, t in (
        ("soft_starts", student.start_logits, teacher.start_logits),
        ("soft_ends", student.end_logits, teacher.end_logits),
    ):
        plain = -(t.softmax(-1) * s.log_softmax(-1)).sum() / s.numel()
        torch.testing.assert_close(found[term], 100 * plain)
        torch.testing.assert_close(found[term], 100 * soft_cross_entropy(s, t))
    both = (student.start_logits, "start_positions"), (student.end_logits, "end_positions")
    gold = sum(torch.nn.functional.cross_entropy(z, inputs[name]) for z, name in both) / 2
    torch.testing.assert_close(found["task"], gold)


@pytest.mark.slow
def test_the_recipes(tokenizer, tmp_path, monkeypatch):
    """Fine-tune a tiny encoder on questions, then quantize what that gave: both end to end."""
    BertModel(tiny(tokenizer)).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    dd = DatasetDict({"train": questions(ROWS * 32), "validation": questions()})
    monkeypatch.setattr(tqlearn.data, "load", lambda *arguments: dd)
    common = ["--use_cpu", "--disable_tqdm", "True", "--max_length", "32", "--stride", "8"]
    common += ["--learning_rate", "3e-3", "--data", "squad"]
    folder = str(tmp_path / "teacher")
    options = ["--teacher", str(tmp_path / "encoder"), "--num_train_epochs", "12"]
    scores = finetune.main([*common, *options, "--output_dir", folder])
    assert scores == {"exact_match": 100.0, "f1": 100.0}
    assert json.loads((tmp_path / "teacher" / "metrics.json").read_text())["metrics"] == scores
    options = ["--teacher", folder, "--bits", "8-8-8", "--output_dir", str(tmp_path / "student")]
    options += ["--max_steps", "4", "--eval_strategy", "no", "--load_best_model_at_end", "False"]
    record = kdlsq_bert.main([*common, *options])
    assert set(record["metrics"]) == {"exact_match", "f1"} and record["metrics"]["f1"] > 50
    assert isinstance(tq.teachers.load(str(tmp_path / "student"))[0], BertForQuestionAnswering)


@pytest.mark.slow
def test_real_squad_scores_itself(data_folder):
    """All references as predictions are right; so is the longest of every question's."""
    dev = tqlearn.data.load("squad", source="local", folder=data_folder)["validation"]
    references = [answers["text"] for answers in dev["answers"]]
    for take in (lambda texts: texts[0], lambda texts: max(texts, key=len)):
        found = answer_scores([take(texts) for texts in references], references)
        assert found == {"exact_match": 100.0, "f1": 100.0}
    one = answer_scores(
        [texts[0] for texts in references], [texts[1:] or texts for texts in references]
    )
    assert 75 < one["exact_match"] < one["f1"] < 95, "people agree with people, not always"


def test_real_windows_hold_the_answers(data_folder, minilm):
    """MiniLM's own pieces: the text between start and end piece is the answer, short of a blank."""
    tokenizer = tq.teachers.load("minilm")[1]
    dd = tqlearn.data.load("squad", source="local", folder=data_folder)
    dev = dd["validation"].select(range(0, len(dd["validation"]), 20))
    rows = encode_questions(DatasetDict({"validation": dev}), tokenizer, 200, 64)["validation"]
    assert len(rows) > len(dev)
    found, exact = set(), 0
    for row in rows:
        answer = dev[row["example"]]["answers"]["text"][0]
        first, last = row["start_positions"], row["end_positions"]
        if last:
            a, b = row["offsets"][first][0], row["offsets"][last][1]
            text = dev[row["example"]]["context"][a:b]
            assert answer in text and len(text) < len(answer) + 20
            exact += row["example"] not in found and text == answer
            found.add(row["example"])
        assert row["id"] == dev[row["example"]]["id"]
    assert len(found) == len(dev) and exact > 0.97 * len(dev)
