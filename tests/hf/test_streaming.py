"""A folder that is compressed layer by layer is the one that memory would have given."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple

import pytest
import torch
from safetensors import safe_open
from tiny_llamas import tiny_llama
from tiny_models import tiny
from transformers import AutoModel, AutoModelForCausalLM
from warm import FRESH

import tqlearn as tq
from tqlearn.hf.slices import Slices
from tqlearn.hf.unfinished import JOURNAL, WORK, told

PLAN = {
    "*.q_proj": [tq.LowRank(rank=4), tq.LSQ(bits=8)],
    "*.o_proj": [tq.TwoFour(), tq.LSQ(bits=4, per="channel")],
    "*.k_proj": [tq.LSQ(bits=4, per=16, scale_dtype="bfloat16")],
    "*": [tq.LSQ(bits=4, init="mse", per=16, scale_dtype="float16")],
}
SIZE, LOCK = "4KB", ".stream.lock"


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    """A kill leaves what the system has taken; to wait for the disk is for a power cut."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def either(request):
    """A random Llama in FP16, its tables tied or not."""
    return tiny_llama(tie_word_embeddings=request.param).half()


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A sharded folder in FP16, and what memory makes of it; not to be written to."""
    home = tmp_path_factory.mktemp("dense")
    tiny_llama().half().save_pretrained(home / "dense", max_shard_size="16KB")
    in_memory(home / "dense", home / "memory")
    return home / "dense"


@pytest.fixture
def folder(dense, tmp_path):
    """A copy of it, for one test."""
    return shutil.copytree(dense, tmp_path / "dense")


def in_memory(folder, out, plan=PLAN, size=SIZE, kind=AutoModelForCausalLM):
    """The model of a folder packed, after it was saved."""
    packed = tq.pack(tq.calibrate(tq.compress(kind.from_pretrained(folder), plan)))
    packed.save_pretrained(out, max_shard_size=size)
    return packed


def streamed(folder, out, plan=PLAN, size=SIZE, **given):
    return tq.stream(folder, plan, out, max_shard_size=size, **given)


def assert_same(found, wanted):
    """The same files, bit for bit, but for the notes of a header, which have no order."""
    assert {file.name for file in found.iterdir()} == {file.name for file in wanted.iterdir()}
    for file in wanted.iterdir():
        if file.suffix != ".safetensors":
            assert (found / file.name).read_text() == file.read_text(), file.name
            continue
        assert (found / file.name).stat().st_size == file.stat().st_size
        with safe_open(file, "pt") as a, safe_open(found / file.name, "pt") as b:
            assert a.metadata() == b.metadata() and list(a.keys()) == list(b.keys())
            for name in list(a.keys()):
                one, two = a.get_tensor(name), b.get_tensor(name)
                assert one.dtype == two.dtype and one.shape == two.shape
                one, two = (t.reshape(-1).view(torch.uint8) for t in (one, two))
                assert torch.equal(one, two), name


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize("shards", ["16KB", "1GB"], ids=["sharded", "one file"])
def test_the_folder_is_the_one_of_memory(either, tmp_path, shards):
    either.save_pretrained(tmp_path / "dense", max_shard_size=shards)
    packed, told = in_memory(tmp_path / "dense", tmp_path / "memory"), []
    out = streamed(tmp_path / "dense", tmp_path / "out", progress=lambda *one: told.append(one))
    assert_same(out, tmp_path / "memory")
    assert len(list(out.glob("*.safetensors"))) > 3 and (out / "config.json").is_file()
    assert [number for _, number, _ in told] == list(range(1, told[0][2] + 1))
    loaded = AutoModelForCausalLM.from_pretrained(out)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, packed(ids).logits)
    assert loaded.dtype == torch.float16 and not list(out.glob(".*"))


def test_one_file_holds_what_is_small_enough(dense, tmp_path):
    out = streamed(dense, tmp_path / "out", size="1MB")
    in_memory(dense, tmp_path / "memory", size="1MB")
    assert_same(out, tmp_path / "memory")
    assert (out / "model.safetensors").is_file()


@pytest.mark.filterwarnings("ignore:.* matrices under the plan's patterns stay")
@pytest.mark.parametrize("family", ["gpt2", "vit", "bert", "gemma3_text"])
def test_other_families(family, tmp_path):
    """A Conv1D; names that a file has otherwise; a head that is not there; a scaled table."""
    model, *_ = tiny(family)
    model.save_pretrained(tmp_path / "dense")
    plan = {"*": [tq.LSQ(bits=4)]}
    in_memory(tmp_path / "dense", tmp_path / "memory", plan, kind=AutoModel)
    assert_same(streamed(tmp_path / "dense", tmp_path / "out", plan), tmp_path / "memory")


def test_a_finished_layer_leaves_memory(dense, tmp_path):
    """At once, not when Python looks for cycles the next time."""

    def held():
        tensors = [o for o in gc.get_objects() if isinstance(o, torch.Tensor) and not o.is_meta]
        return sum(t.numel() * t.element_size() for t in tensors)

    gc.collect()
    before, most = held(), []
    gc.disable()
    try:
        streamed(dense, tmp_path / "out", progress=lambda *told: most.append(held() - before))
    finally:
        gc.enable()
    model = AutoModelForCausalLM.from_pretrained(dense)
    assert max(most) < 2 * model.lm_head.weight.nbytes < sum(t.nbytes for t in model.parameters())


BUSY = """
import os, sys
import tqlearn as tq
from test_streaming import PLAN, SIZE

