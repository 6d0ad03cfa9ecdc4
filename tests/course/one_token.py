"""One-token mutants of an exercise's reference, and what its check says of them.

    for mutant in mutants(source):      # "3: x < y -> x <= y", and the source with it
        ...

Run as a program, this file is the worker that judges: mutants may hang, exit or eat memory, so they
run in a process of its own, which is used again until one of them takes it along.
"""

import ast
import copy
import hashlib
import inspect
import io
import json
import select
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SECONDS = 3.0  # what the check itself allows; HARD: after so many the worker is ended
HARD = 20.0
MEMORY = 8 * 2**30  # address space of the worker

COMPARE = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
}
ARITHMETIC = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div, ast.Add),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Div, ast.Mod),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.MatMult: (ast.Mult,),
}
COMMUTE = (ast.Add, ast.Mult, ast.BitAnd, ast.BitOr)
NAMES = {
    "min": ("max",),
    "max": ("min",),
    "amin": ("amax",),
    "amax": ("amin",),
    "argmax": ("argmin",),
    "minimum": ("maximum",),
    "maximum": ("minimum",),
    "mean": ("sum",),
    "sum": ("mean",),
    "std": ("var",),
    "norm": ("sum",),
    "round": ("floor", "ceil"),
    "sqrt": ("square",),
    "square": ("sqrt", "abs"),
    "abs": ("neg",),
    "zeros_like": ("ones_like",),
    "ones_like": ("zeros_like",),
    "log_softmax": ("softmax",),
    "values": ("indices",),
    "repeat_interleave": ("repeat",),
    "int8": ("int16",),
    "int16": ("int32",),
    "int": ("long",),
    "prod": ("sum",),
}


class Mutant(NamedTuple):
    """A changed reference: what was changed ("line: before -> after"), and its source."""

    what: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Every function that differs from the one in ``source`` by one token, sign, call or line.

    >>> [what for what, _ in mutants("def f(x):\\n    return x < 0")][:3]
    ['2: return x < 0 -> pass', '2: x < 0 -> x <= 0', '2: x < 0 -> x > 0']
    """
    tree = ast.parse(source)
    function = tree.body[0]
    local = {node.id for node in ast.walk(function)
             if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}  # fmt: skip
    local |= {a.arg for node in ast.walk(function) if isinstance(node, ast.arguments)
              for a in node.args}  # fmt: skip
    seen = {ast.unparse(tree)}
    for place, (parent, _, _, node) in enumerate(_places(function)):
        for new in _variants(node, sorted(local)):
            changed = copy.deepcopy(tree)
            there, name, number, _ = list(_places(changed.body[0]))[place]
            if number is None:
                setattr(there, name, copy.deepcopy(new))
            else:
                getattr(there, name)[number] = copy.deepcopy(new)
            text = ast.unparse(ast.fix_missing_locations(changed))
            if text not in seen:
                seen.add(text)
                small = isinstance(node, ast.Constant | ast.Name | ast.keyword)
                if small and isinstance(parent, ast.expr):
                    before, after = ast.unparse(parent), ast.unparse(there)
                else:
                    before, after = ast.unparse(node), ast.unparse(new)
                line = getattr(node, "lineno", None) or parent.lineno
                yield Mutant(f"{line}: {_short(before)} -> {_short(after)}", text)


def _short(text: str) -> str:
    return " ".join(text.split())


def _places(function: ast.FunctionDef) -> Iterator[tuple]:
    """(parent, field, index, node) for all nodes below a function's docstring and signature."""
    todo = [(function, "body", i, node) for i, node in enumerate(function.body)]
    if ast.get_docstring(function) is not None:
        todo = todo[1:]
    while todo:
        place = todo.pop(0)
        yield place
        node = place[-1]
        for field, value in ast.iter_fields(node):
            if isinstance(value, list):
                todo += [(node, field, i, v) for i, v in enumerate(value) if isinstance(v, ast.AST)]
            elif isinstance(value, ast.AST) and field != "ctx":
                todo.append((node, field, None, value))


def _variants(node: ast.AST, local: list[str]) -> Iterator[ast.AST]:
    """What could stand in a node's place."""
    if isinstance(node, ast.stmt) and not isinstance(node, ast.Import | ast.FunctionDef):
        yield ast.Pass()
    made = VARIANTS.get(type(node))
    if made is not None:
        yield from made(node)
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in local:
        yield from (ast.Name(other, ast.Load()) for other in local if other != node.id)


def _but(node: ast.AST, **fields) -> ast.AST:
    """The same node with other fields."""
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def _without(items: list, k: int) -> list:
    return items[:k] + items[k + 1 :]


def _compare(node: ast.Compare):
    for k, op in enumerate(node.ops):
        for other in COMPARE.get(type(op), ()):
            yield _but(node, ops=[*node.ops[:k], other(), *node.ops[k + 1 :]])


