"""A time limit for code that somebody else wrote."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

HERE = os.path.dirname(__file__)
AGAIN = 0.1  # seconds to the next try, where an answer has caught the first; then twice as many


class TimeUp(BaseException):
    """The time is up: no Exception, so that an answer's ``except Exception`` lets it pass."""


class Interrupted(KeyboardInterrupt):
    """The reader pressed stop; an answer that raises KeyboardInterrupt raises that one."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the block after ``seconds``, and again until it ends.

    In the main thread by a signal, which ends ``time.sleep``, ``input`` and waiting for a lock as
    well; in other threads, and on Windows, between two instructions of Python alone.

    Nobody stops a single call that stays inside C, such as ``sum(itertools.count())``, before it
    returns, nor an answer that catches everything, in a loop within such a loop: those want
    another kernel.
    """
    main = threading.current_thread() is threading.main_thread()
    with _by_signal(seconds) if main and hasattr(signal, "setitimer") else _by_thread(seconds):
        yield


@contextmanager
def _by_signal(seconds: float) -> Iterator[None]:
    armed, trace = [AGAIN], sys.gettrace()

    def up(number, frame):
        if armed:
            if armed[0] > AGAIN:  # the answer has caught the first
                _at_next_line(frame, armed)
            signal.setitimer(signal.ITIMER_REAL, armed[0])
            armed[0] *= 2  # on a busy machine a steady beat would leave no time in between
            raise TimeUp

    def pressed(number, frame):
        raise Interrupted

    start, (left, each) = monotonic(), signal.getitimer(signal.ITIMER_REAL)
    alarm, stop = signal.signal(signal.SIGALRM, up), signal.getsignal(signal.SIGINT)
    if stop is signal.default_int_handler:  # somebody else's handler knows better
        signal.signal(signal.SIGINT, pressed)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        try:
            yield
        finally:
            armed.clear()
    finally:
        armed.clear()  # the signal may have come in just before the first time
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.settrace(trace)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if alarm is None else alarm)
        if stop is signal.default_int_handler:
            signal.signal(signal.SIGINT, stop)
        if left:  # somebody else's timer goes on
            signal.setitimer(signal.ITIMER_REAL, max(left - monotonic() + start, 1e-3), each)


def _at_next_line(frame: FrameType | None, armed: list) -> None:
    """Raise once more where the answer goes on after it has caught the first: in its handler.

    What Python calls tracing does it, for the frames of the answer alone.
    """

    def tracer(frame, event, argument):
        if armed and event == "line":
            raise TimeUp
        return tracer

    while frame is not None and not frame.f_code.co_filename.startswith(HERE):
        frame.f_trace = tracer
        frame = frame.f_back
    sys.settrace(lambda *event: None)


@contextmanager
def _by_thread(seconds: float) -> Iterator[None]:
    judged, armed = ctypes.c_ulong(threading.get_ident()), [True]
    ended, turn = threading.Event(), threading.Lock()
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def watch():
        pause = seconds
        while not ended.wait(pause):
            with turn:
                if armed:
                    throw(judged, ctypes.py_object(TimeUp))
            pause = AGAIN if pause == seconds else 2 * pause

    threading.Thread(target=watch, daemon=True).start()
    try:
        try:
            yield
        finally:
            armed.clear()
    finally:
        armed.clear()
        with turn:
            throw(judged, ctypes.py_object())  # takes back what has not arrived yet
        ended.set()
