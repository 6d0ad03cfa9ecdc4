"""tqlearn for transformers models: the joint model, its data and metrics, the bridge, the trainer."""

from .joint import (
    BertForJointIntentSlot,
    JointCollator,
    JointOutput,
    encode_joint,
    joint_config,
)
from .metrics import evaluate_joint, joint_metrics, predict_joint, trainer_metrics
from .words import word_tokenizer

__all__ = [
    "BertForJointIntentSlot",
    "JointCollator",
    "JointOutput",
    "encode_joint",
    "evaluate_joint",
    "joint_config",
    "joint_metrics",
    "predict_joint",
    "trainer_metrics",
    "word_tokenizer",
]
