"""tqlearn for transformers models: joint model, data and metrics, the bridge, the trainer."""

from .attention import QUANTIZED, SCORES, quantize_attention
from .bridge import TqlearnConfig, TqlearnQuantizer
from .dropout import DropoutSchedule, ScheduledDropout
from .joint import (
    BertForJointIntentSlot,
    JointCollator,
    JointOutput,
    encode_joint,
    joint_config,
)
from .metrics import evaluate_joint, joint_metrics, predict_joint, trainer_metrics
from .sentences import (
    encode_sentences,
    evaluate_sentences,
    predict_sentences,
    sentence_metrics,
)
from .trainer import DistillTrainer, LayerByLayer, ScaleTrainer
from .words import word_tokenizer

__all__ = [
    "QUANTIZED",
    "SCORES",
    "BertForJointIntentSlot",
    "DistillTrainer",
    "DropoutSchedule",
    "JointCollator",
    "JointOutput",
    "LayerByLayer",
    "ScaleTrainer",
    "ScheduledDropout",
    "TqlearnConfig",
    "TqlearnQuantizer",
    "encode_joint",
    "encode_sentences",
    "evaluate_joint",
    "evaluate_sentences",
    "joint_config",
    "joint_metrics",
    "predict_joint",
    "predict_sentences",
    "quantize_attention",
    "sentence_metrics",
    "trainer_metrics",
    "word_tokenizer",
]
