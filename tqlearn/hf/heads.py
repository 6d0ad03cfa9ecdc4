"""The output layer of a causal language model, and what enters it.

Logits are tokens times words: the largest tensor of a small model. Who asks for states in their
place computes logits of the tokens that count, a piece at a time.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

PIECE = 2**24  # logits at a time: 64 MiB of float32


def output_layer(model: nn.Module) -> nn.Module:
    """Return the layer that gives the logits of all words.

    Raises:
        ValueError: the model has none.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None:
        raise ValueError(
            f"a language model has an output layer over its words, {type(model).__name__} has "
            "none; load it with AutoModelForCausalLM"
        )
    return head


class Call(NamedTuple):
    """What was to enter an output layer, (rows, tokens, width), and in which mixed precision."""

    states: Tensor
    autocast: torch.dtype | None

    def precision(self) -> AbstractContextManager:
        """Return a context in which the layer computes as in the call."""
        kind, mixed = self.states.device.type, self.autocast is not None
        return torch.autocast(kind, self.autocast or torch.bfloat16, enabled=mixed)


@contextmanager
def last_alone(head: nn.Module) -> Iterator[list[Call]]:
    """Within, an output layer computes the last position of each row alone.

    Yields a list that gets an entry at every call.
    """
    seen: list[Call] = []

    def look(_: nn.Module, given: tuple) -> tuple:
        kind = given[0].device.type
        mixed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        seen.append(Call(given[0], mixed))
        return (given[0][:, -1:], *given[1:])

    handle = head.register_forward_pre_hook(look, prepend=True)
    try:
        yield seen
    finally:
        handle.remove()


def only_call(model: nn.Module, seen: list[Call]) -> Call:
    """Return the one call of the output layer in a call of the model.

    Raises:
        ValueError: the model called it more than once, or never.
    """
    if len(seen) != 1:
        raise ValueError(
            f"{type(model).__name__} calls its output layer {len(seen)} times for a text, and a "
            "language model does it once; load it with AutoModelForCausalLM"
        )
    return seen[0]


@torch.no_grad()
def gives_logits(head: nn.Module, call: Call, last: Float[Tensor, "rows 1 words"]) -> bool:
    """Say whether the output layer's answer at the last position is the model's own."""
    with call.precision():
        mine = head(call.states[:, -1:])
    return torch.allclose(mine.float(), last.float(), rtol=1e-4, atol=1e-4)
