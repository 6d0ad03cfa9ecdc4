"""The script behind notebook 08's explorer."""

import pytest
import torch
from torch.testing import assert_close

from tqlearn import distill
from tqlearn.hf.joint import JointOutput
from tqlearn.lab.explorers.distillation import METRICS, runs

MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])


def output(seed):
    torch.manual_seed(seed)
    return JointOutput(
        torch.tensor(1.5),
        torch.randn(2, 3),
        torch.randn(2, 4, 5),
        tuple(torch.randn(3, 2, 4, 8)),
        tuple(torch.randn(2, 2, 2, 4, 4).softmax(-1)),
    )


def test_losses_by_name_and_step(script):
    bench = script("embedded_distillation")
    s, t = output(1), output(2)
    batch = {"attention_mask": MASK, "slot_labels": torch.where(MASK == 1, 1, -100)}
    maps, states = (s.attentions, t.attentions), (s.hidden_states, t.hidden_states)
    layers = [distill.layer_by_layer(*states, *maps, MASK, stage) for stage in (1, 2, 3)]

    def loss(name, step=0):
        return bench.loss(name, step, 8, s, t, batch)

    assert loss("labels") == 1.5
    soft = distill.soft_labels(s.intent_logits, t.intent_logits, 4.0)
    soft = soft + distill.soft_labels(s.slot_logits, t.slot_logits, 4.0, mask=MASK)
    assert_close(loss("soft labels, T = 4"), soft)
    assert_close(loss("hidden + attention"), layers[2])
    assert_close(loss("hidden") + loss("attention"), layers[2])
    assert_close(loss("everything"), layers[2] + 1.5 + loss("soft labels"))
    assert_close([loss("layer by layer", step) for step in (0, 2)], layers[:2])  # 2 steps a stage
    assert_close(loss("layer by layer", 4), loss("everything"))


@pytest.mark.slow
def test_script_runs(quick):
    found = runs(quick("embedded_distillation", "--seed", "5")["rows"])
    assert len(found) == 12 and list(found["labels"]) == [5]
    assert list(found["labels"][5]) == [0, 2, 4]
    assert set(found["labels"][5][4]) == set(METRICS.values())
