"""One layer of ``cache.QuantizedCache``: old keys and values as codes, the newest in floats."""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from .coded_states import Coded

RANGES = {"float16": torch.float16, "float32": torch.float32}


class CodedLayer(DynamicLayer):
    """The cache of one layer: ``codes`` of old keys and values; ``newest`` ones in floats.

    Args:
        bits, per, window, ranges: as in ``QuantizedCache``.
    """

    is_croppable = False  # in transformers' sense, without a trace; see ``crop``

    def __init__(self, bits: int, per: int, window: int, ranges: str) -> None:
        self.is_initialized = False  # and nothing more of super's, which keeps keys and values
        self.bits, self.per, self.window = bits, per, window
        self.codes = [Coded(bits, per, RANGES[ranges], by_channel) for by_channel in (True, False)]
        self.newest: list[Tensor] = []  # of keys and of values

    def __repr__(self) -> str:
        return f"CodedLayer(bits={self.bits}, per={self.per}, window={self.window})"

    @property
    def nbytes(self) -> int:
        """Bytes in memory: codes, ends of ranges, and the newest tokens in floats."""
        held = self.newest + [tensor for codes in self.codes for tensor in codes.tensors()]
        return sum(tensor.untyped_storage().nbytes() for tensor in held)

    @property
    def keys(self) -> Tensor | None:
        """All keys, old ones off their codes: cross-attention reads them here, without a call."""
        return _whole(self.codes[0], self.newest[0]) if self.is_initialized else None

    @property
    def values(self) -> Tensor | None:
        """All values, as ``keys``."""
        return _whole(self.codes[1], self.newest[1]) if self.is_initialized else None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Look at the first states; hold no token yet.

        Raises:
            ValueError: the channels of a head do not divide into groups of ``per``.
        """
        dim = value_states.shape[-1]
        if dim > self.per and dim % self.per:
            fits = [n for n in range(8, self.per, 8) if dim % n == 0] or [-(-dim // 8) * 8]
            raise ValueError(
                f"values of {dim} channels do not divide into groups of {self.per}; take "
                f"per={fits[-1]}"
            )
        self.dtype, self.device = key_states.dtype, key_states.device
        self.newest = [s[:, :, :0].clone() for s in (key_states, value_states)]
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append new states and return all: old ones off their codes, new ones as they came.

        Each is (batch, heads, tokens, dim), where keys and values may differ in dim.

        What has left the window is coded afterwards: every token is seen in floats by its own call.

        Raises:
            ValueError: the states want a gradient, which codes would cut off.
        """
        if key_states.requires_grad or value_states.requires_grad:
            raise ValueError(
                "a QuantizedCache holds codes, which pass no gradient on; generate, or call the "
                "model under torch.no_grad()"
            )
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new = key_states, value_states
        floats = [torch.cat(pair, -2) for pair in zip(self.newest, new, strict=True)]
        pairs = list(zip(self.codes, floats, strict=True))
        seen = [_whole(codes, states) for codes, states in pairs]
        old = (floats[0].shape[-2] - self.window) // self.per * self.per
        if old > 0:
            before = [codes.tensors() or [None] * 3 for codes in self.codes]
            try:
                for codes, states in pairs:
                    codes.add(states[:, :, :old])
            except ValueError:  # keys and values stay of one length
                for codes, (stream, low, high) in zip(self.codes, before, strict=True):
                    codes.stream, codes.low, codes.high = stream, low, high
                raise
            floats = [states[:, :, old:].clone() for states in floats]  # a view would keep the rest
        self.newest = floats
        return seen[0], seen[1]

    def get_seq_length(self) -> int:
        """Return the number of tokens held."""
        return len(self.codes[0]) + self.newest[0].shape[-2] if self.is_initialized else 0

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest tokens: ``crop(-3)`` the last three.

        Where that reaches into a coded block, what is left of it becomes floats again, those that
        its codes stand for, and is coded anew when the block is whole.

        Raises:
            ValueError: a positive number.
        """
        if tokens_to_remove > 0:
            raise ValueError(f"crop takes minus the number of tokens, got {tokens_to_remove}")
        if tokens_to_remove == 0 or not self.is_initialized:
            return
        left = max(0, self.get_seq_length() + tokens_to_remove)
        kept, found = min(left, len(self.codes[0])) // self.per * self.per, []
        for codes, states in zip(self.codes, self.newest, strict=True):
            if kept < len(codes):
                states = torch.cat([codes.floats(states)[:, :, kept:], states], -2)
                codes.cut(kept)
            found.append(states[:, :, : left - kept].clone())
        self.newest = found

    def reset(self) -> None:
        """Hold no token, as at the start."""
        self.is_initialized, self.newest = False, []
        for codes in self.codes:
            codes.clear()

    def each(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change each tensor that is held: all have the batch as their first axis."""
        self.newest = [change(states) for states in self.newest]
        for codes in self.codes:
            codes.each(change)

    def reorder_cache(self, beam_idx: Int[Tensor, " rows"]) -> None:
        """Put the rows of the batch into another order, as beam search does: codes move as such."""
        self.each(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row of the batch."""
        self.each(lambda tensor: tensor.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Int[Tensor, " rows"]) -> None:
        """Keep some rows of the batch."""
        self.each(lambda tensor: tensor[indices.to(tensor.device)])

    def offload(self) -> None:
        """Move to the CPU."""
        self.each(lambda tensor: tensor.to("cpu", non_blocking=True))

    def prefetch(self) -> None:
        """Move back to where the states came from."""
        if self.is_initialized:
            self.each(lambda tensor: tensor.to(self.device, non_blocking=True))


def _whole(codes: Coded, newest: Tensor) -> Tensor:
    return torch.cat([codes.floats(newest), newest], -2) if len(codes) else newest
