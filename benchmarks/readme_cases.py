"""Goals and what to take: what "Which method for my case?" (docs/methods.md) says in words.

``readme_methods.py`` writes the page. No figure stands here: scores, bytes and numbers of runs are
those of the rows that a case names.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A goal and what to take.

    Args:
        title: of its part of the page.
        goal: as the table says it.
        take: in Markdown, with a link to the lesson.
        plan: an expression that ``tq.compress`` takes; ``model`` is the reader's.
        code: what stands around it, with "..." in the plan's place.
        command: without the interpreter; empty where no recipe does it.
        words: what to know, without a figure.
        row: (result, row) of what this very plan cost; None: nobody has measured it.
        beside: more of these, to compare with.
        missing: what the row leaves out, where a reader would look for it.
    """

    title: str
    goal: str
    take: str
    plan: str
    code: str
    command: str
    words: str
    row: tuple[str, str] | None = None
    beside: tuple[tuple[str, str], ...] = ()
    missing: str = ""


def lesson(stem: str) -> str:
    return f"lesson [{stem[:2]}](../notebooks/{stem}.ipynb)"


TRAINED = """import tqlearn as tq
from tqlearn.recipes import {recipe}

plan = ...
student = tq.calibrate(tq.compress(model, plan), batches)  # then the lessons: the command"""
UNTRAINED = """import tqlearn as tq

plan = ...
student = tq.calibrate(tq.compress(model, plan)){more}
tq.pack(student)  # and save_pretrained, where it is a model of transformers"""
DEEP = "12_deep_compression"
CASES = (
    Case(
        "A small file",
        "a small file",
        f"4-bit weights and words, 8-bit inputs, distilled: {lesson('11_kdlsq_bert')}",
        'kdlsq_bert.plan(model, "4-4-8")',
        TRAINED.format(recipe="kdlsq_bert"),
        "kdlsq_bert --bits 4-4-8 --output_dir runs/small",
        "The numbers stay as many as they were, each takes fewer bits. The recipe also rounds what "
        "enters the products inside attention.",
        ("kdlsq_sst2", "KDLSQ 4-4-8"),
        (
            ("kdlsq_sst2", "KDLSQ 8-8-8"),
            ("kdlsq_sst2", "KDLSQ 3-3-8"),
            ("kdlsq_sst2", "KDLSQ 2-2-8, phrases"),
            ("kdlsq_atis", "KDLSQ 4-4-8"),
            ("kdlsq_squad", "KDLSQ 4-4-8"),
        ),
    ),
    Case(
        "The smallest file",
        "the smallest file that still works",
        f"tensor trains, 4-bit cores, distilled: {lesson('09_compressed_bert')}",
        "qtc.plan(model.config.hidden_size, qtc.QTCArguments(rest_bits=8))",
        TRAINED.format(recipe="qtc").replace(", batches)", ")"),
        "qtc --rest_bits 8 --output_dir runs/smallest",
        "Fewer numbers and fewer bits. The recipe also fits the word table to the words of your "
        "data. Lay a low-rank pair of the same size beside every train or product: it is the "
        "plainer model, and in the rows below the better one: by far beside one product, by less "
        "than a point beside trains. [At equal bytes](#at-equal-bytes) and four bits neither "
        "trains nor pairs beat a dense model of few bits. The second row is trained from scratch, "
        "for more than three times the epochs that its dense model had: its higher intents are no "
        "gain.",
        ("qtc_atis", "QTC student, 4-bit cores"),
        (
            ("qtc_atis_scratch", "TT/TTM 4-bit cores"),
            ("kronecker_bert_sst2", "KroneckerBERT KB21"),
            ("train_or_pair", "rank 16: trains, taught"),
            ("train_or_pair", "rank 16: pairs, taught"),
            ("kronecker_or_pair", "one product, taught"),
            ("kronecker_or_pair", "pair, taught"),
        ),
    ),
    Case(
        "Less RAM",
        "less RAM while it runs",
        f"4-bit codes that stay codes in memory: {lesson('04_learned_step_quantization')}",
        '{"*.word_embeddings": [tq.LSQ(bits=4)], "*.encoder.*": [tq.LSQ(bits=4)]}',
        UNTRAINED.format(more=""),
        "",
        "A packed model holds codes and decodes a layer whenever it is used, which costs time; in "
        "a file for [onnxruntime](export.md) they stay codes, and do not. Memory, bytes and speed "
        "under plans near to this one are measured for BERT-base ([other engines](export.md)) and "
        "SmolLM2 ([language models](language_models.md)); of this very plan:",
    ),
    Case(
        "Faster on a CPU",
        "speed on a CPU",
        f"prune heads and dimensions, take them out: {lesson('07_block_pruning')}",
        'block_pruning.plan(model, "hybrid")',
        "import tqlearn as tq\nfrom tqlearn.recipes import block_pruning\n\nplan = ...\n"
        "student = tq.compress(model, plan)  # train its scores: the command\n"
        "small = tq.compact(student)",
        "block_pruning --penalty 10 --filled_epochs 4 --output_dir runs/fast",
        "What is left is a smaller dense model, so any engine is faster. The penalty depends on "
        "model and steps: try several. Rows without a score are times of random models in "
        "BERT-base's shape (sentences x tokens), PyTorch's own 8-bit products among them. Which "
        "models can be pruned: [add your architecture](add_your_architecture.md).",
        ("block_pruning_sst2", "filled, lambda 10"),
        (
            ("block_pruning_sst2", "filled, lambda 20"),
            ("block_pruning_atis", "filled, lambda 10"),
            ("block_pruning_squad_long", "filled, lambda 47"),
            ("latency", "compacted, 1 x 128, 1 threads"),
            ("latency", "tensor trains, 1 x 128, 1 threads"),
            ("latency", "Kronecker, 1 x 128, 1 threads"),
            ("latency", "torch int8, 1 x 128, 1 threads"),
        ),
    ),
    Case(
        "Faster on a GPU",
        "speed on a GPU",
        f"two of four weights zero, for kernels that skip them: {lesson('06_two_four_sparsity')}",
        '{"*.encoder.*": [tq.TwoFour()]}',
        "import tqlearn as tq\n\nplan = ...\n"
        "student = tq.compress(model, plan)  # then train it: the command",
        "deep_compression --phases prune --output_dir runs/half",
        "Our layers gain no time from the zeros: an engine has to, and we have timed none on a "
        "GPU. A model with heads and dimensions taken out (speed on a CPU) is smaller for every "
        "engine. The rows of flights learned from the dense model's answers, the dense row too; "
        "the command learns from labels.",
        ("two_four_training", "2:4, fixed, 300 steps"),
        (
            ("two_four_training", "dense, 300 steps"),
            ("deep_compression_bert_sst2", "W4A4 2:4"),
        ),
        "speed on a GPU",
    ),
    Case(
        "No labels",
        "no labels, but sentences",
        f"as for a small file, from the teacher's answers alone: {lesson('08_distillation')}",
        'kdlsq_bert.plan(model, "4-4-8")',
        TRAINED.format(recipe="kdlsq_bert"),
        "kdlsq_bert --bits 4-4-8 --ground_truth False --output_dir runs/unlabelled",
        "The teacher labels what you have. The rows of flights are at 2 bits.",
        ("kdlsq_sst2", "KDLSQ 4-4-8, no ground truth"),
        (
            ("kdlsq_sst2", "KDLSQ 2-2-8, no ground truth"),
            ("kdlsq_atis", "KDLSQ 4-4-8, no ground truth"),
            ("kdlsq_flights", "teacher alone"),
            ("kdlsq_flights", "teacher and labels"),
            ("kdlsq_flights", "labels alone"),
        ),
    ),
    Case(
        "No training data",
        "no data at all",
        f"4 bits, rounded to the nearest: {lesson('04_learned_step_quantization')}",
        '{"*.encoder.*": [tq.LSQ(bits=4, init="mse")]}',
        UNTRAINED.format(more=""),
        "",
        "The scales are fitted to the weights, and nothing else is looked at. Nothing is drawn by "
        "chance, so there is one run.",
        ("compensation", "4 bits per tensor, to nearest"),
        (
            ("compensation", "3 bits per channel, to nearest"),
            ("compensation", "2 bits per channel, to nearest"),
            ("compensation", "2:4, to nearest"),
        ),
    ),
    Case(
        "No training",
        "no training, but some sentences",
        f"3 bits, errors made up for (GPTQ): {lesson('06_two_four_sparsity')}, [names](names.md)",
        '{"*.encoder.*": [tq.LSQ(bits=3, init="mse", per="channel")]}',
        UNTRAINED.format(more="\ntq.compensate(student, batches)  # sentences, without labels"),
        "",
        "Compare with the row rounded to the nearest beside it: that one asks for nothing. The "
        "same line of code makes up for weights set to zero (SparseGPT).",
        ("compensation", "3 bits per channel, compensated"),
        (
            ("compensation", "3 bits per channel, to nearest"),
            ("compensation", "2 bits per 32, to nearest"),
            ("compensation", "2 bits per 32, compensated"),
            ("compensation", "2:4, to nearest"),
            ("compensation", "2:4, compensated"),
        ),
    ),
    Case(
        "A language model",
        "a decoder, a language model",
        "4 bits in groups of 64, no training: [language models](language_models.md)",
        '{"*.layers.*": [tq.LSQ(bits=4, init="mse", per=64)]}',
        "import tqlearn as tq\n\nplan = ...\n"
        "student = tq.calibrate(tq.compress(model, plan))\n"
        'tq.export(student, "runs/plain", target="compressed-tensors")',
        "",
        "Decoders compress, save and load like all others: [which models](architectures.md). Their "
        "layers are mostly called `layers`; in GPT-2 it is `*.h.*`. How to get one and to measure "
        "it: [language models](language_models.md). The table of words, a fifth of this small "
        "model, stays in floats here. Per 64, what looks at text loses less than rounding to "
        "nearest, in equal bytes; per 32, the blocks of the file that this model comes from, GPTQ "
        "alone loses more. New scales for the inputs and the largest columns first (`tq.rescale`, "
        "`by_size=True`) come as far as GPTQ on a turned model, in the smaller file. (A turned "
        "model's output layer is no longer its table of words: its file holds both.)",
        ("smollm2", "4 bits per 64"),
        (
            ("smollm2", "GPTQ, 4 bits per 64"),
            ("smollm2", "AWQ, 4 bits per 64"),
            ("smollm2", "rotated GPTQ, 4 bits per 64"),
            ("smollm2", "rescaled GPTQ by size, 4 bits per 64"),
            ("smollm2", "4 bits per 32"),
            ("smollm2", "GPTQ, 4 bits per 32"),
        ),
    ),
    Case(
        "Translation",
        "translation",
        f"every tensor at 8 bits: {lesson('13_fully_quantized_translation')}",
        "fullyqt.plan(8)",
        TRAINED.format(recipe="fullyqt"),
        "fullyqt --bits 8 --output_dir runs/translator",
        "For this library's own small Transformer, whose every tensor has a name. "
        "`--post_training` calibrates a float run and trains nothing.",
        ("fullyqt_multi30k", "FullyQT 8"),
        (
            ("fullyqt_multi30k", "post-training 8"),
            ("fullyqt_multi30k", "post-training 6"),
            ("fullyqt_multi30k", "FullyQT 4"),
        ),
    ),
    Case(
        "Pictures",
        "pictures",
        f"2:4, then 4-bit weights and inputs: {lesson(DEEP)}",
        'deep_compression.plan_for(model, {"prune", "quantize"})',
        TRAINED.format(recipe="deep_compression"),
        "deep_compression --data digits --phases dense prune quantize --learning_rate 1e-3 "
        "--num_train_epochs 18 --output_dir runs/pictures",
        "A small ViT trained here from scratch, no pre-trained one.",
        ("deep_compression_vit_cifar10", "W4A4 2:4"),
        (
            ("deep_compression_vit_cifar10", "W4A4 2:4, longer quantized"),
            ("deep_compression_vit_cifar10", "W4A4 2:4, both"),
        ),
    ),
    Case(
        "Speech",
        "speech",
        f"2:4, then 4-bit weights and inputs: {lesson(DEEP)}",
        'deep_compression.plan_for(model, {"prune", "quantize"})',
        TRAINED.format(recipe="deep_compression"),
        "deep_compression --data tones --phases dense prune quantize --shares 3 1 1 "
        "--hidden_size 64 --num_layers 2 --learning_rate 2e-3 --warmup_steps 0.1 "
        "--num_train_epochs 15 --output_dir runs/sounds",
        "A small Wav2Vec2 trained here from scratch, no pre-trained one.",
        ("deep_compression_wav2vec2_fsdd", "W4A4 2:4"),
    ),
)
