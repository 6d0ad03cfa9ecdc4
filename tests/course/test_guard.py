"""Answers that patch what judges them, hang, exit or lie: FAIL, and the next check is unharmed."""

import builtins
import inspect
import signal
import sys
import threading
import time
import types
from functools import partial

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tqlearn.lab import check as checking
from tqlearn.lab import exercises
from tqlearn.lab.check import check
from tqlearn.lab.exercises import base, compare, guard, judge, plans

ID = "00.2"
RIGHT = exercises.find(ID).answer
CHEAP = exercises.find("03.4")  # its check looks at gradients and costs, too
SHORT = 0.3


def wrong(packed, count):
    return torch.zeros(count, dtype=torch.int16)


@pytest.fixture(autouse=True)
def _the_next_check_is_unharmed():
    names = vars(torch).copy(), vars(torch.Tensor).copy(), vars(builtins).copy()
    # whoever starts the tests in the background has it ignored, and nbclient ends with the default
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    alarm, trace = signal.getsignal(signal.SIGALRM), sys.gettrace()
    yield
    assert check(ID, RIGHT).passed and check("03.4", CHEAP.answer).passed
    assert check(ID, wrong).line.startswith("FAIL 00.2 case 1 of 3: values are off by up to")
    for owner, before in zip((torch, torch.Tensor, builtins), names, strict=True):
        changed = {name for name, value in before.items() if vars(owner)[name] is not value}
        assert changed <= guard.LEFT_ALONE
    assert (
        signal.getsignal(signal.SIGALRM) is alarm and signal.getitimer(signal.ITIMER_REAL)[0] == 0
    )
    assert signal.signal(signal.SIGINT, interrupt) is signal.default_int_handler
    assert sys.gettrace() is trace
    assert torch.get_default_dtype() is torch.float32 and torch.is_grad_enabled()


def yes(*arguments, **options):
    return True


def patches_allclose():
    torch.allclose = yes


def patches_a_method():
    torch.Tensor.__eq__ = yes


def hides_an_inherited_method():
    torch.Tensor.equal = yes


def patches_testing():
    torch.testing.assert_close = yes


def patches_builtins():
    builtins.isinstance = builtins.all = yes


def patches_past_the_seal():
    vars(checking)["exercises"] = vars(judge)["difference"] = types.SimpleNamespace()


def patches_code():
    difference = inspect.unwrap(compare.difference)  # in tests, shape checks are around it
    difference.__code__ = (lambda mine, other, rtol, atol: None).__code__


def patches_a_class():
    base.Exercise.seen = lambda *arguments: 0


def patches_the_exercise():
    object.__setattr__(exercises.find(ID), "answer", wrong)


class Yes(TorchFunctionMode):
    def __torch_function__(self, function, kinds, arguments=(), options=None):
        return True


class Zero(TorchDispatchMode):
    def __torch_dispatch__(self, function, kinds, arguments=(), options=None):
        return torch.tensor(0)


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (patches_allclose, "torch.allclose"),
        (patches_a_method, "torch.Tensor.__eq__"),
        (hides_an_inherited_method, "torch.Tensor.equal"),
        (patches_testing, "torch.testing.assert_close"),
        (patches_builtins, "builtins."),
        (patches_past_the_seal, "tqlearn.lab.exercises.judge.difference"),
        (patches_code, "tqlearn.lab.exercises.compare.difference.__code__"),
        (patches_a_class, "tqlearn.lab.exercises.base.Exercise.seen"),
        (patches_the_exercise, "Exercise 00.2.answer"),
        (lambda: Yes().__enter__(), "all of torch's functions by a mode"),
        (lambda: Zero().__enter__(), "all of torch's functions by a mode"),
    ],
)
@pytest.mark.parametrize("then", ["returns", "raises"])
def test_what_an_answer_replaces_is_put_back_and_told(attack, name, then):
    def answer(packed, count):
        result = wrong(packed, count)
        attack()
        return result if then == "returns" else result[99]

    line = check(ID, answer).line
    assert line.startswith(f"FAIL 00.2 it replaces {name}")
    assert line.endswith(", which others use: leave that as it is")


