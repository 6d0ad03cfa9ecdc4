"""Attention functions for transformers' registry: with quantizers, and with scores as their maps.

``model.set_attn_implementation(SCORES)`` computes what eager attention computes; with
``output_attentions=True`` the model then returns Q K^T / sqrt(head width), without mask and
softmax, where eager attention returns probabilities. KroneckerBERT distills those.

``quantize_attention`` puts quantizers on query, key, value and probabilities. They work under
``SCORES`` and under ``QUANTIZED``, which returns probabilities; any other function is refused.
"""

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import eager_mask

from ..quantizers.inputs import ATTENTION, QUANTIZED, attended, place
from ..storage.layout import attach_layout

SCORES = "tqlearn_scores"
WITH_MAPS = ("eager", SCORES, QUANTIZED)
PASSIVE = {  # keywords that eager attention gets too and has no use for: the mask says it all
    *("sliding_window", "is_causal", "deterministic", "position_ids", "cache_position", "seq_idx"),
    *("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "num_items_in_batch"),
    *("output_attentions", "output_hidden_states", "output_router_logits", "return_dict"),
    *("use_cache", "logits_to_keep", "token_type_ids", "mm_token_type_ids"),
    "length",  # a column that ``encode_sentences`` and ``group_by_length`` keep beside the ids
}


def scores_attention(module, query, key, value, attention_mask, **kwargs):
    """(batch, heads, tokens, width) -> output (batch, tokens, heads, width), and the scores."""
    output, scores, _ = _attention(module, query, key, value, attention_mask, **kwargs)
    return output, scores


def quantized_attention(module, query, key, value, attention_mask, **kwargs):
    """(batch, heads, tokens, width) -> output (batch, tokens, heads, width), and probabilities."""
    output, _, probabilities = _attention(module, query, key, value, attention_mask, **kwargs)
    return output, probabilities


def _attention(
    module,
    query,
    key,
    value,
    mask,
    scaling=None,
    dropout=0.0,
    position_bias=None,
    softcap=None,
    s_aux=None,
    sinks=None,
    indices=None,
    **kwargs,
):
    """Return output, scores and probabilities.

    Softmax of scores + mask is the probabilities; scores hold position bias and soft-capping.

    Args:
        s_aux: one sink a head, a column of scores that takes its share of every softmax.
        sinks: the same with one for every query, (batch, heads, tokens, 1).
        indices: (batch, queries, chosen) keys that are looked at, all others are not.

    Raises:
        ValueError: any other keyword that might change the result.
    """
    _refuse_unknown(module, kwargs)
    scaling = query.size(-1) ** -0.5 if scaling is None else scaling
    query, key, value = (
        # quantizers see (batch, tokens, heads, width), as a mask of real tokens needs it
        attended(module, name, x.transpose(1, 2)).transpose(1, 2)
        for name, x in zip(ATTENTION, (query, key, value), strict=False)
    )
    if (repeats := query.shape[1] // key.shape[1]) > 1:
        key, value = repeat_kv(key, repeats), repeat_kv(value, repeats)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    scores = scores if position_bias is None else scores + position_bias
    masked = _masked(scores, mask, indices)
    sinks = s_aux.view(1, -1, 1, 1) if sinks is None and s_aux is not None else sinks
    if sinks is not None:
        masked = torch.cat([masked, sinks.to(masked).expand(*masked.shape[:-1], 1)], -1)
    wide = torch.float32 if masked.dtype in (torch.float16, torch.bfloat16) else None
    softmax = masked.softmax(-1, dtype=wide).to(value.dtype)
    softmax = softmax if sinks is None else softmax[..., :-1]
    dropped = F.dropout(softmax, p=dropout, training=module.training)
    probabilities = attended(module, "quant_probabilities", dropped)
    output = torch.matmul(probabilities, value)
    return output.transpose(1, 2).contiguous(), scores, probabilities


def _masked(scores, mask, indices):
    lowest = torch.finfo(scores.dtype).min
    if mask is not None:
        scores = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask
    if indices is not None:
        shape = (len(scores), *scores.shape[2:])  # one choice for all heads
        chosen = torch.zeros(shape, dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(~chosen.scatter(-1, indices.long(), True)[:, None], lowest)
    return scores


def _refuse_unknown(module, kwargs):
    if unknown := sorted(k for k, v in kwargs.items() if v is not None and k not in PASSIVE):
        raise ValueError(
            f"{type(module).__name__} gives its attention {', '.join(map(repr, unknown))}, which "
            "tqlearn's attention functions do not know and might have to add to the scores; call "
            'model.set_attn_implementation("eager"), without quantizers on its attention'
        )


for _name, _function in ((SCORES, scores_attention), (QUANTIZED, quantized_attention)):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, eager_mask)


def attention_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules, by name, that call a function of transformers' attention registry."""
    return {
        name: module
        for name, module in model.named_modules()
        if "ALL_ATTENTION_FUNCTIONS"
        in getattr(inspect.unwrap(type(module).forward), "__code__", _attention.__code__).co_names
    }


def attention_kind(model: nn.Module, kind: str) -> str:
    """Return the attention function to set: ``kind``, or ours where quantizers stand."""
    with_quantizers = any(hasattr(m, name) for m in model.modules() for name in ATTENTION)
    return QUANTIZED if with_quantizers and kind != SCORES else kind


@contextmanager
def attention_of(model: nn.Module, kind: str) -> Iterator[nn.Module]:
    """Set an attention function for a while; then every part gets back the one that it had.

    Parts may differ, and some have one kind only (a convolutional backbone).
    """
    found = [getattr(module, "config", None) for module in model.modules()]
    configs = {id(c): c for c in found if hasattr(c, "_attn_implementation")}
    before = [(config, config._attn_implementation) for config in configs.values()]
    model.set_attn_implementation(attention_kind(model, kind))
    try:
        yield model
    finally:
        for config, kind in before:
            config._attn_implementation = kind  # the whole model first, then its parts


def quantize_attention(
    model: nn.Module, by: object, probabilities: object = None, pattern: str = "*"
) -> nn.Module:
    """Return a copy whose query, key, value and attention probabilities are quantized.

    They need batches: ``tqlearn.calibrate(model, batches)``. Probabilities are quantized after
    dropout, just before they meet the values. Calibration runs without dropout; in training it
    lifts the survivors by 1 / (1 - p), those near the clip above it, where the gradient is zero:
    train with no dropout of attention, or let the clip learn.

    Args:
        model: a transformers model whose attention goes through the registry; compressed or not.
        by: an edit that quantizes, such as ``LearnedClip(bits=8)``.
        probabilities: another one for the probabilities, such as ``PACT(8, form="one-sided")``.
        pattern: shell wildcard on the names of the attention modules.

    Raises:
        ValueError: no attention module fits the pattern, or one has quantizers already, or the
            model cannot change its attention function.
        TypeError: an edit that makes no quantizer.

    Source: spec sheet KDLSQ, section 4.
    """
    for edit in (by, probabilities or by):
        if not callable(getattr(edit, "quantizer", None)):
            raise TypeError(f"an edit that quantizes is needed, such as LearnedClip(8), got {edit}")
    student = copy.deepcopy(model)
    found = {n: m for n, m in attention_modules(student).items() if fnmatchcase(n, pattern)}
    if not found:
        raise ValueError(
            f"pattern {pattern!r} matches no attention of {type(model).__name__}; there are "
            f"{[*attention_modules(model)]}"
        )
    for module in found.values():
        like = next(p for p in module.parameters() if p.is_floating_point())
        for name in ATTENTION:
            edit = probabilities if probabilities and name == "quant_probabilities" else by
            place(module, name, edit.quantizer(activation=True).to(like))
    student.set_attn_implementation(QUANTIZED)
    if stuck := [n for n, m in found.items() if m.config._attn_implementation != QUANTIZED]:
        raise ValueError(
            f"{type(model).__name__} cannot change the attention function of {stuck}; "
            "leave attention in floats, or quantize what enters its layers with tqlearn.Inputs"
        )
    return attach_layout(student)
