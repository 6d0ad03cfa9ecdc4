"""Files as other systems write them are read right; damaged ones name the file and the line."""

import gzip
import io
import tarfile
import wave

import pytest

import tqlearn.data
from tqlearn.data.lines import lines, require_full

ROWS = ["fly to oslo", "list fares", "show them to me"]
TAGS = ["O O B-to", "O O", "O O O O"]
LABELS = ["go", "fare", "go"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("last", [True, False])
def test_marks_and_line_ends_of_other_systems_are_read_right(end, encoding, last, tmp_path):
    """Three words are three words, and no label has a mark or a carriage return on it."""
    split(
        tmp_path,
        [f"{end.join(file)}{end * last}".encode(encoding) for file in (ROWS, TAGS, LABELS)],
    )
    dd = tqlearn.data.load("snips", source="local", folder=tmp_path)
    assert dd["train"]["tokens"][:] == [row.split() for row in ROWS]
    assert dd["train"]["slots"][:] == [row.split() for row in TAGS]
    assert dd["train"]["intent"][:] == LABELS


def split(root, contents):
    for name in ("train", "valid"):
        folder = root / "snips" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in zip(("seq.in", "seq.out", "label"), contents, strict=True):
            if isinstance(content, list):
                content = "".join(f"{line}\n" for line in content).encode()
            (folder / file).write_bytes(content)


@pytest.mark.parametrize(
    ("words", "tags", "labels", "message"),
    [
        (ROWS, TAGS, ["go", "", "go"], "train/label line 2: nothing stands there"),
        (ROWS, TAGS, ["go", "fare", " \t"], "train/label line 3: nothing stands there"),
        (["fly to oslo", "", "show them to me"], ["O O B-to", "", "O O O O"], LABELS,
         "train/seq.in line 2: nothing stands there, and every row needs its words"),
        (ROWS, ["O O B-to", "", "O O O O"], LABELS, "train/seq.out line 2: nothing"),
        ([*ROWS, ""], [*TAGS, ""], [*LABELS, ""], "train/seq.in line 4: nothing stands there"),
        (ROWS, TAGS[1:], LABELS, "train: .* equally many lines, got 3, 2, 3; seq.in line 1 has 3 "
         "words, but seq.out line 1 has 2 tags; .* seq.out is a line ahead: it lacks this line"),
        (ROWS[1:], TAGS, LABELS, "seq.in line 1 has 2 words, .* seq.in is a line ahead: it lacks"),
        (ROWS, [*TAGS[1:], "O"], LABELS, "train: seq.in line 1 has 3 words, but seq.out line 1 "),
        (ROWS, [TAGS[0], "O", TAGS[2]], LABELS, "seq.in line 2 has 2 words, but seq.out line 2 has "
         "1 tags; they belong together"),
        (ROWS, TAGS, LABELS[1:], "equally many lines, got 3, 3, 2$"),
        (ROWS, ["O O B-to", "O fares", "O O O O"], LABELS,
         "seq.out line 2: tags are O, B-NAME, I-NAME, got 'fares'"),
        (TAGS, ROWS, LABELS, "seq.out line 1: tags are .* got 'fly'"),
        ("\n".join(ROWS).replace("list", "l\xefst").encode("latin-1"), TAGS, LABELS,
         "train/seq.in line 2: byte 0xef is not UTF-8, perhaps the file is in latin-1; convert it"),
        ("\r\n".join("abc\xe9").encode("latin-1"), TAGS, LABELS, "seq.in line 4: byte"),
        ("\n".join(ROWS).encode("utf-16"), TAGS, LABELS, "line 1: byte 0xff .* in utf-16; convert"),
        (["fly to oslo", "list\rfares", "show them to me"], TAGS, LABELS,
         "train/seq.in line 2: a carriage return inside a line"),
        (b"", TAGS, LABELS, "train/seq.in is empty; get it again"),
        (b"\n\n", TAGS, LABELS, "train/seq.in is empty"),
    ],
)  # fmt: skip
def test_intents_and_slots_name_the_file_and_the_line(words, tags, labels, message, tmp_path):
    split(tmp_path, [words, tags, labels])
    with pytest.raises(ValueError, match=message):
        tqlearn.data.load("snips", source="local", folder=tmp_path)


def place(root, file, content):
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    content = content if isinstance(content, bytes) else content.encode()
    (root / file).write_bytes(content if file.endswith(".raw") else gzip.compress(content))


GOOD = "1 a film\n0 dull\n"
SST2, PHRASES = "sst2_sentences/train.txt.gz", "glue/SST-2/train.tsv.gz"
IMDB = "robustness/imdb_counterfactual/orig/test.tsv.gz"
UCI = "robustness/uci_sentences/imdb_labelled.txt.gz"
ENGLISH, HEAD = "multi30k/train.en.gz", "sentence\tlabel\n"


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("sst2", SST2, "1 a film\n0\n", "train.txt.gz line 2: nothing"),
        ("sst2", SST2, "1 a film\n a\n", "line 2: expected sentence and 0"),
        ("sst2", SST2, "1 a film\n\n0 b\n", "line 2: expected sentence"),
        ("sst2", SST2, "1 a\n0 \xe9\n".encode("latin-1"), "line 2: byte 0xe9"),
        ("sst2", SST2, "", "train.txt.gz is empty"),
        ("sst2_phrases", PHRASES, "good\t1\nbad\t0\n", "train.tsv.gz line 1: the header must be "
         r"'sentence\\tlabel', got 'good\\t1'; without it the first row"),
        ("sst2_phrases", PHRASES, f"{HEAD}good\t1\nbad\t\n", r"line 3: .*, got \('bad', ''\)"),
        ("sst2_phrases", PHRASES, f"{HEAD}good\t1\n \t0\n", "line 3: nothing"),
        ("imdb", IMDB, "Positive\tgood\n", "line 1: the header"),
        ("imdb", IMDB, "Sentiment\tText\nPositive\n", "line 2: nothing"),
        ("uci", UCI, "so\t1\nno label\n", "line 2: expected"),
        ("multi30k", ENGLISH, "a dog\n\n", "train.en.gz line 2: nothing stands"),
        ("multi30k", ENGLISH, "a dog\n", "got 1 and 2; get them again"),
    ],
)  # fmt: skip
def test_sentences_name_the_file_and_the_line(name, file, content, message, tmp_path):
    for split_ in ("train", "dev"):
        place(tmp_path, f"sst2_sentences/{split_}.txt.gz", GOOD)
        place(tmp_path, f"glue/SST-2/{split_}.tsv.gz", "sentence\tlabel\na\t1\n")
    for part in ("train", "val", "test_2016_flickr"):
        for language in ("en", "de"):
            place(tmp_path, f"multi30k/{part}.{language}.gz", "a\nb\n")
    place(tmp_path, file, content)
    with pytest.raises(ValueError, match=message):
        tqlearn.data.load(name, source="local", folder=tmp_path)


