"""Masked words: unlabelled text for a Trainer, and an encoder that predicts the words back."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertPreTrainedModel, DataCollatorForLanguageModeling
from transformers.activations import ACT2FN
from transformers.modeling_outputs import MaskedLMOutput

from ..averages import hard_labels


class MaskedWords(BertPreTrainedModel):
    """A BERT encoder, dense or compressed, with BERT's masked-word head tied to its word table.

    The head is a dense layer, an activation, a norm and a bias per word; its last product uses the
    encoder's own table, which a ``KroneckerEmbedding`` multiplies without building it.

    Args:
        encoder: a ``BertModel``; it is used, not copied, so take ``.bert`` when training is over.
        predict: False for a teacher that only shows its states; it ignores labels.

    ``forward`` takes BERT's inputs and ``labels``, -100 where no word is asked for, and returns the
    mean cross-entropy over the asked words (0 without any), hidden states and attention maps. Only
    asked words get logits, so there are none in the output.

    Source: Devlin et al. 2019, appendix A.2; spec sheet KroneckerBERT, 1.4 and 2.1.
    """

    def __init__(self, encoder: nn.Module, predict: bool = True) -> None:
        super().__init__(encoder.config)
        width = encoder.config.hidden_size
        self.bert, self.predict = encoder, predict
        self.transform = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=encoder.config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(encoder.config.vocab_size))
        self.activation = ACT2FN[encoder.config.hidden_act]
        nn.init.normal_(self.transform.weight, std=encoder.config.initializer_range)
        nn.init.zeros_(self.transform.bias)

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, labels=None, **kwargs):
        """BERT's inputs -> ``MaskedLMOutput`` without logits."""
        output = self.bert(input_ids, attention_mask, token_type_ids, **kwargs)
        loss = None
        if labels is not None and self.predict:
            asked = labels != -100
            hidden = self.activation(self.transform(output.last_hidden_state[asked]))
            logits = self._words(self.norm(hidden)) + self.bias
            loss = hard_labels(logits, labels[asked])
        return MaskedLMOutput(
            loss=loss, hidden_states=output.hidden_states, attentions=output.attentions
        )

    def _words(self, hidden):
        table = self.bert.embeddings.word_embeddings
        logits = getattr(table, "logits", None)
        return logits(hidden) if logits else F.linear(hidden, table.weight)


def texts_of(split):
    """List of str from a split with a column text, sentence or tokens.

    Raises:
        ValueError: none of the three is there.
    """
    for column in ("text", "sentence"):
        if column in split.column_names:
            return list(split[column])
    if "tokens" in split.column_names:
        return [" ".join(words) for words in split["tokens"]]
    raise ValueError(f"text needs a column text, sentence or tokens, got {split.column_names}")


def encode_texts(texts, tokenizer, max_length=128):
    """List of str -> ``Dataset`` of ids, ready for ``DataCollatorForLanguageModeling``.

    A text longer than ``max_length`` pieces becomes several rows; nothing is thrown away.

    Raises:
        ValueError: no texts.
    """
    from datasets import Dataset

    if not texts:
        raise ValueError("cannot train on an empty list of texts")
    pieces = tokenizer(
        texts, truncation=True, max_length=max_length, return_overflowing_tokens=True
    )
    ids = pieces["input_ids"]
    columns = {"input_ids": ids, "attention_mask": pieces["attention_mask"]}
    return Dataset.from_dict(columns | {"length": [len(row) for row in ids]})


def hide_words(tokenizer, seed=None):
    """Return the collator that hides 15 % of the words and asks for them, as BERT's training did.

    A tokenizer without a mask token, as the embedded teacher's, hides them behind its unknown
    token; the tokenizer itself is not changed.

    Raises:
        ValueError: it has neither of the two.
    """
    if tokenizer.mask_token is None:
        if tokenizer.unk_token is None:
            raise ValueError(
                "masked words need a token to hide behind, and this tokenizer has neither a mask "
                "token nor an unknown token; set tokenizer.mask_token"
            )
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.mask_token = tokenizer.unk_token
    return DataCollatorForLanguageModeling(tokenizer, seed=seed)
