"""Train the teacher that ships in the package: a tiny BERT on the ``flights`` corpus.

    python benchmarks/embedded_teacher.py

A 2-layer, 128-wide BertForJointIntentSlot with its own WordPiece vocabulary, trained from scratch
on the training split and copies of it in which values are swapped or made up (from training values
and random syllables, never from the test split). Writes the model (float16), the tokenizer and
metrics.json with the sha256 of every file to tqlearn/data/embedded, and the figures as JSON.
``--quick`` trains for two epochs and leaves the package alone unless --folder says otherwise.
"""

import hashlib
import json
import random
import tempfile
from collections import Counter
from pathlib import Path

import common
import torch
from datasets import DatasetDict, concatenate_datasets
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, Trainer, TrainingArguments, set_seed

import tqlearn.data
from tqlearn.hf import (
    BertForJointIntentSlot,
    JointCollator,
    encode_joint,
    evaluate_joint,
    joint_config,
    trainer_metrics,
)
from tqlearn.writing import folder_beside, write

PACKAGE = Path(tqlearn.data.__file__).parent / "embedded"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
VOCAB, POSITIONS = 1000, 64


def vocabulary(sentences, size=VOCAB):
    """Special tokens, all characters, then words and pieces of words by frequency.

    Half of the room is for whole words; the rest for beginnings ("lis") and continuations
    ("##bon") of 2 to 4 characters. Ties are broken by the alphabet, so that the same sentences give
    the same vocabulary (the trainer of the tokenizers package does not promise that).
    """
    splitter = pre_tokenizers.BertPreTokenizer()
    words, pieces = Counter(), Counter()
    for sentence in sentences:
        words.update(word for word, _ in splitter.pre_tokenize_str(" ".join(sentence)))
    for word, count in words.items():
        for length in (2, 3, 4):
            for start in range(len(word) - length + 1):
                pieces["##" * bool(start) + word[start : start + length]] += count * length
    letters = sorted(set("".join(words)))
    fixed = [*SPECIAL, *letters, *("##" + letter for letter in letters)]
    vocab = list(dict.fromkeys([*fixed, *_most(words)[: (size - len(fixed)) // 2], *_most(pieces)]))
    return {piece: i for i, piece in enumerate(vocab[:size])}


def _most(counts):
    return sorted(counts, key=lambda key: (-counts[key], key))


def wordpieces(sentences):
    """A WordPiece tokenizer over ``vocabulary``; rare words are spelled in pieces."""
    vocab = vocabulary(sentences)
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(name, vocab[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=POSITIONS, **names)


def spans(tags):
    """IOB tags -> [(start, end, slot name or None)], one per value or single O word."""
    starts = [i for i, tag in enumerate(tags) if not tag.startswith("I-")] + [len(tags)]
    return [
        (a, b, tags[a][2:] if tags[a] != "O" else None)
        for a, b in zip(starts, starts[1:], strict=False)
    ]


def made_up(rng):
    """A word of one to three random syllables, or a short random string."""
    if rng.random() < 0.2:
        return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=rng.randint(3, 6)))
    syllables = rng.randint(1, 3)
    word = "".join(rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") for _ in range(syllables))
    return word + rng.choice(["", "", "n", "s", "r", "l", "sh", "ck"])


def vary(row, values, rng, swap=0.4, invent=0.25, blur=0.1):
    """One sentence with other values: swapped within training, made up, plain words blurred."""
    tokens, tags = [], []
    for a, b, slot in spans(row["slots"]):
        words = list(row["tokens"][a:b])
        if slot and rng.random() < swap:
            words = rng.choice(values[slot])
        if rng.random() < (invent if slot else blur):
            words = [made_up(rng) for _ in words]
        tokens += words
        tags += [f"B-{slot}"] + [f"I-{slot}"] * (len(words) - 1) if slot else ["O"] * len(words)
    return {"tokens": tokens, "slots": tags, "intent": row["intent"]}


def augment(train, copies, seed):
    """The training split and ``copies`` varied versions of it."""
    rng = random.Random(seed)
    values = {}
    for row in train:
        for a, b, slot in spans(row["slots"]):
            if slot:
                values.setdefault(slot, []).append(row["tokens"][a:b])
    varied = [vary(row, values, rng) for _ in range(copies) for row in train]
    return concatenate_datasets([train, train.from_list(varied)])


def train(dd, epochs, seed, copies=14):
    """(model, tokenizer), the last epoch's."""
    set_seed(seed)
    intents, slots = tqlearn.data.labels(dd)
    tokenizer = wordpieces(dd["train"]["tokens"])
    config = joint_config(
        intents,
        slots,
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=POSITIONS,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.06,  # about 0.7 / sqrt(width); 0.02 is made for 768
    )
    model = BertForJointIntentSlot(config)
    more = DatasetDict(train=augment(dd["train"], copies, seed), validation=dd["validation"])
    encoded = encode_joint(more, tokenizer, intents, slots, POSITIONS)
    with tempfile.TemporaryDirectory() as folder:
        options = TrainingArguments(
            folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=64,
            per_device_eval_batch_size=100,
            learning_rate=1e-3,
            warmup_steps=0.05,
            lr_scheduler_type="cosine",
            weight_decay=0.01,
            train_sampling_strategy="group_by_length",
            eval_strategy="epoch",
            save_strategy="no",
            logging_strategy="epoch",
            label_names=["intent_labels", "slot_labels"],
            report_to="none",
            dataloader_pin_memory=False,
            disable_tqdm=True,
            seed=seed,
        )
        trainer = Trainer(
            model,
            options,
            train_dataset=encoded["train"],
            eval_dataset=encoded["validation"],
            data_collator=JointCollator(tokenizer),
            compute_metrics=trainer_metrics(intents, slots),
        )
        trainer.train()
    return model.eval(), tokenizer


def save(model, tokenizer, folder, metrics, args):
    """Write model (float16), tokenizer and metrics.json; returns the bytes of the weights."""
    with folder_beside(folder) as new:
        model.half().save_pretrained(new)
        model.float()
        tokenizer.save_pretrained(new)
        digests = {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(new.glob("*.*"))
        }
        record = {"command": common.command(), "seed": args.seed}
        record |= {"metrics": metrics, "sha256": digests}
        write(new / "metrics.json", json.dumps(record, indent=2) + "\n")
    for old in folder.glob("*.*"):
        if old.name not in digests and old.name != "metrics.json":
            old.unlink()  # of an earlier teacher
    return (folder / "model.safetensors").stat().st_size


def main():
    """Train, test as stored (rounded to float16), write."""
    parser = common.parser("embedded_teacher", __doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help=f"where the model goes, default {PACKAGE.name}")
    parser.add_argument("--epochs", type=int, default=6)
    args = parser.parse_args()
    dd = tqlearn.data.load("flights")
    options = {"epochs": 2, "copies": 1} if args.quick else {"epochs": args.epochs}
    model, tokenizer = train(dd, seed=args.seed, **options)
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()  # what the file will hold
    metrics = {
        split: evaluate_joint(model, tokenizer, dd[split]) for split in dd if split != "train"
    }
    folder = args.folder or (None if args.quick else PACKAGE)
    size = {"nominal": 4 * sum(p.numel() for p in model.parameters())}
    if folder is not None:
        size["file"] = save(model, tokenizer, folder, metrics, args)
    row = {
        "model": "BERT 2 x 128 on flights",
        "role": "baseline",
        "metrics": metrics["test"],
        "bytes": size,
        "note": "nominal is float32, the file float16; test values and frames unseen in training",
    }
    common.write("embedded_teacher", None, [row], args)
    print(json.dumps(metrics, indent=2), torch.__version__)


if __name__ == "__main__":
    main()
