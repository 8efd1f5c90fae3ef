"""Long answers take a place each and give it back, however they end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Scope

from nds_plugin.service.server.streaming import ManifestResponse, Places

SCOPE: Scope = {"type": "http", "method": "GET", "path": "/x", "headers": [], "asgi": {"spec_version": "2.4"}}


async def never() -> Message:
    await asyncio.sleep(3600)
    raise AssertionError


def answer(places: Places, pieces: Iterator[bytes]) -> ManifestResponse:
    return ManifestResponse(pieces, places, "text/csv", {})


async def sent_by(response: ManifestResponse) -> list[Message]:
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    await response(SCOPE, never, send)
    return messages


def test_all_pieces_are_sent_and_empty_ones_left_out() -> None:
    async def main() -> None:
        places = Places(1, 1)
        messages = await sent_by(answer(places, iter([b"a", b"", b"b"])))
        assert messages[0]["status"] == 200
        assert [message["body"] for message in messages[1:]] == [b"a", b"b", b""]
        assert places.free == 1

    asyncio.run(main())


def test_a_download_too_many_gets_a_503_and_a_place_is_free_again_after_one_ended() -> None:
    async def main() -> None:
        places, go = Places(1, 2), threading.Event()

        def slow() -> Iterator[bytes]:
            yield b"a"
            assert go.wait(10)

        first = asyncio.ensure_future(sent_by(answer(places, slow())))
        while places.free:
            await asyncio.sleep(0.01)
        refused = await sent_by(answer(places, iter([b"a"])))
        assert refused[0]["status"] == 503
        assert dict(refused[0]["headers"])[b"retry-after"] == b"10"
        go.set()
        assert (await first)[0]["status"] == 200
        assert (await sent_by(answer(places, iter([b"a"]))))[0]["status"] == 200

    asyncio.run(main())


def test_a_place_is_given_back_after_an_error_and_after_a_client_that_left() -> None:
    async def main() -> None:
        places = Places(1, 1)

        def broken() -> Iterator[bytes]:
            yield b"a"
            raise RuntimeError("a defect")

        with pytest.raises(RuntimeError, match="a defect"):
            await sent_by(answer(places, broken()))
        assert places.free == 1

        async def gone(message: Message) -> None:
            raise ConnectionResetError

        with pytest.raises((ConnectionResetError, ClientDisconnect)):
            await answer(places, iter([b"a"]))(SCOPE, never, gone)
        assert places.free == 1

    asyncio.run(main())
