"""The tables of recipes: paper, notebook, command, and what the results say was reached.

``readme_tables.py`` writes it; nothing in it is typed by hand but names.
"""

import json
from dataclasses import dataclass
from pathlib import Path

HEAD = "| paper | notebook | command | what was reached |\n| --- | --- | --- | --- |\n"
SHORT = "| paper | best row | more |\n| --- | --- | --- |\n"
METRICS = {
    "accuracy": "",
    "intent_accuracy": "intents ",
    "slot_f1": "slot F1 ",
    "exact_match": "EM ",
    "f1": "F1 ",
    "bleu": "BLEU ",
}


@dataclass(frozen=True)
class Recipe:
    """A recipe's line.

    Args:
        module: in ``tqlearn.recipes``.
        paper: in Markdown.
        notebook: its stem.
        shown: (name of a result, what it ran on, the rows to show) each; no rows: the smallest
            one that loses at most a point.
    """

    module: str
    paper: str
    notebook: str
    shown: tuple[tuple[str, str, tuple[str, ...]], ...]


def arxiv(number: str) -> str:
    return f"[{number}](https://arxiv.org/abs/{number})"


IBM = "https://research.ibm.com/publications/deep-compression-of-pre-trained-transformer-models"
SPARSE = "W4A4 2:4"
RECIPES = (
    Recipe(
        "qtc",
        f"QTC (Yang et al., Interspeech 2023, {arxiv('2306.01076')})",
        "09_compressed_bert",
        (
            ("qtc_atis", "ATIS", ("QTC student, 4-bit cores",)),
            ("qtc_atis_scratch", "ATIS from scratch", ("TT/TTM 4-bit cores",)),
        ),
    ),
    Recipe(
        "kronecker_bert",
        f"KroneckerBERT (Tahaei et al., NAACL 2022, {arxiv('2109.06243')})",
        "10_kroneckerbert",
        (("kronecker_bert_sst2", "SST-2", ("KroneckerBERT KB8", "KroneckerBERT KB21")),),
    ),
    Recipe(
        "kdlsq_bert",
        f"KDLSQ-BERT (Jin et al. 2021, {arxiv('2101.05938')})",
        "11_kdlsq_bert",
        (
            ("kdlsq_sst2", "SST-2", ("KDLSQ 4-4-8", "KDLSQ 2-2-8, phrases")),
            ("kdlsq_atis", "ATIS", ("KDLSQ 4-4-8", "KDLSQ 2-2-8, 9 epochs")),
            ("kdlsq_squad", "SQuAD", ("KDLSQ 4-4-8",)),
        ),
    ),
    Recipe(
        "deep_compression",
        f"Deep Compression of Pre-trained Transformers (Wang et al., IBM, [NeurIPS 2022]({IBM}))",
        "12_deep_compression",
        (
            ("deep_compression_bert_sst2", "BERT on SST-2", (SPARSE,)),
            ("deep_compression_bert_atis", "BERT on ATIS", (SPARSE,)),
            ("deep_compression_vit_cifar10", "ViT on CIFAR-10", (SPARSE,)),
            ("deep_compression_wav2vec2_fsdd", "Wav2Vec2 on spoken digits", (SPARSE,)),
        ),
    ),
    Recipe(
        "block_pruning",
        f"Block Pruning (Lagunas et al., EMNLP 2021, {arxiv('2109.04838')})",
        "07_block_pruning",
        tuple(
            (f"block_pruning_{task}", name, ())
            for task, name in (("sst2", "SST-2"), ("atis", "ATIS"), ("squad_long", "SQuAD"))
        ),
    ),
    Recipe(
        "fullyqt",
        f"FullyQT (Prato et al., Findings of EMNLP 2020, {arxiv('1910.10485')})",
        "13_fully_quantized_translation",
        (("fullyqt_multi30k", "Multi30k", ("FullyQT 8", "FullyQT 6", "FullyQT 4")),),
    ),
)


def figures(row: dict, base: dict) -> str:
    """A row's metrics beside the baseline's, and how much smaller its file or faster it is."""
    words = [
        f"{word}{row['metrics'][key]:.2f} ({base['metrics'][key]:.2f})"
        for key, word in METRICS.items()
        if key in row.get("metrics", {})
    ]
    if "file" in row.get("ratio", {}):
        words.append(f"file {row['ratio']['file']:.1f}x smaller")
    if "speedup" in row.get("speed", {}):
        words.append(f"{row['speed']['speedup']:.2f}x faster")
    return f"*{row['model']}* {', '.join(words)}"


def chosen(rows: list[dict], names: tuple[str, ...]) -> list[dict]:
    """The named rows, in this order; without names the smallest student within a point.

    Hybrid and filled are equally small; of these two the better one.

    Raises:
        ValueError: a result has no such row.
    """
    by_name = {row["model"]: row for row in rows}
    if missing := set(names) - set(by_name):
        raise ValueError(f"no row {sorted(missing)}; there are {sorted(by_name)}")
    if names:
        return [by_name[name] for name in names]
    students = [row for row in rows if row["role"] == "student"]
    good = [row for row in students if row["metrics"]["loss"] <= 1]
    if good:
        return [min(good, key=lambda r: (r["metrics"]["compacted_density"], r["metrics"]["loss"]))]
    return [min(students, key=lambda row: row["metrics"]["loss"])]


def reached(recipe: Recipe, results: Path) -> str:
    """The last cell of a recipe's line."""
    said, missing = [], []
    for name, task, rows in recipe.shown:
        file = results / f"{name}.json"
        if not file.exists():
            missing.append(task)
            continue
        table = json.loads(file.read_text())["rows"]
        base = next(row for row in table if row["role"] == "baseline")
        found = "; ".join(figures(row, base) for row in chosen(table, rows))
        said.append(f"[{task}](results/{file.name}): {found}")
    if missing:
        said.append(f"not measured yet: {', '.join(missing)}")
    return "<br>".join(said)


def table(results: Path) -> str:
    """The whole table in Markdown."""
    lines = []
    for recipe in RECIPES:
        link = f"[{recipe.notebook[:2]}](../notebooks/{recipe.notebook}.ipynb)"
        command = f"`python -m tqlearn.recipes.{recipe.module}`"
        lines.append(f"| {recipe.paper} | {link} | {command} | {reached(recipe, results)} |\n")
    return HEAD + "".join(lines)


def short(results: Path) -> str:
    """A line for each paper: its first result's row, the baseline, and where to read on.

    Raises:
        ValueError: a paper without a result.
    """
    lines = []
    for recipe in RECIPES:
        name, task, rows = recipe.shown[0]
        table = json.loads((results / f"{name}.json").read_text())["rows"]
        base = next(row for row in table if row["role"] == "baseline")
        best = figures(chosen(table, rows)[0], base)
        lesson = f"[{recipe.notebook[:2]}](notebooks/{recipe.notebook}.ipynb)"
        source = f"[table](benchmarks/README.md), [sheet](tqlearn/recipes/{recipe.module}.md)"
        lines.append(f"| {recipe.paper} | {task}: {best} | lesson {lesson}, {source} |\n")
    return SHORT + "".join(lines)
