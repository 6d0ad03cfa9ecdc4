"""Fresh Python processes at the price of a fork: most of a start is ``import transformers``.

``[*FRESH, "-c", code, ...]`` does what ``[sys.executable, "-c", code, ...]`` does, and so do
``-m module`` and a script: the same arguments, environment, folder, open files, signals and exit
status (1 after an interrupt). What it starts with ``sys.executable`` comes the same way, and so
does what a test starts that puts ``python()`` in its place. But it is a fork of a server that has
imported the big packages before, and nothing of tqlearn. What those packages read from the
environment when they are imported they have read then: a test of such a variable, or of an import
itself, starts a process of its own.

As a plugin (``-p tests.warm``, and of tests/conftest.py) this starts the server, one for all
workers and for what they start, which imports nothing until it is asked. Workers of pytest-xdist
are forks of it as well, whose ``sys.executable`` is the plain one. Kernels come the same way, by
the names ``warm`` (``--nbval-kernel-name warm``) and ``python3``, which is every notebook's. Where
a process with threads may not be forked, off Linux, all of them are plain starts.
"""

import json
import os
import signal
import sys

# Grammars of web addresses, which no notebook's schema asks for: the longest import of a start
sys.modules.setdefault("rfc3987_syntax", None)
SOCKET = "TQLEARN_WARM"  # a variable that names the server's socket
WORKER = "TQLEARN_WORKER"  # one that is set for a worker of pytest-xdist
FORKS = sys.platform == "linux"
FRESH = [sys.executable, "-I", "-S", os.path.abspath(__file__)] if FORKS else [sys.executable]
IMPORTED = """
    torch._dynamo transformers.trainer transformers.models.bert.modeling_bert peft safetensors.torch
    scipy.stats plotly.graph_objects plotly.io ipywidgets anywidget ipykernel.kernelapp nbformat
    nbgrader.api nbgrader.apps.nbgraderapp seqeval.metrics
"""


def python() -> str:
    """The path of a ``python`` that does as FRESH does."""
    return os.path.join(os.path.dirname(os.environ[SOCKET]), "python") if FORKS else sys.executable


def pytest_configure(config):
    """Start the server, unless pytest is itself a worker, or a test's; fork workers from it."""
    if not os.environ.get(SOCKET):
        _serve(config)
    if FORKS and (specs := getattr(config.option, "tx", None)):  # with -n, a "popen" for each
        forked = f"popen//python={os.path.dirname(os.environ[SOCKET])}/worker"
        config.option.tx = [forked if spec == "popen" else spec for spec in specs]


def _serve(config):
    import shlex
    import tempfile
    from pathlib import Path
    from subprocess import PIPE, Popen

    folder = tempfile.TemporaryDirectory(prefix="warm")
    config.add_cleanup(folder.cleanup)
    argv = [*FRESH, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    for name in ("warm", "python3"):
        kernel = Path(folder.name, "kernels", name, "kernel.json")
        kernel.parent.mkdir(parents=True)
        kernel.write_text(json.dumps({"argv": argv, "display_name": name, "language": "python"}))
    paths = [folder.name, os.environ.get("JUPYTER_PATH")]
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, paths))
    if FORKS:
        os.environ[SOCKET] = str(Path(folder.name, "socket"))
        for name, setting in (("python", ""), ("worker", f"export {WORKER}=1\n")):
            script = Path(folder.name, name)
            script.write_text(f'#!/bin/sh\n{setting}exec {shlex.join(FRESH)} "$@"\n')
            script.chmod(0o700)
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [sys.executable, __file__]  # in a group of its own: Control-C is for pytest
        server = Popen(command, stdin=PIPE, stdout=PIPE, env=clean, process_group=0)
        server.stdout.readline()  # it listens
        config.add_cleanup(server.communicate)  # its end of input is its end
        config.add_cleanup(lambda: os.environ.pop(SOCKET))


def ask(arguments: list[str]) -> int:
    """Have the server do as ``python ARGUMENTS``; return the exit status, or die as it died."""
    import socket

    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ[SOCKET])
        request = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
        socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: server.send(bytes([number])))
        server.sendall(request)
        answer = server.recv(8)
    status = int(answer or b"1")
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


