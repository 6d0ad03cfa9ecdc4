"""Every model type in the table of anatomies, masked against compacted, from a tiny config."""

import pytest
import torch
from anatomy_models import MODELS, kill
from tiny_models import output, tiny

import tqlearn as tq
from tqlearn.sparsity import ANATOMIES, transformer_layers

TRIED = {kind for models in MODELS.values() for _, kind, _ in models.values()}
TYPES = [(e, t) for e, a in ANATOMIES.items() for t in a.families if t not in TRIED]
TYPES = [*{kind: (entry, kind) for entry, kind in TYPES}.values()]  # some have layers of two kinds
ENDS = "", "_text_model", "_vision_model", "_vision"


def built(kind):
    """The model of a type, or one that has it as a part."""
    kind = kind.replace("-", "_")
    for end in ENDS:
        if kind.endswith(end):
            try:
                return tiny(kind.removesuffix(end))
            except ValueError as error:  # a part that AutoModel does not build alone
                reason = error
    raise reason


@pytest.mark.slow
@pytest.mark.parametrize("entry, kind", TYPES, ids=[kind for _, kind in TYPES])
def test_equal_outputs(entry, kind):
    """A part of another model is tried inside it."""
    model, inputs, dense = built(kind)
    wanted = output(kill(model, kind), inputs)
    assert not wanted.isnan().any() and not torch.equal(wanted, dense)
    assert entry in {layer.family for layer in transformer_layers(model)}
    small, rows = tq.compact(model), tq.survey(model).rows
    for part in ("heads", "dimensions"):
        kept, whole = (sum(row[k] for row in rows) for k in (part, f"{part}_before"))
        assert kept < whole or not whole, part
    found = output(small, inputs)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5 * float(wanted.abs().max()))
