"""Beam search over a model that decodes word by word."""

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils import parametrize

from .transformer import Transformer

NEVER = -1e9  # log probability of what must not be chosen


def length_penalty(words: int, alpha: float) -> float:
    """Return ((5 + words) / 6) ** alpha, by which a log probability is divided (Wu et al. 2016).

    >>> length_penalty(1, 0.6), round(length_penalty(13, 0.6), 3)
    (1.0, 1.933)
    """
    return ((5 + words) / 6) ** alpha


@torch.no_grad()
def beam_search(
    model: Transformer,
    input_ids: Int[Tensor, "batch sources"],
    attention_mask: Tensor | None = None,
    beams: int = 4,
    alpha: float = 0.6,
    limit: int | None = None,
) -> list[list[int]]:
    """Return the best translation of every row, as ids without ``begin`` and ``end``.

    A sentence is scored by its log probability, ``end`` included, over ``length_penalty``. The
    search ends when no open sentence can overtake the best finished one any more.

    Args:
        beams: open sentences per row; 1 is greedy.
        limit: most words, ``end`` included; None: those of the source and 50, if the model has so
            many positions. A row that has finished no sentence by then gives its best open one.

    Raises:
        ValueError: fewer beams than one, or more than half of the vocabulary.

    Source: spec sheet FullyQT, section 7 (beam 4, penalty 0.6).
    """
    vocabulary = model.embedding.num_embeddings
    if not 1 <= beams <= vocabulary // 2:
        raise ValueError(f"beams are 1 to half of the vocabulary of {vocabulary}, got {beams}")
    if limit is None:
        limit = min(input_ids.shape[1] + 50, model.positions.length)
    training = model.training
    try:
        with parametrize.cached():  # weights stand still: quantize them once
            return _search(model.eval(), input_ids, attention_mask, beams, alpha, limit)
    finally:
        model.train(training)


def _search(model, input_ids, mask, beams, alpha, limit):
    batch, device = len(input_ids), input_ids.device
    first = beams * torch.arange(batch, device=device)[:, None]
    state = model.start(input_ids, mask).take(
        torch.arange(batch, device=device).repeat_interleave(beams)
    )
    open_words = torch.full((batch, beams, 1), model.begin, device=device)
    open_scores = torch.full((batch, beams), NEVER, device=device)
    open_scores[:, 0] = 0.0  # all beams start alike: let one of them count
    done_words = torch.full((batch, limit + 1), model.pad, device=device)
    done_scores = torch.full((batch,), NEVER, device=device)
    for words in range(1, limit + 1):
        logits, state = model.step(open_words[:, :, -1].flatten(), state)
        scores = logits.float().log_softmax(-1).unflatten(0, (batch, beams))
        scores = (open_scores[:, :, None] + scores).flatten(1)
        best, places = scores.topk(2 * beams)  # enough: at most one per beam is an end
        beam, word = places // logits.shape[-1], places % logits.shape[-1]
        candidates = torch.cat(
            [open_words.gather(1, beam[:, :, None].expand(-1, -1, words)), word[:, :, None]], -1
        )
        ends = word == model.end
        finished, chosen = best.masked_fill(~ends, NEVER).max(-1)
        finished = finished / length_penalty(words, alpha)
        better = (finished > done_scores) & ends.any(-1)
        done_scores = torch.where(better, finished, done_scores)
        padded = torch.full_like(done_words, model.pad)
        padded[:, : words + 1] = candidates[torch.arange(batch), chosen]
        done_words = torch.where(better[:, None], padded, done_words)
        open_scores, kept = best.masked_fill(ends, NEVER).topk(beams)
        open_words = candidates.gather(1, kept[:, :, None].expand(-1, -1, words + 1))
        state = state.take((first + beam.gather(1, kept)).flatten())
        if (open_scores[:, 0] / length_penalty(limit, alpha) <= done_scores).all():
            break
    never = done_scores <= NEVER / 2
    done_words[never, : open_words.shape[-1]] = open_words[never, 0]
    return [_bare(row, model) for row in done_words.tolist()]


def _bare(row, model):
    """Cut a row of ids at its end, without begin and padding."""
    row = row[1:]
    row = row[: row.index(model.end)] if model.end in row else row
    return [word for word in row if word != model.pad]
