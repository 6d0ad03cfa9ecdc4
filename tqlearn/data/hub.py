"""Hub data sets, at a fixed commit."""

# (repository, configuration, verified revision or None, how to turn its splits into ours)
SETS = {
    "sst2": ("stanfordnlp/sst2", None, None),
}


def read(name, revision, ways):
    """Download ``name`` with ``datasets.load_dataset``: ({split: {column: list}}, where from).

    Raises:
        ValueError: unknown name, or no revision is built in and none was given.
        OSError: the hub cannot be reached, or has no such revision.
    """
    if name not in SETS:
        raise ValueError(f"hub data sets are {[*SETS]}, got {name!r}; {ways}")
    path, configuration, pinned = SETS[name]
    revision = revision or pinned
    if revision is None:
        raise ValueError(
            f"{name}: no verified commit of {path} is built in; pass revision= with a full commit "
            "hash from the data set's page, so that your numbers can be repeated"
        )
    from datasets import load_dataset

    try:
        dd = load_dataset(path, configuration, revision=revision)
    except Exception as error:  # datasets raises many kinds for no network and no such commit
        raise OSError(f"{name}: cannot get {path} at {revision} ({error}); {ways}") from error
    splits = {
        split: {"sentence": [s.strip() for s in rows["sentence"]], "label": list(rows["label"])}
        for split, rows in dd.items()
        if split in ("train", "validation")  # the test labels are not public
    }
    return splits, f"hub ({path} at {revision})"
