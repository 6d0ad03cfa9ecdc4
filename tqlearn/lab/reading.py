"""What a joint intent + slot model makes of a typed sentence, as text and in color."""

from dataclasses import dataclass
from html import escape

from . import plots


@dataclass(frozen=True, repr=False)
class Reading:
    """A sentence as a model (``who``) understood it: one intent, one IOB tag per word."""

    words: list[str]
    intent: str
    tags: list[str]
    who: str = ""

    @property
    def spans(self) -> list[tuple[str, str]]:
        """(slot, its words) in the order of the sentence; "O" words belong to none.

        >>> Reading(["to", "new", "york"], "flight", ["O", "B-to", "I-to"]).spans
        [('to', 'new york')]
        """
        found: list[tuple[str, str]] = []
        last = "O"
        for word, tag in zip(self.words, self.tags, strict=True):
            slot = tag[2:]
            if tag.startswith("I-") and last[2:] == slot:
                found[-1] = (slot, f"{found[-1][1]} {word}")
            elif tag != "O":
                found.append((slot, word))
            last = tag
        return found

    def __str__(self) -> str:
        lines = [f"intent: {self.intent}"]
        return "\n".join(lines + [f"  {slot}: {words}" for slot, words in self.spans])

    __repr__ = __str__  # what a page without HTML shows

    def _repr_html_(self) -> str:
        spans, pieces, last = iter(self.spans), [], "O"
        for word, tag in zip(self.words, self.tags, strict=True):
            if tag == "O":
                pieces.append(escape(word))
            elif not (tag.startswith("I-") and last[2:] == tag[2:]):  # a new span, drawn whole
                slot, words = next(spans)
                pieces.append(_underlined(words, slot))
            last = tag
        who = f"{escape(self.who)} — " if self.who else ""
        head = f"{who}<b>{escape(self.intent)}</b>: "
        return f'<p style="font-size:1.1em;line-height:2">{head}{" ".join(pieces)}</p>'


def _underlined(words: str, slot: str) -> str:
    """Words on their line, the slot below in small letters on a ground of its own color."""
    color = plots.COLORS[sum(map(ord, slot)) % len(plots.COLORS)]
    return (
        '<span style="display:inline-block;text-align:center;vertical-align:top;line-height:1.3">'
        f'<span style="display:block;border-bottom:3px solid {color}">{escape(words)}</span>'
        f'<small style="background:{color};color:{plots.over(color)};padding:0 4px">'
        f"{escape(slot)}</small></span>"
    )


def read(model: object, tokenizer: object, sentence: str, who: str = "") -> Reading:
    """Return a model's reading of a sentence, lower-cased and split at blanks.

    Raises:
        ValueError: the sentence is empty.
    """
    from ..hf import predict_joint

    words = sentence.lower().split()
    if not words:
        raise ValueError("there is nothing to read: type a sentence")
    intents, tags = predict_joint(model, tokenizer, [words])
    return Reading(words, intents[0], tags[0], who)
