"""Language models tie their output layer to the table of words: compressed, saved, loaded."""

import pytest
import torch
import transformers as tf

import tqlearn as tq
import tqlearn.hf  # noqa: F401  (from_pretrained reads compressed folders)

IDS = torch.tensor([[3, 9, 27, 81]])
SMALL = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
GPT = {"vocab_size": 99, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64}
T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
MODELS = {
    "llama": (lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL)), "model.embed_tokens"),
    "gpt2": (lambda: tf.GPT2LMHeadModel(tf.GPT2Config(**GPT)), "transformer.wte"),
    "bert": (lambda: tf.BertForMaskedLM(tf.BertConfig(**SMALL)), "*word_embeddings"),
    "t5": (lambda: tf.T5ForConditionalGeneration(tf.T5Config(**T5)), "shared"),
}
EDITS = [[tq.LSQ(4)], [tq.TwoFour(), tq.SAWB(4)], [tq.TTM(rank=8, order=2)], [tq.Kronecker(rank=1)]]


def logits(model):
    more = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model.eval()(input_ids=IDS, **more).logits


@pytest.mark.parametrize("edits", EDITS, ids=repr)
@pytest.mark.parametrize("kind", MODELS)
def test_saved_and_loaded_tied(kind, edits, tmp_path):
    torch.manual_seed(3)
    make, table = MODELS[kind]
    model = make().eval()
    student = tq.calibrate(tq.compress(model, {table: edits})).eval()
    assert not torch.equal(logits(student), logits(model))
    student.tie_weights()  # as resizing and others do
    packed = tq.pack(student)
    wanted = logits(packed)
    assert torch.equal(wanted, logits(student))
    packed.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(logits(again), wanted)
    out = again.get_output_embeddings()
    assert torch.equal(torch.as_tensor(out.weight * 1), again.get_input_embeddings().weight * 1)
    again.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(type(model).from_pretrained(tmp_path / "again")), wanted)
    dense = tq.bake(again, dense=True)
    assert dense.get_output_embeddings().weight is dense.get_input_embeddings().weight


def test_a_bare_encoder_gives_its_table_to_a_tied_head(tmp_path):
    bare = tf.BertModel(tf.BertConfig(**SMALL)).eval()
    student = tq.calibrate(tq.compress(bare, {"*word_embeddings": [tq.LSQ(4)]}))
    student.save_pretrained(tmp_path)
    again = tf.BertForMaskedLM.from_pretrained(tmp_path)
    table = student.embeddings.word_embeddings.weight
    assert torch.equal(again.cls.predictions.decoder.weight, table)


@pytest.mark.parametrize("place", ["lm_head", "model.embed_tokens"])
def test_a_head_that_was_untied_by_hand_stays_so(place, tmp_path):
    model = MODELS["llama"][0]()
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 0.1)
    student = tq.calibrate(tq.compress(model, {place: [tq.LSQ(4)]}))
    for folder in (tmp_path / "1", tmp_path / "2"):
        wanted = logits(student)
        student.save_pretrained(folder)
        student = tf.LlamaForCausalLM.from_pretrained(folder)
        assert torch.equal(logits(student), wanted)
    weight = student.lm_head.weight
    assert not torch.allclose(weight, student.model.embed_tokens.weight, atol=0.05)
