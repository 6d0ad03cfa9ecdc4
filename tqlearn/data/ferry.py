"""``ferry``: sentences of a harbor in English and in Ostian, a language that this grammar invents.

Ostian in six rules: the time comes first, the verb last. An adjective follows its noun and takes
its plural -i. The article is an ending: -or and -an (the, a) on what lives, -et and -un on what
does not. Two to five follow the noun, which then stays singular and bare. The past ends in -ta,
the present in -re. "Not" is "ne" before the verb, a question ends in "ka". So words move, and
endings depend on a noun's class and on words far away.

Training and validation never show certain pairs of adjective and noun; half of the test sentences
have one. No sentence occurs twice. Rows are the same on every machine.
"""

from .flights import Chance

SEED = 0
SIZES = {"train": 4000, "validation": 300, "test": 300}
LIVING = {
    "sailor": "marek", "captain": "kapen", "woman": "suna", "child": "titi", "dog": "harro",
    "bird": "pili", "cook": "gormo", "girl": "nali", "fisher": "pesko", "guard": "votar",
}  # fmt: skip
THINGS = {
    "boat": "lodi", "net": "zeta", "lamp": "lumo", "rope": "korde", "letter": "pismo",
    "box": "kaso", "flag": "banro", "bell": "dongo", "map": "tabul", "bottle": "butel",
}  # fmt: skip
PLURALS = {"woman": "women", "child": "children", "box": "boxes"}
ADJECTIVES = {
    "old": "staro", "young": "junel", "red": "ruvo", "small": "mikro", "big": "grano",
    "green": "zelno", "quiet": "tiho", "wet": "vodno", "heavy": "pezan", "new": "novel",
}  # fmt: skip
VERBS = {  # base, third person, past: stem
    ("see", "sees", "saw"): "vid", ("carry", "carries", "carried"): "nos",
    ("find", "finds", "found"): "truv", ("paint", "paints", "painted"): "mal",
    ("sell", "sells", "sold"): "prod", ("hide", "hides", "hid"): "skri",
    ("watch", "watches", "watched"): "gled", ("bring", "brings", "brought"): "dov",
}  # fmt: skip
NUMBERS = {"two": "dua", "three": "tria", "four": "kvara", "five": "peta"}
PLACES = {
    "in the harbor": "portem", "on the bridge": "mostem", "near the tower": "turem",
    "on the island": "ostem", "behind the wall": "murem",
}  # fmt: skip
PAST = {"yesterday": "hiru", "last night": "nokta", "this morning": "matin"}
PRESENT = {"today": "nun", "every day": "dnevo", "at night": "noktu"}
ENDINGS = {True: {"the": "or", "a": "an"}, False: {"the": "et", "a": "un"}}
ADJECTIVE_LIST, NOUNS = [*ADJECTIVES], [*LIVING, *THINGS]


def held_out(adjective, noun):
    """Whether training never shows this pair: 37 of the 200."""
    return (7 * ADJECTIVE_LIST.index(adjective) + 3 * NOUNS.index(noun)) % 11 < 2


def generate(sizes=None, seed=SEED):
    """The corpus: {split: {"source": [str], "target": [str]}}.

    Args:
        sizes: sentences per split; default 4000 / 300 / 300.

    Raises:
        ValueError: unknown split name, or a size below 1.

    >>> rows = generate({"train": 1})["train"]
    >>> rows["source"][0].islower(), rows["source"][0][-1] in ".?"
    (True, True)
    """
    sizes = SIZES if sizes is None else sizes
    if not set(sizes) <= set(SIZES) or min(sizes.values(), default=0) < 1:
        raise ValueError(f"sizes must map some of {[*SIZES]} to 1 or more, got {sizes}")
    chance, seen, found = Chance(seed), set(), {}
    for split, size in sizes.items():
        rows = {"source": [], "target": []}
        while len(rows["source"]) < size:
            novel = split == "test" and len(rows["source"]) % 2 == 0
            source, target, has_novel = _sentence(chance, novel)
            if source not in seen and has_novel == novel:
                seen.add(source)
                rows["source"].append(source)
                rows["target"].append(target)
        found[split] = rows
    return found


def _sentence(chance, novel):
    """(English, Ostian, whether a held-out pair is in it)."""
    past, question = chance.random() < 0.5, chance.random() < 0.2
    negative = not question and chance.random() < 0.2
    subject, who, plural, pairs = _phrase(chance, novel, [*LIVING])
    thing, what, _, more = _phrase(chance, novel, NOUNS)
    (base, third, was), stem = chance.pick([*VERBS.items()])
    helper = "did" if past else "do" if plural else "does"
    if question:
        words = [helper, subject, base, thing]
    elif negative:
        words = [subject, helper, "not", base, thing]
    else:
        words = [subject, was if past else base if plural else third, thing]
    action = [*(["ne"] if negative else []), stem + ("ta" if past else "re")]
    order = [who, what]
    if chance.random() < 0.4:
        english, ostian = chance.pick([*PLACES.items()])
        words.append(english)
        order.append(ostian)
    if chance.random() < 0.5:
        english, ostian = chance.pick([*(PAST if past else PRESENT).items()])
        words = words + [english] if question or chance.random() < 0.5 else [english, ",", *words]
        order = [ostian, *order]
    target = " ".join([*order, *action, *(["ka"] if question else [])])
    mark = "?" if question else "."
    return " ".join(words).replace(" ,", ",") + mark, target + mark, pairs or more


def _phrase(chance, novel, nouns):
    """(English, Ostian, whether it is plural, whether its pair is held out)."""
    noun = chance.pick(nouns)
    adjective = chance.pick(ADJECTIVE_LIST) if chance.random() < 0.6 else None
    pair = adjective is not None and held_out(adjective, noun)
    while pair and not novel:
        adjective = chance.pick(ADJECTIVE_LIST)
        pair = held_out(adjective, noun)
    kind = int(chance.random() * 4)  # the, a, the ...s, two ...s
    number = chance.pick([*NUMBERS]) if kind == 3 else None
    plural = kind > 1
    article = number or ("a" if kind == 1 else "the")
    if article == "a" and (adjective or noun)[0] in "aeiou":
        article = "an"
    english = [article, *([adjective] if adjective else [])]
    english.append(PLURALS.get(noun, noun + "s") if plural else noun)
    stem = LIVING.get(noun) or THINGS[noun]
    if number is None:
        stem += ("i" if plural else "") + ENDINGS[noun in LIVING]["a" if kind == 1 else "the"]
    ostian = [stem, *([NUMBERS[number]] if number else [])]
    if adjective:
        ostian.append(ADJECTIVES[adjective] + ("i" if plural else ""))
    return " ".join(english), " ".join(ostian), plural, pair
