"""The verbs hold one model and little more: what they are about to replace is not copied."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import tqlearn as tq
from tqlearn.storage.codes import CHUNK

WIDTH = 1024  # a weight of 2^20 numbers, four chunks


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that was made, views left out."""

    def __init__(self, model):
        super().__init__()
        self.numel = 0
        self.known = {t.untyped_storage().data_ptr() for t in model.state_dict().values()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for new in found if isinstance(found, tuple | list) else [found]:
            if isinstance(new, torch.Tensor):
                if new.untyped_storage().data_ptr() not in self.known:
                    self.numel = max(self.numel, new.numel())
        return found


def student():
    model = nn.Sequential(nn.Embedding(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False))
    return tq.calibrate(tq.compress(model, {"*": [tq.LSQ(bits=4)]}, inplace=True))


@pytest.mark.parametrize("verb", [tq.pack, tq.report])
def test_packing_makes_codes_and_small_parts(verb):
    model = student()
    with Largest(model) as made:
        verb(model)
    assert CHUNK <= made.numel <= max(2 * CHUNK, WIDTH**2 // 2)  # half a byte a number


def test_compressing_in_place_copies_no_weight():
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH))
    weights = [layer.weight for layer in model]
    with Largest(model) as made:
        tq.compress(model, {"*": [tq.LSQ(bits=4)]}, inplace=True)
    assert made.numel < WIDTH
    assert all(layer.parametrizations.weight.original is weight
               for layer, weight in zip(model, weights, strict=True))  # fmt: skip


def test_a_student_shares_nothing_with_its_teacher():
    teacher = nn.Sequential(nn.Linear(24, 24), nn.Linear(24, 24), nn.Linear(24, 24))
    plan = {"0": [tq.LSQ(bits=4)], "1": [tq.LowRank(rank=2)]}
    models = [teacher, student := tq.calibrate(tq.compress(teacher, plan))]
    models += [tq.pack(student), tq.bake(student), tq.bake(student, dense=True)]
    storages = [{t.data_ptr() for t in model.state_dict().values()} for model in models]
    for k, mine in enumerate(storages):
        assert not any(mine & other for other in storages[:k])


def test_a_plan_that_is_refused_leaves_the_model_in_place_alone():
    model = nn.Sequential(nn.Linear(24, 24), nn.Linear(24, 24))
    before, state = [*model], copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="rank"):
        tq.compress(model, {"0": [tq.LSQ(bits=4)], "1": [tq.TT(rank=0)]}, inplace=True)
    assert [*model] == before and type(model[0]) is nn.Linear
    assert all(torch.equal(state[name], t) for name, t in model.state_dict().items())
