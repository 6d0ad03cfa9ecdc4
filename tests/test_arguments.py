"""Arguments of a wrong kind: refused by name, before anything changes; numpy's are numbers."""

import json
from dataclasses import fields

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn

import tqlearn as tq
from tqlearn import arguments, data, teachers
from tqlearn.distill import LayerSchedule
from tqlearn.hf import DropoutSchedule, LayerByLayer
from tqlearn.hf.delayed import QuantizeFromStep, StopAfter

X = torch.linspace(-1, 1, 24).reshape(3, 8)
NAN, INF = float("nan"), float("inf")
EDITS = {
    tq.TT: {"rank": 2}, tq.TTM: {"rank": 2}, tq.LowRank: {"rank": 2}, tq.Kronecker: {"rank": 1},
    tq.LSQ: {"bits": 4}, tq.LSQPlus: {"bits": 4}, tq.LearnedClip: {"bits": 4}, tq.PACT: {"bits": 4},
    tq.SAWB: {"bits": 4}, tq.Ternary: {}, tq.Uniform: {"bits": 4}, tq.MinMax: {"bits": 4},
    tq.TwoFour: {}, tq.BlockPrune: {"block": (2, 2)},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _as_a_user_has_it(monkeypatch):
    """The types of annotations are checked in tests alone; here the library is on its own."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))


def with_inputs():
    return tq.compress(net(), {"0": [tq.LSQ(4), tq.Inputs(tq.LSQ(8))]})


ODD = [True, 1.5, "3", None, [2], (), np.int64(4), np.float32(0.5), -1, NAN, INF, 99,
       torch.tensor(4), {}]  # fmt: skip


OURS = "rank modes block scale order counts bits groups neighbors zero".split()


@pytest.mark.filterwarnings("ignore:.*can use, using:UserWarning")
@pytest.mark.parametrize("cls", EDITS, ids=lambda cls: cls.__name__)
def test_an_edit_takes_an_argument_or_says_what_it_wants(cls):
    """Every field with values of every kind: used, described as JSON, or refused in our words."""
    refused = 0
    for field in fields(cls):
        for value in ODD:
            given = {} if field.name in ("ratio", "error") else EDITS[cls]
            torch.manual_seed(0)
            layer = nn.Embedding(12, 8) if cls is tq.TTM else nn.Linear(8, 12)
            before = {name: t.clone() for name, t in layer.state_dict().items()}
            try:
                made = tq.calibrate(nn.Sequential(cls(**given | {field.name: value})(layer)))
                json.dumps(tq.describe(made))
            except (ValueError, TypeError) as error:
                refused += 1
                words, where = str(error), f"{cls.__name__}.{field.name} = {value!r}: {error!r}"
                assert type(error) in (ValueError, TypeError) and len(words) > 24, where
                ours = any(word in words for word in (field.name, cls.__name__, *OURS))
                assert ours and "object" not in words and "supported" not in words, where
                assert {name: t.shape for name, t in layer.state_dict().items()} == {
                    name: t.shape for name, t in before.items()}, where  # fmt: skip
    assert refused > 5 * len(fields(cls)), "most of these are no arguments"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tq.TT(rank=1.5), "TT: rank must be a whole number or a list of whole numbers or "
         "None, got 1.5$"),
        (lambda: tq.LowRank(rank=2.0), "LowRank: rank must be .*, got 2.0; write 2"),
        (lambda: tq.Kronecker(rank=True), "Kronecker: rank must be .*, got True$"),
        (lambda: tq.TT(rank="8"), "got '8'; write 8 without quotes"),
        (lambda: tq.TT(rank=torch.tensor(8)), r"got a tensor of \(\); call .item"),
        (lambda: tq.TT(ratio=NAN), "TT: ratio must be a finite number or None, got nan"),
        (lambda: tq.TT(4, out_modes=8), r"out_modes must be a list of .*; write \(8,\)"),
        (lambda: tq.TT(4, out_modes=(2.5, 4)), r"out_modes must be a list .* got \(2.5, 4\)"),
        (lambda: tq.LSQ(4, per=True), "per is 'tensor', 'channel' or .*, got True"),
        (lambda: tq.LSQ(4, grad_factor="no"), "LSQ: grad_factor must be True or False, got 'no'"),
        (lambda: tq.LSQ(True), "LSQ: bits must be a whole number, got True"),
        (lambda: tq.Uniform(4, momentum=NAN), "Uniform: momentum must be a finite number or None"),
        (lambda: tq.Ternary(limit=-1.0), "limit is a number above 0, got -1"),
        (lambda: tq.TwoFour(decay="a"), "TwoFour: decay must be a finite number, got 'a'"),
        (lambda: tq.TwoFour(3), "TwoFour: pattern must be a string, got 3"),
        (lambda: tq.SAWB(4, coefficients=(1.0,)), "SAWB: coefficients must be a list of numbers"),
        (lambda: tq.BlockPrune((2.0, None)), "block must be a list of whole numbers or None"),
        (lambda: tq.Inputs(tq.LSQ), "Inputs takes an edit that quantizes, such as PACT"),
        (lambda: tq.TT(4, order=10**6)(nn.Linear(4, 4)), "an order of 64 at most, got"),
        (lambda: tq.LowRank([2])(nn.Linear(4, 4)), r"LowRank takes one rank of at least 1"),
        (lambda: tq.Kronecker(1, (-2, -2))(nn.Linear(4, 4)), r"out_modes \(-2, -2\)"),
        (lambda: tq.factors.tt_svd(X, ranks=1.5), "ranks must be a whole number or"),
        (lambda: tq.factors.low_rank(X, rank=1.5), "rank must be a whole number, got"),
        (lambda: tq.factors.low_rank(X, error="1"), "error must be a finite number"),
        (lambda: tq.factors.low_rank(X.to("meta"), 1), r"\(3, 8\) is on meta; load"),
        (lambda: tq.shapes.factorize(12.0, 2), "a size must be a whole number, got 12.0; write 12"),
        (lambda: tq.quantizers.LSQ(4, groups=True), "groups must be a positive integer"),
        (lambda: tq.sparsity.nm_mask(torch.ones(4), 3), "a pattern must be a string, got 3"),
        (lambda: tq.block_plan(net(), block=3), r"block_plan: block must be .*; write \(3,\)"),
        (lambda: tq.register(3), "register takes a class, as @tqlearn.register above it, got 3"),
        (lambda: LayerSchedule(1.5, 3), "LayerSchedule: layers must be a whole number, got 1.5"),
        (lambda: LayerSchedule(1, 3, 0), "a stage has at least one step, got 0"),
        (lambda: LayerByLayer("3"), "LayerByLayer: layers must be .* write 3 without quotes"),
        (lambda: DropoutSchedule("a"), "DropoutSchedule: start must be a finite number, got 'a'"),
        (lambda: QuantizeFromStep(net(), NAN), "QuantizeFromStep: start must be a finite number"),
        (lambda: QuantizeFromStep(net(), watch=1.5), "watch must be a whole number, got 1.5"),
        (lambda: StopAfter(2.5), "StopAfter: step must be a whole number, got 2.5"),
        (lambda: data.load(["flights"]), r"data.load: name must be a string, got \['flights'\]"),
        (lambda: data.load("atis", "local", 5), "data.load: folder must be a string or PathLike"),
        (lambda: data.load("atis", "hub", revision=3), "data.load: revision must be a string or"),
        (lambda: data.labels(None), "labels come from what data.load returns, got a NoneType"),
        (lambda: teachers.load(None), "teachers.load: name must be a string or PathLike, got None"),
        (lambda: teachers.load("minilm", 5), "teachers.load: path must be a string or PathLike"),
    ],
)  # fmt: skip
def test_a_wrong_kind_is_named_with_the_way_out(make, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        make()
    assert type(caught.value) in (ValueError, TypeError)


def test_numbers_of_numpy_are_numbers_and_reach_the_layout_as_pythons():
    edit = tq.LSQ(np.int64(4), per=np.int32(2), grad_factor=np.bool_(False))
    assert (type(edit.bits), type(edit.per), edit.grad_factor) == (int, int, False)
    assert edit == tq.LSQ(4, per=2, grad_factor=False)
    assert tq.LowRank(ratio=np.float64(1.5)) == tq.LowRank(ratio=1.5)
    student = tq.compress(net(), {"0": [tq.TT(np.int64(2), out_modes=np.array([3, 4]))],
                                  "2": [edit]})  # fmt: skip
    layout = json.loads(json.dumps(tq.describe(student)))
    assert layout["modules"]["0"]["args"]["out_modes"] == [3, 4]
    q = tq.quantizers.LSQ(np.int64(4), groups=np.int64(2))
    assert q.config() == {"bits": 4, "groups": 2} and type(q.config()["bits"]) is int


@pytest.mark.parametrize("call", [tq.compress, tq.preview], ids=["compress", "preview"])
@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ([tq.LSQ(4)], r"a plan maps patterns .* such as \{'\*.query': .*; got a list"),
        (None, "a plan maps patterns of module names to lists of edits"),
        ("0", "a plan maps patterns .*; got a str"),
        ({"0": tq.Ternary()}, r"'0' needs a list of edits, got Ternary\(.*; write \[Ternary\("),
        ({"0": None}, r"'0' needs a list of edits, got None, and \[\] leaves a layer alone"),
        ({"0": "LSQ"}, "'0' needs a list of edits, got 'LSQ'"),
        ({"0": [tq.LSQ]}, r"plan pattern '0': LSQ is the class; write LSQ\(...\)"),
        ({"0": ["LSQ"]}, "plan pattern '0': 'LSQ' is no edit"),
        ({0: [tq.LSQ(4)]}, r"a pattern is a string, such as '\*.query', got 0"),
        ({"0": [lambda layer: None]}, "returned a NoneType for '0', not a module; let it return"),
        ({"0": [lambda layer: layer.weight]}, "returned a Parameter for '0', not a module"),
        ({"0": [tq.LSQ(4), lambda layer: None]}, "returned a NoneType for '0'"),
    ],
)
def test_what_is_no_plan_changes_nothing(call, plan, message):
    model = net()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(TypeError, match=message):
        call(model, plan)
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)


VERBS = [tq.pack, tq.unpack, tq.bake, tq.compact, tq.survey, tq.fill, tq.calibrate, tq.report,
         tq.describe, tq.block_plan, lambda m: tq.compress(m, {}), lambda m: tq.preview(m, {}),
         lambda m: tq.compensate(m, []), lambda m: tq.rebuild(m, {}), lambda m: tq.save(m, "x"),
         lambda m: tq.load(m, "x"), lambda m: tq.report(net(), m or 0)]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_no_model_is_refused(verb):
    for thing, words in [("bert", "got 'bert'; load it first"), (None, "got "), (3, "got 3"),
                         ((net(), 0), r"got a tuple; name the model in it, such as pair\[0\]"),
                         (nn.Linear, "got the class Linear; make one of it")]:  # fmt: skip
        with pytest.raises(TypeError, match=f"takes a (torch )?model, {words}"):
            verb(thing)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tq.compress(net(), {"0": [tq.LSQ(4)]}, inplace="no"), "inplace must be True or F"),
        (lambda: tq.pack(net(), keep_floats="no"), "keep_floats must be True or False, got 'no'"),
        (lambda: tq.bake(net(), dense=1), "dense must be True or False, got 1"),
        (lambda: tq.fill(net(), 1.5), "seed must be a whole number, got 1.5"),
        (lambda: tq.fill(net(), spread=-1), "a spread is at least 0, got -1"),
        (lambda: tq.fill(net(), spread=NAN), "spread must be a finite number, got nan"),
        (lambda: tq.compensate(net(), [], damping=NAN), "damping must be a finite number, got nan"),
        (lambda: tq.compensate(net(), [], damping=0), "damping is above 0"),
        (lambda: tq.compensate(net(), [], by_size="x"), "by_size must be True or False"),
        (lambda: tq.save(net(), None), "save: path must be a string or PathLike, got None"),
        (lambda: tq.load(net(), 3), "load: path must be a string or PathLike, got 3"),
        (lambda: tq.rebuild(net(), []), "a layout is what describe returns, got"),
        (lambda: tq.rebuild(net(), {"version": 1}), "a layout is what describe returns"),
        (lambda: tq.save(net().to("meta"), "x"), "save needs numbers, but 0.weight is on meta"),
        (lambda: tq.report(net().to("meta")), "report needs numbers, but 0"),
        (lambda: tq.pack(net().to("meta")), "pack needs numbers, but 0"),
        (lambda: tq.calibrate(net().to("meta")), "calibrate needs numbers, but 0"),
        *(
            (lambda edit=edit: tq.compress(net().to("meta"), {"0": [edit]}), "0: .* is on meta")
            for edit in (tq.TT(2), tq.Kronecker(1), tq.LowRank(2), tq.TT(error=0.5))
        ),
    ],
)  # fmt: skip
def test_verbs_refuse_what_they_cannot_use(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ({"input": X}, r"batches are several, and one dict came; write \[batch\]"),
        (X, r"batches are several, and one Tensor came; write \[batch\]"),
        ("x", "batches are a list of what the model is called with, got 'x'"),
        (3, "batches are a list .* got 3"),
        ([X, "x"], "batch 1 is a str; a batch is a dict"),
        ([X, None], "batch 1 is a NoneType"),
        ([X, X.to("meta")], r"batch 1 has a tensor of \(3, 8\) on meta, which holds no numbers"),
        ([X, (X.to("meta"),)], "batch 1 has a tensor .* on meta"),
        ([{"input": X.to("meta")}], "batch 0 has a tensor .* on meta"),
        (lambda: iter([X, X.to("meta")]), "batch 1 has a tensor .* on meta"),
        (lambda: iter([X, X * NAN]), "a scale needs finite values"),
        ([X, X.long()], "a scale starts from floats, got torch.int64"),
    ],
)
def test_batches_that_are_none_leave_every_scale_as_it_was(batches, message):
    """Not half calibrated: also where the bad batch comes last, from a generator."""
    student = tq.calibrate(with_inputs(), [X])
    before = {name: t.clone() for name, t in student.state_dict().items()}
    student[0].parametrizations.weight.original.data.mul_(3)
    before["0.parametrizations.weight.original"] *= 3
    with pytest.raises((TypeError, ValueError), match=message):
        tq.calibrate(student, batches() if callable(batches) else batches)
    after = student.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not student[0]._forward_hooks and student.training


def test_kinds_that_we_do_not_know_take_all_and_long_values_are_named_by_their_kind():
    assert arguments.require("x", [1], list) == [1]
    with pytest.raises(TypeError, match="x must be a finite number, got a dict$"):
        arguments.require("x", dict.fromkeys(range(99)), float)
    with pytest.raises(TypeError, match="x must be a string, got the function net"):
        arguments.require("x", net, str)
