"""The verbs on models: preview, compress, pack, unpack, bake. Each returns a new model.

All checks come before the first cut, so a refused plan leaves everything as it was.
"""

import copy
import warnings

from torch import nn

from ..arguments import require, require_gathered, require_model, require_numbers
from ..kinds import conv1d_of
from ..quantizers.inputs import lift
from ..sparsity.blocks import tie
from ..stages import Cores
from ..storage.layout import attach_layout
from ..storage.pack import bake_tensors, behind_stages, pack_tensors, unpack_tensors
from ..storage.packed import Packed
from ..storage.tied import replace
from .asked import edited
from .plan import Plan, copied, left_out, match


def compress(model: nn.Module, plan: Plan, *, inplace: bool = False) -> nn.Module:
    """Build a compressed student from a trained model.

    Patterns are shell wildcards on module names, matched against Linear, Embedding and Conv layers
    (and layers already compressed). All checks come first: either the whole plan is applied or
    nothing is.

    Args:
        model: any torch model; a transformers model also records the layout in its config.
        plan: pattern -> edits, applied left to right; the first pattern that fits wins and ``[]``
            leaves alone.
        inplace: change ``model`` itself, to save the memory: no weight is copied, and what a new
            layer takes the place of is freed. An edit of one's own that writes into the weight
            which it is given writes into the model's.

    Returns:
        A new model; ``model`` is unchanged, so it can serve as the teacher.

    Raises:
        ValueError: a pattern matches no layer, a layer cannot take its edit, a weight holds a NaN,
            or layers that share a weight get different edits.
        TypeError: an edit cannot take that kind of layer, or returned no module.

    >>> from tqlearn import TT
    >>> teacher = nn.Sequential(nn.Linear(24, 36), nn.ReLU(), nn.Linear(36, 2))
    >>> student = compress(teacher, {"0": [TT(rank=4, order=2)], "2": []})
    >>> type(student[0]).__name__, type(teacher[0]).__name__
    ('TTLinear', 'Linear')
    """
    require("compress: inplace", inplace, bool)
    made, old = {}, []
    for name, edits in match(model, plan).items():
        layer = model.get_submodule(name)
        old += layer.parameters()
        new = copy.deepcopy(layer, {id(p): p for p in layer.parameters()} if inplace else {})
        made[name] = edited(new, edits, name)
    say_left(left_out(model, plan, made), model)
    student = model if inplace else copied(model, old)
    before = {name: student.get_submodule(name) for name in made}
    try:
        return attach_layout(tie(replace(student, made)))
    except Exception:  # what cannot be described could not be saved: nothing half-done
        tie(replace(student, before))
        raise


def say_left(left: dict[str, int], model: nn.Module) -> None:
    """Warn of matrices under the plan's patterns that no edit reaches, where they weigh."""
    whole = sum(t.numel() * t.element_size() for t in model.parameters())
    if left and (share := sum(left.values()) / whole) > 0.01:
        largest = max(left, key=left.get)
        warnings.warn(
            f"{len(left)} matrices under the plan's patterns stay as they are, {share:.1%} of the "
            f"model's bytes, the largest is {largest!r}; preview lists them, and the full name of "
            "their module in the plan finds them",
            stacklevel=3,
        )


def pack(model: nn.Module, *, keep_floats: bool = False) -> nn.Module:
    """Return a copy whose quantized tensors are real integer codes; the outputs stay bit for bit.

    Args:
        keep_floats: keep the floats that a layer has decoded for its first call: faster, and as
            large in memory as a dense model. Without it every call decodes a layer anew, and a
            table only in the rows that are looked up.

    Raises:
        ValueError: a quantizer has no scale yet.
    """
    require_model("pack", model)
    require("pack: keep_floats", keep_floats, bool)
    require_numbers("pack", model)
    packed = pack_tensors(copied(model, behind_stages(model)))
    for module in packed.modules():
        if isinstance(module, Packed):
            module.keep_floats = keep_floats
    return attach_layout(packed)


def unpack(model: nn.Module) -> nn.Module:
    """Return a trainable copy of a packed model: floats under the quantizers of the codes."""
    require_model("unpack", model)
    require_gathered("unpack", model)
    return attach_layout(unpack_tensors(copied(model)))


def bake(model: nn.Module, *, dense: bool = False) -> nn.Module:
    """Return a copy whose masks and quantizers have become plain values.

    Args:
        dense: also turn cores back into ordinary Linear and Embedding layers, so that the copy
            loads anywhere (and is as large as the teacher). Quantizers of activations go then, for
            a plain layer has no place for them; without ``dense`` they stay.
    """
    require_model("bake", model)
    require("bake: dense", dense, bool)
    require_gathered("bake", model)
    plain = bake_tensors(copied(model, behind_stages(model)))
    if dense:
        made = {}
        for name, module in list(plain.named_modules()):
            lift(module)
            if isinstance(module, Cores):
                made[name] = module.dense().train(module.training)
            elif isinstance(module, nn.Linear) and hasattr(module, "dense_like"):
                made[name] = conv1d_of(module)
        replace(plain, made)
    return attach_layout(plain)
