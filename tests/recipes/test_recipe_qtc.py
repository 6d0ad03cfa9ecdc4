"""The QTC recipe as a command: its plan to the unit, a kill and a resume, two processes."""

import json
import multiprocessing
import os
import signal
import subprocess
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    DefaultFlowCallback,
)
from warm import FRESH

import tqlearn as tq
from tqlearn.distill import soft_labels
from tqlearn.hf import BertForJointIntentSlot, joint_config, words
from tqlearn.recipes import qtc

OPTIONS = [
    *("--max_steps", "8", "--save_strategy", "steps", "--save_steps", "3"),
    *("--eval_strategy", "no", "--load_best_model_at_end", "False"),
    *("--logging_strategy", "steps", "--logging_steps", "1"),
    *("--per_device_train_batch_size", "16", "--disable_tqdm", "True", "--use_cpu", "True"),
]


def labels(n):
    return [*(f"l{i}" for i in range(n - 1)), "UNK"]


def test_configuration_t_to_the_unit():
    """Dense 16,479,119; the plan's cores, the last table rank clipped from 30 to 24 (spec 2.1)."""
    with torch.device("meta"):
        dense = BertForJointIntentSlot(joint_config(labels(22), labels(121)))
    assert sum(p.numel() for p in dense.parameters()) == 16_479_119
    shown = tq.preview(dense, qtc.plan(768, qtc.QTCArguments(bits=32)))
    whole = 16_479_119 - shown.before + shown.after
    table = [row["after"] for row in shown.rows if "word" in row["name"]]
    unclipped = tq.shapes.ttm_parameters((8, 5, 5, 4, 8), (4, 4, 4, 4, 3), (1, 30, 30, 30, 30, 1))
    assert unclipped == 52_080 and whole - table[0] + unclipped == 748_415


def test_configuration_t_is_that_of_atis(data_folder):
    """Its words and labels give the 16,479,119 numbers; two students' sizes, spec sheet 2.1."""
    dd = tq.data.load("atis", "local", data_folder)
    intents, slots = tq.data.labels(dd)
    dense = BertForJointIntentSlot(joint_config(intents, slots))
    assert (len(intents), len(slots)) == (22, 121)
    assert len(words.word_tokenizer(dd)) <= dense.config.vocab_size == 800
    assert sum(p.numel() for p in dense.parameters()) == 16_479_119
    ratios = []
    for bits in (32, 4):
        plan = qtc.plan(768, qtc.QTCArguments(bits=bits), init="random")
        student = tq.calibrate(tq.compress(dense, plan))
        ratios.append(tq.report(student, reference=dense).summary()["ratio"]["nominal"])
    assert 21 < ratios[0] < 23 and 29 < ratios[1] < 30


@pytest.mark.parametrize(
    ("kind", "count"),
    [(BertForSequenceClassification, 4_524_339), (BertForQuestionAnswering, 4_475_570)],
)
def test_configuration_a4_to_the_unit(kind, count):
    """BERT-base with three classes, spec sheet 6.2; an answerer has no pooler and two outputs."""
    with torch.device("meta"):
        dense = kind(BertConfig(num_labels=3 if "Sequence" in kind.__name__ else 2))
    plan = qtc.plan(768, qtc.QTCArguments(shapes="A4", bits=32), kind=kind.__name__)
    shown = tq.preview(dense, plan)
    assert sum(p.numel() for p in dense.parameters()) - shown.before + shown.after == count
    assert 4_524_339 - 4_475_570 == 47_232 + 768 + 769  # its train, its bias, a row of the head


