"""A joint intent + slot model as an ordinary transformers class, and the data it eats."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, BertPreTrainedModel
from transformers.utils import ModelOutput

from ..averages import hard_labels
from .attention import WITH_MAPS

POOLINGS = ("first", "mean")


def joint_config(intents, slots, label_smoothing=0.1, pooling="first", **bert):
    """A ``BertConfig`` that also carries ``intent_labels``, ``slot_labels``, ``label_smoothing``.

    Without further arguments it is the dense ATIS model of the QTC paper's lineage: 800 words,
    2 layers, 768 wide, 12 heads, FFN 3072, 512 positions, dropout 0.1, LayerNorm eps 1e-12.

    Args:
        intents, slots: label lists, as ``tqlearn.data.labels`` gives them.
        label_smoothing: weight spread over all classes, in both losses, 0 to 1.
        pooling: what the intent head reads: the "first" position, or the "mean" of all that are
            not padding (for encoders that were trained to be averaged, as all-MiniLM-L6-v2 was).
        **bert: any ``BertConfig`` argument.
    """
    dense = {"vocab_size": 800, "num_hidden_layers": 2, "layer_norm_eps": 1e-12}
    config = BertConfig(**(dense | bert))
    return joint_settings(config, intents, slots, label_smoothing, pooling)


def joint_settings(config, intents, slots, label_smoothing=0.1, pooling="first"):
    """Write what a joint model needs into an existing ``BertConfig``, and return it."""
    if len(intents) < 2 or len(slots) < 2:
        raise ValueError(f"need >= 2 intents and slots, got {len(intents)} and {len(slots)}")
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {POOLINGS}, got {pooling!r}")
    config.intent_labels, config.slot_labels = list(intents), list(slots)
    config.label_smoothing, config.pooling = label_smoothing, pooling
    return config


@dataclass
class JointOutput(ModelOutput):
    """Loss and logits: intent (batch, intents), slot (batch, tokens, slots); rest as in BERT."""

    loss: torch.Tensor | dict | None = None  # a dict: accelerate casting half precision back
    intent_logits: torch.Tensor | None = None
    slot_logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class BertForJointIntentSlot(BertPreTrainedModel):
    """BERT with an intent head on the first position (or the mean) and a slot head on every one.

    Intent: Linear(H, H), tanh, dropout, Linear(H, intents). Slots: Linear(H, H), GELU, LayerNorm,
    Linear(H, slots). Loss: cross-entropy(intent) + cross-entropy(slots, -100 ignored), both with
    ``config.label_smoothing``.

    ``output_attentions`` needs eager attention: ``model.set_attn_implementation("eager")``.
    """

    def __init__(self, config):
        super().__init__(config)
        if not hasattr(config, "intent_labels") or not hasattr(config, "slot_labels"):
            raise ValueError(
                "the config has no intent_labels and slot_labels; make it with "
                "joint_config(intents, slots), or give a pre-trained encoder to "
                "teachers.joint_from_encoder"
            )
        width = config.hidden_size
        self.bert = BertModel(config, add_pooling_layer=False)
        self.intent_dense = nn.Linear(width, width)
        self.intent_dropout = nn.Dropout(config.hidden_dropout_prob)
        self.intent_classifier = nn.Linear(width, len(config.intent_labels))
        self.slot_dense = nn.Linear(width, width)
        self.slot_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.slot_classifier = nn.Linear(width, len(config.slot_labels))
        self.post_init()

    def forward(
        self,
        input_ids,
        attention_mask=None,
        token_type_ids=None,
        intent_labels=None,
        slot_labels=None,
        output_hidden_states=None,
        output_attentions=None,
        return_dict=None,
    ):
        """Ids (batch, tokens) -> JointOutput; the loss needs both kinds of labels."""
        if output_attentions and self.config._attn_implementation not in WITH_MAPS:
            raise ValueError(
                f"{self.config._attn_implementation} attention returns no probabilities; call "
                'model.set_attn_implementation("eager") before asking for output_attentions'
            )
        encoded = self.bert(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        hidden = encoded.last_hidden_state  # (batch, tokens, H)
        pooled = hidden[:, 0]
        if getattr(self.config, "pooling", "first") == "mean":
            pooled = masked_mean(hidden, attention_mask)
        intent = self.intent_dropout(torch.tanh(self.intent_dense(pooled)))
        intent_logits = self.intent_classifier(intent)
        slot_logits = self.slot_classifier(self.slot_norm(F.gelu(self.slot_dense(hidden))))
        loss = None
        if intent_labels is not None and slot_labels is not None:
            loss = self._loss(intent_logits, slot_logits, intent_labels, slot_labels)
        output = JointOutput(
            loss, intent_logits, slot_logits, encoded.hidden_states, encoded.attentions
        )
        return output if return_dict is not False else output.to_tuple()

    def _loss(self, intent_logits, slot_logits, intents, slots):
        smoothing = self.config.label_smoothing
        intent = F.cross_entropy(intent_logits, intents, label_smoothing=smoothing)
        slot = hard_labels(slot_logits.flatten(0, 1), slots.flatten(), smoothing)
        return intent + slot


def masked_mean(hidden, attention_mask=None):
    """(batch, tokens, H) -> (batch, H): the mean over the tokens whose mask is 1."""
    if attention_mask is None:
        return hidden.mean(1)
    weight = attention_mask[..., None].to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)


def encode_joint(dd, tokenizer, intents, slots, max_length=128):
    """Words and labels -> ids: a DatasetDict ready for a Trainer with ``JointCollator``.

    The first piece of each word carries its tag, other pieces and special tokens -100. A label
    that is not in the lists becomes "UNK". Longer sentences are cut at ``max_length`` pieces.

    Raises:
        ValueError: the tokenizer puts no special token first, or the lists have no "UNK".
    """
    from datasets import Dataset, DatasetDict

    _check(tokenizer, intents, slots)
    intent_id = {label: i for i, label in enumerate(intents)}
    slot_id = {label: i for i, label in enumerate(slots)}

    def encode(split):
        # [:] at once: a Dataset decodes row by row otherwise
        words = [list(tokens) for tokens in split["tokens"][:]]
        pieces = split_words(tokenizer, words, max_length)
        tags = [
            [-100 if i is None else slot_id.get(row[i], slot_id["UNK"]) for i in first_pieces(p)]
            for p, row in zip(pieces.encodings, split["slots"][:], strict=True)
        ]
        return Dataset.from_dict(
            {
                "input_ids": pieces["input_ids"],
                "attention_mask": pieces["attention_mask"],
                "intent_labels": [intent_id.get(i, intent_id["UNK"]) for i in split["intent"][:]],
                "slot_labels": tags,
                "length": [len(ids) for ids in pieces["input_ids"]],
            }
        )

    return DatasetDict({name: encode(split) for name, split in dd.items()})


def split_words(tokenizer, words, max_length):
    """Tokenize lists of words; the fast tokenizer's ``encodings`` know each piece's word."""
    return tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length)


def first_pieces(encoding):
    """Per piece: the index of its word if it is the word's first piece, else None."""
    ids = encoding.word_ids
    return [w if w is not None and (i == 0 or ids[i - 1] != w) else None for i, w in enumerate(ids)]


def _check(tokenizer, intents, slots):
    if not tokenizer.is_fast:
        raise ValueError("word alignment needs a fast tokenizer (tokenizer.is_fast is False)")
    if tokenizer.cls_token_id is None:
        raise ValueError("the intent head reads the first position: the tokenizer needs a [CLS]")
    if "UNK" not in intents or "UNK" not in slots:
        raise ValueError('both label lists need "UNK" for unseen labels; use tqlearn.data.labels')


class JointCollator:
    """Stack rows of ``encode_joint`` into a batch, padded to the longest row in it."""

    def __init__(self, tokenizer):
        self.fill = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0, "slot_labels": -100}

    def __call__(self, rows):
        """Rows -> input_ids, attention_mask, slot_labels (batch, tokens), intent_labels (batch)."""
        longest = max(len(row["input_ids"]) for row in rows)
        batch = {
            key: torch.tensor([row[key] + [fill] * (longest - len(row[key])) for row in rows])
            for key, fill in self.fill.items()
        }
        batch["intent_labels"] = torch.tensor([row["intent_labels"] for row in rows])
        return batch
