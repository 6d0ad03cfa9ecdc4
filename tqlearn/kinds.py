"""Modules with weights: which ones a pattern finds, along which axis they sum, what stands in the
way of an edit.
"""

import copy
import inspect

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

WAYS = {  # the hooks of older torch.nn.utils, which put a computed tensor beside the parameters
    WeightNorm: "torch.nn.utils.remove_weight_norm(layer)",
    SpectralNorm: "torch.nn.utils.remove_spectral_norm(layer)",
    BasePruningMethod: "torch.nn.utils.prune.remove(layer, name)",
}
HOOKS = (
    *("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"),
    *("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs"),
    "_forward_hooks_always_called",
)
TREE = frozenset(vars(nn.Module()))  # what torch itself keeps: children, parameters, hooks
OPTIONS = ("max_norm", "scale_grad_by_freq", "sparse")  # of nn.Embedding


def is_conv1d(module: nn.Module) -> bool:
    """Say whether a module is GPT-2's Conv1D: linear, with its weight the other way round."""
    named = any(cls.__name__ == "Conv1D" for cls in type(module).__mro__)
    return named and hasattr(module, "nf") and hasattr(module, "nx")


def linear_of(module: nn.Module) -> nn.Module:
    """Return a Conv1D as the linear layer that computes the same; any other module as it is."""
    if not is_conv1d(module) or not isinstance(module._parameters.get("weight"), nn.Parameter):
        return module
    linear = nn.Linear(1, 1, bias=False).train(module.training)
    linear.in_features, linear.out_features = module.nx, module.nf
    learns = module.weight.requires_grad
    linear.weight = nn.Parameter(module.weight.detach().T.contiguous(), requires_grad=learns)
    linear.bias = module.bias
    return linear


def conv1d_of(linear: nn.Linear) -> nn.Module:
    """Return a linear layer that stands for a Conv1D as the Conv1D that it was."""
    new = linear.dense_like(linear.out_features, linear.in_features).train(linear.training)
    new.weight = nn.Parameter(linear.weight.detach().T.contiguous(), linear.weight.requires_grad)
    new.bias = linear.bias
    return new