def test_losses_of_a_classifier_are_those_of_its_logits():
    """The hidden states alone until the joint stage; then the task's loss and one soft term."""
    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=16, attn_implementation="eager")  # fmt: skip
    teacher, student = (BertForSequenceClassification(config).eval() for _ in range(2))
    inputs = {"input_ids": torch.arange(12).reshape(3, 4), "labels": torch.tensor([0, 1, 0])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    said = [m(**inputs, output_hidden_states=True, output_attentions=True)
            for m in (student, teacher)]  # fmt: skip
    early, joint = (qtc.losses(SimpleNamespace(stage=s, joint=s == 2))(*said, inputs)
                    for s in (1, 2))  # fmt: skip
    assert [*early] == ["layers"] and [*joint] == ["layers", "task", "soft_classes"]
    soft = soft_labels(said[0].logits, said[1].logits)
    assert joint["task"] == said[0].loss and joint["soft_classes"] == soft > 0


def test_the_control_keeps_all_weights():
    teacher = BertForJointIntentSlot(joint_config(labels(3), labels(4)))
    student = qtc.student_of(teacher, None, qtc.QTCArguments(dense=True))
    assert student is not teacher and str(student) == str(teacher)


def test_plan_options():
    with pytest.raises(ValueError, match=r"shapes for widths \[128, 384, 768\], not 100"):
        qtc.plan(100, qtc.QTCArguments())
    with pytest.raises(ValueError, match=r"\[128, 384, 768\], not A4 for 384; add a line"):
        qtc.plan(384, qtc.QTCArguments(shapes="A4"))
    with pytest.raises(ValueError, match=r"not BertModel; python -m tqlearn.recipes.finetune"):
        qtc.plan(768, qtc.QTCArguments(), kind="BertModel")
    plan = qtc.plan(384, qtc.QTCArguments(bits=8, rest_bits=8, rank=20, embedding_rank=10))
    assert plan["*.attention.*"][0].rank == (1, 16, 20, 16, 1)
    assert plan["*.word_embeddings"] == [tq.TTM(10, (16, 20, 10, 10), (4, 4, 4, 6)), tq.LSQ(8)]
    assert plan["*_classifier"] == [tq.LSQ(8)]
    assert qtc.plan(384, qtc.QTCArguments(bits=32))["*.attention.*"][1:] == []


def history(folder):
    newest = max(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    state = json.loads((newest / "trainer_state.json").read_text())
    return {e["step"]: e["loss"] for e in state["log_history"] if "loss" in e}


def killed_at(step, command):
    """Run the recipe, and die without a word after so many steps."""

    def die(self, args, state, control, **kwargs):
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    DefaultFlowCallback.on_step_begin = die
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # torch: "Invalid thread pool!" on its threads
    qtc.main(command)


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_loss(tmp_path, few_rows):
    """SIGKILL in the middle, then the same command: same losses, same weights, to 1e-6."""
    torch.set_num_threads(1)  # a forked process has none of OpenMP's threads
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = [*OPTIONS, "--embedding_rank", "4"]  # a table that takes a moment to fit
    command = [*options, "--output_dir", str(killed), "--resume_from_checkpoint", "last"]
    first = multiprocessing.get_context("fork").Process(target=killed_at, args=(5, command))
    first.start()
    first.join()
    assert first.exitcode == -signal.SIGKILL
    assert (killed / "checkpoint-3").exists() and not (killed / "metrics.json").exists()
    qtc.main(command)
    qtc.main([*options, "--output_dir", str(whole)])
    one, two = history(whole), history(killed)
    assert one.keys() == two.keys() == set(range(1, 9))
    assert max(abs(one[step] - two[step]) for step in one) < 1e-6
    a, b = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    assert all(torch.allclose(a[k].float(), b[k].float(), atol=1e-6) for k in a)
    record = json.loads((killed / "metrics.json").read_text())
    assert record["steps"] == 8 and record["ratio"]["file"] > 8
    again, _ = tq.teachers.load(str(killed))
    assert isinstance(again.bert.embeddings.word_embeddings, tq.factors.TTMEmbedding)


def as_atis(folder, rows):
    """Write a few joint rows as the files of ATIS; return the options that read them."""
    for split in ("train", "valid", "test"):
        (folder / "atis" / split).mkdir(parents=True)
        for file, column in (("seq.in", "tokens"), ("seq.out", "slots"), ("label", "intent")):
            lines = [row if isinstance(row, str) else " ".join(row) for row in rows[column]]
            (folder / "atis" / split / file).write_text("\n".join(lines) + "\n")
    return ["--data", "atis", "--source", "local", "--folder", str(folder)]


@pytest.mark.slow
def test_two_processes_under_accelerate(tmp_path):
    """The same command under ``accelerate launch``, two CPU processes, half the batch each."""
    launch = [*FRESH, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launch += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    launch += ["--dynamo_backend", "no", "--main_process_port", "0", "-m", "tqlearn.recipes.qtc"]
    rows = as_atis(tmp_path / "data", tq.data.flights.generate({"train": 32})["train"])
    done = subprocess.run(
        [*launch, *OPTIONS, *rows, "--output_dir", str(tmp_path), "--max_steps", "2"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["steps"] == 2 and record["processes"] == 2
