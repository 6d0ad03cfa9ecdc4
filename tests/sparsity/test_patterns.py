"""Spec sheet Deep Compression, section 7: ratios and whole models, to the byte."""

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
)

from tqlearn.sparsity.patterns import Pattern, sparse_model_bytes

BACKBONE = 84_934_656
FAMILIES = {
    "bert": (BertModel, BertConfig(), "encoder.layer.", 109_482_240),
    "wav2vec2": (Wav2Vec2ForCTC, Wav2Vec2Config(), "wav2vec2.encoder.layers.", 94_396_320),
    "vit": (ViTForImageClassification, ViTConfig(num_labels=1000), "vit.", 86_567_656),
}


@pytest.fixture(scope="module", params=FAMILIES)
def counted(request):
    """The model's parameters and its backbone's weights, counted on the meta device."""
    cls, config, prefix, expected = FAMILIES[request.param]
    with torch.device("meta"):
        model = cls(config)
    layers = [m for n, m in model.named_modules() if n.startswith(prefix) and "layer" in n]
    backbone = sum(m.weight.numel() for m in layers if isinstance(m, nn.Linear))
    total = sum(p.numel() for p in model.parameters())
    assert (total, backbone) == (expected, BACKBONE)
    return request.param, total, backbone


WHOLE = {  # nominal bytes and ratio, with metadata
    "bert": (119_424_000, 3.67, 130_040_832, 3.37),
    "wav2vec2": (59_080_320, 6.39, 69_697_152, 5.42),
    "vit": (27_765_664, 12.47, 38_382_496, 9.02),
}
MEBIBYTES = {"bert": (113.9, 124.0), "wav2vec2": (56.3, 66.5), "vit": (26.5, 36.6)}


def test_whole_models_from_their_configurations(counted):
    name, total, backbone = counted
    nominal, with_metadata = sparse_model_bytes(total, backbone)
    found = (nominal, round(4 * total / nominal, 2), with_metadata)
    assert (*found, round(4 * total / with_metadata, 2)) == WHOLE[name]
    assert tuple(round(b / 2**20, 1) for b in (nominal, with_metadata)) == MEBIBYTES[name]


@pytest.mark.parametrize(
    ("bits", "expected", "ratio"), [(8, 59_718_144, 7.33), (4, 47_997_696, 9.12)]
)
def test_bert_with_a_quantized_word_table(bits, expected, ratio):
    table = 30_522 * 768
    _, found = sparse_model_bytes(109_482_240, BACKBONE, table=table, table_bits=bits)
    assert found == expected and round(4 * 109_482_240 / found, 2) == ratio


def test_backbone_ratios():
    form = Pattern.of("2:4")
    groups = form.groups((BACKBONE // 768, 768))
    values, places = form.value_bytes(groups, 4), form.place_bytes(groups)
    assert (values, values + places) == (21_233_664, 31_850_496)
    assert 4 * BACKBONE / values == 16 and round(4 * BACKBONE / (values + places), 2) == 10.67


@pytest.mark.parametrize(
    ("word", "bits_per_group"), [("1:2", 1), ("2:4", 4), ("4:8", 12), ("4:8 pairs", 4)]
)
def test_places_of_a_group(word, bits_per_group):
    form = Pattern.of(word)
    assert form.density == 0.5 and form.place_bytes(80) == 10 * bits_per_group


def test_a_layer_of_768_by_3072():
    form = Pattern.of("2:4")
    groups = form.groups((768, 3072))
    assert form.value_bytes(groups, 4) + form.place_bytes(groups) == 589_824 + 294_912 == 884_736


def test_short_groups_are_counted():
    form = Pattern.of("2:4")
    assert form.groups((3, 6)) == 6 == form.groups((6, 3), axis=0) and form.groups((5,)) == 2


@pytest.mark.parametrize("word", ["2/4", "2:4 triples", "two:four", "", "2:", "-1:4"])
def test_words_that_are_no_pattern(word):
    with pytest.raises(ValueError, match="a pattern reads 'N:M' or 'N:M pairs'"):
        Pattern.of(word)


@pytest.mark.parametrize("word", ["4:4", "0:4", "5:4", "3:8 pairs", "2:5 pairs", "2:512"])
def test_patterns_that_make_no_sense(word):
    with pytest.raises(ValueError, match="keeps some numbers and drops some, in whole runs"):
        Pattern.of(word)


def test_parts_that_exceed_the_whole():
    for backbone, table in ((5, 0), (96, 8)):
        with pytest.raises(ValueError, match="must fit into 100 parameters"):
            sparse_model_bytes(100, backbone, table=table)