def test_windows_files_of_sentences_are_read_right(tmp_path):
    place(tmp_path, "glue/SST-2/train.tsv.gz", "\ufeffsentence\tlabel\r\na film \t1\r\n")
    place(tmp_path, "glue/SST-2/dev.tsv.gz", "Sentence\tLabel\r\ndull\t0\r\n")
    dd = tqlearn.data.load("sst2_phrases", source="local", folder=tmp_path)
    assert dd["train"][:] == {"sentence": ["a film"], "label": [1]}
    assert dd["validation"][:] == {"sentence": ["dull"], "label": [0]}


def test_a_bad_gzip_says_how_far_it_goes(tmp_path):
    path = tmp_path / "a.gz"
    text = "".join(f"{i} {i * 7919 % 1013}\n" for i in range(40_000)).encode()
    whole = gzip.compress(text)
    path.write_bytes(whole)
    assert lines(path)[:2] == ["0 0", "1 828"] and len(lines(path)) == 40_000
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a.gz is no whole gzip file \(.*\): .* line") as cut:
        lines(path)
    assert 10_000 < int(str(cut.value).split("ends in line ")[1].split(";")[0]) < 30_000
    for damaged, why in (
        (b"0 0\n1 828\n", "Not a gzipped file"),
        (whole[:-8] + b"\0" * 8, "CRC check failed"),
        (whole[:40] + b"\xff" * 40 + whole[80:], "Error -3 while decompressing"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"a.gz is no whole gzip file .*{why}.* line"):
            lines(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match="a.txt is missing"):
        lines(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("x\n")
    with pytest.MonkeyPatch.context() as patch:

        def refuse(self):
            raise PermissionError(13, "Permission denied")

        patch.setattr(type(tmp_path), "read_bytes", refuse)
        with pytest.raises(ValueError, match="a.txt cannot be read: Permission denied"):
            lines(tmp_path / "a.txt")
    require_full(tmp_path, ["a"])


def tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as into:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            into.addfile(info, io.BytesIO(content))


def test_sounds_that_are_cut_short_are_named(tmp_path):
    sound = io.BytesIO()
    with wave.open(sound, "wb") as to:
        to.setparams((1, 2, 8000, 0, "NONE", ""))
        to.writeframes(b"\1\0" * 100)
    path = tmp_path / "fsdd" / "recordings.tar.gz"
    for cut in (sound.getvalue()[:-51], sound.getvalue()[:30], b"RIFF"):
        tar(path, {"0_a_0.wav": cut})
        with pytest.raises(ValueError, match=r"recordings.tar.gz: 0_a_0.wav is no readable wav \("):
            tqlearn.data.load("fsdd", source="local", folder=tmp_path)
    whole = path.read_bytes()
    for damaged in (whole[:-20], whole[:15] + b"\xff" * 20 + whole[35:], b"text"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="recordings.tar.gz is no readable tar file"):
            tqlearn.data.load("fsdd", source="local", folder=tmp_path)
