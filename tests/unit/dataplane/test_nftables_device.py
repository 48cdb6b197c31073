"""How nft's answers become errors. The command is replaced by small shell scripts."""

import asyncio

import pytest

from kakuremichi.dataplane.nftables import conntrack, device
from kakuremichi.dataplane.nftables.device import NftTable
from kakuremichi.dataplane.nftables.errors import DeviceError, RefusedError
from kakuremichi.dataplane.nftables.render import DeleteTable


def table(script: str) -> NftTable:
    return NftTable("kk", command=("sh", "-c", script))


async def test_the_reason_is_the_first_error_line() -> None:
    answer = (
        "cat >/dev/null; echo '/dev/stdin:1:1-9: Error: Could not process rule: File exists' >&2; echo ^^ >&2; exit 1"
    )

    with pytest.raises(RefusedError, match=r"^nft: Could not process rule: File exists$"):
        await table(answer).apply((DeleteTable(),))


async def test_a_table_that_is_missing_is_no_error_and_another_failure_is() -> None:
    assert await table("echo 'Error: No such file or directory; did you mean x' >&2; exit 1").read() is None
    with pytest.raises(DeviceError, match="syntax error"):
        await table("echo 'Error: syntax error' >&2; exit 1").read()


async def test_missing_rights_name_the_capability() -> None:
    with pytest.raises(DeviceError, match="CAP_NET_ADMIN"):
        await table("echo 'Operation not permitted (you must be root)' >&2; exit 1").apply((DeleteTable(),))


async def test_a_missing_program_is_said_to_be_missing() -> None:
    with pytest.raises(DeviceError, match="cannot be started"):
        await NftTable("kk", command=("/nowhere/nft",)).read()


async def test_a_killed_program_leaves_doubt() -> None:
    with pytest.raises(DeviceError, match="killed by signal 9"):
        await table("kill -9 $$").apply((DeleteTable(),))


async def test_no_answer_leaves_doubt_and_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_TIMEOUT_S", 0.05)

    with pytest.raises(DeviceError, match="no answer"):
        await table("exec sleep 30").apply((DeleteTable(),))


async def test_another_ones_transaction_in_between_is_tried_again_a_few_times() -> None:
    text = "Error: Could not process rule: Interrupted system call should be restarted"

    with pytest.raises(RefusedError, match="Interrupted"):
        await asyncio.wait_for(table(f"cat >/dev/null; echo '{text}' >&2; exit 1").apply((DeleteTable(),)), 10)


@pytest.mark.parametrize("mark", [0, 1, 0x6B000000, 0x6A000001, 0x16B000001])
async def test_flows_of_others_are_never_flushed(mark: int) -> None:
    with pytest.raises(ValueError, match="not one of ours"):
        await conntrack.flush(mark)


async def test_nothing_to_flush_is_nothing_to_do() -> None:
    await conntrack.flush_all(())
