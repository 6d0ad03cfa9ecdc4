"""The workbench: every number it shows is one that the library gives for the printed plan."""

import json
import re
import sys
import time
from html import unescape
from itertools import product
from pathlib import Path
from threading import Barrier, current_thread

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

import tqlearn as tq
import tqlearn.lab
from tqlearn.factors.svd import truncated_svd
from tqlearn.lab import plots
from tqlearn.lab.workbench import Bench, Row, code, distance, plan_of, workbench
from tqlearn.lab.workbench.dials import Dials
from tqlearn.lab.workbench.distances import PIECE, apart
from tqlearn.lab.workbench.errors import KEPT, Errors
from tqlearn.lab.workbench.opening import opened
from tqlearn.lab.workbench.positions import dials, near
from tqlearn.lab.workbench.samples import SAMPLE
from tqlearn.lab.workbench.spectra import Spectrum, digest
from tqlearn.lab.workbench.tables import COST, LOSS, kilo, tint
from tqlearn.lab.workbench.threads import Room, both
from tqlearn.lab.workbench.worker import Worker

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
GPT2 = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 100}
IDS = torch.arange(16).reshape(2, 8)
MODELS = {
    "bert": lambda: BertForMaskedLM(BertConfig(vocab_size=100, max_position_embeddings=16, **TINY)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(vocab_size=100, num_key_value_heads=1, **TINY)),
    "tied": lambda: LlamaForCausalLM(LlamaConfig(vocab_size=100, tie_word_embeddings=True, **TINY)),
    "vit": lambda: ViTForImageClassification(ViTConfig(image_size=16, patch_size=4, **TINY)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(vocab_size=100, **T5)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
}
BATCHES = {
    "vit": {"pixel_values": torch.linspace(-1, 1, 1536).reshape(2, 3, 16, 16)},
    "t5": {"input_ids": IDS, "decoder_input_ids": IDS},
}
ROWS = {  # of each two and more, a 2:4 row, quantized inputs, an error, a ratio, every structure
    "bert": [
        Row("*.query", structure="LowRank", amount=8, quantizer="LSQ"),
        Row("*.intermediate.dense", nm="2:4", quantizer="SAWB", inputs=8),
        Row("*.output.dense", structure="LowRank", by="error", amount=0.5),
        Row("*word_embeddings", structure="TTM", amount=4),
    ],
    "llama": [
        Row("*.q_proj", structure="TT", amount=4, quantizer="LSQ"),
        Row("*.mlp.*", nm="2:4"),
        Row("*embed_tokens", quantizer="LSQ", bits=8, per="channel"),
    ],
    "tied": [Row("*embed_tokens", quantizer="LSQ", bits=8), Row("*.mlp.*", nm="1:4")],
    "vit": [
        Row("*q_proj", structure="Kronecker", by="ratio", amount=4),
        Row("*fc1", quantizer="Uniform", bits=8, inputs=8, inputs_by="LSQ"),
        Row("*", quantizer="LSQ", per=4),
    ],
    "t5": [
        Row("*.q", structure="LowRank", by="ratio", amount=1.8),
        Row("*.wi", quantizer="LearnedClip", bits=3, per=16),
        Row("*.o", block=(16, 16), nm=None),
    ],
    "gpt2": [
        Row("*.c_attn", structure="LowRank", amount=4, quantizer="LSQ"),
        Row("*.c_fc", nm="2:4", quantizer="LSQ"),
        Row("*.c_proj", structure="LowRank", amount=5),
    ],
}


@pytest.fixture(params=MODELS)
def kind(request):
    return request.param


def made(kind):
    torch.manual_seed(0)
    return MODELS[kind]().eval()


def batches(kind):
    return [BATCHES.get(kind, {"input_ids": IDS})]


def executed(bench):
    """What the printed lines leave behind."""
    names = {"model": bench.model, "batches": bench.batches}
    exec(bench.code(), names)
    return names


@pytest.mark.filterwarnings("ignore:.*matrices under the plan's patterns stay:UserWarning")
def test_the_printed_plan_gives_the_shown_numbers(kind):
    bench = Bench(made(kind), batches(kind))
    bench.rows = ROWS[kind]
    shown, run = bench.wait(), executed(bench)
    assert run["plan"] == bench.plan and shown.whole and not shown.refused
    student = run["student"]
    assert shown.sizes == tq.report(student, reference=bench.model)  # every row, every byte
    told = tq.preview(bench.model, bench.plan)
    assert (shown.preview.rows, shown.preview.left) == (told.rows, told.left)
    assert len(shown.weights) == len(told.rows)
    for name, error in shown.weights.items():
        real = distance(bench.model.get_submodule(name), student.get_submodule(name))
        assert error == pytest.approx(real, abs=1e-4), name
    assert set(shown.outputs) == set(shown.weights)
    assert any(error > 0.01 for error in shown.outputs.values())


def test_outputs_are_those_of_the_layers_on_what_enters_them():
    bench = Bench(made("bert"), batches("bert"))
    bench.rows = ROWS["bert"]
    shown, student = bench.wait(), bench.student()
    inputs = {}
    for name in shown.outputs:
        look = lambda m, args, name=name: inputs.setdefault(name, args[0])  # noqa: E731
        bench.model.get_submodule(name).register_forward_pre_hook(look)
    bench.model(**bench.batches[0])
    with torch.no_grad():
        for name, error in shown.outputs.items():
            if "intermediate" in name:  # its inputs are quantized, with ranges of their own
                continue
            old = bench.model.get_submodule(name)(inputs[name])
            off = student.get_submodule(name)(inputs[name]) - old
            assert error == pytest.approx(float(off.norm() / old.norm()), abs=1e-4), name


def test_padding_and_the_rest_of_many_rows_are_no_sample():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(4, 4)

        def forward(self, x, attention_mask=None):
            return self.out(x)

    x, mask = torch.randn(8, 100, 4), torch.ones(8, 100, dtype=torch.long)
    mask[0, 1:] = 0
    seen = Bench(Head(), [{"x": x, "attention_mask": mask}]).errors.seen["out"]
    assert torch.equal(seen, torch.cat([x[0, :1], x[1:].flatten(0, 1)])[:SAMPLE])


def test_a_spectrum_is_the_decomposition_at_every_rank():
    for shape in ((24, 10), (10, 24), (10, 10)):
        w = torch.randn(*shape)
        found = Spectrum.of(w)
        for rank in (1, 4, 9, 10, 99):
            u, s, v, dropped = truncated_svd(w, rank)
            left, right = found.pair(w, rank)
            torch.testing.assert_close(left @ right, u * s @ v, rtol=1e-4, atol=1e-5)
            root = s.sqrt()
            torch.testing.assert_close(left.norm(dim=0), root, rtol=1e-4, atol=1e-5)
            assert found.error(rank) == pytest.approx(float(dropped / w.norm()), abs=1e-6)
    assert found.rank(0.5) == tq.LowRank(error=0.5).rank_of_error(_linear(w))
    flat = Spectrum.of(torch.zeros(3, 5))
    assert (
        flat.error(1) == 0
        and not torch.cat([x.flatten() for x in flat.pair(torch.zeros(3, 5), 2)]).any()
    )


def _linear(weight):
    linear = nn.Linear(*weight.shape[::-1])
    linear.weight.data.copy_(weight)
    return linear


def test_decompositions_lie_on_disk_by_the_digest_of_their_weight(tmp_path, monkeypatch):
    net = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 8))
    rows = [Row("*", structure="LowRank", amount=3)]
    first = Bench(net, cache=tmp_path / "kept")
    first.rows = rows
    errors = first.wait().weights
    while first.step():
        pass
    first.errors.save()
    files = sorted(file.name for file in (tmp_path / "kept").iterdir())
    assert files == sorted(
        [KEPT, *(f"{digest({'weight': layer.weight})}.safetensors" for layer in net)]
    )

    with monkeypatch.context() as patched:  # nothing is decomposed any more, at another rank either
        patched.setattr(Spectrum, "of", None)
        again = Bench(net, cache=tmp_path / "kept")
        again.rows = rows
        assert again.wait().weights == errors
        again.rows = [Row("*", structure="LowRank", amount=2, quantizer="LSQ")]
        assert again.wait().mean > max(errors.values())
    net[0].weight.data[0, 0] += 1  # another weight is another file
    changed = Bench(net, cache=tmp_path / "kept")
    changed.rows = rows
    assert (
        changed.wait().weights["0"] != errors["0"] and changed.answer().weights["1"] == errors["1"]
    )


