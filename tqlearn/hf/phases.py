"""What a training in phases needs between two of them: the bare model, and batches to look at."""

import copy
from itertools import takewhile

from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding

from ..stages import is_quantizer
from . import checkpoints

BATCHES = 10  # of the training data, to start the clips of the inputs from


def without_edits(model):
    """Return a dense copy of a masked or quantized model, with the weights that it trains.

    Masked places are zero in it, so that the same mask comes out of the next pruning.
    """
    config = copy.deepcopy(model.config)
    config.quantization_config = None
    dense = type(model)(config)
    if config.model_type in checkpoints.MODELS:
        checkpoints.save_own_names(dense)
    values = model.state_dict()
    for name, module in model.named_modules():
        for weight, chain in getattr(module, "parametrizations", {}).items():
            if chain.is_tensor:  # weight_norm of a convolution has two tensors: it stays
                x = chain.original
                for mask in takewhile(lambda stage: not is_quantizer(stage), chain):
                    x = mask(x)
                values[f"{name}.{weight}"] = x
    dense.load_state_dict({name: values[name] for name in dense.state_dict()})
    return dense.train(model.training)


def first_batches(job, tokenizer, size=16):
    """Return a few batches of a task's training data to calibrate with.

    Rows of like length stand together: of sounds, a mask does not reach the encoder's frames.

    Args:
        job: a ``tasks.Task``.
    """
    collator = job.trainer["data_collator"] or DataCollatorWithPadding(tokenizer)
    rows = job.trainer["train_dataset"].shuffle(seed=0)
    lengths = rows.with_format(None)["length"][: BATCHES * size]
    rows = rows.select(sorted(range(len(lengths)), key=lengths.__getitem__))
    return [dict(batch) for batch in DataLoader(rows, batch_size=size, collate_fn=collator)]
