"""Talking to a server of the service: JSON with caps, patience while it restarts, errors in one line."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx

from nds_plugin import __version__
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import atomic_write
from nds_plugin.service.client.folders import Tokens
from nds_plugin.service.client.retrying import TEMPORARY, back_off, retry_after

logger = logging.getLogger(__name__)

API = "api/v1"
MAX_JSON = 32 << 20
# Further attempts where no server was ever reached: more likely it is the wrong address.
FIRST_CONTACT = 2
LONGEST_PAUSE = 120.0  # seconds of Retry-After that are waited for
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _AgainError(Exception):
    """An answer or a broken connection that another attempt may mend."""

    def __init__(self, cause: str, wait: float | None = None, *, connected: bool = True) -> None:
        super().__init__(cause)
        self.wait = wait
        self.connected = connected  # whether something was there to talk to


class Service:
    """A server.

    Args:
        address: such as ``https://nds.example.org``; a path before the API is kept.
        tokens: where tokens are kept.
        timeout: seconds without a byte.
        retries: further attempts of a request after a failure that may pass.
    """

    def __init__(
        self, address: str, tokens: Tokens | None = None, timeout: float = 30.0, retries: int = 6
    ) -> None:
        self.address = _checked_address(address)
        self.retries = retries
        self._tokens = tokens or Tokens()
        # Whether a server is known to be there: it answered, now or when it gave this account a token.
        self._reached = self._tokens.get(self.address) is not None
        # No redirects: what belongs to this server is sent to no other.
        self._http = httpx.Client(
            timeout=timeout,
            headers={"User-Agent": f"nds-client/{__version__}", "Accept-Encoding": "identity"},
            follow_redirects=False,
        )

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def url(self, path: str) -> str:
        """The whole address of a path of the API."""
        return f"{self.address}/{API}/{path}"

    def get(self, path: str, params: Mapping[str, str | int] | None = None, *, private: bool = False) -> Any:
        """The JSON that a path answers with.

        Args:
            private: send the token.

        Raises:
            NDSError: what the server answers, or that it cannot be reached.
        """
        headers = self._authorization() if private else None
        return self._json("GET", path, params=params, headers=headers)[1]

    def post(self, path: str, body: Any, key: str | None = None) -> tuple[int, Any]:
        """Send JSON under this user's token and return the answer's status and JSON.

        Args:
            key: tells a repetition from a second request; a broken connection is tried again only
                with one, since the server then does nothing twice.
        """
        headers = {**self._authorization(make=True), **({"Idempotency-Key": key} if key else {})}
        return self._json("POST", path, json=body, headers=headers, once=key is None)

    def delete(self, path: str) -> None:
        """Delete what is this user's own."""
        with self._patiently("DELETE", path, headers=self._authorization()):
            pass

    def save(self, path: str, params: Mapping[str, str], file_name: str | os.PathLike[str]) -> None:
        """Write what a private path answers with to a file, which is whole or not there."""
        for attempt in range(self.retries + 1):
            try:
                request = self._patiently("GET", path, params=params, headers=self._authorization())
                with request as response, atomic_write(file_name) as file:
                    for block in response.iter_bytes():
                        file.write(block)
                return
            except httpx.RequestError as error:
                self._rest(attempt, _AgainError(_cause(error)), self.url(path))

    @contextlib.contextmanager
    def open(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """An answer of status 200, 206 or 416 whose body the caller reads; the caller mends broken bodies."""
        with self._patiently("GET", path, headers=headers, good=(200, 206, 416)) as response:
            yield response

    def wait_before(self, attempt: int, cause: Exception, path: str) -> None:
        """Wait before a caller's own attempt number ``attempt`` + 1.

        Raises:
            NDSError: it was the last one.
        """
        self._rest(attempt, _AgainError(_cause(cause)), self.url(path))

    def _json(self, method: str, path: str, *, once: bool = False, **request: Any) -> tuple[int, Any]:
        for attempt in range(self.retries + 1):
            try:
                with self._patiently(method, path, once=once, **request) as response:
                    return response.status_code, _read_json(response)
            except httpx.RequestError as error:
                if once:
                    raise NDSError(f"{self.url(path)}: {_cause(error)}.") from None
                self._rest(attempt, _AgainError(_cause(error)), self.url(path))
        raise AssertionError("the last attempt raises")

    @contextlib.contextmanager
    def _patiently(
        self,
        method: str,
        path: str,
        *,
        good: tuple[int, ...] = (200, 201, 204),
        once: bool = False,
        **request: Any,
    ) -> Iterator[httpx.Response]:
        """The answer to a request, which is repeated until the server has one."""
        with contextlib.ExitStack() as stack:
            for attempt in range(self.retries + 1):
                try:
                    response = stack.enter_context(self._begin(method, path, good, **request))
                    break
                except _AgainError as error:
                    stack.pop_all().close()
                    if once and error.wait is None and (error.connected or self._reached):
                        raise NDSError(f"{self.url(path)}: {error}.") from None
                    self._rest(attempt, error, self.url(path))
            yield response

    @contextlib.contextmanager
    def _begin(
        self, method: str, path: str, good: tuple[int, ...], **request: Any
    ) -> Iterator[httpx.Response]:
        with contextlib.ExitStack() as stack:
            try:
                response = stack.enter_context(self._http.stream(method, self.url(path), **request))
                self._reached = True
                if response.status_code not in good:
                    raise _refusal(response, self.url(path), self._remedy(response.status_code))
            except httpx.RequestError as error:
                raise _AgainError(
                    _cause(error), connected=not isinstance(error, httpx.ConnectError)
                ) from None
            yield response

    def _remedy(self, status: int) -> str:
        if status != 401:
            return ""
        return f" The token for {self.address} in {self._tokens} is of another database or was forgotten: take it out there."

    def _rest(self, attempt: int, error: _AgainError, url: str) -> None:
        patience = self.retries if error.connected or self._reached else min(self.retries, FIRST_CONTACT)
        if not error.connected and attempt >= patience:
            raise NDSError(
                f"no server answers at {self.address} ({error}; tried {attempt + 1} times): name the server by --server "
                "or NDS_SERVER, or start one by nds serve run."
            ) from None
        if attempt >= self.retries or (error.wait or 0.0) > LONGEST_PAUSE:
            later = f"; it asks to wait {error.wait:.0f} seconds" if error.wait else ""
            raise NDSError(f"{url}: {error} (tried {attempt + 1} times{later}): is the server up?") from None
        wait = error.wait if error.wait is not None else back_off(attempt)
        logger.info("%s: %s; again in %.1f seconds", url, error, wait)
        time.sleep(wait)

    def _authorization(self, *, make: bool = False) -> dict[str, str]:
        token = (
            self._tokens.get_or_ask(self.address, self._new_token) if make else self._tokens.get(self.address)
        )
        if token is None:
            raise NDSError(f"no token for {self.address}: no search was sent to it from this account yet.")
        return {"Authorization": f"Bearer {token}"}

    def _new_token(self) -> str:
        _, answer = self._json("POST", "tokens")
        token = answer.get("token") if isinstance(answer, dict) else None
        if not isinstance(token, str) or not (
            token.isascii() and token.isprintable() and 16 <= len(token) <= 200
        ):
            raise NDSError(
                f"{self.url('tokens')}: the answer holds no token: is this a server of nds_plugin?"
            )
        return token


def printable(text: object, longest: int = 500) -> str:
    """Text from a server on one line, without signs that would steer a terminal."""
    words = " ".join(str(text)[: 4 * longest].split())
    return "".join(letter if letter.isprintable() else "?" for letter in words)[:longest]


def listed(answer: Any, name: str) -> Sequence[dict[str, Any]]:
    """The objects of a list in an answer.

    Raises:
        NDSError: there is no such list.
    """
    found = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise NDSError(f"the answer holds no list {name!r}: is this a server of nds_plugin?")
    return found


def _checked_address(address: str) -> str:
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise NDSError(f"server {address[:200]!r}: {error}.") from None
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment or url.userinfo:
        raise NDSError(f"server {address[:200]!r}: expected an address such as https://nds.example.org.")
    if url.scheme == "http" and url.host not in _LOOPBACK:
        logger.warning("%s is not encrypted: the scores and your token can be read on the way.", address)
    return str(url).rstrip("/")


def _read_json(response: httpx.Response) -> Any:
    body = bytearray()
    for block in response.iter_bytes():
        body += block
        if len(body) > MAX_JSON:
            raise NDSError(f"{response.url}: the answer is larger than {MAX_JSON >> 20} MB.")
    if response.status_code == 204:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise NDSError(f"{response.url}: the answer is not JSON: is this a server of nds_plugin?") from None


def _refusal(response: httpx.Response, url: str, remedy: str) -> Exception:
    """What an answer of another status means: to try again, or the line for the user."""
    try:
        problem = _read_json(response)
    except NDSError:
        problem = {}
    problem = problem if isinstance(problem, dict) else {}
    status = response.status_code
    title = problem.get("title") or response.reason_phrase
    line = f"{status} {title}: {problem['detail']}" if problem.get("detail") else f"{status} {title}"
    errors = problem.get("errors")
    if isinstance(errors, list) and errors and not problem.get("detail"):  # ours has them in its detail
        line += f" ({'; '.join(printable(error, 200) for error in errors[:5])})"
    if status in TEMPORARY and status != 500:
        return _AgainError(printable(line), retry_after(response.headers))
    return NDSError(f"{url}: {printable(line, 1000)}{remedy}")


def _cause(error: Exception) -> str:
    return printable(error) or type(error).__name__
