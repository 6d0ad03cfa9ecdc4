"""What takes longer than a slider's move is found in the background."""

import time
from collections.abc import Callable
from threading import Event, Lock, Thread, current_thread

from .bench import Bench

OFTEN = 0.5  # seconds between two pieces of news
DRAWING = 0.3  # seconds that the page has to itself before anything is looked for ahead


class Worker:
    """Lets a bench work in the background.

    Args:
        told: called from the thread when there is news, and once when all is known.

    ``failed`` has the exception that ended the thread, if one did.
    """

    def __init__(self, bench: Bench, told: Callable[[], None]) -> None:
        self.bench, self.told, self.failed = bench, told, None
        self.thread: Thread | None = None
        self.known, self.again, self.lock = Event(), Event(), Lock()
        self.ended = False

    def wake(self) -> None:
        """Begin, or look again: there is another plan."""
        with self.lock:
            self.known.clear()
            self.again.set()
            self.ended = False
            if self.thread is None:
                self.thread = Thread(target=self._run, name="tqlearn-workbench", daemon=True)
                self.thread.start()

    def settled(self, seconds: float | None = None) -> bool:
        """Wait until the plan is known, or so long; say whether it is."""
        return self.known.wait(seconds)

    def end(self) -> None:
        """Stop after the layer that is being worked on; ``wake`` begins again."""
        self.ended = True

    def rest(self) -> None:
        """Wait until there is nothing left to do."""
        if (thread := self.thread) is not None:
            thread.join()

    def _run(self) -> None:
        try:
            while self._wanted():
                self._all()
        except BaseException as error:
            self.failed, self.thread = error, None
            raise
        finally:
            self.known.set()
            self.told()

    def _wanted(self) -> bool:
        with self.lock:  # a call of ``wake`` comes before, or finds no thread
            if self.again.is_set() and not self.ended:
                self.again.clear()
                return True
            self.thread = None
            return False

    def _goes_on(self) -> bool:
        """Say whether to take another step; of the two threads, one tells the news."""
        if current_thread() is self.thread and time.monotonic() - self.last > OFTEN:
            self.last = time.monotonic()
            self.told()
        return not self.ended

    def _all(self) -> None:
        self.last = time.monotonic()
        self.bench.work(self._goes_on)
        if self.again.is_set():
            return
        self.known.set()
        self.told()
        if self.again.wait(DRAWING):
            return
        self.bench.work(lambda: not (self.again.is_set() or self.ended), idle=True)
        self.bench.errors.save()
