"""``fsdd``: the Free Spoken Digit Dataset from a local folder; 8 kHz, mono.

A recording is a float32 array of samples, -1 to 1.
"""

import io
import re
import struct
import wave

import numpy as np

from .pictures import members

RATE = 8000  # samples per second, of fsdd and of tones
NAME = re.compile(r"(?:.*/)?(\d)_([a-z]+)_(\d+)\.wav")
TEST, VALIDATION = range(5), range(5, 10)  # take numbers; the first is the official test split


def fsdd(folder):
    """``fsdd`` in ``folder``: {split: {"audio": [array], "label": [int]}}, label = the digit.

    Five speakers say each digit 50 times. Takes 0 to 4 are the test split, as its authors have it;
    we validate on takes 5 to 9 and train on the rest: 2000, 250 and 250 recordings. All speakers
    are in all splits.

    Raises:
        ValueError: the file is missing or damaged, or a recording has another name or format.
    """
    path = folder / "fsdd" / "recordings.tar.gz"
    splits = {name: {"audio": [], "label": []} for name in ("train", "validation", "test")}
    for name, content in members(path, ".wav"):
        found = NAME.fullmatch(name)
        if not found:
            raise ValueError(f"{path}: expected DIGIT_SPEAKER_TAKE.wav, got {name!r}")
        take = int(found[3])
        part = "test" if take in TEST else "validation" if take in VALIDATION else "train"
        splits[part]["audio"].append(_samples(path, name, content))
        splits[part]["label"].append(int(found[1]))
    return splits


def _samples(path, name, content):
    """The samples of a wav file with one channel of 16 bits at RATE."""
    try:
        with wave.open(io.BytesIO(content)) as file:
            form = file.getnchannels(), 8 * file.getsampwidth(), file.getframerate()
            frames = file.readframes(file.getnframes())
            if len(frames) != file.getnframes() * file.getsampwidth() * file.getnchannels():
                raise EOFError(f"{len(frames)} bytes of {file.getnframes()} samples")
    except (wave.Error, EOFError, struct.error) as error:
        raise ValueError(f"{path}: {name} is no readable wav ({error}); get it again") from error
    if form != (1, 16, RATE):
        raise ValueError(
            f"{path}: {name} must have 1 channel, 16 bits, {RATE} Hz, got {form[0]}, {form[1]}, "
            f"{form[2]}"
        )
    return np.frombuffer(frames, "<i2").astype(np.float32) / 32768
