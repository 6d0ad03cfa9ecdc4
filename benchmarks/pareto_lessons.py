"""The lessons of ``pareto.py``, the same for all students: sentences, answers, steps.

A seventh of the training sentences is held out; it chooses learning rates and the point of a run
at which the student is taken. Of joint data a second copy of it gets other values and made-up
words (``embedded_teacher.vary``): the test sentences of flights show values that training never
does, and a part with known ones alone would call all students perfect.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from embedded_teacher import spans, vary
from pareto_scores import counted, percent
from torch import Tensor, nn

from tqlearn import data
from tqlearn.distill import soft_labels
from tqlearn.hf import encode_joint
from tqlearn.hf.running import without_dropout
from tqlearn.hf.sentences import encode_sentences
from tqlearn.hf.tasks import logit_pairs
from tqlearn.stages import is_quantizer

HELD = 1 / 7  # of the training sentences
CHECKS = 4  # points of a run, equally far apart, at which the held-out part is looked at
WARM = 0.05  # share of the steps in which the rate rises; then it falls to 0 along a line
SCALE_RATE = 1e-3  # a quantizer's scale moves by about this share of its start in a step
FILL = {"slot_labels": -100}


@dataclass(frozen=True)
class Task:
    """What a table is about.

    Args:
        data, source: as in ``tqlearn.data.load``.
        reported: the split that is read once per finished run.
        steps, batch: of every training; a batch has sentences of like length.
        seeds: orders of the batches; each is a run.
        copies: of the training sentences with other values, as the held-out part has one.
    """

    data: str
    source: str
    reported: str
    steps: int
    seeds: int
    copies: int = 0
    batch: int = 32
    rates: tuple[float, ...] = (1e-3, 3e-4, 3e-3)
    max_length: int = 64


class Lessons:
    """Sentences to learn from with the teacher's answers, a held-out part, and the test split.

    Args:
        rows: so many of each split, to see whether the script runs; None for all.
    """

    def __init__(
        self, task: Task, teacher: nn.Module, tokenizer: object, rows: int | None = None
    ) -> None:
        self.task, self.teacher, self.tokenizer = task, teacher.eval(), tokenizer
        dd = data.load(task.data, task.source)
        train, self.test = (_few(dd[split], rows) for split in ("train", task.reported))
        chance = torch.Generator().manual_seed(0)
        mixed = torch.randperm(len(train), generator=chance).tolist()
        cut = round(HELD * len(train))
        self.held, fit = (train.select(sorted(part)) for part in (mixed[:cut], mixed[cut:]))
        self.joint = "slots" in train.column_names
        if self.joint:
            self.held = varied(self.held, fit, copies=1, seed=0)
            fit = varied(fit, fit, task.copies, seed=1)
            labels = teacher.config.intent_labels, teacher.config.slot_labels
            encoded = encode_joint(DatasetDict(fit=fit), tokenizer, *labels, task.max_length)
        else:
            encoded = encode_sentences(DatasetDict(fit=fit), tokenizer, task.max_length)
        self.lengths = torch.tensor(encoded["fit"]["length"])
        kept = {"input_ids", "attention_mask", "intent_labels", "slot_labels", "labels"}
        fill = FILL | {"input_ids": tokenizer.pad_token_id}
        self.rows = {
            name: _stacked(list(encoded["fit"][name]), fill.get(name, 0))
            for name in encoded["fit"].column_names
            if name in kept
        }
        self.answers = self._ask()

    @torch.no_grad()
    def _ask(self) -> dict[str, Tensor]:
        """Return the teacher's logits for every sentence, once."""
        found: dict[str, Tensor] = {}
        for ids in self.lengths.argsort(stable=True).split(64):
            batch = self.batch(ids)
            output = self.teacher(**batch)
            for name, said, _, _ in logit_pairs(output, output, batch):
                shape = [len(self.lengths), *said.shape[1:]]
                if said.dim() == 3:
                    shape[1] = self.rows["input_ids"].shape[1]
                there = found.setdefault(name, torch.zeros(shape))
                there[ids, : said.shape[1]] = said
        return found

    def batch(self, ids: Tensor) -> dict[str, Tensor]:
        """Return the batch of some sentences, as long as the longest of them."""
        long = int(self.lengths[ids].max())
        return {k: v[ids, :long] if v.dim() == 2 else v[ids] for k, v in self.rows.items()}

    def order(self, steps: int, seed: int) -> Iterator[Tensor]:
        """Give the sentences of each step: an epoch after the other, like lengths together."""
        chance = torch.Generator().manual_seed(seed)
        left = steps
        while left > 0:
            mixed = torch.randperm(len(self.lengths), generator=chance)
            stacks = mixed[self.lengths[mixed].argsort(stable=True)].split(self.task.batch)
            for k in torch.randperm(len(stacks), generator=chance)[:left].tolist():
                yield stacks[k]
            left -= len(stacks)

    def loss(self, student: nn.Module, ids: Tensor) -> Tensor:
        """Return the loss of a batch: its labels, and the teacher's distributions."""
        batch = self.batch(ids)
        output, long = student(**batch), batch["input_ids"].shape[1]
        said = {k: v[ids, :long] if v.dim() == 3 else v[ids] for k, v in self.answers.items()}
        names = {"intents": "intent_logits", "slots": "slot_logits", "classes": "logits"}
        taught = SimpleNamespace(**{names[name]: value for name, value in said.items()})
        pairs = logit_pairs(output, taught, batch)
        return output.loss + sum(soft_labels(s, t, mask=mask) for _, s, t, mask in pairs)

    def teach(
        self, student: nn.Module, rate: float, steps: int, seed: int, checks: int = CHECKS
    ) -> dict:
        """Train a student in place; leave it as it was best on the held-out part, and say when.

        Args:
            checks: points of the run, equally far apart; 1 takes the student as it is at the end.

        Returns:
            The scores there, and "step".
        """
        without_dropout(student).train()
        optimizer = torch.optim.AdamW(groups(student, rate), weight_decay=0.0)
        warm = max(1, round(WARM * steps))
        decay = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / warm) * (1 - step / steps)
        )
        points = {-(-steps * k // checks) for k in range(1, checks + 1)}
        best, state = {"score": -1.0}, {}
        for step, ids in enumerate(self.order(steps, seed), 1):
            optimizer.zero_grad()
            self.loss(student, ids).backward()
            optimizer.step()
            decay.step()
            if step in points:
                found = self.scores(student, self.held)
                if found["score"] >= best["score"]:  # of equals the later
                    best = found | {"step": step}
                    state = {name: value.clone() for name, value in student.state_dict().items()}
        student.load_state_dict(state)
        student.eval()
        return best

    def counts(self, model: nn.Module, rows: Dataset) -> dict[str, list[int]]:
        """Return ``counted`` of a raw split."""
        return counted(model, self.tokenizer, rows, self.task.max_length)

    def scores(self, model: nn.Module, rows: Dataset) -> dict[str, float]:
        """Return percentages on a raw split."""
        return percent(self.counts(model, rows))


def varied(rows: Dataset, source: Dataset, copies: int, seed: int) -> Dataset:
    """Return joint rows and ``copies`` of them with values of ``source`` or made-up ones."""
    chance, values = random.Random(seed), {}
    for row in source:
        for a, b, slot in spans(row["slots"]):
            if slot:
                values.setdefault(slot, []).append(row["tokens"][a:b])
    for row in rows:  # a slot that the source lacks keeps its own values
        for a, b, slot in spans(row["slots"]):
            values.setdefault(slot, [row["tokens"][a:b]])
    new = [vary(row, values, chance) for _ in range(copies) for row in rows]
    return concatenate_datasets([rows, rows.from_list(new)]) if new else rows


def groups(student: nn.Module, rate: float) -> list[dict]:
    """Return groups for an optimizer: weights at a rate, every scale at a share of itself."""
    scales = [p for m in student.modules() if is_quantizer(m) for p in m.parameters()]
    known = {id(p) for p in scales}
    weights = [p for p in student.parameters() if p.requires_grad and id(p) not in known]
    own = [{"params": [p], "lr": SCALE_RATE * float(p.detach().abs().mean())} for p in scales]
    return [{"params": weights, "lr": rate}, *own]


def _few(rows: Dataset, number: int | None) -> Dataset:
    return rows if number is None else rows.select(range(min(number, len(rows))))


def _stacked(values: list, fill: int) -> Tensor:
    """Return a column as a tensor, lists padded to the longest."""
    if not isinstance(values[0], list):
        return torch.tensor(list(values))
    long = max(map(len, values))
    return torch.tensor([[*row, *[fill] * (long - len(row))] for row in values])
