"""A tiny random model for every entry of the table of anatomies, and zeros in it."""

from collections.abc import Iterable

import pytest
import torch
from torch import nn
from transformers import AutoConfig
from transformers import AutoModelForAudioClassification as Sounds
from transformers import AutoModelForCausalLM as Causal
from transformers import AutoModelForCTC as CTC
from transformers import AutoModelForImageClassification as Pictures
from transformers import AutoModelForSeq2SeqLM as Seq2Seq
from transformers import AutoModelForSequenceClassification as Sentences
from transformers import AutoModelForSpeechSeq2Seq as Speech
from transformers import AutoModelForZeroShotImageClassification as Pairs

from tqlearn.kinds import is_conv1d
from tqlearn.sparsity import transformer_layers
from tqlearn.sparsity.matching import model_type

PAD = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
}  # fmt: skip
TEXT = {**SMALL, **PAD, "vocab_size": 64, "max_position_embeddings": 40}
GROUPED = {**TEXT, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8}
PICTURE = {**SMALL, "image_size": 16, "patch_size": 8}
SEQ = {
    **PAD, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40, "vocab_size": 64,
    "max_position_embeddings": 40, "decoder_start_token_id": 2, "forced_eos_token_id": None,
}  # fmt: skip
T5 = {
    **PAD, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 64,
    "decoder_start_token_id": 1,
}  # fmt: skip
DEBERTA = {
    **TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0,
    "max_relative_positions": 16, "position_buckets": 8, "share_att_key": False,
}  # fmt: skip
WAVE = {
    **SMALL, "vocab_size": 32, "conv_dim": [16, 16], "conv_kernel": [10, 3], "conv_stride": [5, 2],
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16, "pad_token_id": 0,
    "num_conv_pos_embedding_groups": 4, "feat_extract_norm": "layer", "layerdrop": 0.0,
    "mask_time_prob": 0.0,
}  # fmt: skip
SPEECH = {**SEQ, "input_feat_per_channel": 16, "conv_channels": 32, "max_source_positions": 40}
SPECTROGRAM = {
    **SMALL, "max_length": 32, "num_mel_bins": 16, "patch_size": 8, "frequency_stride": 8,
    "time_stride": 8,
}  # fmt: skip
CLIP = {
    "text_config": TEXT, "vision_config": PICTURE, "projection_dim": 16, **PAD,
}  # fmt: skip
DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": 64}
GPT2 = {
    **PAD, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "vocab_size": 64,
    "n_positions": 40,
}  # fmt: skip
MODELS = {  # entry -> its models: class with a head, type of config, options
    "BERT": {"bert": (Sentences, "bert", TEXT)},
    "MegatronBERT": {"megatron-bert": (Sentences, "megatron-bert", TEXT)},
    "DistilBERT": {"distilbert": (Sentences, "distilbert", DISTIL)},
    "ALBERT": {"albert": (Sentences, "albert", {**TEXT, "embedding_size": 16})},
    "MPNet": {"mpnet": (Sentences, "mpnet", TEXT)},
    "DeBERTa": {"deberta": (Sentences, "deberta", DEBERTA)},
    "DeBERTa v2": {
        "deberta-v3": (Sentences, "deberta-v2", DEBERTA),
        "deberta-v3, shared keys": (Sentences, "deberta-v2", {**DEBERTA, "share_att_key": True}),
    },
    "ModernBERT": {
        "modernbert": (Sentences, "modernbert", {**TEXT, "global_attn_every_n_layers": 2})
    },
    "ViT": {
        "vit": (Pictures, "vit", PICTURE),
        "spectrogram": (Sounds, "audio-spectrogram-transformer", SPECTROGRAM),
    },
    "CLIP": {"clip": (Pairs, "clip", CLIP)},
    "Wav2Vec2": {"wav2vec2": (CTC, "wav2vec2", WAVE)},
    "BART": {
        "bart": (Seq2Seq, "bart", SEQ),
        "bart, classes": (Sentences, "bart", SEQ),
        "marian": (Seq2Seq, "marian", SEQ),
        "opt": (Causal, "opt", {**TEXT, "ffn_dim": 48, "word_embed_proj_dim": 32}),
        "speech to text": (Speech, "speech_to_text", SPEECH),
    },
    "T5": {
        "t5": (Seq2Seq, "t5", T5),
        "t5, classes": (Sentences, "t5", T5),
        "t5, gated": (Seq2Seq, "t5", {**T5, "feed_forward_proj": "gated-gelu"}),
    },
    "UMT5": {"umt5": (Seq2Seq, "umt5", T5)},
    "GPT-2": {"gpt2": (Causal, "gpt2", GPT2)},
    "GPT-NeoX": {"gpt-neox": (Causal, "gpt_neox", TEXT)},
    "Llama": {
        "llama": (Causal, "llama", GROUPED),
        "mistral": (Causal, "mistral", {**GROUPED, "sliding_window": 4}),
        "qwen2, biases": (Causal, "qwen2", GROUPED),
        "qwen3, norms": (Causal, "qwen3", GROUPED),
        "gemma": (Causal, "gemma", GROUPED),
        "gemma2": (Causal, "gemma2", {**GROUPED, "sliding_window": 4}),
        "gemma3": (Causal, "gemma3_text", {**GROUPED, "sliding_window": 4}),
        "glm, one layer for gate and up": (Causal, "glm", GROUPED),
    },
    "Mixtral": {"mixtral": (Causal, "mixtral", {**GROUPED, "num_local_experts": 4})},
    "OLMo 2": {"olmo2": (Causal, "olmo2", GROUPED)},
    "Phi-3": {"phi3": (Causal, "phi3", GROUPED)},
    "BLOOM": {"bloom": (Causal, "bloom", {**PAD, "hidden_size": 32, "n_layer": 2, "n_head": 4,
                                          "vocab_size": 64})},
    "Falcon": {"falcon": (Causal, "falcon", TEXT)},
}  # fmt: skip
CASES = {name: case for models in MODELS.values() for name, case in models.items()}
FAST = {next(iter(models)) for models in MODELS.values()}  # the others run with -m slow
FAST |= {"t5, gated", "glm, one layer for gate and up", "qwen2, biases"}
WRITERS = {name for name, (auto, *_) in CASES.items() if auto in (Causal, Seq2Seq)}


