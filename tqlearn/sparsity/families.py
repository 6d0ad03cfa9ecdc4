"""One table of anatomies: where the matrices of a layer are, one entry per family of models.

An entry is data: names as they are in transformers 5, and what else in a layer counts heads.
``ANATOMIES["Mine"] = Anatomy(...)`` adds one; later entries are tried first. The page "Add your
architecture" of the documentation goes through an example.
"""

from dataclasses import replace

from .entries import FFN, Anatomy, Attention

# ``model_type`` of every model that was tried, masked against compacted
NAMES: dict[str, tuple[str, ...]] = {
    name: tuple(kinds.split())
    for name, kinds in {
        "BERT": (
            "altclip_text_model bert bert-generation camembert chinese_clip_text_model "
            "data2vec-text dpr electra ernie layoutlm markuplm roberta roberta-prelayernorm "
            "roc_bert splinter xlm-roberta xlm-roberta-xl"
        ),
        "MegatronBERT": (
            "big_bird blip_text_model canine git megatron-bert rembert roformer tapas visual_bert"
        ),
        "DistilBERT": "distilbert",
        "ALBERT": "albert",
        "MPNet": "mpnet",
        "DeBERTa": "deberta",
        "DeBERTa v2": "deberta-v2 sew-d",
        "ModernBERT": "modernbert",
        "ViT": (
            "audio-spectrogram-transformer beit deit dinov2 dinov2_with_registers ijepa pixio "
            "radio tipsv2_vision_model vit vit_mae vit_msn"
        ),
        "CLIP": (
            "altclip_vision_model chinese_clip_vision_model clip_text_model clip_vision_model "
            "clipseg_text_model clipseg_vision_model granite_docling_vision idefics3_vision "
            "metaclip_2_text_model metaclip_2_vision_model mlcd_vision_model owlv2_text_model "
            "owlv2_vision_model owlvit_text_model owlvit_vision_model siglip_text_model "
            "siglip_vision_model smolvlm_vision tipsv2_text_model"
        ),
        "Wav2Vec2": "data2vec-audio hubert sew unispeech unispeech-sat wav2vec2",
        "BART": (
            "bart biogpt blenderbot blenderbot-small m2m_100 marian mbart opt pegasus plbart "
            "qwen2_audio_encoder speech_to_text voxtral_encoder whisper xglm"
        ),
        "T5": "mt5 t5",
        "UMT5": "umt5",
        "GPT-2": "gpt2 imagegpt",
        "GPT-NeoX": "gpt_neox",
        "Mixtral": (
            "aria_text cohere2_moe ernie4_5_moe exaone_moe glm4_moe granitemoe granitemoeshared "
            "hunyuan_v1_moe mellum minimax mixtral phimoe qwen2_moe qwen3_moe qwen3_vl_moe_text "
            "solar_open"
        ),
        "Llama": (
            "apertus arcee cohere cohere2 cwm ernie4_5 ernie4_5_moe eurobert exaone4 exaone_moe "
            "gemma gemma2 gemma3_text glm glm4 glm4_moe granite granite_docling_text gte helium "
            "higgs_audio_v2 hunyuan_v1_dense hyperclovax jais2 jina_embeddings_v3 llama "
            "ministral ministral3 mistral molmo2_text nanochat nomic_bert qwen2 qwen3 "
            "qwen3_vl_text seed_oss smollm3 starcoder2 vaultgemma voxtral_realtime_encoder"
        ),
        "OLMo 2": "olmo2 olmo3",
        "Phi-3": "phi3",
        "BLOOM": "bloom",
        "Falcon": "falcon",
    }.items()
}


def _t5(place: str, table: str = "") -> Attention:
    return Attention(
        place, "q k v", f"{place}.o", "key_value_proj_dim",
        counts={"n_heads": "heads", "inner_dim": "features"},
        table=table, stack=True,
    )  # fmt: skip


def _t5_ffn(place: str) -> tuple[FFN, FFN]:
    inside = f"{place}.DenseReluDense."
    plain = FFN(inside + "wi", inside + "wo", inside + "act")
    return plain, replace(plain, up=inside + "wi_1", gate=inside + "wi_0")


def _gated(activation: str) -> FFN:
    return FFN("mlp.up_proj", "mlp.down_proj", f"mlp.{activation}", "mlp.gate_proj")


def _bart(place: str) -> Attention:
    counts = {"num_heads": "heads", "embed_dim": "features"}
    return Attention(place, "q_proj k_proj v_proj", f"{place}.out_proj", counts=counts)


