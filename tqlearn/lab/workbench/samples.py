"""Some of what really enters every layer, and how many rows of it."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ...kinds import is_conv1d
from ...quantizers.calibration import real, run_hooked
from ...stages import Cores

SAMPLE, PICTURES = 128, 4  # rows, and pictures of a convolution
ONE = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, Cores)  # take one tensor


def sampled(model: nn.Module, batches: Iterable) -> Mapping[str, Tensor]:
    """Return some of what enters every layer that takes one tensor: ``SAMPLE`` rows, ``PICTURES``
    of a convolution, padding left out.
    """
    found: dict[str, list[Tensor]] = {}
    names = {m: n for n, m in model.named_modules() if isinstance(m, ONE) or is_conv1d(m)}
    masks: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple) -> None:
        if not inputs:  # called by keyword
            return
        kept, x = found.setdefault(names[module], []), inputs[0].detach()
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            most = PICTURES
        else:
            table = isinstance(module, nn.Embedding) or hasattr(module, "num_embeddings")
            most, x = SAMPLE, x.flatten() if table else real(x, masks).reshape(-1, x.shape[-1])
        if (left := most - sum(map(len, kept))) > 0:
            kept.append(x[:left].clone())

    run_hooked(model, batches, dict.fromkeys(names, look), masks)
    return {name: torch.cat(kept) for name, kept in found.items() if kept}
