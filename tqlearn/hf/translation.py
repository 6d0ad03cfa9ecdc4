"""Translation: a BPE tokenizer of the training text, batches, translating, BLEU and perplexity."""

import json
from math import exp
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from ..models import Transformer, beam_search
from ..models.transformer import IGNORED
from ..storage.files import load, save
from ..writing import folder_beside, write
from .bleu import bleu
from .resuming import last_checkpoint

SPECIAL = {"pad_token": "[PAD]", "bos_token": "[BOS]", "eos_token": "[EOS]", "unk_token": "[UNK]"}
WEIGHTS, SHAPE = "model.safetensors", "transformer.json"


def bpe_tokenizer(dd, size=6000):
    """One BPE tokenizer for both languages, trained on the train split alone.

    [PAD] 0, [BOS] 1, [EOS] 2, [UNK] 3. Marks of punctuation are pieces of their own; a blank is
    kept in its piece, so decoding gives plain text back. Sentences get [EOS] at their end.

    Raises:
        ValueError: the train split has no columns source and target.
    """
    train = dd["train"]
    if not {"source", "target"} <= set(train.column_names):
        raise ValueError(f"translation needs columns source and target, got {train.column_names}")
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[*SPECIAL.values()], show_progress=False
    )
    texts = [text for side in ("source", "target") for text in train[side]]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [EOS]", special_tokens=[("[EOS]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def encode_pairs(dd, tokenizer, max_length=128):
    """Columns source, target -> ``input_ids``, ``labels`` and ``length``; longer ones are cut."""
    from datasets import Dataset, DatasetDict

    def encode(split):
        ids, labels = (
            tokenizer(list(split[side]), truncation=True, max_length=max_length)["input_ids"]
            for side in ("source", "target")
        )
        lengths = [len(a) + len(b) for a, b in zip(ids, labels, strict=True)]
        return Dataset.from_dict({"input_ids": ids, "labels": labels, "length": lengths})

    return DatasetDict({name: encode(split) for name, split in dd.items()})


class PairCollator:
    """Pad a list of encoded rows: ``input_ids``, ``attention_mask`` and ``labels``."""

    def __init__(self, tokenizer):
        self.pad = tokenizer.pad_token_id

    def __call__(self, rows):
        ids = _padded([row["input_ids"] for row in rows], self.pad)
        labels = _padded([row["labels"] for row in rows], IGNORED)
        return {"input_ids": ids, "attention_mask": (ids != self.pad).long(), "labels": labels}


def _padded(rows, value):
    rows = [torch.as_tensor(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def translator(tokenizer, **shape):
    """A fresh ``Transformer`` for a tokenizer; ``shape`` as in its arguments."""
    ids = {"pad": tokenizer.pad_token_id, "begin": tokenizer.bos_token_id}
    return Transformer(len(tokenizer), **ids, end=tokenizer.eos_token_id, **shape)


@torch.no_grad()
def translate(model, tokenizer, sentences, batch_size=64, beams=4, alpha=0.6):
    """A list of sentences -> a list of translations, by beam search.

    Sentences longer than the model's positions are cut.
    """
    pieces = tokenizer(list(sentences), truncation=True, max_length=model.positions.length)
    rows, found = pieces["input_ids"], [""] * len(sentences)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # little padding
    device = model.embedding.weight.device
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        ids = _padded([rows[i] for i in chosen], tokenizer.pad_token_id).to(device)
        best = beam_search(model, ids, beams=beams, alpha=alpha)
        for i, words in zip(chosen, best, strict=True):
            found[i] = tokenizer.decode(words, skip_special_tokens=True).strip()
    return found


@torch.no_grad()
def perplexity(model, tokenizer, split, batch_size=64):
    """exp of the mean loss per target piece, [EOS] included, without label smoothing."""
    encoded = encode_pairs({"x": split}, tokenizer, model.positions.length)["x"]
    training, collator = model.training, PairCollator(tokenizer)
    model.eval()
    total = count = 0
    order = sorted(range(len(encoded)), key=lambda i: encoded[i]["length"])
    for start in range(0, len(order), batch_size):
        batch = collator([encoded[i] for i in order[start : start + batch_size]])
        batch = {k: v.to(model.embedding.weight.device) for k, v in batch.items()}
        logits, labels = model(**batch)["logits"].float(), batch["labels"]
        total += F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").item()
        count += int((labels != IGNORED).sum())
    model.train(training)
    return exp(total / count)


def evaluate_translation(model, tokenizer, split, beams=4, alpha=0.6):
    """({"bleu", "tokenized_bleu", "perplexity"}, signatures) on a raw split.

    Raises:
        ValueError: the split is empty.
    """
    if len(split) == 0:
        raise ValueError("the split to evaluate on is empty")
    found = translate(model, tokenizer, split["source"], beams=beams, alpha=alpha)
    scores, signatures = bleu(found, list(split["target"]))
    return scores | {"perplexity": perplexity(model, tokenizer, split)}, signatures


def in_floats(model):
    """A fresh ``Transformer`` with the weights that a fake-quantized one trains."""
    plain = _with_floats(model.arguments, model.state_dict())
    return plain.to(model.embedding.weight.device).train(model.training)


def _with_floats(arguments, values):
    """A ``Transformer`` with the float weights in a fake-quantized one's state."""
    plain = Transformer(**arguments)
    names = {name: name for name in plain.state_dict()}
    for name in names:
        module, _, weight = name.rpartition(".")
        trained = f"{module}.parametrizations.{weight}.original"
        names[name] = trained if trained in values else name
    plain.load_state_dict({name: values[there] for name, there in names.items()})
    return plain


def save_translator(model, tokenizer, folder):
    """Write a translator, in floats, fake-quantized or packed, with what loading needs."""
    with folder_beside(folder) as new:
        save(model, new / WEIGHTS)
        write(new / SHAPE, json.dumps(model.arguments, indent=2) + "\n")
        tokenizer.save_pretrained(new)


def load_translator(folder):
    """(model in eval mode, tokenizer) from a folder of ``save_translator``.

    Raises:
        ValueError: the folder holds no translator.
    """
    folder = Path(folder)
    if not (folder / SHAPE).is_file():
        raise ValueError(
            f"{folder} holds no translator; python -m tqlearn.recipes.fullyqt --bits 32 trains one"
        )
    model = Transformer(**json.loads((folder / SHAPE).read_text()))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return load(model, folder / WEIGHTS).eval(), tokenizer


def load_floats(folder):
    """(model in floats and eval mode, tokenizer) of a finished run of the recipe ``fullyqt``.

    A quantized run's packed file has no floats any more: they come from its last checkpoint.

    Raises:
        ValueError: the folder holds no translator, or a quantized one without a checkpoint.
    """
    model, tokenizer = load_translator(folder)
    if model.state_dict().keys() == Transformer(**model.arguments).state_dict().keys():
        return model, tokenizer
    checkpoint = last_checkpoint(folder, ["weights"])
    if checkpoint is None:
        raise ValueError(f"{folder} holds integers, and no checkpoint with the floats behind them")
    return _with_floats(model.arguments, load_file(checkpoint / WEIGHTS)).eval(), tokenizer
