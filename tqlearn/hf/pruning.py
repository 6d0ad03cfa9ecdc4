"""Block pruning on ``transformers.Trainer``: thresholds, penalty, and the rate of scores."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from ..sparsity.blocks import block_density, block_masks, score_penalty
from ..sparsity.movement import CubicThreshold
from .trainer import DistillTrainer


class ScoreSchedule(TrainerCallback):
    """Raise the thresholds of a model's block masks while a Trainer runs, and weigh the penalty.

    Args:
        model: with block masks.
        penalty: lambda at the end; it rises with the threshold, from 0.
        weights: a factor per kind of mask; see ``blocks.score_penalty``.
        warmup, cooldown: shares of all steps before and after the ramp. Defaults are the
            proportions of the authors' SQuAD runs.
        start: the first threshold; the last is that of the masks.

    Raises:
        ValueError: no block mask, several thresholds, or shares that leave no ramp.

    After training, and in every evaluation, the final threshold holds: what is measured is what
    compaction will make.

    Source: spec sheet Block Pruning, 4.2 and section 5.
    """

    def __init__(
        self,
        model: nn.Module,
        penalty: float | int = 10.0,
        weights: Mapping[str, float | int] | None = None,
        warmup: float | int = 0.05,
        cooldown: float | int = 0.49,
        start: float | int = 0.0,
    ) -> None:
        self.masks = [*block_masks(model).values()]
        if not self.masks:
            raise ValueError("the model has no block mask; compress it with a block_plan first")
        if warmup < 0 or cooldown < 0 or warmup + cooldown >= 1:
            raise ValueError(
                f"warm-up and cool-down are shares that leave a ramp, got {warmup}, {cooldown}"
            )
        if len(ends := {mask.threshold for mask in self.masks}) > 1:
            raise ValueError(f"a schedule leads all masks to one threshold, got {sorted(ends)}")
        kinds = dict.fromkeys((mask.kind for mask in self.masks), 1.0)
        self.factor, self.weights = penalty, kinds if weights is None else dict(weights)
        self.warmup, self.cooldown, self.start = warmup, cooldown, start
        self.threshold = start
        self.schedule: CubicThreshold | None = None

    @property
    def end(self) -> float | int:
        """The final threshold."""
        return self.masks[0].threshold

    def penalty(self) -> Tensor:
        """Return lambda(t) R: nothing while the threshold is 0."""
        return self.factor * self.threshold / self.end * score_penalty(self.masks, self.weights)

    def on_train_begin(self, args, state, control, **kwargs):
        """Learn the number of steps from the trainer."""
        shares = (round(share * state.max_steps) for share in (self.warmup, self.cooldown))
        self.schedule = CubicThreshold(state.max_steps, 1, *shares, self.start, self.end)

    def on_step_begin(self, args, state, control, **kwargs):
        """Set the threshold of this step; a resumed run goes on where it stopped."""
        self._set(self.schedule(state.global_step))

    def on_train_end(self, args, state, control, **kwargs):
        """Leave the final threshold, for whoever trains on."""
        self._set(self.end)

    def _set(self, threshold: float) -> None:
        self.threshold = threshold
        for mask in self.masks:
            mask.present = threshold


class PruneTrainer(DistillTrainer):
    """A ``DistillTrainer`` whose scores learn at a rate of their own, without weight decay.

    Args:
        score_learning_rate: scores must travel from 0 to -2.2 with steps of about this size, so at
            a weight's rate nothing is ever pruned.
        **kwargs: whatever ``DistillTrainer`` takes; ``teacher`` may be None.

    The log shows the density that each kind of mask has at the present threshold.

    Source: spec sheet Block Pruning, section 6.

    Raises:
        ValueError: the arguments ask for FSDP.
    """

    def __init__(self, *args, score_learning_rate: float | int = 1e-2, **kwargs) -> None:
        super().__init__(*args, attention=None, **kwargs)
        if self.is_fsdp_enabled:
            raise ValueError(
                "PruneTrainer looks at whole scores for its penalty and its log, and FSDP keeps "
                "them in shards; leave fsdp out of the arguments, and several processes train by "
                "DistributedDataParallel"
            )
        self.score_learning_rate = score_learning_rate

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimizer with a group of its own for the scores."""
        if self.optimizer is None:
            optimizer = super().create_optimizer(model)
            own = {id(mask.source.scores) for mask in block_masks(self.model).values()}
            scores = [p for g in optimizer.param_groups for p in g["params"] if id(p) in own]
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if id(p) not in own]
            if scores:  # none where they are fixed
                rate = {"lr": self.score_learning_rate, "weight_decay": 0.0}
                optimizer.add_param_group({"params": scores, **rate})
        return self.optimizer

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Add the densities."""
        if "loss" in logs:
            found = block_density(self.model)
            logs |= {f"density_{kind}": round(share, 4) for kind, share in found.items()}
        super().log(logs, *args, **kwargs)
