"""Ways to damage a saved model: its numbers, its header, its layout, its config, its shards.

Each takes the bytes of one file and a ``random.Random`` and returns other bytes.
"""

import json
import struct

NAMES = ["0", "encoder", "", "bert.pooler.dense", "LSQ", "TTLinear", "Linear", "Packed",
         "os.system", "Positions", "PackedNM", "BlockMask", "FadingNorm", "weight"]  # fmt: skip
NUMBERS = [0, 1, -1, 2, 3, 4, 8, 9, 2**31, 2**40, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e308]
OTHERS = [None, True, False, "", "x", [], {}, [1], {"class": "LSQ", "args": {"bits": 4}}, [[]],
          {"class": "Positions", "args": {"width": 2**20, "length": 2**20}}]  # fmt: skip
BAD = {"F32": [float("nan"), float("inf"), -1.0, 0.0, 1e30], "U8": [0, 255, 1]}
FORMS = {"F32": "<f", "U8": "B"}


def split(data):
    """(header, body) of a safetensors file."""
    start = 8 + struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:start]), data[start:]


def join(header, body):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def tensors(header):
    return [name for name in header if name != "__metadata__"]


def place(data, dice, header=None):
    """The name of a tensor that is not empty, its entry, and where its bytes are in the file."""
    header = header or split(data)[0]
    start = 8 + struct.unpack("<Q", data[:8])[0]
    full = [n for n in tensors(header) if len(set(header[n]["data_offsets"])) == 2]
    entry = header[name := dice.choice(full)]
    first, last = (start + offset for offset in entry["data_offsets"])
    return name, entry, first, last


# ------------------------------------------------------------------------ numbers


def flip_bit(data, dice):
    *_, first, last = place(data, dice)
    changed = bytearray(data)
    changed[dice.randrange(first, last)] ^= 1 << dice.randrange(8)
    return bytes(changed)


def scramble(data, dice):
    *_, first, last = place(data, dice)
    changed = bytearray(data)
    for _ in range(dice.randrange(1, 20)):
        changed[dice.randrange(first, last)] = dice.randrange(256)
    return bytes(changed)


def zero(data, dice):
    *_, first, last = place(data, dice)
    return data[:first] + bytes(last - first) + data[last:]


