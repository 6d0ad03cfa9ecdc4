"""Fake quantizers: floats that lie on an integer grid, with a scale that training can move.

"Fake-quantized" is a float tensor on the grid; "packed" (see ``pack``) is real integers. A
quantizer is a module with ``forward`` (fake-quantize), ``codes`` (the integers), ``calibrate`` and
``config``. Here are those whose scale is the step between two codes, LSQ and LSQ+; ``clips`` has
those that learn where to clip, ``sawb`` and ``ranges`` those that follow statistics.
"""

from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from ..registry import register
from .grid import Quantizer, stored_in
from .initial_scales import least_squares, parse_rule, start_bounds, start_scale
from .rounding import fake_quantize, integer_range, positive, scale_in

SCALE_DTYPES = {"float32": 0.0, "float16": 2**-20, "bfloat16": 0.0}  # name -> least scale to start


@register
class LSQ(Quantizer):
    """Quantize a tensor to ``bits`` bits with one learned scale, or one per group.

    x -> scale * clamp(round(x / scale), qmin, qmax), ties to even. Zeros stay exactly zero.

    Args:
        bits: 2 to 8. Four signed bits are the integers -8 to 7.
        signed: False for inputs that are never negative, such as those after ReLU.
        init: how ``calibrate`` finds the start value. "lsq": 2 mean|x| / sqrt(qmax); "max":
            max|x| / qmax, which clips nothing; "mse": the one of 80 fractions of that with the
            least squared error, the best start at 4 bits and below; see ``initial_scales``.
        grad_factor: multiply the scale's gradient by 1 / sqrt(elements * qmax), as LSQ does, so
            that under plain gradient descent it moves about as fast as the weights do. Adam divides
            such a factor away, but where the gradient of all parameters is clipped together, the
            scales fill the norm without it. False gives the plain sum, as QTC's code does.
        groups: see ``grid``; the elements in the gradient's factor are those of a group.
        scale_dtype: "float32", or "float16" or "bfloat16": in training the scale still learns in
            float32, but is used as that type rounds it (straight-through), so that the codes and
            values are those of the packed file, which then has 16 bits per scale. "float16" errs
            by at most 0.05 % from 6.1e-5 to 65504 and by more below; "bfloat16" by at most 0.4 %,
            with float32's range.

    The scale is NaN until ``calibrate`` has seen a tensor: a forgotten calibration shows up in the
    first loss, not in the last table, and ``report``, ``pack`` and the trainer refuse it by name.

    Source: Esser et al. 2020 (LSQ), equations 1 to 3; start value from section 2.1, gradient factor
    from section 2.2. The paper says step size where we say scale.

    Raises:
        ValueError: an unknown ``init`` or ``scale_dtype``; in ``calibrate``, a scale beyond the
            range of ``scale_dtype``, or below 2^-20 in float16, where rounding would move it by up
            to 3 % and soon to zero. A group of zeros may have any scale, and takes the least.

    >>> q = LSQ(bits=2).calibrate(torch.tensor([-1.0, 0.0, 1.0]))
    >>> (q(torch.tensor([-9.0, 0.1, 9.0])) / q.scale).tolist()
    [-2.0, 0.0, 1.0]
    """

    options = {"signed": True, "init": "lsq", "grad_factor": True, "scale_dtype": "float32"}

    def __init__(
        self,
        bits: int,
        signed: bool = True,
        init: str = "lsq",
        grad_factor: bool = True,
        groups: int = 1,
        scale_dtype: str = "float32",
    ) -> None:
        super().__init__(bits, groups)
        self.qmin, self.qmax = integer_range(bits, signed)
        parse_rule(init)
        if scale_dtype not in SCALE_DTYPES:
            raise ValueError(f"scale_dtype is one of {[*SCALE_DTYPES]}, got {scale_dtype!r}")
        self.scale_dtype = scale_dtype
        self.signed, self.init, self.grad_factor = signed, init, grad_factor
        self.scale = self.learned()

    def start(self, rows: Float[Tensor, "rows n"]) -> None:
        """Set the scales from the rows of a tensor."""
        self._set(start_scale(rows, self.init, self.bits, self.qmin, self.qmax), rows)

    def start_weighted(
        self, rows: Float[Tensor, "rows n"], weights: Float[Tensor, "rows n"]
    ) -> None:
        """Set the scales to those of least squared error, where errors count by ``weights``."""
        self._set(least_squares(rows, self.qmin, self.qmax, weights), rows)

    def _set(self, scales: Float[Tensor, " rows"], rows: Float[Tensor, "rows n"]) -> None:
        self._require_range(scales, rows)
        self.fill(self.scale, positive(scales.to(self.scale.dtype)))

    def _require_range(self, scales: Float[Tensor, " rows"], rows: Float[Tensor, "rows n"]) -> None:
        """Refuse scales that ``scale_dtype`` cannot hold; those of rows of zeros do not matter."""
        if (dtype := stored_in(self)) is None:
            return
        least, most = SCALE_DTYPES[self.scale_dtype], torch.finfo(dtype).max
        off = rows.any(1) & ((scales < least) | (scales > most))
        if off.any():
            raise ValueError(
                f"{self.scale_dtype} takes scales from {least:.1e} to {most:.1e}; {int(off.sum())} "
                f"of {len(off)} are outside, such as {float(scales[off][0]):.1e}; choose "
                "scale_dtype='bfloat16', which has the range of float32, or 'float32'"
            )

    def used_scale(self) -> Float[Tensor, "..."]:
        """Return the scale as ``scale_dtype`` holds it, in float32; gradients pass."""
        dtype = stored_in(self)
        return self.scale if dtype is None else scale_in(dtype, self.scale)

    def factor(self, x: Float[Tensor, "..."]) -> float:
        """Return what the gradient of the scale is multiplied by."""
        return 1 / sqrt(max(1, x.numel()) / self.groups * self.qmax) if self.grad_factor else 1.0

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        out = fake_quantize(self.rows(x), self.used_scale(), self.qmin, self.qmax, self.factor(x))
        return out.reshape(x.shape)

    def extra_repr(self) -> str:
        said = f", groups={self.groups}" if self.groups > 1 else ""
        said += f", scale_dtype={self.scale_dtype!r}" if stored_in(self) is not None else ""
        return f"bits={self.bits}, signed={self.signed}, init={self.init!r}{said}"


