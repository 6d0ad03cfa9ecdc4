"""Keys or values of many tokens as packed codes: what ``cache`` is made of."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..quantizers.ranges import Uniform
from ..storage.codes import pack_bits, unpack_bits

States = Float[Tensor, "batch heads tokens dim"]


class Coded:
    """Keys or values of whole blocks of tokens, as packed codes and the two ends of each range.

    Args:
        bits: 2 to 8.
        per: tokens in a block, and numbers that share a range (fewer where a head has fewer
            channels).
        ends: the type of a range's ends. They are rounded outwards, so that nothing is clipped.
        by_channel: ranges along tokens, for keys; else along channels, for values.
    """

    def __init__(self, bits: int, per: int, ends: torch.dtype, by_channel: bool) -> None:
        self.bits, self.per, self.ends, self.by_channel = bits, per, ends, by_channel
        self.clear()

    def clear(self) -> None:
        """Hold nothing."""
        self.stream: Tensor | None = None  # (batch, heads, blocks, bytes)
        self.low: Tensor | None = None  # (batch, heads, blocks, ranges)
        self.high: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of tokens."""
        return 0 if self.stream is None else self.stream.shape[2] * self.per

    def tensors(self) -> list[Tensor]:
        """Return all that is held."""
        return [] if self.stream is None else [self.stream, self.low, self.high]

    def each(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change each tensor that is held."""
        if self.stream is not None:
            self.stream, self.low, self.high = map(change, self.tensors())

    def add(self, states: States) -> None:
        """Append whole blocks.

        Raises:
            ValueError: an entry that is NaN or infinite, or too large for the type of the ends.
        """
        rows = self._rows(states)
        batch, heads, blocks, ranges, _ = rows.shape
        quantizer = self._quantizer(batch * heads * blocks * ranges, states).calibrate(rows)
        ends = [self._outwards(quantizer.low, down=True), self._outwards(quantizer.high)]
        self._fill(quantizer, *ends)
        stream = pack_bits(quantizer.codes(rows), self.bits, quantizer.qmin)
        new = [stream.reshape(batch, heads, blocks, -1)]
        new += [end.reshape(batch, heads, blocks, ranges) for end in ends]
        if self.stream is not None:
            new = [torch.cat(pair, 2) for pair in zip(self.tensors(), new, strict=True)]
        self.stream, self.low, self.high = new

    def floats(self, like: States) -> Float[Tensor, "batch heads coded dim"]:
        """Return what the codes stand for, in the type of other states."""
        batch, heads, blocks, ranges = self.low.shape
        dim = like.shape[-1]
        quantizer = self._quantizer(self.low.numel(), like)
        self._fill(quantizer, self.low, self.high)
        shape = batch, heads, blocks, ranges, self.per * dim // ranges
        codes = unpack_bits(self.stream.flatten(), self.bits, quantizer.qmin, shape)
        values = quantizer.decode(codes).to(like.dtype)
        values = values.transpose(-1, -2) if self.by_channel else values
        return values.reshape(batch, heads, blocks * self.per, dim)

    def cut(self, tokens: int) -> None:
        """Keep the first blocks alone, as many as lie within so many tokens."""
        if blocks := tokens // self.per:
            self.each(lambda tensor: tensor[:, :, :blocks].clone())
        else:
            self.clear()

    def _rows(self, states: States) -> Float[Tensor, "batch heads blocks ranges _"]:
        blocks = states.unflatten(2, (-1, self.per))  # (batch, heads, blocks, per, dim)
        if self.by_channel:
            return blocks.transpose(-1, -2)
        return blocks.unflatten(-1, (-1, min(self.per, states.shape[-1]))).flatten(3, 4)

    def _quantizer(self, ranges: int, like: Tensor) -> Uniform:
        return Uniform(self.bits, groups=ranges).to(like.device)

    def _fill(self, quantizer: Uniform, low: Tensor, high: Tensor) -> None:
        quantizer.fill(quantizer.low, low.flatten())
        quantizer.fill(quantizer.high, high.flatten())

    def _outwards(self, end: Tensor, down: bool = False) -> Tensor:
        """Round one end of the ranges away from the other."""
        edge = -torch.inf if down else torch.inf
        near = end.to(self.ends)
        inside = near > end if down else near < end
        found = torch.where(inside, near.nextafter(torch.full_like(near, edge)), near)
        if not bool(found.isfinite().all()):
            raise ValueError(
                f"ends of ranges in {self.ends} reach to {torch.finfo(self.ends).max:,.0f}, a key "
                f"or value is {float(end.abs().max()):,.0f}; take ranges='float32'"
            )
        return found
