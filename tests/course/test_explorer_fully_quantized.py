"""Notebook 13: what its explorer computes and draws, and the edges of its exercises."""

import time
from math import exp

import pytest
import torch
from torch.testing import assert_close

import tqlearn as tq
from tqlearn import MinMax
from tqlearn.lab.check import check
from tqlearn.lab.exercises import n13_fully_quantized_translation as n13
from tqlearn.lab.explorers import fully_quantized as explorer
from tqlearn.lab.explorers.base import unbroken
from tqlearn.models import Transformer
from tqlearn.quantizers import integers
from tqlearn.quantizers.ranges import Uniform
from tqlearn.quantizers.running_ranges import RunningRange

SMALL = {"vocabulary": 20, "width": 16, "ffn": 24, "heads": 2, "layers": 1, "dropout": 0.0}


def sentences(seed):
    ids = torch.randint(3, 20, (12, 8), generator=torch.Generator().manual_seed(seed))
    ids[::2, 6:] = 0
    ids[torch.arange(12), torch.tensor([5, 7]).repeat(6)] = 2
    return {"input_ids": ids, "labels": ids.flip(0).masked_fill(ids.flip(0) == 0, -100)}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    found = Transformer(**SMALL)
    optimizer = torch.optim.Adam(found.parameters(), 5e-3)
    for seed in range(40):
        optimizer.zero_grad()
        found(**sentences(seed % 8))["loss"].backward()
        optimizer.step()
    return found.eval()


@pytest.fixture(scope="module")
def batches():
    return [sentences(1), sentences(2)]


@pytest.fixture(scope="module")
def student(model, batches):
    return explorer.at_rest(model, batches, "feature", True)


@pytest.fixture(scope="module")
def table(model, batches):
    return explorer.kind_table(model, batches, sentences(3))


@pytest.fixture
def widget(table):
    return explorer.fully_quantized_explorer(table)


def loss(model):
    with torch.no_grad():
        return model.eval()(**sentences(3))["loss"].item()


def test_every_place_is_of_one_kind(student):
    found = [name for kind in explorer.KINDS for name in explorer.places(student, kind)]
    assert len(found) == len(set(found)) == 47 + 16 + 5 + 1 + 1
    assert sorted(found) == sorted(explorer.places(student, "everything"))
    assert len(explorer.places(student, "matrices")) == 16
    assert len(explorer.places(student, "queries and keys")) == 6
    assert len(explorer.places(student, "all that flows")) == 47
    assert explorer.places(student, "nothing") == []
    with pytest.raises(ValueError, match="kinds are"):
        explorer.places(student, "biases")


def test_nothing_is_the_model_and_all_rest_afterwards(model, student):
    before = student.positions
    assert explorer.effect(student, "nothing", 2, sentences(3))["perplexity"] == pytest.approx(
        exp(loss(model)), rel=1e-6
    )
    explorer.effect(student, "everything", 2, sentences(3))
    assert student.positions is before and before.bits is None
    assert not any(m.rounds for m in student.modules() if isinstance(m, Uniform))
    assert loss(student) == pytest.approx(loss(model), rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [("word table", "embedding"), ("positions", "positions"), ("embedding sums", "*.quant_sum")],
)
@pytest.mark.parametrize("bits", [8, 3])
def test_one_kind_is_an_ordinary_plan(model, student, batches, kind, pattern, bits):
    plan = {pattern: [MinMax(bits)]}
    theirs = tq.compress(model, plan)
    if kind != "positions":
        tq.calibrate(theirs, batches)
    mine = explorer.effect(student, kind, bits, sentences(3))
    assert mine["perplexity"] == pytest.approx(exp(loss(theirs)), rel=1e-5)
    assert abs(mine["perplexity"] - exp(loss(model))) > 1e-6


def test_everything_is_the_whole_plan_with_the_same_ranges(model, student):
    whole = tq.compress(model, {"*": [MinMax(4)]})
    whole.load_state_dict(student.state_dict())
    found = explorer.effect(student, "everything", 4, sentences(3))
    assert found["perplexity"] == pytest.approx(exp(loss(whole)), rel=1e-5)


def test_right_is_counted_where_labels_are(model, student):
    batch = sentences(3)
    with torch.no_grad():
        guess = model(**batch)["logits"].argmax(-1)
    known = batch["labels"] != -100
    share = (guess == batch["labels"])[known].double().mean().item()
    assert explorer.effect(student, "nothing", 8, batch)["right"] == pytest.approx(share)
    assert 0 < share < 1


def test_ranges_and_zeros_are_what_they_say(model, batches, student):
    control = explorer.at_rest(model, batches, "tensor", False)

    def running(m):
        return {n: q for n, q in m.named_modules() if isinstance(q, RunningRange)}

    assert {q.groups for q in running(control).values()} == {1}
    assert all(q.signed and q.padding for q in running(control).values())
    zero = [q for n, q in running(student).items() if n.endswith("quant_hidden")]
    assert zero and all((q.low == 0).all() and not q.signed for q in zero)
    assert not any(q.padding for q in running(student).values())
    assert running(student)["encoder.quant_sum"].groups == 16


