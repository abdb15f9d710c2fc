"""How many trials run at a time where nodes join a cluster, or are lost, without starting Ray."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.search import Searcher

from hlvnn.sweep import ray_room
from hlvnn.sweep.ray_room import GrowingRoom


class Endless(Searcher):
    def suggest(self, trial_id: str) -> dict[str, Any]:
        return {"trial": trial_id}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        pass


def test_trials_at_a_time_grow_with_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_room, "LOOK_SECONDS", -1.0)
    told: list[str] = []
    display = SimpleNamespace(event=lambda text, lasting: told.append(text))
    context: Any = SimpleNamespace(board=SimpleNamespace(slots=2), display=display)
    there = [2]
    search: Any = Endless("val_acc", "max")
    room = GrowingRoom(search, context, has_room_for=lambda: there[0])
    drawn = [name for name in "abcdef" if room.suggest(name)]
    assert drawn == ["a", "b"]
    there[0] = 4  # a node has joined
    assert [name for name in "cdef" if room.suggest(name)] == ["c", "d"]
    assert context.board.slots == 4
    there[0] = 1  # nodes were lost: what they ran is taken up again, and no more is drawn
    assert room.suggest("e") is None
    room.on_trial_complete("a", {})
    assert room.suggest("e") == {"trial": "e"}
    assert told == ["nodes have joined: 4 trials at a time from now on"]
    assert pickle.dumps(room)  # Ray does, into a file that nobody reads
    assert room.get_state() == {}
