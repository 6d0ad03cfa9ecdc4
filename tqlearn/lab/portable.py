"""Does a lesson print the same on another processor, and with another seed? For authors.

    python -m tqlearn.lab.portable notebooks/04_*.ipynb              # on every instruction set
    python -m tqlearn.lab.portable notebooks/04_*.ipynb --seeds 3 --begin 47

Each run plays an older processor (``INSTRUCTION_SETS``), takes another number of threads, or adds
one to every seed from cell ``--begin`` on. In the cells whose output is compared it writes down
both sides of every ``<`` and ``>``, and every number before it is rounded. Then it tells what has
flipped, and what was near: a comparison whose room is below the spread over the runs, a rounded
number nearer to the edge than ten times its spread.
"""

import argparse
import ast
import json
import os
import re
import sys
from collections import defaultdict
from functools import reduce
from operator import and_, ge, gt, le, lt
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import nbformat

from .build import execute, tagged

# MKL_ENABLE_INSTRUCTIONS says nothing to MKL on an AMD processor; MKL_CBWR does.
INSTRUCTION_SETS = {
    "native": {},
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "MKL_CBWR": "AVX2",
    },
    "default": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "MKL_CBWR": "COMPATIBLE",
    },
}
SIGNS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
HOLDS = {"<": lt, "<=": le, ">": gt, ">=": ge}
ROUNDED = re.compile(r".*\.\d+[efg%]?")
FILE = "TQLEARN_WATCH"  # where a watched kernel writes


class Watch(ast.NodeTransformer):
    """Wrap what a cell compares, and what it rounds, in ``compared`` and ``rounded``."""

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """x < y -> compared("x < y", [x, y], ["<"])."""
        text = ast.unparse(node)
        self.generic_visit(node)
        if not all(type(op) in SIGNS for op in node.ops):
            return node
        sides = ast.List([node.left, *node.comparators], ast.Load())
        signs = ast.List([ast.Constant(SIGNS[type(op)]) for op in node.ops], ast.Load())
        return _call("compared", ast.Constant(text), sides, signs)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        """What stands behind ≈ is compared by nobody: its cell asserts what is said of it."""
        before = [None, *node.values]
        for text, part in zip(before, node.values, strict=False):
            if not (isinstance(text, ast.Constant) and text.value.rstrip().endswith("≈")):
                self.visit(part)
        return node

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
        """f"{x:.2f}" -> f"{rounded('x', x, '.2f'):.2f}"."""
        text, spec = ast.unparse(node.value), node.format_spec
        self.generic_visit(node)
        if spec and len(spec.values) == 1 and isinstance(spec.values[0], ast.Constant):
            if ROUNDED.fullmatch(form := spec.values[0].value):
                node.value = _call("rounded", ast.Constant(text), node.value, ast.Constant(form))
        return node


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(f"_{name}", ast.Load()), [*arguments], [])


def compared(text: str, sides: list, signs: list[str]):
    """Write down the sides and return what the comparison says."""
    _write({"kind": "compared", "text": text, "sides": sides, "signs": signs})
    pairs = zip(sides, sides[1:], signs, strict=False)
    return reduce(and_, (HOLDS[sign](left, right) for left, right, sign in pairs))


def rounded(text: str, value, form: str):
    """Write down the value and return it."""
    _write({"kind": "rounded", "text": text, "sides": [value], "form": form})
    return value


def _write(entry: dict) -> None:
    try:
        sides = [getattr(side, "detach", lambda side=side: side)() for side in entry["sides"]]
        entry["sides"] = [float(side) for side in sides]
    except (TypeError, ValueError, RuntimeError):
        return  # whole tensors, words
    with open(os.environ[FILE], "a") as file:
        file.write(json.dumps(entry) + "\n")


def shift_seeds(by: int) -> None:
    """Add ``by`` to every seed that torch is given from now on."""
    import torch

    class Generator(torch.Generator):
        def manual_seed(self, seed):
            return super().manual_seed(seed + by)

    plain = torch.manual_seed
    torch.Generator, torch.manual_seed = Generator, lambda seed: plain(seed + by)


