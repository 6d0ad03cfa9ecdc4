"""A layout that contradicts itself or its tensors is refused, with the name, before it is built."""

import copy
import json
import resource

import pytest
import torch
from torch import nn

import tqlearn as tq
from tqlearn.storage.checks import check
from tqlearn.storage.digests import Stored, seal
from tqlearn.storage.files import state_of
from tqlearn.storage.specs import parse


def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(24, 36), nn.GELU(), nn.Linear(36, 12)).eval()


PLANS = {
    "packed": {"0": [tq.TT(rank=5), tq.LSQ(4)], "2": [tq.TwoFour(), tq.LSQ(4, per="channel")]},
    "grid": {"0": [tq.PACT(4)], "2": [tq.LowRank(rank=3)]},
}


def made(plan="packed", pack=True):
    student = tq.calibrate(tq.compress(net(), PLANS[plan]))
    student = tq.pack(student) if pack else student
    stored = {name: Stored.of(tensor) for name, tensor in state_of(student)[0].items()}
    return json.loads(json.dumps(tq.describe(student))), stored


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("pack", [True, False])
def test_what_was_saved_passes(plan, pack):
    check(*made(plan, pack))


def args(layout, name="2", key="weight"):
    return layout["modules"][name]["parametrizations"][key][0]["args"]


FAULTS = {
    "bits as text": (lambda m: args(m).update(bits="4"), "bits of the PackedNM of '2.weight'"),
    "bits as a float": (lambda m: args(m).update(bits=4.0), "bits .* cannot be '4.0'"),
    "bits of another": (lambda m: args(m).update(bits=5), "codes of 5 bits .* LSQ makes 4 bits"),
    "qmin": (lambda m: args(m).update(qmin=0), "4 bits from 0, its LSQ makes 4 bits from -8"),
    "shape": (lambda m: args(m).update(shape=[36, 12]), "mask of '2.weight' is for another shape"),
    "shape without end": (lambda m: args(m).update(shape=[2] * 65), "shape .* cannot be"),
    "a class": (lambda m: args(m)["quantizer"].update({"class": "os.system"}), "os.system.*known"),
    "no quantizer": (
        lambda m: args(m)["quantizer"].update({"class": "RowMask", "args": {}}),
        "cannot be built as a PackedNM",
    ),
    "an argument": (lambda m: args(m).update(more=1), "cannot be built as a PackedNM"),
    "groups": (lambda m: args(m)["quantizer"]["args"].update(groups=7), "7 scales|0.scale"),
    "modes": (
        lambda m: m["modules"]["0"]["args"].update(in_modes=[4, 7]),
        "is for shape .5, 6, 4., the tensor has",
    ),
    "ranks": (lambda m: m["modules"]["0"]["args"].update(ranks=5), "it would write"),
    "a stage as a layer": (
        lambda m: m["modules"].update({"1": {"class": "NMMask", "args": {"shape": [2, 4]}}}),
        "stands on a tensor, the layout makes it the layer '1'",
    ),
    "a layer as a stage": (
        lambda m: m["modules"]["2"]["parametrizations"].update(bias=[m["modules"]["0"] | {}]),
        "needs a 'class' and its 'args'",
    ),
    "two stages": (
        lambda m: m["modules"]["2"]["parametrizations"]["weight"].append(
            {"class": "LSQ", "args": {"bits": 4}}
        ),
        "codes stand alone",
    ),
    "a place": (
        lambda m: m["modules"].update({"2.quant_input": {"class": "FadingReLU", "args": {}}}),
        "is the place of a quantizer",
    ),
    "tables": (
        lambda m: m["modules"].update(
            {"1": {"class": "Positions", "args": {"width": 2**15, "length": 2**15}}}
        ),
        "wants 4,294,967,296 bytes that no file holds",
    ),
    "nothing": (lambda m: m.update(modules={}), "holds 11 tensors of compressed layers that its"),
    "another key": (
        lambda m: m["modules"]["0"]["parametrizations"].update(core_9=[m["modules"]["0"]]),
        "has no tensor 'core_9'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_layout(fault):
    layout, stored = made()
    edit, words = FAULTS[fault]
    edit(layout)
    with pytest.raises(ValueError, match=words):
        check(layout, stored)


TENSORS = {
    "lost": (lambda t: t.pop("2.parametrizations.weight.0.places"), "lacks 1 tensors .*places"),
    "left over": (
        lambda t: t.update({"2.parametrizations.bias.original": Stored("F32", (12,), bytes(48))}),
        "holds 1 tensors .* does not name, .*bias.original",
    ),
    "none": (lambda t: t.clear(), "the file has no '0.bias'"),
    "a type": (
        lambda t: t.update(
            {"2.parametrizations.weight.original": Stored("I8", (108,), bytes(108))}
        ),
        "original' is of type I8, the layout needs U8",
    ),
    "a negative scale": (
        lambda t: t.update(
            {"2.parametrizations.weight.0.scale": Stored.of(torch.full((12, 1), -1.0))}
        ),
        "a scale that is no positive number",
    ),
}


@pytest.mark.parametrize("fault", TENSORS)
def test_faults_of_tensors(fault):
    layout, stored = made()
    edit, words = TENSORS[fault]
    edit(stored)
    with pytest.raises(ValueError, match=words):
        check(layout, stored)


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "[" * 10**5, '{"version": 1}', '{"version": 1, "modules": []}',
     '{"version": NaN}', '{"version": 1, "version": 1, "modules": {}}', None, 3,
     '{"version": 1, "modules": {"0": {}}}', '{"version": 1, "modules": {}, "untied": [1]}',
     '{"version": 1, "modules": {"0": {"parametrizations": {"weight": []}}}}',
     '{"version": true, "modules": {}}'],
)  # fmt: skip
def test_texts_that_are_no_layout(text):
    with pytest.raises(ValueError, match="layout|lists of stages"):
        parse(text, "config.json")