@pytest.mark.slow
def test_the_table_is_whole_and_plausible(table, model):
    assert len(table) == 20 * 5 * 4 and len(explorer.CHOICES) == 20
    floats = exp(loss(model))
    for row in table:
        assert row["added"] == pytest.approx(row["perplexity"] - floats, abs=1e-6)
        if row["kind"] in (*explorer.WEIGHTS, "all weights"):
            (other,) = explorer.chosen(table, kind=row["kind"], bits=row["bits"],
                                       ranges=row["ranges"], zeros="kept")  # fmt: skip
            assert row["perplexity"] == other["perplexity"]
    for kind in ("norm: deviation", "softmax: exp", "ReLU's output", "gammas"):
        one, two = (explorer.chosen(table, kind=kind, zeros="kept", ranges=r)
                    for r in explorer.RANGES)  # fmt: skip
        assert [row["added"] for row in one] == pytest.approx([row["added"] for row in two])
    ends = [explorer.chosen(table, kind="everything", bits=b, ranges=explorer.FULLYQT[0],
                            zeros="kept")[0]["added"] for b in (8, 2)]  # fmt: skip
    assert abs(ends[0]) < 0.2 < ends[1]


@pytest.mark.slow
def test_a_moved_control_draws_what_a_fresh_figure_would(widget, table):
    moves = {"kind": "values", "bits": 2, "ranges": "one per tensor", "zeros": "not kept"}
    for name, value in moves.items():
        widget.controls[name].value = value
    fresh, words = explorer.draw_kinds(**moves, table=table)
    assert widget.caption.value == unbroken(words)
    assert "values at 2 bits, ranges one per tensor" in words
    assert widget.figure.layout.title.text == fresh.layout.title.text
    assert fresh.layout.title.text.startswith("values at 2 bits: perplexity")
    assert len(fresh.data) == len(widget.figure.data) == 4
    for mine, other in zip(widget.figure.data, fresh.data, strict=True):
        assert list(mine.y) == list(other.y) and list(mine.x) == list(other.x)


@pytest.mark.slow
def test_the_drawing_shows_the_table(widget, table):
    setting = {"ranges": explorer.FULLYQT[0], "zeros": explorer.FULLYQT[1]}
    bars, full, control, ring = widget.figure.data
    assert list(bars.y) == [*explorer.CHOICES]
    shown = [row["added"] for row in explorer.chosen(table, bits=3, **setting)]
    assert list(bars.x) == pytest.approx([max(x, explorer.LEAST) for x in shown])
    assert bars.marker.color.count(explorer.plots.ORANGE) == 1
    (mine,) = explorer.chosen(table, kind="norm: x − mean", bits=3, **setting)
    assert (ring.x[0], ring.y[0]) == (3, max(mine["added"], explorer.LEAST))
    assert ring.y[0] == full.y[3] and list(full.x) == [*range(5)]
    (other,) = explorer.chosen(table, kind="norm: x − mean", bits=2, ranges="one per tensor",
                               zeros="not kept")  # fmt: skip
    assert control.y[4] == max(other["added"], explorer.LEAST)
    assert f"perplexity {mine['perplexity']:.2f} where floats have" in widget.caption.value


@pytest.mark.slow
def test_a_callback_takes_less_than_300_ms(widget):
    start = time.thread_time()
    widget.controls["bits"].value = 8
    assert time.thread_time() - start < 0.3


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_grid_with_a_zero_is_the_librarys(bits):
    torch.manual_seed(0)
    x, g = torch.randn(3, 5, 7), torch.randn(3, 5, 7)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    q = RunningRange(bits, signed=False).eval()
    q.low.fill_(0), q.high.fill_(1.1)
    out = n13.zero_grid(mine, torch.tensor(1.1), bits)
    assert_close(out, q(theirs))
    out.backward(g)
    q(theirs).backward(g)
    assert_close(mine.grad, theirs.grad)


def test_a_function_of_ones_own_passes():
    class Grid(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, high, bits):
            ctx.save_for_backward((x >= 0) & (x <= high))
            return n13.zero_grid(x, high, bits)

        @staticmethod
        def backward(ctx, g):
            return g * ctx.saved_tensors[0], None, None

    assert check("13.1", Grid.apply).passed
    assert "no gradient" in check("13.1", lambda x, h, b: n13.zero_grid(x.detach(), h, b)).line


@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_the_range_that_runs_is_the_librarys(momentum):
    *_, (batches, _) = n13._padded(torch.Generator().manual_seed(5))
    q = RunningRange(8, features=6, momentum=momentum)
    for x, mask in batches:
        q(x, mask.bool())
    found = n13.running_range(batches, momentum)
    assert_close(found, (q.low.flatten(), q.high.flatten()))


def test_one_batch_is_its_own_range():
    (x, mask), *_ = next(n13._padded(torch.Generator().manual_seed(0)))[0]
    low, high = n13.running_range([(x, mask)], 0.9)
    real = x[mask.bool()]
    assert_close((low, high), (real.amin(0), real.amax(0)))


def test_one_range_for_all_is_the_librarys_product():
    torch.manual_seed(0)
    q = torch.randint(0, 256, (6, 30)).to(torch.uint8)
    W, s, low = torch.randn(5, 30), torch.tensor(0.03), torch.tensor(-2.0)
    p = Uniform(8, groups=5).calibrate(W)
    grids = (s, low), (p.scale, p.low)
    theirs = integers.product(q.to(torch.int16), p.codes(W), *grids)
    hat = p.eval()(W)  # the library adds the lower ends with the rounded weights
    mine = n13.folded_product(q, s.expand(30), low.expand(30), W, 8)
    assert_close(mine - (W - hat).sum(1) * low, theirs, rtol=1e-4, atol=1e-3)


def test_folding_is_right_to_half_a_step():
    for q, s, low, W, bits in n13._features(torch.Generator().manual_seed(3)):
        exact = (s * q + low).double() @ W.double().T
        step = (W * s).amax(1) - (W * s).amin(1)
        most = q.int().sum(1, keepdim=True) * step / (2**bits - 1) / 2
        assert ((n13.folded_product(q, s, low, W, bits) - exact).abs() <= most * 1.001).all()
