"""What onnxruntime makes of compressed models: the checks can fail, and all cells as stored."""

import importlib.util

import numpy as np
import pytest
import torch
from conftest import require, result


@pytest.fixture
def exports(script):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        require(importlib.util.find_spec(name), f"{name} is missing: pip install 'tqlearn[ship]'")
    return script("exports")


class Engine:
    """A session that gives what it is told to."""

    def __init__(self, *found):
        self.found = found

    def get_inputs(self):
        return []

    def run(self, names, given):
        return [x.numpy() for x in self.found]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (lambda x: (x * 1.001,), "traced: differs by 1.0e-03"),
        (lambda x: (x[:1],), "traced: .* outputs, or of other shapes"),
        (lambda x: (x, x), "traced: .*2, 1.* outputs, or of other shapes"),
    ],
)
def test_what_differs_is_seen(exports, monkeypatch, tmp_path, found, words):
    """Whatever the engine gives: the exporter itself is left out here."""
    want = torch.ones(2, 3)
    monkeypatch.setattr(exports, "compressed", lambda *_: (None, {}))
    monkeypatch.setattr(exports.tq, "export", lambda *_: None)
    monkeypatch.setattr(exports, "outputs", lambda *_: [want])
    monkeypatch.setattr(exports, "session", lambda *_: Engine(*found(want)))
    with pytest.raises(exports.Wrong, match=words):
        exports.cell(None, {"x": torch.ones(2, 4)}, "4 bits", tmp_path)


def test_the_other_batch_is_of_another_size(exports):
    given = {"input_ids": torch.ones(2, 8, dtype=torch.long), "pixels": torch.ones(2, 3, 4, 4)}
    shapes = {name: tuple(x.shape) for name, x in exports.other(given).items()}
    assert shapes == {"input_ids": (3, 11), "pixels": (3, 3, 4, 4)}


def test_all_cells_as_stored(exports):
    stored = result("exports")
    records = stored["architectures"]
    assert not stored["quick"] and len(records) >= 20
    for record in records:
        for plan, found in record["cells"].items():
            if found["outcome"] == "refused":
                assert len(found["reason"]) > 20
                continue
            assert found["outcome"] in ("ok", "part"), (record["model"], plan, found)
            assert np.isfinite(found["error"]) and found["error"] < exports.CLOSE[plan]
            assert (found["outcome"] == "part") == bool(found["refused"])
    works = [r["model"] for r in records if r["cells"]["4 bits"]["outcome"] in ("ok", "part")]
    assert len(works) >= 20
    (mini,) = (record["cells"] for record in records if record["model"] == "MiniLM")
    assert all(found["onnx"] <= 1.15 * found["packed"] for found in mini.values())
    writers = [r for r in records if "writes" in r["cells"]["4 bits"]]
    assert writers and all(r["cells"]["4 bits"]["writes"] == 8 for r in writers)
    bits = [r["cells"]["4 bits"]["operators"] for r in records]
    assert sum("MatMulNBits" in found for found in bits) >= 20
    rounded = [r["cells"]["inputs"] for r in records if "operators" in r["cells"].get("inputs", {})]
    fused = [found for found in rounded if "MatMulIntegerToFloat" in found["operators"]]
    assert len(fused) >= max(20, len(rounded) - 1)  # GPT-2 reshapes what it has rounded
