"""
Log files on disk: found by pattern, known again by how they begin, read in blocks that end between messages.

A file is known by the digest of its head, not by its name: so it is the same file after a rename, a copy or a
compression, and another one after a truncation.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import hashlib
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harvester.errors import ConnectorError

if TYPE_CHECKING:
    from connectors.postgres_slowlog.messages import Format

HEAD = 4096
"""How many bytes a file is known by, once it has so many."""

_COMPRESSED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_DAMAGE = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)
_UNKNOWN_COMPRESSION = {b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}


@dataclass(frozen=True, slots=True)
class LogFile:
    """
    One file that a pattern matched.

    Attributes:
        path: Where it is now.
        inode: Device and inode.
        size: In bytes, as it lies there.
        modified: When it was last written, milliseconds UTC by its own machine.
        compressed: Whether its content is packed.
        head: The first bytes of its content, at most ``HEAD``.
    """

    path: Path
    inode: tuple[int, int]
    size: int
    modified: int
    compressed: bool
    head: bytes

    def digest(self, length: int) -> str:
        """Return the digest of its first ``length`` bytes."""
        return hashlib.sha256(self.head[:length]).hexdigest()[:32]


class Content:
    """A file's unpacked bytes from an offset on; what a damaged archive still gives, and whether it was damaged."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._handle = _open(path)
        self.damaged = False
        self.short = False
        try:
            if isinstance(self._handle, gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile):
                while offset:
                    skipped = len(self.read(min(offset, 1 << 20)))
                    if not skipped:
                        break
                    offset -= skipped
                self.short = offset > 0
            else:
                self._handle.seek(offset)
        except BaseException:
            self.close()
            raise

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes; nothing at the end, or where the archive breaks off."""
        pieces: list[bytes] = []
        while size and not self.damaged:
            try:
                piece = self._handle.read1(size)
            except _DAMAGE:
                self.damaged = True
            except OSError as e:
                if e.errno is not None:
                    raise
                self.damaged = True  # bz2 says it without a number
            else:
                if not piece:
                    break
                pieces.append(piece)
                size -= len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Close the file."""
        self._handle.close()

    def __enter__(self) -> Content:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(path: Path) -> BufferedIOBase:
    with path.open("rb") as file:
        magic = file.read(6)
    for mark, opener in _COMPRESSED.items():
        if magic.startswith(mark):
            packed: BufferedIOBase = opener(path, "rb")
            return packed
    return path.open("rb")


def find_files(source: str, patterns: Sequence[str]) -> list[LogFile]:
    """
    Return the files that patterns match, each once, by name.

    Raises:
        ConnectorError: if a pattern matches nothing, or something that cannot be read.
    """
    found: dict[Path, LogFile] = {}
    for pattern in patterns:
        expanded = str(Path(pattern).expanduser())
        if Path(expanded).is_dir():
            raise ConnectorError(
                "read log of", source, f"{pattern} is a folder",
                hint=f'name its files, as in "{pattern.rstrip("/")}/*.log"',
            )
        matched = sorted(glob.glob(expanded, recursive=True))  # noqa: PTH207  a pattern may be absolute
        if not matched:
            raise ConnectorError("read log of", source, f"no file matches {pattern}", hint=_hint_for(Path(expanded)))
        for name in matched:
            path = Path(name)
            if path.is_file() and path not in found:
                one = _look_at(source, path)
                if one is not None:
                    found[path] = one
    return list(found.values())


def _hint_for(pattern: Path) -> str:
    folder = pattern.parent
    if any(letter in str(folder) for letter in "*?["):
        return "are the folders right, and may this user look into them?"
    if not folder.exists():
        return f"there is no folder {folder}; SHOW log_directory and SHOW data_directory tell where the log is"
    try:
        some = next(folder.iterdir(), None)
    except PermissionError:
        return f"this user may not look into {folder}; its group (often adm or postgres) may"
    return f"{folder} holds other files" if some else f"{folder} is empty; is logging_collector on?"


def _look_at(source: str, path: Path) -> LogFile | None:
    """Return what a file is, or None where it vanished meanwhile."""
    try:
        status = path.stat()
        with path.open("rb") as file:
            magic = file.read(6)
        for mark, name in _UNKNOWN_COMPRESSION.items():
            if magic.startswith(mark):
                raise ConnectorError(
                    "read log of", source, f"{path} is packed with {name}, which is not read",
                    hint="unpack it, or leave it out of paths; gzip, xz and bzip2 are read",
                )
        compressed = any(magic.startswith(mark) for mark in _COMPRESSED)
        with Content(path) as content:
            head = content.read(HEAD)
    except FileNotFoundError:
        return None
    except PermissionError as e:
        raise ConnectorError(
            "read log of", source, f"{path} may not be read by this user",
            hint="add the user to the file's group (often adm or postgres), or set log_file_mode = 0640",
        ) from e
    except OSError as e:
        raise ConnectorError("read log of", source, f"{path}: {e.strerror}", hint="is the disk well?") from e
    inode = (status.st_dev, status.st_ino)
    return LogFile(path, inode, status.st_size, status.st_mtime_ns // 1_000_000, compressed, head)


def blocks(
    content: Content, offset: int, reader: Format, size: int, *, whole: bool
) -> Iterator[tuple[int, bytes, bool]]:
    """
    Yield (offset, bytes, settled) of consecutive blocks of whole messages.

    Unless the file is ``whole``, what ends within a line is left for the next time, and a last message that the next
    line might belong to is yielded by itself, as not settled. A message larger than ``size`` is held in memory wholly.
    """
    pieces: list[bytes] = []
    while data := content.read(size):
        # The line's end before a message may be the last byte of what is held already.
        before = pieces[-1][-1:] if pieces else b""
        cut = reader.cut(before + data) - len(before)
        if cut < 0 or (cut == 0 and not pieces):
            pieces.append(data)
            continue
        block = b"".join([*pieces, data[:cut]])
        yield offset, block, True
        offset += len(block)
        pieces = [data[cut:]]
    block = b"".join(pieces)
    end = len(block) if whole and not content.damaged else reader.end(block)
    last = reader.cut(block[:end]) if reader.runs_on and not (whole or content.damaged) else end
    if last:
        yield offset, block[:last], True
    if last < end:
        yield offset + last, block[last:end], False


def ends_of(file: LogFile, size: int, reader: Format) -> Iterator[bytes]:
    """Yield the first ``size`` bytes of a file's content, and the last of a plain one, cut between messages."""
    with Content(file.path) as content:
        begin = content.read(size)
        yield begin[: reader.end(begin)]
    if file.compressed or file.size <= size:
        return
    with Content(file.path, max(size, file.size - size)) as content:
        end = content.read(size)
    for start in reader.starts(end)[:1]:
        yield end[start : reader.end(end)]