def _binary(node: ast.BinOp):
    for other in ARITHMETIC.get(type(node.op), ()):
        yield _but(node, op=other())
    if not isinstance(node.op, COMMUTE):
        yield _but(node, left=node.right, right=node.left)
    yield node.left
    yield node.right


def _constant(node: ast.Constant):
    if isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
        yield ast.Constant(node.value - 1)
        if isinstance(node.value, float):
            yield ast.Constant(round(node.value * 1.1, 9))


def _call(node: ast.Call):
    if isinstance(node.func, ast.Attribute) and not (
        isinstance(node.func.value, ast.Name) and node.func.value.id in {"torch", "F"}
    ):
        yield node.func.value  # x.f(...) -> x
    elif node.args:
        yield node.args[0]  # f(x, ...) -> x
    for k in range(len(node.args)):
        if len(node.args) + len(node.keywords) > 1:
            yield _but(node, args=_without(node.args, k))
    for k in range(len(node.args) - 1):
        yield _but(node, args=[*node.args[:k], node.args[k + 1], node.args[k], *node.args[k + 2 :]])
    for k in range(len(node.keywords)):
        yield _but(node, keywords=_without(node.keywords, k))


def _named(node: ast.Attribute | ast.Name):
    name = "attr" if isinstance(node, ast.Attribute) else "id"
    for other in NAMES.get(getattr(node, name), ()):
        yield _but(node, **{name: other})
    if isinstance(node, ast.Attribute) and node.attr in {"T", "values", "shape"}:
        yield node.value


def _slice(node: ast.Slice):
    for name in ("lower", "upper", "step"):
        if getattr(node, name) is not None:
            yield _but(node, **{name: None})


def _several(node: ast.Tuple | ast.List):
    for k in range(len(node.elts) - 1):
        swapped = [*node.elts[:k], node.elts[k + 1], node.elts[k], *node.elts[k + 2 :]]
        yield _but(node, elts=swapped)


def _branch(node: ast.If):
    yield _but(node, test=ast.Constant(True))
    yield _but(node, test=ast.Constant(False))


def _assigned(node: ast.AugAssign):
    for other in ARITHMETIC.get(type(node.op), ()):
        yield _but(node, op=other())
    yield ast.Assign([node.target], node.value, lineno=node.lineno)


VARIANTS = {
    ast.Compare: _compare,
    ast.BinOp: _binary,
    ast.UnaryOp: lambda node: iter([node.operand]),
    ast.BoolOp: lambda node: iter(node.values),
    ast.Constant: _constant,
    ast.Call: _call,
    ast.Attribute: _named,
    ast.Name: _named,
    ast.Slice: _slice,
    ast.Tuple: _several,
    ast.List: _several,
    ast.If: _branch,
    ast.IfExp: lambda node: iter([node.body, node.orelse]),
    ast.AugAssign: _assigned,
    ast.Break: lambda node: iter([ast.Continue()]),
}


def digest(exercise) -> str:
    """Of what the verdicts depend on: the exercise's module, and ``plans`` where it takes from it.

    Comments and texts do not count.
    """
    from tqlearn.lab.exercises import plans

    module = inspect.getmodule(exercise.answer)
    origins = {getattr(value, "__module__", None) for value in vars(module).values()}
    kept = [
        token.string
        for part in [module, *[plans] * (plans.__name__ in origins)]
        for token in tokenize.generate_tokens(io.StringIO(inspect.getsource(part)).readline)
        if token.type in (tokenize.NAME, tokenize.NUMBER, tokenize.OP)
    ]
    return hashlib.sha256(" ".join(kept).encode()).hexdigest()[:16]


class Worker:
    """A process that judges answers, started anew when one of them has taken it along."""

    def __init__(self) -> None:
        self.process = None

    def judge(self, id: str, source: str, seeds: tuple[int, ...], hard: float = HARD) -> str:
        """Return the check's line for the first seed that does not pass, or what came of it."""
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            self.process.stdout.readline()  # it is ready
        self.process.stdin.write(json.dumps([id, source, seeds]) + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], hard)[0]:
            self.close()
            return f"FAIL {id} ended after {hard:g} seconds"
        return self.process.stdout.readline().strip() or f"FAIL {id} ended the worker"

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def main() -> None:
    """Judge what comes in, a line of JSON each: id, source, seeds."""
    import resource

    import torch

    from tqlearn.lab import exercises
    from tqlearn.lab.check import check

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answers, sys.stdout = sys.stdout, sys.stderr  # what a mutant prints is nobody's answer
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        id, source, seeds = json.loads(line)
        namespace = {"torch": torch}
        exec(source, namespace)
        outcome = None
        for seed in seeds:
            outcome = check(id, namespace[exercises.find(id).name], seed, SECONDS)
            if not outcome.passed:
                break
        print(outcome.line.splitlines()[0], file=answers, flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
