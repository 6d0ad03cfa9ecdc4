"""How well a causal language model predicts a text: perplexity, and bits per byte."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..arguments import require, require_model, require_numbers
from ..quantizers.grid import require_calibrated

PIECE = 2**24  # logits at a time: 64 MiB of float32
Span = tuple[int, int, int]  # a window of predictions: begin, end, the first that counts


@torch.no_grad()
def evaluate_language(
    model: nn.Module,
    tokenizer: Callable | Int[Tensor, " ids"] | Sequence[int],
    text: str | Sequence[str] | None = None,
    *,
    window: int = 1024,
    stride: int | None = None,
    batch: int = 1,
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

    Returns:
        ``perplexity``; ``nll``, its logarithm: nats per token; ``tokens`` that were predicted; and,
        with a text, ``bits_per_byte`` of its UTF-8, which compares models of different tokenizers
        (the first token, which nothing predicts, counts as bytes without bits).

    Raises:
        ValueError: fewer than two tokens, an id outside of the model's words, a window larger than
            the model's positions, a stride that would leave tokens out, a quantizer without a
            scale, a model without an output layer or one that sees the words it is asked for (such
            as BERT), a NaN.
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
    require_model("evaluate_language", model)
    require_numbers("evaluate_language", model)
    require_calibrated(model)
    ids, size = _ids(tokenizer, text)
    stride = _require_sizes(model, window, stride, batch)
    _require_ids(model, ids)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None:
        raise ValueError(
            f"a language model has an output layer over its words, {type(model).__name__} has "
            "none; load it with AutoModelForCausalLM"
        )
    ids, training, nll = ids.to(next(model.parameters()).device), model.training, 0.0
    model.eval()
    try:
        _require_causal(model, head, ids[:8])
        for spans in _batches(len(ids) - 1, window, stride, batch):
            nll += _score(model, head, ids, spans)
    finally:
        model.train(training)
    if math.isnan(nll):
        raise ValueError(f"{type(model).__name__} gives NaN on this text; look at its weights")
    tokens = len(ids) - 1
    mean = nll / tokens
    found = {"perplexity": math.exp(mean) if mean < 700 else math.inf, "nll": mean}
    bits = {"bits_per_byte": nll / math.log(2) / size} if size else {}
    return found | {"tokens": tokens} | bits


def windows(count: int, window: int, stride: int) -> Iterator[Span]:
    """Give (begin, end, first that counts) of windows over ``count`` predictions, each once.

    >>> list(windows(7, 4, 2))
    [(0, 4, 0), (2, 6, 4), (4, 7, 6)]
    """
    begin = done = 0
    while done < count:
        end = min(begin + window, count)
        yield begin, end, done
        begin, done = begin + stride, end


def _batches(count: int, window: int, stride: int, batch: int) -> Iterator[list[Span]]:
    """Give windows of one length together; only the last can be a shorter one."""
    waiting: list[Span] = []
    for span in windows(count, window, stride):
        short = span[1] - span[0] < window
        if waiting and (short or len(waiting) == batch):
            yield waiting
            waiting = []
        waiting.append(span)
    yield waiting


def _score(model: nn.Module, head: nn.Module, ids: Int[Tensor, " n"], spans: list[Span]) -> float:
    """Return the summed nats of the predictions that count."""
    inputs = torch.stack([ids[begin:end] for begin, end, _ in spans])
    asked = torch.stack([ids[begin + 1 : end + 1] for begin, end, _ in spans])
    counts = torch.stack([torch.arange(b, e, device=ids.device) >= first for b, e, first in spans])
    states, last = _states(model, head, inputs)
    if torch.allclose(head(states[:, -1:]), last, rtol=1e-4, atol=1e-4):
        states, layer = states[counts], head
    else:  # the model does more to its logits than its output layer
        states, layer = model(input_ids=inputs, use_cache=False).logits[counts], nn.Identity()
    rows = max(1, PIECE // last.shape[-1])
    pieces = zip(states.split(rows), asked[counts].split(rows), strict=True)
    each = (F.cross_entropy(layer(s).float(), t, reduction="sum") for s, t in pieces)
    return sum(float(nats) for nats in each)


def _states(
    model: nn.Module, head: nn.Module, inputs: Int[Tensor, "rows n"]
) -> tuple[Float[Tensor, "rows n width"], Float[Tensor, "rows 1 words"]]:
    """Return what enters the output layer, and the model's logits at the last position alone."""
    seen = []

    def look(_: nn.Module, given: tuple) -> tuple:
        seen.append(given[0])
        return (given[0][:, -1:], *given[1:])

    handle = head.register_forward_pre_hook(look)
    try:
        logits = model(input_ids=inputs, use_cache=False).logits
    finally:
        handle.remove()
    if len(seen) != 1:
        raise ValueError(
            f"{type(model).__name__} calls its output layer {len(seen)} times for a text, and a "
            "language model does it once; load it with AutoModelForCausalLM"
        )
    return seen[0], logits


