"""Sweeps: the front is what it says, the same seed finds it again, and a kill costs one trial."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn
from warm import FRESH

import tqlearn as tq
from tqlearn.spaces import EDITS, Open, filled, is_open, ranges_in, read, written

optuna = pytest.importorskip("optuna")
from tqlearn.sweep import Sweep, choice, each, floats, ints, plot_front  # noqa: E402

SPACE = {
    "0": [tq.TT(rank=ints(1, 12)), tq.LSQ(bits=choice(2, 4, 8))],
    "2": choice([], [tq.LSQ(bits=ints(2, 8))], [tq.LowRank(rank=ints(1, 6))]),
}


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 36), nn.ReLU(), nn.Linear(36, 8)).eval()


TEACHER, X = model(), torch.randn(32, 16, generator=torch.Generator().manual_seed(1))


def close(student):
    """Minus the mean square error of a student's outputs."""
    with torch.no_grad():
        return -(student(X) - TEACHER(X)).square().mean().item()


def sweep(**options):
    return Sweep(TEACHER, options.pop("space", SPACE), close, **options)


def run(trials=10, **options):
    return sweep(**options).run(trials, progress=False)


@pytest.mark.parametrize(
    "edit",
    [
        tq.TT(rank=3), tq.TT(rank=3, out_modes=(6, 6), in_modes=(4, 4)), tq.TTM(ratio=4),
        tq.LowRank(error=0.5), tq.Kronecker(rank=2), tq.LSQ(bits=4, per=8), tq.SAWB(bits=4),
        tq.Inputs(tq.PACT(bits=4)), tq.TwoFour(), tq.BlockPrune((4, None), group="a"),
        tq.MinMax(bits=6), tq.Ternary(), tq.Uniform(bits=3, per="channel"),
    ],
    ids=repr,
)  # fmt: skip
def test_json_holds_every_edit(edit):
    specs = json.loads(json.dumps(written([edit])))
    assert read(specs) == [edit] and specs[0]["edit"] in EDITS


def test_compress_takes_json():
    plan = {"0": [tq.TT(rank=3), tq.LSQ(bits=4)], "2": []}
    specs = json.loads(json.dumps({name: written(edits) for name, edits in plan.items()}))
    one, two = (tq.calibrate(tq.compress(TEACHER, p)) for p in (plan, specs))
    assert torch.equal(one(X), two(X)) and tq.preview(TEACHER, specs).rows
    with pytest.raises(ValueError, match="no edit is called 'TTT'; there are .*'TT'"):
        tq.compress(TEACHER, {"0": [{"edit": "TTT"}]})
    with pytest.raises(TypeError, match="is no tqlearn edit"):
        written([lambda layer: layer])


def test_an_open_edit_is_none_yet():
    edit = tq.Inputs(tq.LSQ(bits=choice(4, 8)))
    assert isinstance(edit, Open) and repr(edit) == "Inputs(LSQ(bits=choice(4, 8)))"
    with pytest.raises(TypeError, match="0: LSQ.* has ranges in it; tqlearn.sweep fills"):
        tq.compress(TEACHER, {"0": [tq.LSQ(bits=ints(2, 4))]})
    with pytest.raises(ValueError, match="bits"):  # checked once the number is there
        filled([tq.LSQ(bits=ints(2, 40))], lambda name, among: among.high)


def test_names_of_ranges_are_unique_and_only_the_chosen_are_asked():
    asked = []

    def last(name, among):
        asked.append(name)
        return repr(among.options[-1]) if hasattr(among, "options") else among.high

    plan = filled(SPACE, last)
    assert asked == ["0[0].rank", "0[1].bits", "2", "2[0].rank"]
    assert plan == {"0": [tq.TT(rank=12), tq.LSQ(bits=8)], "2": [tq.LowRank(rank=6)]}
    assert len(list(ranges_in(SPACE))) == 5 and is_open(SPACE) and not is_open(plan)


@pytest.mark.parametrize(
    "wrong", [lambda: ints(4, 2), lambda: ints(1, 9, step=0), lambda: ints(0, 9, log=True),
              lambda: floats(1, 1), lambda: floats(0, 1, log=True), lambda: choice(1),
              lambda: choice(2, 2)],
)  # fmt: skip
def test_ranges_that_hold_nothing(wrong):
    with pytest.raises(ValueError, match="range|choice"):
        wrong()


def test_the_front_is_not_beaten_and_its_numbers_are_true():
    done = run(14)
    front = done.front()
    trials = done.study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    sizes = [(t.values[0], t.values[1]) for t in trials]
    for one in front:
        assert not any(b <= one.bytes and s >= one.score and (b, s) != (one.bytes, one.score)
                       for b, s in sizes)  # fmt: skip
        student = tq.calibrate(tq.compress(TEACHER, one.plan))
        assert tq.report(student).file == one.bytes
        assert close(student.eval()) == pytest.approx(one.score, rel=1e-4, abs=1e-9)
    assert len(front) > 2 and [o.bytes for o in front] == sorted(o.bytes for o in front)
    limit = front[1].bytes
    assert done.best(limit) == front[1] and done.best().score == max(s for _, s in sizes)
    with pytest.raises(ValueError, match="no model has at most 10 bytes; the smallest has"):
        done.best(10)
    assert f"{front[0].bytes:,}" in done.table() and "14 complete" in done.table()
    figure = plot_front(done)
    assert list(figure.data[1].x) == [one.bytes for one in front]


@pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
def test_same_seed_same_front(sampler, tmp_path):
    """In memory, and in a journal that is closed and opened in the middle."""
    whole = run(9, seed=3, sampler=sampler).front()
    run(4, seed=3, sampler=sampler, storage=tmp_path / "journal")
    parts = run(9, seed=3, sampler=sampler, storage=tmp_path / "journal").front()
    assert whole == parts
    assert run(9, seed=4, sampler=sampler).front() != whole


