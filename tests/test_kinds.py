"""What a plan finds, what stands in an edit's way, and what an edit must not lose."""

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.utils.prune as prune
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.testing import assert_close

import tqlearn as tq

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")


class Conv1D(nn.Module):
    """GPT-2's, as transformers has it."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


class Experts(nn.Module):
    def __init__(self, transposed=False):
        super().__init__()
        self.num_experts, self.is_transposed = 3, transposed
        self.up = nn.Parameter(torch.randn(3, 8, 12) if transposed else torch.randn(3, 12, 8))
        self.up_bias = nn.Parameter(torch.zeros(3, 12))

    def forward(self, x):
        up = self.up if self.is_transposed else self.up.mT
        return (x @ up + self.up_bias[:, None]).sum(0)


class Net(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


X = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore:1 matrices .* 'layer.up_bias'")
@pytest.mark.parametrize("layer", [lambda: Conv1D(12, 8), Experts, lambda: Experts(True)])
def test_masks_and_quantizers_on_other_modules(layer):
    torch.manual_seed(3)
    model = Net(layer())
    student = tq.calibrate(tq.compress(model, {"*": [tq.TwoFour(), tq.LSQ(8, per="channel")]}))
    (name,) = student.layer.parametrizations
    weight = getattr(student.layer, name)
    axis = -1 if name == "up" and not model.layer.is_transposed else -2
    groups = (weight != 0).movedim(axis, -1).unflatten(-1, (-1, 4)).sum(-1)
    assert (groups == 2).all()  # along the input
    packed = tq.pack(student)
    assert torch.equal(packed(X), student(X))
    again = tq.rebuild(Net(layer()), tq.describe(packed))
    again.load_state_dict(packed.state_dict())
    assert torch.equal(again(X), student(X))
    assert type(tq.bake(packed).layer) is type(model.layer)


@pytest.mark.parametrize("edit", [tq.TT(rank=99), tq.LowRank(rank=8), tq.Kronecker(rank=99)])
def test_structures_of_a_conv1d(edit, tmp_path):
    torch.manual_seed(3)
    model = Net(Conv1D(8, 8))  # square: a transpose that is forgotten shows in the numbers alone
    with pytest.warns(UserWarning) if isinstance(edit, tq.Kronecker) else nullcontext():
        student = tq.compress(model, {"layer": [edit]})
    assert_close(student(X), model(X), atol=1e-4, rtol=1e-4)
    assert_close(X @ student.layer.weight + student.layer.bias, model(X), atol=1e-4, rtol=1e-4)
    again = tq.load(Net(Conv1D(8, 8)), tq.save(student, tmp_path / "x.safetensors"))
    for net in (student, again):
        dense = tq.bake(net, dense=True)
        assert type(dense.layer) is Conv1D
        assert_close(dense(X), model(X), atol=1e-4, rtol=1e-4)


def test_attention_in_one_matrix():
    torch.manual_seed(3)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), 1).eval()
    student = tq.calibrate(tq.compress(model, {"*": [tq.TwoFour(), tq.LSQ(8)]})).eval()
    x, attention = torch.randn(2, 3, 16), student.layers[0].self_attn
    assert list(attention.parametrizations) == ["in_proj_weight"]
    assert list(attention.out_proj.parametrizations) == ["weight"]
    plain = tq.bake(student)
    with torch.no_grad():  # with a fast path of torch's, and without
        assert_close(student(x), plain(x), atol=1e-5, rtol=1e-5)
    assert_close(student(x), plain(x), atol=1e-5, rtol=1e-5)
    with pytest.raises(TypeError, match="query alone"):
        tq.compress(model, {"*self_attn": [tq.Inputs(tq.LSQ(8))]})


class Raw(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(16, 8))
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(x) @ self.table.T


def test_what_stays_is_listed_and_said_once():
    model = nn.Sequential(Raw())
    shown = tq.preview(model, {"*": [tq.LSQ(4)]})
    assert shown.left == {"0.table": 16 * 8 * 4} and "stays as it is: 0.table" in str(shown)
    words = r"1 matrices under .* 64.0% of the model's bytes, the largest is '0.table'"
    with pytest.warns(UserWarning, match=words) as said:
        tq.compress(model, {"*": [tq.LSQ(4)]})
    assert len(said) == 1
    named = tq.calibrate(tq.compress(model, {"0": [tq.LSQ(4)], "*": [tq.LSQ(4)]}))
    assert torch.equal(tq.pack(named)(X), named(X)) and len(named[0].table.unique()) <= 16
    tq.compress(model, {"*linear": [tq.LSQ(4)]})  # not under the pattern: nothing to say


def test_matrices_beside_the_weights_of_a_layer_are_listed():
    """Such as the biases of fused experts, one row each."""
    model = Net(Experts())
    assert [*tq.preview(model, {"*": [tq.LSQ(4)]}).left] == ["layer.up_bias"]
    with pytest.warns(UserWarning, match="1 matrices .*'layer.up_bias'"):
        tq.compress(model, {"*": [tq.LSQ(4)]})
    assert not tq.preview(model, {"*": [tq.TwoFour(only=("up",))]}).left  # as it was asked for
    assert not tq.preview(model, {"*": [lambda layer: layer]}).left


def test_a_refusal_says_which_layer():
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 6)))
    for verb in (tq.preview, tq.compress):
        with pytest.raises(ValueError, match="^1.0: TwoFour.* needs a width divisible by 16"):
            verb(model, {"0": [], "*": [tq.TwoFour("4:16")]})
        with pytest.raises(TypeError, match="^0: TTM takes an nn.Embedding"):
            verb(model, {"*": [tq.TTM(rank=2, order=2)]})


HOOKED = {
    "L1Unstructured": (lambda m: prune.l1_unstructured(m, "weight", 0.5), r"prune.remove\(layer"),
    "WeightNorm": (weight_norm, "remove_weight_norm"),
    "SpectralNorm": (spectral_norm, "remove_spectral_norm"),
}


@pytest.mark.parametrize("kind", HOOKED)
@pytest.mark.parametrize("edit", [tq.LSQ(4), tq.TwoFour(), tq.TT(rank=2)])
def test_a_weight_that_a_hook_computes_is_refused(kind, edit):
    hook, way = HOOKED[kind]
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    hook(model[0])
    model(X)
    for plan in ({"0": [edit]}, {"1": [edit]}):  # torch could not copy the model either
        with pytest.raises(ValueError, match=f"0 has a {kind} hook.*{way}"):
            tq.compress(model, plan)
    with pytest.raises(ValueError, match=way):
        tq.pack(model)


@pytest.mark.parametrize("edit", [tq.LSQ(4), tq.TwoFour(pad=True)])
def test_a_weight_normed_convolution_is_refused_with_words(edit):
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv1d(8, 8, 3)))
    with pytest.raises(ValueError, match=r"computed by WeightNorm.*remove_parametrizations"):
        tq.compress(model, {"0": [edit]})


def test_recurrent_layers_are_refused():
    with pytest.raises(ValueError, match="LSTM keeps its weights in a list of its own"):
        tq.compress(Net(nn.LSTM(8, 8)), {"layer": [tq.LSQ(4)]})


class Same(nn.Linear):
    def forward(self, x):  # as Falcon's
        return x @ self.weight.T + self.bias


class Loud(nn.Embedding):
    def __init__(self, *args, scale):
        super().__init__(*args)
        self.scale = scale

    def forward(self, ids):
        return super().forward(ids) * self.scale


class Offset(nn.Embedding):
    def forward(self, ids):  # as OPT's positions
        return super().forward((ids + 2).clamp_max(self.num_embeddings - 1))

    def first(self):  # as ProphetNet's, which has a second way in
        return super().forward(torch.tensor(0))


class Gained(nn.Embedding):
    def __init__(self, *args):
        super().__init__(*args)
        self.gain = nn.Parameter(torch.ones(8))

    def forward(self, ids):
        return super().forward(ids) * self.gain


@pytest.mark.parametrize("verb", [tq.compress, tq.preview])
def test_subclasses_are_tried(verb):
    verb(nn.Sequential(Same(8, 8)), {"0": [tq.TT(rank=4)]})
    with pytest.raises(TypeError, match="has a forward of its own, which gives something else"):
        verb(nn.Sequential(Gained(9, 8)), {"0": [tq.TTM(rank=4, order=2)]})
    for layer, edit in ((nn.Linear(8, 8), tq.TT(rank=4)), (nn.Embedding(9, 8), tq.Kronecker(1))):
        layer.forward = lambda x: x
        with pytest.raises(TypeError, match="has a forward of its own"):
            verb(nn.Sequential(layer), {"0": [edit]})


@pytest.mark.parametrize("edits", [[tq.TTM(rank=99, order=2)], [tq.Kronecker(9), tq.LSQ(8)]])
@pytest.mark.parametrize("table", [lambda: Loud(9, 8, scale=2.0), lambda: Offset(9, 8)])
@pytest.mark.filterwarnings("ignore:.*rank")
def test_a_factored_table_keeps_the_forward_of_a_subclass(table, edits, tmp_path):
    ids = torch.tensor([[0, 3], [4, 6]])
    model = nn.Sequential(table())
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    student = tq.calibrate(tq.compress(model, {"*": edits}))
    assert_close(student(ids), model(ids), atol=0.3, rtol=0.05)  # 8 bits; rows of two are wide
    assert len(calls) == 2 and type(student[0].around).__name__ == type(model[0]).__name__
    student(ids).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in student.parameters())
    assert [*tq.compress(student, {"0": []}).state_dict()] == [*student.state_dict()]
    small = tq.pack(student)
    again = tq.load(nn.Sequential(table()), tq.save(small, tmp_path / "x.safetensors"))
    assert torch.equal(again(ids), small(ids)) and torch.equal(small(ids), student(ids))
    plain = tq.bake(again, dense=True)
    assert type(plain[0]) is type(model[0]) and [*plain.state_dict()] == ["0.weight"]
    assert_close(plain(ids), again(ids))
    assert plain[0].weight.requires_grad
    if isinstance(model[0], Offset):
        assert_close(student[0].first(), student[0].look_up(torch.tensor(0)))
        with pytest.raises(AttributeError, match="second"):
            student[0].second()
    moved = student.to(torch.float64)(ids)  # the copies are apart
    assert moved.dtype == torch.float64 and again(ids).dtype == torch.float32


@pytest.mark.parametrize("edit", [tq.LSQ(4), tq.TTM(rank=4, order=2), tq.TwoFour()])
@pytest.mark.parametrize("option", [{"max_norm": 1.0}, {"sparse": True}])
def test_options_of_a_table_that_would_vanish(edit, option):
    with pytest.raises(
        ValueError, match=f"would lose what the table is asked for, .*{[*option][0]}"
    ):
        tq.compress(nn.Sequential(nn.Embedding(9, 8, **option)), {"0": [edit]})


@pytest.mark.parametrize(
    "edit", [tq.TTM(rank=4, order=2), tq.TTM(rank=4, order=1), tq.Kronecker(1)]
)
def test_padding_teaches_a_factored_table_nothing(edit):
    table = edit(nn.Embedding(9, 8, padding_idx=2))
    table(torch.tensor([2, 2])).sum().backward()
    assert not any(core.grad.any() for core in table.cores)
    both = torch.autograd.grad(table(torch.tensor([2, 5])).sum(), table.cores)
    alone = torch.autograd.grad(table(torch.tensor([5])).sum(), table.cores)
    assert all(torch.equal(a, b) and a.any() for a, b in zip(both, alone, strict=True))


@pytest.mark.parametrize("edit", [tq.TTM(rank=4, order=2), tq.Kronecker(1)])
def test_a_model_may_write_into_what_a_factored_table_gives(edit):
    """As BLIP's text decoder does, in training too."""
    table = edit(nn.Embedding(9, 8, padding_idx=2))
    ids = torch.tensor([2, 5])
    rows = table(ids)
    with torch.no_grad():
        want = table.product()[ids] * 2
    rows *= 2
    assert_close(rows, want)
    rows[0] += 1
    rows.sum().backward()
    assert all(core.grad.any() for core in table.cores)


