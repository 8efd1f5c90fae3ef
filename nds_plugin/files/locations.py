"""Where a file lies: a path of this machine, or the URL of an object store, read by fsspec.

A local path never touches fsspec, which is imported for URLs alone. ``file://`` is a local path.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Union
from urllib.parse import unquote

from nds_plugin.errors import MissingFileError, MissingPackageError, NDSError

StrPath = Union[str, "os.PathLike[str]"]
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_FILE = "file://"
_EXAMPLES = "s3://bucket/folder, gs://bucket/folder"


def is_url(path: StrPath) -> bool:
    """Whether a name is a URL of another place than this machine's disks."""
    text = os.fspath(path)
    return "://" in text and URL.match(text) is not None and not text.startswith(_FILE)


def local_path(path: StrPath) -> str:
    """A name without ``file://``; URLs of other places and plain paths stay as they are."""
    text = os.fspath(path)
    return unquote(text.removeprefix(_FILE)) if text.startswith(_FILE) else text


def join(folder: StrPath, name: str) -> str:
    """The name of a file in a folder or below a URL."""
    return (
        f"{os.fspath(folder).rstrip('/')}/{name}"
        if is_url(folder)
        else os.path.join(local_path(folder), name)
    )


def read_bytes(url: StrPath) -> bytes:
    """The content of the file at a URL.

    Raises:
        FileNotFoundError: there is none.
        NDSError: no package for the protocol, no access, or no connection.
    """
    with _errors(url):
        system, name = _system(url)
        return bytes(system.cat_file(name))


def open_binary(path: StrPath) -> IO[bytes]:
    """A file, opened for reading at any place; raises as :func:`read_bytes`."""
    if not is_url(path):
        return open(local_path(path), "rb")
    with _errors(path):
        system, name = _system(path)
        # Parquet asks for the ranges that it needs: reading ahead would fetch what no one looks at.
        opened: IO[bytes] = system.open(name, "rb", cache_type="none")
        return opened


def is_file(path: StrPath) -> bool:
    """Whether a file is there.

    Raises:
        NDSError: a URL that cannot be asked.
    """
    if not is_url(path):
        return os.path.isfile(local_path(path))
    with _errors(path):
        system, name = _system(path)
        return bool(system.isfile(name))


def listing(folder: StrPath) -> dict[str, int]:
    """Names and sizes of the files of a folder; none where there is no such folder.

    Raises:
        NDSError: a URL that cannot be asked, or a folder that may not be read.
    """
    if not is_url(folder):
        found: dict[str, int] = {}
        try:
            with os.scandir(local_path(folder) or ".") as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # renamed a moment ago
                        if entry.is_file():
                            found[entry.name] = entry.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise NDSError(f"the folder {folder} cannot be read: {error.strerror}.") from None
        return found
    with _errors(folder), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        system, name = _system(folder)
        system.invalidate_cache()
        return {
            entry["name"].rstrip("/").rpartition("/")[2]: int(entry["size"] or 0)
            for entry in system.ls(name, detail=True)
            if entry["type"] == "file"
        }
    return {}


def files_below(url: StrPath) -> list[str]:
    """Paths of all files below a URL, relative to it, sorted; raises as :func:`read_bytes`."""
    with _errors(url):
        system, name = _system(url)
        top = name.rstrip("/") + "/"
        return sorted(path.removeprefix(top) for path in system.find(name) if path.startswith(top))


@contextlib.contextmanager
def upload(url: StrPath) -> Iterator[IO[bytes]]:
    """A temporary file of this machine that is put at a URL, whole, when the block ends without an error.

    Raises:
        NDSError: it cannot be put there.
    """
    with tempfile.TemporaryDirectory(prefix="nds-") as folder:
        file = Path(folder) / "part"
        with open(file, "wb") as opened:
            yield opened
        with _errors(url):
            system, name = _system(url)
            system.makedirs(name.rpartition("/")[0], exist_ok=True)
            system.put_file(str(file), name)


def _system(url: StrPath) -> tuple[Any, str]:
    """The file system of a URL, and the name there."""
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError:
        raise _missing(url, "fsspec") from None
    try:
        return url_to_fs(os.fspath(url))
    except ImportError as error:
        cause = error.__cause__
        name = cause.name if isinstance(cause, ModuleNotFoundError) and cause.name else _package_of(url)
        raise _missing(url, name) from None
    except ValueError as error:
        if "Protocol not known" not in str(error):
            raise
        raise NDSError(
            f"{os.fspath(url)}: fsspec knows no protocol of this name; URLs look like {_EXAMPLES}."
        ) from None


def _package_of(url: StrPath) -> str:
    """The top of the module that fsspec imports for a protocol."""
    from fsspec.registry import known_implementations

    entry = known_implementations.get(os.fspath(url).partition("://")[0], {})
    return str(entry.get("class", "fsspec"))


def _missing(url: StrPath, module: str) -> MissingPackageError:
    package = module.partition(".")[0]
    return MissingPackageError(
        f"reading {os.fspath(url)} needs the package {package}, which is not installed: python -m pip install {package}"
    )


@contextlib.contextmanager
def _errors(url: StrPath) -> Iterator[None]:
    try:
        yield
    except (NDSError, FileNotFoundError):
        raise
    except NotADirectoryError as error:
        raise MissingFileError(f"{os.fspath(url)}: no such folder ({error}).") from None
    # The packages of the protocols raise nearly anything: errors of clients, of connections, of credentials.
    except Exception as error:
        text = " ".join(str(error).split())[:200] or "no reason given"
        raise NDSError(
            f"{os.fspath(url)} cannot be reached ({type(error).__name__}: {text}): check the name, the connection and "
            "the credentials."
        ) from None
