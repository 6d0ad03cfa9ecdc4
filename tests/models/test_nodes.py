"""Spec sheet FullyQT, acceptance check 10: node pruning on a trained tiny translator."""

import pytest
import torch
from torch.testing import assert_close

import tqlearn as tq
from tqlearn.models import Transformer, node_maxima, prune_nodes

SMALL = {"vocabulary": 16, "width": 16, "ffn": 32, "heads": 2, "layers": 2, "dropout": 0.0}


def batches(count=4):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        ids = torch.randint(3, 16, (24, 6), generator=generator)
        ids[::2, 4:] = 0
        ids[torch.arange(24), torch.tensor([3, 5]).repeat(12)] = 2
        yield {"input_ids": ids, "labels": ids.masked_fill(ids == 0, -100)}


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = Transformer(**SMALL)
    with torch.no_grad():  # some nodes that cannot speak, whatever comes
        for layer in (model.encoder["layers"][0], model.decoder["layers"][1]):
            layer.feed_forward.up.bias[:5] = -1e4
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for batch in batches(60):
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        optimizer.step()
    return model.eval()


def outputs(model):
    with torch.no_grad():
        return [model(**batch)["logits"][batch["labels"] != -100] for batch in batches()]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_check_10_silent_nodes_go_and_outputs_stay(trained, momentum):
    maxima = node_maxima(trained, batches(), momentum)
    pruned = prune_nodes(trained, maxima, z=0.0)
    silent = {name: int((largest <= 0).sum()) for name, largest in maxima.items()}
    assert {name: dropped for name, (dropped, _) in pruned.layers.items()} == silent
    gone = silent["encoder.layers.0.feed_forward"]
    assert gone > 0, "training silences some, how many (about 5) is the processor's affair"
    assert pruned.model.encoder["layers"][0].feed_forward.up.out_features == 32 - gone
    # sums in another order: 1.3e-6 apart at most on three instruction sets
    assert_close(outputs(pruned.model), outputs(trained), atol=1.5e-5, rtol=0)
    audible = outputs(prune_nodes(trained, maxima, z=0.3).model)
    far = max((a - b).abs().max() for a, b in zip(audible, outputs(trained), strict=True))
    assert far > 1e-3, f"nodes that do speak are missed: {far}"
    assert trained.encoder["layers"][0].feed_forward.up.out_features == 32


def test_check_10_a_higher_z_removes_more(trained):
    maxima = node_maxima(trained, batches())
    found = [prune_nodes(trained, maxima, z=z) for z in (0.0, 0.5, 1.0, 1.5)]
    for side in ("encoder", "decoder"):
        shares = [pruned.share(side) for pruned in found]
        assert shares == sorted(shares) and shares[0] < shares[-1] < 1
    layers = [[dropped for dropped, _ in pruned.layers.values()] for pruned in found]
    assert all(a <= b for few, more in zip(layers, layers[1:], strict=False)
               for a, b in zip(few, more, strict=True))  # fmt: skip


def test_error_is_bounded(trained):
    """One layer by itself: a dropped node costs at most its maximum times its column's norm."""
    maxima = node_maxima(trained, batches(), momentum=0.0)
    name = "encoder.layers.1.feed_forward"
    z = (maxima[name].quantile(0.4) / maxima[name].std()).item()
    pruned = prune_nodes(trained, {name: maxima[name]}, z=z).model
    kept = {}
    for model in (trained, pruned):
        layer = model.get_submodule(name)
        if model is trained:
            layer.register_forward_hook(lambda m, i, o: kept.update(x=i[0], real=i[1], out=o))
            outputs(trained)
    gone = maxima[name] <= z * maxima[name].std()
    columns = trained.get_submodule(name).down.weight.norm(dim=0)
    bound = (maxima[name] * columns)[gone].sum()
    with torch.no_grad():
        change = (pruned.get_submodule(name)(kept["x"]) - kept["out"])[kept["real"]]
    assert 0 < change.norm(dim=-1).max() <= bound * 1.0001


def test_padding_does_not_count(trained):
    ids = torch.tensor([[5, 6, 2, 0], [7, 8, 9, 2]])
    labels = torch.tensor([[5, 2, -100], [6, 7, 2]])
    found = [
        node_maxima(trained, [{"input_ids": i, "attention_mask": ids != 0, "labels": labels}])
        for i in (ids, ids.masked_fill(ids == 0, 11))
    ]
    assert_close(*found)


def test_pruned_model_is_saved_quantized_and_loaded(trained, tmp_path):
    pruned = prune_nodes(trained, node_maxima(trained, batches()), z=1.0).model
    student = tq.calibrate(tq.compress(pruned, {"*": [tq.MinMax(8)]}), batches())
    expected = outputs(student)
    file = tq.save(tq.pack(student), tmp_path / "model.safetensors")
    again = tq.load(Transformer(**SMALL), file).eval()
    assert_close(outputs(again), expected)
    with pytest.raises(ValueError, match="is quantized; prune the model in floats"):
        prune_nodes(student, node_maxima(student, batches()))


def test_refusals(trained):
    maxima = node_maxima(trained, batches())
    with pytest.raises(ValueError, match="at least 0"):
        prune_nodes(trained, maxima, z=-1.0)
    with pytest.raises(ValueError, match="would drop all 32 nodes"):
        prune_nodes(trained, maxima, z=99.0)
    with pytest.raises(ValueError, match="at least one batch"):
        node_maxima(trained, [])
    with pytest.raises(ValueError, match="momentum"):
        node_maxima(trained, batches(), momentum=1.0)
