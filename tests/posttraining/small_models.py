"""Tiny random models of the families that are scaled and rotated, and inputs for them."""

import torch
import transformers as tf
from torch import nn

PAD = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
TEXT = {
    **PAD, "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 40,
}  # fmt: skip
GROUPED = {**TEXT, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True}
GPT2 = {**PAD, "vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}
T5 = {**PAD, "vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2,
      "num_heads": 4, "decoder_start_token_id": 1}  # fmt: skip
PICTURE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
           "intermediate_size": 48, "image_size": 16, "patch_size": 8}  # fmt: skip
MAKE = {
    "bert": lambda more: tf.BertForSequenceClassification(tf.BertConfig(**TEXT | more)),
    "albert": lambda more: tf.AlbertForSequenceClassification(
        tf.AlbertConfig(**TEXT | {"embedding_size": 16} | more)
    ),
    "llama": lambda more: tf.LlamaForCausalLM(tf.LlamaConfig(**GROUPED | more)),
    "llama, classes": lambda more: tf.LlamaForSequenceClassification(
        tf.LlamaConfig(**GROUPED | more)
    ),
    "mistral": lambda more: tf.MistralForCausalLM(tf.MistralConfig(**GROUPED | more)),
    "qwen2": lambda more: tf.Qwen2ForCausalLM(tf.Qwen2Config(**GROUPED | more)),
    "qwen3": lambda more: tf.Qwen3ForCausalLM(tf.Qwen3Config(**GROUPED | more)),
    "smollm3": lambda more: tf.SmolLM3ForCausalLM(tf.SmolLM3Config(**GROUPED | more)),
    "gemma": lambda more: tf.GemmaForCausalLM(tf.GemmaConfig(**GROUPED | more)),
    "gpt2": lambda more: tf.GPT2LMHeadModel(tf.GPT2Config(**GPT2 | more)),
    "t5": lambda more: tf.T5ForConditionalGeneration(tf.T5Config(**T5 | more)),
    "vit": lambda more: tf.ViTForImageClassification(tf.ViTConfig(**PICTURE | more)),
}


def made(name: str, **more: object) -> nn.Module:
    """Return a model whose attention is not uniform, with gains and biases of all sizes."""
    torch.manual_seed(0)
    model = MAKE[name](more).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
            elif key.endswith("bias"):
                parameter.normal_(0, 0.3)
            else:
                parameter.mul_(torch.rand_like(parameter) + 0.5)
    return model


def batches(model: nn.Module, count: int = 2) -> list[dict[str, torch.Tensor]]:
    """Return ragged batches of three."""
    torch.manual_seed(1)
    if model.config.model_type == "vit":
        return [{"pixel_values": torch.randn(3, 3, 16, 16)} for _ in range(count)]
    mask = (torch.arange(9) < torch.tensor([9, 6, 3])[:, None]).long()
    found = []
    for _ in range(count):
        ids = torch.randint(3, 64, (3, 9)).where(mask.bool(), 1)
        found.append({"input_ids": ids, "attention_mask": mask})
        if model.config.is_encoder_decoder:
            found[-1]["decoder_input_ids"] = torch.randint(3, 64, (3, 5))
    return found


@torch.no_grad()
def logits(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the outputs of a model, where the batch is no padding."""
    found, mask = model.eval()(**batch).logits, batch.get("attention_mask")
    same = mask is not None and found.shape[:2] == mask.shape
    return found[mask.bool()] if same else found


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the largest difference as a share of the largest output."""
    return float((a - b).abs().max() / b.abs().max())


def inputs_of(model: nn.Module, name: str, given: list[dict]) -> torch.Tensor:
    """Return what a module is called with at real positions, as rows."""
    seen: list[torch.Tensor] = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    for batch in given:
        logits(model, batch)
    hook.remove()
    masks = [batch["attention_mask"].bool() for batch in given]
    return torch.cat([x[mask] for x, mask in zip(seen, masks, strict=True)])
