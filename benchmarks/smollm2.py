"""SmolLM2-135M on paragraphs of Wikipedia: perplexity after compression without any training.

    TQLEARN_DATA=FOLDER python benchmarks/smollm2.py
    TQLEARN_DATA=FOLDER python benchmarks/smollm2.py --rows "float" "4 bits per tensor"
    TQLEARN_DATA=FOLDER python benchmarks/smollm2.py --minutes 60

The first 100,000 tokens of SQuAD's dev paragraphs, in windows of 1024 that do not overlap. All
matrices of the decoder's layers are compressed; the table of words, which is the output layer too,
stays in floats but in the rows that name it, and bytes are those of the whole file. Methods that
need inputs look at the first tokens of SQuAD's training paragraphs. Nothing is chosen by what is
measured. KL is from the model in floats, in nats per token. A rotated model's last norm has a gain
of its own for each channel, which goes into the output layer: that is another matrix then, and its
file holds both.

The weights come from 4-bit blocks of 32 (see ``tqlearn.hf.smollm2``): rows at 4 bits per 32 look
better than they are. Groups of 192 stand where others have 128, which does not divide this model's
width, 576.

Rows that the JSON holds with the same settings are kept (older ones without KL are measured again,
last), and each new row is written at once: a run that was stopped goes on. ``--quick`` takes a tiny
random Llama that reads bytes of embedded text.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import common
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import tqlearn as tq
from tqlearn.hf import evaluate_language
from tqlearn.hf.smollm2 import SHA256
from tqlearn.posttraining import awq, rotate

LAYERS = "*.layers.*"
TABLE = "*embed_tokens"
LOOKED_AT = 16_384  # tokens for methods that look at text
Method = Callable[[torch.nn.Module, torch.Tensor], torch.nn.Module]


def rounded(
    bits: int, per: str | int, how: str = "", *, init: str = "mse", table: bool = False
) -> Method:
    """Round to a grid through zero, scales of least squared error: to the nearest step, or ``how``
    of "rescaled" (scales for the inputs), "GPTQ", "GPTQ by size" (act-order), "AWQ", "rotated
    GPTQ", and several of them, such as "AWQ rescaled GPTQ by size", in the order of their names.
    """

    def method(model: torch.nn.Module, ids: torch.Tensor) -> torch.nn.Module:
        edit = tq.LSQ(bits=bits, init=init, per=per)
        plan = {LAYERS: [edit]} | ({TABLE: [edit]} if table else {})
        window = min(512, len(ids))
        batches = [{"input_ids": ids[None, k : k + window]} for k in range(0, len(ids), window)]
        if how.startswith("AWQ"):
            model = awq(model, batches, plan)
        if how.startswith("rotated"):
            model = rotate(model)
        student = tq.calibrate(tq.compress(model, plan))
        if "rescaled" in how:
            tq.rescale(student, batches)
        if "GPTQ" in how:
            tq.compensate(student, batches, by_size=how.endswith("by size"))
        return student

    return method


GRIDS = [(4, 32), (4, 64), (4, 192), (3, 64), (2, 64)]
HOW = dict.fromkeys(("GPTQ", "AWQ", "rotated GPTQ"), GRIDS)
HOW |= dict.fromkeys(("rescaled", "rescaled GPTQ by size", "GPTQ by size"), GRIDS[1:])
HOW |= {"AWQ and GPTQ": GRIDS[3:]}
HOW |= {f"{how} rescaled GPTQ by size": GRIDS[1:2] + GRIDS[3:] for how in ("AWQ", "rotated")}
METHODS: dict[str, Method] = {  # name -> (model, ids to look at) -> model
    "float": lambda model, ids: model,
    "4 bits per tensor, start of LSQ": rounded(4, "tensor", init="lsq"),
    **{
        f"{bits} bits per {per}": rounded(bits, per)
        for bits in (4, 3, 2)
        for per in ("tensor", "channel", 192, 64, 32)
    },
    **{
        f"{how}, {bits} bits per {per}": rounded(bits, per, how)
        for how, grids in HOW.items()
        for bits, per in grids
    },
    "GPTQ, 4 bits per 64, with the table": rounded(4, 64, "GPTQ", table=True),
}
QUICK = ["float", "4 bits per tensor", "2 bits per tensor", "2 bits per 32"]
QUICK += [f"{how}, 2 bits per 64" for how in ("rescaled", "GPTQ", "AWQ", "rotated GPTQ")]


@dataclass
class Subject:
    """A model, the ids that judge it, their text, and the ids that methods may look at."""

    model: torch.nn.Module
    ids: torch.Tensor
    text: str
    looked_at: torch.Tensor
    settings: dict

    def measured(self, name: str) -> dict:
        """Return the row of a method."""
        student = METHODS[name](self.model, self.looked_at)
        size, windows = tq.report(student).file, (self.settings["window"], self.settings["stride"])
        plain = student if student is self.model else tq.bake(student)
        window, stride = windows
        apart = {} if student is self.model else {"reference": self.model}
        found = evaluate_language(plain, self.ids, self.text, window=window, stride=stride, **apart)
        metrics = {key: round(float(value), 4) for key, value in found.items()}
        role = "baseline" if name == "float" else "student"
        return {"model": name, "role": role, "metrics": metrics, "bytes": {"file": size}}


def smollm2(tokens: int) -> Subject:
    """SmolLM2 and Wikipedia."""
    model, tokenizer = tq.teachers.load("smollm2")
    data = tq.data.load("squad_paragraphs", source="local")
    look, judge = ("\n\n".join(data[split]["text"]) for split in ("train", "validation"))
    ids = torch.tensor(tokenizer(judge, verbose=False)["input_ids"])[:tokens]
    looked_at = torch.tensor(tokenizer(look, verbose=False)["input_ids"])[:LOOKED_AT]
    settings = {
        "teacher": f"smollm2, sha256 {SHA256[:12]}",
        "text": "squad_paragraphs, validation",
        "tokens": len(ids),
        "window": 1024,
        "stride": 1024,
        "looked at": f"squad_paragraphs, train, {len(looked_at)} tokens",
    }
    return Subject(model, ids, tokenizer.decode(ids), looked_at, settings)


def tiny() -> Subject:
    """A random Llama and the bytes of flights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=192,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.1,
    )
    data = tq.data.load("flight_text")
    look, judge = ("\n".join(data[split]["text"]) for split in ("train", "validation"))
    ids, looked_at = (torch.tensor([*text.encode()]) for text in (judge[:999], look[:999]))
    settings = {"teacher": "tiny", "text": "flight_text", "tokens": 999, "window": 64, "stride": 48}
    model = LlamaForCausalLM(config).eval()
    return Subject(model, ids, judge[:999], looked_at, settings)


