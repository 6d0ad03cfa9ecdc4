"""Pictures: digits and the CIFAR-10 sample, encoding, augmentation, accuracy, a small ViT."""

import hashlib
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from PIL import Image
from safetensors.torch import load_file
from transformers import BertConfig, BertModel, ViTForImageClassification

import tqlearn as tq
import tqlearn.data
from tqlearn.data import pictures as raw
from tqlearn.hf import checkpoints, tasks
from tqlearn.hf.pictures import (
    encode_pictures,
    evaluate_pictures,
    picture_collator,
    picture_processor,
    predict_pictures,
    shift,
    small_vit,
)
from tqlearn.recipes import finetune


@pytest.fixture(scope="module")
def digits():
    return tqlearn.data.load("digits")


@pytest.fixture(scope="module")
def processor():
    return picture_processor(image_size=8, channels=1)


def tiny(labels="0123456789", **changes):
    return small_vit(labels, **{"image_size": 8, "channels": 1, "width": 16, "layers": 1} | changes)


def test_digits_come_as_arrays(digits, capsys):
    assert {name: len(split) for name, split in digits.items()} == {
        "train": 1197, "validation": 300, "test": 300}  # fmt: skip
    row = digits["train"][0]
    assert isinstance(row["image"], np.ndarray) and isinstance(row["label"], int)
    assert row["image"].shape == (8, 8, 1) and row["image"].dtype == np.uint8
    shades = np.unique(digits["train"][:]["image"])
    assert len(shades) == 17 and shades[0] == 0 and shades[-1] == 255
    tqlearn.data.load("digits")
    assert capsys.readouterr().out.startswith("digits: embedded (scikit-learn's digits, split by")


def test_digits_are_split_once_and_for_all(digits):
    for name in ("validation", "test"):
        assert Counter(digits[name]["label"]) == dict.fromkeys(range(10), 30)
    images = np.concatenate([split[:]["image"] for split in digits.values()]).astype(np.uint8)
    assert len(np.unique(images.reshape(1797, -1), axis=0)) == 1797, "no picture twice"
    digest = hashlib.sha256(digits["test"][:]["image"].tobytes()).hexdigest()
    assert digest.startswith("26ff82463d50e057"), "the test split changed: measure again"
    other = raw.digits(seed=1)
    assert not np.array_equal(other["test"]["image"], digits["test"][:]["image"])


def test_split_needs_rows_to_train_on():
    with pytest.raises(ValueError, match="every class needs more than 2 rows, got {'b': 2}"):
        raw.split([1, 2, 3, 4, 5], ["a", "a", "a", "b", "b"], {"validation": 1, "test": 1}, seed=0)


def test_encoding(digits, processor):
    encoded = encode_pictures(digits, processor)
    assert list(encoded["test"]["labels"]) == list(digits["test"]["label"])
    batch = picture_collator([encoded["train"][i] for i in (3, 5)])
    assert set(batch) == {"pixel_values", "labels"} and batch["pixel_values"].shape == (2, 1, 8, 8)
    pixels = digits["train"][3]["image"].astype(np.float32) / 127.5 - 1
    torch.testing.assert_close(batch["pixel_values"][0, 0], torch.from_numpy(pixels[..., 0]))
    assert torch.equal(encoded["train"][3]["pixel_values"], batch["pixel_values"][0]), "not moved"
    one = encoded["train"].shuffle(seed=0).select(range(4))
    assert one[0]["pixel_values"].shape == (1, 8, 8), "the format stays with the rows"


def test_grey_pictures_for_a_model_of_colors(digits):
    some = DatasetDict({"train": digits["train"].select(range(4))})
    row = encode_pictures(some, picture_processor(8, 3))["train"][0]["pixel_values"]
    assert row.shape == (3, 8, 8) and torch.equal(row[0], row[2])


def test_a_processor_that_resizes(digits):
    some = DatasetDict({"train": digits["train"].select(range(4))})
    larger = picture_processor(16, 3)
    larger.do_resize = True
    assert encode_pictures(some, larger)["train"][0]["pixel_values"].shape == (3, 16, 16)


def test_augmentation_is_for_training_rows(digits, processor):
    encoded = encode_pictures(digits, processor, augment="shift_mirror")
    plain = encode_pictures(digits, processor)
    rows = list(range(100))
    assert torch.equal(*(torch.stack(e["test"][rows]["pixel_values"]) for e in (encoded, plain)))
    torch.manual_seed(1)
    first, second = (torch.stack(encoded["train"][rows]["pixel_values"]) for _ in range(2))
    torch.manual_seed(1)
    again = torch.stack(encoded["train"][rows]["pixel_values"])
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert list(encoded["train"]["labels"]) == list(plain["train"]["labels"])


def test_shift_by_hand():
    picture = np.arange(1, 17, dtype=np.uint8).reshape(1, 4, 4, 1)
    padded = np.pad(picture[0, ..., 0], 1)
    wanted = set()
    for top in range(3):
        for left in range(3):
            part = padded[top : top + 4, left : left + 4]
            wanted |= {part.tobytes(), part[:, ::-1].tobytes()}
    moved = shift(picture.repeat(600, 0), most=1, mirror=True)
    assert moved.shape == (600, 4, 4, 1) and len(wanted) == 18
    counts = Counter(one.tobytes() for one in moved)
    assert set(counts) == wanted and min(counts.values()) > 10, "all 9 places, both ways"
    assert len({one.tobytes() for one in shift(picture.repeat(600, 0), most=1)}) == 9


