"""The tables of "What works on which model", from what ``architectures.py`` wrote.

The documentation site puts them into ``docs/architectures.md``; nothing is typed by hand but words.
"""

import json
import re
from collections import Counter
from pathlib import Path

WORDS = {
    "ok": "yes",
    "part": "yes, but {n}",
    "refused": "refused",
    "none": "-",
    "FAIL": "**fails**",
}


def line(cells):
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |\n"


def head(*cells):
    return line(cells) + line(["---"] * len(cells))


def counts(records):
    """Return outcome -> number of cells."""
    return Counter(found["outcome"] for record in records for found in record["cells"].values())


def summary(records):
    """One sentence with the numbers."""
    n, plans = counts(records), len(records[0]["cells"])
    return (
        f"{len(records)} architectures under {plans} plans are {n.total()} cells: {n['ok']} work "
        f"as asked, {n['part']} once the layers named below are left out, {n['refused']} are "
        f"refused with a reason, {n['none']} do not apply, {n['FAIL']} fail.\n"
    )


def word(found):
    return WORDS[found["outcome"]].format(n=len(found.get("refused", ())))


def tables(records):
    """A table for each kind of model."""
    parts = []
    for kind in dict.fromkeys(record["kind"] for record in records):
        here = [record for record in records if record["kind"] == kind]
        rows = (line([r["model"], *map(word, r["cells"].values())]) for r in here)
        parts.append(f"### {kind}\n\n{head('model', *here[0]['cells'])}{''.join(rows)}")
    return "\n".join(parts)


def reason(words, names=()):
    """A message without what differs from layer to layer, such as names and shapes."""
    for name in names:
        words = words.replace(f"{name}: ", "").replace(name, "a layer")
    words = re.sub(r"^(ValueError|TypeError): ", "", words)
    words = re.sub(r"\b\w+(For\w+|Model|MTModel)\b", "the model", words)
    words = re.sub(r"\d+ quantizers", "some quantizers", words)
    words = re.sub(r"shape \([\d, ]+\) has \d+", "this shape has another number", words)
    return re.sub(r"\[[^]]*\]", "[...]", words).strip()


def refusals(records):
    """Return reason -> {model: layers or plans that it was said of}."""
    found = {}
    for record in records:
        for plan, one in record["cells"].items():
            for name, words in one.get("refused", {}).items():
                found.setdefault(reason(words, [name]), {}).setdefault(record["model"], set()).add(
                    name
                )
            if one["outcome"] == "refused":
                place = found.setdefault(reason(one["reason"]), {})
                place.setdefault(record["model"], set()).add(f"plan {plan}")
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def reasons(records):
    """The table of refusals."""
    rows = []
    for words, models in refusals(records).items():
        shown = [f"{model} ({some(places)})" for model, places in models.items()]
        rows.append(line([words, "; ".join(shown)]))
    return head("what the library says", "of what") + "".join(rows)


def some(places):
    first, *more = sorted(places)
    return f"`{first}`" + (f" and {len(more)} more" if more else "")


def stays(records):
    """The table of matrices that stay in floats under the plan for everything."""
    rows = []
    for record in records:
        left = next(iter(record["cells"].values())).get("left")
        if left:
            kinds = Counter(re.sub(r"\.\d+\.", ".*.", name) for name in left)
            names = ", ".join(f"`{k}`" + (f" ({n})" if n > 1 else "") for k, n in kinds.items())
            rows.append(line([record["model"], names]))
    return head("model", "what `preview` lists") + "".join(rows)


def filled(text, results):
    """Return a page with its markers replaced by the tables of ``architectures.json``."""
    records = json.loads((results / "architectures.json").read_text("utf-8"))["architectures"]
    parts = {"summary": summary, "tables": tables, "reasons": reasons, "stays": stays}
    for name, part in parts.items():
        text = text.replace(f"<!-- {name} -->", part(records))
    return text


if __name__ == "__main__":
    root = Path(__file__).parents[1]
    print(
        filled((root / "docs" / "architectures.md").read_text("utf-8"), root / "benchmarks/results")
    )
