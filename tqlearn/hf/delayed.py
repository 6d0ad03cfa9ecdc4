"""Quantization that begins in the middle of a training, and trainings that end before their end."""

from transformers import TrainerCallback

from ..arguments import require
from ..quantizers.running_ranges import switch


class QuantizeFromStep(TrainerCallback):
    """Let a model's min-max quantizers rest at first, then watch, then round.

    Until it rounds the model trains as in floats, but for fixed sinusoids: those are on their grid
    from the start. Make the model with ``compress`` before, so that
    its parameters, its optimizer and its checkpoints are the same all the way; a run that goes on
    from a checkpoint finds the right phase by itself.

    Args:
        model: compressed with ``MinMax``; it rests from now on.
        start: number of the step from which it rounds; below 1 a share of all steps; None: never.
        watch: steps before that in which running ranges follow their tensors. A range that has
            seen nothing starts with the first batch.

    Raises:
        ValueError: a negative number; at the start of training, one that it does not reach.

    Source: spec sheet FullyQT, sections 7 and 11 (the paper starts early, at step 100 of 100,000).
    """

    def __init__(self, model, start=100, watch=50):
        require("QuantizeFromStep: watch", watch, int)
        require("QuantizeFromStep: start", start, float | None)
        if watch < 0 or (start is not None and start < 0):
            raise ValueError(f"steps are counted from 0, got start={start}, watch={watch}")
        self.model, self.start, self.watch = model, start, watch
        self.step = None
        switch(model, follows=False, rounds=False)

    def on_train_begin(self, args, state, control, **kwargs):
        """Learn the number of steps from the trainer."""
        if self.start is not None:
            share = 0 < self.start < 1
            self.step = round(self.start * state.max_steps) if share else int(self.start)
            if self.step >= state.max_steps:
                raise ValueError(
                    f"quantization starts at step {self.step}, but the training has "
                    f"{state.max_steps}; start earlier or train longer"
                )

    def on_step_begin(self, args, state, control, **kwargs):
        """Find the phase of this step."""
        if self.step is not None:
            follows = state.global_step >= self.step - self.watch
            switch(self.model, follows=follows, rounds=state.global_step >= self.step)


class StopAfter(TrainerCallback):
    """Save a checkpoint and stop once so many steps are done, whatever ``max_steps`` says.

    The learning rate stays on the way of the long training, so that several trainings can go on
    from the checkpoint.
    """

    def __init__(self, step):
        if require("StopAfter: step", step, int) < 1:
            raise ValueError(f"a training has at least one step, got {step}")
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        """Save and stop."""
        if state.global_step >= self.step:
            control.should_save = control.should_training_stop = True