@pytest.mark.parametrize("edit", [tq.TT(rank=4), tq.LowRank(rank=2), tq.LSQ(4)])
def test_forward_hooks_are_carried_over(edit):
    model, seen = nn.Sequential(nn.Linear(8, 8)), []
    model[0].register_forward_hook(lambda module, inputs, out: seen.append(type(module).__name__))
    model[0].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0,))
    student = tq.calibrate(tq.compress(model, {"0": [edit]}))
    assert_close(student(X), student[0].bias.expand(5, 8))
    assert len(seen) == 1


@pytest.mark.parametrize("edit", [tq.TT(rank=4), tq.LowRank(rank=2), tq.Kronecker(1), tq.LSQ(4)])
def test_what_a_model_has_put_on_a_layer_goes_all_the_way(edit, tmp_path):
    """Hooks, notes and lists beside the tree of modules: compressed, baked dense, loaded."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.first.number = 7
            self.first.register_forward_hook(lambda *_: None)
            self.beside, self.table = [self.first], {"words": (self.first,)}

        def forward(self, x):
            return self.beside[0](x) + self.table["words"][0](x)

    torch.manual_seed(0)
    student = tq.calibrate(tq.compress(Model(), {"first": [edit]})).eval()
    tq.save(student, tmp_path / "net.safetensors")
    loaded = tq.load(Model(), tmp_path / "net.safetensors").eval()
    x = torch.randn(3, 8)
    for model in (student, tq.bake(student, dense=True), loaded):
        assert_close(model(x), 2 * student.first(x))
        assert model.beside[0] is model.first is model.table["words"][0]
        assert model.first.number == 7 and len(model.first._forward_hooks) == 1
    plain = tq.bake(student, dense=True).first
    assert type(plain) is nn.Linear and set(vars(plain)) == set(vars(Model().first))


def test_quantized_inputs_before_a_structure_are_refused():
    with pytest.raises(ValueError, match="put TT first in the plan"):
        tq.compress(nn.Sequential(nn.Linear(8, 8)), {"0": [tq.Inputs(tq.LSQ(8)), tq.TT(rank=2)]})


@pytest.mark.parametrize(
    "edits",
    [[tq.LSQ(4)], [tq.Uniform(8)], [tq.PACT(4)], [tq.TwoFour(), tq.SAWB(4)], [tq.TT(rank=4)],
     [tq.LowRank(rank=2), tq.LSQ(4)], [tq.BlockPrune((4, 4))]],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_frozen_stays_frozen(edits, frozen, tmp_path):
    model = nn.Sequential(nn.Linear(8, 8))
    getattr(model[0], frozen).requires_grad_(False)
    student = tq.calibrate(tq.compress(model, {"0": edits}))
    packed = tq.pack(student)
    loaded = tq.load(copy.deepcopy(model), tq.save(packed, tmp_path / "x.safetensors"))
    for net in (student, tq.unpack(packed), tq.unpack(loaded), tq.bake(packed, dense=True)):
        learns = {name: p.requires_grad for name, p in net.named_parameters()}
        weights = [on for name, on in learns.items() if "bias" not in name]
        biases = [on for name, on in learns.items() if "bias" in name]
        assert weights and all(on == (frozen != "weight") for on in weights), learns
        assert biases and all(on == (frozen != "bias") for on in biases), learns


def test_a_pruned_conv1d_is_one_again_once_it_is_baked_dense():
    net = nn.Sequential(Conv1D(12, 8))
    student = tq.compress(net, {"0": [tq.BlockPrune((4, 4))]})
    plain, x = tq.bake(student, dense=True), torch.randn(3, 8)
    assert type(plain[0]) is Conv1D and plain[0].weight.shape == net[0].weight.shape
    assert_close(plain(x), student(x))
