"""Where a stopped training goes on: the newest whole checkpoint, by name, and never in silence."""

import json
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import tqlearn as tq
from tqlearn.hf import running
from tqlearn.hf.resuming import PARTS, last_checkpoint, newest_checkpoint, require_whole
from tqlearn.recipes import fullyqt


class Rows(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        return {"input_ids": torch.tensor([i, i + 1, 2]), "labels": torch.tensor(i % 2)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a compressed model with a checkpoint after each of its three steps."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    config = BertConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=16, max_position_embeddings=8)  # fmt: skip
    model = BertForSequenceClassification(config)
    student = tq.calibrate(tq.compress(model, {"*.dense": [tq.LSQ(4)]}))
    training = TrainingArguments(
        str(folder), max_steps=3, save_steps=1, save_strategy="steps", report_to="none",
        use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    Trainer(student, training, train_dataset=Rows()).train()
    return folder


@pytest.fixture
def training(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    return TrainingArguments(str(folder), resume_from_checkpoint="last", use_cpu=True)


def checkpoint(training, step):
    return last_checkpoint(training.output_dir).with_name(f"checkpoint-{step}")


def halve(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_the_newest_one_is_taken_and_named(training, capsys):
    place = checkpoint(training, 3)
    assert newest_checkpoint(training) == str(place)
    assert capsys.readouterr().out == f"resuming from {place}\n"
    require_whole(place)
    for word in (None, "", "False"):
        training.resume_from_checkpoint = word
        assert newest_checkpoint(training) is None
    assert not capsys.readouterr().out
    training.resume_from_checkpoint, training.output_dir = "last", str(place / "none")
    assert newest_checkpoint(training) is None and not capsys.readouterr().out


FILES = ["model.safetensors", "config.json", "optimizer.pt", "scheduler.pt", "rng_state.pth",
         "trainer_state.json"]  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_one_that_was_cut_short_is_passed_by_and_named(file, training, capsys):
    place = checkpoint(training, 3)
    halve(place / file)
    assert newest_checkpoint(training) == str(checkpoint(training, 2))
    words, chosen = capsys.readouterr().out.splitlines()
    assert words.startswith(f"{place} is passed by: ") and "cut short or damaged" in words
    assert (file in words or "weights" in words) and chosen.endswith("checkpoint-2")
    training.resume_from_checkpoint = str(place)
    with pytest.raises(ValueError, match="checkpoint-3: .* cut short .* name another checkpoint"):
        newest_checkpoint(training)


def _inside(file):
    """A place among a file's numbers; between the parts of a zip there is what nothing reads."""
    if not zipfile.is_zipfile(file):
        return file.stat().st_size * 2 // 3
    with zipfile.ZipFile(file) as opened:
        part = max(opened.infolist(), key=lambda part: part.file_size)
    return part.header_offset + 200 + part.file_size // 2  # a header is far below 200 bytes


def test_a_flipped_bit_is_a_damage(training, capsys):
    place = checkpoint(training, 3)
    for name in ("model.safetensors", "optimizer.pt"):
        bits = bytearray((place / name).read_bytes())
        bits[_inside(place / name)] ^= 1
        (place / name).write_bytes(bits)
        assert newest_checkpoint(training) == str(checkpoint(training, 2)), name
        assert "damaged" in capsys.readouterr().out
        shutil.copy(checkpoint(training, 2) / name, place / name)


def test_a_save_that_was_stopped_before_its_end_is_told(training, capsys):
    for step in (3, 2):
        (checkpoint(training, step) / "trainer_state.json").unlink()
    assert newest_checkpoint(training).endswith("checkpoint-1")
    assert capsys.readouterr().out.count("trainer_state.json is missing") == 2
    folder = checkpoint(training, 1)
    (folder / "trainer_state.json").unlink()
    assert newest_checkpoint(training) is None
    assert capsys.readouterr().out.endswith(
        "no whole checkpoint is left: the training begins anew\n")  # fmt: skip
    training.resume_from_checkpoint = str(folder)
    with pytest.raises(ValueError, match="is no checkpoint of a Trainer, it has no trainer_state"):
        newest_checkpoint(training)


LOST = {"optimizer": "optimizer.pt", "learning rate schedule": "scheduler.pt",
        "state of the random numbers": "rng_state.pth", "weights": "model.safetensors"}  # fmt: skip


@pytest.mark.parametrize("part", LOST)
def test_without_a_part_it_is_not_resumed_in_silence(part, training, capsys):
    """One older is whole: it is taken. None is: the run says so instead of beginning anew."""
    assert LOST.keys() == PARTS.keys()
    (checkpoint(training, 3) / LOST[part]).unlink()
    assert newest_checkpoint(training).endswith("checkpoint-2")
    assert f"checkpoint-3 is passed by: it has no {part} ({LOST[part]})" in capsys.readouterr().out
    places = [checkpoint(training, step) for step in (1, 2, 3)]
    for place in places:
        (place / LOST[part]).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=f"checkpoint-3: it has no {part} .* to begin anew"):
        newest_checkpoint(training)
    training.resume_from_checkpoint = str(places[1])
    with pytest.raises(ValueError, match=f"checkpoint-2: it has no {part} .* or begin a new"):
        newest_checkpoint(training)
    needed = [name for name in PARTS if name != part]
    assert last_checkpoint(training.output_dir, needed) == places[2]


def test_other_processes_are_warned_of(training):
    place = checkpoint(training, 3)
    for i in range(2):
        shutil.copy(place / "rng_state.pth", place / f"rng_state_{i}.pth")
    (place / "rng_state.pth").unlink()
    with pytest.warns(UserWarning, match="random state of 2 processes, this run has 1"):
        assert newest_checkpoint(training) == str(place)
    with pytest.warns(UserWarning, match="of 2 processes, this run has 3"):
        require_whole(place, 3)
    require_whole(place, 2)


def test_a_shard_that_is_missing_is_a_fault(training):
    place = checkpoint(training, 3)
    state = load_file(place / "model.safetensors")
    (place / "model.safetensors").unlink()
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[:5],
             "model-00002-of-00002.safetensors": names[5:]}  # fmt: skip
    for file, own in parts.items():
        save_file({name: state[name] for name in own}, place / file, metadata={"format": "pt"})
    weight_map = {name: file for file, own in parts.items() for name in own}
    index = place / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert last_checkpoint(training.output_dir) == place
    (place / "model-00002-of-00002.safetensors").unlink()
    assert last_checkpoint(training.output_dir) == checkpoint(training, 2)


def test_a_start_of_fullyqt_must_be_whole(training, tmp_path):
    place = checkpoint(training, 3)
    halve(place / "optimizer.pt")
    with pytest.raises(ValueError, match="optimizer.pt was cut short"):
        fullyqt.own_copy(place, tmp_path, nn.Linear(1, 1))
    assert not (tmp_path / "start").exists()


def test_recipes_take_it_from_running():
    assert running.newest_checkpoint is newest_checkpoint
