"""Fake quantizers: floats that lie on an integer grid, with a scale that training can move.

"Fake-quantized" is a float tensor on the grid; "packed" (see ``pack``) is real integers. A
quantizer is a module with ``forward`` (fake-quantize), ``codes`` (the integers), ``calibrate`` and
``config``.
"""

from collections.abc import Iterable, Mapping
from math import sqrt

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .registry import register

MIN_SCALE = 1e-8  # a scale that training drives to zero or below is read as this


def integer_range(bits: int, signed: bool = True) -> tuple[int, int]:
    """Return (qmin, qmax) of ``bits`` bits, such as (-8, 7) for four signed ones.

    Raises:
        ValueError: ``bits`` is not an integer from 2 to 8.
    """
    if not isinstance(bits, int) or not 2 <= bits <= 8:
        raise ValueError(f"bits must be an integer from 2 to 8, got {bits!r}")
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def positive(scale: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return the scale as it is used: at least MIN_SCALE, which float16 would round to zero."""
    return scale.clamp_min(2**-24 if scale.dtype == torch.float16 else MIN_SCALE)


class _RoundSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


def round_ste(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Round half to even; the gradient passes straight through.

    >>> x = torch.tensor([0.4, 1.5, 2.5], requires_grad=True)
    >>> round_ste(x).sum().backward(); x.grad.tolist()
    [1.0, 1.0, 1.0]
    """
    return _RoundSTE.apply(x)


class _FakeQuantize(torch.autograd.Function):
    """LSQ's forward and its two gradients; the residual q - v is all that backward needs."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, qmin: int, qmax: int, factor: float) -> Tensor:
        s = positive(scale)
        v = x / s
        q = v.round().clamp_(qmin, qmax)
        inside = (v >= qmin) & (v <= qmax)
        # inside the range d(out)/d(scale) = q - v, outside it is the bound that q sits on
        ctx.save_for_backward(inside, torch.where(inside, q - v, q))
        ctx.factor = factor
        return q.mul_(s)

    @staticmethod
    def backward(ctx, grad: Tensor):
        inside, residual = ctx.saved_tensors
        dx = grad * inside if ctx.needs_input_grad[0] else None
        ds = torch.dot(grad.flatten(), residual.flatten()) * ctx.factor
        return dx, ds, None, None, None


def fake_quantize(
    x: Float[Tensor, "..."],
    scale: Float[Tensor, ""],
    qmin: int,
    qmax: int,
    factor: float = 1.0,
) -> Float[Tensor, "..."]:
    """Return scale * clamp(round(x / scale), qmin, qmax) with LSQ's gradients for both inputs.

    For an incoming gradient g, dx = g inside [qmin, qmax] and 0 outside; d scale = ``factor`` times
    the sum of g (q - x / scale) inside, g qmin below, g qmax above. Gradients of NaN stay NaN.

    Source: Esser et al. 2020, equations 1 to 3; QTC spec sheet, section 4 (``factor`` 1).
    """
    return _FakeQuantize.apply(x, scale, qmin, qmax, factor)


@register
class LSQ(nn.Module):
    """Quantize a tensor to ``bits`` bits with one learned scale.

    x -> scale * clamp(round(x / scale), qmin, qmax), ties to even.

    Args:
        bits: 2 to 8. Four signed bits are the integers -8 to 7.
        signed: False for inputs that are never negative, such as those after ReLU.
        init: how ``calibrate`` finds the start value. "lsq": 2 mean|x| / sqrt(qmax); "max":
            max|x| / qmax, which clips nothing; "mse": the one of 80 fractions of that with the
            least squared error, which is the best start at 4 bits and below.
        grad_factor: multiply the scale's gradient by 1 / sqrt(elements * qmax), as LSQ does, so
            that it moves about as fast as the weights do. False gives the plain sum, as QTC's code
            does.

    The scale is NaN until ``calibrate`` has seen a tensor: a forgotten calibration shows up in the
    first loss, not in the last table, and ``report``, ``pack`` and the trainer refuse it by name.

    Source: Esser et al. 2020 (LSQ), equations 1 to 3; start value from section 2.1, gradient factor
    from section 2.2. The paper says step size where we say scale.

    >>> q = LSQ(bits=2).calibrate(torch.tensor([-1.0, 0.0, 1.0]))
    >>> (q(torch.tensor([-9.0, 0.1, 9.0])) / q.scale).tolist()
    [-2.0, 0.0, 1.0]
    """

    def __init__(
        self, bits: int, signed: bool = True, init: str = "lsq", grad_factor: bool = True
    ) -> None:
        super().__init__()
        self.qmin, self.qmax = integer_range(bits, signed)
        if init not in ("lsq", "max", "mse"):
            raise ValueError(f"init is 'lsq', 'max' or 'mse', got {init!r}")
        self.bits, self.signed, self.init, self.grad_factor = bits, signed, init, grad_factor
        self.scale = nn.Parameter(torch.tensor(float("nan")))

    @torch.no_grad()
    def calibrate(self, x: Float[Tensor, "..."]) -> "LSQ":
        """Set the scale from a tensor and return the quantizer.

        Raises:
            ValueError: the tensor is empty or has a NaN or infinite entry.
        """
        if x.numel() == 0 or not torch.isfinite(x).all():
            raise ValueError(
                f"a scale needs finite values to start from, got shape {(*x.shape,)} with "
                f"{int((~torch.isfinite(x)).sum())} NaN or infinite entries"
            )
        size = x.abs().max() / self.qmax
        if self.init == "lsq":
            size = 2 * x.abs().mean() / sqrt(self.qmax)
        elif self.init == "mse":
            grid = positive(size * torch.arange(1, 81, device=x.device) / 80)
            size = grid[torch.stack([self._error(x, s) for s in grid]).argmin()]
        self.scale.fill_(positive(size.to(self.scale.dtype)))
        return self

    def _error(self, x: Tensor, scale: Tensor) -> Tensor:
        q = (x / scale).round_().clamp_(self.qmin, self.qmax)
        return (q.mul_(scale) - x).square_().sum()

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        factor = 1 / sqrt(x.numel() * self.qmax) if self.grad_factor else 1.0
        return fake_quantize(x, self.scale, self.qmin, self.qmax, factor)

    @torch.no_grad()
    def codes(self, x: Float[Tensor, "..."]) -> Int[Tensor, "..."]:
        """Return the integers that ``forward`` multiplies by the scale, as int16."""
        v = x / positive(self.scale)
        return v.round().clamp_(self.qmin, self.qmax).to(torch.int16)

    def config(self) -> dict:
        """Return the arguments that rebuild this quantizer, defaults left out."""
        default = {"signed": True, "init": "lsq", "grad_factor": True}
        changed = {k: getattr(self, k) for k, v in default.items() if getattr(self, k) != v}
        return {"bits": self.bits} | changed

    def extra_repr(self) -> str:
        return f"bits={self.bits}, signed={self.signed}, init={self.init!r}"


def is_quantizer(module: nn.Module) -> bool:
    """Say whether a module has what a quantizer has: bits, a scale, codes and calibrate."""
    return all(hasattr(module, name) for name in ("bits", "scale", "codes", "calibrate"))


def uncalibrated(model: nn.Module) -> list[str]:
    """Return the names of the quantizers whose scale is still NaN."""
    return [
        name
        for name, module in model.named_modules()
        if is_quantizer(module) and bool(torch.isnan(module.scale).any())
    ]


def require_calibrated(model: nn.Module) -> None:
    """Raise a ValueError that names the quantizers without a scale."""
    if names := uncalibrated(model):
        raise ValueError(
            f"{len(names)} quantizers have no scale yet, the first is {names[0]!r}; call "
            "tqlearn.calibrate(model) after compress (with batches if activations are quantized)"
        )


def calibrate(model: nn.Module, batches: Iterable | None = None) -> nn.Module:
    """Give every quantizer its start scale, in place, and return the model.

    Quantizers of weights and cores look at their tensor; those of activations look at the batches,
    and take the mean of what each batch asks for. A scale that is already set is set anew.

    Args:
        model: a compressed model.
        batches: what the model is called with: dicts (keywords), tuples (positions) or tensors.

    Raises:
        ValueError: activation quantizers but no batches, or one that no batch reached.
    """
    on_weights = set()
    for module in model.modules():
        for name, chain in getattr(module, "parametrizations", {}).items():
            if not chain.is_tensor:  # weight_norm, with two tensors behind one: no place of ours
                continue
            with torch.no_grad():
                x = chain.original
                for stage in chain:
                    if is_quantizer(stage):
                        stage.calibrate(x)
                        on_weights.add(stage)
                    x = stage(x)
            if not torch.isfinite(x).all():
                raise ValueError(f"{type(module).__name__}.{name} is not finite after calibration")
    on_inputs = {
        module: name
        for name, module in model.named_modules()
        if is_quantizer(module) and module not in on_weights and hasattr(module, "init")
    }
    if on_inputs:
        _calibrate_inputs(model, on_inputs, batches)
    return model


def _calibrate_inputs(model: nn.Module, quantizers: dict, batches: Iterable | None) -> None:
    if batches is None:
        raise ValueError(
            f"{len(quantizers)} quantizers of activations need batches to look at, such as "
            f"{next(iter(quantizers.values()))!r}; call tqlearn.calibrate(model, batches)"
        )
    seen: dict[nn.Module, list[Tensor]] = {module: [] for module in quantizers}

    def look(module: nn.Module, inputs: tuple) -> None:
        seen[module].append(module.calibrate(inputs[0]).scale.detach().clone())

    hooks = [module.register_forward_pre_hook(look) for module in quantizers]
    training = model.training
    try:
        with torch.no_grad():
            for batch in batches:
                if isinstance(batch, Mapping):
                    model.eval()(**batch)
                else:
                    model.eval()(*batch if isinstance(batch, tuple | list) else (batch,))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    if blind := [quantizers[module] for module, scales in seen.items() if not scales]:
        raise ValueError(f"no batch reached {len(blind)} quantizers, the first is {blind[0]!r}")
    with torch.no_grad():
        for module, scales in seen.items():
            module.scale.copy_(torch.stack(scales).mean(0))
