"""Every plan on two processes, by DDP and by FSDP2, beside one process with the same batch.

The two are started once, see two_processes.py, and note all that the tests look at.
"""

import subprocess
from pathlib import Path

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from transformers import AutoModelForCausalLM, TrainingArguments
from two_processes import BERTS, LLAMAS, PENALTY, batch, student_of
from warm import FRESH

import tqlearn as tq
from tqlearn.hf import PruneTrainer, ScaleTrainer
from tqlearn.quantizers.ranges import Uniform

RUNNING = ("inputs Uniform", "BERT MinMax")
PLANS = [*LLAMAS, *BERTS]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    """What each of the two processes has noted."""
    folder = tmp_path_factory.mktemp("processes")
    script = Path(__file__).with_name("two_processes.py")
    done = subprocess.run([*FRESH, str(script), str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def noted(found: list[dict], name: str) -> list:
    """What both processes say of something; what they raised fails here."""
    both = [each[name] for each in found]
    assert not any(isinstance(each, str) for each in both), both
    return both


def way(a: dict, b: dict) -> float:
    """The distance of two states."""
    floats = [name for name, tensor in a.items() if tensor.is_floating_point()]
    return sum(float((a[n].double() - b[n].double()).square().sum()) for n in floats) ** 0.5


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", PLANS)
def test_ddp_takes_the_step_of_one_process(found, name):
    """To the bit that of one which adds up the gradients of two halves, as two processes do.

    Beside the whole batch at once the sums run in another order. An input on the edge between two
    codes may then go to the other one.
    """
    mine, other = noted(found, name)
    assert same(mine["ddp"], other["ddp"])
    step = way(mine["whole, first"], mine["start"])
    bound = 1e-2 if "inputs" in name or "BERT" in name else 1e-4
    assert way(mine["ddp, first"], mine["whole, first"]) < bound * step and step > 0.01
    if name in RUNNING or name == "2:4 sr-ste":  # per step: one move of a range, one pull to zero
        assert way(mine["one, first"], mine["whole, first"]) > 1e-4 * step
    else:
        assert same(mine["ddp"], mine["one"])


@pytest.mark.parametrize("name", [name for name in PLANS if name != PENALTY])
def test_fsdp2_takes_the_step_of_ddp(found, name):
    """Its tensors lie elsewhere in memory, where some kernels round otherwise."""
    mine, _ = noted(found, name)
    assert mine["fsdp"].keys() == mine["ddp"].keys()
    bound = 1e-2 if "inputs" in name or "BERT" in name else 1e-4
    assert way(mine["fsdp"], mine["ddp"]) < bound * way(mine["ddp"], mine["start"])


@pytest.mark.parametrize("name", ["LSQ", "PACT", "inputs Uniform", "2:4", "TTM"])
def test_a_gathered_state_saves_packs_and_loads(found, name, tmp_path):
    student, state = student_of(name), noted(found, name)[0]["fsdp"]
    student.load_state_dict(state)
    inputs = {k: v for k, v in batch(name).items() if k != "labels"}
    with torch.no_grad():
        wanted = student.eval()(**inputs).logits
        for folder, model in (("floats", student), ("codes", tq.pack(student))):
            model.save_pretrained(tmp_path / folder)
            again = AutoModelForCausalLM.from_pretrained(tmp_path / folder).eval()
            assert torch.equal(again(**inputs).logits, wanted)
            assert (again.lm_head.weight == again.model.embed_tokens.weight).all()


def test_running_ranges_of_several_processes(found):
    """Alone each follows its half; together they have the ends of the whole batch."""
    message = "call tqlearn.quantizers.synchronize(model) before the training"
    both = noted(found, "alone")
    for word, warned in ((None, True), (False, False)):
        (told, ranges), (_, others) = (each[word] for each in both)
        assert any(message in text for text in told) == warned
        assert any(not torch.equal(ranges[name], others[name]) for name in ranges)
    mine, other = noted(found, "inputs Uniform")
    ranges = [name for name in mine["whole"] if name.endswith((".low", ".high"))]
    assert any(not torch.equal(mine["ddp, first"][name], mine["start"][name]) for name in ranges)
    for name in ranges:
        assert torch.equal(mine["fsdp"][name], mine["ddp"][name])
        assert torch.equal(mine["ddp"][name], other["ddp"][name])
        torch.testing.assert_close(mine["ddp, first"][name], mine["whole, first"][name])


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("name", ["LSQ", "TTM"])
def test_accelerate_shards_a_tied_table_by_itself(found, name, in_parts):
    """The head brings the table's numbers together; ``in_parts``: process 0 alone has had them."""
    state, wanted = noted(found, f"accelerate {name} {in_parts}")[0], noted(found, name)[0]
    assert state.keys() == wanted["ddp"].keys()
    assert way(state, wanted["ddp"]) < 1e-4 * way(wanted["ddp"], wanted["start"])


def test_what_is_sharded_is_refused_by_name(found):
    for said in noted(found, "refused"):
        for verb in ("pack", "bake", "report", "calibrate"):
            assert f"{verb} needs whole tensors, but model." in said[verb]
            assert "gather them with torch.distributed.checkpoint" in said[verb]
        assert "Linear is weight of a ParametrizedEmbedding that is sharded" in said["tied"]
        assert "give all layers whose masks share a group to one call" in said["scores"]
        assert "device_mesh" in said["buffers in parts"]  # accelerate's own, see the docs


def test_our_trainers_bring_ranges_together(tmp_path):
    student = student_of("inputs Uniform")
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    ScaleTrainer(student, arguments)
    ranges = [module for module in student.modules() if isinstance(module, Uniform)]
    assert ranges and all(module.together for module in ranges)
    ScaleTrainer(tq.quantizers.synchronize(student, False), arguments)
    assert not any(module.together for module in ranges)


def test_pruning_by_scores_refuses_fsdp(tmp_path, monkeypatch):
    student = student_of("BlockPrune")
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    given = {"teacher": None, "losses": dict, "train_dataset": [batch("BlockPrune")]}
    shared = ScaleTrainer(student, arguments).accelerator.state._shared_state
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    monkeypatch.setitem(shared, "fsdp_plugin", plugin)
    with pytest.raises(ValueError, match="FSDP keeps them in shards; leave fsdp out"):
        PruneTrainer(student, arguments, **given)
