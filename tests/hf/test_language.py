"""Perplexity: every token once, equal to a plain loop, whatever the window, stride and batch."""

import math

import jaxtyping
import pytest
import torch
from tiny_llamas import tiny_llama
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaForCausalLM,
)

import tqlearn as tq
from tqlearn.hf import evaluate_language, language, word_tokenizer
from tqlearn.hf.spans import windows

TEXT = "I want to fly from Oslo to Rome and back again on the first Monday of March".split()


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


@pytest.fixture(scope="module")
def ids():
    torch.manual_seed(1)
    return torch.randint(0, 100, (23,))


@torch.no_grad()
def by_hand(model, ids, window, stride):
    """Nats per token, one prediction at a time, each with what its window shows."""
    nats, asked = [], len(ids) - 1
    begin = 0
    for place in range(asked):  # the token at place + 1 is predicted
        while place >= begin + window:
            begin += stride
        logits = model(ids[None, begin : place + 1]).logits[0, -1].double()
        nats.append(float(-logits.log_softmax(-1)[ids[place + 1]]))
    return sum(nats) / asked


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("window", "stride"),
    [(1, 1), (2, 1), (4, 1), (4, 3), (4, 4), (5, 2), (8, 8), (21, 7), (22, 22), (23, 1), (64, 64)],
)
def test_it_is_the_plain_loop(model, ids, window, stride, batch):
    found = evaluate_language(model, ids, window=window, stride=stride, batch=batch)
    wanted = by_hand(model, ids, window, stride)
    assert found["nll"] == pytest.approx(wanted, rel=1e-5) and found["tokens"] == 22
    assert found["perplexity"] == pytest.approx(math.exp(wanted), rel=1e-4)
    assert "bits_per_byte" not in found, "nothing is known of the text"


def test_one_window_is_the_models_own_loss(model, ids):
    found = evaluate_language(model, ids, window=22)
    with torch.no_grad():
        assert found["nll"] == pytest.approx(float(model(ids[None], labels=ids[None]).loss))


def test_every_prediction_counts_once_and_sees_what_is_promised():
    for count in range(1, 25):
        for window in range(1, 9):
            for stride in range(1, window + 1):
                spans, seen = list(windows(count, window, stride)), []
                for number, (begin, end, first) in enumerate(spans):
                    assert begin == number * stride and end - begin <= window
                    assert first - begin >= (window - stride if number else 0)
                    seen += range(first, end)
                assert seen == list(range(count)), (count, window, stride)


