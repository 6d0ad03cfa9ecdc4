"""tqlearn for transformers models: joint model, data, metrics, the bridge, the trainer, streams."""

from .attention import QUANTIZED, SCORES, quantize_attention
from .bleu import bleu
from .bridge import TqlearnConfig, TqlearnQuantizer
from .cache import QuantizedCache
from .causal import CausalLosses
from .delayed import QuantizeFromStep, StopAfter
from .dropout import DropoutSchedule, ScheduledDropout
from .gguf import read_gguf
from .joint import BertForJointIntentSlot, JointCollator, JointOutput, encode_joint, joint_config
from .language import evaluate_language
from .metrics import evaluate_joint, joint_metrics, predict_joint, trainer_metrics
from .pictures import encode_pictures, evaluate_pictures, predict_pictures, small_vit
from .pruning import PruneTrainer, ScoreSchedule
from .questions import (
    answer_scores,
    encode_questions,
    evaluate_questions,
    predict_answers,
    question_metrics,
)
from .sentences import encode_sentences, evaluate_sentences, predict_sentences, sentence_metrics
from .sounds import SoundCollator, encode_sounds, evaluate_sounds, predict_sounds, small_wav2vec2
from .streaming import stream
from .trainer import DistillTrainer, LayerByLayer, ScaleTrainer
from .transitions import NoNormTransition, ReLUTransition
from .translation import (
    PairCollator,
    bpe_tokenizer,
    encode_pairs,
    evaluate_translation,
    load_translator,
    save_translator,
    translate,
    translator,
)
from .words import word_tokenizer

__all__ = [
    "QUANTIZED",
    "SCORES",
    "BertForJointIntentSlot",
    "CausalLosses",
    "DistillTrainer",
    "DropoutSchedule",
    "JointCollator",
    "JointOutput",
    "LayerByLayer",
    "NoNormTransition",
    "PairCollator",
    "PruneTrainer",
    "QuantizeFromStep",
    "QuantizedCache",
    "ReLUTransition",
    "ScaleTrainer",
    "ScheduledDropout",
    "ScoreSchedule",
    "SoundCollator",
    "StopAfter",
    "TqlearnConfig",
    "TqlearnQuantizer",
    "answer_scores",
    "bleu",
    "bpe_tokenizer",
    "encode_joint",
    "encode_pairs",
    "encode_pictures",
    "encode_questions",
    "encode_sentences",
    "encode_sounds",
    "evaluate_joint",
    "evaluate_language",
    "evaluate_pictures",
    "evaluate_questions",
    "evaluate_sentences",
    "evaluate_sounds",
    "evaluate_translation",
    "joint_config",
    "joint_metrics",
    "load_translator",
    "predict_answers",
    "predict_joint",
    "predict_pictures",
    "predict_sentences",
    "predict_sounds",
    "quantize_attention",
    "question_metrics",
    "read_gguf",
    "save_translator",
    "sentence_metrics",
    "small_vit",
    "small_wav2vec2",
    "stream",
    "trainer_metrics",
    "translate",
    "translator",
    "word_tokenizer",
]