def test_predictions_and_accuracy(digits, processor):
    model = tiny().train()
    rows = digits["test"].select(range(10))
    single = [predict_pictures(model, processor, [image])[0] for image in rows["image"]]
    assert predict_pictures(model, processor, rows["image"], batch_size=3) == single
    assert model.training, "left as it was"
    wrong = [(single[0] + 1) % 10, *single[1:]]
    named = rows.remove_columns("label").add_column("label", wrong)
    assert evaluate_pictures(model, processor, named, batch_size=4) == {"accuracy": 90.0}
    with pytest.raises(ValueError, match="empty split"):
        evaluate_pictures(model, processor, rows.select([]))


def test_small_vits():
    """The two that the recipes use; every layer of the encoder takes a 2:4 mask and packs."""
    for model, count in ((small_vit("0123456789", 8, 1), 102_218),
                         (small_vit("0123456789", 32, 3), 2_693_578)):  # fmt: skip
        assert sum(p.numel() for p in model.parameters()) == count
        assert model.config.id2label[3] == "3" and model.config.num_labels == 10
        masked = tq.compress(model, {"vit.layers.*": [tq.TwoFour()], "*": []})
        down = masked.vit.layers[1].mlp.fc2
        assert (down.weight != 0).float().mean() == 0.5
        assert masked(torch.zeros(1, *shape_of(model))).logits.shape == (1, 10)