class Server:
    """Forks for whoever asks; ends with its input, and with it what it has forked."""

    def __init__(self, address: str):
        import selectors
        import socket

        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(address)
        self.listener.listen(64)
        self.ready, self.pids = selectors.DefaultSelector(), {}
        self.ready.register(self.listener, selectors.EVENT_READ, self.accept)
        self.ready.register(0, selectors.EVENT_READ, self.end)

    def run(self) -> list:
        """Serve; return in each child, with what it has to do."""
        print("listening", flush=True)
        while True:
            for key, _ in self.ready.select():
                if key.fileobj in self.ready.get_map() and (todo := key.data(key.fileobj)):
                    return todo

    def accept(self, listener) -> list | None:
        """Fork; in the child return what was asked."""
        import socket

        warm_up()
        link, _ = listener.accept()
        size, files, *_ = socket.recv_fds(link, 4, 3)
        size, request = int.from_bytes(size, "big"), b""
        while len(request) < size and (more := link.recv(size - len(request))):
            request += more
        if len(request) < size or len(files) < 3:  # whoever asked is gone
            link.close()
            return None
        if not (pid := os.fork()):
            os.setpgid(0, 0)
            for place, file in enumerate(files):
                os.dup2(file, place)
            held = [key.fileobj for key in self.ready.get_map().values() if key.fd]
            for file in (*files, *held, link):
                os.close(file if isinstance(file, int) else file.detach())
            self.ready.close()
            return json.loads(request)
        os.setpgid(pid, pid)  # in both: whoever is first
        for file in files:
            os.close(file)
        self.pids[link] = pid
        self.ready.register(link, 1, self.heard)
        self.ready.register(os.pidfd_open(pid), 1, lambda ended: self.ended(link, ended))
        return None

    def heard(self, link) -> None:
        """Pass a signal on; whoever is no longer there wants no child either."""
        numbers = link.recv(16)
        for number in numbers or [signal.SIGKILL]:
            (os.kill if numbers else os.killpg)(self.pids[link], number)
        if not numbers:
            self.ready.unregister(link)

    def ended(self, link, descriptor) -> None:
        """Say how the child ended."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.pids.pop(link), 0)[1])
        self.ready.unregister(descriptor)
        os.close(descriptor)
        if link in self.ready.get_map():
            self.ready.unregister(link)
            link.sendall(str(status).encode())
        link.close()

    def end(self, _) -> None:
        """No more input: the tests are over."""
        for pid in self.pids.values():
            os.killpg(pid, signal.SIGKILL)
        sys.exit()


def warm_up() -> None:
    """Import what most processes need, once; then nothing of it is ever looked at again."""
    import gc
    from importlib import import_module
    from importlib.util import find_spec

    for name in IMPORTED.split():
        if find_spec(name.partition(".")[0]):
            import_module(name)
    if pytest_plugin := sys.modules.get("anyio"):  # pytest would rewrite its assertions: too late
        pytest_plugin.__doc__ = f"{pytest_plugin.__doc__} PYTEST_DONT_REWRITE"
    gc.freeze()


def become(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Do as ``python ARGUMENTS`` does."""
    import runpy

    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server's may be to ignore it
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if not os.environ.pop(WORKER, None):
        sys.executable = python()
    if arguments[0] == "-u":
        sys.stdout.reconfigure(line_buffering=True)
        arguments = arguments[1:]
    kind, *rest = arguments
    if kind == "-m":
        sys.argv, sys.path[:0] = rest, [folder]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv, sys.path[:0] = ["-c", *rest[1:]], [""]
        main = sys.modules["__main__"] = type(sys)("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    else:
        sys.argv = arguments
        sys.path[:0] = [os.path.dirname(os.path.abspath(kind))] if os.path.isfile(kind) else []
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(ask(sys.argv[1:]))
    del sys.path[0]  # this folder
    become(*Server(os.environ[SOCKET]).run())
