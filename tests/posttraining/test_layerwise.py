"""Layer by layer: the same numbers as whole passes give, in less time, in memory for one block."""

import weakref

import pytest
import torch
from small_models import batches, inputs_of, logits, made
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import tqlearn as tq
from tqlearn.posttraining import Moments, layerwise, walk

PLANS = {
    "bert": {"*.encoder.*": [tq.LSQ(3, per="channel")]},
    "albert": {"*albert_layers.*": [tq.LSQ(3)]},
    "llama": {"*.layers.*": [tq.LSQ(3, per=16)]},
    "gpt2": {"*.h.*": [tq.LSQ(3, per=16)]},  # Conv1D
    "t5": {"*relative*": [], "*.block.1.*": [tq.LSQ(3, per="channel")]},
}


def student_of(name, **more):
    return tq.calibrate(tq.compress(made(name, **more), PLANS[name]))


def linears(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}


@pytest.mark.parametrize("name", PLANS)
def test_finished_blocks_answer_as_whole_passes_would(name, monkeypatch):
    students = student_of(name), student_of(name)
    given = batches(students[0])
    found = tq.compensate(students[0], given)
    monkeypatch.setattr(layerwise, "_blocks", lambda model: {})
    assert tq.compensate(students[1], given) == found
    states = [student.state_dict() for student in students]
    assert all(torch.equal(one, states[1][key]) for key, one in states[0].items())
    for batch in given:
        assert torch.equal(*(logits(student, batch) for student in students))


def test_moments_are_means_over_real_positions():
    model = made("llama", num_hidden_layers=1)
    given, name = batches(model, 3), "model.layers.0.self_attn.k_proj"
    x = inputs_of(model, name, given).double()
    ((names, moments),) = walk(model, {name: model.get_submodule(name)}, given)
    assert names == [name] and moments.count == len(x) == 54
    torch.testing.assert_close(moments.square, x.T @ x / len(x), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(moments.size, x.abs().mean(0), rtol=1e-5, atol=1e-8)
    moved = torch.randn(16, 32).double()
    expected = float((x @ moved.T).square().sum(1).mean())
    assert moments.error(moved) == pytest.approx(expected, rel=1e-5)


def test_groups_come_in_the_order_of_the_forward_pass():
    model = made("t5")
    names = [names for names, _ in walk(model, linears(model), batches(model, 1))]
    front = [[n.split(".SelfAttention.")[-1] for n in group] for group in names[:2]]
    assert front == [["q", "k", "v"], ["o"]]
    order = [n.split(".")[0] for group in names for n in group]
    assert order == sorted(order, key=["encoder", "decoder", "lm_head"].index)
    assert names[-1] == ["lm_head"] and sum(map(len, names)) == 2 * (6 + 10) + 1


@pytest.mark.parametrize("depth", [2, 6])
def test_the_cost_is_a_few_passes_however_deep_the_model(depth):
    model = made("llama", num_hidden_layers=depth)
    given, calls = batches(model, 2), []
    norm = model.model.layers[0].input_layernorm
    hooks = [layer.input_layernorm.register_forward_pre_hook(lambda *_: calls.append(1))
             for layer in model.model.layers]  # fmt: skip
    groups = [names for names, _ in walk(model, linears(model), given)]
    for hook in hooks:
        hook.remove()
    assert len(groups) == 4 * depth + 1 and norm is model.model.layers[0].input_layernorm
    # one batch to learn the order; then a block begins once for each group in it and once to end
    assert len(calls) == depth + len(given) * depth * (4 + 1)


class Alive(TorchDispatchMode):
    """Bytes of the tensors that were made and are still there: now and at most."""

    def __init__(self, model):
        super().__init__()
        self.bytes, self.peak, self.live, self.held = 0, 0, {}, []
        self.known = {t.untyped_storage().data_ptr() for t in model.state_dict().values()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for new in found if isinstance(found, tuple | list) else [found]:
            if isinstance(new, torch.Tensor):
                storage = new.untyped_storage()
                place, size = storage.data_ptr(), storage.nbytes()
                if place in self.known:
                    continue
                if place not in self.live:
                    self.live[place] = [size, 0]
                    self.bytes += size
                self.live[place][1] += 1
                self.held.append(weakref.ref(new, lambda _, place=place: self.free(place)))
        self.peak = max(self.peak, self.bytes)
        return found

    def free(self, place):
        self.live[place][1] -= 1
        if not self.live[place][1]:
            self.bytes -= self.live.pop(place)[0]


def test_memory_is_that_of_one_block_however_deep_the_model():
    peaks = []
    for depth in (2, 4):
        model = made("llama", num_hidden_layers=depth)
        given = batches(model, 12)
        with Alive(model) as alive:
            for _ in walk(model, linears(model), given):
                pass
        peaks.append(alive.peak)
    outputs = 12 * 3 * 9 * 32 * 4  # of one block, all batches
    hessian = 48 * 48 * 8
    assert outputs < peaks[0] < 2 * outputs + 6 * hessian, peaks
    assert peaks[1] < peaks[0] + outputs / 2


def test_the_model_is_as_it_was_also_after_an_error():
    model = made("llama")
    given = batches(model)
    wanted, own = logits(model, given[0]), model.model.layers[0].forward
    model.model.layers[0].forward = lambda *args, **more: own(*args, **more)
    planted = vars(model.model.layers[0])["forward"]
    model.train()
    with pytest.raises(RuntimeError, match="in the middle"):
        for names, _ in walk(model, linears(model), given):
            assert model.training
            if "layers.1" in names[0]:
                raise RuntimeError("in the middle")
    assert vars(model.model.layers[0])["forward"] is planted
    assert "forward" not in vars(model.model.layers[1])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(logits(model, given[0]), wanted)


def test_dead_inputs_and_whole_batches_of_padding():
    moments = Moments(4)
    moments.add(torch.zeros(0, 4))
    assert moments.count == 0 and moments.error(torch.ones(2, 4)) == 0
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    net[0].weight.data.zero_()
    net[0].bias.data.fill_(-1.0)  # the second layer gets nothing but zeros
    student = tq.calibrate(tq.compress(net, {"2": [tq.LSQ(4)]}))
    assert tq.compensate(student, [torch.randn(3, 4)]) == {"2": (0.0, 0.0)}
    assert torch.isfinite(student[2].weight).all()
