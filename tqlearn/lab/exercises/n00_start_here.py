"""Exercises of notebook 00: count a BERT, and read packed codes back."""

import torch

from .base import Exercise, Mistake


def bert_numbers(vocabulary, positions, width, inner, layers):
    """How many numbers a BERT encoder with its pooler holds."""
    tables = (vocabulary + positions + 2) * width
    matrices = 4 * width * width + 2 * width * inner
    biases = 5 * width + inner
    norms = 2 * 2 * width
    pooler = width * width + width
    return tables + 2 * width + layers * (matrices + biases + norms) + pooler


def _without_first_norm(vocabulary, positions, width, inner, layers):
    return bert_numbers(vocabulary, positions, width, inner, layers) - 2 * width


def _without_pooler(vocabulary, positions, width, inner, layers):
    return bert_numbers(vocabulary, positions, width, inner, layers) - width * width - width


def _without_biases(vocabulary, positions, width, inner, layers):
    return bert_numbers(vocabulary, positions, width, inner, layers) - layers * (5 * width + inner)


def _one_norm_a_layer(vocabulary, positions, width, inner, layers):
    return bert_numbers(vocabulary, positions, width, inner, layers) - layers * 2 * width


def _bytes(vocabulary, positions, width, inner, layers):
    return 4 * bert_numbers(vocabulary, positions, width, inner, layers)


def _sizes(generator):
    yield 30522, 512, 768, 3072, 12
    for layers in (2, 6):
        yield *torch.randint(64, 2048, (4,), generator=generator).tolist(), layers


def unpack(packed, count):
    """The ``count`` codes (-8 to 7) in a tensor of bytes, two to a byte, as torch.int16."""
    high, low = packed // 16, packed % 16
    both = torch.stack([high, low], dim=-1).flatten()[:count]
    return both.to(torch.int16) - 8


def _low_half_first(packed, count):
    return torch.stack([packed % 16, packed // 16], -1).flatten()[:count].to(torch.int16) - 8


def _never_negative(packed, count):
    return unpack(packed, count) + 8


def _halves_one_after_the_other(packed, count):
    return torch.cat([packed // 16, packed % 16])[:count].to(torch.int16) - 8


def _padding_kept(packed, count):
    return unpack(packed, 2 * len(packed))


def _packed(generator):
    for count in (2, 8, 31):
        bytes_ = torch.randint(0, 256, ((count + 1) // 2,), generator=generator)
        yield bytes_.to(torch.uint8), count


EXERCISES = (
    # Passes, too: 2 + 2 for 2 * 2.
    Exercise(
        id="00.1", title="count any BERT",
        difficulty="easy", minutes=5, answer=bert_numbers, cases=_sizes,
        mistakes=(
            Mistake("the layer norm after the embeddings is missing", _without_first_norm),
            Mistake("the pooler is missing", _without_pooler),
            Mistake("the biases are missing", _without_biases),
            Mistake("each layer has two layer norms, you count one", _one_norm_a_layer),
            Mistake("these are bytes; the question is how many numbers", _bytes),
        ),
        hints=(
            "The formula above has one term per group. Write it with these five names.",
            "Outside the layers: three tables (V, P and 2 rows), a norm (2 d), a pooler (d² + d).",
        ),
    ),
    # Passes, too: packed / 16, whose fraction .to(torch.int16) cuts off; dim=1, which is the last.
    Exercise(
        id="00.2", title="read packed codes back",
        difficulty="medium", minutes=8, answer=unpack, cases=_packed,
        mistakes=(
            Mistake("the two codes of each byte are swapped: the first one is the high half",
                    _low_half_first),
            Mistake("codes run from -8 to 7, yours from 0 to 15", _never_negative),
            Mistake("all first halves come before all second ones: they should alternate",
                    _halves_one_after_the_other),
            Mistake("an odd count leaves one half byte unused at the end: drop it", _padding_kept),
        ),
        hints=(
            "packed // 16 gives the first code of each byte plus 8. What gives the second?",
            "torch.stack([first, second], dim=-1).flatten() makes them alternate.",
        ),
    ),
)  # fmt: skip
