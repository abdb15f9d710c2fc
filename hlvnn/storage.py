"""Results that live elsewhere: folders behind an address such as s3://bucket/sweeps."""

from __future__ import annotations

import atexit
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs
from pydantic import AfterValidator

from hlvnn.errors import ConfigError, RunError
from hlvnn.files import expanded

ATOMIC = ("s3", "gcs", "abfs")
"""Kinds of storage in which a file that is being written appears whole or not at all."""

Sent = dict[str, tuple[int, int]]
"""What was uploaded: name in the folder → time of change in ns, size."""


def is_address(place: str | Path) -> bool:
    """Whether `place` is an address (scheme://…) and not a folder of this machine."""
    return "://" in str(place)


def _place(place: str) -> str:
    """Return an address as it is, and a folder with ~ as what it stands for."""
    return place if is_address(place) or not place.startswith("~") else str(expanded(Path(place)))


Place = Annotated[str, AfterValidator(_place)]
"""A setting that is a folder of this machine, or an address."""


def folder_here(place: str, what: str) -> Path:
    """Return a folder of this machine; raise `ConfigError` for an address, as `what` needs one."""
    if is_address(place):
        raise ConfigError(
            f"{place}: {what} a folder of this machine; copy the results here first (with aws s3 "
            "cp --recursive, say). Tables, reports and pictures are made from addresses, too"
        )
    return expanded(Path(place))


@dataclass(frozen=True)
class Remote:
    """A folder behind an address.

    address: with what its query says (endpoint_override=…, region=…), and without secrets, which
    are the environment's (AWS_ACCESS_KEY_ID and the like).
    """

    address: str

    @classmethod
    def at(cls, address: str) -> Remote:
        """Return the folder at an address.

        Raises `ConfigError` where it makes no sense, `RunError` where it cannot be reached.
        """
        parts = urlsplit(address)
        if parts.username or parts.password:
            raise ConfigError(
                f"{parts.scheme}://…@{parts.hostname}{parts.path}: a key in an address would be "
                "written into the results; give it in the environment (AWS_ACCESS_KEY_ID, …)"
            )
        remote = cls(address)
        try:
            remote._open()
        except OSError as error:
            raise RunError(f"{address}: cannot be reached: {error}") from error
        return remote

    def __truediv__(self, name: str) -> Remote:
        parts = urlsplit(self.address)
        path = str(PurePosixPath(parts.path or "/") / name)
        query = f"?{parts.query}" if parts.query else ""
        return Remote(f"{parts.scheme}://{parts.netloc}{path}{query}")

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(urlsplit(self.address).path).name or "root"

    def _open(self) -> tuple[fs.FileSystem, str]:
        with suppress(ValueError, pa.ArrowException):  # not one of pyarrow's own
            return fs.FileSystem.from_uri(self.address)
        try:
            import fsspec

            found, path = fsspec.core.url_to_fs(self.address)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"{self.address}: no such kind of storage here ({error}); give s3://, gs://, "
                "file://, or install the fsspec package for it"
            ) from error
        return fs.PyFileSystem(fs.FSSpecHandler(found)), str(path)

    def names(self) -> list[str]:
        """Return the names of all files below, relative to here."""
        files, base = self._open()
        selector = fs.FileSelector(base, recursive=True, allow_not_found=True)
        found = [info.path for info in files.get_file_info(selector) if info.is_file]
        return sorted(str(PurePosixPath(path).relative_to(base)) for path in found)

    def size(self, name: str) -> int | None:
        """Return a file's bytes, or None when there is none of this name."""
        files, base = self._open()
        info = files.get_file_info(f"{base}/{name}")
        return int(info.size) if info.is_file else None

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return self.size(name) is not None

    def read(self, name: str) -> bytes | None:
        """Return what is in a file, or None when there is none of this name."""
        files, base = self._open()
        try:
            with files.open_input_stream(f"{base}/{name}") as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        files, base = self._open()
        path = f"{base}/{name}"
        whole = files.type_name in ATOMIC
        if not whole:
            files.create_dir(str(PurePosixPath(path).parent), recursive=True)
        with files.open_output_stream(path if whole else f"{path}.part") as stream:
            stream.write(content)
        if not whole:
            files.move(f"{path}.part", path)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        files, base = self._open()
        try:
            files.delete_file(f"{base}/{name}")
        except FileNotFoundError:
            return

    def check_writable(self) -> None:
        """Write a file and remove it; raise `RunError` where that fails."""
        probe = f".writable-{secrets.token_hex(8)}"
        try:
            self.write(probe, b"")
            self.remove(probe)
        except OSError as error:
            raise RunError(f"{self}: cannot be written: {error}") from error

    def push(self, folder: Path, sent: Sent, names: Sequence[str]) -> None:
        """Upload the files of `folder` among `names` that changed; remove those that are gone.

        sent: what was uploaded so far; it is brought up to date, file by file.
        """
        for name in names:
            path = folder / name
            if not path.is_file():
                if name in sent:
                    self.remove(name)
                    del sent[name]
                continue
            state = path.stat()
            now = (state.st_mtime_ns, state.st_size)
            if sent.get(name) != now:
                self.write(name, path.read_bytes())
                sent[name] = now

    def pull(self, folder: Path, names: Sequence[str] | None = None) -> Sent:
        """Download files (None: all) into `folder`; return them as what is uploaded already.

        Raises `RunError` for a name that leads out of the folder.
        """
        sent: Sent = {}
        for name in self.names() if names is None else names:
            path = folder / name
            if not path.resolve().is_relative_to(folder.resolve()):
                raise RunError(f"{self}: {name!r} leads out of the folder; nothing of it was read")
            content = self.read(name)
            if content is None:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            state = path.stat()
            sent[name] = (state.st_mtime_ns, state.st_size)
        return sent


