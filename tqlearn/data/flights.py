"""``flights``: a joint intent + slot corpus that a grammar writes. Same rows on every machine.

A frame is text with ``{slot}`` (a value, tagged B- and I-), ``<rule>`` (one line of RULES) and
``(a|b|)`` (one of these, maybe nothing). A line that starts with "!" is kept from training, as
are the second halves of the value lists. Every test sentence shows at least one of these: a frame
or a value that training never shows. Training and validation show neither, and no sentence occurs
twice in the corpus.
"""

import random
import re

from . import flights_words as words
from .flights_frames import FRAMES, RULES

SEED = 0
INTENTS = sorted(FRAMES)
SIZES = {"train": 2000, "validation": 300, "test": 500}
NO_PREPOSITION = ("today", "tomorrow", "tonight", "next", "this")
MARKS = re.compile(r"<(\w+)>|\(([^()]*)\)")  # innermost ( | ) and <rule>


def generate(sizes=None, seed=SEED):
    """The corpus: {split: {"tokens": [[str]], "slots": [[str]], "intent": [str]}}.

    Args:
        sizes: sentences per split; default 2000 / 300 / 500.
        seed: another seed gives other sentences from the same grammar.

    Raises:
        ValueError: unknown split name, a size below 1, or more sentences than the grammar yields.
    """
    sizes = SIZES if sizes is None else sizes
    if not set(sizes) <= set(SIZES) or min(sizes.values(), default=0) < 1:
        raise ValueError(f"sizes must map some of {list(SIZES)} to 1 or more, got {sizes}")
    chance = Chance(seed)
    seen = set()
    return {
        split: _split(chance, size, novel=split == "test", seen=seen)
        for split, size in sizes.items()
    }


def sentences(sizes=None, seed=SEED):
    """The same rows to classify: splits of columns ``sentence`` (str) and ``label`` (int).

    A label is the place of the intent in their sorted list, see ``INTENTS``.
    """
    return {
        split: {
            "sentence": [" ".join(tokens) for tokens in rows["tokens"]],
            "label": [INTENTS.index(intent) for intent in rows["intent"]],
        }
        for split, rows in generate(sizes, seed).items()
    }


def text(sizes=None, seed=SEED):
    """The same sentences alone: splits of a column ``text`` (str)."""
    return {
        split: {"text": [" ".join(tokens) for tokens in rows["tokens"]]}
        for split, rows in generate(sizes, seed).items()
    }


class Chance:
    """Draws built on ``random()`` alone, the one generator Python promises never to change.

    ``novel`` opens the held-out lines and values; ``novelties`` counts those that were drawn.
    """

    def __init__(self, seed):
        self.random = random.Random(seed).random
        self.novel, self.novelties = False, 0

    def pick(self, values):
        """One of ``values``, all equally likely."""
        return values[int(self.random() * len(values))]

    def line(self, lines):
        """One frame line; those with "!" only if ``novel``."""
        text = self.pick(
            lines if self.novel else [text for text in lines if not text.startswith("!")]
        )
        self.novelties += text.startswith("!")
        return text.removeprefix("!")

    def value(self, lists):
        """One of (training values, held-out values), half and half if ``novel``."""
        held_out = self.novel and self.random() < 0.5
        self.novelties += held_out
        return self.pick(lists[held_out])


def _split(chance, size, novel, seen):
    chance.novel = novel
    rows = {"tokens": [], "slots": [], "intent": []}
    for _ in range(100 * size):
        chance.novelties = 0
        intent = chance.pick(INTENTS)
        tokens, slots = _fill(chance, _expand(chance, chance.line(FRAMES[intent])))
        if " ".join(tokens) in seen or (novel and not chance.novelties):
            continue
        seen.add(" ".join(tokens))
        for key, value in (("tokens", tokens), ("slots", slots), ("intent", intent)):
            rows[key].append(value)
        if len(rows["intent"]) == size:
            return rows
    raise ValueError(f"the grammar yields no {size} different sentences, only {len(seen)}")


def _expand(chance, text):
    """Replace rules and alternatives, innermost first, until none is left."""
    while mark := MARKS.search(text):
        rule, options = mark.groups()
        chosen = chance.line(RULES[rule]) if rule else chance.pick(options.split("|"))
        text = text[: mark.start()] + chosen + text[mark.end() :]
    return text


