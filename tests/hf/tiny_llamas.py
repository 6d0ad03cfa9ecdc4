"""A tiny Llama, and a GGUF file of one as llama.cpp would write it."""

from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

SPECIAL = ["<|endoftext|>", "<|im_end|>"]
MERGES = ["t h", "th e", "Ġ the", "1 2"]  # digits never meet, so the last one is never used
TOKENS = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
TOKENS += [pair.replace(" ", "") for pair in MERGES]
NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def tiny_llama(**settings: object) -> LlamaForCausalLM:
    """A random Llama in eval mode: 2 layers of width 32, 4 heads on 2 pairs of key and value."""
    sizes = {
        "vocab_size": len(TOKENS), "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 64, "tie_word_embeddings": True, "bos_token_id": 0,
        "eos_token_id": 1, "pad_token_id": None, "initializer_range": 0.3,
    }  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**sizes | settings)).eval()


def in_pairs(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of queries or keys as llama.cpp has them: row k of a head beside row k + half."""
    halves = weight.reshape(heads, 2, -1, weight.shape[-1])
    return torch.stack([halves[:, 0], halves[:, 1]], 2).reshape(weight.shape)


def file_tensors(model: LlamaForCausalLM) -> dict[str, torch.Tensor]:
    """All tensors by llama.cpp's names."""
    config, found = model.config, {}
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if name.startswith("model.layers."):
            _, _, number, *middle, key = name.split(".")
            part = NAMES[".".join(middle)]
            tensor = in_pairs(tensor, heads[part]) if part in heads else tensor
            found[f"blk.{number}.{part}.{key}"] = tensor
        else:
            found[OUTER[name]] = tensor
    return found


def write_gguf(path: Path, model: LlamaForCausalLM, *, arch="llama", pre="smollm", scaling=None,
               tensors=None, merges=True) -> Path:  # fmt: skip
    """Write a model with matrices as Q4_1 and norms as floats."""
    from gguf import GGMLQuantizationType, GGUFWriter, quantize

    config, writer = model.config, GGUFWriter(str(path), arch)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if scaling:
        writer.add_string(f"{arch}.rope.scaling.type", scaling)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)))
    if merges:
        writer.add_token_merges(MERGES)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    for name, tensor in (tensors or file_tensors(model)).items():
        data, kind = tensor.detach().numpy(), GGMLQuantizationType.F32
        if tensor.dim() == 2:
            kind = GGMLQuantizationType.Q4_1
            data = quantize(data, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