def watched(path: Path, setting: dict[str, str], shift: int = 0, begin: int = 0) -> dict:
    """Run the notebook; return (cell, kind, text, how often so far) -> what was written down."""
    nb = nbformat.read(path, as_version=4)
    code = [(index, cell) for index, cell in enumerate(nb.cells) if cell.cell_type == "code"]
    prelude = (
        "from tqlearn.lab.portable import compared as _compared, rounded as _rounded, shift_seeds\n"
    )
    with TemporaryDirectory() as folder:
        file = Path(folder) / "watch.jsonl"
        file.touch()
        ours = {FILE: str(file), "TQLEARN_LEDGER": str(Path(folder) / "ledger.json")}
        begins = next((cell for index, cell in code if index >= begin), None) if shift else None
        for index, cell in code:
            if tagged(cell, "nbval-check-output"):
                tree = ast.fix_missing_locations(Watch().visit(ast.parse(cell.source)))
                mark = f"_compared('cell', [{index}, 0], ['<'])\n"
                cell.source = prelude + mark + ast.unparse(tree)
            if cell is begins:
                cell.source = f"{prelude}shift_seeds({shift})\n{cell.source}"
        with patch.dict(os.environ, ours | setting):
            execute(nb, path.parent)
        return _numbered(json.loads(line) for line in file.read_text().splitlines())


def _numbered(entries) -> dict:
    found, count, index = {}, defaultdict(int), 0
    for entry in entries:
        if entry["text"] == "cell":
            index = int(entry["sides"][0])
            continue
        key = index, entry["kind"], entry["text"]
        found[*key, count[key]] = entry
        count[key] += 1
    return found


def room(entry: dict) -> float:
    """How far the entry is from saying something else: from the other answer, or the next digit."""
    sides = entry["sides"]
    if entry["kind"] == "compared":
        return min(abs(a - b) for a, b in zip(sides, sides[1:], strict=False))
    text, scale = format(sides[0], entry["form"]).strip().replace(",", ""), 1.0
    if text.endswith("%"):
        text, scale = text[:-1], 0.01
    digits, _, power = text.partition("e")
    unit = 10.0 ** (int(power or 0) - len(digits.partition(".")[2])) * scale
    return abs(unit / 2 - abs(sides[0] - float(text) * scale))


def says(entry: dict):
    """What the reader sees: the answer, or the rounded number."""
    sides = entry["sides"]
    if entry["kind"] == "rounded":
        return format(sides[0], entry["form"]).strip()
    pairs = zip(sides, sides[1:], entry["signs"], strict=False)
    return all(HOLDS[sign](left, right) for left, right, sign in pairs)


def judged(runs: dict[str, dict]) -> list[str]:
    """One line for each entry that flips over the runs, or is near to it; sides of each run."""
    lines = []
    for key in {key: None for found in runs.values() for key in found}:
        entries = [found[key] for found in runs.values() if key in found]
        columns = list(zip(*(entry["sides"] for entry in entries), strict=True))
        spread = max(max(column) - min(column) for column in columns)
        least, factor = min(map(room, entries)), 10 if key[1] == "rounded" else 1
        flips = len({says(entry) for entry in entries}) > 1
        if flips or least < factor * spread or len(entries) < len(runs):
            seen = "; ".join(", ".join(f"{x:.6g}" for x in entry["sides"]) for entry in entries)
            word = "FLIPS" if flips else "near "
            lines.append(f"cell {key[0]:3} {word} {key[2]} (room {least:.2g}): {seen}")
    return lines


def main(argv: list[str] | None = None) -> int:
    """Run and tell; return 1 if anything flips."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", nargs="*", type=Path)
    parser.add_argument("--env", choices=INSTRUCTION_SETS, help="print a set's variables; no run")
    parser.add_argument("--sets", nargs="+", default=list(INSTRUCTION_SETS))
    parser.add_argument("--seeds", type=int, default=1, help="runs per instruction set")
    parser.add_argument("--begin", type=int, default=0, help="first cell whose seeds move")
    args = parser.parse_args(argv)
    if args.env:
        print(*(f"{name}={value}" for name, value in INSTRUCTION_SETS[args.env].items()))
    flips = 0
    for path in args.notebook:
        runs = {
            f"{name}, seed + {shift}": watched(path, INSTRUCTION_SETS[name], shift, args.begin)
            for name in args.sets
            for shift in range(args.seeds)
        }
        lines = judged(runs)
        flips += sum("FLIPS" in line for line in lines)
        print(f"{path.name}: {', '.join(runs)}", *lines, sep="\n", flush=True)
    return bool(flips)


if __name__ == "__main__":
    sys.exit(main())
