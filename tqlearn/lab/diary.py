"""A line now and then while a student learns, so that nobody waits before a silent page."""

from transformers import TrainerCallback

from ..hf import LayerByLayer


class Diary(TrainerCallback):
    """Print step, stage and loss at every log of the trainer.

    Args:
        schedule: the callback that keeps the layer-by-layer schedule.
    """

    def __init__(self, schedule: LayerByLayer) -> None:
        self.schedule = schedule

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Print one line; the summary after the last step has no loss and is left out."""
        if logs and "loss" in logs:
            stage = f"stage {self.schedule.stage} of {self.schedule.layers + 1}"
            print(f"step {state.global_step:4}, {stage}, loss {float(logs['loss']):.3f}")
