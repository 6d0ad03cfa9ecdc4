"""The scripts that wait for a GPU, tried small on a CPU; the kernels on a real one, if there is."""

import dataclasses
import importlib
import json
import runpy
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import BENCHMARKS, result
from safetensors.torch import load_file

GPU = BENCHMARKS / "gpu"
DENSE = ("dense float16", "dense bfloat16")


@pytest.fixture
def gpu(script, monkeypatch):
    """Import a script of benchmarks/gpu/ by its name."""
    monkeypatch.syspath_prepend(str(GPU))
    return script


def kind(row):
    return row["model"].rpartition(",")[0]


@pytest.mark.slow
def test_the_kernels_on_a_cpu(gpu, quick):
    """Dense and int8 products run and agree; 2:4 is refused by torch, by name, row by row.

    A processor without VNNI adds int8 products in 16 bits, where they saturate: the script says so.
    """
    if torch.cuda.is_available():
        pytest.skip("a CPU's refusals: this machine has a GPU")
    found = quick("gpu/kernels")
    rows = {kind(row): row for row in found["rows"]}
    codes = torch.full((32, 128), 127, dtype=torch.int8)
    exact = bool((torch._int_mm(codes, codes.t()) == 128 * 127**2).all())
    assert found["command"].startswith("python benchmarks/gpu/kernels.py --quick --out ")
    assert found["device"] == {"name": "cpu"} and len(rows) == len(found["rows"]) == 11
    for name, row in rows.items():
        if name.startswith("2:4"):
            assert "RuntimeError" in row["note"] and "Only CUDA tensors" in row["note"]
            assert "speed" not in row and "relative_error" not in row["metrics"]
        elif name in ("int8", "int8 with scales, float16") and not exact:
            assert row["note"].startswith("values are off by") and "speed" not in row
        else:
            assert row["speed"]["seconds"] > 0 and "note" not in row
        assert (row["role"] == "baseline") == (name in DENSE)
    assert all(rows[name]["speed"]["speedup"] == 1 for name in DENSE)
    assert rows[DENSE[0]]["metrics"]["relative_error"] > 0
    assert rows["int8"]["metrics"].get("relative_error", 0) == 0


