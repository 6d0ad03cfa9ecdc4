"""What holds for every recipe: its help, its place in the README, and `make recipes`."""

import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "tqlearn" / "recipes").glob("[a-z]*.md"))


def test_there_is_one_for_each_of_the_six_papers():
    assert RECIPES == [
        "block_pruning", "deep_compression", "fullyqt", "kdlsq_bert", "kronecker_bert", "qtc",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [*RECIPES, "finetune"])
def test_help_names_every_option_and_what_it_is_for(name, capsys):
    recipe = importlib.import_module(f"tqlearn.recipes.{name}")
    with pytest.raises(SystemExit) as end:
        recipe.main(["--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and "--output_dir" in out and "--data" in out
    assert re.search(r"--data DATA\s+\S", out), "an option without a word about it"
    assert f"python -m tqlearn.recipes.{name}" in recipe.__doc__
    source = (ROOT / "tqlearn" / "recipes" / f"{name}.py").read_text()
    assert source.endswith('\n\nif __name__ == "__main__":\n    main()\n')


@pytest.mark.parametrize("name", RECIPES)
def test_the_readmes_lead_to_it_its_paper_and_its_spec_sheet(name):
    page = ROOT / "benchmarks" / "README.md"
    (row,) = re.findall(
        rf"^\| .*`python -m tqlearn\.recipes\.{name}` \|.*$", page.read_text(), re.MULTILINE
    )
    assert re.match(r"\| .*\(.* et al\..*\d{4}.*\]\(https://", row), row
    assert re.search(r"\| \[\d\d\]\(\.\./notebooks/\d\d_\w+\.ipynb\) \|", row), row
    for file in re.findall(r"\((results/\w+\.json|\.\./notebooks/\w+\.ipynb)\)", row):
        assert (page.parent / file).exists(), file
    assert f"(../tqlearn/recipes/{name}.md)" in page.read_text()
    assert f"(tqlearn/recipes/{name}.md)" in (ROOT / "README.md").read_text()


def test_make_recipes_runs_them_all():
    makefile = (ROOT / "Makefile").read_text()
    (line,) = re.findall(r"^RECIPES = (.*)$", makefile, re.MULTILINE)
    assert sorted(line.split()) == RECIPES
    assert re.search(r"^recipes: .*\n\t@set -e; for name in \$\(RECIPES\);", makefile, re.MULTILINE)


ROWS = [
    {"model": "before", "role": "baseline", "metrics": {"accuracy": 90.0, "loss": 0.0}},
    *(
        {"model": name, "role": "student", "speed": {"speedup": speedup}, "ratio": {"file": 2.0},
         "metrics": {"accuracy": 90 - loss, "loss": loss, "compacted_density": density}}
        for name, loss, density, speedup in [
            ("a", 0.4, 0.6, 2.6), ("b", 1.0, 0.3, 2.5), ("c", 3.0, 0.2, 4.0),
        ]
    ),
]  # fmt: skip


def test_what_was_reached_is_read_from_the_results(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    page = importlib.import_module("readme_recipes")
    assert {recipe.module for recipe in page.RECIPES} == set(RECIPES)
    shown = (("task_one", "One", ()), ("task_two", "Two", ("c", "a")), ("task_three", "Three", ()))
    recipe = page.Recipe("qtc", "A paper", "09_compressed_bert", shown)
    for name in ("task_one", "task_two"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": ROWS}))
    one, two, three = page.reached(recipe, tmp_path).split("<br>")
    assert one == (
        "[One](results/task_one.json): *b* 89.00 (90.00), file 2.0x smaller, 2.50x faster"
    ), "the smallest that loses at most a point"
    assert re.findall(r"\*(\w)\*", two) == ["c", "a"]
    assert three == "not measured yet: Three"
    assert [row["model"] for row in page.chosen([ROWS[0], ROWS[3]], ())] == ["c"], "the best missed"
    with pytest.raises(ValueError, match="no row"):
        page.chosen(ROWS, ("d",))
