"""The client against a socket that answers whatever the test says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kakuremichi.dataplane.haproxy.client import (
    MAX_PAYLOAD,
    CommandRefusedError,
    ProxyError,
    ProxyUnavailableError,
    RuntimeClient,
)


@asynccontextmanager
async def answering(path: Path, answer: Callable[[str], str]) -> AsyncIterator[list[str]]:
    heard: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append((await reader.read(65536)).decode())
        writer.write(answer(heard[-1]).encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    async with server:
        yield heard


async def test_each_command_gets_its_reply(run_dir: Path) -> None:
    path = run_dir / "s"
    async with answering(
        path, lambda _: "\n> New server registered.\n\n> \n> Server deleted.\n> a\nb\n\n> \n"
    ) as heard:
        replies = await RuntimeClient(path).execute([("one",), ("two", "x"), ("three",), ("four",)])

    assert replies == ["New server registered.", "", "Server deleted.", "a\nb"]
    assert heard == ["prompt\none\ntwo x\nthree\nfour\nquit\n"]


async def test_a_connection_that_ends_early_is_an_error_that_says_how_far_it_came(run_dir: Path) -> None:
    path = run_dir / "s"
    async with answering(path, lambda _: "\n> \n> "):
        with pytest.raises(ProxyError, match="1 of 3 commands were answered"):
            await RuntimeClient(path).execute([("one",), ("two",), ("three",)])


async def test_nobody_at_the_socket_is_an_error_of_its_own(run_dir: Path) -> None:
    with pytest.raises(ProxyUnavailableError, match="nobody answers"):
        await RuntimeClient(run_dir / "s").execute([("show", "info")])


async def test_silence_ends_with_an_error(run_dir: Path) -> None:
    left = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass
        writer.close()
        await writer.wait_closed()
        left.set()

    server = await asyncio.start_unix_server(hang, run_dir / "s")
    async with server:
        with pytest.raises(ProxyUnavailableError, match=r"no answer within 0\.05 s"):
            await RuntimeClient(run_dir / "s", timeout_s=0.05).execute([("show", "info")])
        await left.wait()


@pytest.mark.parametrize("word", ["", "a b", "a;b", "a\nb", "a\\", "#", "<<", "a'b", 'a"b', "ü", "a\0", "a\n"])
async def test_a_word_that_could_end_a_command_is_never_sent(run_dir: Path, word: str) -> None:
    path = run_dir / "s"
    async with answering(path, lambda _: "") as heard:
        with pytest.raises(CommandRefusedError, match="not allowed"):
            await RuntimeClient(path).execute([("add", "map", word)])
        assert heard == []


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [("x" * MAX_PAYLOAD, "15360"), ("a\n\nb", "empty line"), ("", "empty line"), ("a\r\nb", "control")],
)
async def test_a_payload_that_would_be_dropped_or_cut_is_refused(run_dir: Path, payload: str, sentence: str) -> None:
    with pytest.raises(CommandRefusedError, match=sentence):
        await RuntimeClient(run_dir / "s").send_payload(("set", "ssl", "cert", "x.pem"), payload)


async def test_silence_after_a_payload_means_that_it_was_dropped(run_dir: Path) -> None:
    path = run_dir / "s"
    async with answering(path, lambda _: "\n") as heard:
        with pytest.raises(ProxyError, match="the payload was dropped"):
            await RuntimeClient(path).send_payload(("set", "ssl", "cert", "x.pem"), "line\n")
    assert heard == ["set ssl cert x.pem <<\nline\n\n"]
