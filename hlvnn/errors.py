"""What can go wrong, in words a user can act on.

Every error a user can cause is an `HlvnnError`. The command lines turn it into one message and
exit code 2; in Python it is an ordinary exception. A message says the name and the value, what was
expected, and what to do.
"""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from pydantic import ValidationError


class HlvnnError(Exception):
    """Base class of every error that a user can cause and mend."""


class ConfigError(HlvnnError):
    """A configuration, a flag or a search space does not make sense."""


class DataError(HlvnnError):
    """A data file, array, column or row is not what it must be."""


class DataChangedError(DataError):
    """The data loaded now are not those that a run was trained on."""


class CheckpointError(HlvnnError):
    """A checkpoint is cut short, foreign, or does not fit its model."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint cannot be read at all: it was cut short, or its bytes have changed."""


class RunError(HlvnnError):
    """A run or sweep folder is missing, exists already, or is damaged."""


class StorageError(RunError):
    """A file cannot be written or reached: the disk is full, or the storage is away."""


class ResourceError(HlvnnError):
    """More was asked for than the machine or the cluster has."""


class NotFiniteError(HlvnnError):
    """A number in a step of training is infinite or no number."""


class NodeError(HlvnnError):
    """A node of a cluster is not as it must be: no fault of what was to run there."""

    node_id: str = ""
    """Ray's id of the node."""


class Problems(HlvnnError):
    """Several things are wrong; all are told at once."""

    def __init__(self, errors: Sequence[HlvnnError]) -> None:
        self.errors = errors
        listed = "".join(f"\n  {number}. {error}" for number, error in enumerate(errors, 1))
        super().__init__(f"{len(errors)} problems:{listed}")

    @classmethod
    def of(cls, errors: Sequence[HlvnnError]) -> HlvnnError:
        """Return the only error there is, or all of them as one."""
        flat: list[HlvnnError] = []
        for error in errors:
            flat.extend(error.errors if isinstance(error, Problems) else [error])
        return flat[0] if len(flat) == 1 else cls(flat)


def all_of(*steps: Callable[[], object]) -> None:
    """Run every step, and then raise what they raised."""
    found: list[HlvnnError] = []
    for step in steps:
        try:
            step()
        except HlvnnError as error:
            found.append(error)
    if found:
        raise Problems.of(found)


def nearest(name: str, options: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the option nearest to `name`, or "" when none is near."""
    close = difflib.get_close_matches(str(name), list(options), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown(what: str, name: str, options: Iterable[str]) -> str:
    """Return the sentence for a name that is not among the options: what, got, nearest, all."""
    options = sorted(options)
    listed = ", ".join(options) if options else "(none)"
    return f"unknown {what} {name!r}{nearest(name, options) or '.'} Known: {listed}."


def unknown_label(what: str, label: object, labels: Sequence[object]) -> str:
    """Return the sentence for a label among many: as `unknown`, but naming only the nearest three.

    >>> unknown_label("ward", "nord", ["east", "north", "northern", "west"])
    "unknown ward 'nord'; did you mean 'north' or 'northern'? There are 4, from 'east' to 'west'."
    """
    by_text = {str(known): known for known in labels}
    close = [repr(by_text[text]) for text in difflib.get_close_matches(str(label), by_text, 3, 0.5)]
    listed = " or ".join([", ".join(close[:-1]), close[-1]] if len(close) > 1 else close)
    meant = f"; did you mean {listed}?" if close else "."
    return (
        f"unknown {what} {label!r}{meant} There are {len(labels)}, from {labels[0]!r} to "
        f"{labels[-1]!r}."
    )


def from_validation(error: ValidationError, where: str) -> ConfigError:
    """Turn pydantic's report into one `ConfigError` that tells all problems at once."""
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "no such setting"
        got = "" if isinstance(problem["input"], dict) else f" (got {_short(problem['input'])})"
        lines.append(f"{place + ': ' if place else ''}{message}{got}")
    return ConfigError(f"{where}: " + "; ".join(lines))


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def run_command(command: Callable[[], int | None]) -> None:
    """Run a command line's body: user errors become one message on stderr and exit code 2.

    Where whoever reads the output has closed it (`| head`) the command ends in silence, as others.
    """
    try:
        try:
            code = command()
        except SystemExit as ended:  # --help, and what the flags' reader refuses
            sys.stdout.flush()
            raise ended
        sys.stdout.flush()
    except HlvnnError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except BrokenPipeError:
        silence()
        code = CLOSED
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        name = str(error.filename)[:60]
        print(f"error: {name}…: the name is too long for a file", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code or 0)


CLOSED = 141
"""Exit code of a command whose output was closed: what a shell gives for SIGPIPE."""


def silence() -> None:
    """Let standard output go nowhere from now on: nobody reads it any more."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
