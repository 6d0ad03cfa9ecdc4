"""Dropout that follows a schedule while a Trainer runs."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import cos, pi

from torch import nn
from transformers import TrainerCallback

from ..arguments import settle
from ..sparsity.anatomy import transformer_layers

AFTER = "output_dropout", "out_drop", "resid_dropout"


@dataclass(frozen=True)
class DropoutSchedule:
    """Dropout as a function of progress, 0 at the start of training and 1 at its end.

    Args:
        start, end: the two ends; ``end`` may lie above ``start``.
        shape: "constant", "linear", "cosine" (flat at both ends) or "step".
        switch: the progress at which "step" goes from ``start`` to ``end``.

    Source: spec sheet Deep Compression, section 6.4 and acceptance check 13. That the paper
    schedules dropout is in its abstract; which way and which shape is our choice.

    >>> [DropoutSchedule(0.1, 0.0)(progress) for progress in (0, 0.5, 1)]
    [0.1, 0.05, 0.0]
    """

    start: float | int = 0.1
    end: float | int = 0.0
    shape: str = "linear"
    switch: float | int = 0.5

    def __post_init__(self) -> None:
        settle(self)
        if self.shape not in ("constant", "linear", "cosine", "step"):
            raise ValueError(
                f"shape is 'constant', 'linear', 'cosine' or 'step', got {self.shape!r}"
            )
        if not (0 <= self.start < 1 and 0 <= self.end < 1):
            raise ValueError(f"a dropout is at least 0 and below 1, got {self.start}, {self.end}")
        if self.shape == "constant" and self.start != self.end:
            raise ValueError(
                f"a constant dropout ends where it starts, got start={self.start}, end={self.end}"
            )
        if not 0 < self.switch <= 1:
            raise ValueError(f"the switch lies above 0 and at most at 1, got {self.switch}")

    def __call__(self, progress: float | int) -> float | int:
        """Return the dropout; progress outside 0 to 1 counts as the nearer end."""
        t = min(max(progress, 0.0), 1.0)
        if self.shape == "step":
            return self.start if t < self.switch else self.end
        left = (1 + cos(pi * t)) / 2 if self.shape == "cosine" else 1 - t
        return left * self.start + (1 - left) * self.end


class ScheduledDropout(TrainerCallback):
    """Set a model's dropout before every optimizer step; put the old values back at the end.

    Args:
        schedule: a ``DropoutSchedule``, or any function of progress.
        pattern: shell wildcard on module names; "*" reaches hidden and attention dropout alike.

    Attention keeps its dropout as a plain number in many models of transformers; both are set,
    zeros of the config included (ViT's are zero). ``p`` says the present value.

    Raises:
        ValueError: at the start of training, when the pattern reaches no dropout.

    >>> schedule = DropoutSchedule(0.0, 0.1, "cosine")
    >>> ScheduledDropout(schedule, pattern="*.encoder.*").p is None
    True
    """

    def __init__(self, schedule: Callable[[float], float], pattern: str = "*") -> None:
        self.schedule, self.pattern = schedule, pattern
        self.p: float | None = None
        self._before: list[tuple[nn.Module, str, float]] = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Find the dropouts and remember their values."""
        self._before = dropouts(model, self.pattern)
        if not self._before:
            raise ValueError(
                f"pattern {self.pattern!r} reaches no dropout of {type(model).__name__}; "
                "'*' reaches all there are"
            )

    def on_step_begin(self, args, state, control, **kwargs):
        """Set the value of this step; a resumed run goes on where it stopped."""
        self.p = self.schedule(state.global_step / state.max_steps)
        for module, name, _ in self._before:
            setattr(module, name, self.p)

    def on_train_end(self, args, state, control, **kwargs):
        """Put the values of before the training back."""
        for module, name, value in self._before:
            setattr(module, name, value)
        self._before = []


def dropouts(model: nn.Module, pattern: str = "*") -> list[tuple[nn.Module, str, float]]:
    """Return (module, attribute, value) of every dropout: nn.Dropout's and attention's numbers."""
    found = []
    for name, module in model.named_modules():
        if not fnmatchcase(name, pattern):
            continue
        if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d):
            found.append((module, "p", module.p))
        else:
            numbers = {k: v for k, v in vars(module).items() if isinstance(v, float)}
            found += [(module, k, v) for k, v in numbers.items() if k.endswith("dropout")]
    return found


def set_attention_dropout(model: nn.Module, value: float) -> nn.Module:
    """Set the dropout of attention's probabilities in every layer, in place.

    At 0 torch's fast attention runs in training too; on a CPU it has no dropout, so with any other
    value the probabilities are made in full. The config, and so a saved model, keeps its own value.

    Raises:
        ValueError: the value is not at least 0 and below 1, the model has no layers we know, or
            their attention has no dropout to set.
    """
    if not 0 <= value < 1:
        raise ValueError(f"a dropout is at least 0 and below 1, got {value}")
    for layer in transformer_layers(model):
        if not layer.attention:
            continue
        owner = model.get_submodule(layer.attention)
        after = {owner._modules.get(name) for name in AFTER} - {None}  # of the output projection
        found = [row for row in dropouts(owner) if row[0] not in after]
        if not found:
            raise ValueError(f"no dropout of attention in {layer.name} of {type(model).__name__}")
        for module, name, _ in found:
            setattr(module, name, value)
    return model
