"""N:M masks that know the inputs: their norms, the score that weighs them in, and new masks.

``remask(student, input_norms(teacher, batches))`` chooses what stays by |w| times its input's norm.
"""

from collections.abc import Iterable, Mapping
from itertools import takewhile

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..precision import widened
from ..stages import is_quantizer
from .nm import NMMask, magnitude


def activation_aware(
    weight: Float[Tensor, "out in"], norms: Float[Tensor, "in"]
) -> Float[Tensor, "out in"]:
    """Return the score |w| times the norm of its input: a small weight on a loud input counts.

    Source: Sun et al. 2023, *A Simple and Effective Pruning Approach for Large Language Models*
    (Wanda); the norm is that of an input feature over all tokens, see ``input_norms``.
    """
    score = widened(magnitude(weight))  # norms over many tokens outgrow float16
    return score * norms.to(score)


@torch.no_grad()
def input_norms(model: nn.Module, batches: Iterable) -> dict[str, Float[Tensor, "in"]]:
    """Return, for every linear layer, the Euclidean norm of each input feature over all tokens.

    Take them from the dense model, before anything is pruned: ``remask(student, norms)``.

    Args:
        model: any torch model, run in eval mode.
        batches: what the model is called with: dicts (keywords), tuples (positions) or tensors.

    Raises:
        ValueError: no batch reached a linear layer.

    Source: Sun et al. 2023 (Wanda); see ``activation_aware``.

    >>> model = nn.Sequential(nn.Linear(2, 1))
    >>> input_norms(model, [torch.tensor([[3.0, 0.0], [4.0, 2.0]])])["0"].tolist()
    [5.0, 2.0]
    """
    squares: dict[str, Tensor] = {}

    def listen(name: str):
        def hook(module: nn.Module, inputs: tuple) -> None:
            power = inputs[0].detach().float().reshape(-1, inputs[0].shape[-1]).square().sum(0)
            squares[name] = squares.get(name, 0) + power

        return hook

    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    hooks = [layer.register_forward_pre_hook(listen(name)) for name, layer in layers.items()]
    training = model.training
    try:
        for batch in batches:
            if isinstance(batch, Mapping):
                model.eval()(**batch)
            else:
                model.eval()(*batch if isinstance(batch, tuple | list) else (batch,))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    if not squares:
        raise ValueError("input norms need a batch that reaches a linear layer")
    return {name: power.sqrt() for name, power in squares.items()}


@torch.no_grad()
def remask(model: nn.Module, norms: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Make every fixed N:M mask anew from the present weights, in place, and return the model.

    Args:
        model: a model with ``TwoFour`` masks.
        norms: of ``input_norms``; then linear layers are scored by |w| times their input's norm.
            Everything else (cores have no input of their own) goes by magnitude, as it does
            without norms.

    Scales of quantizers stay as they are: calibrate after this.

    Raises:
        ValueError: no fixed mask anywhere, or a masked linear layer that ``norms`` does not name.
    """
    found = [
        (name, module, chain)
        for name, module in model.named_modules()
        for chain in getattr(module, "parametrizations", {}).values()
        if any(isinstance(stage, NMMask) and stage.update == "fixed" for stage in chain)
    ]
    if not found:
        raise ValueError("the model has no fixed N:M mask; compress it with TwoFour first")
    by_input = norms is not None
    lost = [n for n, m, _ in found if by_input and isinstance(m, nn.Linear) and n not in norms]
    if lost:
        raise ValueError(f"no input norm for {lost[0]!r}; known are {sorted(norms)}")
    for name, module, chain in found:
        x = chain.original
        for stage in takewhile(lambda stage: not is_quantizer(stage), chain):
            if isinstance(stage, NMMask) and stage.update == "fixed":
                aware = by_input and isinstance(module, nn.Linear)
                stage.remask(activation_aware(x, norms[name]) if aware else x)
            x = stage(x)
    return model