def computes_as(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Say whether a subclass with a forward of its own gives what ``kind`` gives, bit for bit or
    nearly: tried on a copy with random weights.

    >>> class Loud(nn.Linear):
    ...     def forward(self, x):
    ...         return 2 * super().forward(x)
    >>> computes_as(Loud(4, 3), nn.Linear)
    False
    """
    if "forward" in vars(module):
        return False  # somebody has put another one in its place
    if type(module).forward is kind.forward:
        return True
    with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device("cpu"):
        torch.manual_seed(0)
        trial = copy.deepcopy(module).to_empty(device="cpu").double()
        for hooks in HOOKS[:2]:
            getattr(trial, hooks).clear()
        for tensor in (*trial.parameters(), *trial.buffers()):
            random = torch.randn if tensor.is_floating_point() else torch.ones
            tensor.copy_(random(tensor.shape))
        if kind is nn.Linear:
            x = torch.randn(2, 5, trial.in_features, dtype=torch.float64)
        else:
            x = torch.randint(trial.num_embeddings, (2, 5))
        wanted = kind.forward(trial, x)
        try:
            found = trial(x)
        except Exception:  # other arguments, or other inputs: a forward we know nothing of
            return False
        same = isinstance(found, Tensor) and found.shape == wanted.shape
        return same and torch.allclose(found.to(wanted), wanted)


def freeze_like(old: nn.Module, new: nn.Module) -> nn.Module:
    """Let the numbers of a new module learn, or not, as those of the old one; its bias apart."""
    weight, bias = (old._parameters.get(name) for name in ("weight", "bias"))
    if weight is not None and not weight.requires_grad:
        for name, parameter in new.named_parameters():
            parameter.requires_grad_(name == "bias")
    if bias is not None and getattr(new, "bias", None) is not None:
        new.bias.requires_grad_(bias.requires_grad)
    return new


def keep_hooks(old: nn.Module, new: nn.Module) -> nn.Module:
    """Let a new module in the place of an old one call the hooks of the old one."""
    for name in HOOKS:
        getattr(new, name).update(getattr(old, name))
    new._is_full_backward_hook = old._is_full_backward_hook
    return new


def noted_on(module: nn.Module) -> list[str]:
    """Return the names of what a model has noted on a layer of torch, such as its number."""
    plain = {*TREE, *inspect.signature(type(module).__init__).parameters}
    own = [name for name in vars(module) if name not in plain]
    return [name for name in own if not name.startswith(("_", "tqlearn_"))]


def relink(model: nn.Module, swapped: dict[nn.Module, nn.Module]) -> None:
    """Let lists, tuples and dicts that hold a replaced module beside the tree hold the new one."""

    def with_new(value: object) -> object:
        if isinstance(value, nn.Module):
            return swapped.get(value, value)
        if type(value) in (list, tuple):
            parts = [with_new(part) for part in value]
            same = all(a is b for a, b in zip(parts, value, strict=True))
            return value if same else type(value)(parts)
        if type(value) is dict:
            parts = {key: with_new(part) for key, part in value.items()}
            return value if all(parts[key] is value[key] for key in value) else parts
        return value

    for module in model.modules():
        own = vars(module)
        for name in [name for name in own if name not in TREE]:
            own[name] = with_new(own[name])


def own_class(module: nn.Module) -> nn.Module:
    """Give a parametrized module a class of its own, before a parametrization comes or goes.

    ``parametrize`` keeps its properties on a class that ``copy.deepcopy`` shares between copies; a
    change to one copy would reach into the others.
    """
    cls = type(module)
    if parametrize.is_parametrized(module):
        keep = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
        module.__class__ = type(cls.__name__, cls.__bases__, keep)
    return module


def is_experts(module: nn.Module) -> bool:
    """Say whether a module holds the weights of several experts in tensors of three axes."""
    own = [p for p in module._parameters.values() if p is not None and p.dim() == 3]
    chains = getattr(module, "parametrizations", {}).values()
    own += [chain for chain in chains if chain.is_tensor and chain[-1] is not None]
    return bool(own) and isinstance(getattr(module, "num_experts", None), int)


def is_known(module: nn.Module) -> bool:
    """Say whether a pattern finds a module by itself.

    >>> is_known(nn.MultiheadAttention(8, 2)), is_known(nn.LSTM(8, 2))
    (True, False)
    """
    kinds = nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention
    return isinstance(module, kinds) or is_conv1d(module) or is_experts(module)


def unsaved_in(model: nn.Module) -> set[str]:
    """Return the layers whose weight no file of a transformers model holds, such as sines."""
    keys = getattr(model, "_keys_to_ignore_on_save", None) or ()
    return {key.removesuffix(".weight") for key in keys}


def input_axis(module: nn.Module, weight: Float[Tensor, "..."]) -> int:
    """Return the axis of a weight along which its layer sums: the input.

    That is the last one; the channels of a convolution; the one before for GPT-2's Conv1D and for
    experts that say ``is_transposed``; the mode of a train's last core, whose last axis is an outer
    rank of 1.

    Raises:
        ValueError: experts that do not say it.
    """
    if isinstance(module, _ConvNd):
        return -weight.dim() if module.transposed else 1 - weight.dim()
    if is_conv1d(module):
        return -2
    if is_experts(module):
        if not isinstance(getattr(module, "is_transposed", None), bool):
            raise ValueError(
                f"{type(module).__name__} does not say in is_transposed along which axis its "
                "experts sum; set it to False for (experts, out, in), True for (experts, in, out)"
            )
        return -2 if module.is_transposed else -1
    return next((a for a in range(-1, -weight.dim(), -1) if weight.shape[a] > 1), -weight.dim())


def require_no_hook(name: str, module: nn.Module) -> None:
    """Raise a ValueError for a weight that a hook of torch.nn.utils computes before each call."""
    for hook in module._forward_pre_hooks.values():
        way = next((way for kind, way in WAYS.items() if isinstance(hook, kind)), None)
        if way is not None:
            raise ValueError(
                f"{name} has a {type(hook).__name__} hook, which computes a weight before every "
                f"call and would undo what stands on it; call {way} first"
            )


def require_editable(edit: str, module: nn.Module) -> None:
    """Raise a ValueError for a layer whose weight something else computes or changes."""
    require_no_hook(f"{type(module).__name__}", module)
    if isinstance(module, nn.RNNBase):
        raise ValueError(
            f"{type(module).__name__} keeps its weights in a list of its own, past masks and "
            f"quantizers; leave it out of the plan of {edit}"
        )
    for key, chain in getattr(module, "parametrizations", {}).items():
        if not chain.is_tensor:
            raise ValueError(
                f"{type(module).__name__}.{key} is computed by {type(chain[0]).__name__.strip('_')}"
                f" from two tensors, so {edit} has no place on it; call torch.nn.utils.parametrize."
                f"remove_parametrizations(layer, {key!r}) first"
            )
    if isinstance(module, nn.Embedding):
        said = {name: getattr(module, name) for name in OPTIONS if getattr(module, name)}
        if said:
            raise ValueError(
                f"{edit} would lose what the table is asked for, {said}; set it to "
                f"{[type(value)() if value is True else None for value in said.values()][0]} if "
                "you can do without, or leave the table out"
            )