def test_what_a_cell_has_replaced_does_not_judge(monkeypatch):
    before = torch.allclose
    with monkeypatch.context() as patched:
        patched.setattr(torch, "allclose", yes)
        patched.setattr(torch.Tensor, "sub", yes, raising=False)
        patched.setattr(builtins, "abs", yes)
        assert not check(ID, wrong).passed
        assert torch.allclose is torch.Tensor.sub is builtins.abs is yes, "the reader's own"
    assert torch.allclose is before and check(ID, RIGHT).passed


def test_what_judges_is_sealed():
    sealed = (checking, "check"), (exercises, "complaint"), (judge, "difference"), (plans, "slots")
    for module, name in sealed:
        with pytest.raises(AttributeError, match=f"{name} judges answers and cannot be replaced"):
            setattr(module, name, yes)
        with pytest.raises(AttributeError, match="cannot be replaced"):
            delattr(module, name)
        module.a_new_name = 1
        assert vars(module).pop("a_new_name") == 1

    def answer(packed, count):
        checking.check = yes

    assert "raises AttributeError: tqlearn.lab.check.check judges answers" in check(ID, answer).line


def test_an_outcome_says_what_it_is_again_at_the_next_check(monkeypatch):
    monkeypatch.setattr(checking.Outcome, "require", yes)
    with pytest.raises(AssertionError, match="FAIL 00.2"):
        check(ID, wrong).require()


def test_settings_of_torch_are_put_back():
    def answer(packed, count):
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_default_device("meta")
        return RIGHT(packed, count).cpu()

    assert (
        "all of torch's functions by a mode" in check(ID, answer).line
    )  # that is what a device is
    with torch.no_grad():
        assert check("03.4", CHEAP.answer).passed, "gradients are looked at wherever it is called"


class Liar(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, kinds, arguments=(), options=None):
        return True


class Seven(int):
    __eq__ = yes
    __hash__ = int.__hash__


def test_values_are_compared_as_plain_ones():
    assert (
        "it returns Liar, expected a tensor"
        in check(ID, lambda p, n: wrong(p, n).as_subclass(Liar)).line
    )
    sevens = check("00.1", lambda *sizes: Seven(7))
    assert sevens.line == "FAIL 00.1 case 1 of 3: it is 7, expected 109482240"

    def hung_with_attributes(packed, count):
        result = wrong(packed, count)
        result.double = result.detach = lambda: RIGHT(packed, count)
        return result

    assert not check(ID, hung_with_attributes).passed
    fill = exercises.find("07.1").answer
    assert check("07.1", lambda w, noise: torch.nn.Parameter(fill(w, noise))).passed
    point = types.new_class("Point", (tuple,), exec_body=lambda body: body.update(__len__=yes))
    both = exercises.find("10.4").answer
    assert check("10.4", lambda *given: point(both(*given))).passed


