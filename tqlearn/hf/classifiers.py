"""A classifier of pictures or sounds to begin with: small and fresh, or a checkpoint."""

from .checkpoints import load_checkpoint
from .pictures import picture_processor, small_vit
from .sounds import small_wav2vec2, sound_extractor


def array_classifier(name, train, width=None, layers=None, patch_size=None):
    """(ViT or Wav2Vec2 classifier for these rows, what prepares its inputs).

    Args:
        name: "scratch" for a small fresh model; a folder, "owner/name" or "owner/name@revision" for
            a checkpoint, whose head is a fresh one where it has other classes.
        train: a split with the columns image or audio, and label.
        width, layers: of the fresh model; None for the sizes of ``small_vit``, ``small_wav2vec2``.
        patch_size: of the fresh ViT, in pixels.

    Raises:
        ValueError: sizes for a checkpoint, which has its own; patches of sounds; or what the makers
            refuse.
    """
    classes = [str(label) for label in range(max(train["label"]) + 1)]
    size = {"width": width, "layers": layers, "patch_size": patch_size}
    size = {name: value for name, value in size.items() if value is not None}
    if name != "scratch":
        if size:
            raise ValueError(f"sizes are for a model from scratch, {name!r} has its own: {size}")
        return load_checkpoint(name, classes)
    if "audio" in train.column_names:
        if patch_size is not None:
            raise ValueError(f"patches are for pictures only, got patch_size={patch_size}")
        return small_wav2vec2(classes, **size), sound_extractor()
    height, _, channels = train[0]["image"].shape
    return small_vit(classes, height, channels, **size), picture_processor(height, channels)
