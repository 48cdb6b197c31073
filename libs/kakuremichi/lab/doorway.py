"""A door from this machine's loopback into a host of the lab, for the person who looks at the portal.

    python -m kakuremichi.lab.doorway --listen 127.0.0.1:8080 --namespace kk-control --to 203.0.113.100:8080

Only for looking: visitors' bytes never pass here.
"""

import argparse
import asyncio
import contextlib
import socket

from kakuremichi.lab.namespaces import in_namespace

_CHUNK = 65536


async def serve(listen: tuple[str, int], namespace: str, to: tuple[str, int]) -> None:
    """Accept on `listen`, connect to `to` inside `namespace`, carry bytes both ways until either side ends."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            far_reader, far_writer = await _connect(namespace, to)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pump(reader, far_writer))
                tasks.create_task(_pump(far_reader, writer))
        writer.close()

    server = await asyncio.start_server(carry, *listen)
    await server.serve_forever()


async def _connect(namespace: str, to: tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    with in_namespace(namespace):
        made = socket.socket()
    made.setblocking(False)  # the standard library's signature
    await asyncio.get_running_loop().sock_connect(made, to)
    return await asyncio.open_connection(sock=made)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def main() -> None:
    parser = argparse.ArgumentParser(prog="kakuremichi.lab.doorway")
    parser.add_argument("--listen", type=_address, required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--to", type=_address, required=True)
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(options.listen, options.namespace, options.to))


if __name__ == "__main__":
    main()
