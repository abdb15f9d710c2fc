"""Waiting for storage that fails for a while: a disk that is full, a server that is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from hlvnn.errors import StorageError

T = TypeVar("T")

FIRST_WAIT, LONGEST_WAIT = 0.5, 15.0
"""Seconds between two attempts, which double from one to the next."""


class Patience:
    """How long failing storage is waited for, and what is told of it.

    well: when storage was last known to be well; wait: seconds until the next attempt.
    """

    well: float
    wait: float

    def __init__(self, seconds: float, tell: Callable[[str], None] | None = None) -> None:
        self.seconds = seconds
        self.tell = tell or (lambda text: None)
        self.getting_on()

    def getting_on(self) -> None:
        """Note that storage is well: what fails from now on is waited for anew."""
        self.well, self.wait = time.monotonic(), FIRST_WAIT

    def patiently(self, work: Callable[[], T], what: str) -> T:
        """Do `work`, again and again while it raises an `OSError` or a `StorageError`.

        Raises `StorageError` when it has done so for longer than the patience lasts.
        """
        self.getting_on()
        while True:
            try:
                return work()
            except (OSError, StorageError) as error:
                why = (error.strerror if isinstance(error, OSError) else None) or str(error)
                if time.monotonic() + self.wait > self.well + self.seconds:
                    raise StorageError(
                        f"{what}: {why} (waited {self.seconds:g} s for it, --storage-patience)"
                    ) from error
                self.tell(f"{what}: {why}; trying again in {self.wait:g} s")
            time.sleep(self.wait)
            self.wait = min(LONGEST_WAIT, 2 * self.wait)
