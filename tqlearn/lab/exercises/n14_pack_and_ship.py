"""Exercises of notebook 14: a gapless stream, a layer's two limits, sums from tables, codes on."""

from math import ceil, floor, frexp

import torch

from .base import Exercise, Mistake


def pack_codes(codes, bits):
    """Codes (n,) from 0 to 2**bits - 1 as a gapless stream of bytes, uint8, lowest bits first."""
    digits = codes[:, None] >> torch.arange(bits) & 1  # (n, bits): a code's bits, the lowest first
    row = torch.nn.functional.pad(digits.flatten(), (0, -codes.numel() * bits % 8))
    return (row.reshape(-1, 8) << torch.arange(8)).sum(1).to(torch.uint8)


def _stream(codes, bits, within=None, into=None, cut=False):
    """A wrong answer to 14.1: other orders of the bits in a code or in a byte, or a lost end."""
    digits = codes[:, None] >> (torch.arange(bits) if within is None else within(bits)) & 1
    flat = digits.flatten()
    flat = torch.nn.functional.pad(flat, (0, -codes.numel() * bits % 8))
    places = torch.arange(8) if into is None else into
    found = (flat.reshape(-1, 8) << places).sum(1).to(torch.uint8)
    return found[: codes.numel() * bits // 8] if cut else found


def _with_gaps(codes, bits):
    each = 8 // bits
    rows = torch.nn.functional.pad(codes, (0, -len(codes) % each)).reshape(-1, each)
    return (rows << bits * torch.arange(each)).sum(1).to(torch.uint8)


def _rows_of_codes(generator):
    for count, bits in ((16, 4), (11, 3), (23, 5), (9, 7)):
        yield torch.randint(0, 2**bits, (count,), generator=generator), bits


def tokens_to_fill(out, width, bits, bandwidth, peak):
    """Fewest tokens for which multiplying takes at least as long as moving; 0 if none ever does."""
    from math import ceil

    fetch = out * width * bits / 8 / bandwidth  # seconds, once
    gain = out * width / peak - 4 * (width + out) / bandwidth  # seconds, for each token
    return ceil(fetch / gain) if gain > 0 else 0


def _filled(out, width, bits, bandwidth, peak, moved=4, whole=ceil):
    """A wrong answer to 14.2: other bytes for a token's inputs and outputs, another rounding."""
    gain = out * width / peak - moved * (width + out) / bandwidth
    return whole(out * width * bits / 8 / bandwidth / gain) if gain > 0 else 0


def _never_forgotten(out, width, bits, bandwidth, peak):
    gain = out * width / peak - 4 * (width + out) / bandwidth
    return ceil(out * width * bits / 8 / bandwidth / gain)


def _machines(generator):
    for out, width, bits, ratio in (
        *((768, 768, 32, 4.0), (3072, 768, 4, 6.5), (768, 3072, 8, 11.3)),
        *((96, 160, 32, 8.0), (64, 64, 32, 9.1), (32, 16, 8, 40.0)),
    ):
        bandwidth = 1e9 * (5 + 10 * torch.rand((), generator=generator).item())
        yield out, width, bits, bandwidth, bandwidth * ratio


def sums_from_tables(x, stream, values):
    """Sums of all pairs (in / 2, 256), and with them the outputs (out,) of one token x (in,)."""
    byte = torch.arange(256)
    pairs = x.reshape(-1, 2)  # (in / 2, 2): the inputs that a byte's two codes meet
    tables = pairs[:, :1] * values[byte & 15] + pairs[:, 1:] * values[byte >> 4]
    return tables, tables[torch.arange(len(pairs)), stream.long()].sum(1)


def _tabled(x, stream, values, pairs=None, digits=None, rows=None):
    """A wrong answer to 14.3: other pairs of inputs, digits swapped, or another way to add up."""
    byte = torch.arange(256)
    low, high = (byte & 15, byte >> 4) if digits is None else digits(byte)
    a, b = (x.reshape(-1, 2).T if pairs is None else pairs(x))[:, :, None]
    tables = a * values[low] + b * values[high]
    found = tables[torch.arange(len(tables)), stream.long()]  # (out, in / 2)
    return tables, found.sum(1) if rows is None else rows(found, tables, stream)


def _streams(generator):
    for out, width in ((5, 8), (3, 30), (16, 16)):
        scale = 0.05 + torch.rand((), generator=generator)
        yield (
            torch.randn(width, generator=generator),
            torch.randint(0, 256, (out, width // 2), generator=generator).to(torch.uint8),
            scale * (torch.arange(16) - 8.0),
        )


def next_codes(sums, factor, zero, bits):
    """(m, z, codes): factor is nearly m / 2**z, and codes of sums * factor + zero, all integers."""
    from math import frexp

    fraction, exponent = frexp(factor)  # factor = fraction * 2**exponent, 0.5 <= fraction < 1
    m, z = round(fraction * 2**31), 31 - exponent
    codes = ((sums * m + 2 ** (z - 1)) >> z) + zero
    return m, z, codes.clamp(0, 2**bits - 1)


def _next(sums, factor, zero, bits, width=31, half=1, low=0, shifted=True, first=False):
    """A wrong answer to 14.4: another multiplier, no half, another range, or no zero point."""
    fraction, exponent = frexp(factor)
    m, z = round(fraction * 2**width), width - exponent
    codes = (sums * m + half * 2 ** (z - 1)) >> z
    top = low + 2**bits - 1
    if first:
        return m, z, codes.clamp(low, top) + zero
    return m, z, (codes + zero * shifted).clamp(low, top)


def _sums(generator):
    for shape, spread, zero, bits in (
        ((6, 5), 9e3, 117, 8),
        ((4, 9), 4e5, 3, 4),
        ((30,), 2e4, 0, 8),
    ):
        sums = (torch.randn(shape, generator=generator) * spread).round().long()
        factor = (2**bits / 2 / spread) * (0.7 + 0.5 * torch.rand((), generator=generator).item())
        yield sums, factor, zero, bits


EXERCISES = (
    Exercise(
        id="14.1", title="a gapless stream",
        difficulty="easy", minutes=10, answer=pack_codes, cases=_rows_of_codes,
        mistakes=(
            Mistake("a code's highest bit comes first; it should be the lowest",
                    lambda c, b: _stream(c, b, within=lambda bits: torch.arange(bits).flip(0))),
            Mistake("a byte is filled from its highest bit down; begin with the lowest",
                    lambda c, b: _stream(c, b, into=torch.arange(8).flip(0))),
            Mistake("there are gaps: a code may begin in one byte and end in the next", _with_gaps),
            Mistake("every code has a byte of its own; that is what packing is to avoid",
                    lambda c, b: c.to(torch.uint8)),
            Mistake("the last byte is lost where it is not full: fill it up with zeros",
                    lambda c, b: _stream(c, b, cut=True)),
        ),
        hints=(
            "First all the bits in a row, one number each: codes[:, None] >> torch.arange(bits) "
            "& 1 has the shape (n, bits). Then eight of them make a byte.",
            "Fill the row up to a multiple of 8 with torch.nn.functional.pad(row, (0, -len(row) % "
            "8)); (row.reshape(-1, 8) << torch.arange(8)).sum(1) are the bytes.",
        ),
    ),
    # Passes, too: gain >= 0, as no machine of these makes it exactly 0.
    Exercise(
        id="14.2", title="when does the work begin?",
        difficulty="medium", minutes=10, answer=tokens_to_fill, cases=_machines,
        mistakes=(
            Mistake("inputs and outputs move, too: 4 bytes for each number of each token",
                    lambda *a: _filled(*a, moved=0)),
            Mistake("the inputs are floats of 4 bytes, not of one",
                    lambda *a: _filled(*a, moved=1)),
            Mistake("one token too few: round up", lambda *a: _filled(*a, whole=floor)),
            Mistake("bits and bytes: eight bits are one byte",
                    lambda o, w, b, *a: _filled(o, w, 8 * b, *a)),
            Mistake("a token that moves for longer than it multiplies: then no number is enough",
                    _never_forgotten),
        ),
        hints=(
            "Write both times for t tokens. Moving: out * width * bits / 8 once, and 4 * (width + "
            "out) for each token. Both grow with t, one of them from 0.",
            "fetch + t * a <= t * b gives t >= fetch / (b - a), if b is larger than a at all; "
            "math.ceil is a whole number.",
        ),
    ),
    # Passes, too: len(tables), which is len(pairs).
    Exercise(
        id="14.3", title="sums instead of products",
        difficulty="medium", minutes=14, answer=sums_from_tables, cases=_streams,
        mistakes=(
            Mistake("the low four bits belong to the first input of a pair, the high ones to the "
                    "second",
                    lambda *a: _tabled(*a, digits=lambda byte: (byte >> 4, byte & 15))),
            Mistake("a byte holds two neighbors, 2 k and 2 k + 1, not k and k + in / 2",
                    lambda *a: _tabled(*a, pairs=lambda x: x.reshape(2, -1))),
            Mistake("every pair of inputs has a table of its own; the first one serves them all "
                    "here",
                    lambda *a: _tabled(*a, rows=lambda found, tables, stream:
                                       tables[0][stream.long()].sum(1))),
            Mistake("an output is the sum of what it has looked up, not the mean",
                    lambda *a: _tabled(*a, rows=lambda found, tables, stream: found.mean(1))),
            Mistake("these are sums over the outputs; each output has a row of the stream",
                    lambda *a: _tabled(*a, rows=lambda found, tables, stream: found.sum(0))),
        ),
        hints=(
            "One pair of inputs (a, b) and one byte give a * values[byte & 15] + b * values[byte "
            ">> 4]. There are only 256 bytes: compute all of them, for every pair.",
            "tables[torch.arange(in / 2), stream.long()] looks up one number for every byte of the "
            "stream, shape (out, in / 2).",
        ),
    ),
    Exercise(
        id="14.4", title="codes for the next layer",
        difficulty="hard", minutes=15, answer=next_codes, cases=_sums,
        mistakes=(
            Mistake("m has a bit too few: 2**30 <= m < 2**31 is asked for",
                    lambda *a: _next(*a, width=30)),
            Mistake("a shift alone rounds down: add half of 2**z first",
                    lambda *a: _next(*a, half=0)),
            Mistake("the zero point is lost: code 0 does not stand for 0",
                    lambda *a: _next(*a, shifted=False)),
            Mistake("first the zero point, then clamp: the codes are what has to fit into bits",
                    lambda *a: _next(*a, first=True)),
            Mistake("these codes have no sign: they go from 0 to 2**bits - 1",
                    lambda s, f, z, b: _next(s, f, z, b, low=-(2 ** (b - 1)))),
        ),
        hints=(
            "math.frexp(factor) gives a fraction from 0.5 to 1 and a power of two. How many places "
            "to the left has the fraction to go, to be an integer of 31 bits?",
            "m = round(fraction * 2**31) and z = 31 - exponent. A shift to the right rounds down, "
            "so (sums * m + 2**(z - 1)) >> z rounds to the nearest.",
        ),
    ),
)  # fmt: skip
