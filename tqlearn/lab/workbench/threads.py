"""Two threads at one bench, which torch lets compute at a time; large layers come one by one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, Thread

SMALL = 2**26  # bytes: layers that weigh this together may always be found at a time


def both(step: Callable[[], bool], wanted: Callable[[], bool] = lambda: True) -> None:
    """Take steps in two threads until one returns False or no more is wanted.

    Raises:
        Exception: what a step has raised, when the other thread has ended, too.
    """
    failed: list[BaseException] = []

    def steps() -> None:
        try:
            while wanted() and not failed and step():
                pass
        except BaseException as error:  # raised below
            failed.append(error)

    other = Thread(target=steps, name="tqlearn-workbench", daemon=True)
    other.start()
    steps()
    other.join()
    if failed:
        raise failed[0]


class Room:
    """Lets layers be worked on at a time as long as they do not weigh more than the largest.

    Args:
        largest: its bytes. What is made of a layer takes several times the layer's own.
    """

    def __init__(self, largest: int) -> None:
        self.most, self.held, self.changed = max(SMALL, largest), 0, Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait until there is room for so many bytes, and keep it."""
        with self.changed:
            self.changed.wait_for(lambda: not self.held or self.held + size <= self.most)
            self.held += size
        try:
            yield
        finally:
            with self.changed:
                self.held -= size
                self.changed.notify_all()
