"""A file that is not exactly what was saved does not load, and the model stays as it was."""

import copy
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import tqlearn as tq
from tqlearn.storage.digests import KEY, Stored, digests, read, seal, verify


def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(24, 36), nn.GELU(), nn.Linear(36, 10)).eval()


def student():
    plan = {"0": [tq.TT(rank=5), tq.LSQ(bits=4)], "2": [tq.LSQ(bits=4)]}
    return tq.pack(tq.calibrate(tq.compress(net(), plan)))


@pytest.fixture
def path(tmp_path):
    return tq.save(student(), tmp_path / "model.safetensors")


def change(path, edit, notes=lambda notes: None):
    """Write the file anew with other tensors under the header that it had."""
    with safe_open(path, "pt") as file:
        kept = file.metadata()
    tensors = load_file(path)
    edit(tensors)
    notes(kept)
    save_file({k: t.contiguous() for k, t in tensors.items()}, path, metadata=kept)


def refused(path, match):
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=match):
        tq.load(model, path)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[k], before[k]) for k in after)


@pytest.mark.parametrize("name", ["0.bias", "2.parametrizations.weight.0.scale"])
@pytest.mark.parametrize("bit", [0, 13, 31])
def test_any_bit_is_noticed_and_named(name, bit, path):
    def flip(tensors):
        tensors[name].view(torch.int32).bitwise_xor_(torch.tensor(1 << bit).int())

    change(path, flip)
    refused(path, f"1 of .* tensors are not what was saved, the first is '{name}'|no positive")


CODES = "2.parametrizations.weight.original"
DAMAGE = {
    "zeroed": lambda t: t[CODES].zero_(),
    "NaN": lambda t: t["2.bias"].fill_(torch.nan),
    "moved": lambda t: t.update({CODES: t[CODES].roll(1)}),
    "mirrored": lambda t: t.update({"2.bias": t["2.bias"].flip(0)}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_other_numbers(damage, path):
    change(path, DAMAGE[damage])
    refused(path, "1 of .* not what was saved, the first is '2.(bias|param.*original)'")


def test_another_type_is_refused(path):
    change(path, lambda t: t.update({"2.bias": t["2.bias"].double()}))
    refused(path, "the first is '2.bias'")


def test_swapped_names(path):
    def swap(tensors):
        a, b = (f"0.parametrizations.core_{k}.0.scale" for k in (0, 1))
        tensors[a], tensors[b] = tensors[b], tensors[a]

    change(path, swap)
    refused(path, "2 of .* not what was saved, the first is '0.parametrizations.core_0.0.scale'")


def test_lost_and_added_tensors(path, tmp_path):
    change(path, lambda t: t.pop("2.bias"))
    refused(path, "holds 11 tensors, 12 were saved")
    other = tq.save(student(), tmp_path / "other.safetensors")
    change(other, lambda t: t.update(more=torch.zeros(2)))
    refused(other, "holds 13 tensors, 12 were saved")


def test_the_layout_is_sealed_too(path):
    def frozen(notes):
        layout = json.loads(notes["tqlearn"])
        layout["modules"]["2"]["parametrizations"]["weight"][0]["args"]["frozen"] = True
        notes["tqlearn"] = json.dumps(layout)

    change(path, lambda t: None, frozen)
    refused(path, "the layout is not the one that was saved with the tensors")


def test_a_damaged_line_of_digests(path):
    change(path, lambda t: None, lambda notes: notes.update({KEY: "abc"}))
    refused(path, "digests in the file's header are damaged")


def test_without_digests_there_is_one_warning(path):
    change(path, lambda t: None, lambda notes: notes.pop(KEY))
    with pytest.warns(UserWarning, match="has no digests of its tensors.*save the model once"):
        again = tq.load(net(), path)
    x = torch.randn(3, 24)
    assert torch.equal(again(x), student()(x))


def test_a_file_that_is_not_there(tmp_path):
    refused(tmp_path / "none.safetensors", "there is no file .*none.safetensors")


def test_files_of_two_saves():
    one, two = ({KEY: seal({"a": Stored.of(torch.full((2,), n))}, "{}")} for n in (1.0, 2.0))
    with pytest.raises(ValueError, match="not from one and the same save"):
        verify({"a": Stored.of(torch.ones(2))}, [one, two], "{}")


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64, torch.uint8], ids=str
)
def test_what_is_read_is_what_was_written(dtype, tmp_path):
    tensors = {
        "a": torch.ones(3, 2).to(dtype),
        "b": torch.zeros(()).to(dtype),
        "c": torch.empty(0, 4),
    }
    save_file(tensors, tmp_path / "t.safetensors")
    found, _ = read(tmp_path / "t.safetensors")
    for name, tensor in tensors.items():
        assert torch.equal(found[name].tensor(), tensor)
        of = Stored.of(tensor)
        assert (of.dtype, of.shape, bytes(of.data)) == (
            found[name].dtype, found[name].shape, bytes(found[name].data)
        )  # fmt: skip


def test_a_tensor_under_two_names(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.c(self.b(self.a(x)))

    model = tq.calibrate(tq.compress(Twice(), {"c": [tq.LSQ(4)]}))
    again = tq.load(Twice(), tq.save(model, tmp_path / "t.safetensors"))
    x = torch.randn(2, 4)
    assert again.a.weight is again.b.weight and torch.equal(again(x), model(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=str)
def test_large_tensors(dtype):
    """From 64 kB on a tensor is summed with weights first: any bit, any two bytes that change."""
    values = (torch.randn(300, 257) * 100).to(dtype)
    raw = values.flatten().view(torch.uint8)
    was = digests({"a": Stored.of(values)})["a"]
    for at in torch.randint(len(raw) - 1, (300,)).tolist():
        for change in ("bit", "swap"):
            new = raw.clone()
            if change == "bit":
                new[at] ^= 1 << at % 8
            else:
                new[at], new[at + 1] = raw[at + 1], raw[at]
            same = torch.equal(new, raw)
            found = digests({"a": Stored.of(new.view(dtype).reshape(values.shape))})["a"]
            assert (found == was) == same, (change, at)


def test_the_digest_is_what_it_was():
    """Files outlive versions: these numbers never change."""
    small, large = torch.arange(6, dtype=torch.uint8), torch.arange(99999, dtype=torch.int32)
    found = digests({"a": Stored.of(small), "b": Stored.of(large)})
    assert found == {"a": 2058730295, "b": 546836246}
