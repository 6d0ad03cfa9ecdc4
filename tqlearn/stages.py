"""What may sit on a tensor of a layer, and how it comes and goes: masks, quantizers, packed codes.

A *stage* is a module that torch's ``parametrize`` keeps on a tensor; several form a chain, masks
first. ``factors``, ``quantizers`` and ``sparsity`` know each other only through this file, which
asks a stage what it can do and not of which class it is.
"""

from collections.abc import Sequence
from itertools import takewhile
from math import sqrt

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .deferred import Product, refuse_write
from .guarded import is_mask, is_quantizer, put
from .kinds import own_class, require_editable
from .precision import is_finite


def chain_of(module: nn.Module, name: str = "weight") -> list[nn.Module]:
    """Return the stages on a tensor of a module, first to last; none where it is plain."""
    chains = getattr(module, "parametrizations", {})
    return [*chains[name]] if name in chains else []


def weight_names(module: nn.Module) -> list[str]:
    """Return the names of a layer's own weights (cores included, biases and vectors not)."""
    chains = getattr(module, "parametrizations", {}).items()
    own = [*module.named_parameters(recurse=False)]
    own += [(name, chain.original) for name, chain in chains if chain.is_tensor]
    return [n for n, t in own if t.dim() > 1 and "bias" not in (n[:4], n[-4:])]


def weights_of(module: nn.Module, edit: str, use: str) -> list[str]:
    """Return ``weight_names`` for an edit.

    Raises:
        TypeError: the layer has no weight.
        ValueError: something else computes or changes its weight.
    """
    require_editable(edit, module)
    if names := weight_names(module):
        return names
    raise TypeError(
        f"{edit} found no weight to {use} on a {type(module).__name__}; leave it out of the plan, "
        "or call tqlearn.unpack(model) first if it is packed"
    )


def mask_of(module: nn.Module, name: str = "weight") -> Bool[Tensor, "..."] | None:
    """Return where the masks on a layer's weight leave it be (True); None if it has no mask.

    The numbers under the mask are ``module.parametrizations[name].original``; a quantizer that
    wants statistics of the kept ones, or of all, finds both here.

    >>> from tqlearn import TwoFour
    >>> layer = TwoFour()(nn.Linear(8, 2))
    >>> mask_of(layer).sum(1).tolist(), mask_of(nn.Linear(8, 2))
    ([4, 4], None)
    """
    chain, found = getattr(module, "parametrizations", {}), None
    if name in chain and chain[name].is_tensor:
        with torch.no_grad():
            x = chain[name].original
            for stage in takewhile(lambda stage: not is_quantizer(stage), chain[name]):
                if is_mask(stage):
                    mask = stage.mask_for(x)
                    found = mask if found is None else found & mask
                x = stage(x)
    return found


def attach(module: nn.Module, name: str, stage: nn.Module) -> None:
    """Put a stage (mask, quantizer) on one tensor of a module, behind those that it carries.

    Raises:
        ValueError: the tensor has a NaN or infinite entry.
    """
    chain = getattr(module, "parametrizations", {})
    original = chain[name].original if name in chain else getattr(module, name)
    if not original.is_meta and not is_finite(original):
        raise ValueError(
            f"{type(module).__name__}.{name} holds NaN or infinite entries; repair the model first"
        )
    stage = stage.to(original).train(module.training)
    put(module, name, stage if original.requires_grad else stage.requires_grad_(False))


def is_frozen(module: nn.Module, name: str) -> bool:
    """Say whether a tensor shall not learn; packed codes remember it of the numbers they were."""
    chains = getattr(module, "parametrizations", {})
    if name in chains and hasattr(chains[name][-1], "frozen"):
        return chains[name][-1].frozen
    return not (chains[name].original if name in chains else getattr(module, name)).requires_grad


