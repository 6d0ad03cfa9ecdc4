"""``TwoFour`` in plans, with quantizers and factors; masked tensors packed, saved and reported.

Spec sheet Deep Compression, acceptance checks 8 (refusals), 11 (packing) and 12 (persistence).
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification, BertConfig, TrainingArguments
from transformers import BertForSequenceClassification as Bert

import tqlearn as tq
from tqlearn.hf import ScaleTrainer
from tqlearn.sparsity.nm import nm_mask
from tqlearn.sparsity.patterns import Pattern
from tqlearn.sparsity.wanda import input_norms, remask
from tqlearn.stages import mask_of
from tqlearn.storage.codes import pack_bits, unpack_bits
from tqlearn.storage.packed_nm import PackedNM

PATTERNS = ["2:4", "1:2", "4:8", "4:8 pairs"]
QUANTIZERS = {
    "LSQ": tq.LSQ(bits=4),
    "LSQ per channel": tq.LSQ(bits=4, per="channel"),
    "SAWB": tq.SAWB(bits=4, statistics="masked"),
    "LearnedClip": tq.LearnedClip(bits=4),
    "PACT": tq.PACT(bits=4),
    "Ternary": tq.Ternary(),
    "8 bits": tq.LSQ(bits=8, init="mse"),
}


def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(24, 32), nn.GELU(), nn.Linear(32, 8)).eval()


def student(*edits, pattern="2:4", **options):
    plan = {"*": [tq.TwoFour(pattern, **options), *edits]}
    return tq.calibrate(tq.compress(net(), plan)).eval()


def assert_half_is_zero(weight, mask, group=4):
    """Exact zeros where the mask says so, half of the places, in every group."""
    assert not weight[~mask].any()
    assert (mask.reshape(-1, group).sum(1) == group // 2).all()


@pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)
def test_zeros_survive_quantizing_training_packing_and_saving(quantizer, tmp_path):
    model = student(quantizer)
    masks = [mask_of(model[i]) for i in (0, 2)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    model.train()
    for _ in range(10):
        optimizer.zero_grad()
        model(torch.randn(16, 24)).square().mean().backward()
        optimizer.step()
    model.eval()
    x, packed = torch.randn(4, 24), tq.pack(model)
    loaded = tq.load(net(), tq.save(packed, tmp_path / "packed.safetensors"))
    again = tq.load(net(), tq.save(model, tmp_path / "model.safetensors"))
    for made in (model, packed, loaded, again.eval(), tq.unpack(packed).eval(), tq.bake(model)):
        assert torch.equal(made(x), model(x))
        for i, mask in zip((0, 2), masks, strict=True):
            assert_half_is_zero(made[i].weight, mask)
    for made in (packed, loaded, again, tq.unpack(loaded)):
        assert all(torch.equal(mask_of(made[i]), m) for i, m in zip((0, 2), masks, strict=True))


@pytest.mark.parametrize("update", ["fixed", "ste", "sr-ste"])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("edits", [(), (tq.LSQ(bits=4),)], ids=["floats", "4 bits"])
def test_patterns_and_updates_round_trip(update, pattern, edits, tmp_path):
    model, x = student(*edits, pattern=pattern, update=update), torch.randn(4, 24)
    packed = tq.pack(model)
    assert torch.equal(packed(x), model(x))
    loaded = tq.load(net(), tq.save(packed, tmp_path / "model.safetensors"))
    assert torch.equal(loaded(x), model(x)) and tq.describe(loaded) == tq.describe(packed)
    back = tq.unpack(loaded)
    assert torch.equal(back(x), model(x)) and tq.describe(back) == tq.describe(model)
    back(x).sum().backward()
    assert back[0].parametrizations.weight.original.grad.any()
    group = Pattern.of(pattern).group
    assert_half_is_zero(back[0].weight, mask_of(back[0]), group)


def test_the_layer_of_the_spec_sheet(tmp_path):
    """Check 11: 768 x 3072 is 589,824 + 294,912 bytes; 16 times nominal, 10.67 with metadata."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(3072, 768, bias=False))
    model = tq.calibrate(tq.compress(dense, {"0": [tq.TwoFour(), tq.LSQ(bits=4)]}))
    packed = tq.pack(model)
    chain = packed[0].parametrizations.weight
    assert chain.original.dtype == chain[0].places.dtype == torch.uint8
    assert (chain.original.numel(), chain[0].places.numel()) == (589_824, 294_912)
    found = tq.report(model, reference=dense)
    assert (found.nominal, found.with_metadata) == (589_824, 884_736 + 4)  # and one scale
    assert found.ratios["nominal"] == 16 and round(found.ratios["with_metadata"], 2) == 10.67
    file = tq.save(packed, tmp_path / "model.safetensors").stat().st_size
    assert 884_740 < found.file < 884_740 + 400 and file >= found.file
    assert tq.report(packed).summary()["bytes"] == found.summary()["bytes"]

    codes = (model[0].weight / model[0].parametrizations.weight[1].scale).round().long()
    mask = mask_of(model[0])
    assert ((codes == 0) & mask).any()  # kept weights that rounded to zero hold their slot
    assert torch.equal(packed[0].weight, model[0].weight)
    kept = unpack_bits(chain.original, 4, -8, (589_824, 2)).long()
    assert torch.equal(kept.flatten(), codes[mask])
    columns = unpack_bits(chain[0].places, 2, 0, (589_824, 2))
    assert (columns[:, 0] < columns[:, 1]).all()
    x = torch.randint(-7, 8, (3, 3072))
    rows = torch.arange(3072).reshape(1, -1, 4).expand(768, -1, -1).reshape(-1, 4)
    inputs = x[:, rows.gather(1, columns.long())]  # (3, groups, 2): what a sparse engine reads
    product = (inputs * kept).reshape(3, 768, -1).sum(-1)
    assert torch.equal(product, x @ codes.T) and product.abs().max() <= 3072 // 2 * 7 * 8


