"""Every model family: our attention computes what its own does, compaction what zeros do.

Both in one file, since one process runs a file: each family is imported, and its model built, once.
"""

import __future__

import copy
import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from anatomy_models import MODELS, kill
from tiny_models import families, output, tiny
from torch import nn
from torch.testing import assert_close
from transformers.integrations.sdpa_attention import repeat_kv

import tqlearn as tq
from tqlearn.hf import QUANTIZED, SCORES, quantize_attention
from tqlearn.hf.attention import PASSIVE, quantized_attention, scores_attention
from tqlearn.sparsity import ANATOMIES, transformer_layers

NOT_BUILT = json.loads(Path(__file__).with_name("families_not_built.json").read_text())
FUNCTION = re.compile(r"^def \w*eager\w*attention\w*\(.*?(?=^[^\s)]|\Z)", re.S | re.M)
CALL = re.compile(r"= attention_interface\((.*?)\n *\)\n", re.S)
HONOURED = {"scaling", "dropout", "position_bias", "softcap", "s_aux", "sinks", "indices"}
REFUSED = {"block_indices"}
TENSORS = {"query", "key", "value", "attention_mask"}
TRIED = {kind for models in MODELS.values() for _, kind, _ in models.values()}
TYPES = [(e, t) for e, a in ANATOMIES.items() for t in a.families if t not in TRIED]
TYPES = [*{kind: (entry, kind) for entry, kind in TYPES}.values()]  # some have layers of two kinds
ENDS = "", "_text_model", "_vision_model", "_vision"
KEPT = {kind.replace("-", "_").removesuffix(end) for _, kind in TYPES for end in ENDS}
TEN = ["bert", "gpt2", "t5", "gemma2", "gpt_oss", "llama", "vit", "modernbert", "deepseek_v32"]
TEN += ["wav2vec2_conformer"]


@cache
def kept(family: str) -> tuple[nn.Module, dict, torch.Tensor]:
    """What ``tiny`` returns, once for all tests here: they leave its weights as they are."""
    return tiny(family)


@cache
def eager_functions() -> dict[str, list[str]]:
    """Source of every eager attention function -> the families that have it."""
    found = {}
    for family, text in families().items():
        for source in FUNCTION.findall(text):
            found.setdefault(source.partition("(")[2], []).append(family)
    return found


class Stand(nn.Module):
    """What an eager function may ask of its module."""

    num_key_value_groups, head_dim = 2, 6

    def __init__(self):
        super().__init__()
        self.sinks = nn.Parameter(torch.randn(4))
        self.eval()


def arguments(source: str) -> tuple[list, dict]:
    """Random tensors for an eager function, and every keyword that it names."""
    torch.manual_seed(0)
    heads = 2 if "repeat_kv(" in source else 4
    query, key = torch.randn(2, 4, 5, 6), torch.randn(2, heads, 7, 6)
    mask = torch.zeros(2, 1, 5, 7).masked_fill(torch.rand(2, 1, 5, 7) < 0.3, -1e9)
    named = {
        "softcap": 0.5,
        "position_bias": torch.randn(2, 4, 5, 7),
        "sinks": torch.randn(2, 4, 5, 1),
    }
    signature = source.split("):", 1)[0].split("->")[0]
    given = {k: v for k, v in named.items() if re.search(rf"\b{k}\b", signature)}
    return [query, key, torch.randn(2, heads, 7, 6), mask], given | {
        "scaling": None if "* module.head_dim" in source else 0.7  # llama4's eyes have their own
    }


def test_every_eager_function():
    functions, ours = eager_functions(), Stand()
    assert len(functions) > 20 and sum(map(len, functions.values())) > 300
    seen = set()
    for source, where in functions.items():
        names = {"torch": torch, "nn": nn, "F": nn.functional, "repeat_kv": repeat_kv}
        names["maybe_autocast"] = torch.autocast
        flags = __future__.annotations.compiler_flag
        exec(compile(f"def eager({source}", where[0], "exec", flags, True), names)
        (query, key, value, mask), given = arguments(source)
        if "attention_mask" not in source.split("):\n", 1)[-1]:
            mask = None  # vjepa2 has none
        want, maps = names["eager"](ours, query, key, value, mask, dropout=0.0, **given)
        if "module.sinks" in source:
            given["s_aux"] = ours.sinks
        seen |= set(given)
        for function in (scores_attention, quantized_attention):
            have, shown = function(ours, query, key, value, mask, dropout=0.0, **given)
            assert_close(have, want, msg=lambda text, where=where: f"{where}: {text}")
        if "logsumexp" not in source:  # granite_swa's maps leave the sink's share in
            assert_close(shown, maps, msg=lambda text, where=where: f"{where}: {text}")
    assert seen == {"scaling", "softcap", "position_bias", "sinks", "s_aux"}


