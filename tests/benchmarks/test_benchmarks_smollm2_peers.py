"""SmolLM2 beside torchao and quanto: what is counted, what is kept, what is left out."""

import json

import pytest
import torch
from conftest import result

from tqlearn.hf import evaluate_language


@pytest.fixture
def bench(script):
    return script("smollm2_peers")


def test_the_script_runs_without_peers_and_goes_on(quick, bench, monkeypatch, tmp_path, capsys):
    def nowhere(package):
        raise bench.PackageNotFoundError(package)

    monkeypatch.setattr("importlib.metadata.version", nowhere)
    names = ["float", "quanto qint4", "4 bits per 64", "4 bits per 32"]
    found = quick("smollm2_peers", "--rows", *names)
    words = "optimum-quanto is not installed, so its rows are left out: pip install --no-deps"
    assert words in capsys.readouterr().out
    rows = {row["model"]: row for row in found["rows"]}
    assert [*rows] == ["float", "4 bits per 32", "4 bits per 64"], "in the order of the methods"
    bits = [row["metrics"]["bits_per_weight"] for row in rows.values()]
    assert bits == [32, 4 + 16 / 32, 4 + 16 / 64] and "kl" not in rows["float"]["metrics"]
    assert 0 < rows["4 bits per 32"]["metrics"]["kl"] < rows["4 bits per 64"]["metrics"]["kl"]
    marked = found | {"rows": [row | {"note": "of before"} for row in found["rows"]]}
    (tmp_path / "t.json").write_text(json.dumps(marked))
    again = quick("smollm2_peers", "--rows", "float", "rescaled, 4 bits per 64", "--minutes", "0")
    assert again["rows"] == marked["rows"]
    assert "rescaled, 4 bits per 64 and what follows: not begun" in capsys.readouterr().out


def test_a_peers_numbers_are_put_into_floats(bench, monkeypatch):
    """A coder that rounds to halves: what it makes of the identity, and its bits."""
    subject = bench.tiny()

    class Coded(torch.nn.Linear):
        def forward(self, x):
            return x @ ((self.weight * 2).round() / 2).T

    def coder(layer):
        coded = Coded(1, 1, bias=False)
        coded.weight = layer.weight
        return coded

    monkeypatch.setattr(bench, "stored_bits", lambda layer, bits: bits * layer.weight.numel())
    student, count = bench.peer(coder, 3, subject.model, subject.looked_at)
    old, new = (dict(m.named_parameters()) for m in (subject.model, student))
    for name, weight in old.items():
        matrix = ".layers." in name and weight.dim() == 2
        wanted = (weight.half() * 2).round() / 2 if matrix else weight
        assert torch.equal(new[name], wanted.float()), name
    matrices = [w for n, w in old.items() if ".layers." in n and w.dim() == 2]
    assert count == 3 * sum(w.numel() for w in matrices) and len(matrices) == 14
    ids = subject.ids[:100]
    assert evaluate_language(student, ids, window=50, reference=subject.model)["kl"] > 0


def test_codes_count_at_their_bits_and_zero_zero_points_nothing(bench):
    class Weight:
        qdata, scale = torch.ones(8, 64, dtype=torch.int8), torch.ones(8, 1).half()
        zero_point = torch.zeros(8, 1, dtype=torch.int8)

        def numel(self):
            return self.qdata.numel()

        def __tensor_flatten__(self):
            return ["qdata", "scale", "zero_point"], None

    layer = type("Layer", (), {"weight": Weight()})
    assert bench.stored_bits(layer, 4) == 512 * 4 + 8 * 16
    Weight.zero_point = Weight.zero_point + 3
    assert bench.stored_bits(layer, 4) == 512 * 4 + 8 * (16 + 8)


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("name, bits", [
    ("torchao int4 per 64", 4.5), ("torchao int4 per 64, through zero", 4.25),
    ("quanto qint4 per 64", 4.5), ("quanto qint2 per 64", 2.5), ("quanto qint8", 8 + 16 / 192),
])  # fmt: skip
def test_where_a_peer_is_installed_its_row_is_measured(bench, name, bits):
    package, method = bench.METHODS[name]
    pytest.importorskip({"torchao": "torchao", "optimum-quanto": "optimum.quanto"}[package])
    subject = bench.tiny()
    student, count = method(subject.model, subject.looked_at)
    weights = [w for n, w in subject.model.named_parameters() if ".layers." in n and w.dim() == 2]
    assert count == pytest.approx(bits * sum(w.numel() for w in weights), rel=0.01)
    name = "model.layers.0.mlp.up_proj.weight"
    old, new = subject.model.get_parameter(name), student.get_parameter(name)
    assert 0 < (new - old).norm() < 0.6 * old.norm()


def test_unknown_rows_are_refused(quick, capsys):
    with pytest.raises(SystemExit):
        quick("smollm2_peers", "--rows", "5 bits per star")
    assert "no such rows: ['5 bits per star']; there are ['float'" in capsys.readouterr().err


def test_the_committed_table():
    """Peers and ours of equal bits stand in it, and 8 bits are near to floats."""
    found = result("smollm2_peers")
    rows = {row["model"]: row["metrics"] for row in found["rows"]}
    assert not found["quick"] and found["settings"]["tokens"] >= 16_384
    assert {"torchao", "optimum-quanto"} <= set(found["versions"])
    roles = {row["model"]: row["role"] for row in found["rows"]}
    assert {"baseline", "student", "peer"} == {*roles.values()}
    for name, row in rows.items():
        assert row["perplexity"] >= 0.99 * rows["float"]["perplexity"], name
    assert {4.25, 4.5} <= {round(row["bits_per_weight"], 2) for row in rows.values()}
