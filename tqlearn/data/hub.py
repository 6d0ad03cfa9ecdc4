"""Hub data sets, at a fixed commit."""

# name -> (repository, verified commit or None)
SETS = {
    "sst2_phrases": ("stanfordnlp/sst2", "8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb"),
    "atis": ("tuetschek/atis", None),
}
HELD_OUT = 500  # ATIS on the hub has no validation split: its last rows, as many as Goo et al. took


def read(name, revision, ways):
    """Download ``name`` with ``datasets.load_dataset``: ({split: {column: list}}, where from).

    "atis" needs a ``revision`` of yours; its labels have no "atis_" prefix, and the last 500
    training rows become the validation split, so figures are not those of the local copy.

    A name with a colon, "owner/name:en-de" or "owner/name/config:en-de", is any translation set,
    at a ``revision`` of yours: columns of these names, or one "translation" that has both.

    Raises:
        ValueError: unknown name, no revision, or columns other than we know.
        OSError: the hub cannot be reached, or has no such revision.
    """
    if ":" in name:
        return _translation(name, revision, ways)
    if name not in SETS:
        raise ValueError(
            f"hub data sets are {[*SETS]}, got {name!r} (SST-2 is there as phrases only); {ways}"
        )
    path, pinned = SETS[name]
    revision = revision or pinned
    if revision is None:
        raise ValueError(
            f"{name}: no verified commit of {path} is built in; pass revision= with a full commit "
            "hash from the data set's page, so that your numbers can be repeated"
        )
    dd = _download(name, path, revision, ways)
    return (_phrases if name == "sst2_phrases" else _joint)(path, dd), f"hub ({path} at {revision})"


def _translation(name, revision, ways):
    place, _, pair = name.partition(":")
    path, config = "/".join(place.split("/")[:2]), place.split("/")[2:]
    languages = pair.split("-")
    if len(languages) != 2 or place.count("/") not in (1, 2):
        raise ValueError(f"a translation set reads 'owner/name:en-de', got {name!r}; {ways}")
    if revision is None:
        raise ValueError(
            f"{name}: pass revision= with a full commit hash from the data set's page, so that "
            "your numbers can be repeated"
        )
    dd = _download(name, path, revision, ways, *config)
    return {
        split: _sides(path, dd[split], languages) for split in dd
    }, f"hub ({path} at {revision})"


def _sides(path, rows, languages):
    """Columns source and target of a split."""
    columns = rows.column_names
    if set(languages) <= set(columns):
        texts = [list(rows[language]) for language in languages]
    elif "translation" in columns and set(languages) <= set(rows[0]["translation"]):
        texts = [[row[language] for row in rows["translation"]] for language in languages]
    else:
        raise ValueError(
            f"{path}: expected columns {languages}, or 'translation' with both, got {columns}"
        )
    return dict(zip(("source", "target"), texts, strict=True))


def _download(name, path, revision, ways, *config):
    from datasets import load_dataset  # heavy: only when data is asked for

    try:
        return load_dataset(path, *config, revision=revision)
    except Exception as error:  # many kinds: no network, offline mode, no such repository or commit
        raise OSError(f"{name}: cannot get {path} at {revision} ({error}); {ways}") from error


def _phrases(path, dd):
    splits = ("train", "validation")  # the labels of the test split are not public
    _expect(path, dd, splits, ("sentence", "label"))
    return {
        split: {
            "sentence": [sentence.strip() for sentence in dd[split]["sentence"]],
            "label": list(dd[split]["label"]),
        }
        for split in splits
    }


def _joint(path, dd):
    _expect(path, dd, ("train", "test"), ("text", "slots", "intent"))
    whole = {
        split: {
            "tokens": [text.split() for text in dd[split]["text"]],
            "slots": [tags.split() for tags in dd[split]["slots"]],
            "intent": list(dd[split]["intent"]),
        }
        for split in ("train", "test")
    }
    train = whole["train"]
    return {
        "train": {column: rows[:-HELD_OUT] for column, rows in train.items()},
        "validation": {column: rows[-HELD_OUT:] for column, rows in train.items()},
        "test": whole["test"],
    }


def _expect(path, dd, splits, columns):
    found = {split: list(dd[split].column_names) for split in dd}
    if not all(split in found and set(columns) <= set(found[split]) for split in splits):
        raise ValueError(f"{path}: expected splits {splits} with columns {columns}, got {found}")
