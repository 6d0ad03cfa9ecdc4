"""The README.md that ``save_pretrained`` and ``push_to_hub`` of a compressed model write beside it.

It says what stands where, the bytes in three counts beside the dense model's, and the lines that
load it. A README that is not ours stays; ours is written anew at each save.
"""

import json
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path

from torch import nn

from ..stages import Cores, is_quantizer
from ..storage.packed import Packed
from ..storage.report import rows_of
from ..writing import write

MARK = "<!-- tqlearn writes this card anew at each save; without this line it leaves it alone -->"
BLANK = "This model card has been automatically generated"  # transformers', when it has no other
HEADS = ("", "this model", "dense, float32", "smaller by")


def write_card(model: nn.Module, folder: str | Path) -> Path | None:
    """Write the card of a saved model, unless somebody else's README lies there.

    Returns:
        The file, or None if it was left alone.
    """
    file = Path(folder) / "README.md"
    if file.is_file() and not is_ours(file):
        return None
    return write(file, card(model, folder))


def remove_card(folder: str | Path) -> None:
    """Take our card away where a model that is compressed no more was saved over one that was."""
    file = Path(folder) / "README.md"
    if file.is_file() and MARK.encode() in file.read_bytes():
        file.unlink()


def is_ours(file: Path) -> bool:
    """Say whether a README is a card of ours, or one that nobody has written."""
    text = file.read_bytes()  # somebody else's may be in any encoding
    return MARK.encode() in text or BLANK.encode() in text


def card(model: nn.Module, folder: str | Path) -> str:
    """Return the text for a model that was saved in a folder.

    Args:
        folder: whose safetensors files are counted.
    """
    layout = model.config.quantization_config
    layout = json.loads(layout["layout"] if isinstance(layout, dict) else layout.layout)
    kind, rows = type(model).__name__, rows_of(model)
    home = next(p for p in ("transformers", "tqlearn.hf", type(model).__module__)
                if type(model).__module__.startswith(p))  # fmt: skip
    whole = 4 * dense_parameters(model)
    sizes = {
        "nominal bytes": sum(row["nominal"] for row in rows),
        "with scales and metadata": sum(row["bytes"] for row in rows),
        "whole file": sum(f.stat().st_size for f in Path(folder).glob("*.safetensors")),
    }
    table = [HEADS] + [
        (label, f"{size:,}", f"{whole:,}", f"{whole / size:.2f}x" if size else "")
        for label, size in sizes.items()
    ]
    loose = any(map(is_quantizer, model.modules())) and not any(
        isinstance(module, Packed) for module in model.modules()
    )
    return "\n".join([
        "---", "library_name: transformers", "tags:", "- tqlearn", "- compression", "---", MARK, "",
        f"# {kind}, compressed", "",
        "```python", 'import tqlearn.hf  # pip install "tqlearn[hf]"',
        f"from {home} import {kind}", "",
        f'model = {kind}.from_pretrained("this folder, or its name on the hub")', "```", "",
        "## Bytes", "", *_markdown(table), "",
        f"{sum(row['parameters'] for row in rows):,} parameters, of {whole // 4:,} in the dense "
        "model, which is the baseline. Nominal is each number at its bits and nothing else.",
        *(["The numbers are stored as floats on their grid; `tqlearn.pack(model)` before saving "
           "makes the file as small as the two lines above say."] if loose else []), "",
        "## Plan", "",
        *_markdown([("layers", "how many", "what they are"), *plan_of(layout["modules"])]), "",
        "Everything else is as it was. What the model is for, what it was trained on and how good "
        "it is, beside the model that it was made from, is for its author to say here.", "",
    ])  # fmt: skip


def dense_parameters(model: nn.Module) -> int:
    """Count the numbers of the dense model, ties once: factored layers as what they multiply to."""
    shapes = {name: m.dense_shape for name, m in model.named_modules() if isinstance(m, Cores)}
    total = 0
    for row in rows_of(model):
        module = model.get_submodule(row["name"])
        if row["name"] in shapes:
            bias = getattr(module, "bias", None)
            total += prod(shapes[row["name"]]) + (0 if bias is None else bias.numel())
        else:
            total += row["parameters"]
    return total


def plan_of(modules: Mapping[str, Mapping]) -> list[tuple[str, str, str]]:
    """Return (pattern, how many layers, what they are) of a layout; equal ones are one line.

    >>> entry = {"class": "LSQ", "args": {"bits": 8}}
    >>> plan_of({"layer.0.query.quant_input": entry, "layer.1.query.quant_input": entry})
    [('`layer.*.query.quant_input`', '2', 'LSQ(bits=8)')]
    """
    found: dict[tuple[str, str], int] = {}
    for name, entry in modules.items():
        pattern = re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name)
        words = [_words(entry)] if "class" in entry else []
        chains: dict[str, list[str]] = {}
        for key, stages in entry.get("parametrizations", {}).items():
            chains.setdefault(" then ".join(map(_words, stages)), []).append(key)
        words += [f"{', '.join(keys)}: {what}" for what, keys in chains.items()]
        words += [f"cut to {entry['sizes']}"] if "sizes" in entry else []
        key = pattern, "; ".join(words)
        found[key] = found.get(key, 0) + 1
    return [(f"`{pattern}`", str(n), what) for (pattern, what), n in found.items()]


def _words(spec: Mapping) -> str:
    """Return a spec of a layout in one line: codes as the mask and the quantizer that made them."""
    name, args = spec["class"], spec["args"]
    if name.startswith("Packed"):
        inner = [args[key] for key in ("mask", "quantizer") if args.get(key)]
        return " then ".join(map(_words, inner)) + ", packed"
    said = ", ".join(f"{key}={value!r}" for key, value in args.items() if key != "shape")
    return f"{name}({said})"


def _markdown(rows: list[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]
