"""Write the tables of both READMEs and of pages of docs/ from benchmarks/results/*.json.

Each stands between two markers; the main README's picture is the one that its lesson stores.
``--check`` changes nothing and fails when a page says something else than the results.
"""

import base64
import json
import sys
from pathlib import Path

import readme_language
import readme_methods
import readme_peers
import readme_recipes
import readme_runtime

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
FIRST, LAST = "<!-- recipes: begin -->", "<!-- recipes: end -->"
PAPERS = "<!-- papers: begin -->", "<!-- papers: end -->"
CASES = "<!-- cases: begin -->", "<!-- cases: end -->"
EQUAL = "<!-- equal: begin -->", "<!-- equal: end -->"
DETAILS = "<!-- details: begin -->", "<!-- details: end -->"
RUNTIME = "<!-- runtime: begin -->", "<!-- runtime: end -->"
DISTILLED = "<!-- distilled: begin -->", "<!-- distilled: end -->"
STRUCTURE = "<!-- structure: begin -->", "<!-- structure: end -->"
PEERS = "<!-- peers: begin -->", "<!-- peers: end -->"
PICTURE = ROOT / "docs" / "images" / "explorer.png"
LESSON, EXPLORER = ROOT / "notebooks" / "02_tensor_train.ipynb", "tensor_train_explorer("
SHOWN = (
    "qtc_atis",
    "qtc_atis_scratch",
    "kronecker_bert_sst2",
    "kdlsq_sst2",
    "kdlsq_atis",
    "kdlsq_squad",
    "deep_compression_bert_sst2",
    "deep_compression_bert_atis",
    "deep_compression_vit_cifar10",
    "deep_compression_wav2vec2_fsdd",
    "block_pruning_sst2",
    "block_pruning_atis",
    "block_pruning_squad",
    "block_pruning_squad_long",
    "fullyqt_multi30k",
    "latency",
    "decompose",
    "embedded_student",
)  # rest: linked
NOTHING = "No benchmark has been recorded yet; `make bench` writes them.\n"


def megabytes(n: float) -> str:
    return f"{n / 1e6:,.2f} MB"


def cells(row: dict) -> dict[str, str]:
    """One row of a result as column -> text; keys that the row leaves out give no column."""
    text = {"model": row["model"], "role": row["role"]}
    for name, value in row.get("metrics", {}).items():
        text[name.replace("_", " ")] = f"{value:,.2f}" if isinstance(value, float) else str(value)
    if "file" in row.get("bytes", {}):
        text["file"] = megabytes(row["bytes"]["file"])
    for name, value in row.get("ratio", {}).items():
        text[f"smaller ({name.replace('_', ' ')})"] = f"{value:.1f}x"
    if "speedup" in row.get("speed", {}):
        text["faster"] = f"{row['speed']['speedup']:.2f}x"
    return {column: value.replace("|", "\\|") for column, value in text.items()}


def by_size(rows: list[dict]) -> list[dict[str, str]]:
    """Rows of ``latency.py`` as one per model and number of threads, a speed-up per size."""
    lines = {}
    for row in rows:
        model, size, threads = row["model"].split(", ")
        line = lines.setdefault((threads, model), {"model": model, "threads": threads.split()[0]})
        line[f"faster at {size}"] = f"{row['speed']['speedup']:.2f}x"
    return list(lines.values())


def table(result: dict, path: Path) -> str:
    """A result as a Markdown table under its name, with the command that wrote it."""
    wide = result["name"] == "latency"  # a size per row would be 84 lines
    rows = by_size(result["rows"]) if wide else [cells(row) for row in result["rows"]]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns), *([row.get(c, "") for c in columns] for row in rows)]
    script = " ".join(result["command"].split()[:2])  # the JSON has the whole command
    head = f"**[{result['name']}](results/{path.name})**: `{script}`, "
    head += f"seed {result['seed']}, {result['date'][:10]}\n\n"
    notes = list(dict.fromkeys(row["note"] for row in result["rows"] if row.get("note")))
    if len(notes) > 1:  # say whose each one is
        notes = [f"{row['model']}: {row['note']}" for row in result["rows"] if row.get("note")]
    if wide:
        notes = ["BERT-base's shape, sentences x tokens; the script says what each model is"]
    foot = f"\n{'. '.join(notes)}.\n" if notes else ""
    return head + "".join(f"| {' | '.join(line)} |\n" for line in lines) + foot


def between(text: str, begin: str, end: str, new: str) -> str:
    """``text`` with everything between two markers replaced.

    Raises:
        ValueError: a marker is missing, so there is no place to write to.
    """
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"the page must hold {begin} and {end} once each")
    before, rest = text.split(begin)
    return before + begin + "\n" + new + end + rest.split(end)[1]


def page(text: str, results: Path) -> str:
    """This folder's README with the results' tables written anew."""
    found = {p.stem: p for p in sorted(results.glob("*.json"))}
    shown = [found[name] for name in SHOWN if name in found]
    tables = [table(json.loads(p.read_text()), p) for p in shown]
    if rest := [p for p in found.values() if p not in shown]:
        links = ", ".join(f"[{p.stem}](results/{p.name})" for p in rest)
        tables.append(f"More: {links}.\n")
    return between(text, BEGIN, END, "\n".join(tables) or NOTHING)


def picture() -> bytes:
    """The still of the explorer that the lesson stores.

    Raises:
        ValueError: the lesson stores none.
    """
    for cell in json.loads(LESSON.read_text())["cells"]:
        if EXPLORER in "".join(cell["source"]):
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    return base64.b64decode("".join(output["data"]["image/png"]))
    raise ValueError(f"{LESSON.name} stores no picture of its explorer; build it again")


def whole(results: Path) -> dict[Path, bytes]:
    """All pages and the picture as they should be."""
    main, own = ROOT / "README.md", ROOT / "benchmarks" / "README.md"
    methods = ROOT / "docs" / "methods.md"
    recipes = between(page(own.read_text(), results), FIRST, LAST, readme_recipes.table(results))
    papers = between(main.read_text(), *PAPERS, readme_recipes.short(results))
    cases = between(methods.read_text(), *CASES, readme_methods.table(results))
    cases = between(cases, *DETAILS, "\n" + readme_methods.details(results) + "\n")
    cases = between(cases, *EQUAL, "\n" + readme_methods.at_equal_bytes(results) + "\n")
    export = ROOT / "docs" / "export.md"
    runtime = between(export.read_text(), *RUNTIME, "\n" + readme_runtime.sections(results) + "\n")
    language = ROOT / "docs" / "language_models.md"
    taught = "\n" + readme_language.distilled(results) + "\n"
    decoder = between(language.read_text(), *DISTILLED, taught)
    decoder = between(decoder, *STRUCTURE, "\n" + readme_language.structure(results) + "\n")
    peers = "\n" + readme_peers.sections(results) + "\n"
    decoder = between(decoder, *PEERS, peers)
    pages = {main: papers, own: recipes, methods: cases, export: runtime, language: decoder}
    return {path: text.encode() for path, text in pages.items()} | {PICTURE: picture()}


if __name__ == "__main__":
    for path, new in whole(ROOT / "benchmarks" / "results").items():
        if "--check" not in sys.argv:
            from tqlearn.writing import write  # brings torch, which a check need not wait for

            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, new)
        elif not path.exists() or path.read_bytes() != new:
            name = path.relative_to(ROOT)
            sys.exit(f"{name} is behind its source: run `python benchmarks/readme_tables.py`")
