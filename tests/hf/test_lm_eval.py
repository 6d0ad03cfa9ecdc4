"""lm-eval's Python API scores a student as it is: its numbers are those of a plain loop, and of
``evaluate_language`` where the page says so. Off-line: tasks from a dict and a file of JSON lines.
"""

import json
import math

import pytest
import torch

import tqlearn as tq
from tqlearn import teachers
from tqlearn.hf import evaluate_language

lm_eval = pytest.importorskip("lm_eval")
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs
WINDOW = 16
CHOICES = {
    "show me": [" flights from boston", " boston flights me"],
    "i need a": [" of to the", " flight to denver", " a a"],
}


@pytest.fixture(scope="module")
def decoder():
    return teachers.load("decoder")


@pytest.fixture(scope="module")
def student(decoder):
    plan = {"*.layers.*": [tq.LSQ(bits=4, init="mse", per=32)]}
    return tq.calibrate(tq.compress(decoder[0], plan)).eval()


@pytest.fixture(params=["student", "packed"])
def either(request, student):
    return student if request.param == "student" else tq.pack(student)


@pytest.fixture(scope="module")
def text():
    return "\n".join(tq.data.load("flight_text")["validation"]["text"][:12])


def scored(model, tokenizer, tmp_path, rows, **task):
    """Results and samples of a task over rows, by the call of the page."""
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    judge = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8, max_length=WINDOW)
    source = {"data_files": {"test": str(file)}, "cache_dir": str(tmp_path / "cache")}
    task |= {"task": "flights", "dataset_path": "json", "dataset_kwargs": source}
    found = lm_eval.simple_evaluate(
        model=judge,
        tasks=[task | {"test_split": "test"}],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
    )
    return judge, found["results"]["flights"], found["samples"]["flights"]


@torch.no_grad()
def nats(model, told, then):
    """-log p of tokens behind others, and whether each is the most likely one."""
    logits = model(torch.tensor([told + then])).logits[0, len(told) - 1 : -1].log_softmax(-1)
    taken = torch.tensor(then)
    return -float(logits.gather(1, taken[:, None]).sum()), torch.equal(logits.argmax(-1), taken)


@pytest.mark.parametrize("whole", [True, False], ids=["whole windows", "a short last one"])
def test_perplexity_is_that_of_ours(either, decoder, text, tmp_path, whole):
    """Equal, but for a short last window: lm-eval lets that one look back over ``max_length``."""
    tokenizer = decoder[1]
    ids = tokenizer(text)["input_ids"]
    count = len(ids) // WINDOW * WINDOW - (0 if whole else 12)
    text, ids = tokenizer.decode(ids[:count]), ids[:count]
    assert tokenizer(text)["input_ids"] == ids
    judge, results, _ = scored(
        either, tokenizer, tmp_path, [{"text": text}],
        output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}",
        metric_list=[{"metric": "bits_per_byte"}],
    )  # fmt: skip
    first = [judge.prefix_token_id]
    assert first == [tokenizer.bos_token_id]
    found = evaluate_language(
        either, torch.tensor(first + ids), window=WINDOW, stride=WINDOW, batch=3
    )
    ours = found["nll"] * found["tokens"]
    assert found["tokens"] == count
    if not whole:
        last = count % WINDOW
        seen = (first + ids)[: 1 + count - last]
        ours -= nats(either, seen[-1:], ids[-last:])[0]
        ours += nats(either, seen[last - 1 - WINDOW :], ids[-last:])[0]
        assert ours != pytest.approx(found["nll"] * count, rel=1e-3), "it sees more"
    theirs = results["bits_per_byte,none"] * math.log(2) * len(text.encode())
    assert theirs == pytest.approx(ours, rel=1e-5)


def test_choices_are_scored_as_by_hand(either, decoder, tmp_path):
    tokenizer = decoder[1]
    rows = [{"told": told, "choices": choices} for told, choices in CHOICES.items()]
    _, results, samples = scored(
        either, tokenizer, tmp_path, rows, output_type="multiple_choice", doc_to_text="{{told}}",
        doc_to_choice="{{choices}}", doc_to_target=0, target_delimiter="",
        metric_list=[{"metric": "acc"}],
    )  # fmt: skip
    right = 0
    for row, sample in zip(rows, sorted(samples, key=lambda one: one["doc_id"]), strict=True):
        told = tokenizer(row["told"])["input_ids"]
        pairs = []
        for choice, (resp,) in zip(row["choices"], sample["resps"], strict=True):
            whole = tokenizer(row["told"] + choice)["input_ids"]
            assert whole[: len(told)] == told
            lost, greedy = nats(either, told, whole[len(told) :])
            assert float(resp[0]) == pytest.approx(-lost, rel=1e-4) and str(resp[1]) == str(greedy)
            pairs.append(lost)
        right += pairs.index(min(pairs)) == 0
    assert results["acc,none"] == right / len(rows) == 0.5


def test_what_it_writes_is_what_generate_writes(either, decoder, tmp_path):
    tokenizer = decoder[1]
    _, _, samples = scored(
        either, tokenizer, tmp_path, [{"told": told} for told in CHOICES],
        output_type="generate_until", doc_to_text="{{told}}", doc_to_target="",
        metric_list=[{"metric": "bypass"}],
        generation_kwargs={"until": ["\n"], "do_sample": False, "max_gen_toks": 8},
    )  # fmt: skip
    for sample in samples:
        ids = tokenizer(sample["doc"]["told"], return_tensors="pt")["input_ids"]
        mask = torch.ones_like(ids)
        wrote = either.generate(
            ids, attention_mask=mask, max_new_tokens=8, do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        wanted = tokenizer.decode(wrote[0, ids.shape[1] :], skip_special_tokens=True)
        assert sample["resps"] == [[wanted.partition("\n")[0]]] and wanted.strip()
