"""A decoder's keys and values as codes of few bits: a cache for transformers' ``generate``.

The newest tokens stay in floats. Older ones are coded in blocks of ``per`` tokens, once, and not
rounded again (unless ``crop`` cuts into a block): keys with a range for each channel of a block,
values with one for each token and ``per`` channels. A channel of the keys is large or small at all
tokens alike, and such a channel must not set the scale of its neighbors; ``benchmarks/kv_cache.py``
measures both ways. A range within a token keeps an error of the values within that token.

Source: spec sheet on post-training methods, section 6 (KIVI, arXiv 2402.02750, recalled there).
Blocks, that values wait for a whole one too, and ends of ranges in 16 bits are our choices.
"""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from ..arguments import require
from ..quantizers.rounding import integer_range
from .coded_states import Coded

RANGES = {"float16": torch.float16, "float32": torch.float32}


class CodedLayer(DynamicLayer):
    """The cache of one layer: ``codes`` of old keys and values; ``keys``, ``values`` of new ones.

    Args:
        bits, per, window, ranges: as in ``QuantizedCache``.
    """

    is_croppable = False  # in transformers' sense, without a trace; see ``crop``

    def __init__(self, bits: int, per: int, window: int, ranges: str) -> None:
        super().__init__()
        self.bits, self.per, self.window = bits, per, window
        self.codes = [Coded(bits, per, RANGES[ranges], by_channel) for by_channel in (True, False)]

    def __repr__(self) -> str:
        return f"CodedLayer(bits={self.bits}, per={self.per}, window={self.window})"

    @property
    def nbytes(self) -> int:
        """Bytes in memory: codes, ends of ranges, and the newest tokens in floats."""
        held = [self.keys, self.values] if self.is_initialized else []
        held += [tensor for codes in self.codes for tensor in codes.tensors()]
        return sum(tensor.untyped_storage().nbytes() for tensor in held)

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
        self.keys, self.values = (s[:, :, :0].clone() for s in (key_states, value_states))
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
        floats = [
            torch.cat([held, new], -2)
            for held, new in ((self.keys, key_states), (self.values, value_states))
        ]
        pairs = list(zip(self.codes, floats, strict=True))
        seen = [torch.cat([c.floats(x), x], -2) if len(c) else x for c, x in pairs]
        old = (floats[0].shape[-2] - self.window) // self.per * self.per
        if old > 0:
            for codes, states in pairs:
                codes.add(states[:, :, :old])
            floats = [states[:, :, old:].clone() for states in floats]  # a view would keep the rest
        self.keys, self.values = floats
        return seen[0], seen[1]

    def get_seq_length(self) -> int:
        """Return the number of tokens held."""
        return len(self.codes[0]) + self.keys.shape[-2] if self.is_initialized else 0

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
        for codes, states in zip(self.codes, (self.keys, self.values), strict=True):
            if kept < len(codes):
                states = torch.cat([codes.floats(states)[:, :, kept:], states], -2)
                codes.cut(kept)
            found.append(states[:, :, : left - kept].clone())
        self.keys, self.values = found

    def reset(self) -> None:
        """Hold no token, as at the start."""
        super().reset()
        for codes in self.codes:
            codes.clear()

    def each(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change each tensor that is held: all have the batch as their first axis."""
        if self.is_initialized:
            self.keys, self.values = change(self.keys), change(self.values)
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


class QuantizedCache(Cache):
    """Hold a decoder's keys and values in few bits: ``generate(past_key_values=...)`` takes it.

    Args:
        config: of the model.
        bits: 2 to 8, of a code.
        per: numbers that share a range, a multiple of 8: so many tokens of a channel for keys, so
            many channels of a token for values (all of a head's where they are fewer).
        window: so many of the newest tokens stay in floats, at least; the next ``per`` wait there
            for a whole block.
        ranges: "float16" or "float32", for the two ends of a range.

    A coded number takes ``bits`` and its part of a range, 32 / ``per`` bits with ends in float16;
    no error is larger than half a step of its range. Attention is computed in floats: those of one
    layer are there while it runs, and no call is faster for the codes. One cache is for one text
    (or batch); ``reset`` makes it new. Padded tokens lie in the first ranges, too.

    Raises:
        ValueError: bits, per, window or ranges out of range; a model whose cache is more than keys
            and values of all tokens: sliding windows, states of a recurrence, an encoder.
        TypeError: arguments of another kind, such as the model in place of its config.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = {"hidden_size": 16, "intermediate_size": 8, "num_attention_heads": 2}
    >>> llama = LlamaForCausalLM(LlamaConfig(vocab_size=9, num_hidden_layers=1, **sizes))
    >>> cache = QuantizedCache(llama.config, bits=4, per=8, window=8)
    >>> with torch.no_grad():
    ...     _ = llama(torch.ones(1, 32, dtype=torch.long), past_key_values=cache)
    >>> cache.get_seq_length(), cache.nbytes  # 24 of 32 tokens at 4 + 32 / 8 bits
    (32, 1792)
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        bits: int = 4,
        *,
        per: int = 32,
        window: int = 32,
        ranges: str = "float16",
    ) -> None:
        integer_range(bits)
        require("QuantizedCache: config", config, PreTrainedConfig)
        if require("QuantizedCache: per", per, int) < 8 or per % 8:
            raise ValueError(f"per is a multiple of 8, so that blocks are whole bytes; got {per}")
        if require("QuantizedCache: window", window, int) < 0:
            raise ValueError(f"window is the number of newest tokens in floats, got {window}")
        if ranges not in RANGES:
            raise ValueError(f"ranges is one of {tuple(RANGES)}, got {ranges!r}")
        if config.is_encoder_decoder:
            raise ValueError(
                f"a QuantizedCache is for decoders alone, {type(config).__name__} has an encoder; "
                "take its own cache"
            )
        kinds = {type(layer) for layer in DynamicCache(config=config).layers}
        if kinds != {DynamicLayer}:
            names = sorted(kind.__name__ for kind in kinds - {DynamicLayer})
            raise ValueError(
                "a QuantizedCache holds keys and values of all tokens, and "
                f"{type(config).__name__} asks for {', '.join(names)}; take its own cache"
            )
        count = config.get_text_config(decoder=True).num_hidden_layers
        super().__init__(layers=[CodedLayer(int(bits), per, window, ranges) for _ in range(count)])

    @property
    def nbytes(self) -> int:
        """Bytes in memory, of all layers: codes, ends of ranges, and newest tokens in floats."""
        return sum(layer.nbytes for layer in self.layers)
