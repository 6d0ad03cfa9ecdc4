"""The page "Which method for my case?": every figure is a result's, every command and plan runs."""

import importlib
import json
import re
import shlex
import shutil

import pytest
import torch
from conftest import BENCHMARKS
from transformers import (
    HfArgumentParser,
    LlamaConfig,
    LlamaForCausalLM,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
)

import tqlearn as tq
from tqlearn.hf import BertForJointIntentSlot, joint_config
from tqlearn.lab import pareto
from tqlearn.models import Transformer

ROOT = BENCHMARKS.parent
PAGE = (ROOT / "docs" / "methods.md").read_text("utf-8")
PARTS = dict(part.split("\n", 1) for part in PAGE.split("\n## ")[1:])
PARETO = BENCHMARKS / "results" / "pareto_flights.json"
QUOTED = re.compile(r"\[([^]]+)\]\(\.\./benchmarks/results/(\w+)\.json\)")
SCORES = {"accuracy", "intent_accuracy", "slot_f1", "exact_match", "f1", "bleu"}


def lines():
    """(what a line says, row, baseline, result) wherever the page quotes a row."""
    for line in PAGE.splitlines():
        for model, name in QUOTED.findall(line):
            if model == name:  # no row, but the whole result
                continue
            result = json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())
            (row,) = [row for row in result["rows"] if row["model"] == model]
            base = next(row for row in result["rows"] if row["role"] == "baseline")
            yield line, row, base, result


def seeds(row):
    """How many seeds a row's note tells of, counted here by other means."""
    note = row.get("note", "").split(";")[0] if "native" in row.get("note", "") else row.get("note")
    if "seeds [" in (note or ""):
        return len(json.loads(note[note.index("[") : note.index("]") + 1]))
    for word in ("slots native ", "slots ", "seeds: "):
        if word in (note or ""):
            return len(note.split(word)[1].split(","))
    return 1


def test_every_figure_of_the_page_is_that_of_its_row():
    quoted = [*lines()]
    assert len(quoted) > 40
    for line, row, base, _ in quoted:
        scores = (SCORES & set(row.get("metrics", ()))) or {"perplexity"}
        for key in scores & set(row.get("metrics", ())):
            pair = f"{base['metrics'][key]:.2f} → {row['metrics'][key]:.2f}"
            assert pair in line, (pair, line)
        if "bytes" in row:
            before, after = (f"{one['bytes']['file'] / 1e6:.2f}" for one in (base, row))
            assert f"{before} → {after} MB" in line
        shown = len(re.findall(r"→", line))
        assert shown == len(scores & set(row.get("metrics", ()))) + ("bytes" in row)
        speed = [f"{row['speed']['speedup']:.2f}x faster"] if "speed" in row else []
        assert re.findall(r"[\d.]+x faster", line) == speed


def test_less_than_three_seeds_are_called_one_run():
    several = 0
    for line, row, _, result in lines():
        count = seeds(row)
        assert ("one run" in line) == (count < 3), line
        assert count < 3 or f"{count} seeds, " in line
        assert ("seeds" not in result) or count == len(result["seeds"])
        several += count >= 3
    assert several > 10


def test_a_changed_result_is_noticed_and_a_lost_row_refused(script, tmp_path):
    page = script("readme_methods")
    for file in (BENCHMARKS / "results").glob("*.json"):
        shutil.copy(file, tmp_path)
    before = page.table(tmp_path), page.details(tmp_path)
    assert all(text in PAGE for text in before)
    file = tmp_path / "deep_compression_vit_cifar10.json"
    result = json.loads(file.read_text())
    row = next(row for row in result["rows"] if row["model"] == "W4A4 2:4")
    row["metrics"]["accuracy"], row["note"] = 12.34, "seeds: 12.34"
    file.write_text(json.dumps(result))
    after = page.table(tmp_path), page.details(tmp_path)
    assert all("→ 12.34" in new and new != old for new, old in zip(after, before, strict=True))
    assert "one run: [W4A4 2:4](../benchmarks/results/deep_compression_vit_cifar10" in after[0]
    row["model"] = "renamed"
    file.write_text(json.dumps(result))
    with pytest.raises(ValueError, match="has no row 'W4A4 2:4'; there are .*renamed"):
        page.table(tmp_path)
    with pytest.raises(ValueError, match="nowhere is none of .*flights"):
        page.task("nowhere")


def test_no_figure_is_typed_by_hand(script):
    for case in script("readme_cases").CASES:
        assert not re.search(r"\d[.,]\d|\d ?%|\dx\b|\d MB", f"{case.words} {case.take} {case.goal}")
        assert case.row or not case.beside, "what was not measured has nothing to compare with"


