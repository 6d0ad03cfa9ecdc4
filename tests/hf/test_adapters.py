"""PEFT's LoRA on compressed layers: trained, merged, saved, loaded."""

import copy

import peft
import pytest
import torch
from torch.testing import assert_close
from transformers import BertConfig, BertForSequenceClassification

import tqlearn as tq
import tqlearn.hf  # noqa: F401  (from_pretrained reads compressed folders)

pytestmark = [  # of PEFT
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),  # it is told which
]
IDS = torch.tensor([[3, 9, 27, 81, 5], [7, 7, 2, 64, 1]])
SMALL = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
PLACES = {
    "LSQ": ([tq.LSQ(8)], "query"),
    "per channel": ([tq.LSQ(8, per="channel")], "query"),
    "SAWB": ([tq.SAWB(8)], "query"),
    "Uniform": ([tq.Uniform(8)], "query"),
    "TwoFour": ([tq.TwoFour()], "query"),
    "TwoFour + LSQ": ([tq.TwoFour(), tq.LSQ(8)], "query"),
    "words": ([tq.LSQ(8)], "word_embeddings"),
}


def teacher():
    torch.manual_seed(3)
    model = BertForSequenceClassification(BertConfig(**SMALL)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.dim() == 2 else 1)
    return model


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def with_adapter(model, where, **more):
    config = peft.LoraConfig(
        target_modules=[where], r=2, lora_alpha=16, init_lora_weights=False, **more
    )
    custom = {
        kind: peft.tuners.lora.Linear for kind in (tq.factors.TTLinear, tq.factors.LowRankLinear)
    }
    config._register_custom_module(custom)
    torch.manual_seed(1)
    return peft.get_peft_model(copy.deepcopy(model), config)


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("safe", [False, True])
def test_a_merge_is_quantized_anew(kind, packed, safe, tmp_path):
    edits, where = PLACES[kind]
    student = tq.calibrate(tq.compress(teacher(), {f"*{where}": edits})).eval()
    student = tq.pack(student) if packed else student
    adapted = with_adapter(student, where)
    place = student.get_submodule(
        next(name for name, _ in student.named_modules() if name.endswith(where))
    )
    lora = next(m for m in adapted.modules() if isinstance(m, peft.tuners.lora.LoraLayer))
    before, delta = place.weight.detach().clone(), lora.get_delta_weight("default").detach()
    merged = adapted.merge_and_unload(safe_merge=safe).eval()
    new = next(m for n, m in merged.named_modules() if n.endswith(where)).weight.detach()
    kept = before != 0 if "TwoFour" in kind else torch.ones_like(before, dtype=torch.bool)
    missed = (new - before - delta)[kept].norm() / delta[kept].norm()
    assert missed < 0.1 and not new[~kept].any()  # 8 bits of the sum, as a share of the adapter
    assert not torch.allclose(logits(merged), logits(student), atol=1e-3)
    merged.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(merged))
    assert torch.equal(logits(tq.pack(again)), logits(merged))


@pytest.mark.parametrize("edits", [[tq.TT(rank=4)], [tq.LowRank(rank=4), tq.LSQ(8)]], ids=repr)
@pytest.mark.parametrize("packed", [False, True])
def test_an_adapter_beside_cores(edits, packed, tmp_path):
    student = tq.calibrate(tq.compress(teacher(), {"*query": edits})).eval()
    student = tq.pack(student) if packed else student
    adapted = with_adapter(student, "query")
    loss = adapted(input_ids=IDS, labels=torch.tensor([0, 1])).loss
    loss.backward()
    learned = [n for n, p in adapted.named_parameters() if p.grad is not None and p.grad.any()]
    assert learned and all("lora_" in name for name in learned)
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(
        copy.deepcopy(student), tmp_path, config=adapted.peft_config["default"]
    )
    assert torch.equal(logits(again), logits(adapted))
    with pytest.raises(RuntimeError, match=r"tqlearn.bake\(model, dense=True\)"):
        adapted.merge_and_unload()
    dense = with_adapter(tq.bake(student, dense=True), "query")
    assert_close(logits(dense.merge_and_unload()), logits(adapted), atol=1e-4, rtol=1e-4)


class OwnStart(BertForSequenceClassification):
    """As models outside the library do it: a random start that writes into ``data``."""

    def _init_weights(self, module):
        if hasattr(module, "weight"):
            module.weight.data.normal_()


@pytest.mark.parametrize("edits", [[tq.LSQ(8)], [tq.TwoFour()], [tq.TT(rank=4)]], ids=repr)
@pytest.mark.parametrize("packed", [False, True])
def test_a_random_start_at_loading_reaches_no_compressed_weight(edits, packed, tmp_path):
    student = tq.calibrate(tq.compress(teacher(), {"*query": edits})).eval()
    student = tq.pack(student) if packed else student
    student.save_pretrained(tmp_path)
    assert torch.equal(logits(OwnStart.from_pretrained(tmp_path)), logits(student))
