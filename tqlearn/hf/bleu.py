"""BLEU by sacrebleu, with the signature that makes a figure comparable, and on split words."""

import re

WORD = re.compile(r"\w+|[^\w\s]")


def split_words(text):
    """A text with blanks around every mark: "Hund." -> "Hund ."

    >>> split_words("Ein Hund rennt.")
    'Ein Hund rennt .'
    """
    return " ".join(WORD.findall(text))


def bleu(found, references):
    """({"bleu", "tokenized_bleu"}, {"bleu": signature, ...}) of two lists of plain sentences.

    "bleu" is sacrebleu's default, which splits words itself (13a). "tokenized_bleu" is BLEU of
    sentences split by ``split_words``, as multi-bleu counts them, and not comparable to the other.

    Raises:
        ValueError: lists of different length, or empty ones.
        ImportError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise ImportError("BLEU needs sacrebleu: pip install sacrebleu") from error
    if not found or len(found) != len(references):
        raise ValueError(
            f"BLEU needs a reference for every sentence, got {len(found)} and {len(references)}"
        )
    own, plain = BLEU(), BLEU(tokenize="none", force=True)
    sides = [[split_words(text) for text in texts] for texts in (found, references)]
    scores = {
        "bleu": own.corpus_score(found, [references]).score,
        "tokenized_bleu": plain.corpus_score(sides[0], [sides[1]]).score,
    }
    signatures = {"bleu": own.get_signature(), "tokenized_bleu": plain.get_signature()}
    return scores, {name: str(signature) for name, signature in signatures.items()}
