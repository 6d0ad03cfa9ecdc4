"""Pictures with labels: scikit-learn's digits, and a CIFAR-10 sample from a local folder.

A picture is a uint8 array (height, width, channels), 0 black to 255.
"""

import io
import tarfile
import zlib
from random import Random

import numpy as np

SEED = 0
DIGITS = {"validation": 30, "test": 30}  # of every class; the rest, 1197 pictures, is to train on
CIFAR10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)  # in the order of the labels, which is the one of the published files
CIFAR10_FILES = {"train": "train_10000.tar.gz", "test": "test_2000.tar.gz"}
CIFAR10_VALIDATION = 100  # of every class, taken from the training file


def digits(seed=SEED):
    """scikit-learn's 8 x 8 digits: {split: {"image": [array (8, 8, 1)], "label": [int]}}.

    1797 handwritten digits that ship with scikit-learn, 17 shades stretched to 0..255. Its
    rows do not say who wrote them, so the same 13 writers are in all splits.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('digits come with scikit-learn: pip install "tqlearn[hf]"') from error
    found = load_digits()
    images = np.round(found.images * (255 / 16)).astype(np.uint8)[..., None]
    return split(list(images), found.target.tolist(), DIGITS, seed)


def cifar10(folder, seed=SEED):
    """``cifar10_jpg`` in ``folder``: {split: {"image": [array (32, 32, 3)], "label": [int]}}.

    10,000 training pictures, of which 1,000 become the validation split, and 2,000 to test on:
    a sample of CIFAR-10, stored as JPEG, so figures are not those of the published set.

    Raises:
        ImportError: Pillow is not installed.
        ValueError: a file is missing, damaged, or holds other classes.
    """
    read = {
        name: _jpegs(folder / "cifar10_jpg" / file, name) for name, file in CIFAR10_FILES.items()
    }
    images, labels = read["train"]
    parts = split(images, labels, {"validation": CIFAR10_VALIDATION}, seed)
    return parts | {"test": dict(zip(("image", "label"), read["test"], strict=True))}


def split(rows, labels, counts, seed, column="image"):
    """Hold out so many rows of every class: {"train": rest, **held out}, in the order given.

    Drawn with ``random()`` alone, the one generator Python promises never to change.

    Raises:
        ValueError: a class has no row left to train on.
    """
    draw = Random(seed).random
    order = sorted(range(len(rows)), key=[draw() for _ in rows].__getitem__)
    names = [name for name, count in counts.items() for _ in range(count)]
    taken, member = dict.fromkeys(labels, 0), {}
    for i in order:
        rank = taken[labels[i]]
        taken[labels[i]] += 1
        member[i] = names[rank] if rank < len(names) else "train"
    small = {label: count for label, count in taken.items() if count <= len(names)}
    if small:
        raise ValueError(f"every class needs more than {len(names)} rows, got {small}")
    return {
        name: {
            column: [row for i, row in enumerate(rows) if member[i] == name],
            "label": [label for i, label in enumerate(labels) if member[i] == name],
        }
        for name in ("train", *counts)
    }


def _jpegs(path, part):
    """All {part}/{class}/{number}.jpg of a tar: (arrays, labels), sorted by name."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ImportError('JPEG pictures need Pillow: pip install "tqlearn[hf]"') from error
    images, labels = [], []
    for name, content in members(path, ".jpg"):
        label = name.split("/")[-2] if name.count("/") >= 2 else ""
        if label not in CIFAR10:
            raise ValueError(f"{path}: expected {part}/CLASS/NUMBER.jpg, CLASS one of {CIFAR10}, "
                             f"got {name!r}")  # fmt: skip
        try:
            with Image.open(io.BytesIO(content)) as picture:
                image = np.asarray(picture.convert("RGB"))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(
                f"{path}: {name} is no readable JPEG ({error}); get it again"
            ) from error
        if image.shape != (32, 32, 3):
            raise ValueError(f"{path}: {name} must be 32 x 32 in color, got {image.shape}")
        images.append(image)
        labels.append(CIFAR10.index(label))
    return images, labels


def members(path, suffix):
    """(name, bytes) of all files of a tar that end in ``suffix``, sorted by name.

    Raises:
        ValueError: the file is missing or damaged, or holds no such file.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing; the folder must hold the benchmark's raw files")
    try:
        with tarfile.open(path) as tar:
            files = [m for m in tar.getmembers() if m.isfile() and m.name.endswith(suffix)]
            found = [(m.name, tar.extractfile(m).read()) for m in files]
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is no readable tar file ({error}); get it again") from error
    if not found:
        raise ValueError(f"{path} holds no {suffix} file; get it again")
    return sorted(found)
