"""Losses of a causal decoder for ``DistillTrainer``: the next token, with logits in pieces."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..arguments import require
from ..averages import hard_labels
from ..distill import soft_labels
from .heads import PIECE, Call, gives_logits, last_alone, only_call, output_layer


class CausalLosses:
    """What a decoder predicts of the next token, beside its teacher and the text itself.

    Args:
        soft: weight of ``distill.soft_labels``: KL(teacher || student), times temperature squared.
        task: weight of the cross-entropy with the next token.
        temperature: of the soft labels.
        piece: logits in memory at a time, for the teacher and the student each.

    For ``DistillTrainer(..., losses=CausalLosses(), attention=None)``. Of a batch, only the last
    tokens' logits are computed by the models. The states of all predictions that count go through
    the output layers in pieces, and each piece once more in the backward pass (a checkpoint): so
    logits and their gradients, tokens times words, never stand in memory whole. Every term is a
    mean over the predictions of a batch that count, as if all logits had been there.

    The token at t + 1 is predicted at t. A prediction counts if ``labels`` of the batch has its
    token, and not -100; without labels, if the ``attention_mask`` does not mask it. ``soft`` counts
    the same ones, so that its mean is what ``evaluate_language`` calls ``kl``.

    Raises:
        ValueError: a weight below 0, none above it, a temperature that is not above 0, a piece
            below 1; in training: soft labels without a teacher, a teacher of other words, a batch
            without ``input_ids``, or a model that does more to its logits than its output layer, as
            Gemma 2's caps do.

    >>> CausalLosses(soft=1.0, task=0.1)
    CausalLosses(soft=1.0, task=0.1, temperature=1.0)
    """

    def __init__(
        self,
        soft: float | int = 1.0,
        task: float | int = 0.0,
        temperature: float | int = 1.0,
        piece: int = PIECE,
    ) -> None:
        for name, value in (("soft", soft), ("task", task), ("temperature", temperature)):
            require(f"CausalLosses: {name}", value, float)
        if soft < 0 or task < 0 or soft + task == 0:
            raise ValueError(
                f"weights of losses are at least 0, and one is above; got soft={soft}, task={task}"
            )
        if not temperature > 0:
            raise ValueError(f"a temperature is above 0, got {temperature}")
        if require("CausalLosses: piece", piece, int) < 1:
            raise ValueError(f"a piece has at least one logit, got {piece}")
        self.soft, self.task, self.temperature, self.piece = soft, task, temperature, piece
        self._calls: list[tuple[nn.Module, nn.Module, Call]] = []

    def __repr__(self) -> str:
        shown = ("soft", "task", "temperature")
        return f"CausalLosses({', '.join(f'{name}={getattr(self, name)}' for name in shown)})"

    @contextmanager
    def watch(self, student: nn.Module, teacher: nn.Module | None) -> Iterator[None]:
        """Within, both models are to be called once; the losses are asked for afterwards."""
        if teacher is None and self.soft:
            raise ValueError("soft labels come from a teacher; give one, or soft=0 and a task")
        models = [model for model in (student, teacher) if model is not None]
        heads = [output_layer(model) for model in models]
        for model in models:  # small logits would pass through a cap as they are
            config = getattr(model, "config", None)
            config = config and config.get_text_config(decoder=True)
            if getattr(config, "final_logit_softcapping", None):
                raise _does_more(model)
        with ExitStack() as hooks:
            for model in models:
                hooks.callback(
                    model.register_forward_pre_hook(_without_labels, with_kwargs=True).remove
                )
            seen = [hooks.enter_context(last_alone(head)) for head in heads]
            yield
        calls = (only_call(model, found) for model, found in zip(models, seen, strict=True))
        self._calls = [*zip(models, heads, calls, strict=True)]

    def __call__(
        self, student: object, teacher: object | None, inputs: Mapping[str, Tensor]
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the terms by name: "soft", "task" or both.

        Args:
            student, teacher: outputs of the models, called within ``watch``.
            inputs: the batch, with ``input_ids`` and perhaps ``attention_mask`` and ``labels``.
        """
        calls, self._calls = self._calls, []  # a batch's states go when its losses are known
        if not calls:
            raise ValueError("the models are called within CausalLosses.watch, then the losses")
        words = []
        for (model, head, call), output in zip(calls, (student, teacher), strict=False):
            words.append(output.logits.shape[-1])
            if not gives_logits(head, call, output.logits):
                raise _does_more(model)
        if len({*words}) > 1:
            raise ValueError(f"a teacher has the student's {words[0]} words, got {words[1]}")
        labels = next_tokens(inputs)
        counts = labels != -100
        wanted = labels[counts]
        parts = [call.states[:, :-1][counts].split(max(1, self.piece // words[0]))
                 for _, _, call in calls]  # fmt: skip
        sums: dict[str, Tensor] = {}
        for k, states in enumerate(zip(*parts, strict=True)):
            now, wanted = wanted[: len(states[0])], wanted[len(states[0]) :]
            layers = [(head, call) for _, head, call in calls]
            terms = checkpoint(partial(self._piece, layers), now, *states, use_reentrant=False)
            share = len(now) / max(1, int(counts.sum()))
            for name, term in terms.items():
                sums[name] = share * term + (sums[name] if k else 0)
        return sums

    def _piece(
        self,
        layers: list[tuple[nn.Module, Call]],
        labels: Int[Tensor, " n"],
        *states: Float[Tensor, "n width"],
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted means over one piece."""
        logits = []
        for (head, call), entered in zip(layers, states, strict=True):
            learns = torch.is_grad_enabled() and not logits  # the teacher is second
            with call.precision(), torch.set_grad_enabled(learns):
                logits.append(head(entered).float())
        terms = {}
        if self.soft:
            terms["soft"] = self.soft * soft_labels(*logits, self.temperature)
        if self.task:
            terms["task"] = self.task * hard_labels(logits[0], labels)
        return terms


def next_tokens(inputs: Mapping[str, Tensor]) -> Int[Tensor, "rows places"]:
    """Return the token that is predicted at each place but the last, -100 where none counts.

    >>> next_tokens({"input_ids": torch.tensor([[7, 8, 9, 0]]),
    ...              "attention_mask": torch.tensor([[1, 1, 1, 0]])}).tolist()
    [[8, 9, -100]]
    """
    if "labels" in inputs:
        return inputs["labels"][:, 1:]
    if "input_ids" not in inputs:
        raise ValueError(f"a batch of text has input_ids or labels, got {sorted(inputs)}")
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    if mask is None:
        return ids[:, 1:]
    return ids[:, 1:].masked_fill((mask[:, 1:] == 0) | (mask[:, :-1] == 0), -100)


def _does_more(model: nn.Module) -> ValueError:
    return ValueError(
        f"{type(model).__name__} does more to its logits than its output layer, so they cannot be "
        "computed in pieces; give DistillTrainer a function as losses, which gets them whole"
    )


def _without_labels(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Keep labels from a model that would ask all logits for its own loss."""
    return args, {name: value for name, value in kwargs.items() if name != "labels"}