@pytest.mark.parametrize(
    ("strange", "words"),
    [
        (lambda t: t.to_sparse(), "it is a sparse_coo tensor, expected a dense one"),
        (lambda t: torch.nested.nested_tensor([t]), "it is a nested tensor, expected a dense one"),
        (lambda t: t.to("meta"), "it lies on meta, expected cpu"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_tensor_of_another_kind_is_told(strange, words):
    assert check(ID, lambda p, n: strange(RIGHT(p, n))).line == f"FAIL {ID} case 1 of 3: {words}"


def test_huge_integers_are_told():
    words = "it is an integer of 16610 bits, expected"
    assert words in check("00.1", lambda *sizes: 10**5000).line
    assert words in check("10.4", lambda *given: (10**5000, 0.0)).line


def endless(packed, count):
    while True:
        pass


def sleeping(packed, count):
    time.sleep(60)


def deaf(packed, count):
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass


def generating(packed, count):
    return sum(x for x in iter(int, 1))


@pytest.mark.parametrize("answer", [endless, sleeping, deaf, generating])
def test_an_endless_answer_is_stopped(answer):
    outcome = check(ID, answer, seconds=SHORT)
    assert outcome.line.startswith("FAIL 00.2 case 1 of 3 was stopped after 0.3 seconds, in line ")
    assert outcome.more.endswith('check("00.2", unpack, seconds=60) waits longer.')
    if answer is endless:
        assert outcome.line.endswith((": while True:", ": pass"))


@pytest.mark.parametrize("answer", [endless, generating])
def test_an_endless_answer_is_stopped_in_any_thread(answer):
    lines = []

    def work():
        lines.append(check(ID, answer, seconds=SHORT).line)
        lines.append(check(ID, RIGHT, seconds=SHORT).line)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "was stopped after 0.3 seconds, in line " in lines[0]
    assert lines[1] == "PASS 00.2 read packed codes back"


def test_all_cases_share_the_time():
    def slow(packed, count):
        time.sleep(SHORT)
        return RIGHT(packed, count)

    assert " of 3 was stopped after " in check(ID, slow, seconds=2 * SHORT).line


def test_a_timer_of_somebody_else_goes_on():
    rang = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
    signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        assert not check(ID, endless, seconds=SHORT).passed
        assert 500 < signal.getitimer(signal.ITIMER_REAL)[0] < 1000 and not rang
        signal.setitimer(signal.ITIMER_REAL, SHORT / 3)
        assert not check(ID, endless, seconds=SHORT).passed
        while not rang:  # late, but it comes
            time.sleep(0.01)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SystemExit(3), "raises SystemExit: 3"),
        (KeyboardInterrupt(), "raises KeyboardInterrupt: no message"),
        (GeneratorExit(), "raises GeneratorExit: no message"),
        (NotImplementedError('"floor" not implemented for Bool'), 'NotImplementedError: "floor"'),
    ],
)
def test_whatever_an_answer_raises_is_told(error, words):
    def answer(packed, count):
        raise error

    line = answer.__code__.co_firstlineno + 1
    outcome = check(ID, answer).line
    assert outcome.startswith("FAIL 00.2 case 1 of 3 ") and words in outcome
    assert outcome.endswith(f", in line {line}: raise error")


def test_an_exit_is_no_exit():
    line = check(ID, lambda packed, count: sys.exit("bye")).line
    assert "raises SystemExit: bye, in line " in line


def test_the_line_is_that_of_the_answer():
    def answer(packed, count):
        both = torch.stack([packed, packed])
        return both[5]

    own = answer.__code__.co_firstlineno
    for function in (answer, partial(answer), partial(partial(answer))):
        assert check(ID, function).line.endswith(f", in line {own + 2}: return both[5]")
    assert (
        check(ID, torch.square).line.endswith("expected 2")
        or "raises" in check(ID, torch.square).line
    )

    class Callable:
        def __call__(self, packed, count):
            return packed[99]

    assert "raises IndexError" in check(ID, Callable()).line


def test_an_error_may_have_a_message_that_never_comes():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    def answer(packed, count):
        raise Mute

    assert "raises Mute: no message" in check(ID, answer).line


def test_the_reader_can_interrupt():
    def answer(packed, count):
        signal.raise_signal(signal.SIGINT)
        time.sleep(60)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            check(ID, answer)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_in_a_kernel():
    """In JupyterLab, nbgrader and nbval an answer runs in a kernel's main thread."""
    first = (
        f"from tqlearn.lab.check import check\nimport sys, torch, time\nID, SHORT = {ID!r}, {SHORT}"
    )
    cells = [
        "def answer(p, n):\n    while True:\n        pass\n\ncheck(ID, answer, seconds=SHORT)",
        "def answer(packed, count):\n    sys.exit()\n\ncheck(ID, answer)",
        "torch.allclose = lambda *a, **k: True\nanswer = lambda p, n: torch.zeros(n).short()\n"
        "check(ID, answer)",
        f"from {RIGHT.__module__} import unpack\ncheck(ID, unpack)",
    ]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in (first, *cells)])
    NotebookClient(nb, timeout=60, kernel_name="python3").execute()
    lines = [cell.outputs[0].data["text/plain"].splitlines()[0] for cell in nb.cells[1:]]
    stopped, left, patched, right = lines
    assert stopped.startswith("FAIL 00.2 case 1 of 3 was stopped after 0.3 seconds, in line ")
    assert stopped.endswith((": while True:", ": pass"))
    assert left.endswith("raises SystemExit: no message, in line 2: sys.exit()")
    assert patched.startswith("FAIL 00.2 case 1 of 3: values are off")
    assert right == "PASS 00.2 read packed codes back"


def test_no_name_of_torch_is_noted_that_torch_itself_replaces():
    import torch._dynamo  # noqa: F401

    assert not guard.restore()