def test_more_to_see_is_a_better_prediction():
    """On a text that repeats itself, by a model that copies: the mean of what it has seen."""

    class Copies(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = tiny_llama().config
            self.head = nn.Linear(300, 300, bias=False)
            self.head.weight = nn.Parameter(10 * torch.eye(300))

        def get_output_embeddings(self):
            return self.head

        def forward(self, input_ids, use_cache):
            seen = nn.functional.one_hot(input_ids, 300).float().cumsum(1)
            logits = self.head(seen / seen.sum(-1, keepdim=True))
            return type("Output", (), {"logits": logits})

    ids = torch.tensor([3, 1, 4, 2] * 9)
    nats = [evaluate_language(Copies(), ids, window=8, stride=s)["nll"] for s in (8, 4, 2)]
    assert nats[0] > nats[1] + 0.01 > nats[2] + 0.01


def test_logits_come_in_pieces(model, ids, monkeypatch):
    """Never more of them than a piece holds, and only those that count."""
    whole = evaluate_language(model, ids, window=8, stride=4, batch=2)
    monkeypatch.setattr(language, "PIECE", 3 * model.config.vocab_size + 1)
    sizes = []
    handle = model.lm_head.register_forward_hook(lambda m, x, y: sizes.append(y[..., 0].numel()))
    try:
        found = evaluate_language(model, ids, window=8, stride=4, batch=2)
    finally:
        handle.remove()
    assert found == pytest.approx(whole) and max(sizes) == 3
    assert sum(size for size in sizes if size > 2) >= 18, "the 22 that count, three by three"


def test_what_a_model_does_behind_its_output_layer_counts(ids):
    """Gemma 2 caps its logits: they are not what its output layer gives."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=100, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.5,
        initializer_range=1.0, max_position_embeddings=64, sliding_window=64,
    )  # fmt: skip
    gemma = Gemma2ForCausalLM(config).eval()
    found = evaluate_language(gemma, ids, window=8, stride=4, batch=2)
    assert found["nll"] == pytest.approx(by_hand(gemma, ids, 8, 4), rel=1e-5)
    gemma.config.final_logit_softcapping = None
    assert evaluate_language(gemma, ids, window=8, stride=4)["nll"] > found["nll"] + 0.1


def test_bits_per_byte_and_the_tokenizer(model):
    tokenizer = word_tokenizer({"train": {"tokens": [TEXT, TEXT]}})
    text = " ".join(TEXT) + " Ærø"
    found = evaluate_language(model, tokenizer, text, window=6)
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(TEXT) + 2, "its token before the text, and one for what it never saw"
    same = evaluate_language(model, ids, text, window=6, stride=3)
    assert found == same and found["tokens"] == len(ids) - 1
    bits = found["nll"] * found["tokens"] / math.log(2)
    assert found["bits_per_byte"] == pytest.approx(bits / len(text.encode()))
    assert len(text.encode()) == len(text) + 2


def test_paragraphs_stand_apart(model):
    def letters(text, verbose):
        return {"input_ids": [ord(letter) for letter in text]}

    parts = ["ab", "cd e", "f"]
    found = evaluate_language(model, letters, parts, window=5)
    assert found == evaluate_language(model, letters, "ab\n\ncd e\n\nf", window=5)
    assert found["tokens"] == 10


def test_a_compressed_model_and_its_codes_give_the_same(model, ids):
    plan = {"*.layers.*": [tq.LSQ(bits=4, per=32)], "*embed_tokens": [tq.LSQ(bits=4)]}
    student = tq.compress(model, plan)
    with pytest.raises(ValueError, match="quantizers have no scale yet"):
        evaluate_language(student, ids, window=8)
    tq.calibrate(student).eval()
    found = evaluate_language(student, ids, window=8)
    assert found["nll"] == pytest.approx(by_hand(student, ids, 8, 4), rel=1e-5)
    assert found != evaluate_language(model, ids, window=8)
    for other in (tq.pack(student), tq.bake(student)):
        assert evaluate_language(other, ids, window=8) == pytest.approx(found, rel=1e-5)


@torch.no_grad()
def divergence(model, reference, ids, window, stride):
    """The mean of sum p (log p - log q) over the words, as ``by_hand`` goes."""
    found, begin = 0.0, 0
    for place in range(len(ids) - 1):
        while place >= begin + window:
            begin += stride
        seen = ids[None, begin : place + 1]
        q, p = (m(seen).logits[0, -1].double().log_softmax(-1) for m in (model, reference))
        found += float((p.exp() * (p - q)).sum())
    return found / (len(ids) - 1)


@pytest.mark.parametrize(("window", "stride", "batch"), [(5, 2, 1), (8, 8, 2), (22, 22, 1)])
def test_a_reference_is_compared_word_by_word(model, ids, window, stride, batch, monkeypatch):
    monkeypatch.setattr(language, "PIECE", 3 * model.config.vocab_size)
    student = tq.calibrate(tq.compress(model, {"*.layers.*": [tq.LSQ(bits=2)]})).eval()
    options = {"window": window, "stride": stride, "batch": batch}
    found = evaluate_language(student, ids, **options, reference=model)
    wanted = divergence(student, model, ids, window, stride)
    assert found["kl"] == pytest.approx(wanted, rel=1e-4) and wanted > 0.01
    assert wanted != pytest.approx(divergence(model, student, ids, window, stride), rel=1e-3)
    assert found["nll"] == evaluate_language(student, ids, **options)["nll"]
    assert evaluate_language(model, ids, **options, reference=model)["kl"] == 0


def test_a_reference_is_left_as_it_was_and_must_fit(model, ids):
    reference = tiny_llama(attention_dropout=0.5).train()
    before = evaluate_language(model, ids, window=8, reference=reference)
    assert reference.training and not reference.lm_head._forward_pre_hooks
    assert before == evaluate_language(model, ids, window=8, reference=reference.eval())
    with pytest.raises(ValueError, match="a reference has the model's 262 words, got 300"):
        evaluate_language(model, ids, window=8, reference=tiny_llama(vocab_size=300))
    with pytest.raises(ValueError, match="window 8 is more than the 4 positions"):
        short = tiny_llama(max_position_embeddings=4)
        evaluate_language(model, ids, window=8, reference=short)
    with pytest.raises(TypeError, match="takes a torch model"):
        evaluate_language(model, ids, window=8, reference="llama")


def test_the_model_is_left_as_it_was(ids):
    model = tiny_llama(attention_dropout=0.5)
    found = evaluate_language(model, ids, window=8)
    model.train()
    assert evaluate_language(model, ids, window=8) == found and model.training
    with pytest.raises(ValueError, match="at least 1"):
        evaluate_language(model, ids, window=0)
    assert model.training and not model.lm_head._forward_pre_hooks
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window is at least 1, got 0"),
        ({"window": 65}, "window 65 is more than the 64 positions of LlamaForCausalLM"),
        ({"window": 8, "stride": 0}, "stride is 1 to the window's 8, or tokens would .* got 0"),
        ({"window": 8, "stride": 9}, "stride is 1 to the window's 8, or tokens would .* got 9"),
        ({"window": 8, "batch": 0}, "batch is at least 1, got 0"),
        ({"tokenizer": [3]}, "a text needs two tokens, .* got 1"),
        ({"tokenizer": []}, "a text needs two tokens, .* got 0"),
        ({"tokenizer": [3, -1]}, "ids go from 0 to 261 in this model, got -1"),
        ({"tokenizer": [3, 262]}, "ids go from 0 to 261 in this model, got 262"),
        ({"tokenizer": lambda text: text}, "needs a text for its tokenizer, or ids instead"),
    ],
)
def test_refusals(model, ids, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_language(model, **{"tokenizer": ids, "window": 8} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 8.5}, "window must be a whole number"),
        ({"window": 8, "stride": "4"}, "stride must be a whole number or None"),
        ({"tokenizer": "a text"}, "ids must be a list of whole numbers"),
        ({"tokenizer": torch.ones(3)}, "ids of a text are one row of whole numbers"),
        ({"tokenizer": torch.ones(1, 3, dtype=torch.long)}, r"got torch.int64 of shape \(1, 3\)"),
        ({"text": 5}, "text must be a string"),
        ({"text": ["a", 5]}, "text must be a string, got 5"),
        ({"model": "llama"}, "takes a torch model"),
    ],
)
def test_refusals_by_kind(model, ids, options, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(TypeError, match=message):
        evaluate_language(**{"model": model, "tokenizer": ids, "window": 8} | options)


def test_models_that_are_none_of_language(ids):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=100, intermediate_size=16, initializer_range=1.0, **sizes)
    with pytest.raises(ValueError, match="has an output layer over its words, BertModel has none"):
        evaluate_language(BertModel(config), ids, window=8)
    with pytest.raises(ValueError, match="BertForMaskedLM looks at later words"):
        evaluate_language(BertForMaskedLM(config), ids, window=8)


def test_nan_is_told(ids):
    model = tiny_llama()
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(ValueError, match="LlamaForCausalLM gives NaN on this text"):
        evaluate_language(model, ids, window=8)


def test_hopeless_is_infinite():
    model = tiny_llama(tie_word_embeddings=False)
    model.lm_head.weight.data.mul_(1e6)
    assert evaluate_language(model, [5, 6, 7], window=2)["perplexity"] == math.inf
    assert isinstance(model, LlamaForCausalLM)