def _require_causal(model: nn.Module, head: nn.Module, ids: Int[Tensor, " n"]) -> None:
    """Refuse a model whose states at earlier tokens move with the last one."""
    other = ids.clone()
    other[-1] = (other[-1] + 1) % model.config.vocab_size
    one, two = (_states(model, head, row[None])[0][:, :-1].float() for row in (ids, other))
    if (one - two).norm() > 0.01 * one.norm():
        raise ValueError(
            f"{type(model).__name__} looks at later words, and then its perplexity says nothing; "
            "take a causal model (of BERT's kind: with is_decoder=True in its config)"
        )


def _ids(tokenizer: object, text: object) -> tuple[Tensor, int]:
    """Return the ids of a text, and its bytes (0 for none)."""
    if text is not None and not isinstance(text, str):
        parts = text if isinstance(text, Sequence) else [text]
        text = "\n\n".join(require("evaluate_language: text", part, str) for part in parts)
    size = len((text or "").encode())
    if callable(tokenizer) and not isinstance(tokenizer, Tensor):
        if text is None:
            raise ValueError("evaluate_language needs a text for its tokenizer, or ids instead")
        return torch.tensor(tokenizer(text, verbose=False)["input_ids"], dtype=torch.long), size
    if not isinstance(tokenizer, Tensor):
        tokenizer = torch.tensor(
            require("evaluate_language: ids", tokenizer, Sequence[int]), dtype=torch.long
        )
    if tokenizer.dim() != 1 or tokenizer.is_floating_point() or tokenizer.dtype == torch.bool:
        raise TypeError(
            f"the ids of a text are one row of whole numbers, got {tokenizer.dtype} of shape "
            f"{(*tokenizer.shape,)}"
        )
    return tokenizer.long(), size


def _require_ids(model: nn.Module, ids: Int[Tensor, " n"]) -> None:
    if len(ids) < 2:
        raise ValueError(f"a text needs two tokens, the second is predicted first; got {len(ids)}")
    words = model.config.vocab_size
    if (low := int(ids.min())) < 0 or (high := int(ids.max())) >= words:
        odd = low if low < 0 else high
        raise ValueError(
            f"ids go from 0 to {words - 1} in this model, got {odd}; take its own tokenizer"
        )


def _require_sizes(model: nn.Module, window: int, stride: int | None, batch: int) -> int:
    """Return the stride."""
    for name, value in (("window", window), ("batch", batch)):
        if require(f"evaluate_language: {name}", value, int) < 1:
            raise ValueError(f"{name} is at least 1, got {value}")
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and window > most:
        raise ValueError(
            f"window {window} is more than the {most} positions of {type(model).__name__}; take "
            "that or less"
        )
    stride = require("evaluate_language: stride", stride, int | None)
    stride = max(1, window // 2) if stride is None else stride
    if not 1 <= stride <= window:
        raise ValueError(
            f"stride is 1 to the window's {window}, or tokens would be left out; got {stride}"
        )
    return stride
