"""Entries of the table of anatomies: what they may say, and what layers make of them."""

import pytest
import torch
from torch import nn

import tqlearn as tq
from tqlearn.registry import resize
from tqlearn.sparsity import ANATOMIES, FFN, Anatomy, Attention, transformer_layers

PARTS = {"module": "attn", "projections": "q k v", "output": "attn.o"}


class Attend(nn.Module):
    """The names of an attention without a config; heads of 4 in a width of 8."""

    head_dim = 4

    def __init__(self, fused=False):
        super().__init__()
        if fused:
            self.qkv = nn.Linear(8, 24)
        else:
            self.q_proj, self.k_proj, self.v_proj = (nn.Linear(8, 8) for _ in range(3))
        self.o_proj = nn.Linear(8, 8)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(8, 8) for _ in range(3))
        self.act_fn = nn.SiLU()


class Layer(nn.Module):
    def __init__(self, fused=False):
        super().__init__()
        self.self_attn, self.mlp = Attend(fused), Gated()


def test_entries_refuse_what_makes_no_sense():
    with pytest.raises(ValueError, match="has three projections.*'q k' and ''"):
        Attention("attn", "q k", "attn.o")
    with pytest.raises(ValueError, match="has three projections.*'qkv' and ''"):
        Attention("attn", "qkv", "attn.o")
    with pytest.raises(ValueError, match="fused is one of .*got 'd 3 h'"):
        Attention("attn", "qkv", "attn.o", fused="d 3 h")
    with pytest.raises(ValueError, match="counts are of 'heads' or 'features', got .'width'"):
        Attention(**PARTS, counts={"n": "width"})
    with pytest.raises(ValueError, match="names an attention, a FFN or both, got none"):
        Anatomy("no heads", "no FFN")


def test_rows_of_fused_projections(monkeypatch):
    """Two heads of 4: by part, or head by head."""
    model = nn.Sequential(Layer(fused=True))
    for order, starts in (("3 h d", [8, 12]), ("h 3 d", [4, 16])):
        entry = Anatomy(Attention("self_attn", "qkv", "self_attn.o_proj", fused=order), "stays")
        monkeypatch.setitem(ANATOMIES, "Mine", entry)
        (layer,) = transformer_layers(model)
        keys = layer.rows("key", 2)
        assert keys[:, 0].tolist() == starts and keys.shape == (2, 4)
        assert layer.matrices == ("0.self_attn.qkv", "0.self_attn.o_proj")
        monkeypatch.delitem(ANATOMIES, "Mine")


def test_a_model_without_a_config_is_taken_by_its_names():
    layers = transformer_layers(nn.Sequential(Layer(), Layer()))
    assert [(x.name, x.family, x.gate) for x in layers] == [
        ("0", "Llama", "0.mlp.gate_proj"),
        ("1", "Llama", "1.mlp.gate_proj"),
    ]


def test_later_entries_come_first(monkeypatch):
    ffn = FFN("mlp.up_proj", "mlp.down_proj", "mlp.act_fn")
    monkeypatch.setitem(ANATOMIES, "Mine", Anatomy("they are odd", [ffn]))
    (layer,) = transformer_layers(Layer())
    assert (layer.family, layer.query, layer.name) == ("Mine", "", "")
    assert layer.stays == "heads stay: they are odd"


def test_a_norm_over_dimensions_is_refused():
    layer = Layer()
    layer.mlp.norm = nn.LayerNorm(12)
    for name in ("gate_proj", "up_proj"):
        setattr(layer.mlp, name, nn.Linear(8, 12))
    layer.mlp.down_proj = nn.Linear(12, 8)
    with pytest.raises(ValueError, match="mlp.norm.* one number for each of the 12 dimensions"):
        transformer_layers(layer)


def test_a_norm_over_all_heads_is_refused_and_one_over_each_is_not():
    layer = Layer()
    layer.self_attn.q_norm = nn.LayerNorm(4)
    assert transformer_layers(layer)
    layer.self_attn.q_norm = nn.LayerNorm(8)
    with pytest.raises(ValueError, match=r"q_norm.weight of shape \(8,\) is not in the anatomy"):
        tq.survey(layer)


def test_sizes_are_set_or_refused_together():
    layer = nn.Embedding(6, 4)
    with pytest.raises(ValueError, match="Embedding has no 'heads' that could have the size 2"):
        resize(layer, {"embedding_dim": 2, "heads": 2})
    with pytest.raises(ValueError, match="Embedding has no 'bias'"):
        resize(layer, {"bias": [2]})
    assert layer.embedding_dim == 4
    layer.weight.requires_grad_(False)
    resize(layer, {"embedding_dim": 2, "weight": [6, 2]})
    assert layer.weight.shape == (6, 2) and not layer.weight.requires_grad
    model = nn.Sequential(layer)
    assert tq.describe(model)["modules"]["0"] == {"sizes": {"embedding_dim": 2, "weight": [6, 2]}}
    again = tq.rebuild(nn.Sequential(nn.Embedding(6, 4)), tq.describe(model))
    assert again[0](torch.tensor([1])).shape == (1, 2)
