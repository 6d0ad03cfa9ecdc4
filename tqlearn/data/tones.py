"""``tones``: synthesised stand-ins for spoken digits, so that sound needs no download.

**This is not speech.** Ten made-up words of two or three sounds each, from a small formant
synthesiser: vowels and nasals are a buzz of harmonics under three resonances that glide from sound
to sound, s and f are colored noise, t is a gap and a burst. Pitch, size of the vocal tract, speed,
loudness, silence around the word and background noise are drawn anew for every recording, so no
voice occurs twice. Words 2k and 2k + 1 are the same sounds in opposite order: their mean spectra
are alike, and only a model that hears order tells them apart.
"""

import numpy as np

from .recordings import RATE

SEED = 0
SIZES = {"train": 1500, "validation": 200, "test": 300}
PAIRS = ("a i", "s o", "u a e", "n i s", "t o m")
WORDS = tuple(" ".join(order) for pair in PAIRS for order in (pair.split(), pair.split()[::-1]))
# sound -> resonances in Hz, loudness of the buzz, of the noise, seconds
SOUNDS = {
    "a": ((750, 1250, 2500), 1.0, 0.0, 0.12),
    "e": ((480, 1850, 2600), 1.0, 0.0, 0.12),
    "i": ((300, 2250, 3000), 1.0, 0.0, 0.12),
    "o": ((500, 900, 2450), 1.0, 0.0, 0.12),
    "u": ((320, 750, 2300), 1.0, 0.0, 0.12),
    "m": ((260, 1000, 2200), 0.5, 0.0, 0.09),
    "n": ((270, 1500, 2500), 0.5, 0.0, 0.09),
    "s": ((2400, 3100, 3600), 0.0, 0.5, 0.11),
    "t": ((1800, 2800, 3500), 0.0, 0.8, 0.03),
}
BANDWIDTHS = np.array([80.0, 110.0, 170.0])
GAP = 0.05  # seconds of silence before a t
FRAME = 8  # samples that share one spectrum, 1 ms
GLIDE = 25  # frames over which one sound turns into the next


def generate(sizes=None, seed=SEED):
    """Recordings at 8 kHz: {split: {"audio": [float32 array], "label": [int]}}, classes in turn.

    The same on every machine, up to the last of 16 bits: numbers come from ``RandomState``,
    which numpy has frozen, and samples are rounded as in a wav file.

    Args:
        sizes: recordings per split; default 1500 / 200 / 300, as many of each word.
        seed: another seed gives other voices saying the same words.

    Raises:
        ValueError: unknown split name, or a size that is no multiple of 10, the number of words.
    """
    sizes = SIZES if sizes is None else sizes
    wrong = [size for size in sizes.values() if size < 1 or size % len(WORDS)]
    if not sizes or not set(sizes) <= set(SIZES) or wrong:
        raise ValueError(
            f"sizes must map some of {list(SIZES)} to multiples of {len(WORDS)}, got {sizes}"
        )
    random = np.random.RandomState(seed)
    splits = {}
    for split, size in sizes.items():
        labels = [i % len(WORDS) for i in range(size)]
        splits[split] = {
            "audio": [say(WORDS[label], random) for label in labels],
            "label": labels,
        }
    return splits


def say(word, random):
    """One recording of a word, such as "a i": float32 samples, -1 to 1, in a voice of its own.

    Args:
        word: names of SOUNDS with blanks between.
        random: a ``numpy.random.RandomState``.
    """
    low, high = 85.0, 260.0
    pitch = low * (high / low) ** random.random_sample()
    tract = _between(random, 0.88, 1.16)  # short vocal tracts resonate higher
    frames = _frames(word.split(), _between(random, 0.75, 1.3), random)
    resonances, buzz, noise = frames[:, :3] * tract, frames[:, 3], frames[:, 4]
    rise = _between(random, -0.25, 0.25)  # of the pitch from start to end
    pitches = np.repeat(pitch * (1 + rise * np.linspace(-0.5, 0.5, len(frames))), FRAME)
    signal = _harmonics(pitches, resonances, buzz) + _hiss(tract, noise, random)
    signal = np.pad(signal, [int(RATE * _between(random, 0.01, 0.12)) for _ in range(2)])
    signal /= np.abs(signal).max()
    background = 10 ** (-_between(random, -2, 16) / 20) * signal.std()
    signal = signal + background * random.standard_normal(len(signal))
    signal *= _between(random, 0.1, 1.0) / np.abs(signal).max()
    return (np.round(signal * 32767) / 32768).astype(np.float32)


def _between(random, low, high):
    return low + (high - low) * random.random_sample()


def _frames(sounds, speed, random):
    """(frames, 5): three resonances, loudness of buzz and noise; every sound glides to the next."""
    tracks = []
    for sound in sounds:
        resonances, buzz, noise, seconds = SOUNDS[sound]
        if sound == "t":
            tracks += [(*resonances, 0.0, 0.0)] * int(RATE * GAP / speed / FRAME)
        length = int(RATE * seconds * _between(random, 0.8, 1.2) / speed / FRAME)
        tracks += [(*resonances, buzz, noise)] * length
    table = np.array(tracks, dtype=float)
    edge = np.ones((GLIDE, 1))
    table = np.concatenate([table[:1] * edge, table, table[-1:] * edge])
    table[:GLIDE, 3:], table[-GLIDE:, 3:] = 0, 0  # silence before and after
    window = np.hanning(GLIDE + 2)[1:-1]
    return np.stack([np.convolve(t, window / window.sum(), mode="valid") for t in table.T], 1)


def _harmonics(pitches, resonances, buzz):
    """All harmonics below 3900 Hz, each as loud as the resonances let it be."""
    numbers = np.arange(1, int(3900 / pitches.max()) + 1)[:, None]
    tones = numbers * pitches[::FRAME]  # (harmonics, frames) in Hz
    loudness = np.zeros_like(tones)
    for peak, center, width in zip((1.0, 0.6, 0.35), resonances.T, BANDWIDTHS, strict=True):
        loudness += peak / (1 + ((tones - center) / width) ** 2)
    loudness *= buzz / np.sqrt(numbers)
    turn = np.exp(2j * np.pi * np.cumsum(pitches) / RATE)
    signal, wave = np.zeros(len(turn)), np.ones_like(turn)
    for track in loudness:
        wave *= turn  # the next harmonic
        signal += np.repeat(track, FRAME) * wave.imag
    return signal


def _hiss(tract, noise, random):
    """Noise around 3 kHz, as loud as the frames say."""
    white = np.fft.rfft(random.standard_normal(len(noise) * FRAME))
    hertz = np.fft.rfftfreq(len(noise) * FRAME, 1 / RATE)
    colored = np.fft.irfft(white * np.exp(-(((hertz - 3000 * tract) / 700) ** 2)))
    return np.repeat(noise, FRAME) * colored