def local_copy(address: str, folder: Path) -> Path:
    """Download a run or a sweep into `folder`, which is made, to read it there; return the folder.

    Raises `RunError` when the folder exists, or nothing is at the address.
    """
    if folder.exists():
        raise RunError(f"{folder} exists already; nothing was overwritten")
    try:
        if not Remote.at(address).pull(folder):
            raise RunError(f"{address}: nothing is there")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise RunError(f"{address}: cannot be read: {error}") from error
    return folder


_COPIES: dict[Path, Remote] = {}
"""Copies that this process made to read them, and what they are copies of."""


def readable(place: str | Path) -> Path:
    """Return a folder to read: `place` itself, or a copy of the one behind an address.

    The copy is whole, in a temporary folder, and gone when this process ends. Raises `RunError`
    when nothing is at the address.
    """
    if not is_address(place):
        return expanded(Path(place))
    remote = Remote(str(place))
    parent = Path(tempfile.mkdtemp(prefix="hlvnn-copy-")).resolve()
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    folder = local_copy(str(place), parent / remote.name)
    _COPIES[folder] = remote
    return folder


def origin(path: Path) -> str:
    """Return where a file or folder is: its address if it lies in a copy made by `readable`."""
    for folder, remote in _COPIES.items():
        if path.is_relative_to(folder):
            return str(remote / str(path.relative_to(folder))) if path != folder else str(remote)
    return str(path)


def files_below(folder: Path, last: Sequence[str] = ()) -> list[str]:
    """Return the names of a folder's files; those of `last` in that order after all others."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "."]
    names = [str(path.relative_to(folder)) for path in found]
    return sorted(names, key=lambda name: last.index(name) if name in last else -1)


def typed(place: str | Path) -> str:
    """Return a path or an address as it is typed into a shell: quoted where it must be."""
    return shlex.quote(shown_path(place) if isinstance(place, Path) else place)


def shown_path(path: Path) -> str:
    """Return a path as a user here would type it; of a copy, the address it is a copy of."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else origin(path)
