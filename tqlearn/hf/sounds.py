"""Sound classification: data for a transformers classifier, its accuracy, a small Wav2Vec2."""

import numpy as np
import torch

from .checkpoints import save_own_names

RATE = 8000  # samples per second of the recordings that tqlearn.data loads


def sound_extractor(rate=RATE):
    """A ``Wav2Vec2FeatureExtractor``: every recording to mean 0 and variance 1, with a mask.

    It is saved beside the model as ``preprocessor_config.json``.
    """
    from transformers import Wav2Vec2FeatureExtractor

    return Wav2Vec2FeatureExtractor(sampling_rate=rate, return_attention_mask=True)


def small_wav2vec2(labels, width=128, layers=4, channels=64, dropout=0.1, mask=0.3):
    """A fresh ``Wav2Vec2ForSequenceClassification`` for 8 kHz, small enough to be trained here.

    Six convolutions make one frame of 20 ms, as in the published models at 16 kHz, then come
    ``layers`` Transformer layers with 4 heads. We differ from the base model: normalization in
    front of the sublayers and in every convolution (so padding changes nothing), a positional
    convolution over 16 frames, no dropped layers in training.

    Args:
        labels: names of the classes, in the order of their numbers.
        width: of the Transformer; its FFN is 4 times as wide.
        channels: of the convolutions.
        mask: share of the frames that training blanks out, in runs of 4, and a third of it of the
            channels, in runs of an eighth (SpecAugment); 0 for none.

    Raises:
        ValueError: fewer than two labels, a width that is no multiple of 16, or channels that are
            no multiple of 8 (2:4 masks and packed codes need that).

    >>> model = small_wav2vec2("0123456789")
    >>> model(torch.zeros(3, 4000)).logits.shape
    torch.Size([3, 10])
    """
    from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

    if len(labels) < 2:
        raise ValueError(f"a classifier needs at least two labels, got {list(labels)}")
    if width % 16 or channels % 8:
        raise ValueError(
            f"width must be a multiple of 16 and channels of 8, got {width} and {channels}"
        )
    config = Wav2Vec2Config(
        vocab_size=32,
        conv_dim=[channels] * 6,
        conv_kernel=[10, 3, 3, 3, 3, 2],
        conv_stride=[5, 2, 2, 2, 2, 2],  # 160 samples, 20 ms
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=8,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        classifier_proj_size=width,
        hidden_dropout=dropout,
        activation_dropout=0.0,
        attention_dropout=dropout,
        feat_proj_dropout=0.0,
        layerdrop=0.0,
        apply_spec_augment=mask > 0,
        mask_time_prob=mask,
        mask_time_length=4,
        mask_time_min_masks=1,
        mask_feature_prob=mask / 3,
        mask_feature_length=width // 8,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    return save_own_names(Wav2Vec2ForSequenceClassification(config))


def encode_sounds(dd, extractor, rate=RATE):
    """Columns audio, label -> ``input_values`` (samples), ``labels`` and ``length``.

    Args:
        extractor: of the model. One that wants twice or three times the rate gets recordings
            that were brought there, with nothing above half of ``rate``.
        rate: samples per second of the recordings.

    Raises:
        ValueError: missing columns, an empty recording, or a rate that cannot be reached.
    """
    from datasets import Dataset, DatasetDict

    def encode(split):
        if not {"audio", "label"} <= set(split.column_names):
            raise ValueError(f"needs columns audio and label, got {split.column_names}")
        values = [_values(audio, extractor, rate) for audio in split["audio"]]
        lengths = [len(row) for row in values]
        rows = {"input_values": values, "labels": list(split["label"]), "length": lengths}
        return Dataset.from_dict(rows).with_format("numpy", ["input_values"], True)

    return DatasetDict({name: encode(split) for name, split in dd.items()})


class SoundCollator:
    """Stack rows of ``encode_sounds`` into a batch, padded to the longest row in it.

    There is an ``attention_mask`` if the model takes one: ``extractor.return_attention_mask``.
    """

    def __init__(self, extractor):
        self.extractor = extractor

    def __call__(self, rows):
        """Rows -> input_values, attention_mask (batch, samples), labels (batch)."""
        batch = _pad([row["input_values"] for row in rows], self.extractor)
        return batch | {"labels": torch.tensor([int(row["labels"]) for row in rows])}


@torch.no_grad()
def predict_sounds(model, extractor, recordings, batch_size=64, rate=RATE):
    """A list of arrays of samples, -1 to 1 -> a list of class numbers.

    The model is put into eval mode for the call and left as it was.
    """
    training = model.training
    model.eval()
    values = [_values(audio, extractor, rate) for audio in recordings]
    order = sorted(range(len(values)), key=lambda i: len(values[i]))  # little padding
    classes = [0] * len(values)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = _pad([values[i] for i in chosen], extractor)
        batch = {key: tensor.to(model.device) for key, tensor in batch.items()}
        for i, best in zip(chosen, model(**batch).logits.argmax(-1).tolist(), strict=True):
            classes[i] = best
    model.train(training)
    return classes


def evaluate_sounds(model, extractor, split, batch_size=64, rate=RATE):
    """Percent right on a raw split (columns audio, label): {"accuracy": ...}.

    Raises:
        ValueError: the split is empty.
    """
    if len(split) == 0:
        raise ValueError("cannot evaluate on an empty split")
    found = predict_sounds(model, extractor, split["audio"], batch_size, rate)
    return {"accuracy": 100 * float(np.mean(np.array(found) == np.array(split["label"])))}


def resample(audio, times):
    """``times`` as many samples of the same sound, through its spectrum.

    >>> tone = np.sin(2 * np.pi * np.arange(80) / 8)
    >>> finer = np.sin(2 * np.pi * np.arange(160) / 16)
    >>> bool(np.allclose(resample(tone, 2), finer, atol=1e-6))
    True
    """
    if times == 1:
        return audio
    spectrum = np.fft.rfft(audio)
    if len(audio) % 2 == 0:
        spectrum[-1] /= 2  # the highest frequency becomes two, of either sign
    finer = np.fft.irfft(spectrum, times * len(audio)) * times
    return finer.astype(np.float32)


def _values(audio, extractor, rate):
    """One recording at the extractor's rate, normalized if it normalizes."""
    times, rest = divmod(extractor.sampling_rate, rate)
    if rest or not times:
        raise ValueError(
            f"the model listens at {extractor.sampling_rate} Hz, which must be a multiple of the "
            f"recordings' {rate} Hz; resample them first"
        )
    audio = np.asarray(audio, np.float32)
    if audio.ndim != 1 or not len(audio):
        raise ValueError(f"a recording is a row of samples, got shape {audio.shape}")
    made = extractor(resample(audio, times), sampling_rate=extractor.sampling_rate)
    return made["input_values"][0]


def _pad(values, extractor):
    """Rows of different lengths -> dict of tensors (batch, samples)."""
    return dict(extractor.pad({"input_values": values}, padding=True, return_tensors="pt"))