def test_mixed_precision_gives_every_layer_its_own():
    space = each(TEACHER, {"2": [], "*": [tq.LSQ(bits=choice(2, 8))]})
    assert space == {"2": [], "0": [tq.LSQ(bits=choice(2, 8))]}
    space = each(TEACHER, {"*": [tq.LSQ(bits=choice(2, 8))]})
    assert len(run(4, space=space).study.trials[0].params) == 2


def test_too_large_or_hopeless_is_not_trained_to_its_end():
    steps = []

    def train(student, tell, rate, distilled):
        assert 0 < rate < 1 and distilled in (True, False)
        for step in range(3):
            steps.append(step)
            tell(step, close(student))

    options = {"rate": floats(1e-3, 1e-1, log=True), "distilled": choice(True, False)}
    limited = run(8, train=train, options=options, limit=1700)
    assert all(one.bytes <= 1700 for one in limited.front()) and len(steps) < 24
    assert set(limited.front()[0].options) == {"rate", "distilled"}
    reasons = [t.user_attrs.get("ended", "") for t in limited.study.trials]
    assert any("above the limit of 1,700" in reason for reason in reasons)
    steps.clear()
    ended = run(12, train=train, options=options, patience=2)
    reasons = [t.user_attrs.get("ended", "") for t in ended.study.trials]
    assert any("below the median" in reason for reason in reasons) and len(steps) < 36
    assert any(t.values for t in ended.study.trials)


def test_latency_is_a_third_objective():
    done = run(6, latency=lambda student: sum(p.numel() for p in student.parameters()) / 1e6)
    assert all(0 < one.latency < 1 for one in done.front())


def test_a_plan_that_a_layer_refuses_ends_that_trial_alone():
    space = {"0": [tq.LSQ(bits=4, per=ints(4, 7, step=3))]}  # 16 does not divide by 7
    done = run(8, space=space)
    refused = [t.user_attrs.get("refused", "") for t in done.study.trials]
    assert any("does not divide" in words for words in refused) and done.front()


def test_the_last_trials_of_another_machine_are_not_waited_for():
    done = sweep()
    trial = done.study.ask()
    trial.set_user_attr("worker", {"host": "another", "pid": 1, "began": 0.0})
    done.run(3, progress=False)
    states = [t.state for t in done.study.trials]
    assert states == [optuna.trial.TrialState.RUNNING, *2 * [optuna.trial.TrialState.COMPLETE]]


def test_refusals(tmp_path):
    with pytest.raises(TypeError, match="nothing to search"):
        sweep(space={"0": [tq.LSQ(bits=4)]})
    with pytest.raises(ValueError, match="sampler is one of"):
        sweep(sampler="grid")
    sweep(storage=tmp_path / "journal")
    with pytest.raises(ValueError, match="holds a study 'sweep' of another space"):
        sweep(storage=tmp_path / "journal", seed=1)


def test_what_fails_in_training_is_not_hidden():
    def broken(student, tell):
        raise KeyError("rows")

    with pytest.raises(KeyError, match="rows"):
        run(2, train=broken)


FILE = """
import os, signal, sys, time
from contextlib import suppress
from pathlib import Path
sys.path[:0] = {here!r}
from test_sweep import TEACHER, SPACE, close
from tqlearn.sweep import Sweep

def ended():
    trials = sweep.study.trials
    return {{t.user_attrs["worker"]["pid"] for t in trials if t.state.name == "COMPLETE"}}

def score(student):
    while ended() == {{os.getpid()}} and not Path("killed").exists():
        time.sleep(0.05)  # for the other worker's first trial
    if len(ended()) == 2:
        with suppress(FileExistsError), open("killed", "x") as file:  # one of them, once
            print(os.getpid(), file=file, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    return close(student)

sweep = Sweep(TEACHER, SPACE, score, storage="study")
"""


@pytest.mark.slow
def test_two_workers_share_a_study_and_one_of_them_is_killed(tmp_path):
    """SIGKILL in a trial: the other goes on, that plan is tried anew, nothing else is lost."""
    (tmp_path / "file.py").write_text(FILE.format(here=[*map(str, Path(__file__).parents[:2])]))
    words = [*FRESH, "-m", "tqlearn.sweep", "file.py", "--trials", "12", "--workers", "2"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, "one worker has died"
    killed = int((tmp_path / "killed").read_text())
    trials = sweep(storage=tmp_path / "study").study.trials
    lost = [t for t in trials if t.state == optuna.trial.TrialState.FAIL]
    ended = [t for t in trials if t.state == optuna.trial.TrialState.COMPLETE]
    assert [t.user_attrs["worker"]["pid"] for t in lost] == [killed] and len(ended) >= 12
    (again,) = [t for t in trials if t.user_attrs.get("again") == lost[0].number]
    assert again.params == lost[0].params and again.values
    assert len({t.user_attrs["worker"]["pid"] for t in ended}) == 2
    assert "12 complete" in done.stdout or "13 complete" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_the_page_shows_what_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "sweep.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    monkeypatch.chdir(tmp_path)
    assert code.count("trials=100") == 1 and code.count("range(64)") == 1
    code = code.replace("trials=100", "trials=3").replace("range(64)", "range(8)")
    space = {}
    exec(code.replace("limit=600_000", ""), space)
    assert len(space["sweep"].study.trials) == 3 and space["sweep"].front()
    assert set(re.findall(r"`(\w+)\(", page)) <= {"each", "plot_front", "tell"} | set(dir(tq))