def shape_of(model):
    config = model.config
    return config.num_channels, config.image_size, config.image_size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["one"]}, "at least two labels, got"),
        ({"width": 20}, "multiple of 8 and of the 2 heads, got 20"),
        ({"image_size": 9}, "a picture of 9 must be whole patches, got 2"),
    ],
)
def test_refused_vits(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_refused_pictures(digits, processor):
    some = digits["train"].select(range(4))
    with pytest.raises(ValueError, match="needs columns image and label, got"):
        encode_pictures(DatasetDict({"train": some.remove_columns("label")}), processor)
    with pytest.raises(ValueError, match=r"wants pictures \(32, 32\), got \(8, 8\)"):
        encode_pictures(DatasetDict({"train": some}), picture_processor(32, 1))
    color = Dataset.from_dict({"image": np.zeros((1, 8, 8, 3), np.uint8), "label": [0]})
    with pytest.raises(ValueError, match=r"\(height, width, 1\), got \(8, 8, 3\)"):
        encode_pictures(DatasetDict({"train": color}), processor)
    with pytest.raises(ValueError, match="augment must be one of .* got 'flip'"):
        encode_pictures(DatasetDict({"train": some}), processor, augment="flip")
    mixed = {"image": [np.zeros((8, 8, 1), np.uint8), np.zeros((8, 9, 1), np.uint8)]}
    mixed = Dataset.from_dict(mixed | {"label": [0, 1]})
    with pytest.raises(ValueError, match="of one size"):
        encode_pictures(DatasetDict({"train": mixed}), processor)


def test_task_of_pictures(digits, processor):
    job = tasks.prepare(digits, processor, tiny().config)
    assert job.label_names == ["labels"] and job.split == "test" and job.max_length is None
    assert job.evaluate is evaluate_pictures
    with pytest.raises(ValueError, match="not cut: leave max_length=64 out"):
        tasks.prepare(digits, processor, tiny().config, max_length=64)
    flights = tqlearn.data.load("flights")
    with pytest.raises(ValueError, match="augment is for pictures only"):
        tasks.prepare(flights, None, None, augment="shift")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder, metrics): fifteen epochs of the real command, some fifteen seconds."""
    folder = tmp_path_factory.mktemp("digits")
    command = ["--data", "digits", "--teacher", "scratch", "--output_dir", str(folder)]
    command += ["--num_train_epochs", "15", "--learning_rate", "1e-3", "--warmup_steps", "0.1"]
    command += ["--lr_scheduler_type", "cosine", "--use_cpu", "--disable_tqdm", "True"]
    return folder, finetune.main(command)


@pytest.mark.slow
def test_a_small_vit_learns_digits(trained):
    assert trained[1]["accuracy"] > 90


@pytest.mark.slow
def test_a_folder_gives_model_and_processor_back(trained, digits):
    model, processor = tq.teachers.load(str(trained[0]))
    assert isinstance(model, ViTForImageClassification) and not model.training
    assert processor.size["height"] == 8 and not processor.do_resize
    assert evaluate_pictures(model, processor, digits["test"]) == trained[1]


@pytest.mark.slow
def test_the_best_epoch_is_loaded_whole(trained):
    """transformers would save a ViT under other names, and a Trainer then loads half of them."""
    folder, _ = trained
    best = json.loads((folder / "metrics.json").read_text())["best_validation"]
    states = [json.loads(f.read_text()) for f in folder.glob("checkpoint-*/trainer_state.json")]
    state = max(states, key=lambda state: state["global_step"])
    assert state["best_metric"] == best
    kept, last = (
        load_file(Path(place) / "model.safetensors")
        for place in (state["best_model_checkpoint"], folder)
    )
    model = small_vit("0123456789", 8, 1)
    assert set(kept) == set(last) == set(model.state_dict())
    assert all(torch.equal(kept[name], last[name]) for name in kept)


def test_older_names_are_read(digits, processor, tmp_path):
    model = tiny().eval()
    del model._weight_conversions  # as transformers alone would have it
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert "vit.encoder.layer.0.output.dense.weight" in load_file(tmp_path / "model.safetensors")
    again, _ = checkpoints.load_checkpoint(tmp_path)
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    again.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(again.state_dict())


def test_a_packed_vit_comes_back(tmp_path):
    plan = {"vit.layers.*": [tq.TwoFour(), tq.SAWB(4)], "*": []}
    student = tq.calibrate(tq.compress(tiny(), plan)).eval()
    tq.pack(student).save_pretrained(tmp_path)
    picture_processor(8, 1).save_pretrained(tmp_path)
    again, _ = checkpoints.load_checkpoint(tmp_path)
    for name, module in student.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert torch.equal(again.get_submodule(name).weight, module.weight), name
    picture = torch.randn(1, 1, 8, 8)
    torch.testing.assert_close(again(picture).logits, student(picture).logits)


@pytest.mark.slow
def test_a_checkpoint_with_another_head(trained):
    model, _ = checkpoints.load_checkpoint(trained[0], ["cat", "dog", "eel"])
    assert model.classifier.out_features == 3 and model.config.id2label[2] == "eel"
    old, _ = checkpoints.load_checkpoint(trained[0])
    for name, weight in old.vit.state_dict().items():
        assert torch.equal(model.vit.state_dict()[name], weight), name
    assert torch.isfinite(model.classifier.weight).all()


def test_refused_checkpoints(tmp_path):
    with pytest.raises(ValueError, match="(?s)cannot load 'no/such' .* ways to a checkpoint"):
        checkpoints.load_checkpoint("no/such")
    BertModel(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                         intermediate_size=8)).save_pretrained(tmp_path)  # fmt: skip
    with pytest.raises(ValueError, match=r"need a model of \['vit', 'wav2vec2'\], .* is 'bert'"):
        checkpoints.load_checkpoint(tmp_path)


def write_cifar(root, size=(32, 32), form="JPEG", per_class=101, name="{part}/{label}/{i:04}.jpg"):
    folder = root / "cifar10_jpg"
    folder.mkdir(exist_ok=True)
    for part, file in raw.CIFAR10_FILES.items():
        with tarfile.open(folder / file, "w:gz") as tar:
            for number, label in enumerate(raw.CIFAR10):
                content = io.BytesIO()
                Image.new("RGB", size, (25 * number, 0, 0)).save(content, form)
                for i in range(per_class):
                    entry = tarfile.TarInfo(name.format(part=part, label=label, i=i))
                    entry.size = content.tell()
                    content.seek(0)
                    tar.addfile(entry, content)
    return root


def test_local_cifar(tmp_path):
    dd = tqlearn.data.load("cifar10", source="local", folder=write_cifar(tmp_path))
    assert {name: len(split) for name, split in dd.items()} == {
        "train": 10, "validation": 1000, "test": 1010}  # fmt: skip
    row = dd["train"][9]
    assert row["image"].shape == (32, 32, 3) and abs(int(row["image"][0, 0, 0]) - 225) < 3
    assert row["label"] == raw.CIFAR10.index("truck") == 9


def test_local_cifar_refuses(tmp_path):
    load = lambda: tqlearn.data.load("cifar10", source="local", folder=tmp_path)  # noqa: E731
    with pytest.raises(ValueError, match="train_10000.tar.gz is missing"):
        load()
    with pytest.raises(ValueError, match="must be 32 x 32 in color, got"):
        write_cifar(tmp_path, size=(16, 16))
        load()
    with pytest.raises(ValueError, match="expected train/CLASS/NUMBER.jpg"):
        write_cifar(tmp_path, name="{part}/no{label}/{i}.jpg")
        load()
    with pytest.raises(ValueError, match="holds no .jpg file"):
        write_cifar(tmp_path, name="{part}/{label}/{i}.png")
        load()
    file = tmp_path / "cifar10_jpg" / "train_10000.tar.gz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="is no readable tar file"):
        load()


@pytest.mark.slow
def test_real_cifar(data_folder):
    dd = tqlearn.data.load("cifar10", source="local", folder=data_folder)
    counts = {name: Counter(split["label"]) for name, split in dd.items()}
    assert counts == {
        "train": dict.fromkeys(range(10), 900),
        "validation": dict.fromkeys(range(10), 100),
        "test": dict.fromkeys(range(10), 200),
    }
    images = np.concatenate([split[:]["image"].reshape(len(split), -1) for split in dd.values()])
    assert len(np.unique(images, axis=0)) == 12_000, "splits share no picture"
