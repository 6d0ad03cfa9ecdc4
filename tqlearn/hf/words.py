"""A word-level tokenizer for models trained from scratch."""

from collections import Counter

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]")


def word_tokenizer(dd, size=800, min_count=2):
    """One id per word of the train split: [PAD] 0, [UNK] 1, [CLS] 2, then words by frequency.

    Rule: words seen at least ``min_count`` times, the most frequent first (ties alphabetical), as
    many as fit into ``size`` rows; all others are [UNK], which is thereby trained on the rare
    ones. ATIS gives 610 words of 867, so 613 of the 800 embedding rows are in use. [CLS] is put
    first; there is no [SEP].

    Raises:
        ValueError: the train split is empty, or ``size`` leaves no room for words.
    """
    if size <= len(SPECIAL):
        raise ValueError(f"size must exceed the {len(SPECIAL)} special tokens, got {size}")
    counts = Counter(word for row in dd["train"]["tokens"] for word in row)
    if not counts:
        raise ValueError("the train split has no words")
    words = sorted((w for w in counts if counts[w] >= min_count), key=lambda w: (-counts[w], w))
    words = [w for w in words if w not in SPECIAL][: size - len(SPECIAL)]
    vocab = {word: i for i, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", vocab["[CLS]"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]"
    )
