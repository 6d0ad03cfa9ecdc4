"""An attention function for transformers' registry that hands out scores before the softmax.

``model.set_attn_implementation(SCORES)`` computes what eager attention computes; with
``output_attentions=True`` the model then returns Q K^T / sqrt(head width), without mask and
softmax, where eager attention returns probabilities. KroneckerBERT distills those.
"""

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

SCORES = "tqlearn_scores"


def scores_attention(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs
):
    """(batch, heads, tokens, width) -> output (batch, tokens, heads, width), and the scores."""
    scaling = query.size(-1) ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    masked = scores if attention_mask is None else scores + attention_mask
    probabilities = F.dropout(masked.softmax(-1), p=dropout, training=module.training)
    output = torch.matmul(probabilities, value)
    return output.transpose(1, 2).contiguous(), scores


AttentionInterface.register(SCORES, scores_attention)
AttentionMaskInterface.register(SCORES, eager_mask)
