"""Named bytes in a folder or an object store (S3 and what speaks its protocol), written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qs, urlsplit

from search.options import StudyError

T = TypeVar("T")
SCHEME = "s3"
PATIENCE_S = 120.0  # a store that does not answer is asked again for so long
IMPATIENCE_S = 5.0  # and for so long once that was in vain
LONGEST_PAUSE_S = 10.0
_GIVEN_UP: set[str] = set()  # servers of this process whose last request was given up, whoever asked
THREADS = 16  # transfers at a time: an object store answers many requests as fast as one
# What no waiting mends, as the AWS SDK words it.
LASTING = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "INVALID_CLIENT_TOKEN_ID",
           "PERMANENT_REDIRECT", "UNRECOGNIZED_CLIENT")  # fmt: skip
LINK_PARAMETERS = ("region", "endpoint_override", "scheme")


class StorageError(OSError):
    """A store that cannot be read or written; the message names it, and what it said."""


class UnfitNodeError(StorageError):
    """A node that lacks what its trials need; the message names it, and what is to be mended."""


class Store(Protocol):
    """Where a study's files are kept, by names relative to it (`trials/ab12cd34/checkpoint.pt`)."""

    where: str  # as the user named it

    def get(self, name: str) -> bytes | None:
        """The content, None where there is nothing of this name."""

    def put(self, name: str, content: bytes) -> None:
        """Writes the content: afterwards all of it is there, or what was there before."""

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Bytes by name, of all names below a prefix that ends in a slash."""

    def delete(self, name: str) -> None:
        """Takes a name away, if it is there."""


class FolderStore:
    """A folder: of this machine, or one that several mount."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.where = folder, str(folder)

    def get(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def put(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.unfinished")
        unfinished.write_bytes(content)
        unfinished.replace(path)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        found = {}
        for path in sorted((self.folder / prefix).rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # it may be going just now
                if path.is_file() and not path.name.endswith(".unfinished"):
                    found[path.relative_to(self.folder).as_posix()] = path.stat().st_size
        return found

    def delete(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)


class ObjectStore:
    """A prefix of a bucket, by pyarrow. Keys come from the environment, ~/.aws or the machine's role, never from the link."""

    def __init__(self, link: str) -> None:
        from pyarrow import fs

        self.where = link
        parts = urlsplit(link)
        asked = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        endpoint = asked.get("endpoint_override") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""  # fmt: skip
        scheme, _, host = endpoint.rpartition("://")
        self._server = f"{endpoint}/{parts.netloc}"
        self._root = f"{parts.netloc}{parts.path}".rstrip("/")
        self._fs = fs.S3FileSystem(
            region=asked.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
            scheme=asked.get("scheme") or scheme or None,
            endpoint_override=host.rstrip("/") or None,
            allow_delayed_open=True,  # one request for a small object, not three
        )

    def get(self, name: str) -> bytes | None:
        def read() -> bytes | None:
            with self._fs.open_input_stream(f"{self._root}/{name}") as stream:
                return bytes(stream.read())

        return self._patiently("reading", name, read)

    def put(self, name: str, content: bytes) -> None:
        def write() -> None:
            # One write: a stream that is closed after half of them would leave half an object.
            with self._fs.open_output_stream(f"{self._root}/{name}") as stream:
                stream.write(content)

        self._patiently("writing", name, write)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        from pyarrow import fs

        def look() -> dict[str, int]:
            place = f"{self._root}/{prefix}".rstrip("/")
            found = self._fs.get_file_info(fs.FileSelector(place, recursive=True, allow_not_found=True))
            start = len(self._root) + 1
            return {info.path[start:]: info.size for info in found if info.type == fs.FileType.File}

        return self._patiently("listing", prefix, look) or {}

    def delete(self, name: str) -> None:
        # pyarrow's S3 file system asks whether the "folder" still is one and puts an empty object there: harmless.
        self._patiently("deleting", name, lambda: self._fs.delete_file(f"{self._root}/{name}"))

    def _patiently(self, doing: str, name: str, action: Callable[[], T]) -> T | None:
        """The action's result, None where there is nothing of this name; asked again while the store does not answer.

        Raises: StorageError once patience is over, or at once for what waiting does not mend.
        """
        until, pause = time.monotonic() + (IMPATIENCE_S if self._server in _GIVEN_UP else PATIENCE_S), 0.5
        while True:
            try:
                result = action()
                _GIVEN_UP.discard(self._server)
                return result
            except FileNotFoundError:
                if doing == "writing":
                    raise StorageError(f"{self.where}: there is no such bucket to write {name} to") from None
                return None
            except OSError as error:
                told = " ".join(str(error).split())
                over = time.monotonic() + pause > until
                if over:
                    _GIVEN_UP.add(self._server)
                if over or any(word in told for word in LASTING):
                    raise StorageError(f"{self.where}: {doing} {name or 'it'} failed; the store said: {told}") from None
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)


def is_link(where: str | Path) -> bool:
    """Whether a place is named by a link (s3://bucket/prefix) and not by a path."""
    return "://" in str(where)


def check_link(where: str, option: str) -> None:
    """Raises: StudyError for a link that is none of ours, or that holds what must not be written down."""
    try:
        parts = urlsplit(where)
        whole = parts.scheme == SCHEME and bool(parts.hostname) and "//" not in parts.path
    except ValueError:
        whole = False
    if not whole:
        raise StudyError(f"{option} must be a folder or {SCHEME}://bucket/prefix, got {_without_secrets(where)}")
    if "@" in parts.netloc + parts.query or any(name not in LINK_PARAMETERS for name in parse_qs(parts.query)):
        raise StudyError(
            f"{option} {_without_secrets(where)}: must hold no keys and no parameters but {', '.join(LINK_PARAMETERS)}. Give keys by "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws/credentials or the machine's role; they are never written down"
        )


def _without_secrets(link: str) -> str:
    scheme, _, rest = link.partition("?")[0].partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def open_store(where: str | Path) -> Store:
    """The store that a path or a link names."""
    return ObjectStore(str(where)) if is_link(where) else FolderStore(Path(where))


def below(where: str, name: str) -> str:
    """The link or path of something inside a place."""
    if not is_link(where):
        return str(Path(where) / name)
    parts = urlsplit(where)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()


def above(where: str) -> str:
    """The link or path that holds a place: the inverse of `below`."""
    if not is_link(where):
        return str(Path(where).parent)
    parts = urlsplit(where)
    return parts._replace(path=parts.path.rstrip("/").rpartition("/")[0]).geturl()


def last_name(where: str) -> str:
    """The last part of a link or path."""
    return (urlsplit(where).path if is_link(where) else where).rstrip("/").rpartition("/")[2] or urlsplit(where).netloc


def get_files(store: Store, names: Iterable[str], folder: Path) -> None:
    """Brings files into a folder, several at a time; what has gone meanwhile stays away."""

    def bring(name: str) -> None:
        if name.startswith("/") or ".." in name.split("/"):
            raise StorageError(
                f"{store.where}: holds {name!r}, which would lead out of {folder}; nothing of it is taken"
            )
        content = store.get(name)
        if content is not None:
            FolderStore(folder).put(name, content)

    _all_at_once(bring, names)


def put_files(store: Store, names: Iterable[str], folder: Path) -> None:
    """Writes files of a folder into a store, several at a time."""
    _all_at_once(lambda name: store.put(name, (folder / name).read_bytes()), names)


def _all_at_once(action: Callable[[str], Any], names: Iterable[str]) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(action, names))


def remove_folder(folder: Path) -> None:
    """Takes a folder of copies away."""
    shutil.rmtree(folder, ignore_errors=True)
