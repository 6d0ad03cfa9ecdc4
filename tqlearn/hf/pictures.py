"""Picture classification: data for a transformers classifier, its accuracy, and a small ViT."""

from functools import partial

import numpy as np
import torch

from .checkpoints import save_own_names

AUGMENTS = ("none", "shift", "shift_mirror")


def picture_processor(image_size=32, channels=3):
    """A ``ViTImageProcessor`` for pictures of one size: 0..255 becomes -1..1, nothing is resized.

    It is saved beside the model as ``preprocessor_config.json``, as transformers' own models have
    it. Needs Pillow.
    """
    from transformers import ViTImageProcessorPil

    half = [0.5] * channels
    size = {"height": image_size, "width": image_size}
    return ViTImageProcessorPil(do_resize=False, size=size, image_mean=half, image_std=half)


def small_vit(labels, image_size=32, channels=3, patch_size=None, width=None, layers=None,
              dropout=0.0):  # fmt: skip
    """A fresh ``ViTForImageClassification``, small enough to be trained here, from scratch.

    Args:
        labels: names of the classes, in the order of their numbers.
        image_size: height and width; pictures of 16 and more get the larger model.
        patch_size: default 4 (a 32 x 32 picture is 64 patches), for small pictures 2.
        width: default 192 (3 heads, FFN 768), for small pictures 64 (2 heads, FFN 256).
        layers: default 6, for small pictures 2.

    Raises:
        ValueError: fewer than two labels, a size that is no multiple of the patch, or a width
            that is no multiple of 8 (2:4 masks and packed codes need that) and of the heads.

    >>> model = small_vit("0123456789", image_size=8, channels=1)
    >>> model(torch.zeros(5, 1, 8, 8)).logits.shape
    torch.Size([5, 10])
    """
    from transformers import ViTConfig, ViTForImageClassification

    large = image_size >= 16
    patch_size = patch_size or (4 if large else 2)
    width, layers = width or (192 if large else 64), layers or (6 if large else 2)
    heads = max(2, width // 64)
    _check(labels, width, heads)
    if image_size % patch_size:
        raise ValueError(f"a picture of {image_size} must be whole patches, got {patch_size}")
    config = ViTConfig(
        image_size=image_size,
        num_channels=channels,
        patch_size=patch_size,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    return save_own_names(ViTForImageClassification(config))


def encode_pictures(dd, processor, augment="none"):
    """Columns image, label -> ``pixel_values`` (channels, height, width) and ``labels``.

    The pictures stay as they are; the processor works when rows are asked for, so that
    large pictures cost no memory.

    Args:
        processor: of the model; a grey picture is repeated for one that wants three colors.
        augment: "shift" moves the rows of "train" by up to an eighth of their height,
            "shift_mirror" also mirrors half of them, anew whenever they are asked for. No mirror
            for digits: a mirrored 5 is none. Drawn from torch's generator, which a Trainer's seed
            sets. The rows of other splits stay as they are.

    Raises:
        ValueError: missing columns, pictures that do not fit the processor, or an unknown augment.
    """
    from datasets import Dataset, DatasetDict

    if augment not in AUGMENTS:
        raise ValueError(f"augment must be one of {AUGMENTS}, got {augment!r}")
    encoded = {}
    for name, split in dd.items():
        if not {"image", "label"} <= set(split.column_names):
            raise ValueError(f"needs columns image and label, got {split.column_names}")
        first = np.asarray(split[0]["image"], np.uint8)
        _pixels([first], processor)  # refused now, not in the first batch
        rows = {
            "pixel_values": [
                _stored(image, first.shape)
                for batch in split.iter(batch_size=1000)
                for image in batch["image"]
            ],
            "labels": list(split["label"]),
            "length": [1] * len(split),  # all alike, for a Trainer that groups by length
        }
        move = None
        if augment != "none" and name == "train":
            move = partial(shift, mirror=augment == "shift_mirror")
        shown = partial(_transform, shape=first.shape, processor=processor, move=move)
        encoded[name] = Dataset.from_dict(rows).with_transform(shown)
    return DatasetDict(encoded)


def picture_collator(rows):
    """Stack rows of ``encode_pictures``: pixel_values (batch, channels, height, width), labels."""
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def shift(images, most=None, mirror=False):
    """Move every picture by up to ``most`` pixels, black coming in.

    Args:
        images: array (pictures, height, width, channels).
        most: default an eighth of the height.
        mirror: swap left and right in half of them.
    """
    count, height, width, _ = images.shape
    most = height // 8 if most is None else most
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)))
    tops, lefts = torch.randint(0, 2 * most + 1, (2, count)).tolist()
    swaps = (torch.rand(count) < 0.5).tolist() if mirror else [False] * count
    return np.stack(
        [
            picture[top : top + height, left : left + width][:, :: -1 if swap else 1]
            for picture, top, left, swap in zip(padded, tops, lefts, swaps, strict=True)
        ]
    )


@torch.no_grad()
def predict_pictures(model, processor, images, batch_size=64):
    """Arrays (height, width, channels), 0 to 255 -> a list of class numbers.

    The model is put into eval mode for the call and left as it was.
    """
    training = model.training
    model.eval()
    classes = []
    for start in range(0, len(images), batch_size):
        pixels = _pixels(images[start : start + batch_size], processor).to(model.device)
        classes += model(pixel_values=pixels).logits.argmax(-1).tolist()
    model.train(training)
    return classes


def evaluate_pictures(model, processor, split, batch_size=64):
    """Percent right on a raw split (columns image, label): {"accuracy": ...}.

    Raises:
        ValueError: the split is empty.
    """
    if len(split) == 0:
        raise ValueError("cannot evaluate on an empty split")
    found = predict_pictures(model, processor, split["image"], batch_size)
    return {"accuracy": 100 * float(np.mean(np.array(found) == np.array(split["label"])))}


def _stored(image, shape):
    """A picture as bytes: datasets would hand out an array as a list of numbers, very slowly."""
    image = np.asarray(image, np.uint8)
    if image.shape != shape:
        raise ValueError(f"pictures of a split must be of one size, got {shape} and {image.shape}")
    return image.tobytes()


def _transform(batch, shape, processor, move):
    """Format of an encoded split: what is asked for, pictures as tensors."""
    if "pixel_values" in batch:
        images = np.stack([np.frombuffer(p, np.uint8) for p in batch["pixel_values"]])
        images = images.reshape(-1, *shape)
        pixels = _pixels(images if move is None else move(images), processor)
        batch = batch | {"pixel_values": list(pixels)}
    return batch


def _pixels(images, processor):
    """Pictures -> tensor (pictures, channels, height, width), as the model wants it."""
    images = np.stack([np.asarray(image, np.uint8) for image in images])
    colors = len(processor.image_mean)
    if images.ndim != 4 or images.shape[-1] not in (1, colors):
        raise ValueError(
            f"the processor wants pictures (height, width, {colors}), got {images.shape[1:]}"
        )
    if images.shape[-1] < colors:
        images = images.repeat(colors, -1)
    wanted = (processor.size["height"], processor.size["width"])
    if not processor.do_resize and images.shape[1:3] != wanted:
        raise ValueError(f"the processor wants pictures {wanted}, got {images.shape[1:3]}")
    return processor(list(images), input_data_format="channels_last", return_tensors="pt")[
        "pixel_values"
    ]


def _check(labels, width, heads):
    if len(labels) < 2:
        raise ValueError(f"a classifier needs at least two labels, got {list(labels)}")
    if width % 8 or width % heads:
        raise ValueError(f"width must be a multiple of 8 and of the {heads} heads, got {width}")
