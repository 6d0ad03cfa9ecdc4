"""A packed weight, decoded when somebody wants its numbers."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..computed import VIEWS, Computed, Deferred, plain_numbers, writes


class Coded(Deferred):
    """A packed weight: decoded when its numbers are wanted, a table only where it is looked up.

    A write reaches the codes, as in ``Computed``.
    """

    _stage: torch.nn.Module
    _codes: Tensor
    _home: Callable[[Tensor], None]
    _whole: Tensor | None = None  # once somebody looks at it to write, as ``Computed`` has it

    @staticmethod
    def of(stage: torch.nn.Module, codes: Tensor, home: Callable[[Tensor], None]) -> Tensor:
        """Return the weight of a stage that has ``shape``, ``dtype`` and ``rows``."""
        new = Tensor._make_wrapper_subclass(
            Coded, stage.shape, dtype=stage.dtype, device=codes.device
        )
        new._stage, new._codes, new._home = stage, codes, home
        return new

    def numbers(self) -> Tensor:
        """Decode all."""
        return self._stage(self._codes) if self._whole is None else Tensor.detach(self._whole)

    def looked_up(
        self, ids: Tensor, max_norm: float | None = None, **options: object
    ) -> Tensor | None:
        """Decode these rows alone."""
        if max_norm is not None or self._whole is not None:  # written into: the codes are old
            return None
        return self._stage.rows(self._codes, ids)

    @classmethod
    def _other(cls, func: Callable, args: tuple, kwargs: dict) -> object:
        if func in OWN and isinstance(args[0], Coded):
            w = args[0]
            w._whole = Computed.of(w.numbers(), w._home) if w._whole is None else w._whole
            return OWN[func](w._whole, *tree_map(plain_numbers, args[1:]), **kwargs)
        return super()._other(func, args, kwargs)


OWN = {
    getattr(Tensor, name): getattr(Computed, name)
    for name in (*filter(writes, dir(Tensor)), *VIEWS)
}
for _name in ("data", "T", "mT"):
    OWN[getattr(Tensor, _name).__get__] = getattr(Computed, _name).fget
OWN[Tensor.data.__set__] = Computed.data.fset