@register
class LSQPlus(LSQ):
    """LSQ with a learned offset as well: x -> scale * clamp(round((x - offset) / scale)) + offset.

    For tensors that are not centered, such as those after GELU. The offset's gradient is the sum of
    g outside the range. Zeros do NOT survive in general: 0 lies between two codes.

    Args:
        bits, grad_factor, groups: as in ``LSQ``; codes are signed.
        init: "max" (the paper's for activations: the whole range), "sigma" (for weights: three
            standard deviations, offset 0), "truncation" or "percentile".

    Scales and offsets stay in float32: there is no ``scale_dtype``.

    Source: spec sheet KDLSQ, 2.2. The offset's gradient takes the factor of the scale's.

    >>> q = LSQPlus(bits=2).calibrate(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    >>> q(torch.tensor([0.0, 2.2, 9.0])).tolist()
    [1.0, 2.0, 4.0]
    """

    options = {"init": "max", "grad_factor": True}

    def __init__(
        self, bits: int, init: str = "max", grad_factor: bool = True, groups: int = 1
    ) -> None:
        super().__init__(bits, True, init, grad_factor, groups)
        self.offset = self.learned()

    @property
    def zero_point(self) -> Float[Tensor, "..."]:
        """The code of 0.0, a real number."""
        return -self.offset.detach() / positive(self.scale.detach())

    def start(self, rows: Float[Tensor, "rows n"]) -> None:
        """Set scales and offsets from the rows of a tensor."""
        low, high = start_bounds(rows, self.init, self.bits)
        if self.init == "sigma":
            scale, offset = high / -self.qmin, high * 0
        else:
            scale = positive((high - low) / (2**self.bits - 1))
            offset = low - self.qmin * scale
        self.fill(self.scale, positive(scale))
        self.fill(self.offset, offset)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        out = fake_quantize(
            self.rows(x), self.scale, self.qmin, self.qmax, self.factor(x), self.offset
        )
        return out.reshape(x.shape)
