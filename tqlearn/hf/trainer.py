"""Distillation on ``transformers.Trainer``: a teacher, named losses, a schedule as a callback."""

from collections.abc import Callable
from contextlib import ExitStack, nullcontext

import torch
from accelerate.utils import convert_to_fp32
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from ..arguments import require
from ..distill import LayerSchedule
from ..quantizers.grid import require_calibrated
from ..quantizers.inputs import PLACES
from ..quantizers.ranges import Uniform
from ..stages import is_quantizer
from .attention import attention_of

Losses = Callable[..., dict[str, Tensor]]


class LayerByLayer(TrainerCallback):
    """Keep the layer-by-layer schedule in step with a Trainer, its learning rate included.

    Args:
        layers: depth of teacher and student.
        steps_per_stage: optimizer steps per layer; None for the released rule, half of training.
        final_learning_rate: what the peak learning rate becomes in the joint stage; None keeps it.

    ``stage`` and ``joint`` say where training is; give the callback to the losses.

    Source: spec sheet QTC, 5.2.
    """

    def __init__(
        self,
        layers: int,
        steps_per_stage: int | None = None,
        final_learning_rate: float | None = None,
    ) -> None:
        require("LayerByLayer: layers", layers, int)
        require("LayerByLayer: steps_per_stage", steps_per_stage, int | None)
        self.layers, self.steps_per_stage = layers, steps_per_stage
        self.final_learning_rate = final_learning_rate
        self.schedule: LayerSchedule | None = None
        self.step = 0
        self._rates: list[float] = []

    @property
    def stage(self) -> int:
        """Return the present stage, 1 to layers + 1."""
        if self.schedule is None:
            raise ValueError("the schedule starts with the training; pass it to the trainer first")
        return self.schedule.stage(self.step)

    @property
    def joint(self) -> bool:
        """Say whether the task's losses take part."""
        return self.stage == self.layers + 1

    def on_train_begin(self, args, state, control, **kwargs):
        """Learn the number of steps from the trainer."""
        self.schedule = LayerSchedule(self.layers, state.max_steps, self.steps_per_stage)

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        """Move to the stage of this step; in the joint stage bring the learning rate down."""
        self.step = state.global_step
        if self.joint and self.final_learning_rate is not None:
            self._rates = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                if not group.get("scales", False):
                    group["lr"] *= self.final_learning_rate / args.learning_rate

    def on_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        """Give the scheduler back the rates it set, so that nothing multiplies up."""
        for group, rate in zip(optimizer.param_groups, self._rates, strict=False):
            group["lr"] = rate
        self._rates = []