def test_without_a_gpu_no_result_is_written(gpu, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    main, out = gpu("kernels").main, tmp_path / "k.json"
    stored = BENCHMARKS / "results" / "gpu_kernels.json"
    before = stored.exists() and stored.read_bytes()
    for words in (["--out", str(out)], ["--quick"]):
        monkeypatch.setattr(sys, "argv", [str(GPU / "kernels.py"), *words])
        with pytest.raises(SystemExit):
            main()
        assert "torch finds no CUDA device; --quick --out FILE" in capsys.readouterr().err
    assert not out.exists() and before == (stored.exists() and stored.read_bytes())


def test_a_product_that_is_wrong_or_refused_is_not_timed(gpu, monkeypatch):
    """Doubled values have no time; one code off by one is seen; a missing function has a row."""
    products, kernels = gpu("products"), gpu("kernels")

    def doubled(x, w):
        right = products.dense(x, w, torch.bfloat16)
        return products.Product(lambda: 2 * right.call(), right.wanted, right.limit)

    def one_off(x, w):
        right = products.int8(x, w)
        change = torch.zeros(len(x), len(w), dtype=torch.int32)
        change[3, 5] = 1
        return products.Product(lambda: right.call() + change, right.wanted)

    def missing(x, w):
        return torch._no_such_product(x, w)

    few = {"dense float16": products.CONTESTANTS["dense float16"], "doubled": doubled,
           "one off": one_off, "missing": missing}  # fmt: skip
    monkeypatch.setattr(kernels, "CONTESTANTS", few)
    dense, *wrong = kernels.rows_of((64, 128), 32, torch.device("cpu"), 1)
    assert dense["speed"]["speedup"] == 1 and not any("speed" in row for row in wrong)
    notes = [row["note"] for row in wrong]
    assert "values are off by 1, allowed is 0.0078" in notes[0]
    assert notes[1].endswith("allowed is 0") and "_no_such_product" in notes[2]


def test_codes_and_pruned_weights(gpu):
    """Codes give the weight back to half a step; a pruned weight keeps two of four, and zeros."""
    products = gpu("products")
    w = torch.randn(8, 64)
    coded, scale = products.codes(w)
    assert coded.abs().amax(1).eq(127).all()
    assert ((coded * scale - w).abs() <= scale / 2 * 1.001).all()
    half = products.pruned(w)
    assert half.reshape(8, 16, 4).ne(0).sum(-1).eq(2).all()
    assert products.codes(half)[0][half == 0].eq(0).all()


@pytest.mark.gpu
def test_the_kernels_on_a_gpu(gpu, monkeypatch, tmp_path):
    """Few turns at the true shapes: dense and int8 products agree and have times in a graph too."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    out = tmp_path / "gpu.json"
    words = [str(GPU / "kernels.py"), "--repeats", "3", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(words[0], run_name="__main__")
    found = json.loads(out.read_text())
    assert len(found["rows"]) == 9 * 11 and found["device"]["name"] != "cpu"
    check(found)


def check(found):
    """What holds for any GPU: baselines are timed, nothing is silent, sums of codes are exact."""
    for row in found["rows"]:
        assert ("speed" in row) == ("relative_error" in row["metrics"])
        assert "speed" in row or len(row["note"]) > 20, row["model"]
        if kind(row) in DENSE:
            assert row["speed"]["speedup"] == 1 and row["metrics"]["graph_microseconds"] > 0
        if "int8" in row["model"] and "float" not in row["model"] and "speed" in row:
            assert row["metrics"]["relative_error"] == 0, row["model"]


def test_the_committed_table_of_kernels():
    found = result("gpu_kernels")
    assert not found["quick"] and found["device"]["name"] != "cpu" and len(found["rows"]) == 9 * 11
    check(found)


@pytest.fixture
def base(gpu):
    """The script of BERT-base."""
    return gpu("bert_base")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "arms"),
    [("sst2", ["QTC A4, 4-bit cores", "KroneckerBERT KB21"]), ("squad", ["W4A4 2:4"])],
)
def test_bert_base_on_a_cpu(base, quick, data_folder, tmp_path, capsys, task, arms):
    """Out of time; then all parts of a tiny model, a few steps each; then the table alone."""
    words = ["gpu/bert_base", task, "--data", str(data_folder), "--work", str(tmp_path / "work")]
    words += ["--arms", *arms]
    assert quick(*words, "--minutes", "0") is None
    parts = 1 + 2 * len(arms)
    said = f"BERT-base_fine-tuned_0: not begun; 0 of {parts} parts are done, call again"
    assert said in capsys.readouterr().out
    assert quick(*words, "--train_only") is None
    capsys.readouterr()
    found = quick(*words)
    assert capsys.readouterr().out.count("done before, kept") == parts + 2 * (task == "sst2")
    teacher, *rows = found["rows"]
    assert found["name"] == f"gpu_bert_base_{task}" and found["device"] == {"name": "cpu"}
    controls = [base.CONTROL_OF[base.ARMS[arm][0]] for arm in arms]
    assert [row["model"] for row in rows] == controls + arms
    dense, students = rows[: len(arms)], rows[len(arms) :]
    assert all(row["bytes"] == teacher["bytes"] and row["role"] == "baseline" for row in dense)
    for row in students:
        assert row["role"] == "student" and row["ratio"]["file"] > 1.7
        assert row["metrics"]["retention"] >= 0 and "seeds: " in row["note"]
    changed = ["dense, QTC's lessons", "dense, KroneckerBERT's lessons"][: 2 * (task == "sst2")]
    folders = [tmp_path / "work" / base.folder_name(name, 0) for name in (base.TEACHER, *changed)]
    first, *others = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(any((x[k] != first[k]).any() for k in first) for x in others), "controls learn"


@pytest.mark.parametrize("task", ["sst2", "squad"])
def test_every_part_has_options_that_its_recipe_knows(base, monkeypatch, tmp_path, task):
    """And a control differs from its students in what compresses and in the learning rate alone."""
    calls = {}

    def asked(recipe, folder, deadline, **options):
        calls[folder.name] = recipe, options

    monkeypatch.setattr(base, "run_recipe", asked)
    args = SimpleNamespace(task=task, source="local", model=tmp_path, work=tmp_path, quick=False)
    args.deadline = None
    for name, (recipe, own) in [
        (base.TEACHER, ("finetune", {})),
        *(base.ARMS | base.CONTROLS).items(),
    ]:
        base.trained(name, recipe, own, args, 0)
    assert len(calls) == 1 + len(base.ARMS) + len(base.CONTROLS) + 3  # three first stages
    for recipe, options in calls.values():
        module = importlib.import_module(f"tqlearn.recipes.{recipe}")
        kinds = [vars(module)[name] for name in vars(module) if name.endswith("Arguments")]
        assert len(kinds) == 2, "the recipe's own and the Trainer's"
        known = {field.name for kind in kinds for field in dataclasses.fields(kind)}
        assert set(options) <= known, (recipe, set(options) - known)
    free = {"shapes", "bits", "setting", "dense", "phases", "method", "attention_density",
            "dense_density", "penalty", "dense_penalty", "student", "learning_rate",
            "final_learning_rate"}  # fmt: skip
    for name, (recipe, _) in base.ARMS.items():
        mine, control = (
            calls[base.folder_name(one, 0)][1] for one in (name, base.CONTROL_OF[recipe])
        )
        apart = {k for k in mine | control if mine.get(k) != control.get(k)}
        assert apart and apart <= free, (name, apart - free)


def test_retention_is_against_the_better_of_teacher_and_control(base):
    def run(accuracy, **more):
        sizes = {key: {"file": 4} for key in ("bytes", "reference_bytes")}
        return {"metrics": {"accuracy": accuracy}, "steps": 7} | sizes | more

    control = base.CONTROL_OF["kdlsq_bert"]
    records = {base.TEACHER: [run(90.0), run(92.0)], control: [run(93.0), run(97.0)]}
    records |= {"KDLSQ 2-2-8": [run(85.5), run(85.5)]}
    teacher, dense, student = base.rows_of(records)
    assert (
        teacher["metrics"] == {"accuracy": 91, "accuracy_spread": 2} and dense["role"] == "baseline"
    )
    assert student["metrics"]["retention"] == pytest.approx(90)
    assert student["note"] == "7 steps; seeds: 85.50, 85.50"
    records[control] = [run(80.0), run(82.0)]
    assert base.rows_of(records)[2]["metrics"]["retention"] == pytest.approx(100 * 85.5 / 91)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["squad", "--source", "hub"], "the hub has SST-2 only"),
        (["sst2", "--source", "hub"], "no text for KroneckerBERT's stage 1"),
        (["sst2", "--arms", "KB9"], "got 'KB9'"),
        (["sst2"], "torch finds no CUDA device"),
    ],
)
def test_bert_base_refuses(base, monkeypatch, capsys, words, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", [str(GPU / "bert_base.py"), *words])
    with pytest.raises(SystemExit):
        base.main()
    assert message in capsys.readouterr().err


def test_a_recipe_that_is_out_of_time_goes_on(script, tmp_path, monkeypatch):
    """A twentieth of a second is over before a recipe is imported: killed, then run again."""
    runs, folder, made = script("runs"), tmp_path / "a", []

    def inside(recipe, flags):
        made.append((recipe, *flags))
        folder.mkdir()
        (folder / "metrics.json").write_text('{"steps": 1}')

    for left, words in ((0.05, "stopped|not begun"), (-1, "not begun")):
        with pytest.raises(runs.OutOfTime, match=words):
            runs.run_recipe("finetune", folder, deadline=time.monotonic() + left, data="digits")
    monkeypatch.setattr(runs, "_inside", inside)
    record = runs.run_recipe("finetune", folder, True, time.monotonic() + 600, data="digits")
    assert record == {"steps": 1} and len(made) == 1 and "--deadline" not in made[0]
    assert made[0][-4:] == ("--output_dir", str(folder), "--resume_from_checkpoint", "last")
