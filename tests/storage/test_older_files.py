"""What tqlearn 0.1 wrote before its files moved into packages loads to the bit, and what it wrote
when the one scale of a tensor was a scalar.
"""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

import tqlearn as tq
from tqlearn.hf import ScaleTrainer
from tqlearn.quantizers import Quantizer

FOLDER = Path(__file__).with_name("written_by_0_1")


@pytest.fixture(scope="module")
def expected() -> dict:
    """Inputs, outputs, and every tensor that the packed codes stood for, as they were then."""
    return load_file(FOLDER / "expected.safetensors")


def check_tensors(model: nn.Module, expected: dict, prefix: str) -> None:
    """Codes times scales are exact on every processor; products of matrices are only close."""
    wanted = {k.removeprefix(prefix): v for k, v in expected.items() if k.startswith(prefix)}
    assert wanted
    for name, values in wanted.items():
        layer, _, key = name.rpartition(".")
        assert torch.equal(getattr(model.get_submodule(layer), key), values), name


def test_folder_of_a_transformers_model(expected):
    """Trains, Kronecker tables, low-rank pairs, masks, quantized inputs, a smaller layer."""
    with pytest.warns(UserWarning, match="model.safetensors has no digests") as said:
        model = BertForSequenceClassification.from_pretrained(FOLDER).eval()
    assert len(said) == 1
    kinds = {type(module).__name__.removeprefix("Parametrized") for module in model.modules()}
    assert {"TTLinear", "TTMEmbedding", "KroneckerEmbedding", "LowRankLinear"} <= kinds
    assert {"KroneckerLinear", "PackedNM", "Packed", "PACT", "Uniform"} <= kinds
    assert model.bert.encoder.layer[2].intermediate.dense.out_features == 16  # of 32
    check_tensors(model, expected, "decoded.")
    with torch.no_grad():
        logits = model(input_ids=expected["ids"]).logits
    torch.testing.assert_close(logits, expected["logits"])


def test_layout_given_to_a_dense_model(expected):
    """``rebuild`` reads the old layout too, without from_pretrained."""
    dense = BertForSequenceClassification(BertConfig.from_pretrained(FOLDER / "dense"))
    layout = BertConfig.from_pretrained(FOLDER).quantization_config["layout"]
    model = tq.rebuild(dense, json.loads(layout))
    model.load_state_dict(load_file(FOLDER / "model.safetensors"))
    check_tensors(model, expected, "decoded.")


def test_file_of_save(expected):
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
    with pytest.warns(UserWarning, match="sequential.safetensors has no digests") as said:
        tq.load(model, FOLDER / "sequential.safetensors")
    assert len(said) == 1
    check_tensors(model, expected, "sequential.")
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(expected["x"]), expected["y"])


@pytest.fixture
def older(monkeypatch):
    """A way to do something as when learned scales, clips and offsets of a tensor were scalars."""

    def do(call):
        with monkeypatch.context() as then:
            then.setattr(Quantizer, "learned", lambda q: nn.Parameter(q.unset()))
            return call()

    return do


PLAN = {
    "*.query": [tq.LSQ(4), tq.Inputs(tq.PACT(8))],
    "*.key": [tq.LSQPlus(4), tq.Inputs(tq.LearnedClip(8))],
    "*.value": [tq.LSQ(4, per="channel"), tq.Inputs(tq.Uniform(8))],
    "*.output.dense": [tq.TT(4), tq.LSQ(4, activations=8)],
}
IDS = torch.arange(12).reshape(2, 6)


def bert_student() -> nn.Module:
    torch.manual_seed(0)
    dense = BertForSequenceClassification(BertConfig.from_pretrained(FOLDER / "dense")).eval()
    return tq.calibrate(tq.compress(dense, PLAN), [{"input_ids": IDS}])


@pytest.mark.parametrize("packed", [False, True])
def test_folders_with_scalars_for_scales(older, packed, tmp_path):
    """Digests of such a folder hold, and what is loaded has one element for each."""
    student = older(lambda: (tq.pack if packed else nn.Module.eval)(bert_student()))
    student.save_pretrained(tmp_path)
    shapes = {key: tuple(t.shape) for key, t in load_file(tmp_path / "model.safetensors").items()}
    assert () in shapes.values() and (1,) not in shapes.values()
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert () not in {tuple(p.shape) for p in again.parameters()}
    with torch.no_grad():
        assert torch.equal(again(input_ids=IDS).logits, student(input_ids=IDS).logits)
    again.save_pretrained(tmp_path / "new")
    for key, tensor in load_file(tmp_path / "new" / "model.safetensors").items():
        assert torch.equal(tensor.reshape(shapes[key]), student.state_dict()[key]), key


def test_a_file_and_a_state_with_scalars_for_scales(older, tmp_path):
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
    plan = {"0": [tq.PACT(4)], "2": [tq.LSQ(4)]}
    student = older(lambda: tq.calibrate(tq.compress(dense, plan)))
    old = student.state_dict()
    again = tq.load(copy.deepcopy(dense), tq.save(student, tmp_path / "old.safetensors"))
    other = tq.compress(dense, plan)
    other.load_state_dict(old)
    for model in (again, other):
        state = model.state_dict()
        assert all(torch.equal(state[name].reshape(old[name].shape), old[name]) for name in old)
        assert state["2.parametrizations.weight.0.scale"].shape == (1,)
    rows = tq.compress(dense, {"0": [tq.PACT(4)], "2": [tq.LSQ(4, per="channel")]})
    with pytest.raises(RuntimeError, match=r"scale: copying a param with shape torch.Size\(\[\]\)"):
        rows.load_state_dict(old)


def test_moments_of_scales_that_were_scalars(older, tmp_path):
    """A training goes on from a checkpoint whose optimizer had scalars for them."""

    def optimizer_of(student: nn.Module) -> torch.optim.Optimizer:
        arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
        return ScaleTrainer(student, arguments).create_optimizer()

    def a_step(student: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
        student.train()(input_ids=IDS, labels=torch.tensor([0, 1])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return copy.deepcopy(optimizer.state_dict())

    student = older(bert_student)
    again = bert_student()
    for module in (*student.modules(), *again.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    mine, other = optimizer_of(student), optimizer_of(again)
    saved = a_step(student, mine)
    again.load_state_dict(student.state_dict())
    other.load_state_dict(saved)
    a_step(student, mine)
    a_step(again, other)
    wanted = student.state_dict()
    for key, tensor in again.state_dict().items():
        assert torch.equal(tensor.reshape(wanted[key].shape), wanted[key]), key