def test_a_row_of_products_fits_into_18_bits():
    """Check 11: at most half of 3072 products of 7 by 7, whatever the inputs."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(3072, 768, bias=False))
    model = tq.calibrate(tq.compress(dense, {"0": [tq.TwoFour(), tq.SAWB(bits=4)]}))
    sawb = model[0].parametrizations.weight[1]
    codes = sawb.codes(model[0].weight.detach()).long()
    assert codes.abs().max() == 7 and (mask_of(model[0]).sum(1) * 7 * 7).max() == 75_264 < 2**17
    worst = codes.sign() * 7  # inputs that make each row as large as it can get
    assert 30_000 < (worst * codes).sum(1).max() <= 75_264
    assert torch.equal(tq.pack(model)[0].weight, model[0].weight)


def test_the_byte_layout_is_the_documented_one():
    layer = nn.Sequential(nn.Linear(4, 2, bias=False))
    layer[0].weight.data = torch.tensor([[0.0, 7.0, 0.0, -8.0], [1.0, 0.0, 2.0, 0.0]])
    model = tq.compress(layer, {"0": [tq.TwoFour(), tq.LSQ(bits=4)]})
    model[0].parametrizations.weight[1].scale.data.fill_(1.0)
    chain = tq.pack(model)[0].parametrizations.weight
    assert chain.original.tolist() == [0x0F, 0xA9]  # codes + 8, the first one in the low half
    assert chain[0].places.tolist() == [0b10_00_11_01]  # places 1, 3 and 0, 2


def test_a_sparse_float_model_is_half_as_large(tmp_path):
    model, dense = student(), net()
    found, weights = tq.report(model, reference=dense), 24 * 32 + 32 * 8
    assert found.nominal == 4 * (weights // 2 + 40) and found.parameters == weights + 40
    assert found.with_metadata == found.nominal + weights // 8
    assert found.file < tq.report(dense).file and found.rows[0]["bits"] == [32]
    chain = tq.pack(model)[0].parametrizations.weight
    assert isinstance(chain[0], PackedNM) and chain.original.dtype == torch.float32
    assert tq.pack(model).half()[0].weight.dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("edits", [(), (tq.LSQ(bits=4),)], ids=["floats", "4 bits"])
def test_other_types_pack_and_load(dtype, edits, tmp_path):
    plan = {"0": [tq.TwoFour(), *edits]}
    model, x = tq.calibrate(tq.compress(net().to(dtype), plan)), torch.randn(4, 24).to(dtype)
    path = tq.save(tq.pack(model), tmp_path / "model.safetensors")
    loaded = tq.load(net().to(dtype), path)
    assert loaded(x).dtype == dtype and torch.equal(loaded(x), model(x))


def test_packed_masks_follow_a_change_of_their_places():
    packed = tq.pack(student(tq.LSQ(bits=4)))
    before = packed[0].weight.clone()
    packed[0].parametrizations.weight[0].places.fill_(0b11_10_11_10)  # all at places 2 and 3
    assert not packed[0].weight[:, 0::4].any() and before[:, 0::4].any()


@pytest.mark.parametrize("width", [5, 6, 7])
def test_padded_widths_round_trip(width, tmp_path):
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(width, 8))
    for edits in ([], [tq.LSQ(bits=4)]):
        model = tq.calibrate(tq.compress(dense, {"0": [tq.TwoFour(pad=True), *edits]}))
        x, packed = torch.randn(3, width), tq.pack(model)
        kept = min(width - 4, 2)
        assert (mask_of(model[0]).sum(1) == 2 + kept).all()
        assert torch.equal(packed(x), model(x)) and torch.equal(tq.unpack(packed)(x), model(x))
        assert torch.equal(mask_of(packed[0]), mask_of(model[0]))
        assert tq.report(packed).summary() == tq.report(model).summary()


FACTORS = {  # edit, the axis that each core is masked along
    "train": (tq.TT(rank=8, out_modes=(4, 8), in_modes=(6, 4)), [-1, -1, -1, -2]),
    "low rank": (tq.LowRank(rank=8), [-1, -1]),
    "Kronecker": (tq.Kronecker(rank=1, out_modes=(8, 4), in_modes=(4, 6)), [-1]),  # 6 is refused
}


@pytest.mark.parametrize("kind", FACTORS)
def test_factors_are_masked_along_their_input(kind, tmp_path):
    structure, axes = FACTORS[kind]
    only = ["core_0"] if kind == "Kronecker" else None
    plan = {"0": [structure, tq.TwoFour(only=only), tq.LSQ(bits=4)]}
    model, x = tq.calibrate(tq.compress(net(), plan)), torch.randn(4, 24)
    masked = [name for name in model[0].parametrizations if mask_of(model[0], name) is not None]
    assert len(masked) == len(axes)
    for name, axis in zip(masked, axes, strict=True):
        core = getattr(model[0], name).detach().movedim(axis, -1)
        assert ((core.reshape(-1, 4) == 0).sum(1) >= 2).all() and core.any()
        assert (mask_of(model[0], name).movedim(axis, -1).reshape(-1, 4).sum(1) == 2).all()
    loaded = tq.load(net(), tq.save(tq.pack(model), tmp_path / "model.safetensors"))
    assert torch.equal(loaded(x), model(x))
    assert_close(tq.bake(model, dense=True)(x), model(x), atol=1e-5, rtol=1e-4)


def test_convolutions_are_masked_along_their_channels():
    layer = tq.TwoFour()(nn.Conv2d(8, 6, 3))
    assert (mask_of(layer).reshape(6, 2, 4, 9).sum(2) == 2).all()
    model = tq.calibrate(tq.LSQ(bits=4)(layer))
    x = torch.randn(1, 8, 5, 5)
    assert torch.equal(tq.pack(nn.Sequential(model))(x), model(x))


def test_preview_and_a_layer_on_meta():
    shown = tq.preview(net(), {"0": [tq.TwoFour(), tq.LSQ(bits=4)]})
    assert "NMMask" in str(shown) and shown.before == shown.after
    layer = tq.TwoFour()(nn.Linear(24, 32, device="meta"))
    assert layer.weight.is_meta and mask_of(layer).is_meta


def test_norms_of_the_inputs_choose_other_weights():
    teacher, model = net(), student(tq.LSQ(bits=4))
    batches = [torch.randn(6, 24) * torch.linspace(0.1, 3, 24) for _ in range(4)]
    norms = input_norms(teacher, batches)
    whole = torch.cat(batches)
    assert_close(norms["0"], whole.norm(dim=0))
    assert_close(norms["2"], teacher[:2](whole).norm(dim=0).detach())
    tokens = input_norms(teacher, [(whole.reshape(2, 12, 24),)])  # any number of leading axes
    assert_close(tokens["0"], norms["0"])
    before = mask_of(model[0])
    assert remask(model, norms) is model
    scores = (teacher[0].weight * norms["0"]).abs().detach().reshape(-1, 4)
    wanted = torch.zeros_like(scores, dtype=torch.bool).scatter(1, scores.topk(2).indices, True)
    assert torch.equal(mask_of(model[0]), wanted.reshape(32, 24))
    assert not torch.equal(mask_of(model[0]), before)
    assert torch.equal(mask_of(remask(model)[0]), before)  # back to the magnitude
    exact = teacher[0](whole)
    errors = []
    for chosen in (None, norms):
        remask(model, chosen)
        pruned = teacher[0].weight * mask_of(model[0])
        errors.append(float((whole @ pruned.T + teacher[0].bias - exact).norm().detach()))
    assert errors[1] < errors[0]


def test_masks_see_what_the_stages_before_them_leave():
    class Rolled(nn.Module):
        def forward(self, x):
            return x.roll(1, -1)

    layer = nn.Linear(8, 4)
    parametrize.register_parametrization(layer, "weight", Rolled())
    wanted = nm_mask(layer.weight.abs())
    follower = tq.TwoFour(update="ste")(copy.deepcopy(layer))
    model = nn.Sequential(tq.TwoFour()(layer))
    for made in (follower, layer, remask(model)[0]):
        assert torch.equal(mask_of(made), wanted) and torch.equal(made.weight != 0, wanted)


def bert():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"vocab_size": 60, "max_position_embeddings": 20}
    return Bert(BertConfig(intermediate_size=64, num_labels=3, **sizes, **text)).eval()


@pytest.mark.parametrize("edits", [(), (tq.LSQ(bits=4),)], ids=["floats", "4 bits"])
@pytest.mark.parametrize("update", ["fixed", "sr-ste"])
def test_from_pretrained_gives_the_same_logits(edits, update, tmp_path):
    plan = {"*.encoder.*": [tq.TwoFour(update=update), *edits]}
    model = tq.calibrate(tq.compress(bert(), plan)).eval()
    inputs = {"input_ids": torch.randint(5, 60, (2, 9))}
    for verb in (tq.pack, lambda m: m):
        verb(model).save_pretrained(tmp_path)
        again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)
        assert tq.describe(again) == tq.describe(verb(model))
        layers = zip(model.bert.encoder.modules(), again.bert.encoder.modules(), strict=False)
        pairs = [(mask_of(a), mask_of(b)) for a, b in layers if isinstance(a, nn.Linear)]
        if verb is not tq.pack:
            assert len(pairs) == 12 and all(torch.equal(a, b) for a, b in pairs)


LOST = [
    (
        nn.Linear(6, 4),
        tq.TwoFour(),
        ValueError,
        r"divisible by 4, but Linear.weight .*leave the la",
    ),
    (
        tq.factors.TTLinear((4, 6), (6, 4), 6),
        tq.TwoFour(),
        ValueError,
        "TTLinear.core_1 .*only=.*pad=True",
    ),
    (nn.ReLU(), tq.TwoFour(), TypeError, "no weight to mask on a ReLU"),
    (
        nn.Linear(8, 4),
        tq.TwoFour(only=["wait"]),
        ValueError,
        r"no weight 'wait', only \['weight'\]",
    ),
    (tq.LSQ(bits=4)(nn.Linear(8, 4)), tq.TwoFour(), ValueError, "put TwoFour before the quantizer"),
    (tq.TwoFour()(nn.Linear(8, 4)), tq.TwoFour(), ValueError, "has a mask already"),
]


@pytest.mark.parametrize(("layer", "edit", "error", "message"), LOST)
def test_what_cannot_be_masked_is_refused(layer, edit, error, message):
    before = list(getattr(layer, "parametrizations", {}))
    with pytest.raises(error, match=message):
        edit(layer)
    assert list(getattr(layer, "parametrizations", {})) == before


def test_refused_arguments():
    with pytest.raises(ValueError, match="a pattern reads"):
        tq.TwoFour("half")
    with pytest.raises(ValueError, match="update is 'fixed'"):
        tq.TwoFour(update="hard")
    with pytest.raises(ValueError, match="a decay is at least 0"):
        tq.TwoFour(decay=-1.0)
    for only in ((), "core_0"):
        with pytest.raises(ValueError, match="only lists names of weights"):
            tq.TwoFour(only=only)


def test_a_structure_after_the_mask_and_a_nan_are_refused():
    with pytest.raises(ValueError, match="put TT first in the plan"):
        tq.compress(net(), {"0": [tq.TwoFour(), tq.TT(rank=4)]})
    model = net()
    model[0].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        tq.compress(model, {"0": [tq.TwoFour()]})
    with pytest.raises(TypeError, match=r"call tqlearn.unpack\(model\) first"):
        tq.compress(tq.pack(student()), {"0": [tq.TwoFour()]})


def test_norms_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="need a batch that reaches a linear layer"):
        input_norms(net(), [])
    with pytest.raises(ValueError, match="no fixed N:M mask"):
        remask(net())
    with pytest.raises(ValueError, match="no fixed N:M mask"):
        remask(student(update="ste"))
    with pytest.raises(ValueError, match="no input norm for '2'; known are \\['0'\\]"):
        remask(student(), {"0": torch.ones(24)})


def test_a_grid_without_a_zero_is_refused_by_pack():
    with pytest.raises(ValueError, match="turns dropped weights into something else than zero"):
        tq.pack(student(tq.SAWB(bits=4, zero=False)))


def test_streams_have_codes_of_one_to_eight_bits():
    assert pack_bits(torch.tensor([1, 0, 1]), 1, 0).tolist() == [0b101]
    for bits in (0, 9):
        with pytest.raises(ValueError, match="codes have 1 to 8 bits"):
            pack_bits(torch.tensor([0]), bits, 0)


def test_a_damaged_mask_is_refused_by_pack():
    model = student(tq.LSQ(bits=4))
    model[0].parametrizations.weight[0].mask.fill_(True)
    with pytest.raises(ValueError, match="keeps more than 2:4 allows"):
        tq.pack(model)


def test_a_masked_student_on_the_trainer(tmp_path):
    """AdamW of transformers, weight decay, a checkpoint, and the mask of before the training."""
    model = tq.calibrate(tq.compress(bert(), {"*.encoder.*": [tq.TwoFour(), tq.LSQ(bits=4)]}))
    layers = [m for m in model.bert.encoder.modules() if isinstance(m, nn.Linear)]
    before = [(mask_of(m), m.weight.detach().clone()) for m in layers]
    rows = [{"input_ids": torch.arange(5, 12), "labels": i % 3} for i in range(16)]
    arguments = TrainingArguments(
        tmp_path,
        max_steps=5,
        save_steps=5,
        learning_rate=1e-2,
        weight_decay=0.1,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    ScaleTrainer(model, arguments, train_dataset=rows).train()
    for layer, (mask, weight) in zip(layers, before, strict=True):
        assert torch.equal(mask_of(layer), mask) and not torch.equal(layer.weight, weight)
        assert_half_is_zero(layer.weight, mask)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-5")
    inputs = {"input_ids": torch.randint(5, 60, (2, 9))}
    assert torch.equal(again(**inputs).logits, model.eval()(**inputs).logits)
