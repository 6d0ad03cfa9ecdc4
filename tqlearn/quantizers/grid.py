"""What all quantizers have in common: a grid (code - zero_point) * scale, and who may share it.

A quantizer reads its tensor as ``groups`` rows of equal length, in row-major order, each with a
scale of its own: 1 is per tensor, ``weight.shape[0]`` per output channel, ``numel // 64`` per 64
neighbors.
"""

from numbers import Integral

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..precision import Fine, widened
from ..stages import is_quantizer
from .initial_scales import require_finite
from .rounding import integer_range, positive


class Quantizer(Fine):
    """Base of the quantizers: groups, codes, config; a class adds forward, start and a scale.

    Args:
        bits: 2 to 8.
        groups: how many rows the tensor is read as, each with its own scale.

    ``options`` lists the other arguments with their defaults, so that ``config`` can leave those
    out. ``zero_point`` is the code of 0.0, or None where that is code 0; it need not be an integer.

    Its own numbers stay in float32 when the model is cast to half floats, and codes are computed in
    float32: what a half model sees is the float32 grid, each value rounded once.

    Raises:
        ValueError: ``bits`` outside 2 to 8, or fewer groups than one.
    """

    options: dict = {}
    zero_point: Tensor | None = None
    scale_dtype: str = "float32"  # ``LSQ`` offers others

    def __init__(self, bits: int, groups: int = 1) -> None:
        super().__init__()
        integer_range(bits)
        whole = isinstance(groups, Integral) and not isinstance(groups, bool)
        if not whole or groups < 1:
            raise ValueError(f"groups must be a positive integer, got {groups!r}")
        self.bits, self.groups = int(bits), int(groups)  # numpy's are written as Python's

    def unset(self) -> Float[Tensor, "..."]:
        """Return NaN in the shape of a scale: a forgotten calibration shows in the first loss.

        In float32 also where a model is built in half floats, as ``from_pretrained`` may.
        """
        return torch.full(
            (self.groups, 1) if self.groups > 1 else (), torch.nan, dtype=torch.float32
        )

    def learned(self) -> nn.Parameter:
        """Return ``unset`` as a parameter: one scale is one element, for FSDP2 shards no scalars.

        Buffers, which it leaves whole, stay scalars, and so does the scale of packed codes.
        """
        return nn.Parameter(torch.atleast_1d(self.unset()))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        for name, own in self._parameters.items():  # a file may be older than ``learned``
            stored = state_dict.get(prefix + name)
            if stored is not None and stored.dim() == 0 and own.shape == (1,):
                state_dict[prefix + name] = stored[None]
        super()._load_from_state_dict(state_dict, prefix, *args)

    def used_scale(self) -> Float[Tensor, "..."]:
        """Return the scale that ``forward`` divides and multiplies by, before ``positive``."""
        return self.scale

    def rows(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return x itself with one scale, else as (groups, n).

        Raises:
            ValueError: the tensor does not divide into the groups.
        """
        if self.groups == 1:
            return x
        if x.numel() % self.groups:
            raise ValueError(f"{tuple(x.shape)} does not divide into {self.groups} equal groups")
        return x.reshape(self.groups, -1)

    @torch.no_grad()
    def calibrate(self, x: Float[Tensor, "..."]) -> "Quantizer":
        """Set the start values from a tensor and return the quantizer.

        Raises:
            ValueError: the tensor is empty or has a NaN or infinite entry.
        """
        require_finite(x)
        self.start(widened(self.rows(x)).reshape(self.groups, -1))
        return self

    def fill(self, target: Tensor, values: Float[Tensor, " rows"]) -> None:
        """Copy one value per row into a parameter or buffer."""
        target.detach().copy_(values.reshape(target.shape))

    @torch.no_grad()
    def codes(self, x: Float[Tensor, "..."]) -> Int[Tensor, "..."]:
        """Return the integers behind ``forward``, as int16."""
        v = widened(self.rows(x)) / positive(self.used_scale())
        v = v if self.zero_point is None else v.add_(self.zero_point)
        return v.clamp_(self.qmin, self.qmax).round_().to(torch.int16).reshape(x.shape)

    def decode(self, codes: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the floats of integers: exactly what ``forward`` gave for them."""
        return decode(codes, positive(self.used_scale()), self.zero_point)

    def config(self) -> dict:
        """Return the arguments that rebuild this quantizer, defaults left out."""
        options = {**self.options, "groups": 1}
        changed = {k: getattr(self, k) for k, v in options.items() if getattr(self, k) != v}
        return {"bits": self.bits} | changed

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self.config().items())


def decode(
    codes: Int[Tensor, "..."], scale: Float[Tensor, "..."], zero_point: Tensor | None = None
) -> Float[Tensor, "..."]:
    """Return (codes - zero_point) * scale, with a scale for all or (rows, 1) of them."""
    values = codes.to(scale.dtype)
    if not codes.numel():
        return values
    values = values.reshape(len(scale), -1) if scale.dim() > 1 else values
    values = values if zero_point is None else values - zero_point
    return (values * scale).reshape(codes.shape)


def grid_is_a_scale(quantizer: nn.Module) -> bool:
    """Say whether a float is code times ``scale``, and the quantizer stores nothing but that."""
    if not isinstance(quantizer, Quantizer):
        return True  # a quantizer of one's own: nothing else is asked of it
    own = [name for named in (quantizer.named_parameters(), quantizer.named_buffers())
           for name, _ in named]  # fmt: skip
    return own == ["scale"] and quantizer.zero_point is None


def stored_in(quantizer: nn.Module) -> torch.dtype | None:
    """Return the 16-bit type of the scales beside packed codes; None where they keep their own."""
    name = quantizer.scale_dtype if isinstance(quantizer, Quantizer) else "float32"
    return None if name == "float32" else getattr(torch, name)


def uncalibrated(model: nn.Module) -> list[str]:
    """Return the names of the quantizers whose scale is still NaN."""
    return [
        name
        for name, module in model.named_modules()
        if is_quantizer(module) and bool(torch.isnan(module.scale).any())
    ]


def require_calibrated(model: nn.Module) -> None:
    """Raise a ValueError that names the quantizers without a scale, or with one out of range."""
    if names := uncalibrated(model):
        raise ValueError(
            f"{len(names)} quantizers have no scale yet, the first is {names[0]!r}; call "
            "tqlearn.calibrate(model) after compress (with batches if activations are quantized)"
        )
    for name, module in model.named_modules():
        if (dtype := stored_in(module)) and not module.used_scale().isfinite().all():
            raise ValueError(
                f"{name!r} has a scale of {module.scale.max().item():.1e}, and the largest of "
                f"{module.scale_dtype} is {torch.finfo(dtype).max:.1e}; train with a smaller rate, "
                "or make the student with scale_dtype='bfloat16' or 'float32'"
            )
