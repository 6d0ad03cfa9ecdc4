"""How many digits: half floats are widened where sums, norms and grids need more."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)


def widened(tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return half floats as float32, for sums, norms and grids need its digits and its range."""
    return tensor.float() if tensor.dtype in HALF else tensor


def is_finite(tensor: Float[Tensor, "..."]) -> bool:
    """Say whether no entry is NaN or infinite, without a second tensor of that size."""
    return not tensor.numel() or bool(torch.stack(tensor.detach().aminmax()).isfinite().all())


class Fine(nn.Module):
    """Base of what keeps its own floats at 32 bits when the model around it is cast to fewer.

    A scale or a clip that a cast has rounded would move every code of its tensor.
    """

    def _apply(self, fn, recurse: bool = True) -> nn.Module:
        def careful(tensor: Tensor) -> Tensor:
            new = fn(tensor)
            rounds = new.dtype in HALF and tensor.dtype not in HALF
            return tensor.to(new.device) if rounds else new

        return super()._apply(careful, recurse)