def test_every_keyword_is_understood():
    """What the families pass by name: honoured, of no use to eager attention either, or refused."""
    passed = {}
    for family, text in families().items():
        for call in CALL.findall(text):
            for keyword in re.findall(r"^ +(\w+)=[^=]", call, re.M):
                passed.setdefault(keyword, set()).add(family)
    assert {"scaling", "position_bias", "softcap", "s_aux", "indices"} <= set(passed)
    assert set(passed) - HONOURED - PASSIVE - REFUSED - TENSORS == set(), passed
    read = {
        name
        for source in eager_functions()
        for name in re.findall(r"kwargs\W+(?:get\W+)?(\w+)", source)
    }
    assert not read & PASSIVE


@pytest.mark.parametrize("kind", [SCORES, QUANTIZED])
@pytest.mark.parametrize("family", TEN)
def test_ten_families(family, kind):
    model, inputs, want = kept(family)
    model.set_attn_implementation(kind)
    assert_close(output(model, inputs), want)


@pytest.mark.parametrize("family", ["t5", "gemma2", "gpt_oss"])
def test_quantizers_change_little_where_scores_have_additions(family):
    model, inputs, want = copy.deepcopy(kept(family))
    student = tq.calibrate(quantize_attention(model, tq.LSQ(8, init="max")), [inputs])
    have = output(student, inputs)
    assert 0 < (have - want).norm() / want.norm() < 0.05


@pytest.mark.slow
def test_every_family():
    """A model of every folder with the interface; the others are listed with their reasons."""
    failed, wrong = {}, {}
    for family in families():
        try:
            model, inputs, want = (kept if family in {*TEN, *KEPT} else tiny)(family)
        except Exception as error:  # whatever a config or a missing library says
            failed[family] = f"{type(error).__name__}: {error}"
            continue
        try:
            model.set_attn_implementation(SCORES)
            have = output(model, inputs)
            if not torch.allclose(have, want, rtol=1e-4, atol=1e-4 * float(want.abs().max())):
                wrong[family] = float((have - want).norm() / want.norm())
        except ValueError as error:
            wrong[family] = str(error)
    assert wrong == {}
    assert set(failed) == set(NOT_BUILT), {k: failed.get(k) for k in set(failed) ^ set(NOT_BUILT)}


def built(kind):
    """The model of a type, or one that has it as a part, for a test to change."""
    kind = kind.replace("-", "_")
    for end in ENDS:
        if kind.endswith(end):
            try:
                model, inputs, dense = copy.deepcopy(kept(kind.removesuffix(end)))
            except ValueError as error:  # a part that AutoModel does not build alone
                reason = error
                continue
            model.set_attn_implementation("eager")
            return model, inputs, dense
    raise reason


@pytest.mark.slow
@pytest.mark.parametrize("entry, kind", TYPES, ids=[kind for _, kind in TYPES])
def test_compaction_of_every_type(entry, kind):
    """Every type in the table of anatomies, masked against compacted; a part inside its model."""
    model, inputs, dense = built(kind)
    wanted = output(kill(model, kind), inputs)
    assert not wanted.isnan().any() and not torch.equal(wanted, dense)
    assert entry in {layer.family for layer in transformer_layers(model)}
    small, rows = tq.compact(model), tq.survey(model).rows
    for part in ("heads", "dimensions"):
        left, whole = (sum(row[k] for row in rows) for k in (part, f"{part}_before"))
        assert left < whole or not whole, part
    found = output(small, inputs)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5 * float(wanted.abs().max()))


def test_an_unknown_keyword_is_refused_by_name():
    query = torch.randn(1, 2, 3, 4)
    for function in (scores_attention, quantized_attention):
        with pytest.raises(ValueError, match="Stand gives its attention 'logit_bias', 'slopes'"):
            function(Stand(), query, query, query, None, slopes=query, logit_bias=1, is_causal=True)
        function(Stand(), query, query, query, None, slopes=None)  # a family that may have them


def test_masks_of_truth_values():
    """Some models give those to whatever is not called eager; adding them would be adding 1."""
    query, mask = torch.randn(1, 2, 5, 4), torch.ones(5, 5, dtype=torch.bool).tril()
    have, _ = scores_attention(Stand(), query, query, query, mask[None, None])
    assert_close(
        have.transpose(1, 2), nn.functional.scaled_dot_product_attention(query, query, query, mask)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_types_stay(dtype):
    query = torch.randn(1, 4, 5, 6, dtype=dtype)
    extra = {"softcap": 2.0, "s_aux": torch.randn(4)}
    have, scores = scores_attention(Stand(), query, query, query, None, **extra)
    assert have.dtype == scores.dtype == dtype