def write(path, layout, model):
    """A file whose digests fit a layout that is wrong."""
    from safetensors.torch import save_file

    state, text = state_of(model)[0], json.dumps(layout)
    line = seal({name: Stored.of(t) for name, t in state.items()}, text + "{}")
    save_file(state, path, metadata={"format": "pt", "tqlearn": text, "tqlearn.digests": line})
    return path


def test_a_small_file_takes_little_memory(tmp_path):
    """Gigabytes that a layout asks for are never allocated."""
    model = tq.pack(tq.calibrate(tq.compress(net(), PLANS["packed"])))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for edit in (
        lambda m: m["modules"]["0"]["args"].update(out_modes=[2**15, 2**15]),
        lambda m: args(m).update(shape=[2**20, 2**20]),
        lambda m: m["modules"].update({"1": {"class": "NoNorm", "args": {"width": 2**31}}}),
        lambda m: m["modules"].update(
            {"1": {"class": "Linear", "args": {"in_features": 2**16, "out_features": 2**16,
                                               "bias": False}}}),
    ):  # fmt: skip
        layout = copy.deepcopy(tq.describe(model))
        edit(layout)
        with pytest.raises(ValueError, match="shape|lacks|has no|bytes|scales"):
            tq.load(net(), write(tmp_path / "m.safetensors", layout, model))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_file_of_another_model_changes_nothing(tmp_path):
    model = tq.pack(tq.calibrate(tq.compress(net(), PLANS["packed"])))
    path = tq.save(model, tmp_path / "m.safetensors")
    other = nn.Sequential(nn.Linear(24, 36), nn.GELU(), nn.Linear(36, 14))
    kinds = [type(module) for module in other.modules()]
    with pytest.raises(
        ValueError, match="does not fit this Sequential: .*'2.weight'.*another model"
    ):
        tq.load(other, path)
    assert [type(module) for module in other.modules()] == kinds


def test_places_outside_of_their_group():
    """Three bits for one of six places: 6 and 7 are none."""
    layer = nn.Sequential(nn.Linear(12, 4))
    model = tq.pack(tq.calibrate(tq.compress(layer, {"0": [tq.TwoFour("3:6"), tq.LSQ(4)]})))
    stored = {name: Stored.of(tensor) for name, tensor in state_of(model)[0].items()}
    layout = json.loads(json.dumps(tq.describe(model)))
    check(layout, stored)
    name = "0.parametrizations.weight.0.places"
    stored[name] = Stored("U8", stored[name].shape, b"\xff" * len(stored[name].data))
    with pytest.raises(ValueError, match="places' keeps number 7 of a group of 6"):
        check(layout, stored)