def test_a_basis_stays_in_its_file_and_is_made_anew_without_it(tmp_path):
    net = nn.Sequential(nn.Linear(12, 8))
    bench = Bench(net, cache=tmp_path)
    found = bench.errors.spectrum("0")
    assert found.basis is None and found.place.parent == tmp_path, "not in memory, too"
    left, right = found.pair(net[0].weight, 5)
    u, s, v, _ = truncated_svd(net[0].weight.detach(), 5)
    torch.testing.assert_close(left @ right, u * s @ v, rtol=1e-4, atol=1e-5)
    for damage in (lambda file: file.write_bytes(b"cut"), lambda file: file.unlink()):
        damage(found.place)
        assert all(map(torch.equal, found.pair(net[0].weight, 5), (left, right)))


def test_other_bits_find_the_pair_of_the_rank(monkeypatch):
    net = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 12))
    pair, made = Spectrum.pair, []
    monkeypatch.setattr(
        Spectrum, "pair", lambda self, w, rank: made.append(rank) or pair(self, w, rank)
    )
    bench = Bench(net)
    for rank, bits, pairs in ((3, 4, 2), (3, 2, 0), (2, 2, 2), (3, 5, 2)):
        made.clear()
        bench.rows = [Row("*", structure="LowRank", amount=rank, quantizer="LSQ", bits=bits)]
        shown = bench.wait()
        assert len(made) == pairs, (rank, bits)
        student = bench.student()
        for name, error in shown.weights.items():
            layers = (m.get_submodule(name) for m in (net, student))
            assert abs(distance(*layers) - error) < 1e-6
    monkeypatch.setattr("tqlearn.lab.workbench.errors.PAIRS", 0)
    bench = Bench(net)
    bench.rows = [Row("*", structure="LowRank", amount=3, quantizer="LSQ", bits=4)]
    assert bench.wait().whole and not bench.errors.pairs, "no room"


