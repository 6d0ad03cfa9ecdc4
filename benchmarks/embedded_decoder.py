"""Train the language model that ships in the package: a tiny Llama on ``flight_text``.

    python benchmarks/embedded_decoder.py

A LlamaForCausalLM of 2 layers, 128 wide, four query heads on two heads of keys and values, with a
WordPiece vocabulary of its own in which a new line ends a sentence. Trained from scratch on the
training sentences and, anew for every epoch, on copies of them in which values are swapped or made
up (as for the embedded teacher; never from the test split). The last 200 training sentences are
held out and choose the epoch. The last norm keeps a gain of 1: then the table of words, which is
the output layer too, stays one weight when the stream is rotated.

Writes the model (float16), the tokenizer and metrics.json with the sha256 of every file to
tqlearn/data/embedded_decoder, and the figures as JSON. Minutes. ``--quick`` trains for two epochs
on few sentences and leaves the package alone unless --folder says otherwise.
"""

import copy
import json
import random
from pathlib import Path

import common
import torch
from embedded_teacher import SPECIAL, augment, save, vocabulary
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

import tqlearn.data
from tqlearn.hf import evaluate_language

PACKAGE = Path(tqlearn.data.__file__).parent / "embedded_decoder"
UNKNOWN, END = "[UNK]", "\n"
VOCAB, POSITIONS, HELD, BATCH = 1000, 128, 200, 16
RATE, WARMUP, DECAY = 3e-3, 0.05, 0.1


def wordpieces(sentences):
    """A WordPiece tokenizer for whole texts: one sentence a line, no marks at beginning or end."""
    pieces = [p for p in vocabulary(sentences, VOCAB + len(SPECIAL) - 2) if p not in SPECIAL]
    vocab = {piece: i for i, piece in enumerate([UNKNOWN, END, *pieces])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNKNOWN, bos_token=END, eos_token=END
    )


def encoded(tokenizer, sentences):
    """The ids (n,) of sentences, each with the end of its line."""
    text = "".join(" ".join(tokens) + END for tokens in sentences)
    return torch.tensor(tokenizer(text, verbose=False)["input_ids"])


def batches(rows, tokenizer, seed):
    """Pieces (BATCH, POSITIONS) of all sentences in a random order."""
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    ids = encoded(tokenizer, [rows["tokens"][i] for i in order])
    whole = ids[: len(ids) // POSITIONS * POSITIONS].reshape(-1, POSITIONS)
    return whole.split(BATCH)


def new_model(tokenizer):
    """A random decoder; the last norm's gain is not trained."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        attention_dropout=0.1,
        initializer_range=0.06,  # about 0.7 / sqrt(width); 0.02 is made for thousands
    )
    model = LlamaForCausalLM(config)
    model.model.norm.weight.requires_grad_(False)
    return model


def train(dd, epochs, seed, copies=3):
    """(model, tokenizer, epoch that was chosen): the one that predicts the held-out lines best."""
    set_seed(seed)
    rows = dd["train"]
    last = len(rows) - min(HELD, len(rows) // 4)
    kept, held = rows.select(range(last)), rows.select(range(last, len(rows)))
    tokenizer = wordpieces(kept["tokens"])
    model, judge = new_model(tokenizer), encoded(tokenizer, held["tokens"])
    matrices = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    gains = [p for p in model.parameters() if p.requires_grad and p.dim() == 1]
    groups = [{"params": matrices}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, weight_decay=DECAY, betas=(0.9, 0.95))
    steps = epochs * len(batches(augment(kept, copies, seed), tokenizer, seed))
    warm = max(1, int(WARMUP * steps))
    one = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warm, total_iters=warm)
    two = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - warm))
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [one, two], [warm])
    best = (float("inf"), 0, None)
    for epoch in range(1, epochs + 1):
        model.train()
        for ids in batches(augment(kept, copies, seed + epoch), tokenizer, seed + epoch):
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            nn.utils.clip_grad_norm_(matrices + gains, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        found = evaluate_language(model, judge, window=POSITIONS)["nll"]
        print(
            f"epoch {epoch}: {loss.item():.3f} nats in training, {found:.4f} held out", flush=True
        )
        if found < best[0]:
            best = (found, epoch, copy.deepcopy(model.state_dict()))
    model.load_state_dict(best[2])
    return model.eval(), tokenizer, best[1]


def main():
    """Train, test as stored (rounded to float16), write."""
    parser = common.parser("embedded_decoder", __doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help=f"where the model goes, default {PACKAGE.name}")
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    dd = tqlearn.data.load("flights")
    if args.quick:
        dd = {split: rows.select(range(min(len(rows), 300))) for split, rows in dd.items()}
    options = {"epochs": 2, "copies": 1} if args.quick else {"epochs": args.epochs}
    model, tokenizer, epoch = train(dd, seed=args.seed, **options)
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()  # what the file will hold
    metrics = {}
    for split in ("validation", "test"):
        text = "".join(" ".join(tokens) + END for tokens in dd[split]["tokens"])
        found = evaluate_language(model, tokenizer, text, window=POSITIONS)
        metrics[split] = {key: round(value, 4) for key, value in found.items()}
    folder = args.folder or (None if args.quick else PACKAGE)
    size = {"nominal": 4 * sum(p.numel() for p in model.parameters())}
    if folder is not None:
        size["file"] = save(model, tokenizer, folder, metrics, args)
    row = {
        "model": "Llama 2 x 128 on flight_text",
        "role": "baseline",
        "metrics": metrics["test"],
        "bytes": size,
        "note": f"nominal is float32, the file float16; epoch {epoch} of {options['epochs']}, by "
        f"{HELD} training sentences; test values and frames unseen in training",
    }
    common.write("embedded_decoder", None, [row], args)
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
