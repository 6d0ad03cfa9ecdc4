"""Layers of many models: what reads ``weight``, what is no nn.Linear, what starts at random anew.

Each is a tiny random model: compressed, packed, saved, loaded to the bit, baked into plain layers.
"""

import pytest
import torch
import transformers as tf

import tqlearn as tq
import tqlearn.hf  # noqa: F401  (from_pretrained reads compressed folders)

SMALL = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}
MORE = SMALL | {"max_position_embeddings": 64}
SOUND = {"conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3)}
SOUND |= {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
MOE = MORE | {"num_key_value_heads": 2, "num_local_experts": 4}
T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
GPT = {"vocab_size": 99, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64}
OPT = MORE | {"ffn_dim": 48, "word_embed_proj_dim": 32}
DEBERTA = MORE | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
IDS = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}
MODELS = {
    "ModernBert": IDS | MORE,  # asks for weights at its random start, as Wav2Vec2 does
    "Wav2Vec2": SMALL | SOUND,
    "DebertaV2": DEBERTA,  # asks for a weight's type
    "T5Encoder": T5,
    "Mamba": {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 1, "state_size": 8},
    "GPT2": GPT,  # Conv1D
    "Falcon": SMALL,  # a linear layer with a forward of its own
    "OPT": OPT,  # a table of positions with an offset
    "Gemma3Text": MORE | {"num_key_value_heads": 2, "head_dim": 8},  # a scaled table of words
    "Mixtral": MOE,  # experts in one tensor
    "GptOss": MOE | {"head_dim": 8, "num_experts_per_tok": 2},  # the other way round
}


def model_of(kind):
    torch.manual_seed(3)
    config = getattr(tf, kind.removesuffix("Encoder") + "Config")(**MODELS[kind])
    return getattr(tf, kind + "Model")(config).eval()


def states(model):
    with torch.no_grad():
        if model.config.model_type == "wav2vec2":
            sound = torch.randn(1, 600, generator=torch.Generator().manual_seed(1))
            return model.eval()(sound).last_hidden_state
        return model.eval()(torch.tensor([[3, 9, 27, 81]])).last_hidden_state


def round_trip(student, folder):
    wanted, packed = states(student), tq.pack(student)
    assert torch.equal(states(packed), wanted)
    packed.save_pretrained(folder / "packed")
    assert torch.equal(states(type(student).from_pretrained(folder / "packed")), wanted)
    dense = tq.bake(student, dense=True)
    dense.save_pretrained(folder / "dense")
    plain = type(student).from_pretrained(folder / "dense")
    torch.testing.assert_close(states(plain), wanted, atol=1e-4, rtol=1e-4)


def linears(model, edits):
    return {
        name: edits
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
    }


@pytest.mark.parametrize("edits", [[tq.TT(rank=2)], [tq.LowRank(rank=2), tq.LSQ(8)]], ids=repr)
@pytest.mark.parametrize("kind", MODELS)
def test_factored(kind, edits, tmp_path):
    model = model_of(kind)
    plan = linears(model, edits)
    tq.preview(model, plan)
    student = tq.calibrate(tq.compress(model, plan))
    assert not torch.allclose(states(student), states(model), atol=1e-4)
    round_trip(student, tmp_path)


@pytest.mark.parametrize("edits", [[tq.LSQ(4)], [tq.TwoFour(pad=True), tq.SAWB(4)]], ids=repr)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.filterwarnings("ignore:.*matrices under the plan's patterns stay")
def test_quantized(kind, edits, tmp_path):
    model = model_of(kind)
    everything = "encoder.layers.*" if kind == "Wav2Vec2" else "*"  # one has a weight norm
    student = tq.calibrate(tq.compress(model, {everything: edits}))
    student.train()
    states_ = (
        student(torch.randn(1, 600)) if kind == "Wav2Vec2" else student(torch.ones(1, 4).long())
    )
    states_.last_hidden_state.square().sum().backward()
    under = [p for n, p in student.named_parameters() if "original" in n and "experts" not in n]
    assert all(p.grad is not None for p in under)
    round_trip(student, tmp_path)
    if kind in ("Mixtral", "GptOss"):
        (experts,) = (m for n, m in student.named_modules() if n.endswith("experts"))
        assert set(experts.parametrizations) == {"gate_up_proj", "down_proj"}


def test_a_model_that_computes_otherwise_once_it_is_quantized(tmp_path):
    """FalconMamba asks its config; it must hear the same before and after loading."""
    config = tf.FalconMambaConfig(hidden_size=32, num_hidden_layers=2, state_size=8, vocab_size=99)
    torch.manual_seed(3)
    model = tf.FalconMambaModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    student = tq.calibrate(tq.compress(model, {"*mixer.*": [tq.LSQ(4)], "*conv1d": []}))
    assert student.config._is_quantized and not hasattr(model.config, "_is_quantized")
    round_trip(student, tmp_path)
    assert not hasattr(tq.bake(student, dense=True).config, "_is_quantized")


@pytest.mark.filterwarnings("ignore:2 matrices .*embed_positions")
def test_a_table_that_no_file_holds_stays_and_is_listed(tmp_path):
    """Marian's sines: plain transformers would compute them anew, whatever was put there."""
    layers = {
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
    }
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "pad_token_id": 0}
    config = tf.MarianConfig(vocab_size=99, d_model=32, **layers, **heads)
    model = tf.MarianMTModel(config).eval()
    places = [f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder")]
    assert [*tq.preview(model, {"*": [tq.LSQ(4)]}).left] == places
    student = tq.calibrate(tq.compress(model, {"*": [tq.LSQ(4)]}))
    assert all(name in dict(student.named_parameters()) for name in places)
    for name in ("*embed_positions", "model.encoder.embed_positions"):
        with pytest.raises(ValueError, match="MarianMTModel computes these numbers anew"):
            tq.compress(model, {name: [tq.LSQ(4)]})
    tq.bake(student, dense=True).save_pretrained(tmp_path)
    plain, ids = tf.MarianMTModel.from_pretrained(tmp_path), torch.tensor([[3, 9, 27]])
    with torch.no_grad():
        found = [m(input_ids=ids, decoder_input_ids=ids).logits for m in (plain, student)]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("kind", ["OPT", "Gemma3Text"])
def test_tables_with_a_forward_of_their_own(kind, tmp_path):
    """OPT's positions add an offset; Gemma's words are scaled, by a buffer that no file holds."""
    model = model_of(kind)
    plan = {"*embed_positions" if kind == "OPT" else "*embed_tokens": [tq.TTM(rank=4, order=2)]}
    student = tq.compress(model, plan)
    assert not torch.allclose(states(student), states(model), atol=1e-4)
    round_trip(student, tmp_path)
    full = tq.compress(model, {name: [tq.TTM(rank=999, order=2)] for name in plan})
    torch.testing.assert_close(states(full), states(model), atol=1e-4, rtol=1e-4)


def test_raw_parameters_are_listed():
    config = tf.XLNetConfig(vocab_size=99, d_model=32, n_layer=1, n_head=4, d_inner=48)
    model = tf.XLNetModel(config)
    with pytest.warns(UserWarning, match=r"\d matrices under .* 'layer.0.rel_attn"):
        tq.compress(model, {"*": [tq.LSQ(4)]})
    left = tq.preview(model, {"*": [tq.LSQ(4)]}).left
    assert {"layer.0.rel_attn.q", "layer.0.rel_attn.r_w_bias"} <= {*left}
    every = {n for n, p in model.named_parameters() if sum(k > 1 for k in p.shape) > 1}
    found = tq.compress(model, {"layer.0.rel_attn": [], "*": [tq.LSQ(4)]})
    reached = {n.replace(".parametrizations", "").removesuffix(".original")
               for n, _ in found.named_parameters() if n.endswith(".original")}  # fmt: skip
    assert {*left} == every - reached