def bad_number(data, dice):
    """NaN, infinity, a negative or a huge number somewhere; 0, 1 or 255 in a stream of codes."""
    _, entry, first, last = place(data, dice)
    if entry["dtype"] not in FORMS:
        return flip_bit(data, dice)
    new = struct.pack(FORMS[entry["dtype"]], dice.choice(BAD[entry["dtype"]]))
    at = first + len(new) * dice.randrange((last - first) // len(new))
    return data[:at] + new + data[at + len(new) :]


def roll(data, dice):
    """The numbers of one tensor, moved along."""
    *_, first, last = place(data, dice)
    by = dice.randrange(1, last - first) if last - first > 1 else 0
    return data[:first] + data[first + by : last] + data[first : first + by] + data[last:]


def swap_pieces(data, dice):
    """Two pieces of four bytes of one tensor change places."""
    *_, first, last = place(data, dice)
    if last - first < 8:
        return flip_bit(data, dice)
    a, b = sorted(first + 4 * k for k in dice.sample(range((last - first) // 4), 2))
    return data[:a] + data[b : b + 4] + data[a + 4 : b] + data[a : a + 4] + data[b + 4 :]


def swap_tensors(data, dice):
    """Two names of equal type and shape change their numbers."""
    header, body = split(data)
    kinds = {name: (header[name]["dtype"], header[name]["shape"]) for name in tensors(header)}
    pairs = [(a, b) for a in kinds for b in kinds if a < b and kinds[a] == kinds[b]]
    if not pairs:
        return flip_bit(data, dice)
    a, b = dice.choice(pairs)
    header[a], header[b] = header[b], header[a]
    return join(header, body)


def cut(data, dice):
    return data[: dice.randrange(len(data))]


def append(data, dice):
    return data + bytes(dice.randrange(256) for _ in range(dice.randrange(1, 99)))


# ------------------------------------------------------------------------ the header


def header_bit(data, dice):
    size = struct.unpack("<Q", data[:8])[0]
    changed = bytearray(data)
    changed[dice.randrange(8 + size)] ^= 1 << dice.randrange(8)
    return bytes(changed)


def rename(data, dice):
    header, body = split(data)
    old = dice.choice(tensors(header))
    new = dice.choice([old[1:], old + "x", old.replace("e", "a", 1), old.replace("0", "1", 1), "w"])
    return join({new if name == old else name: entry for name, entry in header.items()}, body)


def lose(data, dice):
    """A tensor is gone, and the bytes of the others close up."""
    header, body = split(data)
    gone = header.pop(dice.choice(tensors(header)))["data_offsets"]
    width = gone[1] - gone[0]
    for name in tensors(header):
        offsets = header[name]["data_offsets"]
        header[name]["data_offsets"] = [n - width if n >= gone[1] else n for n in offsets]
    return join(header, body[: gone[0]] + body[gone[1] :])


def lose_all(data, dice):
    header, _ = split(data)
    return join({"__metadata__": header.get("__metadata__", {})}, b"")


def add(data, dice):
    header, body = split(data)
    name = dice.choice(tensors(header))
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [len(body), len(body) + 4]}
    return join(header | {name + dice.choice(["x", "_2", ".scale"]): entry}, body + bytes(4))


def other_type(data, dice):
    """The same bytes under another type or shape."""
    header, body = split(data)
    entry = header[dice.choice(tensors(header))]
    width = {"F32": 4, "I32": 4, "U8": 1, "BOOL": 1}
    if dice.random() < 0.5 and entry["dtype"] in width:
        same = [t for t, w in width.items() if w == width[entry["dtype"]] and t != entry["dtype"]]
        entry["dtype"] = dice.choice(same)
    else:
        entry["shape"] = dice.choice(
            [entry["shape"][::-1], [*entry["shape"], 1], [1, *entry["shape"]]]
        )
    return join(header, body)


def notes(data, dice):
    """Something in the notes of the header: gone, empty, or of another save."""
    header, body = split(data)
    kept = header["__metadata__"]
    name = dice.choice(sorted(set(kept) - {"format"}))
    at = dice.randrange(max(1, len(kept[name])))
    kept[name] = dice.choice([kept[name][:at], kept[name][at:], kept[name] + " ", "0" * 20,
                              kept[name][:at] + "A" + kept[name][at + 1 :]])  # fmt: skip
    return join(header, body)


NUMBERS_OF_A_FILE = [flip_bit, scramble, zero, bad_number, roll, swap_pieces, swap_tensors]
PAYLOADS = [*NUMBERS_OF_A_FILE, cut, append, header_bit, rename, lose, lose_all, add, other_type,
            notes]  # fmt: skip


# ------------------------------------------------------------------------ layouts


def nodes(value, path=()):
    """Every place in a piece of JSON, as the keys that lead to it."""
    yield path
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, below in inner:
            yield from nodes(below, (*path, key))


def change(value, dice):
    """Another value in the place of one."""
    if isinstance(value, bool) or value is None:
        return dice.choice([not value, *NUMBERS, *OTHERS])
    if isinstance(value, int | float) and dice.random() < 0.7:
        return dice.choice([value + 1, value - 1, value * 2, -value, float(value), *NUMBERS])
    if isinstance(value, str) and dice.random() < 0.7:
        return dice.choice([value[1:], value + "x", value.upper(), *NAMES])
    if isinstance(value, list) and value and dice.random() < 0.7:
        return dice.choice([value[::-1], value[1:], value * 2, value * 5000, [value[0]]])
    return dice.choice([*NUMBERS, *OTHERS, *NAMES])


def layout(text, dice):
    """A layout with one thing changed, taken out, put in, renamed; or as a text that is damaged."""
    kind = dice.randrange(8)
    if kind == 0:
        changed = bytearray(text.encode())
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(7)
        return changed.decode(errors="replace")
    if kind == 1:
        at = dice.randrange(len(text))
        return dice.choice([
            *(text[:at], "[" * 10**5, '{"a":' * 10**5, "NaN", "null", "", text + text),
            *(text.replace("4", "1e999", 1), text[:at] + "9" * 5000 + text[at:]),
        ])  # fmt: skip
    whole = json.loads(text)
    path = dice.choice([p for p in nodes(whole) if p])
    owner = whole
    for key in path[:-1]:
        owner = owner[key]
    key = path[-1]
    if kind == 2:
        del owner[key]
    elif kind == 3 and isinstance(key, str):
        owner[dice.choice([key + "x", key[1:], *NAMES])] = owner.pop(key)
    elif kind == 4 and isinstance(owner, dict):
        owner[dice.choice(NAMES)] = dice.choice([*OTHERS, owner[key]])
    elif kind == 5:
        other = dice.choice([p for p in nodes(whole) if p])
        there = whole
        for step in other:
            there = there[step]
        owner[key] = json.loads(json.dumps(there))
    else:
        owner[key] = change(owner[key], dice)
    return json.dumps(whole)


def config(text, dice):
    """A config.json with one thing changed, away from the layout.

    No size above a thousand: transformers builds what it is told to before it asks anybody.
    """
    whole = json.loads(text)
    key = dice.choice(sorted(set(whole) - {"quantization_config"}))
    if dice.random() < 0.2:
        del whole[key]
    else:
        new = change(whole[key], dice)
        whole[key] = new % 1000 if type(new) is int else new
    return json.dumps(whole)
