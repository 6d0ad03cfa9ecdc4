"""Tensor trains as tensorly's objects and back; tensorly itself is imported at the call.

A TT core is (rank, mode, rank) and a TT-matrix core (rank, row, column, rank) in both libraries, so
nothing is computed. What differs is the tensor that tensorly's ``tensor_train_matrix`` wants: all
row axes first, (i1, i2, i3, j1, j2, j3), where papers and our ``ttm_svd`` pair them, (i1, j1),
(i2, j2) and so on. In the paired order tensorly raises nothing and decomposes another matrix;
``tensorly_axes`` gives the right one.
"""

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from .trains import check_table_modes


def tensorly_axes(
    matrix: Float[Tensor, "rows cols"], row_modes: Sequence[int], col_modes: Sequence[int]
) -> Float[Tensor, "..."]:
    """Return a matrix as the tensor that tensorly's ``tensor_train_matrix`` expects.

    Rows are padded with zeros up to the product of ``row_modes``, as in ``ttm_svd``.

    Raises:
        ValueError: the modes do not fit the matrix.

    >>> tensorly_axes(torch.randn(24, 36), (4, 6), (9, 4)).shape
    torch.Size([4, 6, 9, 4])
    """
    check_table_modes(*matrix.shape, tuple(row_modes), tuple(col_modes))
    padded = torch.nn.functional.pad(matrix, (0, 0, 0, prod(row_modes) - len(matrix)))
    return padded.reshape(*row_modes, *col_modes)


def to_tensorly(cores: Sequence[Tensor]) -> object:
    """Return a ``TTTensor`` of three-way cores, or a ``TTMatrix`` of four-way ones.

    The cores are handed over, not copied; tensorly's functions need its "pytorch" backend for them.

    Raises:
        ValueError: cores of another or of mixed order.

    >>> import tensorly
    >>> from tqlearn.factors import tt_svd
    >>> with tensorly.backend_context("pytorch"):
    ...     to_tensorly(tt_svd(torch.randn(4, 6, 6), ranks=3)[0]).rank
    (1, 3, 3, 1)
    """
    from tensorly.tt_matrix import TTMatrix
    from tensorly.tt_tensor import TTTensor

    orders = {core.dim() for core in cores}
    if orders not in ({3}, {4}):
        raise ValueError(
            "tensor-train cores have three axes each, tensor-train-matrix cores four, got "
            f"{[tuple(core.shape) for core in cores]}"
        )
    return TTTensor(list(cores)) if orders == {3} else TTMatrix(list(cores))


def from_tensorly(train: object) -> list[Tensor]:
    """Return the cores of a ``TTTensor`` or ``TTMatrix`` as torch tensors, for ``set_cores``.

    ``tt_dense`` takes those of a ``TTTensor``, ``ttm_dense`` those of a ``TTMatrix``.

    Raises:
        TypeError: another object.
    """
    from tensorly.tt_matrix import TTMatrix
    from tensorly.tt_tensor import TTTensor

    if not isinstance(train, TTTensor | TTMatrix):
        raise TypeError(f"a tensorly TTTensor or TTMatrix is needed, got {type(train).__name__}")
    return [torch.as_tensor(core) for core in train.factors]