def told(name, done, of):
    if done == 3:
        print("busy", flush=True)
        sys.stdin.readline()

os.fsync = lambda file: None
tq.stream(sys.argv[1], PLAN, sys.argv[2], max_shard_size=SIZE, progress=told)
"""


def with_paths():
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")]),
    }


def test_two_processes_at_once_do_not_mix(dense, tmp_path):
    """The second is told which folder and what to do, and the first goes on as if alone."""
    out = tmp_path / "out"
    first = subprocess.Popen(
        [*FRESH, "-c", BUSY, str(dense), str(out)],
        env=with_paths(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert first.stdout.readline() == "busy\n", first.communicate()[1]
    before = contents(out)
    for plan in (PLAN, PLAN | {"*": [tq.LSQ(bits=8)]}):  # locked before anybody reads the journal
        with pytest.raises(ValueError, match=f"streams into {out} at .*another folder as out"):
            streamed(dense, out, plan)
    assert contents(out) == before and LOCK in before
    _, said = first.communicate("go on\n")
    assert first.returncode == 0, said
    assert_same(out, dense.with_name("memory"))


KILLED = """
import os, signal, sys
import tqlearn as tq
from tqlearn.hf import streaming, unfinished
from tqlearn.storage import shards
from test_streaming import PLAN, SIZE

folder, out, where, times = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
owner, verb = {
    "layer": (streaming.Job, "made"), "tensor": (shards.Shard, "put"),
    "header": (shards.Shard, "finish"), "place": (unfinished.Path, "replace"),
    "card": (unfinished, "write_card"),
}[where]
plain, left = getattr(owner, verb), iter(range(times))

def counted(*args, **kwargs):
    if next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(*args, **kwargs)

