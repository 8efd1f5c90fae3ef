"""Read a large JSON object piece by piece, with the standard library's decoder.

That decoder is what every other reader of COCO files uses, so the same files pass (NaN included,
which stricter streaming parsers refuse), and one pass gives the arrays in whatever order they come.
"""

from __future__ import annotations

import codecs
import contextlib
import gc
import json
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from nds_plugin.errors import NDSError

_BLOCK = 1 << 22  # bytes read at a time
_NEAR_END = 16  # an error so near the end of what was read may only mean that a token is cut
_SPACE = re.compile(r"[ \t\n\r]*")
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")


def stream_object(
    path: str | os.PathLike[str], arrays: Collection[str], chunk: int, what: str = "COCO json"
) -> Iterator[tuple[str, Any]]:
    """The members of the object that a JSON file holds, in the file's order.

    Args:
        path: the file.
        arrays: keys whose values are arrays to be given in pieces; other values come whole.
        chunk: items of a piece at most.
        what: what the file is to be, for messages.

    Yields:
        (key, value), or (key, list of items) several times. An array without items gives one empty
        list; a value of ``arrays`` that is no array comes as it is.

    Raises:
        NDSError: missing, empty, not UTF-8, not JSON, no object, cut short, or a key of ``arrays`` twice.
    """
    with no_gc(), _open(path) as file, _progress(path) as bar:
        yield from _Stream(file, Path(path), what, bar).members(arrays, chunk)


@contextlib.contextmanager
def no_gc() -> Iterator[None]:
    """Pause the garbage collector: it is most of the time of building millions of small objects."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _open(path: str | os.PathLike[str]) -> IO[bytes]:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise NDSError(f"annotation file not found: {path}: check the path.") from None
    except OSError as error:
        raise NDSError(f"cannot read the annotation file {path}: {error.strerror}.") from None


def _progress(path: str | os.PathLike[str]) -> Any:
    size = os.path.getsize(path)
    return tqdm(
        total=size, unit="B", unit_scale=True, desc=f"reading {Path(path).name}", disable=None, delay=2
    )


class _Stream:
    def __init__(self, file: IO[bytes], path: Path, what: str, bar: Any) -> None:
        self._file, self._path, self._what, self._bar = file, path, what, bar
        self._size = os.path.getsize(path)
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._parse = json.JSONDecoder().raw_decode
        self._text, self._at, self._read, self._ended = "", 0, 0, False

    def members(self, arrays: Collection[str], chunk: int) -> Iterator[tuple[str, Any]]:
        if not self._peek():
            raise NDSError(
                f"{self._path} is empty ({self._size} bytes), expected a {self._what} file: get it again."
            )
        if self._peek() != "{":
            kind = type(self._value()).__name__
            raise NDSError(f"{self._path} is not {self._what}: expected an object, got a {kind}.")
        self._at += 1
        if self._peek() == "}":
            return self._finish()
        seen: set[str] = set()
        while True:
            self._peek()
            key = self._value()
            if not isinstance(key, str):
                raise self._broken("Expecting property name enclosed in double quotes", self._at)
            if key in seen and key in arrays:
                raise NDSError(
                    f"{self._path} is not {self._what}: the key {key!r} occurs more than once: join the lists."
                )
            seen.add(key)
            self._expect(":")
            if self._peek() == "[" and key in arrays:
                for items in self._items(chunk):
                    yield key, items
            else:
                yield key, self._value()
            if self._expect(",}") == "}":
                return self._finish()

    def _items(self, chunk: int) -> Iterator[list[Any]]:
        self._expect("[")
        if self._peek() == "]":
            self._at += 1
            yield []
            return
        self._peek()
        items: list[Any] = []
        while True:
            items.append(self._value())
            # The usual case in one step: a comma, and more text behind it.
            match = _COMMA.match(self._text, self._at)
            if match is not None and match.end() < len(self._text):
                self._at = match.end()
                ended = False
            else:
                ended = self._expect(",]") == "]"
                self._peek()
            if ended or len(items) == chunk:
                yield items
                items = []
            if ended:
                return

    def _finish(self) -> None:
        self._at += self._peek() == "}"
        if self._peek():
            raise self._broken("Extra data", self._at)

    def _value(self) -> Any:
        """The JSON value that begins here, whole."""
        while True:
            try:
                value, end = self._parse(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _NEAR_END
                if not (cut and self._fill()):
                    raise self._broken(error.msg, error.pos) from None
                continue
            except RecursionError:
                raise NDSError(f"{self._path} is not a {self._what} file (nested too deeply).") from None
            except ValueError as error:  # a number of thousands of digits
                raise NDSError(f"{self._path} is not a {self._what} file ({error}).") from None
            if end == len(self._text) and self._fill():
                continue  # a number may go on in the next block
            self._at = end
            return value

    def _expect(self, characters: str) -> str:
        found = self._peek()
        if not found or found not in characters:
            raise self._broken(f"Expecting {' or '.join(map(repr, characters))}", self._at)
        self._at += 1
        return found

    def _peek(self) -> str:
        """The next character that is no space, "" at the end of the file."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                return ""

    def _fill(self) -> bool:
        """Read on; False at the end of the file."""
        if self._ended:
            return False
        # As much as is there already, so that one huge value is not parsed again and again.
        block = self._file.read(max(_BLOCK, len(self._text) - self._at))
        try:
            text = self._decode(block, not block)
        except UnicodeDecodeError as error:
            raise NDSError(
                f"{self._path} is not a JSON text file (byte {self._read + error.start} of {self._size} is not "
                "UTF-8): get it again, and unpack it if it is compressed."
            ) from None
        self._ended = not block
        self._read += len(block)
        self._bar.update(len(block))
        self._text, self._at = self._text[self._at :] + text, 0
        return not self._ended

    def _broken(self, message: str, position: int) -> NDSError:
        byte = self._read - len(self._text[position:].encode())
        return NDSError(
            f"{self._path} is not complete JSON ({message} at byte {byte} of {self._size}): it was cut short or "
            "damaged, get it again."
        )
