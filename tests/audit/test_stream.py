"""What NATS has stored in AUDIT held against an export, by the bus user that auditors have."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from kakuremichi.audit import export
from kakuremichi.bus.provision import provision
from kakuremichi.bus.server import running_server
from kakuremichi_registry.against import differences, stream_rows
from kakuremichi_registry.trust import Trust
from support.exports import Made
from support.history import log_of
from support.real_registry import http, world


async def test_the_stream_holds_what_the_export_says_and_a_difference_is_named(
    dsn: str, trust: Trust, run_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "log.jsonl"
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_server(run_dir))
        registry, portal, provisioner, auditor = [
            await stack.enter_async_context(server.bus(role)) for role in ("registry", "portal", "provision", "auditor")
        ]
        for bus in (registry, portal, provisioner, auditor):
            await bus.wait_connected(10)
        await provision(provisioner)
        made = await stack.enter_async_context(world(dsn, trust, registry, portal))
        await made.enrol("site-a")
        for step in range(90):
            await made.ask(http("wiki", f"h{step}.example.com"))
        rows = await log_of(made.database, 10_000)
        until = rows[-1].seq
        async with asyncio.timeout(30):
            while (await auditor.stream_state("AUDIT")).messages < until:  # noqa: ASYNC110  # a stored row has no event
                await asyncio.sleep(0.05)
        log_id = (await made.database.fetch("select log_id from log_head"))[0]["log_id"]
        said = [export.encode(Made(rows, marks=()).header())]
        said += [export.encode(export.row_line(row.logged(log_id))) for row in rows]
        said += [export.encode(export.End(rows=until, hash=rows[-1].hash.hex()))]
        said[0] = said[0].replace(b"0123456789abcdef0123456789abcdef", log_id.encode())
        file.write_bytes(b"".join(said))
        assert await differences(file, stream_rows(auditor, until), "the stream") == []
        file.write_bytes(b"".join(said).replace(b"h44.example.com", b"h45.example.com"))
        (found,) = await differences(file, stream_rows(auditor, until), "the stream")
        assert found.startswith("log row 47: fact differ between")
        assert found.endswith("the row's own hash fits in the stream")