def kept(args: object, settings: dict) -> dict[str, dict]:
    """Return the rows of an earlier run with the same settings, by name."""
    if not args.out.exists():
        return {}
    old = json.loads(args.out.read_text())
    same = old["settings"] == settings and old["quick"] == args.quick
    return {row["model"]: row for row in old["rows"]} if same else {}


def asked(
    name: str, about: str, methods: dict, quick: list[str], tokens: int
) -> tuple[argparse.Namespace, list[str]]:
    """Read the command line of a table of methods, and the names of the rows it wants."""
    parser = common.parser(name, about)
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="these alone")
    parser.add_argument("--tokens", type=int, default=tokens)
    parser.add_argument("--minutes", type=float, help="begin no row after this time")
    args = parser.parse_args()
    names = args.rows or (quick if args.quick else [*methods])
    if unknown := set(names) - set(methods):
        parser.error(f"no such rows: {sorted(unknown)}; there are {[*methods]}")
    return args, names


def in_time(names: list[str], minutes: float | None) -> Iterator[str]:
    """Yield names until the minutes are over."""
    begin = time.monotonic()
    for name in names:
        if minutes is not None and time.monotonic() - begin > 60 * minutes:
            print(f"{name} and what follows: not begun within {minutes:g} minutes")
            return
        yield name


def store(name: str, methods: dict, rows: dict, args: argparse.Namespace, settings: dict) -> None:
    """Write a table: rows of today's methods in their order, then what older calls have left."""
    order = [*(n for n in methods if n in rows), *(n for n in rows if n not in methods)]
    common.write(name, None, [rows[n] for n in order], args, settings=settings)


def main():
    """Measure what is missing, and write the table after each row."""
    args, names = asked("smollm2", __doc__.splitlines()[0], METHODS, QUICK, 100_000)
    torch.set_num_threads(1)
    subject = tiny() if args.quick else smollm2(args.tokens)
    rows = kept(args, subject.settings)
    missing = [name for name in names if name not in rows]
    missing += [n for n in names if n in rows and "kl" not in rows[n]["metrics"] and n != "float"]
    for name in names:
        if name not in missing:
            print(f"{name}: measured before, kept", flush=True)
    for name in in_time(missing, args.minutes):
        rows[name] = subject.measured(name)
        print(rows[name], flush=True)
        store("smollm2", METHODS, rows, args, subject.settings)
    if not missing:  # the same table, under the command that asks for it
        store("smollm2", METHODS, rows, args, subject.settings)


if __name__ == "__main__":
    main()
