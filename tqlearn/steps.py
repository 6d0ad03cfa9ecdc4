"""One update per training step, however often it reads the same thing; numbers that are away."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def at_hand(module: torch.nn.Module) -> Iterator[None]:
    """Bring a module's numbers from where ``accelerate`` keeps them, for whoever reads them without
    a call of the module: the hooks that bring them run at calls alone.
    """
    hook = getattr(module, "_hf_hook", None)
    if hook is None or not any(t.is_meta for t in (*module.parameters(), *module.buffers())):
        yield
        return
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)


def recomputing() -> bool:
    """Say whether this forward pass is one that gradient checkpointing repeats within backward.

    What follows batches has moved in the first one already: one update per step.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._current_graph_task_id() != -1  # as torch.utils.checkpoint itself asks


def count_reads(chain: torch.nn.Module) -> None:
    """Tell stages that run after their weight whether it is still what they have seen last."""
    if torch.compiler.is_compiling():
        return
    for stage in chain:
        if hasattr(type(stage), "read_before"):
            now = chain.original.data_ptr(), chain.original._version
            stage.read_before, stage._stamp = now == getattr(stage, "_stamp", None), now
