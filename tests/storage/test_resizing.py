"""A compressed table keeps its size: transformers would say that it is resized, and it is not."""

import copy

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    LlamaConfig,
    LlamaForCausalLM,
)

import tqlearn as tq
import tqlearn.hf  # noqa: F401  (teaches from_pretrained)

SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
}
IDS = torch.arange(3, 12)[None]
TABLES = [tq.LSQ(4)], [tq.SAWB(4)], [tq.TwoFour()], [tq.TTM(rank=4, order=2)], [tq.Kronecker(1)]


def student(edits, verb=lambda model: model):
    torch.manual_seed(0)
    teacher = BertForSequenceClassification(BertConfig(**SMALL)).eval()
    return verb(tq.calibrate(tq.compress(teacher, {"*word_embeddings": edits})))


@pytest.mark.parametrize("edits", TABLES, ids=repr)
@pytest.mark.parametrize("verb", [tq.pack, lambda model: model], ids=["packed", "fake"])
def test_refused_before_anything_changes(edits, verb):
    model = student(edits, verb)
    want, config = model(IDS).logits, copy.deepcopy(model.config.to_dict())
    for asked in (model, model.bert):
        with pytest.raises(
            ValueError, match=r"embedding \['.*word_embeddings'\] of 96 rows .*bake"
        ):
            asked.resize_token_embeddings(104)
    assert torch.equal(model(IDS).logits, want) and model.config.to_dict() == config


def test_what_changes_no_size_passes():
    model = student([tq.LSQ(4)])
    table = model.get_input_embeddings()
    assert model.resize_token_embeddings(96) is table is model.resize_token_embeddings()
    assert model.resize_token_embeddings(pad_to_multiple_of=8) is table  # 96 is one
    for multiple in ({"pad_to_multiple_of": 64}, {"new_num_tokens": 96, "pad_to_multiple_of": 64}):
        with pytest.raises(ValueError, match="cannot be resized"):
            model.resize_token_embeddings(**multiple)


def test_a_table_that_is_not_compressed_is_resized(tmp_path):
    torch.manual_seed(0)
    teacher = BertForSequenceClassification(BertConfig(**SMALL)).eval()
    model = tq.pack(tq.calibrate(tq.compress(teacher, {"*.query": [tq.LSQ(4)]})))
    model.resize_token_embeddings(104)
    model.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.vocab_size == len(again.get_input_embeddings().weight) == 104
    with pytest.raises(ValueError, match="cannot be resized"):  # the class knows the way out too
        student([tq.LSQ(4)]).resize_token_embeddings(104)


def test_the_way_out_works():
    model = tq.bake(student([tq.TTM(rank=4, order=2), tq.LSQ(4)]), dense=True)
    model.resize_token_embeddings(104)
    assert model(torch.tensor([[100]])).logits.isfinite().all()
    again = tq.calibrate(tq.compress(model, {"*word_embeddings": [tq.LSQ(4)]}))
    assert again(torch.tensor([[100]])).logits.isfinite().all()


def test_an_output_layer_counts():
    """Its compression would go without a word: transformers puts a plain layer in its place."""
    torch.manual_seed(0)
    sizes = SMALL | {"num_key_value_heads": 2}
    teacher = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False)).eval()
    model = tq.calibrate(tq.compress(teacher, {"lm_head": [tq.LSQ(4)]}))
    with pytest.raises(ValueError, match=r"\['lm_head'\] of 96 rows"):
        model.resize_token_embeddings(104)
    assert len(model.get_input_embeddings().weight) == 96


def test_positions_count():
    sizes = {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 48, "vocab_size": 96}
    teacher = DistilBertModel(DistilBertConfig(**sizes, max_position_embeddings=40)).eval()
    model = tq.calibrate(tq.compress(teacher, {"*position_embeddings": [tq.LSQ(4)]}))
    with pytest.raises(ValueError, match=r"position_embeddings'\] of 40 rows"):
        model.resize_position_embeddings(64)
    assert teacher.resize_token_embeddings(104).num_embeddings == 104


def test_a_loaded_model_knows_it_too(tmp_path):
    tq.pack(student([tq.LSQ(4)])).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot be resized"):
        BertModel.from_pretrained(tmp_path).resize_token_embeddings(104)
