"""The text that judges a language model: its ids, and the windows over them."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ..arguments import require

Span = tuple[int, int, int]  # a window of predictions: begin, end, the first that counts


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


def batched(count: int, window: int, stride: int, batch: int) -> Iterator[list[Span]]:
    """Give windows of one length together; only the last can be a shorter one."""
    waiting: list[Span] = []
    for span in windows(count, window, stride):
        short = span[1] - span[0] < window
        if waiting and (short or len(waiting) == batch):
            yield waiting
            waiting = []
        waiting.append(span)
    yield waiting


def ids_of(tokenizer: object, text: object) -> tuple[Tensor, int]:
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


def require_ids(model: nn.Module, ids: Int[Tensor, " n"]) -> None:
    if len(ids) < 2:
        raise ValueError(f"a text needs two tokens, the second is predicted first; got {len(ids)}")
    words = model.config.vocab_size
    if (low := int(ids.min())) < 0 or (high := int(ids.max())) >= words:
        odd = low if low < 0 else high
        raise ValueError(
            f"ids go from 0 to {words - 1} in this model, got {odd}; take its own tokenizer"
        )


def require_sizes(model: nn.Module, window: int, stride: int | None, batch: int) -> int:
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
