"""LayerNorm to NoNorm and GELU to ReLU, step by step while a Trainer runs."""

from abc import ABC, abstractmethod

from torch import nn
from transformers import TrainerCallback

from ..sparsity.anatomy import transformer_layers
from ..sparsity.transitions import FadingNorm, FadingReLU
from ..storage.layout import attach_layout

ACTIVATIONS = "hidden_act", "activation", "activation_function", "hidden_activation"


class Transition(TrainerCallback, ABC):
    """Base of both: modules of a model that fade over ``steps`` steps and are replaced at the end.

    Make it before the trainer: it changes ``model`` in place, with the parameters it has. Training
    that ends before ``steps`` leaves the modules on their way, to go on later.

    Raises:
        ValueError: at the start of training, when it is shorter than ``steps``.
    """

    def __init__(self, model: nn.Module, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"a transition takes at least one step, got {steps}")
        self.model, self.steps = model, steps
        self.names = self.begin()
        attach_layout(model)

    @abstractmethod
    def begin(self) -> list[str]:
        """Put the fading modules in; return their names."""

    @abstractmethod
    def finish(self, module: nn.Module) -> nn.Module:
        """Return what a faded module becomes."""

    def on_train_begin(self, args, state, control, **kwargs):
        """Refuse a training that is over before the transition is."""
        if state.max_steps < self.steps:
            raise ValueError(
                f"the transition takes {self.steps} steps, the training has {state.max_steps}; "
                "shorten the one or lengthen the other"
            )

    def on_step_begin(self, args, state, control, **kwargs):
        """Move on: mix from 1 to 0, the decay of running statistics from 0.99 to 1."""
        way = min(state.global_step / self.steps, 1.0)
        for name in self.names:
            module = self.model.get_submodule(name)
            module.mix.fill_(1 - way)
            if hasattr(module, "decay"):
                module.decay = 0.99 + 0.01 * way

    def on_train_end(self, args, state, control, **kwargs):
        """Replace the modules by what they have become."""
        if state.global_step < self.steps:
            return
        for name in self.names:
            self.model.set_submodule(name, self.finish(self.model.get_submodule(name)))
        self.names = []
        self.done()
        attach_layout(self.model)

    def done(self) -> None:
        """Say in the config what has changed, if it has a word for it."""


class NoNormTransition(Transition):
    """Turn the LayerNorms of an encoder's layers into affine maps without statistics.

    Raises:
        ValueError: the layers have none.

    Source: spec sheet Block Pruning, section 9; the authors take 50,000 steps.
    """

    def begin(self) -> list[str]:
        """Replace every LayerNorm inside a layer; those of embeddings and heads stay."""
        inside = tuple(f"{layer.name}." for layer in transformer_layers(self.model))
        found = [
            name
            for name, module in self.model.named_modules()
            if isinstance(module, nn.LayerNorm) and name.startswith(inside)
        ]
        if not found:
            raise ValueError(
                f"the layers of {type(self.model).__name__} have no LayerNorm that could fade"
            )
        for name in found:
            self.model.set_submodule(name, FadingNorm.of(self.model.get_submodule(name)))
        return found

    def finish(self, module: nn.Module) -> nn.Module:
        """Return the affine map."""
        return module.freeze()


class ReLUTransition(Transition):
    """Turn the GELUs of an encoder's FFNs into ReLUs; the config says so at the end.

    Raises:
        ValueError: the model's activation is not GELU, or its config does not name one.

    Source: spec sheet Block Pruning, section 9.
    """

    def begin(self) -> list[str]:
        """Replace every activation."""
        config = self.model.config
        self.key = next((key for key in ACTIVATIONS if hasattr(config, key)), None)
        if self.key is None:
            raise ValueError(
                f"the config of {type(self.model).__name__} names no activation under "
                f"{', '.join(ACTIVATIONS)}; the transition could not say there what it has become"
            )
        if getattr(config, self.key) != "gelu":
            raise ValueError(f"the transition starts from 'gelu', not {getattr(config, self.key)}")
        layers = transformer_layers(self.model)
        names = [layer.activation for layer in layers if layer.activation]
        for name in names:
            like = next(self.model.parameters())
            self.model.set_submodule(name, FadingReLU().to(like).train(self.model.training))
        return names

    def finish(self, module: nn.Module) -> nn.Module:
        """Return a ReLU."""
        return nn.ReLU()

    def done(self) -> None:
        """Name the new activation."""
        setattr(self.model.config, self.key, "relu")
