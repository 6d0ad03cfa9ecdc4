"""What holds for every recipe: its help, its place in the README, and `make recipes`."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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


@pytest.mark.parametrize("name", RECIPES)
def test_the_readme_leads_to_it_its_paper_and_its_spec_sheet(name):
    (row,) = re.findall(
        rf"^\| .*`python -m tqlearn\.recipes\.{name}` \|.*$",
        (ROOT / "README.md").read_text(), re.MULTILINE,
    )  # fmt: skip
    assert re.match(r"\| .*\(.* et al\..*\d{4}", row), row
    assert f"(tqlearn/recipes/{name}.md)" in (ROOT / "README.md").read_text()


def test_make_recipes_runs_them_all():
    makefile = (ROOT / "Makefile").read_text()
    (line,) = re.findall(r"^RECIPES = (.*)$", makefile, re.MULTILINE)
    assert sorted(line.split()) == RECIPES
    assert re.search(r"^recipes: .*\n\t@set -e; for name in \$\(RECIPES\);", makefile, re.MULTILINE)