setattr(owner, verb, counted)
os.fsync = lambda file: None
tq.stream(folder, PLAN, out, max_shard_size=SIZE)
"""
WHERE = [("layer", 5), ("tensor", 11), ("header", 2), ("place", 0), ("place", 3), ("card", 0)]


@pytest.mark.parametrize(("where", "times"), WHERE)
def test_a_killed_call_goes_on(dense, tmp_path, monkeypatch, where, times):
    """By SIGKILL: between layers, within one, while headers are written, on the way into place."""
    out = tmp_path / "out"
    run = subprocess.run(
        [*FRESH, "-c", KILLED, str(dense), str(out), where, str(times)],
        env=with_paths(),
        capture_output=True,
        text=True,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert (out / WORK / JOURNAL).is_file()
    assert (out / LOCK).is_file()  # left behind, and nobody holds it
    assert (out / "config.json").is_file() == (where == "card")  # no model before it is whole
    read, plain = [], Slices.read
    monkeypatch.setattr(Slices, "read", lambda self, name: read.append(name) or plain(self, name))
    assert_same(streamed(dense, out), dense.with_name("memory"))
    whole = len(Slices(dense).home)
    assert (len(read) == 0) if where in ("header", "place", "card") else (0 < len(read) < whole)


class StopError(Exception):
    pass


def stop_at(number):
    def told(name, done, of):
        if done == number:
            raise StopError

    return told


def begun(folder, out, number=4):
    with pytest.raises(StopError):
        streamed(folder, out, progress=stop_at(number))
    return out


def test_what_is_damaged_is_made_again(dense, tmp_path):
    """A line that a kill cut short, and bytes that are not what the journal has the digest of."""
    out = begun(dense, tmp_path / "out")
    journal = out / WORK / JOURNAL
    with open(journal, "ab") as file:
        file.write(b'{"digests": {"mod')
    shard = sorted((out / WORK).glob("*.safetensors"))[0]
    data = bytearray(shard.read_bytes())
    shard.write_bytes(data[:-64] + bytes(64))
    assert_same(streamed(dense, out), dense.with_name("memory"))


def changed_plan(folder):
    return {"plan": PLAN | {"*": [tq.LSQ(bits=4, per=16)]}}


def other_size(folder):
    return {"size": "8KB"}


def touched_shard(folder):
    os.utime(sorted(folder.glob("*.safetensors"))[1])
    return {}


def other_config(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    return {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed_plan, r"another plan: '\*' was \[LSQ\(bits=4, init='mse'"),
        (other_size, "another file: 'model-00001-of-"),
        (touched_shard, "another source: 'model-00002-of-.*make the call as it was, or delete"),
        (other_config, "another source: 'config.json' was"),
    ],
)
def test_an_unfinished_call_is_not_mixed_with_another(folder, tmp_path, change, message):
    out = begun(folder, tmp_path / "out")
    before, other = contents(out), change(folder)
    with pytest.raises(ValueError, match=message):
        streamed(folder, out, **other)
    assert contents(out) == before
    shutil.rmtree(out / WORK)
    streamed(folder, out, **other)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            {"*.q_proj": [tq.LSQ(4), tq.Inputs(tq.LSQ(8))]},
            r"0\.self_attn\.q_proj\.quant_input is a",
        ),
        ({"*.up_proj": [tq.BlockPrune(block=(8, 8))]}, "up_proj.*scores are learned in training"),
        ({"*.v_proj": [tq.LowRank(error=0.1)]}, r"v_proj: LowRank.*give rank= or ratio="),
        ({"*.w_proj": [tq.LSQ(4)]}, "matches no Linear"),
        ({"*": []}, "nothing to write"),
    ],
)
def test_plans_that_need_more_than_a_layer(dense, tmp_path, plan, message):
    with pytest.raises(ValueError, match=message):
        streamed(dense, tmp_path / "out", plan)
    assert not (tmp_path / "out").exists()


def without_config(folder):
    (folder / "config.json").unlink()


def without_weights(folder):
    for file in folder.glob("model*"):
        file.unlink()


def without_shard(folder):
    sorted(folder.glob("*.safetensors"))[0].unlink()


def half_shard(folder):
    file = sorted(folder.glob("*.safetensors"))[0]
    file.write_bytes(file.read_bytes()[:-8])


def compressed(folder):
    in_memory(folder, folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_config, "has no config.json, so it is no folder of a model"),
        (without_weights, "has no model.safetensors and no"),
        (without_shard, "lacks its shard 'model-00001-of-"),
        (half_shard, "is not a whole safetensors file"),
        (compressed, "is quantized by 'tqlearn' already"),
    ],
)
def test_folders_that_cannot_be_read(folder, tmp_path, change, message):
    change(folder)
    with pytest.raises(ValueError, match=message):
        streamed(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("equal", [True, False])
def test_two_tables_that_a_config_ties(tmp_path, equal):
    """Both in the file: they are one if their numbers are equal, and two if not."""
    model = tiny_llama(tie_word_embeddings=False)
    if equal:
        model.lm_head.weight.data.copy_(model.model.embed_tokens.weight)
    model.config.tie_word_embeddings = True
    model.save_pretrained(tmp_path / "dense")
    assert "lm_head.weight" in Slices(tmp_path / "dense").home
    in_memory(tmp_path / "dense", tmp_path / "memory")
    assert_same(streamed(tmp_path / "dense", tmp_path / "out"), tmp_path / "memory")


def test_tensors_that_are_not_the_models(folder, tmp_path):
    file = folder / "config.json"
    text = json.loads(file.read_text())
    file.write_text(json.dumps(text | {"tie_word_embeddings": False}))
    with pytest.raises(ValueError, match="have no 'lm_head.weight', which"):
        streamed(folder, tmp_path / "out")
    file.write_text(json.dumps(text | {"num_hidden_layers": 1}))
    with pytest.raises(ValueError, match=r"has 'model\.layers\.1\..*', for which LlamaForCausalLM"):
        streamed(folder, tmp_path / "out")


def halves(module):
    return tq.LSQ(bits=4, per=16)(module)


def test_what_an_edit_is_called_does_not_hide_what_it_does():
    """Equal words for equal edits, in any process; other ones where a print says nothing of it."""
    table = {"row_modes": (8, 8), "col_modes": (4, 4)}
    one, other = (tq.TTM(4, **table, counts=(*range(63), last)) for last in (1, 2))
    assert repr(one) == repr(other) and told(one) != told(other)
    assert told(tq.LSQ(bits=4)) == repr(tq.LSQ(bits=4)) and " at 0x" not in told(halves)

    def of(bits):
        return lambda module: tq.LSQ(bits=bits)(module)

    def by(inner):
        return lambda module: inner(module)

    edits = halves, of(3), of(4), by(of(3)), by(of(4)), lambda module: module
    words = [told(edit) for edit in edits]
    assert len({*words}) == len(edits) and told(by(of(3))) == words[3]
    code = f"import sys; sys.path[:0] = {sys.path}; import test_streaming as t; "
    code += "print(t.told(t.halves))"
    env = os.environ | {"PYTHONHASHSEED": "7"}
    run = subprocess.run([*FRESH, "-c", code], capture_output=True, text=True, env=env)
    assert run.stdout.split("\n")[0] == words[0].replace(halves.__module__, "test_streaming")


def test_the_folder_itself_is_no_place(dense, monkeypatch):
    for out in (dense, dense / "packed"):
        with pytest.raises(ValueError, match="is in the folder that is read"):
            streamed(dense, out)


def test_a_full_disk_is_told_before(dense, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1000))
    with pytest.raises(OSError, match="cannot write .*out: No space left.*free some space"):
        streamed(dense, tmp_path / "out")


def test_an_older_model_stays_until_the_new_one_is_whole(dense, tmp_path):
    out = tmp_path / "out"
    tiny_llama().save_pretrained(out)
    (out / "notes.txt").write_text("mine")
    before = contents(out)
    begun(dense, out)
    assert {k: v for k, v in contents(out).items() if WORK not in k} == before
    streamed(dense, out)
    (out / "notes.txt").unlink()
    assert_same(out, dense.with_name("memory"))


def test_a_nan_is_named(folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = torch.nan
    model.save_pretrained(folder, max_shard_size="16KB")
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj.*NaN"):
        streamed(folder, tmp_path / "out")


def deeper(layer):
    """An edit of one's own whose size depends on the numbers."""
    return tq.LowRank(rank=2).skeleton(layer) if layer.weight.is_meta else tq.LowRank(rank=3)(layer)


def test_sizes_that_the_numbers_settle_are_refused(dense, tmp_path):
    with pytest.raises(ValueError, match="down_proj.* announced .* depend on the numbers"):
        streamed(dense, tmp_path / "out", {"*.down_proj": [deeper]})
