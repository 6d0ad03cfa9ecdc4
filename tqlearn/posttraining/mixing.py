"""Mixed precision: bits where they matter most, under a limit of bytes.

Rounding a layer moves its weight by D and its outputs by x D^T, whose mean square d = tr(D H D^T)
a few batches tell. The losses of several layers are taken to add up, so what is left to choose is
one way of rounding for each layer, with the least sum of d and a sum of bytes within the limit: a
knapsack, solved exactly by dynamic programming.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from math import gcd

import torch
from torch import nn

from ..arguments import require, require_model
from ..quantizers.calibration import calibrate_weights, checked_batches
from ..quantizers.grid import uncalibrated
from ..storage.report import rows_of
from ..surgery import match
from ..surgery.asked import applied
from .folds import require_plain
from .layerwise import walk

CELLS = 2**16  # of the table over bytes; what fits into it is solved exactly


def knapsack(
    losses: Sequence[Sequence[float]], sizes: Sequence[Sequence[int]], budget: int
) -> list[int]:
    """Return which choice to take of each item, so that the losses add up to the least.

    Args:
        losses, sizes: of every choice of every item.
        budget: the chosen sizes add up to this at most.

    Sizes count in units of their greatest common divisor. Where the budget is more than 65,536 of
    these, sizes are rounded up to larger units, so that it always holds.

    Raises:
        ValueError: the smallest choices are too large together.

    >>> knapsack([[9.0, 1.0], [4.0, 3.0]], [[1, 3], [1, 3]], budget=4)
    [1, 0]
    """
    least = [min(options) for options in sizes]
    if sum(least) > budget:
        raise ValueError(
            f"the smallest choices take {sum(least):,} together, and the budget is {budget:,}; "
            "raise it or offer smaller ones"
        )
    above = [[size - low for size in options] for options, low in zip(sizes, least, strict=True)]
    spare = budget - sum(least)
    unit = gcd(*(size for options in above for size in options)) or 1
    unit *= max(1, -(-(spare // unit) // CELLS))
    cells = spare // unit + 1
    best = torch.zeros(cells, dtype=torch.float64)  # of the items so far, within so many units
    taken = []
    for costs, options in zip(losses, above, strict=True):
        rows = torch.full((len(options), cells), torch.inf, dtype=torch.float64)
        for row, cost, size in zip(rows, costs, options, strict=True):
            if (units := -(-size // unit)) < cells:
                row[units:] = best[: cells - units] + cost
        best, choice = rows.min(0)
        taken.append(choice.to(torch.int16))
    chosen, left = [], cells - 1
    for choice, options in zip(reversed(taken), reversed(above), strict=True):
        chosen.append(int(choice[left]))
        left -= -(-options[chosen[-1]] // unit)
    return chosen[::-1]


@torch.no_grad()
def mixed_precision(
    model: nn.Module, batches: Iterable, choices: Mapping[str, Sequence[Sequence]], budget: int
) -> dict[str, list]:
    """Return the plan that loses least within a budget of bytes.

    Args:
        model: in floats; unchanged.
        batches: what it is called with, as for ``calibrate``.
        choices: pattern -> lists of edits of weights to choose from, for each layer that the
            pattern names; the first pattern that fits wins, and ``[[]]`` leaves alone.
        budget: bytes of all these layers with their scales and biases, as ``report`` counts them
            "with scales and metadata"; the rest of the model comes on top.

    The losses are those of rounding to nearest with inputs of the model in floats, each layer by
    itself. ``compensate`` afterwards makes all of them smaller.

    Raises:
        ValueError: no layer, one that is no linear layer, a budget below the smallest choices, a
            choice that needs batches to calibrate, a compressed model.
        TypeError: no model; ``batches`` is one batch, or none; choices that are no lists of edits.

    Example::

        choices = {"*.layers.*": [[tq.LSQ(bits, init="mse", per=64)] for bits in (2, 3, 4, 8)]}
        plan = mixed_precision(model, batches, choices, budget=40_000_000)
        student = tq.calibrate(tq.compress(model, plan))
    """
    require_model("mixed_precision", model)
    require("mixed_precision: budget", budget, int)
    require_plain("mixed_precision", model)
    batches = list(checked_batches(batches))
    options = _options(model, choices)
    layers = {name: model.get_submodule(name) for name in options}
    losses, sizes = {}, {}
    for names, moments in walk(model, layers, batches):
        for name in names:
            made = [_made(name, layers[name], edits) for edits in options[name]]
            weight = layers[name].weight
            losses[name] = [moments.error(weight - layer.weight.detach()) for layer in made]
            sizes[name] = [sum(row["bytes"] for row in rows_of(layer)) for layer in made]
    chosen = knapsack([losses[n] for n in options], [sizes[n] for n in options], budget)
    return {name: [*options[name][k]] for name, k in zip(options, chosen, strict=True)}


def _options(model: nn.Module, choices: Mapping[str, Sequence[Sequence]]) -> dict[str, list]:
    """Return the lists of edits that each layer may choose from."""
    if not isinstance(choices, Mapping):
        raise TypeError(f"choices map patterns to lists of lists of edits, got {choices!r}")
    for pattern, lists in choices.items():
        nested = isinstance(lists, Sequence) and not isinstance(lists, str) and lists
        if not nested or not all(isinstance(edits, list | tuple) for edits in lists):
            raise TypeError(
                f"choices of {pattern!r} are a list of lists of edits, such as [[LSQ(3)], "
                f"[LSQ(4)]], got {lists!r}"
            )
    plan = {pattern: [_Among(tuple(map(tuple, lists)))] for pattern, lists in choices.items()}
    found = {name: [*edits[0].lists] for name, edits in match(model, plan).items()}
    found = {name: lists for name, lists in found.items() if lists != [()]}
    for name in found:
        if not isinstance(module := model.get_submodule(name), nn.Linear):
            raise ValueError(
                f"{name} is a {type(module).__name__}; the loss of its outputs is known of linear "
                "layers alone, so give it [[]] here and edits of its own in the plan that comes out"
            )
    if not found:
        raise ValueError("choices name no layer to choose for")
    return found


class _Among:
    """Stands in a plan for the lists that a layer may choose from, while ``match`` reads it."""

    def __init__(self, lists: tuple) -> None:
        self.lists = lists

    def __call__(self, module: nn.Module) -> nn.Module:
        return module


def _made(name: str, layer: nn.Module, edits: Sequence) -> nn.Module:
    """Return what edits make of a copy of a layer, calibrated by its weight."""
    made = copy.deepcopy(layer)
    for edit in edits:
        made = applied(edit, made, name)
    calibrate_weights(made)
    if blind := uncalibrated(made):
        raise ValueError(
            f"{name}: {blind[0]!r} looks at batches, and the losses here are those of weights "
            "alone; choose among edits of weights, and add Inputs(...) to the plan afterwards"
        )
    return made