BERT_FFN = FFN("intermediate.dense", "output.dense", "intermediate.intermediate_act_fn")
NEOX_FFN = FFN("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "mlp.act")
FUSED_FFN = FFN("mlp.gate_up_proj", "mlp.down_proj", "mlp.activation_fn", "mlp.gate_up_proj")
NORMS = "q_norm", "k_norm", "q_layernorm", "k_layernorm", "query_layernorm", "key_layernorm"
LLAMA = Attention("self_attn", "q_proj k_proj v_proj", "self_attn.o_proj", norms=NORMS)
T5 = Anatomy(
    _t5("layer.0.SelfAttention", "relative_attention_bias"),
    (*_t5_ffn("layer.1"), *_t5_ffn("layer.2")),
    _t5("layer.1.EncDecAttention"),
    NAMES["T5"],
)
BERT_SELF = Attention(
    "attention.self", "query key value", "attention.output.dense", "attention_head_size"
)

ANATOMIES: dict[str, Anatomy] = {
    "BERT": Anatomy(BERT_SELF, (BERT_FFN,), families=NAMES["BERT"]),
    "MegatronBERT": Anatomy(
        replace(BERT_SELF, counts={"num_attention_heads": "heads", "all_head_size": "features"}),
        (BERT_FFN,),
        families=NAMES["MegatronBERT"],
    ),
    "DistilBERT": Anatomy(
        Attention("attention", "q_lin k_lin v_lin", "attention.out_lin", "attention_head_size"),
        (FFN("ffn.lin1", "ffn.lin2", "ffn.activation"),),
        families=NAMES["DistilBERT"],
    ),
    "ALBERT": Anatomy(
        Attention(
            "attention", "query key value", "attention.dense", "attention_head_size",
            beside=("LayerNorm",),
        ),
        (FFN("ffn", "ffn_output", "activation"),),
        families=NAMES["ALBERT"],
    ),
    "MPNet": Anatomy(
        Attention(
            "attention.attn", "q k v", "attention.attn.o", "attention_head_size",
            counts={"num_attention_heads": "heads", "all_head_size": "features"},
            table="relative_attention_bias", stack=True,
        ),
        (BERT_FFN,),
        families=NAMES["MPNet"],
    ),
    "DeBERTa": Anatomy(
        Attention(
            "attention.self", "in_proj", "attention.output.dense", "attention_head_size", "h 3 d",
            counts={"num_attention_heads": "heads", "all_head_size": "features"},
            rows=("pos_proj", "pos_q_proj"), tensors=("q_bias", "v_bias"), value_bias="v_bias",
        ),
        (BERT_FFN,),
        families=NAMES["DeBERTa"],
    ),
    "DeBERTa v2": Anatomy(
        Attention(
            "attention.self", "query_proj key_proj value_proj", "attention.output.dense",
            "attention_head_size",
            counts={"num_attention_heads": "heads", "all_head_size": "features"},
            rows=("pos_key_proj", "pos_query_proj"),
        ),
        (BERT_FFN,),
        families=NAMES["DeBERTa v2"],
    ),
    "ModernBERT": Anatomy(
        Attention("attn", "Wqkv", "attn.Wo", fused="3 h d"),
        (FFN("mlp.Wi", "mlp.Wo", "mlp.act", "mlp.Wi"),),
        families=NAMES["ModernBERT"],
    ),
    "ViT": Anatomy(
        Attention("attention", "q_proj k_proj v_proj", "attention.o_proj"),
        (FFN("mlp.fc1", "mlp.fc2", "mlp.activation_fn"),),
        families=NAMES["ViT"],
    ),
    "CLIP": Anatomy(
        _bart("self_attn"),
        (FFN("mlp.fc1", "mlp.fc2", "mlp.activation_fn"),),
        families=NAMES["CLIP"],
    ),
    "Wav2Vec2": Anatomy(
        _bart("attention"),
        (FFN(*(f"feed_forward.{n}" for n in ("intermediate_dense", "output_dense",
                                             "intermediate_act_fn"))),),
        families=NAMES["Wav2Vec2"],
    ),
    "BART": Anatomy(
        _bart("self_attn"), (FFN("fc1", "fc2", "activation_fn"),), _bart("encoder_attn"),
        NAMES["BART"],
    ),
    "T5": T5,
    "UMT5": Anatomy(
        replace(T5.attention, stack=False), T5.ffn, replace(T5.cross, stack=False), NAMES["UMT5"]
    ),
    "GPT-2": Anatomy(
        Attention("attn", "c_attn", "attn.c_proj", fused="3 h d",
                  counts={"num_heads": "heads", "split_size": "features"}),
        (FFN("mlp.c_fc", "mlp.c_proj", "mlp.act"),),
        families=NAMES["GPT-2"],
    ),
    "GPT-NeoX": Anatomy(
        Attention("attention", "query_key_value", "attention.dense", "head_size", "h 3 d"),
        (NEOX_FFN,),
        families=NAMES["GPT-NeoX"],
    ),
    "Mixtral": Anatomy(
        LLAMA,
        "a router chooses among its experts, and each has dimensions of its own",
        families=NAMES["Mixtral"],
    ),
    "Llama": Anatomy(
        LLAMA,
        (
            _gated("act_fn"), FUSED_FFN, FFN("mlp.up_proj", "mlp.down_proj", "mlp.act_fn"),
            FFN("mlp.fc1", "mlp.fc2", "mlp.activation_fn"),
            FFN("mlp.c_fc", "mlp.c_proj", "mlp.act"),
        ),
        families=NAMES["Llama"],
    ),
    "OLMo 2": Anatomy(
        "a norm goes over the queries of all heads, so each head changes the others",
        (_gated("act_fn"),),
        families=NAMES["OLMo 2"],
    ),
    "Phi-3": Anatomy(
        "one layer makes query, key and value, and is cut by the config's number of heads, which "
        "is one for all layers",
        (FUSED_FFN,),
        families=NAMES["Phi-3"],
    ),
    "BLOOM": Anatomy(
        "ALiBi adds to the scores of each head by its number, for all layers at once",
        (replace(NEOX_FFN, activation="mlp.gelu_impl"), ),
        families=NAMES["BLOOM"],
    ),
    "Falcon": Anatomy(
        "one layer makes query, key and value, in an order that the config tells, and in most all "
        "heads share one key",
        (NEOX_FFN,),
        families=NAMES["Falcon"],
    ),
}  # fmt: skip
