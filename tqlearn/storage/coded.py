"""A packed weight, decoded when somebody wants its numbers."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..deferred import Deferred


class Coded(Deferred):
    """A packed weight: decoded when its numbers are wanted, a table only where it is looked up.

    A write reaches the codes, as in ``Computed``.
    """

    _stage: torch.nn.Module
    _codes: Tensor
    _home: Callable[..., None]
    _whole: Tensor | None = None  # once somebody looks at it to write, as ``Computed`` has it

    @staticmethod
    def of(stage: torch.nn.Module, codes: Tensor, home: Callable[..., None]) -> Tensor:
        """Return the weight of a stage that has ``shape``, ``dtype`` and ``rows``."""
        new = Tensor._make_wrapper_subclass(
            Coded, stage.shape, dtype=stage.dtype, device=codes.device
        )
        new._stage, new._codes, new._home = stage, codes, home
        return new

    def numbers(self) -> Tensor:
        """Decode all."""
        return self._stage(self._codes) if self._whole is None else self._whole._whole

    def home(self, values: Tensor | None = None, learns: bool | None = None) -> None:
        """Take new values, or whether they shall learn, to the codes."""
        self._home(values, learns=learns)

    def shown(self) -> Tensor:
        """Return the same numbers to every reader, one of whom may write."""
        self._whole = super().shown() if self._whole is None else self._whole
        return self._whole

    def looked_up(
        self, ids: Tensor, max_norm: float | None = None, **options: object
    ) -> Tensor | None:
        """Decode these rows alone."""
        if max_norm is not None or self._whole is not None:  # written into: the codes are old
            return None
        return self._stage.rows(self._codes, ids)
