"""How many trials run at a time on a cluster: as many as there is room for, also when it grows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.tune.search import ConcurrencyLimiter

from hlvnn.sweep import cluster
from hlvnn.sweep.context import Context
from hlvnn.sweep.ray_search import JournaledSearch

LOOK_SECONDS = 10.0
"""How often the cluster is looked at."""


class GrowingRoom(ConcurrencyLimiter):
    """Ray's limit of trials at a time, which rises when nodes join that have room for more.

    It does not fall again: what a lost node ran waits for the place that it will have.
    """

    def __init__(
        self,
        search: JournaledSearch,
        context: Context,
        has_room_for: Callable[[], int] | None = None,
    ) -> None:
        """Begin with the slots of the board; has_room_for: counts the places that there are now."""
        super().__init__(search, context.board.slots)
        self.context = context
        self.has_room_for = has_room_for or (
            lambda: cluster.slots(context.options, cluster.nodes())
        )
        self.looked = time.monotonic()

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if time.monotonic() - self.looked > LOOK_SECONDS:
            self.looked = time.monotonic()
            if (room := self.has_room_for()) > self.max_concurrent:
                self.set_max_concurrency(room)
                self.context.board.slots = room
                self.context.display.event(
                    f"nodes have joined: {room} trials at a time from now on", lasting=True
                )
        found: dict[str, Any] | None = super().suggest(trial_id)
        return found

    def get_state(self) -> dict[str, Any]:
        """Return nothing: its state is the journal's."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {}
