"""One weight in two places: compressed once, trained by both, packed once, loaded tied."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import tqlearn as tq


class Tied(nn.Module):
    """A table of words whose output layer shares it."""

    def __init__(self, bias=True):
        super().__init__()
        torch.manual_seed(3)
        self.words, self.decoder = nn.Embedding(32, 8), nn.Linear(8, 32, bias=bias)
        self.decoder.weight = self.words.weight

    def forward(self, ids):
        return self.decoder(self.words(ids).tanh())


IDS = torch.tensor([[0, 5, 31], [7, 7, 2]])
EDITS = [
    [tq.LSQ(4)],
    [tq.SAWB(4, per="channel")],
    [tq.Uniform(8)],
    [tq.TwoFour()],
    [tq.TwoFour(), tq.LSQ(8)],
    [tq.TTM(rank=6, order=2)],
    [tq.Kronecker(rank=2)],
    [tq.Kronecker(rank=2), tq.LSQ(8)],
]


def student(edits, plan=None):
    return tq.calibrate(tq.compress(Tied(), plan or {"words": edits}))


@pytest.mark.parametrize("edits", EDITS, ids=repr)
def test_both_places_see_the_same_numbers(edits):
    model = student(edits).eval()
    table = tq.bake(copy.deepcopy(model), dense=True).words.weight
    assert_close(model.words(IDS), table[IDS], atol=1e-6, rtol=1e-5)
    assert_close(model(IDS), table[IDS].tanh() @ table.T + model.decoder.bias, atol=1e-5, rtol=1e-5)
    assert "decoder.weight" not in model.state_dict()


@pytest.mark.parametrize("edits", EDITS, ids=repr)
def test_both_places_train_it(edits):
    model = student(edits)
    parameters = {n: p for n, p in model.words.named_parameters() if p.requires_grad}

    def gradients(words, decoder):
        model.zero_grad()
        hidden = model.words(IDS).tanh()
        hidden = hidden if words else hidden.detach()
        weight = model.decoder.weight if decoder else model.decoder.weight.detach()
        (nn.functional.linear(hidden, weight, model.decoder.bias) ** 2).sum().backward()
        return {n: p.grad for n, p in parameters.items()}

    one, two = (copy.deepcopy(gradients(*on)) for on in ((True, False), (False, True)))
    model.zero_grad()
    model(IDS).square().sum().backward()
    for name, p in parameters.items():
        assert_close(p.grad, one[name] + two[name], atol=1e-4, rtol=1e-4)
        assert one[name].any() and two[name].any()


@pytest.mark.parametrize("edits", EDITS, ids=repr)
def test_packed_once_and_loaded_tied(edits, tmp_path):
    model = student(edits).eval()
    packed = tq.pack(model)
    assert torch.equal(packed(IDS), model(IDS))
    path = tq.save(packed, tmp_path / "tied.safetensors")
    again = tq.load(Tied(), path).eval()
    assert torch.equal(again(IDS), model(IDS)) and "decoder.weight" not in again.state_dict()
    assert torch.equal(tq.unpack(again)(IDS), model(IDS))
    report = tq.report(packed)
    alone = tq.report(tq.pack(tq.calibrate(tq.compress(nn.Sequential(Tied().words), {"0": edits}))))
    assert report.nominal == alone.nominal + 32 * 4  # the bias


@pytest.mark.parametrize("edits", EDITS, ids=repr)
def test_bake_gives_two_plain_layers_that_share(edits):
    model = student(edits).eval()
    dense = tq.bake(model, dense=True)
    assert type(dense.decoder) is nn.Linear and dense.decoder.weight is dense.words.weight
    assert_close(dense(IDS), model(IDS), atol=1e-5, rtol=1e-5)


def test_any_of_the_names_will_do():
    wanted = student([tq.LSQ(4)])(IDS)
    for plan in ({"decoder": [tq.LSQ(4)]}, {"*": [tq.LSQ(4)]}):
        assert torch.equal(student([], plan)(IDS), wanted)
    assert len(tq.preview(Tied(), {"*": [tq.LSQ(4)]}).rows) == 1


class OutFirst(Tied):
    """The output layer stands before the table, as in XLMRobertaForMaskedLM."""

    def __init__(self):
        super().__init__()
        self.words = self._modules.pop("words")


@pytest.mark.parametrize("edits", EDITS, ids=repr)
@pytest.mark.parametrize("place", ["words", "decoder", "*"])
def test_the_table_owns_the_weight_wherever_it_stands(edits, place, tmp_path):
    assert [name for name, _ in OutFirst().named_children()] == ["decoder", "words"]
    small = tq.pack(tq.calibrate(tq.compress(OutFirst(), {place: edits})))
    assert [*tq.describe(small)["modules"]][0].startswith("words")
    again = tq.load(OutFirst(), tq.save(small, tmp_path / "x.safetensors"))
    assert torch.equal(again(IDS), small(IDS))
    assert_close(again(IDS), student(edits)(IDS))


@pytest.mark.parametrize("other", [[], [tq.LSQ(8)], [tq.TwoFour()]], ids=repr)
def test_different_edits_of_one_weight_are_refused(other):
    with pytest.raises(ValueError, match="words and decoder share one weight, which the"):
        tq.compress(Tied(), {"words": [tq.LSQ(4)], "decoder": other})


def test_a_structure_of_the_output_layer_alone_is_refused():
    with pytest.raises(TypeError, match="TT takes an nn.Linear, got Embedding"):
        tq.compress(Tied(), {"decoder": [tq.TT(rank=2)]})


def test_compressed_again_and_in_place():
    first = tq.compress(Tied(), {"words": [tq.TwoFour()]}, inplace=True)
    second = tq.calibrate(tq.compress(first, {"decoder": [tq.LSQ(8)]}))
    assert_close(second.decoder.weight, second.words.weight)
    assert len(second.words.parametrizations.weight) == 2
    assert len(first.words.parametrizations.weight) == 1 and first(IDS).isfinite().all()


def test_a_module_in_two_places_is_replaced_in_both():
    shared = nn.Linear(8, 8)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    new = tq.compress(model, {"0": [tq.TT(rank=2)]})
    assert new[0] is new[2] and type(new[0]).__name__ == "TTLinear"
    again = tq.rebuild(copy.deepcopy(model), tq.describe(new))
    assert again[0] is again[2] and type(again[0]).__name__ == "TTLinear"


def test_a_tied_bias_stays_tied():
    model = Tied()
    model.bias = model.decoder.bias
    new = tq.compress(model, {"*": [tq.LSQ(4)]})
    assert new.bias is new.decoder.bias
    untied = copy.deepcopy(model)
    untied.decoder.weight = nn.Parameter(model.words.weight.detach().clone())
    new = tq.compress(untied, {"decoder": [tq.TT(rank=2)]})
    assert new.bias is new.decoder.bias and type(new.decoder).__name__ == "TTLinear"


def test_many_shared_tensors_in_one_file(tmp_path):
    """A header of safetensors has no order, and the digest of a layout counts what is shared."""

    def twins():
        torch.manual_seed(0)
        net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(6)))
        return nn.Sequential(net, net)

    student = tq.pack(tq.calibrate(tq.compress(twins(), {"*": [tq.LSQ(4)]})))
    tq.save(student, tmp_path / "net.safetensors")
    loaded, x = tq.load(twins(), tmp_path / "net.safetensors"), torch.randn(3, 4)
    assert torch.equal(loaded(x), student(x)) and loaded[0] is loaded[1]
