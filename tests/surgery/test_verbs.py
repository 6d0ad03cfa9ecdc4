"""Plans, edits and verbs: the right layers, nothing half-done, and every refusal by its message."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import tqlearn as tq


def model():
    return nn.Sequential(nn.Linear(24, 36), nn.ReLU(), nn.Linear(36, 24), nn.Linear(24, 2)).eval()


def state(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_first_match_wins_and_the_teacher_is_untouched():
    teacher = model()
    before = state(teacher)
    student = tq.compress(teacher, {"0": [tq.TT(rank=4)], "3": [], "*": [tq.LSQ(bits=4)]})
    kinds = [type(m).__name__ for m in student]
    assert kinds == ["TTLinear", "ReLU", "ParametrizedLinear", "Linear"]
    assert same(state(teacher), before) and type(teacher[0]) is nn.Linear


def test_inplace_changes_the_model_itself():
    teacher = model()
    assert tq.compress(teacher, {"0": [tq.TT(rank=4)]}, inplace=True) is teacher
    assert type(teacher[0]).__name__ == "TTLinear"


def test_full_rank_student_gives_the_teachers_outputs():
    teacher, x = model(), torch.randn(5, 24)
    student = tq.compress(teacher, {"[02]": [tq.TT(rank=1000)]})
    assert_close(student(x), teacher(x), atol=1e-5, rtol=1e-5)


def test_quantizers_sit_on_every_core_and_not_on_biases():
    student = tq.compress(model(), {"0": [tq.TT(rank=4), tq.LSQ(bits=4)]})
    assert sorted(student[0].parametrizations) == ["core_0", "core_1", "core_2", "core_3"]
    assert isinstance(student[0].bias, nn.Parameter)


def test_a_student_can_be_compressed_again_and_copies_stay_apart():
    """torch keeps parametrized properties on a class that copies share; ours must not leak."""
    first = tq.calibrate(tq.compress(model(), {"0": [tq.TT(rank=4), tq.LSQ(bits=8)]}))
    x = torch.randn(3, 24)
    y = first(x)
    packed = tq.pack(first)
    baked = tq.bake(first, dense=True)
    second = tq.compress(first, {"2": [tq.LSQ(bits=4)]})
    assert torch.equal(first(x), y) and torch.equal(packed(x), y)
    assert_close(baked(x), y, atol=1e-6, rtol=1e-5)
    assert torch.isnan(second(x)).all()  # the new quantizer is not calibrated, first's are


def test_a_custom_edit_is_any_callable():
    def without_bias(layer):
        layer.bias = None
        return layer

    student = tq.compress(model(), {"3": [without_bias, tq.LSQ(bits=8)]})
    assert student[3].bias is None
    assert "without_bias" in tq.preview(model(), {"3": [without_bias]}).rows[0]["edits"][0]


def test_preview_counts_what_compress_makes():
    plan = {"0": [tq.TT(rank=4), tq.LSQ(bits=4)], "2": [tq.LSQ(bits=8)]}
    teacher = model()
    shown = tq.preview(teacher, plan)
    student = tq.compress(teacher, plan)
    cores = sum(core.numel() for core in student[0].cores) + 36
    assert [row["after"] for row in shown.rows] == [cores, 24 * 36 + 24]
    assert shown.before == 24 * 36 * 2 + 36 + 24 and shown.after == cores + 24 * 36 + 24
    assert "TTLinear" in str(shown) and "LSQ 4" in shown._repr_html_()
    assert repr(shown) == str(shown)


def test_embedding_keeps_its_padding_index():
    table = nn.Sequential(nn.Embedding(50, 16, padding_idx=0))
    student = tq.compress(table, {"0": [tq.TTM(rank=100, order=2)]})
    ids = torch.tensor([0, 49, 3])
    assert student[0].padding_idx == 0
    assert_close(student(ids), table(ids), atol=1e-5, rtol=1e-5)


def test_random_start_keeps_the_bias():
    teacher = model()
    student = tq.compress(teacher, {"0": [tq.TT(rank=4, init="random")]})
    assert torch.equal(student[0].bias, teacher[0].bias)
    assert not torch.allclose(student[0].dense().weight, teacher[0].weight, atol=0.05)


def test_bake_gives_plain_layers_with_the_quantized_values():
    teacher, x = model(), torch.randn(4, 24)
    plan = {"0": [tq.TT(rank=4), tq.LSQ(bits=4)], "2": [tq.LSQ(bits=4)]}
    student = tq.calibrate(tq.compress(teacher, plan))
    baked, dense = tq.bake(student), tq.bake(student, dense=True)
    assert torch.equal(baked(x), student(x))
    assert_close(dense(x), student(x), atol=1e-6, rtol=1e-5)
    assert [type(m) for m in dense] == [type(m) for m in teacher]
    assert dense[2].weight.unique().numel() <= 16


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_survives(training):
    student = tq.compress(model().train(training), {"0": [tq.TT(rank=4)]})
    assert all(m.training == training for m in student.modules())


REFUSED = [
    ({"encoder.*": [tq.TT(rank=4)]}, ValueError, "'encoder.\\*' matches no Linear or Embedding"),
    ({"0": [tq.TT(rank=4, out_modes=(5, 7))]}, ValueError, "modes .* give 35 x 24, but .* 36 x 24"),
    ({"0": [tq.TTM(rank=4)]}, TypeError, "TTM takes an nn.Embedding, got Linear"),
    ({"0": ["TT"]}, TypeError, "'TT' is no edit"),
    ({"0": [lambda m: None]}, TypeError, "returned a NoneType for '0', not a module"),
    ({"0": [tq.LSQ(bits=4, activations=8)]}, TypeError, "needs a TTLinear, got Linear"),
    ({"2": [tq.TT(rank=2)], "0": [tq.TT(rank=4, in_modes=(5, 5))]}, ValueError, "give 36 x 25"),
]


@pytest.mark.parametrize(("plan", "error", "message"), REFUSED)
@pytest.mark.parametrize("inplace", [True, False])
def test_a_refused_plan_changes_nothing(plan, error, message, inplace):
    teacher = model()
    before, classes = state(teacher), [type(m) for m in teacher.modules()]
    with pytest.raises(error, match=message):
        tq.compress(teacher, plan, inplace=inplace)
    assert same(state(teacher), before) and [type(m) for m in teacher.modules()] == classes


def test_an_unmatched_pattern_names_the_nearest():
    net = nn.ModuleDict({"attention": nn.Linear(4, 4), "dense": nn.Linear(4, 4)})
    with pytest.raises(ValueError, match=r"nearest names: \['attention', 'dense'\]"):
        tq.compress(net, {"*.atention*": [tq.LSQ(bits=4)]})


@pytest.mark.parametrize("edit", [tq.TT(rank=4), tq.LSQ(bits=4)])
def test_nan_weights_are_refused(edit):
    teacher = model()
    teacher[0].weight.data[3, 3] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        tq.compress(teacher, {"0": [edit]}, inplace=True)
    assert type(teacher[0]) is nn.Linear


def test_listed_ranks_above_the_admissible_ones_are_clipped_and_said():
    plan = {"0": [tq.TT(rank=(1, 50, 50, 50, 1), out_modes=(6, 6), in_modes=(4, 6))]}
    with pytest.warns(UserWarning, match=r"exceed what modes .* using \(1, 6, 24, 6, 1\)"):
        student = tq.compress(model(), plan)
    assert student[0].ranks == (1, 6, 24, 6, 1)


def test_edits_are_values():
    assert tq.TT(rank=4) == tq.TT(rank=4) != tq.TT(rank=5)
    assert repr(tq.LSQ(bits=4)).startswith("LSQ(bits=4")
    assert copy.deepcopy(tq.TTM(rank=3)) == tq.TTM(rank=3)


def test_attributes_that_do_not_exist_say_so():
    with pytest.raises(AttributeError, match="no attribute 'Tensor'"):
        tq.Tensor  # noqa: B018


class Scaled(nn.Linear):
    def forward(self, x):
        return 4 * super().forward(x)


def quantized():
    return tq.calibrate(tq.compress(model(), {"0": [tq.LSQ(bits=4)]}))


LOST = [
    (nn.Sequential(Scaled(20, 8)), [tq.TT(rank=4)], TypeError, "Scaled has a forward of its own"),
    (model(), [tq.LSQ(bits=4), tq.TT(rank=4)], ValueError, "put TT first in the plan"),
    (quantized(), [tq.TT(rank=4, init="random")], ValueError, "would drop the mask or quantizer"),
]


@pytest.mark.parametrize(("net", "edits", "error", "message"), LOST)
@pytest.mark.parametrize("verb", [tq.compress, tq.preview])
def test_an_edit_that_would_lose_something_is_refused(net, edits, error, message, verb):
    with pytest.raises(error, match=message):
        verb(net, {"0": edits})


def test_a_model_that_cannot_describe_itself_changes_nothing():
    class Nameless(nn.Module):
        def forward(self, x):
            return x

    def nameless(layer):
        nn.utils.parametrize.register_parametrization(layer, "weight", Nameless())
        return layer

    class Config:
        def to_dict(self):
            return {}

    teacher = model()
    teacher.config = Config()
    with pytest.raises(ValueError, match="0.weight carries a Nameless"):
        tq.compress(teacher, {"0": [nameless], "2": [tq.TT(rank=4)]}, inplace=True)
    assert [type(teacher[i]) for i in (0, 2)] == [nn.Linear] * 2


def test_a_bare_layer_and_an_empty_preview():
    with pytest.raises(ValueError, match="is itself a Linear; call the edit on it"):
        tq.compress(nn.Linear(4, 4), {"*": [tq.LSQ(bits=4)]})
    assert "together" in str(tq.preview(model(), {"*": []}))


def test_quantizing_twice_is_refused():
    once = tq.compress(model(), {"0": [tq.LSQ(bits=8)]})
    with pytest.raises(ValueError, match="Linear.weight is quantized already"):
        tq.compress(once, {"0": [tq.LSQ(bits=4)]})
    tq.compress(tq.bake(tq.calibrate(once)), {"0": [tq.LSQ(bits=4)]})


def test_a_subclass_nobody_registered_is_not_saved_as_its_parent():
    class MyTT(tq.factors.TTLinear):
        pass

    net = model()
    net[0] = MyTT((6, 6), (6, 4), 3)
    with pytest.raises(ValueError, match="0 is a MyTT, which no saved model could rebuild"):
        tq.describe(net)


def test_counts_need_a_trained_table():
    with pytest.raises(ValueError, match="go with init='svd'"):
        tq.TTM(rank=2, init="random", counts=(1, 2))


def test_a_second_plan_finds_nothing_behind_the_stages_of_the_first():
    """A mask first, a quantizer later, by one wide pattern: no word of matrices left out."""
    layer = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8)))
    masked = tq.compress(layer, {"*": [tq.TwoFour()]})
    assert tq.preview(masked, {"*": [tq.LSQ(bits=4)]}).left == {}
    both = tq.compress(masked, {"*": [tq.LSQ(bits=4)]})  # a warning would be an error here
    assert [type(s).__name__ for s in both[0].parametrizations.weight] == ["NMMask", "LSQ"]
