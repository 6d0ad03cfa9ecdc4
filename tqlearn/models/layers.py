"""The layers of a post-norm encoder-decoder, with a named point wherever FullyQT quantizes.

Quantizers stand before dropout: its zeros need no place on a grid. ``real`` says which positions
are no padding; only points look at it.
"""

from math import sqrt

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..quantizers.named_points import Point
from .pieces import Norm, Softmax

Tokens = Float[Tensor, "batch tokens width"]
Pair = tuple[Tensor, Tensor]  # keys and values, (batch, tokens, width) each


class Attention(nn.Module):
    """Multi-head attention in two halves, so that keys and values can be kept between words.

    Args:
        width: of the model. heads: a divisor of it.
        dropout: of the probabilities.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide the width, got {heads} and {width}")
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.quant_queries, self.quant_keys = Point(width), Point(width)
        self.quant_values, self.quant_context = Point(width), Point(width)
        self.softmax = Softmax()

    def project(self, memory: Tokens, real: Bool[Tensor, "batch tokens"] | None = None) -> Pair:
        """Return the keys and values of what is attended to."""
        return (
            self.quant_keys(self.key(memory), real),
            self.quant_values(self.value(memory), real),
        )

    def forward(
        self,
        x: Tokens,
        pair: Pair,
        allowed: Bool[Tensor, "#batch 1 #queries keys"],
        real: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Tokens:
        query = self.quant_queries(self.query(x), real)
        query, key, value = (self._split(t) for t in (query, *pair))  # (batch, heads, tokens, size)
        scores = query @ key.transpose(2, 3) / sqrt(query.shape[-1])
        probabilities = self.dropout(self.softmax(scores, allowed, real))
        context = (probabilities @ value).transpose(1, 2).flatten(2)
        return self.output(self.quant_context(context, real))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between; an output of the first is a node."""

    def __init__(self, width: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, ffn), nn.Linear(ffn, width)
        self.dropout = nn.Dropout(dropout)
        self.quant_hidden, self.quant_output = Point(signed=False), Point(width)

    def forward(self, x: Tokens, real: Bool[Tensor, "batch tokens"] | None = None) -> Tokens:
        hidden = self.quant_hidden(F.relu(self.up(x)), real)
        return self.quant_output(self.down(self.dropout(hidden)), real)


class EncoderLayer(nn.Module):
    """Self-attention and FFN, each with a residual sum and a norm after it: 17 points."""

    def __init__(self, width: int, ffn: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.norm_attention = Norm(width)
        self.feed_forward = FeedForward(width, ffn, dropout)
        self.norm_feed_forward = Norm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tokens,
        allowed: Bool[Tensor, "#batch 1 #queries keys"],
        real: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Tokens:
        pair = self.attention.project(x, real)
        x = x + self.dropout(self.attention(x, pair, allowed, real))
        x = self.norm_attention(x, real)
        x = x + self.dropout(self.feed_forward(x, real))
        return self.norm_feed_forward(x, real)


class DecoderLayer(EncoderLayer):
    """The same with attention to the encoder's output in between: 28 points."""

    def __init__(self, width: int, ffn: int, heads: int, dropout: float) -> None:
        super().__init__(width, ffn, heads, dropout)
        self.cross = Attention(width, heads, dropout)
        self.norm_cross = Norm(width)

    def forward(
        self,
        x: Tokens,
        allowed: Bool[Tensor, "#batch 1 #queries keys"],
        memory: Pair,
        memory_allowed: Bool[Tensor, "#batch 1 1 sources"],
        real: Bool[Tensor, "batch tokens"] | None = None,
        past: Pair | None = None,
    ) -> tuple[Tokens, Pair]:
        """Return the output, and all keys and values up to here, which are the next ``past``.

        Args:
            memory: ``cross.project`` of the encoder's output.
            past: of the words before; None when all words come at once.
        """
        pair = self.attention.project(x, real)
        if past is not None:
            pair = tuple(torch.cat([old, new], 1) for old, new in zip(past, pair, strict=True))
        x = x + self.dropout(self.attention(x, pair, allowed, real))
        x = self.norm_attention(x, real)
        x = x + self.dropout(self.cross(x, memory, memory_allowed, real))
        x = self.norm_cross(x, real)
        x = x + self.dropout(self.feed_forward(x, real))
        return self.norm_feed_forward(x, real), pair
