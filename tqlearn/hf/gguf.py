"""Language models from a GGUF file: a transformers Llama in plain floats, and its tokenizer.

llama.cpp's format holds weights in blocks of codes, and all that is said of them as named values.
Here the blocks become floats once, and nothing marks the model as quantized: it is one like any
other.
"""

from collections.abc import Callable
from os import PathLike

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ..arguments import require

OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
INNER = {  # of blk.N -> of model.layers.N
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
SPLITS = {  # what cuts a text before byte pairs are merged, by the file's tokenizer.ggml.pre
    "gpt-2": [],
    "smollm": [pre_tokenizers.Digits(individual_digits=True)],
}
CONTROL = 3  # of tokenizer.ggml.token_type: a token that no text contains
OTHERWISE = (
    "transformers reads more kinds: AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=NAME), "
    "and tqlearn.compress takes what that gives"
)


def read_gguf(path: str | PathLike) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Read a Llama and its tokenizer from a GGUF file: float32, in eval mode.

    Args:
        path: a file whose weights are of any type that the package gguf decodes, and whose
            tokenizer merges bytes, cut as GPT-2's or SmolLM's. A table that also serves as the
            output layer stays one weight in two places.

    The weights are what the blocks hold, to the bit. llama.cpp reorders the rows of queries and
    keys, for its way to rotate neighbors; that is undone.

    Raises:
        ValueError: no GGUF file, another architecture or tokenizer, a scaled rotation, a tensor
            that has no place here or one that the file lacks.
        ModuleNotFoundError: gguf is not installed.

    Source: GGUF's named values are llama.cpp's; cuts as in its llama-vocab.cpp. transformers' own
    reader (5.23) leaves out SmolLM's cut between digits.
    """
    from gguf import GGUFReader

    require("read_gguf: path", path, str | PathLike)
    try:
        reader = GGUFReader(path)
    except (OSError, ValueError, IndexError) as error:
        raise ValueError(f"{path} cannot be read as GGUF ({error}); get it again") from error
    said = {name: field.contents() for name, field in reader.fields.items()}

    def tell(name: str) -> object:
        if name not in said:
            raise ValueError(f"{path} does not say {name!r}; it is damaged, get it again")
        return said[name]

    if (kind := tell("general.architecture")) != "llama":
        raise ValueError(f"{path} holds a {kind!r}, and only 'llama' is read here; {OTHERWISE}")
    if said.get("llama.rope.scaling.type", "none") != "none":
        raise ValueError(f"{path} scales its rotation, which is not read here; {OTHERWISE}")
    tokenizer = _tokenizer(path, tell, said)
    tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    config = _config(tell, said, tied)
    model, found = LlamaForCausalLM.from_pretrained(
        None,
        config=config,
        state_dict=_weights(path, reader.tensors, config),
        dtype=torch.float32,
        output_loading_info=True,
    )
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"{path} lacks {len(missing)} tensors, the first is {missing[0]!r}")
    return model.eval(), tokenizer


def _config(tell: Callable, said: dict, tied: bool) -> LlamaConfig:
    heads, width = tell("llama.attention.head_count"), tell("llama.embedding_length")
    return LlamaConfig(
        vocab_size=len(tell("tokenizer.ggml.tokens")),
        hidden_size=width,
        intermediate_size=tell("llama.feed_forward_length"),
        num_hidden_layers=tell("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=said.get("llama.attention.head_count_kv", heads),
        head_dim=said.get("llama.rope.dimension_count", width // heads),
        max_position_embeddings=tell("llama.context_length"),
        rms_norm_eps=tell("llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": said.get("llama.rope.freq_base", 10000.0),
        },
        tie_word_embeddings=tied,
        bos_token_id=said.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=said.get("tokenizer.ggml.eos_token_id"),
        pad_token_id=said.get("tokenizer.ggml.padding_token_id"),
    )


def _weights(path: str | PathLike, tensors: list, config: LlamaConfig) -> dict[str, Tensor]:
    """Return all tensors of the file as float32, by the names that they have in the model."""
    from gguf import dequantize

    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    found = {}
    for tensor in tensors:
        *front, part, key = tensor.name.split(".")
        if front:
            name = INNER.get(part) if len(front) == 2 and front[0] == "blk" else None
            name = name and f"model.layers.{front[1]}.{name}"
        else:
            name = OUTER.get(part)
        if name is None or key != "weight":
            raise ValueError(f"{path}: {tensor.name!r} has no place in a Llama; {OTHERWISE}")
        weight = torch.tensor(np.asarray(dequantize(tensor.data, tensor.tensor_type)))
        found[f"{name}.{key}"] = in_halves(weight, heads[part]) if part in heads else weight
    return found


def in_halves(weight: Tensor, heads: int) -> Tensor:
    """Return rows of queries or keys in the order of transformers, from llama.cpp's.

    In a head, llama.cpp rotates row 2k with row 2k + 1, transformers row k with row k + half.

    Args:
        weight: (rows, width), heads one after the other.

    >>> in_halves(torch.arange(8.0)[:, None], heads=2)[:, 0].tolist()
    [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]
    """
    pairs = weight.reshape(heads, -1, 2, weight.shape[-1])
    return pairs.transpose(1, 2).reshape(weight.shape)


def _tokenizer(path: str | PathLike, tell: Callable, said: dict) -> PreTrainedTokenizerFast:
    kind, cut = tell("tokenizer.ggml.model"), said.get("tokenizer.ggml.pre")
    if kind != "gpt2" or cut not in SPLITS or said.get("tokenizer.ggml.add_bos_token"):
        raise ValueError(
            f"{path} has a tokenizer {kind!r} with the cut {cut!r}; read here is 'gpt2' with one "
            f"of {[*SPLITS]} and no token before the text; {OTHERWISE}"
        )
    tokens = tell("tokenizer.ggml.tokens")
    merges = [tuple(pair.split(" ")) for pair in tell("tokenizer.ggml.merges")]
    words = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    parts = [*SPLITS[cut], pre_tokenizers.ByteLevel(add_prefix_space=False)]
    words.pre_tokenizer, words.decoder = pre_tokenizers.Sequence(parts), decoders.ByteLevel()
    types = said.get("tokenizer.ggml.token_type", [])
    control = [t for t, kind in zip(tokens, types, strict=False) if kind == CONTROL]
    words.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])
    roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {role: said.get(f"tokenizer.ggml.{name}_token_id") for role, name in roles.items()}
    named = {f"{role}_token": tokens[i] for role, i in ids.items() if i is not None}
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=tell("llama.context_length"),
        chat_template=said.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        **named,
    )
