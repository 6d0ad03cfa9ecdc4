"""Picture and sound classifiers from a folder or the hub, with what prepares their inputs."""

from pathlib import Path

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
)

WAYS = (
    'a folder that save_pretrained wrote, or "owner/name" on the hub, better '
    '"owner/name@revision" with a commit of yours, which needs a network or a filled Hugging Face '
    "cache"
)
MODELS = {"vit": AutoModelForImageClassification, "wav2vec2": AutoModelForAudioClassification}
INPUTS = {"vit": AutoImageProcessor, "wav2vec2": AutoFeatureExtractor}


def is_picture_or_sound(folder):
    """Say whether a folder holds a ViT or a Wav2Vec2, by its config.json."""
    if not (Path(folder) / "config.json").is_file():
        return False
    return AutoConfig.from_pretrained(folder).model_type in MODELS


def save_own_names(model):
    """Let ``save_pretrained`` write the names that the weights have in the model; return the model.

    transformers 5 saves a ViT under the names of older versions, which ``from_pretrained`` knows.
    A Trainer does not: taking up a checkpoint, or the best one at the end, it would load a part
    of the weights only, with no more than a warning. ``from_pretrained`` reads both kinds.
    """
    model._weight_conversions = []
    return model


def load_checkpoint(name, labels=None):
    """(classifier in eval mode, image processor or feature extractor) of a ViT or a Wav2Vec2.

    Args:
        name: a folder, "owner/name" or "owner/name@revision".
        labels: names of the classes, for a fresh head; None keeps the head that is there.

    Raises:
        ValueError: another kind of model, or one that cannot be had (the message names the ways).
    """
    place, _, revision = (str(name), "", "") if Path(name).is_dir() else str(name).partition("@")
    pinned = {"revision": revision} if revision else {}
    head = {}
    if labels is not None:
        head = {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {label: i for i, label in enumerate(labels)},
            "ignore_mismatched_sizes": True,
        }
    try:
        kind = AutoConfig.from_pretrained(place, **pinned).model_type
        if kind in MODELS:
            model = MODELS[kind].from_pretrained(place, **pinned, **head)
            return save_own_names(model).eval(), INPUTS[kind].from_pretrained(place, **pinned)
    except OSError as error:  # no such folder, no network, no such repository or commit
        raise ValueError(f"cannot load {name!r} ({error}); ways to a checkpoint: {WAYS}") from error
    raise ValueError(f"pictures and sounds need a model of {sorted(MODELS)}, {name!r} is {kind!r}")
