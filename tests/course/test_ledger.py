"""The ledger: rows measured on real models, kept in the reader's folder, begun anywhere."""

import errno
import json
import os
import signal
import time
import warnings

import pytest

import tqlearn as tq
from tqlearn import locks
from tqlearn.lab import ledger
from tqlearn.lab.student import load_student


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("TQLEARN_LEDGER", str(tmp_path / "mine.json"))


@pytest.fixture(scope="module")
def flights():
    return tq.data.load("flights")["test"].select(range(40))


@pytest.fixture(scope="module")
def teacher():
    return tq.teachers.load("embedded")


def test_a_row_holds_bytes_work_and_accuracy(teacher, flights):
    model, tokenizer = teacher
    (row,) = ledger.add("00", {"teacher": model}, tokenizer, flights)
    assert row.keys() == ledger.KEYS and row["notebook"] == "--"
    assert row["bytes"] == 2_302_596, "the whole file, header included"
    assert 90 <= row["intent_accuracy"] <= 100 and 70 <= row["slot_f1"] <= 100
    assert 0 < row["cpu_ms"] < 50
    assert model.config._attn_implementation == "sdpa", "left as it was"


def test_multiply_adds_are_those_of_the_matrices(teacher, flights):
    """Two layers of 128 and 512, counted by hand; attention at the batch's padded length."""
    model, tokenizer = teacher
    row = ledger.measure(model, tokenizer, flights)
    batch = tokenizer(flights[:32]["tokens"], is_split_into_words=True, padding=True)
    tokens = len(batch["input_ids"][0])
    layer = tokens * (4 * 128 * 128 + 2 * 128 * 512) + 2 * tokens * tokens * 128
    intents, slots = len(model.config.intent_labels), len(model.config.slot_labels)
    heads = 128 * 128 + 128 * intents + tokens * (128 * 128 + 128 * slots)
    assert row["macs"] == 2 * layer + heads


def test_rows_are_replaced_and_sorted(teacher, flights):
    model, tokenizer = teacher
    student = load_student()
    ledger.add("09", {"packed": student, "teacher": model}, tokenizer, flights)
    ledger.add("02", {"packed": student}, tokenizer, flights)
    ledger.add("09", {"packed": student}, tokenizer, flights)
    assert [(r["notebook"], r["model"]) for r in ledger.rows()] == [
        ("--", "teacher"), ("02", "packed"), ("09", "packed")]  # fmt: skip
    assert ledger.rows()[1]["bytes"] == tq.report(student).file < ledger.rows()[0]["bytes"]
    assert ledger.rows()[1]["macs"] < ledger.rows()[0]["macs"]


def test_an_empty_ledger_says_how_to_begin(capsys):
    ledger.show()
    assert "Your ledger is empty" in capsys.readouterr().out


