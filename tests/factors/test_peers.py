"""Hand-over to tensorly, and the order of axes that it does not check (COURSE: a trap)."""

import pytest
import tensorly as tl
import torch
from tensorly.decomposition import tensor_train, tensor_train_matrix
from test_trains import golden
from torch.testing import assert_close

from tqlearn.factors.peers import from_tensorly, tensorly_axes, to_tensorly
from tqlearn.factors.trains import tt_dense, tt_svd, ttm_dense, ttm_svd

MODES = (2, 3, 4), (3, 3, 4)


@pytest.fixture(autouse=True)
def _torch_backend():
    with tl.backend_context("pytorch"):
        yield


def test_a_tensor_train_goes_there_and_back():
    w = golden().reshape(4, 6, 6, 6)
    cores, _ = tt_svd(w, (1, 3, 6, 4, 1))
    there = to_tensorly(cores)
    assert tuple(there.rank) == (1, 3, 6, 4, 1)
    assert_close(tl.tt_to_tensor(there), tt_dense(cores))
    assert all(a is b for a, b in zip(from_tensorly(there), cores, strict=True))
    theirs = from_tensorly(tensor_train(w, rank=[1, 3, 6, 4, 1]))
    assert_close(tt_dense(theirs), tt_dense(cores), atol=1e-10, rtol=0)


def test_a_tensor_train_matrix_goes_there_and_back():
    cores, _ = ttm_svd(golden(), *MODES, ranks=5)
    there = to_tensorly(cores)
    assert_close(there.to_matrix(), ttm_dense(cores))
    assert_close(ttm_dense(from_tensorly(there)), ttm_dense(cores))


def test_the_right_axes_give_our_matrix_and_the_paired_ones_another():
    w = golden()
    ranks, full = [1, 3, 4, 1], [1, 6, 16, 1]
    ours = ttm_dense(ttm_svd(w, *MODES, ranks)[0])
    right = tensor_train_matrix(tensorly_axes(w, *MODES), rank=list(ranks))
    assert_close(ttm_dense(from_tensorly(right)), ours, atol=1e-10, rtol=0)
    paired = tensorly_axes(w, *MODES).permute(0, 3, 1, 4, 2, 5)  # as papers write it
    for axes, error in ((tensorly_axes(w, *MODES), 0.0), (paired, 1.3)):
        found = tensor_train_matrix(axes, rank=list(full)).to_matrix()
        distance = (found.reshape(24, 36) - w).norm() / w.norm()
        assert float(distance) == pytest.approx(error, abs=0.3 if error else 1e-12)


def test_a_padded_table_keeps_its_rows():
    table = golden()[:22]
    there = tensor_train_matrix(tensorly_axes(table, (4, 6), (6, 6)), rank=[1, 36, 1])
    assert_close(ttm_dense(from_tensorly(there))[:22], table, atol=1e-12, rtol=0)


def test_refusals():
    with pytest.raises(ValueError, match=r"three axes each, .* got \[\(2, 2\)\]"):
        to_tensorly([torch.ones(2, 2)])
    with pytest.raises(TypeError, match="TTTensor or TTMatrix is needed, got list"):
        from_tensorly([torch.ones(1, 2, 1)])
    with pytest.raises(ValueError, match="columns must be equal, rows at least as many"):
        tensorly_axes(golden(), (4, 5), (6, 6))
