"""tqlearn for transformers models: joint model, data and metrics, the bridge, the trainer."""

from .bridge import TqlearnConfig, TqlearnQuantizer
from .joint import (
    BertForJointIntentSlot,
    JointCollator,
    JointOutput,
    encode_joint,
    joint_config,
)
from .metrics import evaluate_joint, joint_metrics, predict_joint, trainer_metrics
from .trainer import DistillTrainer, LayerByLayer, ScaleTrainer
from .words import word_tokenizer

__all__ = [
    "BertForJointIntentSlot",
    "DistillTrainer",
    "JointCollator",
    "JointOutput",
    "LayerByLayer",
    "ScaleTrainer",
    "TqlearnConfig",
    "TqlearnQuantizer",
    "encode_joint",
    "evaluate_joint",
    "joint_config",
    "joint_metrics",
    "predict_joint",
    "trainer_metrics",
    "word_tokenizer",
]