def _fill(chance, frame):
    """Frame -> (tokens, IOB tags)."""
    tokens, tags, used = [], [], set()
    for part in frame.split():
        if part[0] != "{":
            tokens.append(part)
            tags.append("O")
            continue
        slot = part[1:-1]
        value = _unused(chance, slot, used)
        if tokens and tokens[-1] == "on" and value[0] in NO_PREPOSITION:  # "on monday", "tomorrow"
            tokens, tags = tokens[:-1], tags[:-1]
        if tokens and tokens[-1] == "a" and value[0][0] in "aeiou":
            tokens[-1] = "an"
        tokens += value
        tags += [f"B-{slot}"] + [f"I-{slot}"] * (len(value) - 1)
    end = -1 if tokens[-1] == "please" in tokens[:-1] else None  # once is polite enough
    return tokens[:end], tags[:end]


def _unused(chance, slot, used):
    """The words of a value that the sentence does not have yet: nobody flies from rome to rome."""
    novelties = chance.novelties
    while (value := VALUES[slot](chance)) in used:
        chance.novelties = novelties
    used.add(value)
    return value.split()


def _from(lists):
    return lambda chance: chance.value(lists)


def _date(chance):
    kind = int(chance.random() * 5)
    if kind == 0:
        return chance.pick(["today", "tomorrow", "tonight", "next week", "this weekend"])
    if kind == 1:
        return chance.pick(["", "next ", "this "]) + chance.pick(words.WEEKDAY)
    if kind == 2:
        return f"the {chance.pick(words.DAY)} of {chance.pick(words.MONTH)}"
    month = chance.pick(words.MONTH)
    return f"{month} {chance.pick(words.DAY) if kind == 3 else 1 + int(chance.random() * 28)}"


def _time(chance):
    hour = 1 + int(chance.random() * 12)
    kind = int(chance.random() * 4)
    if kind == 0:
        return f"{hour} {chance.pick(['am', 'pm'])}"
    if kind == 1:
        return f"{hour + 11}:{chance.pick(['00', '10', '15', '20', '30', '45', '50'])}"
    if kind == 2:
        part = chance.pick(["half past", "quarter to", "quarter past"])
        return f"{part} {chance.pick(words.NUMBER)}"
    return f"{chance.pick(words.NUMBER)} o'clock"


def _flight(chance):
    number = 10 + int(chance.random() * 990)
    return chance.pick(["", "", "ba ", "lh ", "aa ", "dl ", "ua ", "af "]) + str(number)


def _code(chance):
    signs = "abcdefghjkmnpqrstuvwxyz23456789"
    return "".join(chance.pick(signs) for _ in range(6))


def _count(chance):
    return chance.pick(words.NUMBER[1:])


def _price(chance):
    if chance.random() < 0.5:
        return f"{10 * (5 + int(chance.random() * 95))} {chance.pick(['dollars', 'euros'])}"
    return f"{chance.pick(words.NUMBER[:9])} hundred {chance.pick(['dollars', 'euros'])}"


def _weight(chance):
    return f"{5 + int(chance.random() * 40)} {chance.pick(['kilos', 'pounds', 'kg'])}"


def _seat_number(chance):
    return f"{1 + int(chance.random() * 45)}{chance.pick('abcdef')}"


VALUES = {
    **{slot: _from(words.CITY) for slot in ("from_city", "to_city", "via_city", "city")},
    **{slot: _date for slot in ("depart_date", "return_date", "new_date")},
    **{slot: _time for slot in ("depart_time", "arrive_time")},
    **{slot: _count for slot in ("ticket_count", "bag_count")},
    "day_period": _from(words.PERIOD),
    "airport": _from(words.AIRPORT),
    "airline": _from(words.AIRLINE),
    "passenger_name": _from(words.NAME),
    "meal": _from(words.MEAL),
    "bag_kind": _from(words.BAG),
    "transport": _from(words.TRANSPORT),
    "cabin": _from(words.CABIN),
    "seat_position": _from(words.SEAT),
    "seat_number": _seat_number,
    "flight_number": _flight,
    "booking_code": _code,
    "max_price": _price,
    "bag_weight": _weight,
}
