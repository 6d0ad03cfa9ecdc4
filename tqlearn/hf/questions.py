"""Extractive question answering: windows over long texts, the best span, SQuAD's two scores."""

import re
import string
from collections import Counter

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def encode_questions(dd, tokenizer, max_length=384, stride=128):
    """Columns of SQuAD -> windows of [CLS] question [SEP] part of the context [SEP].

    A context that is too long becomes several rows. ``start_positions`` and ``end_positions`` are
    the first and the last piece of the answer, of the first reference if there are several; a
    window that does not hold the whole answer points at [CLS], position 0. Splits other than
    "train" also get ``id``, ``example`` (number of the question in the split; ids may repeat) and
    ``offsets``, where in the context a piece comes from, (0, 0) for pieces outside of it.

    Args:
        max_length: pieces of a row.
        stride: pieces of the context that neighbouring windows share (the steps between windows
            are shorter for longer questions). BERT's authors call the step itself stride.

    Raises:
        ValueError: missing columns, a question without an answer, a tokenizer without offsets or
            without [CLS], or a question that leaves the context no room.
    """
    from datasets import Dataset, DatasetDict

    encoded = {}
    for name, split in dd.items():
        columns = _windows(split, tokenizer, max_length, stride)
        if name == "train":
            columns = {k: v for k, v in columns.items() if k not in ("id", "example", "offsets")}
        encoded[name] = Dataset.from_dict(columns)
    return DatasetDict(encoded)


