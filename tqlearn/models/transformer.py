"""``Transformer``: the encoder-decoder of 2017, post-norm, one table for all embeddings."""

from dataclasses import dataclass, replace
from math import sqrt

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ..quantizers.named_points import Point, Positions
from .layers import DecoderLayer, EncoderLayer, Pair

IGNORED = -100  # label of padding


@dataclass(frozen=True)
class State:
    """What decoding word by word keeps: the source's pairs and mask, the words' pairs so far."""

    memory: list[Pair]
    memory_allowed: Tensor
    past: list[Pair | None]
    position: int

    def take(self, rows: Tensor) -> "State":
        """Return the state of these rows, in this order."""
        pick = [tuple(t[rows] for t in pair) for pair in self.memory]
        past = [None if pair is None else tuple(t[rows] for t in pair) for pair in self.past]
        return State(pick, self.memory_allowed[rows], past, self.position)


class Transformer(nn.Module):
    """Translate token ids; every tensor that FullyQT quantizes passes a point named "quant_...".

    Source embeddings, target embeddings and output matrix are one table, ``embedding``; there is
    no bias at the output.

    Args:
        vocabulary: rows of the table.
        width, ffn, heads, layers: of encoder and decoder alike; the defaults are the base model.
        dropout: of sub-layer outputs, embedding sums, attention probabilities and ReLU outputs.
        length: longest sentence, in pieces.
        pad, begin, end: ids that a tokenizer gives to padding and the ends of a sentence.
        label_smoothing: of the training loss; in evaluation there is none.

    ``arguments`` holds them all, to build the model again.

    Source: spec sheet FullyQT, sections 3 and 7; Vaswani et al. 2017.

    >>> model = Transformer(vocabulary=20, width=16, ffn=32, heads=2, layers=1).eval()
    >>> model(torch.tensor([[5, 6, 2]]), labels=torch.tensor([[7, 2]]))["logits"].shape
    torch.Size([1, 2, 20])
    >>> sum(isinstance(m, Point) for m in model.modules())  # 17 + 28 + 2
    47
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 512,
        ffn: int = 2048,
        heads: int = 8,
        layers: int = 6,
        dropout: float = 0.1,
        length: int = 256,
        pad: int = 0,
        begin: int = 1,
        end: int = 2,
        label_smoothing: float = 0.1,
    ) -> None:
        super().__init__()
        self.arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.pad, self.begin, self.end = pad, begin, end
        self.label_smoothing = label_smoothing
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = Positions(width, length)
        self.dropout = nn.Dropout(dropout)
        sizes = width, ffn, heads, dropout
        self.encoder = nn.ModuleDict(
            {
                "quant_sum": Point(width),
                "layers": nn.ModuleList(EncoderLayer(*sizes) for _ in range(layers)),
            }
        )
        self.decoder = nn.ModuleDict(
            {
                "quant_sum": Point(width),
                "layers": nn.ModuleList(DecoderLayer(*sizes) for _ in range(layers)),
            }
        )
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)

    def forward(
        self,
        input_ids: Int[Tensor, "batch sources"],
        attention_mask: Tensor | None = None,
        labels: Int[Tensor, "batch targets"] | None = None,
    ) -> dict[str, Tensor]:
        """Return {"loss", "logits"} of a target that is known: word t sees the labels before it.

        Args:
            attention_mask: (batch, sources), 1 for real tokens; None: all that are not ``pad``.
            labels: the target with its ``end``, -100 for padding.
        """
        table = self.embedding.weight
        real = self._real(input_ids, attention_mask)
        state = self._state(self._encode(input_ids, real, table), real)
        known = labels != IGNORED
        shifted = F.pad(labels.masked_fill(~known, self.pad), (1, -1), value=self.begin)
        before = torch.ones(2 * [labels.shape[1]], dtype=torch.bool, device=labels.device).tril()
        x, _ = self._decode(shifted, state, before[None, None], known, table)
        logits = F.linear(x, table)
        smoothing = self.label_smoothing if self.training else 0.0
        loss = F.cross_entropy(
            logits.flatten(0, 1).float(),
            labels.flatten().long(),
            ignore_index=IGNORED,
            label_smoothing=smoothing,
            reduction="sum",
        )
        loss = loss / known.sum().clamp(min=1)  # 0 for a batch without a word
        return {"loss": loss, "logits": logits}

    def start(
        self,
        input_ids: Int[Tensor, "batch sources"],
        attention_mask: Tensor | None = None,
    ) -> State:
        """Read the source; what comes back goes to ``step``, with ``begin`` as the first word."""
        real = self._real(input_ids, attention_mask)
        return self._state(self._encode(input_ids, real, self.embedding.weight), real)

    def step(
        self, word: Int[Tensor, " batch"], state: State
    ) -> tuple[Float[Tensor, "batch vocabulary"], State]:
        """Return the logits of the next word after this one, and the state after it."""
        table = self.embedding.weight
        allowed = torch.ones(1, 1, 1, state.position + 1, dtype=torch.bool, device=word.device)
        x, state = self._decode(word[:, None], state, allowed, None, table)
        return F.linear(x[:, 0], table), state

    def _real(self, ids: Tensor, mask: Tensor | None) -> Bool[Tensor, "batch sources"]:
        return ids != self.pad if mask is None else mask.bool()

    def _embed(self, ids: Tensor, start: int, table: Tensor) -> Tensor:
        words = F.embedding(ids, table) * sqrt(table.shape[1])
        return words + self.positions(start, ids.shape[1])

    def _encode(self, ids: Tensor, real: Tensor, table: Tensor) -> Tensor:
        x = self.dropout(self.encoder["quant_sum"](self._embed(ids, 0, table), real))
        for layer in self.encoder["layers"]:
            x = layer(x, real[:, None, None], real)
        return x

    def _state(self, memory: Tensor, real: Tensor) -> State:
        layers = self.decoder["layers"]
        pairs = [layer.cross.project(memory, real) for layer in layers]
        return State(pairs, real[:, None, None], [None] * len(layers), 0)

    def _decode(
        self, ids: Tensor, state: State, allowed: Tensor, real: Tensor | None, table: Tensor
    ) -> tuple[Tensor, State]:
        words = self._embed(ids, state.position, table)
        x, pairs = self.dropout(self.decoder["quant_sum"](words, real)), []
        for layer, memory, past in zip(
            self.decoder["layers"], state.memory, state.past, strict=True
        ):
            x, pair = layer(x, allowed, memory, state.memory_allowed, real, past)
            pairs.append(pair)
        return x, replace(state, past=pairs, position=state.position + ids.shape[1])
