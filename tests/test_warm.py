"""A fork that is asked for behaves as a process that is started."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from warm import FORKS, FRESH, python

WAYS = [[sys.executable], FRESH]


def run(way, *words, **options):
    return subprocess.run([*way, *words], capture_output=True, text=True, **options)


@pytest.mark.parametrize("code", ["0", "raise SystemExit(7)", "1 / 0", "import nothing_like_it"])
def test_ends_alike(code):
    cold, warm = (run(way, "-c", code) for way in WAYS)
    assert cold.returncode == warm.returncode
    assert cold.stderr.splitlines()[-1:] == warm.stderr.splitlines()[-1:]


def test_sees_the_same(tmp_path):
    """Arguments, folder, variables, input, paths; nothing of tqlearn; one thread."""
    code = (
        "import os, sys, threading; print(sys.argv, os.getcwd(), __name__, threading.active_count()"
        ", os.environ['WORD'], sys.stdin.read(), sys.path[:2], sorted(os.listdir('/proc/self/fd'))"
        " if sys.platform == 'linux' else 0, [name for name in sys.modules if 'tqlearn' in name])"
    )
    (tmp_path / "script.py").write_text(code)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(code)
    env = os.environ | {"WORD": "héllo", "PYTHONPATH": str(tmp_path / "first")}
    for words in (["-c", code], ["script.py"], ["-m", "script"], ["-m", "package"]):
        options = {"cwd": tmp_path, "env": env, "input": "given"}
        cold, warm = (run(way, *words, "a", "b", **options) for way in WAYS)
        assert cold.stdout == warm.stdout and "given" in warm.stdout, (words, warm.stderr)


@pytest.mark.skipif(not FORKS, reason="a plain start")
def test_what_it_starts_is_a_fork_too():
    inner = "import sys; print('transformers' in sys.modules)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-u', '-c', {inner!r}])"
    assert run(FRESH, "-c", code).stdout == "True\n"
    assert run([python()], "-c", inner).stdout == "True\n"
    assert run([sys.executable], "-c", inner).stdout == "False\n"


@pytest.mark.skipif(not FORKS, reason="a plain start")
def test_a_worker_of_xdist_is_a_fork_that_starts_plain_pythons(tmp_path):
    """And one that fails is red, as any is."""
    (tmp_path / "test_it.py").write_text(
        "import os, sys\n\ndef test_it():\n    assert os.environ['PYTEST_XDIST_WORKER'] == 'gw0'\n"
        f"    assert 'transformers' in sys.modules and sys.executable == {sys.executable!r}\n\n"
        "def test_no():\n    assert [1] == [2]\n"
    )
    command = ["-m", "pytest", "-q", "-n", "1", "-p", "tests.warm", "--rootdir", str(tmp_path)]
    done = run([sys.executable], *command, str(tmp_path), cwd=Path(__file__).parents[1])
    assert done.returncode == 1 and "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "assert [1] == [2]" in done.stdout, "its assertions are explained"


def test_a_notebooks_kernel_is_a_fork():
    from jupyter_client.kernelspec import KernelSpecManager

    for name in ("python3", "warm"):
        assert KernelSpecManager().get_kernel_spec(name).argv[: len(FRESH)] == FRESH


@pytest.mark.skipif(not FORKS, reason="a plain start")
def test_signals_reach_it_and_it_ends_with_whoever_asked():
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen(
            [*FRESH, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as asked:
            child = int(asked.stdout.readline())
            asked.send_signal(number)
            words = asked.stderr.read()  # ends when the child has ended, too
        assert ("KeyboardInterrupt" in words) == (number == signal.SIGINT)
        assert asked.returncode == (1 if number == signal.SIGINT else -number)
        assert not os.path.exists(f"/proc/{child}/fd/1")


@pytest.mark.skipif(not FORKS, reason="a plain start")
def test_a_child_that_is_killed_is_told():
    done = run(FRESH, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert done.returncode == -signal.SIGSEGV
