"""Load what ``architectures.py`` saved, in a process of its own, and compare the outputs.

    python benchmarks/architectures_read.py runs/architectures

First the baked models, in plain transformers, while nobody has imported tqlearn: ``dense.json``
beside each says whether its outputs are equal but for rounding. Then the packed ones, through
``tqlearn.hf``: ``packed.json``, equal to the bit.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
import transformers


def outputs(model, batch, grad=False):
    """Return every tensor of floats that a model returns, caches left out."""
    torch.manual_seed(0)  # some models draw noise
    with torch.set_grad_enabled(grad):
        found = model(**batch)
    found = {
        k: v for k, v in found.items() if k not in ("past_key_values", "cache_params", "state")
    }
    floats = [t for t in _tensors(found) if t.is_floating_point()]
    return [t for t in floats if t.requires_grad] if grad else floats


def _tensors(found):
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, dict | list | tuple):
        for inside in found.values() if isinstance(found, dict) else found:
            yield from _tensors(inside)


def loaded(name, folder):
    """Return a model, and what is wrong with the way it was loaded."""
    model, said = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    wrong = {key: sorted(map(str, names))[:3] for key, names in said.items() if names}
    return model.eval(), wrong


def compare(name, place, kind):
    """Return {"error": largest relative difference} and, where it is too much, {"wrong": why}."""
    kept = torch.load(place / "want.pt")
    model, wrong = loaded(name, place / kind)
    if wrong:
        return {"wrong": f"{kind} loads with {wrong}"}
    have, want = outputs(model, kept["batch"]), kept[kind]
    if len(have) != len(want) or any(a.shape != b.shape for a, b in zip(have, want, strict=True)):
        return {"wrong": f"{kind} has outputs of other shapes"}
    error = max(
        float((a - b).abs().max() / b.abs().max().clamp_min(1e-9))
        for a, b in zip(have, want, strict=True)
    )
    bad = error > 1e-4 if kind == "dense" else not all(map(torch.equal, have, want))
    return {"error": error} | (
        {"wrong": f"{kind} differs after loading, {error:.1e}"} if bad else {}
    )


def compare_all(folder, kind):
    """Write the comparison of every model of a kind that nobody has read yet."""
    for want in sorted(folder.glob("*/*/want.pt")):
        place = want.parent
        if (place / f"{kind}.json").exists():
            continue
        try:
            found = compare(place.parent.name, place, kind)
        except Exception as error:  # whatever it is, it is an entry of the table
            found = {"wrong": f"{kind} does not load: {type(error).__name__}: {error}"}
        new = place / f".{kind}.json.part"  # by hand: tqlearn is not imported here
        new.write_text(json.dumps(found))
        new.replace(place / f"{kind}.json")


def main():
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = Path(sys.argv[1])
    compare_all(folder, "dense")
    if "tqlearn" in sys.modules:
        raise SystemExit("tqlearn was imported, so this was no plain transformers")
    import tqlearn.hf  # noqa: F401

    compare_all(folder, "packed")


if __name__ == "__main__":
    main()
