"""Keys and values of a decoder at 8, 4, 3 and 2 bits: perplexity, and bytes of the cache.

    TQLEARN_DATA=FOLDER python benchmarks/kv_cache.py
    python benchmarks/kv_cache.py --smollm2 0

The packaged decoder reads ``flight_text``'s validation split, in windows of 128 tokens that do not
overlap, as in ``decoder_bits``; SmolLM2-135M reads two windows of 1024 tokens from the paragraphs
of SQuAD's validation split (``--smollm2``: another number, 0 for none). Here they go through
the cache as in decoding, in pieces: of one token, or of 32 with SmolLM2. Each token sees its own
piece in floats, and before it what the cache gives back. With none of the newest in floats, at most
the 31 tokens of an unfinished block are. "Keys per token" has ranges along the channels of a token
for keys, too. Weights are floats, or (the packaged decoder's) at 4 bits per 64. Bytes are those
that the cache holds for one text at the end of its window. ``--quick`` measures few
settings on few tokens of the packaged decoder.
"""

import math

import common
import torch
import torch.nn.functional as F
from decoder_bits import WINDOW, texts
from transformers import DynamicCache

import tqlearn as tq
from tqlearn.hf import QuantizedCache
from tqlearn.hf.coded_states import Coded

PER, LONG, PIECE = 32, 1024, 32
SETTINGS = [(bits, newest, False) for newest in (0, 32) for bits in (8, 4, 3, 2)]
SETTINGS += [(bits, 0, True) for bits in (4, 3, 2)]


@torch.no_grad()
def decode(model, rows, cache, piece=1):
    """(perplexity of the rows, side by side, piece by piece; bytes that the cache holds of one)."""
    nats, asked = 0.0, F.pad(rows[:, 1:], (0, 1), value=-100)  # of the last nothing is asked
    for ids, wanted in zip(rows.split(piece, 1), asked.split(piece, 1), strict=True):
        logits = model(ids, past_key_values=cache, use_cache=True).logits
        nats += float(F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum"))
    perplexity = math.exp(nats / (rows.numel() - len(rows)))
    return round(perplexity, 4), held(cache) // len(rows)


def held(cache):
    """Bytes of a cache, ours or one in floats."""
    if isinstance(cache, QuantizedCache):
        return cache.nbytes
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def made(model, bits, newest, per_token):
    """A cache by a setting."""
    cache = QuantizedCache(model.config, bits=bits, per=PER, window=newest)
    for layer in cache.layers if per_token else ():
        layer.codes[0] = Coded(bits, PER, torch.float16, by_channel=False)
    return cache


def name(weights, bits, newest, per_token):
    """What a row is called."""
    keys = ", keys per token" if per_token else ""
    return f"{weights}, cache at {bits} bits, newest {newest} in floats{keys}"


def measure(called, model, rows, settings, piece=1):
    """One row of the table for floats, and one for each setting."""
    score, full = decode(model, rows, DynamicCache(config=model.config), piece)
    print(f"{called}: {score:.4f}, {full:,} bytes", flush=True)
    yield {"model": f"{called}, cache in floats", "role": "baseline",
           "metrics": {"perplexity": score, "cache_bytes": full}}  # fmt: skip
    for setting in settings:
        score, size = decode(model, rows, made(model, *setting), piece)
        row = name(called, *setting)
        print(f"{row}: {score:.4f}, {size:,} bytes, {full / size:.2f}x", flush=True)
        yield {"model": row, "role": "ablation",
               "metrics": {"perplexity": score, "cache_bytes": size}}  # fmt: skip


def rounded(model):
    """The model with its layers at 4 bits per 64."""
    plan = {"*.layers.*": [tq.LSQ(bits=4, init="mse", per=64)]}
    return tq.bake(tq.calibrate(tq.compress(model, plan)))


def windows(ids, size):
    """Rows of a text, whole ones alone."""
    return ids[: len(ids) // size * size].reshape(-1, size)


def main():
    """Measure every setting and write the table."""
    options = common.parser("kv_cache", __doc__.splitlines()[0])
    options.add_argument("--smollm2", type=int, default=2, help="windows for SmolLM2-135M")
    args = options.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = tq.teachers.load("decoder")
    rows, settings = windows(texts(tokenizer)[1], WINDOW), SETTINGS
    if args.quick:
        settings, rows = [(8, 0, False), (2, 0, False), (2, 0, True)], rows[:2]
    read = {"window": WINDOW, "per": PER, "tokens": rows.numel()}
    found = [*measure("decoder", model, rows, settings)]
    found += measure("decoder at 4 bits", rounded(model), rows, settings)
    if args.smollm2 and not args.quick:
        model, tokenizer = tq.teachers.load("smollm2")
        text = tq.data.load("squad_paragraphs", source="local")["validation"]["text"]
        ids = torch.tensor(tokenizer("\n\n".join(text[:200]), verbose=False)["input_ids"])
        rows = windows(ids, LONG)[: args.smollm2]
        read |= {"smollm2": {"window": LONG, "piece": PIECE, "tokens": rows.numel()}}
        found += measure("SmolLM2", model, rows, settings, PIECE)
    common.write("kv_cache", None, found, args, settings=read)


if __name__ == "__main__":
    main()