@pytest.mark.parametrize("damage", [b"", b"not a file", None])
def test_a_damaged_cache_is_made_anew(tmp_path, damage):
    net = nn.Sequential(nn.Linear(12, 8))
    rows = [Row("*", structure="LowRank", amount=3)]
    found = []
    for _ in range(2):
        bench = Bench(net, cache=tmp_path)
        bench.rows = rows
        found.append(bench.wait().weights)
        bench.errors.save()
        for file in tmp_path.iterdir():
            content = file.read_bytes()
            file.write_bytes(content[: len(content) // 2] if damage is None else damage)
    assert found[0] == found[1] and found[0]["0"] > 0


def test_a_disk_that_takes_nothing_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    bench = Bench(nn.Sequential(nn.Linear(12, 8)), cache=tmp_path / "file")
    bench.rows = [Row("*", structure="LowRank", amount=3)]
    assert bench.wait().whole
    bench.errors.save()
    assert "not kept on disk" in bench.errors.shelf.trouble
    assert (tmp_path / "file").read_text() == "in the way"


def test_what_a_weight_becomes_is_computed_once(monkeypatch):
    """By calibration; its errors of weights and outputs are those of these values."""
    calls = []
    forward = tq.quantizers.LSQ.forward
    look = lambda self, x: calls.append(x.shape) or forward(self, x)  # noqa: E731
    monkeypatch.setattr(tq.quantizers.LSQ, "forward", look)
    bench = Bench(nn.Sequential(nn.Linear(8, 8)), [torch.randn(4, 8)])
    bench.rows = [Row("0", nm="2:4", quantizer="LSQ")]
    shown = bench.wait()
    assert len(calls) == 1
    student, dense, x = bench.student()[0], bench.model[0], bench.batches[0]
    with torch.no_grad():
        off = (student.weight - dense.weight).norm() / dense.weight.norm()
        assert shown.weights["0"] == pytest.approx(float(off), abs=1e-6)
        off = (student(x) - dense(x)).norm() / dense(x).norm()
        assert shown.outputs["0"] == pytest.approx(float(off), abs=1e-6)


def test_two_layers_are_found_at_a_time_and_none_twice(monkeypatch):
    both, found, find = Barrier(2, timeout=30), [], Errors.find

    def look(self, name, edits):
        both.wait()  # for a second layer that is being found meanwhile
        found.append(name)
        return find(self, name, edits)

    rows = [Row("*", nm="2:4", quantizer="LSQ")]
    net = nn.Sequential(*(nn.Linear(8, 8) for _ in range(6)))
    alone = Bench(net)
    alone.rows = rows
    while alone.step(idle=False):
        pass
    monkeypatch.setattr(Errors, "find", look)
    bench = Bench(net)
    bench.rows = rows
    assert bench.wait().weights == alone.answer().weights and bench.answer().whole
    assert sorted(found) == ["0", "1", "2", "3", "4", "5"]


def test_one_thread_tells_the_news(monkeypatch):
    """It draws, and nobody may draw meanwhile."""
    monkeypatch.setattr("tqlearn.lab.workbench.worker.OFTEN", 0)
    finders, tellers, find = set(), set(), Errors.find

    def look(self, name, edits):
        finders.add(current_thread())
        time.sleep(0.001)  # a moment for the other thread
        return find(self, name, edits)

    monkeypatch.setattr(Errors, "find", look)
    bench = Bench(nn.Sequential(*(nn.Linear(8, 8) for _ in range(20))))
    worker = Worker(bench, lambda: tellers.add(current_thread()))
    worker.wake()
    worker.rest()
    assert worker.failed is None and len(finders) > 1 and len(tellers) == 1


def test_a_large_layer_waits_until_there_is_room(monkeypatch):
    monkeypatch.setattr("tqlearn.lab.workbench.threads.SMALL", 100)
    room, held, most = Room(80), [], []
    sizes = iter([80, 60, 80, 50, 50, 20, 20] * 5)

    def step():
        if (size := next(sizes, None)) is None:
            return False
        with room.hold(size):
            held.append(size)
            most.append(sum(held))
            time.sleep(0.001)  # a moment for the other thread
            held.remove(size)
        return True

    both(step)
    assert (room.most, room.held) == (100, 0) and 80 < max(most) <= 100
    with room.hold(1000):  # more than all the room, alone
        assert room.held == 1000


def test_what_fails_in_one_thread_is_raised_and_ends_the_other(monkeypatch):
    bench = Bench(nn.Sequential(*(nn.Linear(8, 8) for _ in range(50))))
    monkeypatch.setattr(Errors, "find", lambda self, name, edits: {}[name])
    with pytest.raises(KeyError):
        bench.wait()
    assert len(bench.missing) >= 48


def test_a_move_of_the_inputs_finds_outputs_alone_and_calls_a_layer_once(
    monkeypatch,
):
    bench = Bench(nn.Sequential(nn.Linear(8, 8)), [torch.randn(4, 8)])
    bench.rows = [Row("0", quantizer="LSQ")]
    before, calls, forward = bench.wait(), [], nn.Linear.forward
    monkeypatch.setattr(Errors, "_off", None)
    look = lambda self, x: calls.append(x.shape) or forward(self, x)  # noqa: E731
    monkeypatch.setattr(nn.Linear, "forward", look)
    bench.rows = [Row("0", quantizer="LSQ", inputs=2)]
    shown = bench.wait()
    assert shown.weights == before.weights and len(calls) == 1
    student, dense, x = bench.student()[0], bench.model[0], bench.batches[0]
    with torch.no_grad():
        off = (student(x) - dense(x)).norm() / dense(x).norm()
    assert shown.outputs["0"] == pytest.approx(float(off), abs=1e-6)
    assert shown.outputs["0"] > before.outputs["0"]


def test_a_difference_is_measured_piece_by_piece():
    for shape in ((3, PIECE), (PIECE // 8 + 5, 16), (7,), (2, 0)):
        a, b = torch.randn(shape), torch.randn(shape, dtype=torch.float64)
        whole = float((a - b.float()).double().square().sum())
        assert apart(a, b) == pytest.approx(whole, rel=1e-9)
    assert apart(a := torch.randn(5, 3).T, torch.zeros(3, 5)) == pytest.approx(float(a.norm() ** 2))


def test_moves_of_one_dial_are_known_before_they_are_made(monkeypatch):
    """Two steps to either side of every dial; no rank that would be clipped with a warning."""
    bench = Bench(nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 8)))
    rows = [Row("0", structure="LowRank", amount=6, quantizer="LSQ"), Row("1", nm="2:4")]
    bench.rows = rows
    while bench.step():
        pass
    monkeypatch.setattr(Errors, "find", None)
    moved = [*near(rows)]
    clipped = [one for one in moved if one[0].amount > 8]
    assert [one[0].amount for one in clipped] == [12] and len(moved) == 4 + 4 + 2
    for one in moved:
        if one not in clipped:
            assert bench.answer(one).whole, one
    assert bench.errors.decomposed("1"), "and what a later plan may ask for"


def test_a_weight_that_has_no_decomposition_is_passed_over():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[0].weight.data[0, 0] = torch.nan
    bench = Bench(net)
    bench.rows = []
    while bench.step():
        pass
    assert bench.errors.decomposed("1") and "NaN" in bench.refused["0", ""]


def test_rows_are_refused_before_anything_changes():
    bench = Bench(made("bert"))
    before = bench.rows
    for rows, words in (
        ([Row("*.quary", quantizer="LSQ")], "matches no Linear .* nearest names"),
        ([Row("*.query"), Row("*.query", nm="2:4")], "two rows have the pattern"),
        ([Row("*.query", quantizer="LSQ", bits=9)], "bits"),
        ([Row("*.query", quantizer="LSQ", per=5)], "query: the last axis .* groups of 5"),
        ([Row("*embeddings", structure="LowRank")], "embeddings: LowRank takes an nn.Linear"),
        ([Row("*.query", quantizer="LSQ", inputs=8)], r"workbench\(model, batches=\[...\]\)"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            bench.rows = rows
        assert bench.rows == before
    with pytest.raises(ValueError, match="there is no score"):
        bench.measure()


def test_an_error_that_does_not_pay_is_told_by_layer():
    bench = Bench(nn.Sequential(nn.Linear(16, 16)))
    bench.rows = [Row("0", structure="LowRank", by="error", amount=0.01)]
    shown = bench.wait()
    assert re.match("0: LowRank.error=0.01. needs rank 1[56] .*larger error", shown.refused["0"])
    assert shown.whole and shown.mean is None and shown.sizes is None
    with pytest.raises(ValueError, match="needs rank"):
        bench.student()


def test_an_error_becomes_ranks_and_the_bytes_wait_for_them():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(16, 4, bias=False), nn.Linear(4, 16))
    bench = Bench(nn.Sequential(_linear(net[1].weight @ net[0].weight)))
    bench.rows = [Row("0", structure="LowRank", by="error", amount=0.05)]
    assert bench.answer().sizes is None and not bench.answer().whole
    shown = bench.wait()
    assert "rank 4" in str(shown.preview) or shown.preview.after <= 4 * 32 + 16
    assert shown.sizes == tq.report(bench.student(), reference=bench.model)
    assert shown.weights["0"] <= 0.05


def test_code_has_what_differs_from_the_defaults():
    plan = plan_of(ROWS["bert"])
    text = code(plan)
    assert "'*.query': [tq.LowRank(rank=8), tq.LSQ(bits=4)]," in text
    assert "tq.TwoFour(), tq.SAWB(bits=4), tq.Inputs(tq.PACT(bits=8))" in text
    assert text.endswith("tq.calibrate(tq.compress(model, plan), batches)")
    assert code(plan_of([Row("a"), Row("b", nm="4:8", block=(2, None))])).count("[]") == 1


def test_groups_are_roles_and_the_heaviest_is_first():
    bench = Bench(made("bert"))
    groups = bench.groups
    assert len(groups["bert.encoder.layer.*.attention.self.query"]) == 2
    weights = [sum(layer.bytes for layer in found) for found in groups.values()]
    assert weights == sorted(weights, reverse=True)
    assert sum(map(len, groups.values())) == len(bench.layers)
    for group, layers in groups.items():  # a group is a pattern that finds its layers
        assert {x.name for x in layers} <= set(tq.surgery.match(bench.model, {group: [tq.LSQ(4)]}))


def test_score_is_asked_about_the_student():
    asked = []
    bench = Bench(made("bert"), score=lambda student: asked.append(student) or {"accuracy": 0.5})
    bench.rows = [Row("*.query", structure="LowRank", amount=4)]
    assert bench.measure() == {"accuracy": 0.5}
    (student,) = asked
    assert not student.training and student.bert.encoder.layer[0].attention.self.query.rank == 4
    assert isinstance(bench.model.bert.encoder.layer[0].attention.self.query, nn.Linear)
    json.dumps(bench.answer().sizes.summary())


@pytest.fixture(scope="module")
def opened_page():
    """A workbench as it opens on a tiny BERT, with a score."""
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=100, max_position_embeddings=16, **TINY)).eval()
    return workbench(model, batches("bert"), lambda m: {"a": m.config.hidden_size}, cache=None)


@pytest.fixture
def page(opened_page):
    """The same for each test, as it is at first."""
    view = opened_page.plan_view
    view.fold.value, view.sort.value = "", "bytes"
    view.place([Row("*", quantizer="LSQ", bits=8)])
    yield opened_page.wait()
    opened_page.worker.end()
    opened_page.worker.rest()
    assert opened_page.worker.failed is None


def shown(page):
    """The table on the page: name -> cells."""
    body = re.findall(r"<tr>(<td.*?)</tr>", page.plan_view.table.value.replace("<wbr>", ""))
    cells = [re.findall(r">([^<]*)</td>", line) for line in body]
    return {line[0]: line[1:] for line in cells}


def test_the_page_is_never_blank_and_shows_the_answer(page):
    view, answer = page.plan_view, page.bench.answer()
    assert view.picture.outputs[0]["data"]["text/plain"].startswith("Figure: ")
    assert kilo(answer.sizes.file) in view.figure.layout.title.text
    assert f"{100 * answer.mean:.1f} %" in view.figure.layout.title.text
    for key in ("nominal", "with_metadata", "file"):
        assert f">{getattr(answer.sizes, key):,}<" in view.caption.value
    table = shown(page)
    assert set(table) == set(page.bench.groups)
    name = "encoder.layer.*.attention.self.query"
    weights = [e for n, e in answer.weights.items() if n.endswith(".query")]
    assert table[name][3] == f"{50 * sum(weights):.1f} %"
    before = sum(layer.bytes for layer in page.bench.groups[name])
    after = sum(row["bytes"] for row in answer.sizes.rows if row["name"].endswith(".query"))
    assert (table[name][1], table[name][2]) == (kilo(before), kilo(after))
    assert "Figure: " in page._repr_mimebundle_()["text/plain"]


def test_dials_are_the_plan(page):
    view = page.plan_view
    view.append(Row("*.query", structure="LowRank", amount=8))
    assert page.bench.plan == plan_of(page.bench.rows) and [*page.bench.plan] == ["*.query", "*"]
    one = view.plan_rows.children[0]
    moves = [("by", "ratio"), ("amount", 2), ("nm", "2:4"), ("quantizer", "SAWB"), ("bits", 8)]
    moves += [("per", "channel"), ("inputs", 8), ("pattern", "*.key")]
    for name, value in moves:
        one.controls[name].value = "8 bits" if name == "inputs" else value
        assert not view.trouble
        assert getattr(page.bench.rows[0], name) == value
    assert str(page.bench.plan["*.key"][0]) == "LowRank(ratio=2)"
    fresh = Bench(page.bench.model, page.bench.batches)
    fresh.rows = page.bench.rows
    assert fresh.wait().sizes == page.wait().bench.answer().sizes
    assert "LowRankLinear" in " ".join(shown(page)["encoder.layer.*.attention.self.key"])
    view.drop(0)
    assert [*page.bench.plan] == ["*"]


@pytest.mark.parametrize("rows", [*ROWS.values(), [Row("a", block=(8, None), per=7, bits=6)]])
def test_dials_stand_where_their_row_is(rows):
    for row in rows:
        one = Dials(row, [], lambda: None)
        assert one.row == row
        for name in ("structure", "nm", "block", "quantizer", "inputs"):
            assert one.controls[name].value is not None, "a blank field"


def test_what_is_refused_is_told_and_the_last_plan_stays(page):
    view, before = page.plan_view, page.bench.plan
    size = view.figure.layout.title.text
    view.append(Row("*.quary", quantizer="LSQ"))
    assert "refused: plan pattern &#x27;*.quary&#x27; matches no" in view.words.value
    assert page.bench.plan == before and view.figure.layout.title.text == size
    view.plan_rows.children[0].pattern.value = "*.query"
    assert "refused" not in view.words.value and [*page.bench.plan] == ["*.query", "*"]


def test_lines_fold_sort_and_name_what_is_left_alone(page):
    view = page.plan_view
    group = "encoder.layer.*.attention.self.query"
    view.fold.value = group
    assert {"encoder.layer.0.attention.self.query"} < set(shown(page)) and group not in shown(page)
    view.fold.value = "*"
    assert len(shown(page)) == len(page.bench.layers)
    view.sort.value = "error"
    errors = [float(line[3].removesuffix(" %")) for line in shown(page).values()]
    assert errors == sorted(errors, reverse=True) and errors[0] > errors[-1]
    assert "leaves no matrix alone" in view.caption.value
    view.plan_rows.children[0].pattern.value = "encoder*"
    assert (
        "Left alone" in view.caption.value and "embeddings.word_embeddings (" in view.caption.value
    )


def test_copy_and_score(page, monkeypatch):
    view = page.plan_view
    view.show_code()
    assert unescape(re.sub("<.*?>", "", view.shown.value)) == page.bench.code()
    view.measure()
    assert unescape(re.sub("<.*?>", "", view.shown.value)) == "{'a': 32}"
    monkeypatch.setattr(page.bench, "score", lambda model: 1 / 0)
    view.measure()
    assert "score failed: ZeroDivisionError" in view.shown.value and not view.ask.disabled


def test_a_dial_swept_is_a_front_of_the_librarys_numbers(page, monkeypatch):
    page.tabs.selected_index = 1
    page.wait()
    front = page.front_view
    assert front.dial.value == "bits of *" and len(front.points) == 7
    for point in front.points[::3]:
        fresh = Bench(page.bench.model)
        fresh.rows = point.rows
        answer = fresh.wait()
        assert (answer.sizes, answer.mean) == (point.answer.sizes, pytest.approx(point.answer.mean))
    line, chosen = front.figure.data
    assert (*line.x,) == tuple(p.answer.sizes.file / 1e6 for p in front.points)
    assert [*line.x] == sorted(line.x) and [*line.y] == sorted(line.y, reverse=True)
    assert chosen.x[0] == line.x[-1] and chosen.y[0] == line.y[-1]  # eight bits
    front.measure()
    assert [*front.figure.data[2].y] == [32.0] * 7
    front.scores.clear()
    monkeypatch.setattr(page.bench, "score", lambda model: 1 / 0)
    front.measure()
    assert front.caption.value.startswith("score failed at 2: ZeroDivisionError")
    page.tabs.selected_index = 0
    assert not page.bench.others


def test_every_dial_of_a_plan_can_be_swept():
    labels = [dial.label for dial in dials(ROWS["bert"])]
    assert labels == [
        *("rank of *.query", "bits of *.query", "bits of *.intermediate.dense"),
        *("N:M of *.intermediate.dense", "inputs of *.intermediate.dense"),
        *("error of *.output.dense", "rank of *word_embeddings"),
    ]
    swept = dials(ROWS["bert"])[0]
    assert [row.amount for row in swept.rows(ROWS["bert"], 3)] == [3, 8, 0.5, 4]


def test_a_page_that_is_closed_leaves_its_work():
    page = workbench(nn.Sequential(*(nn.Linear(8, 8) for _ in range(3))), cache=None)
    page.worker.rest()
    steps, step = [], page.bench.step
    page.bench.step = lambda **idle: steps.append(idle) or page.close() or step(**idle)
    page.plan_view.place([Row("*", quantizer="LSQ", bits=4)])
    page.worker.rest()
    assert 1 <= len(steps) <= 2, "one of each thread"
    assert not page.bench.answer().whole and page.worker.failed is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*pin_memory")  # of the trainer, on a machine without a GPU
def test_the_steps_from_install_to_a_packed_folder(tmp_path, monkeypatch):
    """Those of the documentation, as they stand there; but the two trainings are short."""
    text = (Path(__file__).parents[2] / "docs" / "workbench.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text.split("## From `pip install`")[1], re.S)
    assert len(blocks) == 5 and blocks[0].count('"max_steps": 250') == 1
    monkeypatch.chdir(tmp_path)
    names = {}
    exec("\n".join(blocks).replace('"max_steps": 250', '"max_steps": 4'), names)
    names["page"].close()
    names["page"].worker.rest()
    shown, small = names["page"].bench.answer().sizes, names["small"]
    assert shown.ratios["file"] > 4 and tq.report(small).file == shown.file
    assert (tmp_path / "packed" / "model.safetensors").stat().st_size == shown.file
    batch, packed = names["batch"], tq.pack(names["student"]).eval()
    with torch.no_grad():
        assert torch.equal(small(**batch).logits, packed(**batch).logits)


def test_every_part_of_the_page_is_one_that_all_notebooks_know(opened_page):
    """Notebook 7, JupyterLab, VS Code and Colab have ipywidgets' own and anywidget's front end."""
    found, left = [], [opened_page]
    while left:
        found.append(left.pop())
        left += getattr(found[-1], "children", ())
    modules = {one._view_module for one in found}
    assert modules == {"@jupyter-widgets/controls", "@jupyter-widgets/output", "anywidget"}
    (front,) = {one._esm for one in found if one._view_module == "anywidget"}
    assert "export default" in front and not re.search("https?:|fetch", front), "nothing is fetched"


def test_every_cell_can_be_read_in_both_themes(page):
    """Letters and grounds of JupyterLab's themes, in the page and in the frame of a tab."""
    for letters, grounds in (("#212121", ["#FFFFFF"]), ("#FFFFFF", ["#111111", "#212121"])):
        for color, ground, k in product((COST, LOSS), grounds, range(-1, 22)):
            *veil, part = map(float, re.findall(r"[\d.]+", tint(k / 20, color)))
            paper = [int(ground[at : at + 2], 16) for at in (1, 3, 5)]
            mixed = [round(p + part * (v - p)) for v, p in zip(veil, paper, strict=True)]
            assert plots.contrast("#{:02X}{:02X}{:02X}".format(*mixed), letters) >= 4.5
            assert mixed == paper or k > 0
    page.plan_view.show_code()
    for view in (page.plan_view.table, page.plan_view.caption, page.plan_view.shown):
        assert "style=" in view.value and not re.search("color:#|background:#", view.value)
        assert view.value.count("<table") == view.value.count('<table style="color:inherit;')


def test_a_folder_opens_as_a_model_does(tmp_path):
    made("bert").save_pretrained(tmp_path)
    bench = Bench(opened(tmp_path))
    bench.wait()
    assert type(bench.model).__name__ == "BertForMaskedLM" and not bench.model.training
    plain = Bench(made("bert"))
    assert bench.answer().weights == plain.wait().weights
    with pytest.raises(ValueError, match="'no/where' is no folder that save_pretrained wrote"):
        opened("no/where")
    assert tqlearn.lab.workbench is sys.modules["tqlearn.lab.workbench"]


def test_no_model_is_refused():
    with pytest.raises(TypeError, match="model"):
        workbench(3)
    with pytest.raises(ValueError, match="is on meta"):
        workbench(nn.Linear(2, 2, device="meta"))
