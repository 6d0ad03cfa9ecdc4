"""A compressed model without its numbers: what ``compress`` would build, in a moment.

On meta there is nothing to decompose and nothing to copy, so sizes can follow a slider:
``storage.weighing`` counts them to the byte.
"""

import copy

import torch
from torch import nn

from ..arguments import require_model
from ..sparsity.blocks import tie
from ..storage.layout import attach_layout
from ..storage.tied import replace
from .asked import outlined
from .plan import Plan, match


def skeleton_of(model: nn.Module) -> nn.Module:
    """Return a copy of a model on meta: the same structure, the same shared weights.

    >>> skeleton_of(nn.Linear(3, 2)).weight.is_meta
    True
    """
    require_model("skeleton_of", model)
    empty = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    empty |= {id(b): torch.empty_like(b, device="meta") for b in model.buffers()}
    return copy.deepcopy(model, empty)


def sketch(model: nn.Module, plan: Plan) -> nn.Module:
    """Return what ``compress`` builds, on meta.

    Args:
        model: may itself be on meta, unless an edit is given as an error.

    Raises:
        ValueError, TypeError: as ``preview``.

    >>> from tqlearn import LowRank
    >>> sketch(nn.Sequential(nn.Linear(6, 4)), {"0": [LowRank(rank=2)]})[0].core_0
    Parameter containing:
    tensor(..., device='meta', size=(4, 2), requires_grad=True)
    """
    chosen = match(model, plan)
    made = {name: outlined(model.get_submodule(name), e, name) for name, e in chosen.items()}
    student = skeleton_of(model)
    return attach_layout(tie(replace(student, {name: m.to("meta") for name, m in made.items()})))