def test_what_has_no_row_is_said_to_be_unmeasured(script):
    for case in script("readme_cases").CASES:
        (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| [{case.goal}](#")]
        open_ = case.row is None or bool(case.missing)
        assert ("not measured by us yet" in line) == open_
        assert ("not measured by us yet" in PARTS[case.title]) == open_


def test_equal_bytes_are_those_of_the_record_and_none_are_said_to_be_unmeasured(script, tmp_path):
    page, record = script("readme_methods"), json.loads(PARETO.read_text())
    lines = [line for line in pareto.summary(record) if "control" in line]
    part = PARTS["At equal bytes"]
    assert len(lines) > 15 and part.count(" against ") == len(lines)
    for line in lines:
        said = f"| {line['arm']} | {line['score']:.2f} | {line['difference']:+.2f} ("
        (found,) = [row for row in part.splitlines() if row.startswith(said)]
        assert found.endswith(f" | {line['verdict']} against {line['control']} |")
    ties = sum(line["verdict"] == "ties" for line in lines)
    assert f"{ties} tie, {len(lines) - ties} lose" in part
    assert page.at_equal_bytes(tmp_path) == "Not measured by us yet.\n"


def test_at_equal_bits_what_looks_at_text_loses_less():
    """As the page says of language models."""
    rows = {row["model"]: row for _, row, _, result in lines() if result["name"] == "smollm2"}
    worse = {name: row["metrics"]["perplexity"] for name, row in rows.items()}
    nearest, *others = ("4 bits per 64", "GPTQ, 4 bits per 64", "AWQ, 4 bits per 64")
    turned = worse["rotated GPTQ, 4 bits per 64"]
    assert all(turned < worse[name] < worse[nearest] for name in others)
    assert len({rows[name]["bytes"]["file"] for name in (nearest, *others)}) == 1


def test_the_pair_is_still_the_better_one():
    """As the page says of the smallest file; should a new run say otherwise, change the words."""
    assert "in the rows below the better one" in PARTS["The smallest file"]
    rows = {row["model"]: row["metrics"]["slot_f1"] for _, row, _, result in lines()
            if result["name"].endswith("_or_pair")}  # fmt: skip
    assert rows["rank 16: pairs, taught"] > rows["rank 16: trains, taught"]
    assert rows["pair, taught"] > rows["one product, taught"]


COMMANDS = re.findall(r"^python -m tqlearn\.recipes\.(\w+) (.+)$", PAGE, re.MULTILINE)
OWN = shlex.split(re.search(r"add\n`(--teacher .+?)`", PAGE)[1])


@pytest.mark.parametrize("recipe, options", COMMANDS, ids=[f"{r} {o[:20]}" for r, o in COMMANDS])
def test_every_command_is_one_that_its_recipe_takes(recipe, options):
    module = importlib.import_module(f"tqlearn.recipes.{recipe}")
    (own,) = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__
    ]
    parser = HfArgumentParser((own, TrainingArguments), allow_abbrev=False)
    found = parser.parse_args(shlex.split(options) + (OWN if hasattr(own, "teacher") else []))
    assert found.output_dir.startswith("runs/")
    assert hasattr(own, "teacher") or recipe == "fullyqt", "the page says which has no teacher"
    with pytest.raises(SystemExit):
        parser.parse_args([*shlex.split(options), "--nosuch", "1"])


def test_every_recipe_has_a_command():
    names = {file.stem for file in (ROOT / "tqlearn" / "recipes").glob("[a-z]*.md")}
    assert {recipe for recipe, _ in COMMANDS} == names - {"kronecker_bert"}


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def model_of(title):
    """A tiny model of the kind that a part of the page is about, and two batches."""
    torch.manual_seed(0)
    words = {"input_ids": torch.randint(5, 90, (2, 8)), "attention_mask": torch.ones(2, 8).long()}
    if title == "A language model":
        config = LlamaConfig(**SMALL | {"hidden_size": 128, "intermediate_size": 128},
                             vocab_size=99, num_key_value_heads=2)  # fmt: skip
        return LlamaForCausalLM(config), [words]
    if title == "Translation":
        batch = {"input_ids": words["input_ids"], "labels": words["input_ids"]}
        return Transformer(99, width=32, ffn=64, heads=2, layers=1), [batch]
    if title == "Pictures":
        config = ViTConfig(**SMALL, image_size=16, patch_size=8)
        return ViTForImageClassification(config), [{"pixel_values": torch.randn(2, 3, 16, 16)}]
    if title == "Speech":
        front = {"conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 2)}
        front |= {"num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4}
        config = Wav2Vec2Config(**SMALL, **front, num_conv_pos_embedding_groups=2)
        batch = {"input_values": torch.randn(2, 400)}
        return Wav2Vec2ForSequenceClassification(config), [batch]
    sizes = SMALL | {"hidden_size": 128, "intermediate_size": 512, "vocab_size": 1024}
    return BertForJointIntentSlot(joint_config("ab", ["O", "B-x"], **sizes)), [words]


@pytest.mark.parametrize("title", [title for title in PARTS if "```python" in PARTS[title]])
def test_the_code_of_every_part_runs_and_its_plan_is_the_tables(title, script, tmp_path):
    """On a tiny model: a BERT, and what the goal is about where that is no BERT."""
    model, batches = model_of(title)
    (code,) = re.findall(r"```python\n(.*?)```", PARTS[title], re.DOTALL)
    scope = {"model": model.eval(), "batches": batches}
    exec(code.replace('"runs/', f'"{tmp_path}/'), scope)
    (case,) = [case for case in script("readme_cases").CASES if case.title == title]
    assert f"<br>`{case.plan}` |" in PAGE
    assert eval(case.plan, scope) == scope["plan"]
    shown = tq.preview(model, scope["plan"])
    assert len(shown.rows) >= 6
    student = scope["student"]
    assert type(student) is type(model) and student is not model


def source(cell):
    return "".join(cell["source"])


def test_readers_are_led_to_the_page():
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        (recap,) = [text for text in map(source, cells) if "## Recap" in text]
        recap = recap.partition("## Recap")[2].partition("## References")[0]
        assert recap.count("](../docs/methods.md)") == 1, path.name
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "](docs/methods.md)" in readme and "](docs/names.md)" in readme
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    assert "](/methods.md)" in index and "](/names.md)" in index