class ScaleTrainer(Trainer):
    """A Trainer for quantization-aware training: scales learn at a rate of their own.

    Args:
        scale_learning_rate: for the scales of weights' quantizers, which get no weight decay. At 8
            bits a scale moves by several percent in one step of the cores' 1e-3 and training
            collapses (spec sheet QTC, section 7), so theirs is small.
        input_learning_rate: for the scales of activations' quantizers; None for the same.

    Raises:
        ValueError: a quantizer has no scale yet.
    """

    def __init__(
        self,
        *args,
        scale_learning_rate: float = 1e-5,
        input_learning_rate: float | None = None,
        **kwargs,
    ) -> None:
        require("scale_learning_rate", scale_learning_rate, float)
        require("input_learning_rate", input_learning_rate, float | None)
        super().__init__(*args, **kwargs)
        require_calibrated(self.model)
        for module in self.model.modules():
            if isinstance(module, Uniform) and module.together is None:
                module.together = True  # ranges see the batches of all processes
        self.scale_learning_rate = scale_learning_rate
        self.input_learning_rate = input_learning_rate

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimizer with a group of its own for the scales."""
        if self.optimizer is None:
            inputs = self.input_learning_rate
            self.optimizer = optimizer_with_scales(
                self.model if model is None else model,
                self,
                self.scale_learning_rate,
                self.scale_learning_rate if inputs is None else inputs,
            )
        return self.optimizer


class DistillTrainer(ScaleTrainer):
    """A Trainer whose loss compares the student with a teacher.

    Args:
        teacher: any model that takes the same batches; it is put into eval mode and never trained.
            None for losses that need none: they get None for its output.
        losses: called as losses(student_output, teacher_output, inputs), both with hidden states
            and attention maps; returns named terms, whose sum is the loss. Each is logged by name.
            Losses with a method ``watch(student, teacher)`` are a context around both calls;
            ``CausalLosses`` computes the logits of decoders in pieces that way.
        attention: what the maps hold: "eager", probabilities; ``attention.SCORES``, the scores
            before the softmax; None: the losses need neither maps nor hidden states, and any kind
            of attention will do.
        **kwargs: whatever ``ScaleTrainer`` and ``Trainer`` take.

    Evaluation and prediction use the student alone.
    """

    def __init__(
        self,
        *args,
        teacher: nn.Module | None,
        losses: Losses,
        attention: str | None = "eager",
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.attention = attention
        self.teacher = None if teacher is None else teacher.eval().to(self.args.device)
        self.losses = losses
        self.loss_is_scaled_for_ga = False
        self._terms: dict[str, Tensor] = {}
        self._terms_count = 0

    def train(self, *args, **kwargs):
        """Train with a kind of attention that returns maps; put the old kind back."""
        wanted = () if self.attention is None else (self.teacher, self.model)
        models = [model for model in wanted if model is not None]
        with ExitStack() as kinds:
            for model in models:
                kinds.enter_context(attention_of(model, self.attention))
            return super().train(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the sum of the losses in training, the task's loss in evaluation."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        names = ("output_hidden_states", "output_attentions")
        extra = {} if self.attention is None else dict.fromkeys(names, True)
        watch = getattr(self.losses, "watch", None)
        with nullcontext() if watch is None else watch(self.model, self.teacher):
            taught = None if self.teacher is None else self._lesson(inputs | extra)
            output = model(**inputs, **extra)
        terms = self.losses(output, taught, inputs)
        for name, term in terms.items():
            self._terms[name] = self._terms.get(name, 0) + term.detach()
        self._terms_count += 1
        total = torch.stack(list(terms.values())).sum()
        return (total, output) if return_outputs else total

    @torch.no_grad()
    def _lesson(self, inputs):
        """What the teacher says: like the student's, in the precision of training, then FP32."""
        with self.accelerator.autocast():
            output = self.teacher(**inputs)
        return output if self.accelerator.mixed_precision == "no" else convert_to_fp32(output)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Add the mean of every loss term since the last log."""
        if "loss" in logs and self._terms_count:
            logs |= {n: round(float(t) / self._terms_count, 4) for n, t in self._terms.items()}
            self._terms, self._terms_count = {}, 0
        super().log(logs, *args, **kwargs)


def optimizer_with_scales(
    model: nn.Module,
    trainer: Trainer,
    scale_learning_rate: float,
    input_learning_rate: float,
) -> torch.optim.Optimizer:
    """Return the trainer's optimizer over four groups: decayed, not decayed, and two of scales."""
    decayed = set(trainer.get_decay_parameter_names(model))
    kinds = {}  # scales, clips, offsets of quantizers: these, not a norm's "scale"
    for name, module in model.named_modules():
        if is_quantizer(module):
            kind = "inputs" if set(PLACES) & set(name.split(".")) else "weights"
            kinds |= dict.fromkeys(map(id, module.parameters()), kind)
    groups: dict[str, list] = {"decayed": [], "plain": [], "weights": [], "inputs": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = "decayed" if name in decayed else "plain"
            groups[kinds.get(id(parameter), kind)].append(parameter)
    cls, kwargs = trainer.get_optimizer_cls_and_kwargs(trainer.args, model)
    rates = {"weights": scale_learning_rate, "inputs": input_learning_rate}
    settings = [
        {"params": groups["decayed"], "weight_decay": trainer.args.weight_decay},
        {"params": groups["plain"], "weight_decay": 0.0},
        *(
            {"params": groups[kind], "weight_decay": 0.0, "lr": rate, "scales": True}
            for kind, rate in rates.items()
        ),
    ]
    optimizer = cls([s for s in settings if s["params"]], **kwargs)
    optimizer.register_load_state_dict_post_hook(as_elements)
    return optimizer


def as_elements(optimizer: torch.optim.Optimizer) -> None:
    """Give moments of scales one element where a checkpoint is older and has scalars, in place."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            older = isinstance(value, Tensor) and value.dim() == 0 and name != "step"
            if older and parameter.shape == (1,):
                state[name] = value[None]
