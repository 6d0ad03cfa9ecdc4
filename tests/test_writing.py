"""Whole or not at all: errors in the middle of a file, links, folders, and what the user reads."""

import errno
import os
import resource
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

import tqlearn as tq
from tqlearn import writing
from tqlearn.hf import running
from tqlearn.lab import build, teach

SMALL = 30_000  # bytes that fit on the "disk"


@contextmanager
def full_disk(size=SMALL):
    """No file grows above ``size``: a real error in the middle of a file, without root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def locked():
    """A folder in which this process may not write, root or not."""
    folder, root = Path(tempfile.mkdtemp()), os.geteuid() == 0
    (folder / "old.txt").write_text("old")
    folder.chmod(0o555)
    if root:
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def bert(width=32):
    torch.manual_seed(width)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 400}
    return BertModel(BertConfig(hidden_size=width, intermediate_size=4 * width, **sizes)).eval()


def compressed(width=32):
    return tq.calibrate(tq.compress(bert(width), {"*.dense": [tq.LSQ(8)]}))


class Words:
    """What stands for a tokenizer: it writes one file."""

    def save_pretrained(self, folder):
        writing.write(Path(folder) / "words.txt", "w" * 10)


def _save(place, much):
    tq.save(nn.Linear(100 if much else 4, 100), place / "model.safetensors")


def _pretrained(place, much):
    compressed(64 if much else 8).save_pretrained(place)


def _recipe(place, much):
    running.save_model(bert(64 if much else 8), Words(), place)


def _notebook(place, much):
    place.mkdir(exist_ok=True)
    cell = nbformat.v4.new_raw_cell("x" * (2 * SMALL if much else 9))
    teach._write(nbformat.v4.new_notebook(cells=[cell]), place / "a.ipynb")


WRITERS = [_save, _pretrained, _recipe, _notebook]


@pytest.mark.parametrize("writer", WRITERS, ids=lambda f: f.__name__.strip("_"))
def test_a_full_disk_leaves_the_old_files_and_no_stray_one(writer, tmp_path):
    place = tmp_path / "out"
    place.mkdir()
    writer(place, False)
    before = contents(tmp_path)
    with full_disk(), pytest.raises(OSError, match="cannot write .*out.*: File too large; what"):
        writer(place, True)
    assert contents(tmp_path) == before and before
    writer(place, True)
    assert contents(tmp_path).keys() == before.keys(), "and with room it works"
    assert contents(tmp_path) != before


@pytest.mark.parametrize("writer", [_pretrained, _recipe], ids=["pretrained", "recipe"])
def test_a_folder_that_cannot_be_written_whole_is_not_there(writer, tmp_path):
    with full_disk(), pytest.raises(OSError, match="unchanged; write to another place"):
        writer(tmp_path / "new" / "out", True)
    assert not contents(tmp_path)


def test_a_read_only_folder_is_told(locked):
    with pytest.raises(PermissionError, match="Permission denied; what stood there is unchanged; "
                       "make it writable, or write to another place"):  # fmt: skip
        writing.write(locked / "old.txt", "new")
    with pytest.raises(PermissionError, match=f"cannot write {locked}/model"):
        tq.save(nn.Linear(2, 2), locked / "model")
    assert contents(locked) == {"old.txt": b"old"}


def test_a_file_that_is_read_only_stays(tmp_path):
    (tmp_path / "a").write_text("old")
    real = os.access
    with pytest.MonkeyPatch.context() as patch:  # root may do everything
        patch.setattr(os, "access", lambda path, mode, **k: real(path, mode) and mode != os.W_OK)
        with pytest.raises(PermissionError, match="make it writable"):
            writing.write(tmp_path / "a", "new")
    assert contents(tmp_path) == {"a": b"old"}


@pytest.mark.parametrize(
    ("number", "way"),
    [
        (errno.ENOSPC, "No space left on device; what stood there is unchanged; free some space"),
        (errno.EROFS, "make it writable, or write"),
        (errno.EIO, "write to another place"),
    ],
)
def test_the_way_out_fits_the_error(number, way, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(writing.os, "fsync", fail)
    with pytest.raises(OSError, match=way) as caught:
        writing.write(tmp_path / "a", "new")
    assert caught.value.errno == number and contents(tmp_path) == {"a": b"old"}


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="make its folder first"):
        tq.save(nn.Linear(2, 2), tmp_path / "none" / "a")
    with pytest.raises(ZeroDivisionError):  # what is no error of the disk stays what it is
        with writing.beside(tmp_path / "a") as new:
            new.write_text("half")
            raise ZeroDivisionError
    assert not contents(tmp_path)


def test_links_permissions_and_pipes(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    writing.write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640
    assert writing.write("/dev/null", "away") == Path("/dev/null")
    assert not Path("/dev/null").is_file()


def test_a_folder_keeps_files_of_other_names_and_loses_old_shards(tmp_path):
    student = compressed(16)
    student.save_pretrained(tmp_path, max_shard_size="10KB")
    (tmp_path / "notes.txt").write_text("mine")
    shards = [f.name for f in tmp_path.glob("model-*-of-*.safetensors")]
    assert len(shards) > 1
    student.save_pretrained(tmp_path)
    names = {f.name for f in tmp_path.iterdir()}
    assert not names & set(shards) and {"notes.txt", "model.safetensors", "config.json"} <= names
    again = BertModel.from_pretrained(tmp_path)
    for one, two in zip(student.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_notebooks_that_are_built_replace_the_old_one_as_a_whole(tmp_path, monkeypatch):
    place = tmp_path / "a.ipynb"
    cell = nbformat.v4.new_raw_cell("x" * 2 * SMALL)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), place)
    before = place.read_bytes()
    monkeypatch.setattr(build, "execute", lambda nb, folder: build.Usage(1.0, 2**28))
    monkeypatch.setattr(build, "speed", lambda: 1.0)
    with full_disk(), pytest.raises(OSError, match=r"cannot write .*a\.ipynb: File too large"):
        build.build(place)
    assert contents(tmp_path) == {"a.ipynb": before}
    build.build(place)
    assert place.read_bytes() != before, "the header is the course's"
