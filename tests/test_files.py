"""A file takes its place whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hlvnn.files import replacing, write_json
from tests.runs import KilledError


def test_a_file_takes_its_place_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"value": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"value": float("nan")})

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KilledError

    with pytest.raises(KilledError):
        fail()
    assert json.loads(path.read_text()) == {"value": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
