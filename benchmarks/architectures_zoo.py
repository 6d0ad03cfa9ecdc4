"""Tiny random models of many architectures, with the batch that each is called with.

Every one is built from its own config: width 32, two layers, random weights. ``small`` of the tests
shrinks a config by the names of its options; what it cannot know stands here, beside the class.
"""

import inspect
import sys
from pathlib import Path

import torch
import transformers

sys.path.append(str(Path(__file__).parents[1] / "tests" / "hf"))

from tiny_models import small

SOUND = {"conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3)}
SOUND |= {"num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8, "vocab_size": 20}
SOUND |= {"num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0}
STAGES = {"depths": [1, 1], "embed_dim": 16, "num_heads": [2, 4]}
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 99}
TEXT |= {"num_attention_heads": 4, "max_position_embeddings": 64}
TEXT |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 1}
EYES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
EYES |= {"num_attention_heads": 4, "image_size": 32, "patch_size": 8}
STATE = {"state_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 99}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
RESNET = {"model_type": "resnet", "embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}
RESNET |= {"layer_type": "basic", "out_features": ["stage2"]}

ZOO: dict[str, dict[str, dict]] = {  # kind -> class -> options that ``small`` cannot know
    "encoder": {
        "BertForMaskedLM": {},
        "RobertaForSequenceClassification": {"num_labels": 3},
        "XLMRobertaForMaskedLM": {},
        "AlbertForMaskedLM": {"embedding_size": 16, "inner_group_num": 1},
        "MPNetForMaskedLM": {},
        "DebertaForMaskedLM": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        "DebertaV2ForMaskedLM": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        "ModernBertForMaskedLM": {},
        "ElectraForPreTraining": {"embedding_size": 32},
        "DistilBertForMaskedLM": {"dim": 32, "hidden_dim": 48},
        "XLNetLMHeadModel": {"d_inner": 48},
        "MobileBertForMaskedLM": {
            **{"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
        },
        "ConvBertForMaskedLM": {"embedding_size": 32, "conv_kernel_size": 3, "head_ratio": 2},
        "FNetForMaskedLM": {},
        "RoFormerForMaskedLM": {"embedding_size": 32},
        "SqueezeBertForMaskedLM": {"embedding_size": 32},
        "LongformerForMaskedLM": {"attention_window": 4},
        "FunnelForMaskedLM": {"block_sizes": [1, 1], "d_head": 8, "d_inner": 48, "n_head": 4},
    },
    "decoder": {
        "GPT2LMHeadModel": {},
        "GPTNeoForCausalLM": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
        "GPTNeoXForCausalLM": {},
        "GPTJForCausalLM": {"rotary_dim": 4},
        "OPTForCausalLM": {"word_embed_proj_dim": 32},
        "BloomForCausalLM": {},
        "LlamaForCausalLM": {},
        "MistralForCausalLM": {},
        "Qwen2ForCausalLM": {"tie_word_embeddings": True},
        "Qwen3ForCausalLM": {},
        "GemmaForCausalLM": {},
        "Gemma2ForCausalLM": {},
        "Gemma3ForCausalLM": {},
        "PhiForCausalLM": {},
        "Phi3ForCausalLM": {},
        "FalconForCausalLM": {},
        "StableLmForCausalLM": {},
        "Olmo2ForCausalLM": {},
        "CohereForCausalLM": {},
        "SmolLM3ForCausalLM": {},
        "BartForCausalLM": {},
    },
    "encoder-decoder": {
        "T5ForConditionalGeneration": {},
        "MT5ForConditionalGeneration": {},
        "UMT5ForConditionalGeneration": {},
        "BartForConditionalGeneration": {},
        "MBartForConditionalGeneration": {},
        "MarianMTModel": {},
        "PegasusForConditionalGeneration": {},
        "BlenderbotSmallForConditionalGeneration": {},
        "M2M100ForConditionalGeneration": {},
        "ProphetNetForConditionalGeneration": {},
        "LEDForConditionalGeneration": {
            **{"attention_window": 4, "max_encoder_position_embeddings": 64},
            **{"max_decoder_position_embeddings": 64},
        },
    },
    "vision": {
        "ViTForImageClassification": {},
        "DeiTForImageClassification": {},
        "BeitForImageClassification": {},
        "Dinov2ForImageClassification": {},
        "SwinForImageClassification": STAGES | {"window_size": 4, "patch_size": 4},
        "Swinv2ForImageClassification": STAGES | {"window_size": 4, "patch_size": 4},
        "ConvNextForImageClassification": {"hidden_sizes": [16, 32], "depths": [1, 1]}
        | {"num_stages": 2},
        "ResNetForImageClassification": {k: v for k, v in RESNET.items() if "_f" not in k},
        "SegformerForSemanticSegmentation": {
            **{"hidden_sizes": [16, 32], "depths": [1, 1], "num_attention_heads": [2, 4]},
            **{"num_encoder_blocks": 2, "sr_ratios": [2, 1], "strides": [4, 2]},
            **{"patch_sizes": [7, 3], "mlp_ratios": [2, 2], "decoder_hidden_size": 32},
        },
        "DetrForObjectDetection": {
            **{"use_timm_backbone": False, "backbone": None, "backbone_config": RESNET},
            **{"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 6},
            **{"encoder_ffn_dim": 48, "decoder_ffn_dim": 48},
        },
        "YolosForObjectDetection": {"num_detection_tokens": 6, "image_size": [32, 32]},
        "MobileViTForImageClassification": {
            **{"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 8, 16, 16, 24, 32]},
        },
        "PvtForImageClassification": {
            **{"hidden_sizes": [16, 32], "depths": [1, 1], "num_attention_heads": [2, 4]},
            **{"num_encoder_blocks": 2, "strides": [4, 2], "patch_sizes": [4, 2]},
            **{"sequence_reduction_ratios": [2, 1], "mlp_ratios": [2, 2], "image_size": 32},
        },
    },
    "speech": {
        "Wav2Vec2ForCTC": SOUND,
        "HubertForCTC": SOUND,
        "WavLMForCTC": SOUND,
        "Wav2Vec2ConformerForCTC": SOUND | {"conv_depthwise_kernel_size": 3},
        "Data2VecAudioForCTC": SOUND | {"conv_pos_kernel_size": 3, "num_conv_pos_embeddings": 2},
        "SEWForCTC": SOUND | {"squeeze_factor": 2},
        "WhisperForConditionalGeneration": {"max_source_positions": 10, "num_mel_bins": 16},
        "Speech2TextForConditionalGeneration": {
            **{"max_source_positions": 40, "conv_channels": 16, "num_conv_layers": 2},
            **{"input_feat_per_channel": 16, "conv_kernel_sizes": [3, 3]},
        },
        "ASTForAudioClassification": {"max_length": 32, "num_mel_bins": 16}
        | {"frequency_stride": 8, "time_stride": 8},
    },
    "multimodal": {
        "CLIPModel": {},
        "SiglipModel": {},
        "BlipForConditionalGeneration": {},
        "ViltForQuestionAnswering": {},
        "LlavaForConditionalGeneration": {
            **{"vision_config": EYES | {"model_type": "clip_vision_model", "projection_dim": 32}},
            **{"text_config": TEXT | {"model_type": "llama"}, "image_token_index": 98},
        },
        "AltCLIPModel": {},
        "GroupViTModel": {},
    },
    "mixture of experts": {
        "MixtralForCausalLM": EXPERTS,
        "Qwen2MoeForCausalLM": EXPERTS | {"moe_intermediate_size": 24},
        "Qwen3MoeForCausalLM": EXPERTS | {"moe_intermediate_size": 24},
        "OlmoeForCausalLM": EXPERTS,
        "GptOssForCausalLM": EXPERTS,
        "GraniteMoeForCausalLM": EXPERTS,
        "PhimoeForCausalLM": EXPERTS,
        "SwitchTransformersForConditionalGeneration": {"num_experts": 4},
        "DeepseekV3ForCausalLM": {
            **{"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2},
            **{"moe_intermediate_size": 24, "first_k_dense_replace": 1, "q_lora_rank": 16},
            **{"kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
        },
    },
    "state space": {
        "MambaForCausalLM": STATE,
        "Mamba2ForCausalLM": STATE | {"head_dim": 8, "num_heads": 8, "n_groups": 2},
        "FalconMambaForCausalLM": STATE,
        "RwkvForCausalLM": {"attention_hidden_size": 32, "intermediate_size": 48},
        "BambaForCausalLM": {
            **{"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1},
            **{"attn_layer_indices": [1], "mamba_chunk_size": 8},
        },
        "JambaForCausalLM": EXPERTS
        | {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False}
        | {"mamba_d_state": 8, "mamba_dt_rank": 4, "expert_layer_period": 2}
        | {"expert_layer_offset": 1},
        "RecurrentGemmaForCausalLM": {"lru_width": 32, "block_types": ["recurrent", "attention"]},
    },
}

ALTERNATING = (  # whose second layer is of another kind, or the same once more
    *("Albert", "ModernBert", "Funnel", "GPTNeoForC", "Gemma2", "Gemma3", "GptOss"),
    *("SwitchT", "DeepseekV3", "Bamba", "Jamba", "RecurrentGemma", "BertForM", "LlamaForC", "Rwkv"),
)


def kinds() -> dict[str, str]:
    """Return class -> kind of every architecture."""
    return {name: kind for kind, models in ZOO.items() for name in models}


def config_of(name: str) -> object:
    """Return the small config of an architecture."""
    cls = getattr(transformers, name)
    options = ZOO[kinds()[name]][name]
    return small(cls.config_class, options, layers=2 if name.startswith(ALTERNATING) else 1)


def build(name: str) -> tuple[torch.nn.Module, dict]:
    """Return (model in evaluation mode, its batch).

    Weights of two axes are three times as wide as transformers draws them: attention would be
    nearly uniform. What starts at zero or nearly so is drawn, too: biases, BLIP's eyes.
    """
    torch.manual_seed(0)
    model = getattr(transformers, name)(config_of(name)).eval()
    if model.config.is_encoder_decoder and model.can_generate():
        model.generation_config.decoder_start_token_id = 1
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.requires_grad or not parameter.numel():  # such as tables of sines
                continue
            if float(parameter.abs().max()) < 1e-3:
                parameter.normal_(std=0.1)
            elif parameter.dim() > 1:
                parameter.mul_(3)
    batch = batch_of(model)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    if norms:  # untrained, these would see other numbers in evaluation than in training
        with torch.no_grad():
            for norm in norms:
                norm.momentum = 1.0
            model.train()(**batch)
        model.eval()
    return model, batch


def batch_of(model: torch.nn.Module) -> dict:
    """Return what a model is called with, in two rows."""
    torch.manual_seed(1)
    config, names = model.config, inspect.signature(model.forward).parameters
    ids = torch.randint(3, 90, (2, 8))
    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", 32)
    size = (size, size) if isinstance(size, int) else tuple(size)
    given = {"input_ids": ids, "input_values": torch.randn(2, 1200)}
    given["pixel_values"] = torch.randn(2, getattr(vision, "num_channels", 3), *size)
    bands = getattr(config, "num_mel_bins", None) or getattr(config, "input_feat_per_channel", 16)
    frames = 2 * getattr(config, "max_source_positions", 10)
    given["input_features"] = torch.randn(2, bands, frames)
    if config.model_type == "speech_to_text":
        given["input_features"] = torch.randn(2, 40, bands)
    if config.model_type == "audio-spectrogram-transformer":
        given["input_values"] = torch.randn(2, config.max_length, bands)
    if config.model_type == "llava":
        given["input_ids"][:, :16] = 3
        given["input_ids"] = torch.cat([torch.full((2, 16), 98), ids], 1)
    used = {model.main_input_name} | {"pixel_values", "input_ids"} & set(names)
    if config.is_encoder_decoder:
        given["decoder_input_ids"] = ids
        used.add("decoder_input_ids")
    return {name: given[name] for name in given if name in used and name in names}
