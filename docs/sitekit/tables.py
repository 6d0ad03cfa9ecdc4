"""The pages of results, made from benchmarks/results/*.json by README's generators."""

import json
import sys
from pathlib import Path


def generators(root: Path) -> tuple:
    """Return ``readme_tables``, ``readme_recipes``, ``readme_architectures`` of ``benchmarks/``."""
    sys.path.insert(0, str(root / "benchmarks"))
    try:
        import readme_architectures
        import readme_recipes
        import readme_tables
    finally:
        sys.path.remove(str(root / "benchmarks"))
    return readme_tables, readme_recipes, readme_architectures


def pages(root: Path) -> dict[str, str]:
    """Return page name -> Markdown, a page per measured result; links are relative to the root."""
    tables, _, _ = generators(root)
    found = sorted((root / "benchmarks" / "results").glob("*.json"))
    return {path.stem: page(json.loads(path.read_text("utf-8")), path, tables) for path in found}


def page(result: dict, path: Path, tables: object) -> str:
    """One result: its table, and where and how it was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    machine = result["machine"]
    if isinstance(machine, dict):
        machine = ", ".join(f"{name} {value}" for name, value in machine.items())
    paper = f"Paper: {result['paper']}\n\n" if result.get("paper") else ""
    return (
        f"# {result['name']}\n\n{paper}{tables.table(result, path)}\n## How it was measured\n\n"
        f"```\n{result['command']}\n```\n\n{machine}; {versions}.\n"
    )


def recipes(root: Path) -> str:
    """The table of papers and what was reached of each."""
    _, lines, _ = generators(root)
    return lines.table(root / "benchmarks" / "results")


def families(anatomies: dict) -> str:
    """The table of what block pruning and compaction know: a line per entry."""
    lines = ["| entry | tried on | heads | FFN dimensions |", "|---|---|---|---|"]
    for name, anatomy in anatomies.items():
        types = ", ".join(f"`{kind}`" for kind in anatomy.families)
        parts = (anatomy.attention, anatomy.ffn)
        words = [f"stay: {part}" if isinstance(part, str) else "go" for part in parts]
        lines.append(f"| {name} | {types} | {' | '.join(words)} |")
    return "\n".join(lines)


def architectures(root: Path, text: str) -> str:
    """The page of what works on which model, its tables filled in."""
    return generators(root)[2].filled(text, root / "benchmarks" / "results")