@torch.no_grad()
def strip(module: nn.Module, name: str, values: Tensor | None = None) -> None:
    """Make the current value of a tensor that carries stages an ordinary parameter again.

    Args:
        values: the current value, where it is known; it is not copied.
    """
    values = getattr(module, name).detach().clone() if values is None else values.detach()
    learns = not is_frozen(module, name)
    parametrize.remove_parametrizations(own_class(module), name, leave_parametrized=False)
    delattr(module, name)
    module.register_parameter(name, nn.Parameter(values, requires_grad=learns))


class Cores(nn.Module):
    """Base of the factored layers: the weight is a product of ``core_0``, ``core_1`` and so on."""

    order: int
    dense_like: type[nn.Module] | None = None  # GPT-2's Conv1D, where one was in this place
    noted: tuple[str, ...] = ()  # names of what the model has put on the layer in this place

    @property
    def is_frozen(self) -> bool:
        """Say whether none of the cores shall learn."""
        return all(is_frozen(self, f"core_{k}") for k in range(self.order))

    @property
    def dense_shape(self) -> tuple[int, int]:
        """The shape of ``product()``: (out, in) of a linear layer, (words, width) of a table."""
        if hasattr(self, "num_embeddings"):
            return self.num_embeddings, self.embedding_dim
        return self.out_features, self.in_features

    @property
    def weight(self) -> Float[Tensor, "rows columns"]:
        """The dense weight, read only; for modules that ask for its type or multiply with it.

        Nothing is multiplied out before its numbers are needed, and nothing is stored or saved.
        """
        return Product.of(self)

    @weight.setter
    def weight(self, new: Tensor) -> None:
        refuse_write(self)

    @weight.deleter
    def weight(self) -> None:
        refuse_write(self)

    @property
    def left(self) -> list[str]:
        """The cores that every part of the product has one of: scaled, they scale the weight."""
        return ["core_0"]

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a core or a bias, as torch does; the weight is no parameter."""
        if name == "weight":
            refuse_write(self)
        super().register_parameter(name, param)

    def product(self) -> Float[Tensor, "rows columns"]:
        """Return the dense weight with the gradients of its cores."""
        raise NotImplementedError(f"{type(self).__name__} needs a product() of its cores")

    def _new_cores(self, shapes: Sequence[tuple[int, ...]], std: float) -> None:
        """Create random cores; the entries of their product get the standard deviation ``std``.

        Source: spec sheet QTC, section 3: N(0, 1) * std^(1/d) / sqrt(rank after); every entry is a
        sum over prod(ranks) paths with variance std^2 / prod(ranks) each.
        """
        self._random_cores(shapes, [std ** (1 / len(shapes)) / sqrt(s[-1]) for s in shapes])

    def _new_pairs(self, shapes: Sequence[tuple[int, ...]], rank: int, std: float) -> None:
        """Create random cores whose product is a sum over ``rank`` products of two entries."""
        self._random_cores(shapes, [(std / sqrt(rank)) ** 0.5] * len(shapes))

    def _random_cores(self, shapes: Sequence[tuple[int, ...]], stds: Sequence[float]) -> None:
        self.order = len(shapes)
        for k, (shape, std) in enumerate(zip(shapes, stds, strict=True)):
            core = torch.empty(shape)
            if not core.is_meta:  # a loading's skeleton; random numbers cost a millisecond there
                core = torch.randn(shape) * std
            self.register_parameter(f"core_{k}", nn.Parameter(core))

    @property
    def cores(self) -> list[Tensor]:
        """The cores as they enter the forward pass, quantized and masked where they are."""
        return [getattr(self, f"core_{k}") for k in range(self.order)]

    @torch.no_grad()
    def set_cores(self, cores: Sequence[Tensor]) -> None:
        """Copy values into the cores.

        Raises:
            ValueError: a core carries a mask or quantizer; its value is computed, not stored.
        """
        if parametrize.is_parametrized(self):
            raise ValueError(
                f"the cores {[*self.parametrizations]} carry masks or quantizers; set the values "
                "before they are attached, or call tqlearn.bake(model) first"
            )
        for mine, new in zip(self.cores, cores, strict=True):
            mine.copy_(new)
