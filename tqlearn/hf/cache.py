"""A decoder's keys and values as codes of few bits: a cache for transformers' ``generate``.

The newest tokens stay in floats. Older ones are coded in blocks of ``per`` tokens, once, and not
rounded again (unless ``crop`` cuts into a block): keys with a range for each channel of a block,
values with one for each token and ``per`` channels. A channel of the keys is large or small at all
tokens alike, and such a channel must not set the scale of its neighbors; ``benchmarks/kv_cache.py``
measures both ways. A range within a token keeps an error of the values within that token.

Source: spec sheet on post-training methods, section 6 (KIVI, arXiv 2402.02750, recalled there).
Blocks, that values wait for a whole one too, and ends of ranges in 16 bits are our choices.
"""

import copy

from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache

from ..arguments import require
from ..quantizers.rounding import integer_range
from .coded_layer import RANGES, CodedLayer


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

    Models with an encoder (T5, BART, Whisper) have a cache in two parts: ``with_encoder``.

    Raises:
        ValueError: bits, per, window or ranges out of range; a model whose cache is more than keys
            and values of all tokens: sliding windows, states of a recurrence, an encoder.
        TypeError: arguments of another kind, such as the model in place of its config.

    >>> import torch
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
                f"{type(config).__name__} has an encoder, and one cache would mix its tokens with "
                "the decoder's; take QuantizedCache.with_encoder(config), which holds two"
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

    @classmethod
    def with_encoder(
        cls, config: PreTrainedConfig, bits: int = 4, **settings: int | str
    ) -> EncoderDecoderCache:
        """Return the cache of an encoder-decoder: one for what is written, one for the source.

        ``self_attention_cache`` holds the decoder's keys and values as above; its
        ``cross_attention_cache`` those of the source, which each layer of the decoder reads.
        transformers crops no such cache, so ``prompt_lookup_num_tokens`` and assistants do not go
        with it.

        Args:
            config: of the whole model.
            bits, settings: of both, as above.

        Raises:
            ValueError: a model without an encoder; the rest as above.

        >>> from transformers import T5Config
        >>> cache = QuantizedCache.with_encoder(T5Config(num_layers=1), bits=8, window=0)
        >>> cache.cross_attention_cache.layers
        [CodedLayer(bits=8, per=32, window=0)]
        """
        require("QuantizedCache: config", config, PreTrainedConfig)
        if not config.is_encoder_decoder:
            raise ValueError(f"{type(config).__name__} has no encoder; take QuantizedCache(config)")
        own = copy.deepcopy(config.get_text_config(decoder=True))
        own.is_encoder_decoder = False
        if (count := getattr(own, "num_decoder_layers", None)) is not None:
            try:
                own.num_hidden_layers = count  # T5 counts the layers of each side
            except NotImplementedError:  # ProphetNet's is the number of the other side
                own.num_encoder_layers = count
        return EncoderDecoderCache(cls(own, bits, **settings), cls(own, bits, **settings))

    @property
    def nbytes(self) -> int:
        """Bytes in memory, of all layers: codes, ends of ranges, and newest tokens in floats."""
        return sum(layer.nbytes for layer in self.layers)