def cases(names: Iterable[str] = CASES, fast: Iterable[str] = FAST) -> list:
    """Return names for a test to run on, all but the fast ones marked as slow."""
    slow = pytest.mark.slow
    return [n if n in fast else pytest.param(n, marks=slow) for n in CASES if n in names]


def made(name: str, seed: int = 0) -> nn.Module:
    """Return a model whose attention is not uniform and whose biases are not zero."""
    auto, kind, options = CASES[name]
    torch.manual_seed(seed)
    model = auto.from_config(AutoConfig.for_model(kind, **options)).eval()
    with torch.no_grad():
        for parameter in filter(lambda p: p.requires_grad, model.parameters()):
            if parameter.dim() > 1:
                parameter.mul_(4)
            elif not bool(parameter.any()):
                parameter.normal_(0, 0.5)
    return model


def inputs(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a ragged batch of three: padded on the right, on the left for decoders."""
    torch.manual_seed(1)
    config, batch = model.config, {}
    if config.model_type == "wav2vec2":
        return {"input_values": torch.randn(3, 400)}
    if config.model_type == "audio-spectrogram-transformer":
        return {"input_values": torch.randn(3, 32, 16)}
    if config.model_type == "speech_to_text":
        words = torch.randint(3, 64, (3, 5))
        return {"input_features": torch.randn(3, 40, 16), "decoder_input_ids": words}
    if config.model_type in ("vit", "clip"):
        batch["pixel_values"] = torch.randn(3, 3, 16, 16)
    if config.model_type != "vit":
        lengths = torch.tensor([9, 6, 3])
        mask = (torch.arange(9) < lengths[:, None]).long()
        ids = torch.randint(3, 64, (3, 9))
        if model.can_generate() and not config.is_encoder_decoder:
            mask = mask.flip(1)
        ids[mask == 0] = 1
        if config.is_encoder_decoder and not model.can_generate():
            ids[torch.arange(3), lengths - 1] = 2  # the class is read off at the end
        batch |= {"input_ids": ids, "attention_mask": mask}
        if config.is_encoder_decoder and model.can_generate():
            batch["decoder_input_ids"] = torch.randint(3, 64, (3, 5))
    return batch


@torch.no_grad()
def outputs(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the numbers that a head makes, where the batch is no padding."""
    found = model(**batch)
    found = found.logits if "logits" in found else found.logits_per_image
    ragged = batch["attention_mask"].bool() if "attention_mask" in batch else None
    if ragged is not None and found.shape[:2] == ragged.shape:
        return found[ragged]
    return found


def assert_same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Two ways to the same sums agree to a 10,000th of the largest output.

    Rounding differs by order of sums and by processor, and the layers of a T5, which scale nothing,
    enlarge it. That a single head is seen has a test of its own.
    """
    difference = float((found - wanted).abs().max() / wanted.abs().max())
    assert found.shape == wanted.shape and difference < 1e-4


def weight(model: nn.Module, name: str) -> torch.Tensor:
    """Return the weight of a linear layer as (out, in), to write into."""
    module = model.get_submodule(name)
    return module.weight.data.T if is_conv1d(module) else module.weight.data


def kill(model: nn.Module, kind: str | None = None) -> nn.Module:
    """Empty heads and dimensions, in place, in every way that compaction may use.

    Of every attention one group's value (its bias stays) and another's columns of the output; of
    every FFN a quarter of the rows (their biases stay) and another quarter of the columns. With a
    ``kind`` only in parts of that model type.
    """
    modules = dict(model.named_modules())
    for layer in transformer_layers(model):
        if kind not in (None, model_type(layer.name, modules)):
            continue
        if layer.entry is not None:
            output = weight(model, layer.output)
            heads = output.shape[1] // layer.head_size
            groups = heads // layer.group
            weight(model, layer.value)[layer.rows("value", groups)[1]] = 0
            if groups > 2:
                output[:, layer.rows("output", heads).view(groups, -1)[2]] = 0
        if layer.down:
            down = weight(model, layer.down)
            size = down.shape[1]
            for name, own in zip((layer.gate, layer.up), layer.gates(size), strict=True):
                if name:
                    weight(model, name)[own.nonzero().flatten()[: size // 4]] = 0
            down[:, size // 2 : size // 2 + size // 4] = 0
    return model