def test_show_prints_and_plots(teacher, flights, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(ledger.plots, "show", drawn.append)
    ledger.add("00", {"teacher": teacher[0]}, teacher[1], flights)
    ledger.show()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("--  teacher") and "2,302,596" in lines[-1]
    assert list(drawn[0].data[0].x) == [2302.596] and drawn[0].data[0].text == ("teacher",)


def test_names_in_the_picture_do_not_overlap():
    """Everything keeps its name while there is room; where there is none, the dot has it alone."""
    assert ledger.labels([(300, 200, 9, "teacher")]) == [("teacher", "bottom center")]
    assert ledger.labels([(300, 10, 9, "untrained")])[0][1] == "top center"
    assert ledger.labels([(60, 10, 9, "Kronecker products")])[0][1] == "middle right"
    assert ledger.labels([(660, 200, 9, "Kronecker products")])[0][1] == "bottom left"
    pair = ledger.labels([(300, 200, 9, "one"), (300, 185, 9, "two")])
    assert [name for name, _ in pair] == ["one", "two"] and pair[0][1] != "bottom center"
    crowd = ledger.labels([(300 + k % 3, 200, 5, "a long name") for k in range(30)])
    assert 2 <= sum(bool(name) for name, _ in crowd) <= 8


def test_every_dot_of_the_picture_has_its_name_under_the_mouse():
    row = {"notebook": "02", "bytes": 9_000, "macs": 1, "intent_accuracy": 9.0, "slot_f1": 70.0}
    trace = ledger.draw([row | {"model": f"model {k}", "cpu_ms": 1.0} for k in range(20)]).data[0]
    assert trace.hovertext == tuple(f"model {k}" for k in range(20))
    assert "" in trace.text and "hovertext" in trace.hovertemplate


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[", "line 1 column 2"),
        ("", "line 1 column 1"),
        ("\xff", "invalid start byte"),
        ('{"a": 1}', "it holds a dict where a list of rows is wanted"),
        ('[1]', "row 1 must have .* but has 1"),
        ('[{"notebook": 1}]', r"row 1 must have .*, but has \['notebook'\]"),
        (lambda row: [row, row | {"bytes": "9"}], "bytes of row 2 cannot be '9'"),
        (lambda row: [row | {"macs": 0}], "macs of row 1 cannot be 0"),
        (lambda row: [row | {"slot_f1": None}], "slot_f1 of row 1 cannot be None"),
        (lambda row: [row | {"model": True}], "model of row 1 cannot be True"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_with_its_place_and_kept(text, what, teacher, flights):
    text = text if isinstance(text, str) else json.dumps(text(ROW))
    ledger.path().write_bytes(before := text.encode("latin-1"))
    way = f"{what}.*; move it away or delete it to begin anew, or name another with TQLEARN_LEDGER"
    for call in (ledger.rows, ledger.show, lambda: ledger.put([ROW]),
                 lambda: ledger.add("00", {"a": teacher[0]}, teacher[1], flights)):  # fmt: skip
        with pytest.raises(ValueError, match=f"mine.json is no ledger of this course: .*{way}"):
            call()
    assert ledger.path().read_bytes() == before
    assert [file.name for file in ledger.path().parent.iterdir()] == ["mine.json"]


def test_a_folder_is_no_ledger():
    ledger.path().mkdir()
    with pytest.raises(ValueError, match="cannot be read as a ledger: Is a directory; move it"):
        ledger.rows()


ROW = {"notebook": "00", "model": "a", "bytes": 9, "macs": 9, "intent_accuracy": 90.0,
       "slot_f1": 80, "cpu_ms": 0.1}  # fmt: skip


def in_a_process_of_its_own(work, *args) -> int:
    """Start it and return its id; a fork, for a new Python takes seconds to import torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        child = os.fork()
    if child == 0:
        try:
            work(*args)
            os._exit(0)
        finally:
            os._exit(1)
    return child


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def add_many(number, start):
    (start / number).touch()
    while len(list(start.iterdir())) < 2:
        time.sleep(0.001)
    for i in range(60):
        ledger.put([ROW | {"notebook": number, "model": f"{i:03}"}])


def test_two_kernels_that_add_at_once_lose_no_row(tmp_path):
    """60 rows each; both begin when both are there."""
    start = tmp_path / "start"
    start.mkdir()
    kernels = [in_a_process_of_its_own(add_many, number, start) for number in ("01", "02")]
    assert [exit_code(kernel) for kernel in kernels] == [0, 0]
    found = [(row["notebook"], row["model"]) for row in ledger.rows()]
    assert found == [(n, f"{i:03}") for n in ("01", "02") for i in range(60)]
    assert {file.name for file in tmp_path.iterdir()} == {"mine.json", "start"}


def test_rows_that_came_while_a_model_was_measured_stay(teacher, flights, monkeypatch):
    def meanwhile(*_):
        ledger.put([ROW])
        return {key: ROW[key] for key in ledger.KEYS - {"notebook", "model"}}

    monkeypatch.setattr(ledger, "measure", meanwhile)
    ledger.add("02", {"mine": teacher[0]}, teacher[1], flights)
    assert [(row["notebook"], row["model"]) for row in ledger.rows()] == [
        ("00", "a"), ("02", "mine")]  # fmt: skip


def test_a_lock_goes_with_the_process_that_held_it(tmp_path):
    """A kernel that is killed inside leaves a file that locks nobody out."""

    def die():
        with locks.locked(ledger.path()):
            os.kill(os.getpid(), signal.SIGKILL)

    assert exit_code(in_a_process_of_its_own(die)) == -signal.SIGKILL
    assert [file.name for file in tmp_path.iterdir()] == [".mine.json.lock"]
    ledger.put([ROW])
    assert ledger.rows() == [ROW] and [file.name for file in tmp_path.iterdir()] == ["mine.json"]


def test_a_lock_that_is_held_is_waited_for_and_then_told():
    with locks.locked(ledger.path()):
        with pytest.raises(TimeoutError, match=r"locked for 0.05 seconds .*mine\.json\.lock; int"):
            with locks.locked(ledger.path(), patience=0.05):
                pytest.fail("two hold it")
    with locks.locked(ledger.path(), patience=0.0):
        pass


def test_the_lock_of_windows(monkeypatch, tmp_path):
    """Its calls, by a module of the same interface: one byte, no waiting, the file goes last."""
    held, calls = set(), []

    class Msvcrt:
        LK_NBLCK = 2

        @staticmethod
        def locking(handle, mode, bytes):
            calls.append((mode, bytes))
            inode = os.fstat(handle).st_ino
            if inode in held:
                raise PermissionError(errno.EACCES, "in use")
            held.add(inode)

    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "msvcrt", Msvcrt, raising=False)
    with locks.locked(ledger.path()):
        with pytest.raises(TimeoutError, match="another process"):
            with locks.locked(ledger.path(), patience=0.02):
                pytest.fail("two hold it")
    assert set(calls) == {(2, 1)} and len(calls) > 2 and not list(tmp_path.iterdir())


def test_a_full_disk_and_a_folder_that_is_read_only(monkeypatch, tmp_path):
    ledger.put([ROW])
    before = ledger.path().read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name, words in [("fsync", "No space left on device; what stood there is unchanged; free"),
                        ("open", "No space left on device")]:  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(OSError, match=f"cannot write .*mine.json: {words}"):
                ledger.put([ROW | {"model": "b"}])
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no")))
        with pytest.raises(PermissionError, match="mine.json: Permission denied; .* make it"):
            ledger.put([ROW | {"model": "b"}])
    assert ledger.path().read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["mine.json"]


def test_the_file_is_whole_json_without_leftovers(teacher, flights):
    ledger.add("00", {"teacher": teacher[0]}, teacher[1], flights)
    folder = ledger.path().parent
    assert [file.name for file in folder.iterdir()] == ["mine.json"]
    assert len(json.loads(ledger.path().read_text())) == 1