def _windows(split, tokenizer, max_length, stride):
    """Columns of all windows of a raw split, as lists."""
    needed = {"id", "context", "question", "answers"}
    if not needed <= set(split.column_names):
        raise ValueError(f"needs columns {sorted(needed)}, got {split.column_names}")
    questions, answers = list(split["question"]), list(split["answers"])
    for key, found in zip(split["id"], answers, strict=True):
        if not found["text"]:
            raise ValueError(f"question {key!r} has no answer; leave such questions out")
    _check_room(questions, tokenizer, max_length, stride)
    pieces = tokenizer(
        questions,
        list(split["context"]),
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    example, offsets = pieces.pop("overflow_to_sample_mapping"), pieces.pop("offset_mapping")
    spans = [_positions(pieces, i, answers[row]) for i, row in enumerate(example)]
    inside = [pieces.sequence_ids(i) for i in range(len(example))]
    ids = list(split["id"])
    return {key: pieces[key] for key in pieces} | {
        "start_positions": [first for first, _ in spans],
        "end_positions": [last for _, last in spans],
        "length": [len(row) for row in pieces["input_ids"]],
        "id": [ids[row] for row in example],
        "example": example,
        "offsets": [
            [pair if part == 1 else (0, 0) for pair, part in zip(*window, strict=True)]
            for window in zip(offsets, inside, strict=True)
        ],
    }


def _check_room(questions, tokenizer, max_length, stride):
    if not tokenizer.is_fast or tokenizer("a", "b")["input_ids"][0] != tokenizer.cls_token_id:
        raise ValueError(
            "questions need a fast tokenizer that puts [CLS] before question and context, as "
            "BERT's does; load one of a pre-trained encoder"
        )
    lengths = [len(ids) for ids in tokenizer(questions, add_special_tokens=False)["input_ids"]]
    longest = max(lengths, default=0)
    room = max_length - longest - tokenizer.num_special_tokens_to_add(pair=True)
    if room <= stride:
        raise ValueError(
            f"a window must hold more of the context than the {stride} pieces it shares with the "
            f"next (stride), but max_length {max_length} and a question of {longest} pieces leave "
            f"room for {max(room, 0)}; raise max_length (384 is usual) or lower stride"
        )


def _positions(pieces, window, answers):
    """First and last piece of the first reference in one window; (0, 0) unless all of it is in."""
    text, start = answers["text"][0], answers["answer_start"][0]
    start += len(text) - len(text.lstrip())  # blanks have no piece
    first = pieces.char_to_token(window, start, 1)
    last = pieces.char_to_token(window, start + len(text.strip()) - 1, 1)
    return (0, 0) if None in (first, last) else (first, last)


def best_spans(
    start: Float[Tensor, "rows pieces"],
    end: Float[Tensor, "rows pieces"],
    inside: Bool[Tensor, "rows pieces"],
    longest: int = 30,
) -> tuple[Float[Tensor, "rows"], Int[Tensor, "rows"], Int[Tensor, "rows"]]:
    """Return score, first and last piece of every row's best span.

    All spans of 1 to ``longest`` pieces between pieces that are ``inside`` are tried, so nothing
    is lost as in a search over the n best starts and ends. The score is start + end logit; of
    equal ones the shortest, then the first, wins. A row with nothing inside scores -inf.

    >>> start, end = torch.tensor([[9.0, 0.0, 2.0, 1.0]]), torch.tensor([[9.0, 3.0, 0.0, 2.0]])
    >>> [t.item() for t in best_spans(start, end, torch.tensor([[False, True, True, True]]))]
    [4.0, 2, 3]
    """
    start, end = (logits.masked_fill(~inside, float("-inf")) for logits in (start, end))
    width = start.shape[1]
    best = torch.full_like(start[:, 0], float("-inf"))
    first = last = torch.zeros(len(start), dtype=torch.long, device=start.device)
    for extra in range(min(longest, width)):  # pieces after the first
        score, at = (start[:, : width - extra] + end[:, extra:]).max(-1)
        better = score > best
        best = torch.where(better, score, best)
        first = torch.where(better, at, first)
        last = torch.where(better, at + extra, last)
    return best, first, last


@torch.no_grad()
def predict_answers(
    model, tokenizer, split, batch_size=32, max_length=384, stride=128, max_answer_length=30
):
    """A raw split -> its answers, a list of texts cut out of the contexts.

    A question takes the best span of all its windows, at most ``max_answer_length`` pieces. The
    model is put into eval mode for the call and left as it was.
    """
    training = model.training
    model.eval()
    windows = _windows(split, tokenizer, max_length, stride)
    order = sorted(range(len(windows["length"])), key=windows["length"].__getitem__)  # less padding
    names = [name for name in tokenizer.model_input_names if name in windows]
    found = [(float("-inf"), 0, 0)] * len(split)
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        rows = {name: [windows[name][i] for i in chosen] for name in names}
        batch = tokenizer.pad(rows, return_tensors="pt").to(model.device)
        inside = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
        for row, i in enumerate(chosen):
            part = [stop > first for first, stop in windows["offsets"][i]]
            inside[row, : len(part)] = torch.tensor(part, device=inside.device)
        output = model(**batch)
        spans = best_spans(output.start_logits, output.end_logits, inside, max_answer_length)
        for i, score, first, last in zip(chosen, *(s.tolist() for s in spans), strict=True):
            places, example = windows["offsets"][i], windows["example"][i]
            if score > found[example][0]:
                found[example] = score, places[first][0], places[last][1]
    model.train(training)
    return [text[a:b] for text, (_, a, b) in zip(split["context"], found, strict=True)]


def evaluate_questions(model, tokenizer, split, **how):
    """``answer_scores`` of a model on a raw split; ``how`` goes to ``predict_answers``.

    Raises:
        ValueError: the split is empty, or ``encode_questions`` refuses it.
    """
    if len(split) == 0:
        raise ValueError("cannot evaluate on an empty split")
    predictions = predict_answers(model, tokenizer, split, **how)
    return answer_scores(predictions, [answers["text"] for answers in split["answers"]])


def answer_scores(predictions, references):
    """SQuAD's ``exact_match`` and ``f1`` in percent: the best reference of every question counts.

    Args:
        predictions: a text per question.
        references: a list of right texts per question.

    Both compare without case, punctuation, articles and extra blanks. F1 is that of two bags of
    words; without a common word it is 0, even where nothing is left of both texts.

    Raises:
        ValueError: nothing to score, lists of different length, a question without references.

    Source: Rajpurkar et al. 2016, section 6.1, and their script evaluate-v1.1.py.

    >>> answer_scores(["The cat sat!"], [["cat", "a cat sat down"]])
    {'exact_match': 0.0, 'f1': 80.0}
    """
    if not predictions or len(predictions) != len(references) or not all(references):
        raise ValueError(
            "every prediction needs a list of at least one reference; got "
            f"{len(predictions)} predictions and {len(references)} lists, "
            f"{sum(not texts for texts in references)} of them empty"
        )
    exact = f1 = 0.0
    for text, right in zip(predictions, references, strict=True):
        words = normalize(text)
        exact += max(words == normalize(other) for other in right)
        f1 += max(_f1(words.split(), normalize(other).split()) for other in right)
    return {"exact_match": 100 * exact / len(predictions), "f1": 100 * f1 / len(predictions)}


def normalize(text):
    """Lower case, without punctuation, articles and extra blanks, in this order.

    >>> normalize("  The U.S.A., an  ally")
    'usa ally'
    """
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _f1(found, right):
    common = (Counter(found) & Counter(right)).total()
    return 2 * common / (len(found) + len(right)) if common else 0.0


def question_metrics(prediction):
    """``compute_metrics`` for a Trainer on ``encode_questions`` rows, in percent.

    A Trainer shows logits and positions without texts, so this compares pieces, window by window:
    ``span_accuracy``, the best span is the first reference's; ``span_f1``, overlap of the two
    spans. A window without the answer should point at [CLS]. ``score``, to choose the best by, is
    ``span_f1``. It runs beside SQuAD's F1 but is another number: see ``evaluate_questions``.
    """
    start, end = (torch.as_tensor(logits) for logits in prediction.predictions[:2])
    right_first, right_last = (torch.as_tensor(place) for place in prediction.label_ids)
    _, first, last = best_spans(start, end, torch.ones_like(start, dtype=torch.bool))
    common = torch.minimum(last, right_last) - torch.maximum(first, right_first) + 1
    sizes = (last - first + 1) + (right_last - right_first + 1)
    f1 = 100 * (2 * common.clamp(min=0) / sizes).mean().item()
    same = (first == right_first) & (last == right_last)
    return {"span_accuracy": 100 * same.float().mean().item(), "span_f1": f1, "score": f1}
