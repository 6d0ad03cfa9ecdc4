"""The arms of ``pareto.py``: what becomes of a teacher, and the largest form that fits in a size.

Every arm treats the word table and the square and FFN matrices (encoder, pooler, the layers in
front of the heads); positions, token types and the classifiers have 8 bits in all of them, biases
and norms stay in floats. A size is that of the whole file. An arm has one dial, so that it can fill
a size; where several forms fill it (modes, orders), the one whose start is nearest to the
teacher's weights is taken, before any training; of narrow ones the largest.

- dense: the teacher itself, at 2, 3, 4 or 8 bits
- low rank: a pair of thin matrices for each, the table too
- tensor train: TT of matrices, TTM of the table, two or three modes a side
- Kronecker: sums of products whose right factor is small
- pruned: whole heads and FFN dimensions are gone; the table is whole
- 2:4: two of four neighbors are kept, the smallest magnitudes go
- narrow, shallow: dense students of fewer channels, or of half the layers (``pareto_narrow``)

What a word table is fitted to is weighted by how often its words occur, in closed form.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import pareto_narrow
import torch
from torch import Tensor, nn

import tqlearn as tq
from tqlearn.factors.embeddings import TTMEmbedding
from tqlearn.factors.trains import balance_norms, ttm_svd
from tqlearn.hf.sealing import file_of
from tqlearn.sparsity.anatomy import transformer_layers
from tqlearn.sparsity.blocks import block_masks
from tqlearn.storage import weigh
from tqlearn.surgery import sketch

FLOATS = 32
REST = 8  # bits of what no arm is about
FILLED = 0.9  # of a size: a file below that is no model of that size
SAVES = 1.1  # a form has so many times fewer numbers than the dense model, or it is that one
RATIOS = [SAVES * 1.02**k for k in range(266)][::-1]  # small files first
SMALL = ((1, 2), (2, 2), (4, 4), (8, 8))  # right factors of Kronecker products
COLUMNS = (4, 16, 64)  # of the table's
TIMES = (1, 1.5, 2)  # FFN dimensions of a narrow student, in units of the teacher's share
ORDERS = ((2, 2), (2, 3), (3, 2), (3, 3))  # modes a side of matrices, and of the table

FACTORED = ("low rank", "tensor train", "Kronecker")

Built = tuple[nn.Module, dict]


@dataclass(frozen=True)
class Arm:
    """A structure and its bits."""

    structure: str
    bits: int

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.structure}, " + ("floats" if self.bits == FLOATS else f"{self.bits} bits")


ARMS = [
    *(Arm("dense", bits) for bits in (2, 3, 4, 8)),
    *(
        Arm(structure, bits)
        for bits in (FLOATS, 8, 4, 2)
        for structure in ("low rank", "tensor train", "Kronecker", "pruned", "narrow", "shallow")
    ),
    *(Arm("2:4", bits) for bits in (FLOATS, 6, 4, 2)),
]


@dataclass(frozen=True)
class Form:
    """One way to build an arm: a dial from small files to large ones.

    Args:
        words: names it in the JSON.
        dial: values that ``make`` takes.
        make: value -> the model that ``plan`` is for, and the plan.
    """

    words: str
    dial: Sequence
    make: Callable[[object], Built]


class Shop:
    """Builds students of one teacher.

    Args:
        counts: how often each word occurs in the sentences to learn from.
        importance: () -> {mask name: scores}, for pruning; asked once, if at all.
    """

    def __init__(
        self, teacher: nn.Module, counts: Tensor, importance: Callable[[], dict[str, Tensor]]
    ) -> None:
        self.teacher, self.counts, self.importance = teacher, counts, importance
        self._pruned: list | None = None
        self._files: dict[tuple[Arm, str, int], int] = {}

    def start(self, arm: Arm, cell: dict) -> nn.Module:
        """Return the student of a cell as it is before any lesson, with scales.

        Raises:
            ValueError: its file has another size than the cell says.
        """
        form = next(form for form in self.forms(arm) if form.words == cell["form"])
        value = cell["dial"]
        base, plan = form.make(tuple(value) if isinstance(value, list) else value)
        student = tq.calibrate(tq.compress(base, plan))
        if (size := tq.report(student).file) != cell["file"]:
            raise ValueError(
                f"{arm.name}, {cell['form']} at {value} has {size:,} bytes, and {cell['file']:,} "
                "are on record: the code has changed; begin the table anew with --out"
            )
        return student

    def fit(self, arm: Arm, limit: int) -> dict:
        """Return the largest form within a size: form, dial and file; or the reason for none."""
        fitting, seen = [], []
        for form in self.forms(arm):
            sizes = {k: self._file(arm, form, k) for k in (0, len(form.dial) - 1)}
            seen += sizes.values()
            if sizes[0] > limit:
                continue
            low, high = 0, len(form.dial)  # the file of ``low`` is within, that of ``high`` is not
            while high - low > 1:
                middle = (low + high) // 2
                sizes[middle] = self._file(arm, form, middle)
                low, high = (middle, high) if sizes[middle] <= limit else (low, middle)
            seen.append(sizes[low])
            if sizes[low] >= FILLED * limit:
                found = {"form": form.words, "dial": form.dial[low], "file": sizes[low]}
                fitting.append((form, found))
        if not fitting:
            return {"reason": _reason(arm, limit, seen)}
        if arm.structure not in FACTORED:
            return max((found for _, found in fitting), key=lambda found: found["file"])
        for form, found in fitting:
            found["distance"] = round(self._distance(form, found["dial"]), 4)
        return min((found for _, found in fitting), key=lambda found: found["distance"])

    def largest(self, arm: Arm) -> int:
        """Return the bytes of the largest file that an arm has."""
        return max(self._file(arm, form, len(form.dial) - 1) for form in self.forms(arm))

    def _file(self, arm: Arm, form: Form, place: int) -> int:
        key = arm, form.words, place
        if key not in self._files:
            self._files[key] = weigh(sketch(*form.make(form.dial[place])), file_of).file
        return self._files[key]

    def _distance(self, form: Form, value: object) -> float:
        """Return the relative error of the start's weights, words by how often they occur."""
        base, plan = form.make(value)
        only = {name: edits[:1] for name, edits in plan.items() if name in matrices(base)}
        student, above, below = tq.compress(base, only), 0.0, 0.0
        for name in only:
            layer = base.get_submodule(name)
            old, new = layer.weight.detach(), student.get_submodule(name).product().detach()
            is_table = isinstance(layer, nn.Embedding)
            weight = _often(self.counts)[:, None] if is_table else 1.0
            above += float(((old - new) * weight).square().sum())
            below += float((old * weight).square().sum())
        return (above / below) ** 0.5

    def forms(self, arm: Arm) -> Iterator[Form]:
        """Give the ways to build an arm."""
        bits = arm.bits
        if arm.structure in ("dense", "2:4"):
            edits = [tq.TwoFour()] if arm.structure == "2:4" else []
            whole = plan_of(self.teacher, lambda name, layer: edits, bits)
            yield Form(arm.structure, [0], lambda _: (self.teacher, whole))
        elif arm.structure in ("narrow", "shallow"):

            def small(size: tuple[int, int]) -> Built:
                base = pareto_narrow.student(self.teacher, *size, arm.structure)
                return base, plan_of(base, lambda name, layer: [], bits)

            for times in TIMES:
                dial = pareto_narrow.dial(self.teacher.config, arm.structure, times)
                yield Form(f"FFN {times} times as wide for its width", dial, small)
        elif arm.structure == "pruned":

            def pruned(kept: int) -> Built:
                base = self._compacted(kept)
                return base, plan_of(base, lambda name, layer: [], bits)

            free = len(self._order()) - 2 * len(transformer_layers(self.teacher))
            yield Form("heads and dimensions", range(int(free / SAVES)), pruned)
        else:
            for words, edit in self._factored(arm.structure):

                def factored(ratio: float, edit: Callable = edit) -> Built:
                    edits = plan_of(self.teacher, lambda name, one: [edit(one, ratio)], bits)
                    return self.teacher, edits

                yield Form(words, RATIOS, factored)

    def _factored(self, structure: str) -> Iterator[tuple[str, Callable]]:
        """Give the ways to factor a layer, each as (words, (layer, ratio) -> edit)."""

        def edit(layer: nn.Module, ratio: float, table: Callable, matrix: Callable) -> object:
            is_table = isinstance(layer, nn.Embedding)
            return _resolved(table(layer, ratio) if is_table else matrix(layer, ratio), layer)

        def way(words: str, table: Callable, matrix: Callable) -> tuple[str, Callable]:
            return words, lambda layer, ratio: edit(layer, ratio, table, matrix)

        if structure == "low rank":
            yield way(
                "pair",
                lambda t, r: self._table(ratio=r, row_modes=(t.num_embeddings, 1),
                                         col_modes=(1, t.embedding_dim)),
                lambda _, r: tq.LowRank(ratio=r),
            )  # fmt: skip
        elif structure == "tensor train":
            for order, of_table in ORDERS:
                yield way(
                    f"TT of order {order}, TTM of order {of_table}",
                    lambda _, r, order=of_table: self._table(ratio=r, order=order),
                    lambda _, r, order=order: tq.TT(ratio=r, order=order),
                )
        else:
            for rows, columns in SMALL:
                for width in COLUMNS:
                    yield way(
                        f"right factors {rows} x {columns}, of the table 1 x {width}",
                        lambda t, r, n=width: WeightedKronecker(
                            ratio=r, col_modes=(t.embedding_dim // n, n), often=self._often()),
                        lambda m, r, a=rows, b=columns: tq.Kronecker(
                            ratio=r, out_modes=(m.out_features // a, a),
                            in_modes=(m.in_features // b, b)),
                    )  # fmt: skip

    def _table(self, **settings: object) -> "WeightedTTM":
        return WeightedTTM(**settings, often=self._often())

    def _often(self) -> tuple[float, ...]:
        return tuple(_often(self.counts).tolist())

    def _order(self) -> list[tuple[str, int]]:
        """Return (group, place) of all heads and FFN dimensions, the most important first.

        Important is the square of gradient times weight, summed over batches, for each number that
        a part holds. The best head and dimension of every layer stand in front: they stay.
        """
        if self._pruned is None:
            found, first = [], []
            masks = block_masks(tq.compress(self.teacher, tq.block_plan(self.teacher, "struct")))
            scores = self.importance()
            for layer in transformer_layers(self.teacher):
                for group in ([layer.query, layer.key, layer.value, layer.output],
                              [layer.up, layer.down]):  # fmt: skip
                    own = [name for name in group if name in scores]
                    total = sum(scores[name].flatten() for name in own)
                    numbers = sum(masks[name].block[0] * masks[name].block[1] for name in group)
                    ranked = [(float(s) / numbers, group[0], k) for k, s in enumerate(total)]
                    first.append(max(ranked))
                    found += sorted(ranked)[:-1]
            self._pruned = [(group, k) for _, group, k in [*first, *sorted(found, reverse=True)]]
        return self._pruned

    def _compacted(self, kept: int) -> nn.Module:
        """Return the teacher with its ``kept`` most important heads and dimensions alone."""
        layers = transformer_layers(self.teacher)
        masked = tq.compress(self.teacher, tq.block_plan(self.teacher, "struct"))
        stays = set(self._order()[: 2 * len(layers) + kept])
        masks = block_masks(masked)
        for layer in layers:
            for names in ((layer.query, layer.key, layer.value, layer.output), (layer.up,)):
                for name in names:
                    mask = masks[name]
                    places = range(mask.grid[0] * mask.grid[1])
                    kept = torch.tensor([(names[0], k) in stays for k in places])
                    mask.fix(kept.reshape(mask.grid))
        return tq.compact(masked)


def matrices(model: nn.Module) -> list[str]:
    """Return the layers that arms treat: the word table and all linear ones but classifiers."""
    return [
        name
        for name, module in model.named_modules()
        if name.endswith("word_embeddings")
        or (isinstance(module, nn.Linear) and not name.endswith("classifier"))
    ]


def plan_of(model: nn.Module, edits: Callable[[str, nn.Module], list], bits: int) -> dict:
    """Return the plan of an arm: ``edits`` of each layer and the bits, and the rest at 8 bits."""
    grid = [] if bits == FLOATS else [tq.LSQ(bits, "mse")]
    plan = {name: [*edits(name, model.get_submodule(name)), *grid] for name in matrices(model)}
    for pattern in ("*position_embeddings", "*token_type_embeddings", "*classifier"):
        plan[pattern] = [tq.LSQ(REST, "mse")]
    return plan


@dataclass(frozen=True, repr=False)
class WeightedTTM(tq.TTM):
    """A TTM whose start is nearest to a table under weights, which are products over the modes.

    Args:
        often: a weight per word. That of a mode's entry is the mean over the words that have it:
            with modes (words, 1), a low-rank pair, the weights themselves.
    """

    often: tuple = ()

    def nearest(self, table: nn.Embedding) -> TTMEmbedding:
        """Return the table whose weighted rows are nearest to the weighted rows of this one."""
        rows, cols = self.shapes(table)
        layer = TTMEmbedding(rows, cols, self.rank, table.num_embeddings, table.padding_idx)
        axes = range(len(rows))
        spread = torch.ones(prod(rows))
        spread[: len(table.weight)] = torch.tensor(self.often)
        spread = spread.reshape(rows)
        modes = [spread.mean([a for a in axes if a != k]) if len(rows) > 1 else spread
                 for k in axes]  # fmt: skip
        whole = modes[0]
        for mode in modes[1:]:
            whole = (whole[:, None] * mode).flatten()
        weight = table.weight.detach() * whole[: len(table.weight), None]
        cores, _ = ttm_svd(weight, rows, cols, layer.ranks)
        cores = [core / mode[:, None, None] for core, mode in zip(cores, modes, strict=True)]
        layer.set_cores(balance_norms(cores))
        return layer


@dataclass(frozen=True, repr=False)
class WeightedKronecker(tq.Kronecker):
    """A table as Kronecker products, nearest under a weight per word."""

    often: tuple = ()

    def nearest(self, layer: nn.Embedding) -> nn.Module:
        """Return the table whose weighted rows are nearest to the weighted rows of this one."""
        weights = torch.tensor(self.often)[:, None]
        scaled = nn.Embedding.from_pretrained(
            layer.weight.detach() * weights, freeze=False, padding_idx=layer.padding_idx
        )
        made = super().nearest(scaled)
        made.set_cores([core / (weights if k % 2 == 0 else 1) for k, core in enumerate(made.cores)])
        return made


def _often(counts: Tensor) -> Tensor:
    """Return the weight of each word: the square root of its count and one, 1 in the mean."""
    weight = (counts + 1.0).sqrt()
    return weight / weight.mean()


def _resolved(edit: object, layer: nn.Module) -> object:
    """Return an edit with the rank that its ratio means, rank 1 where none is so small."""
    try:
        return edit.resolve(layer)
    except ValueError:
        return replace(edit, ratio=None, rank=1)


def _reason(arm: Arm, limit: int, seen: list[int]) -> str:
    """Say why an arm has no model of a size."""
    if min(seen) > limit:
        return f"its smallest file has {min(seen):,} bytes"
    below = [size for size in seen if size <= limit]
    return f"its largest file within the size has {max(below):,} bytes, {max(below) / limit:.0%}"


def importance(teacher: nn.Module, batches: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return for every head and FFN dimension the squares of gradient times weight, summed up.

    Heads have a number for each of their four matrices. The loss is that of the labels: at the
    teacher its own distributions have no gradient.
    """
    masked = tq.compress(teacher, tq.block_plan(teacher, "struct")).eval()
    own = {name: mask for name, mask in block_masks(masked).items() if mask.source is mask}
    found = {name: torch.zeros_like(mask.scores) for name, mask in own.items()}
    for batch in batches:
        masked.zero_grad()
        masked(**batch).loss.backward()
        for name, mask in own.items():
            found[name] += mask.scores.grad.square()
    return found
