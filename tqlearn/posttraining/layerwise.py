"""A model layer by layer, each with the inputs that the layers before it give as they are now.

``walk`` gives one group of layers after the other and what is known of their inputs. What its user
does to a layer, the later ones see. Blocks that lie behind are not computed again: they answer with
what they gave, kept for one block at a time. So a walk costs a few passes, however deep the model.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..precision import widened
from ..quantizers.calibration import real, run_hooked
from ..sparsity.anatomy import transformer_layers
from .folds import matrix


class Moments:
    """What is remembered of the inputs x of a layer, as means over real positions, in float64.

    ``square`` is the mean of x^T x, (in, in), and ``size`` that of |x|, (in,). The mean, for a sum
    over many tokens would lose digits.
    """

    def __init__(self, width: int, device: torch.device | None = None) -> None:
        self.count = 0
        self.square = torch.zeros(width, width, dtype=torch.float64, device=device)
        self.size = torch.zeros(width, dtype=torch.float64, device=device)

    def add(self, x: Tensor) -> None:
        """Count in the rows of a batch of inputs."""
        x = widened(x.detach().flatten(0, -2))
        if not len(x):
            return
        self.count += len(x)
        share = len(x) / self.count
        self.square.add_((x.T @ x).double() / len(x) - self.square, alpha=share)
        self.size.add_(x.abs().mean(0).double() - self.size, alpha=share)

    def error(self, moved: Tensor) -> float:
        """Return the mean squared length of x D^T for a change D (out, in) of the weight."""
        moved = widened(moved)  # float64 where the weight is
        return float(((moved @ self.square.to(moved)) * moved).sum(dtype=torch.float64))


def walk(
    model: nn.Module, layers: dict[str, nn.Module], batches: list
) -> Iterator[tuple[list[str], Moments]]:
    """Yield (names of layers that share an input, its moments) in the order of the forward pass.

    Args:
        layers: name -> linear layer; all of them are reached.
        batches: what the model is called with; they are run again and again.

    The blocks of a Transformer that ``sparsity.ANATOMIES`` describes are computed once each, and
    parts of the present one once for every group in it. Any other model is run from its beginning
    for every group.

    Raises:
        ValueError: the first batch does not reach one of the layers, or no real token of any does;
            inputs that are not finite. Layers that were given before are as their user left them.
    """
    steps = _Steps(model, layers, batches)
    for names in steps.groups:
        steps.reach(names[0])
        yield names, steps.moments(names[0])


class _Enough(Exception):
    """Raised from a hook: what was to be seen has been seen."""


class _Steps:
    """The order of a model's layers and blocks, and the outputs of the last finished block."""

    def __init__(self, model: nn.Module, layers: dict[str, nn.Module], batches: list) -> None:
        self.model, self.layers, self.batches = model, layers, batches
        blocks = _blocks(model)
        self.groups, self.calls = self._order(blocks)
        once = all(self.calls.count(name) == 1 for name in blocks)
        self.blocks = blocks if once else {}  # ALBERT's are called again and again
        self.done: list[str] = []
        self.outputs: dict[str, list] = {}  # list of blocks -> what its last one gave, by batch

    def _order(self, blocks: dict[str, nn.Module]) -> tuple[list[list[str]], list[str]]:
        """Return the layers in groups of one input, and every call, as the first batch has them."""
        groups: list[tuple[Tensor | None, list[str]]] = []
        calls, names = [], {module: name for name, module in (blocks | self.layers).items()}

        def look(module: nn.Module, inputs: tuple) -> None:
            name = names[module]
            first = name in self.layers and name not in calls
            calls.append(name)
            if first and (not groups or inputs[0] is not groups[-1][0]):
                groups.append((inputs[0], []))
            if first:
                groups[-1][1].append(name)

        run_hooked(self.model, self.batches[:1], dict.fromkeys(names, look), [])
        if missing := set(self.layers) - set(calls):
            raise ValueError(
                f"no batch reached {len(missing)} layers, the first is {min(missing)!r}; leave "
                "them out of the plan, or give batches that use them"
            )
        return [group for _, group in groups], calls

    def reach(self, name: str) -> None:
        """Finish all blocks before a layer, one after the other."""
        before = self.calls[: self.calls.index(name)]
        for block in [b for b in before if b in self.blocks and not name.startswith(f"{b}.")]:
            if block not in self.done:
                found: list = []

                def keep(module: nn.Module, inputs: tuple, output: object, into=found) -> None:
                    into.append(output)
                    raise _Enough

                hook = self.blocks[block].register_forward_hook(keep)
                outputs = self.outputs.setdefault(_list_of(block), [None] * len(self.batches))
                try:
                    for number in range(len(outputs)):
                        self._run(number, {}, [])  # with the answer that is replaced now
                        outputs[number] = found.pop() if found else None
                finally:
                    hook.remove()
                self.done.append(block)

    def moments(self, name: str) -> Moments:
        """Return the moments of a layer's inputs over all batches."""
        layer, masks = self.layers[name], []
        alone = self.calls.count(name) == 1
        weight = matrix(layer)
        found = Moments(weight.shape[1], weight.device)

        def look(module: nn.Module, inputs: tuple) -> None:
            found.add(real(inputs[0], masks))
            if alone:
                raise _Enough

        for number in range(len(self.batches)):
            self._run(number, {layer: look}, masks)
        if not found.count:
            raise ValueError(f"no real token of the batches reached {name!r}; give it longer ones")
        if not torch.isfinite(found.square).all():
            raise ValueError(f"the inputs of {name!r} hold a NaN or infinity; look at the batches")
        return found

    def _run(self, number: int, looks: dict, masks: list[Tensor]) -> None:
        with self._answering(number):
            try:
                run_hooked(self.model, self.batches[number : number + 1], looks, masks)
            except _Enough:
                pass

    @contextmanager
    def _answering(self, number: int) -> Iterator[None]:
        """Let finished blocks answer with what the last of their list gave for a batch."""
        before = {name: vars(self.blocks[name]).get("forward") for name in self.done}
        for name in self.done:
            answer = self.outputs[_list_of(name)][number]
            self.blocks[name].forward = lambda *args, answer=answer, **more: _fresh(answer)
        try:
            yield
        finally:
            for name, forward in before.items():
                del self.blocks[name].forward
                if forward is not None:
                    self.blocks[name].forward = forward


def _fresh(answer: object) -> object:
    """Return what a block gave, as tensors that the next one may write into."""
    if isinstance(answer, Tensor):
        return answer.clone()
    if type(answer) in (tuple, list):
        return type(answer)(_fresh(part) for part in answer)
    return answer


def _list_of(block: str) -> str:
    return block.rpartition(".")[0]


def _blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Return the members of the lists that hold a Transformer's layers, {} for any other model."""
    try:
        names = [layer.name for layer in transformer_layers(model)]
    except ValueError:  # no anatomy that we know: the model is run from its beginning each time
        return {}
    modules, found = dict(model.named_modules()), {}
    for name in names:
        parts = name.split(".")
        fronts = [".".join(parts[:k]) for k in range(1, len(parts) + 1)]
        for front in fronts:
            if isinstance(modules.get(_list_of(front)), nn.ModuleList):
                found[front] = modules[front]
                break
    return found
