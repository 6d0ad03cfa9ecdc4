"""How well a causal language model predicts a text: perplexity, bits per byte, and how far its
predictions are from another model's.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..arguments import require_model, require_numbers
from ..quantizers.grid import require_calibrated
from .heads import PIECE, Call, gives_logits, last_alone, only_call, output_layer
from .spans import Span, batched, ids_of, require_ids, require_sizes


@torch.no_grad()
def evaluate_language(
    model: nn.Module,
    tokenizer: Callable | Int[Tensor, " ids"] | Sequence[int],
    text: str | Sequence[str] | None = None,
    *,
    window: int = 1024,
    stride: int | None = None,
    batch: int = 1,
    reference: nn.Module | None = None,
) -> dict[str, float]:
    """Measure a causal language model on a text: every token but the first is predicted, once.

    A window slides over the text by ``stride``; of each window the predictions count that no window
    before it has made, so those see ``window - stride`` to ``window`` tokens before them (the first
    window's fewer). Logits are computed in pieces of 64 MiB, and only those that count.

    Args:
        model: what ``AutoModelForCausalLM`` gives, compressed or not; put into eval mode for the
            call. A model that changes its logits behind its output layer, as Gemma 2's caps do, is
            asked for all logits of a batch at once.
        tokenizer: of the model, called as it is; or the ids of the text.
        text: a string, or paragraphs, which are put together with an empty line between them. With
            ids it only tells the number of bytes, and may be left out.
        window: tokens that the model sees at most.
        stride: 1 to ``window``; default half of the window. ``window`` is the cheapest, and
            predicts the first tokens of each window from little.
        batch: windows at a time.
        reference: the model before it was compressed, with the same words; predicts beside it.

    Returns:
        ``perplexity``; ``nll``, its logarithm: nats per token; ``tokens`` that were predicted;
        with a text ``bits_per_byte`` of its UTF-8, which compares models of different tokenizers
        (the first token, which nothing predicts, counts as bytes without bits); and with a
        reference ``kl``, the mean Kullback-Leibler divergence of the model's distribution of the
        next token from the reference's, in nats: 0 for equal predictions. It tells a change that
        perplexity does not, where a model has become surer of the text that judges it.

    Raises:
        ValueError: fewer than two tokens, an id outside of the model's words, a window larger than
            the model's positions, a stride that would leave tokens out, a quantizer without a
            scale, a model without an output layer or one that sees the words it is asked for (such
            as BERT), a reference of other words, a NaN.
        TypeError: arguments of another kind.

    Source: for the windows, "Perplexity of fixed-length models" in transformers' documentation;
    there the first token of each window is left out where the windows do not overlap.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    >>> llama = LlamaForCausalLM(LlamaConfig(vocab_size=9, num_hidden_layers=1, **sizes))
    >>> _ = llama.lm_head.weight.data.zero_()  # knows nothing: all 9 words are alike
    >>> found = evaluate_language(llama, [1, 2, 3, 4, 5], window=2)
    >>> round(found["perplexity"], 3), found["tokens"]
    (9.0, 4)
    """
    ids, size = ids_of(tokenizer, text)
    models = [model] if reference is None else [model, reference]
    heads = [_head(each) for each in models]
    for each in models:
        stride = require_sizes(each, window, stride, batch)
        require_ids(each, ids)
    ids, training = ids.to(next(model.parameters()).device), [each.training for each in models]
    sums = torch.zeros(2, dtype=torch.float64)
    for each in models:
        each.eval()
    try:
        words = [_require_causal(*both, ids[:8]) for both in zip(models, heads, strict=True)]
        if len({*words}) > 1:
            raise ValueError(f"a reference has the model's {words[0]} words, got {words[1]}")
        for spans in batched(len(ids) - 1, window, stride, batch):
            sums += _score([*zip(models, heads, strict=True)], ids, spans)
    finally:
        for each, mode in zip(models, training, strict=True):
            each.train(mode)
    nll, kl = sums.tolist()
    if math.isnan(nll + kl):
        raise ValueError(f"{type(model).__name__} gives NaN on this text; look at its weights")
    tokens = len(ids) - 1
    mean = nll / tokens
    found = {"perplexity": math.exp(mean) if mean < 700 else math.inf, "nll": mean}
    bits = {"bits_per_byte": nll / math.log(2) / size} if size else {}
    apart = {} if reference is None else {"kl": max(0.0, kl / tokens)}
    return found | {"tokens": tokens} | bits | apart


def _head(model: nn.Module) -> nn.Module:
    """Return the output layer of a model that can be asked."""
    require_model("evaluate_language", model)
    require_numbers("evaluate_language", model, whole=False)
    require_calibrated(model)
    return output_layer(model)


def _score(
    models: list[tuple[nn.Module, nn.Module]], ids: Int[Tensor, " n"], spans: list[Span]
) -> Float[Tensor, "2"]:
    """Return the summed nats of the predictions that count, and of their divergence."""
    inputs = torch.stack([ids[begin:end] for begin, end, _ in spans])
    asked = torch.stack([ids[begin + 1 : end + 1] for begin, end, _ in spans])
    counts = torch.stack([torch.arange(b, e, device=ids.device) >= first for b, e, first in spans])
    sums = torch.zeros(2, dtype=torch.float64)
    parts = [_logits(model, head, inputs, counts) for model, head in models]
    wanted = asked[counts]
    for logits, *beside in zip(*parts, strict=True):
        now, wanted = wanted[: len(logits)], wanted[len(logits) :]
        sums[0] += F.cross_entropy(logits, now, reduction="sum").item()
        for other in beside:
            ours, theirs = logits.log_softmax(-1), other.log_softmax(-1)
            sums[1] += F.kl_div(ours, theirs, reduction="sum", log_target=True).item()
    return sums


def _logits(
    model: nn.Module,
    head: nn.Module,
    inputs: Int[Tensor, "rows n"],
    counts: Bool[Tensor, "rows n"],
) -> Iterator[Float[Tensor, "piece words"]]:
    """Give the logits of the predictions that count, in pieces."""
    call, last = _call(model, head, inputs)
    if gives_logits(head, call, last):
        states, layer = call.states[counts], head
    else:  # the model does more to its logits than its output layer
        states, layer = model(input_ids=inputs, use_cache=False).logits[counts], nn.Identity()
    for piece in states.split(max(1, PIECE // last.shape[-1])):
        yield layer(piece).float()


def _call(
    model: nn.Module, head: nn.Module, inputs: Int[Tensor, "rows n"]
) -> tuple[Call, Float[Tensor, "rows 1 words"]]:
    """Return what enters the output layer, and the model's logits at the last position alone."""
    with last_alone(head) as seen:
        logits = model(input_ids=inputs, use_cache=False).logits
    return only_call(model, seen), logits


def _require_causal(model: nn.Module, head: nn.Module, ids: Int[Tensor, " n"]) -> int:
    """Refuse a model whose states at earlier tokens move with the last one; return its words."""
    other = ids.clone()
    other[-1] = (other[-1] + 1) % model.config.vocab_size
    (one, last), (two, _) = (_call(model, head, row[None]) for row in (ids, other))
    one, two = one.states[:, :-1].float(), two.states[:, :-1].float()
    if (one - two).norm() > 0.01 * one.norm():
        raise ValueError(
            f"{type(model).__name__} looks at later words, and then its perplexity says nothing; "
            "take a causal model (of BERT's kind: with is_decoder=True in its config)"
        )
    return last.shape[-1]
