"""`kakuremichi propagation [SEQ]`: how a change came to each node, or how the newest ones did; `kakuremichi trace`."""

from typing import Any

import click

from kakuremichi.cli.options import output_option, with_client
from kakuremichi.cli.output import print_json, print_names, print_table, talk

WIDTH = 40  # of the drawn way, in columns
SIGNS = {"deliver": "·", "decide": "-", "apply": "=", "report": ">"}


@click.command()
@click.argument("seq", required=False, type=click.IntRange(min=1))
@output_option
@with_client
def propagation(client: Any, seq: int | None, output: str) -> None:
    """Show when each node had the event SEQ applied, stage by stage; without SEQ the figures of the newest events.

    A drawn way goes from the moment of writing to the arrival of the node's report:
    · under way, - deciding, = applying, > reporting.
    """
    answer = client.call("GET", "events", str(seq), "propagation") if seq else client.call("GET", "propagation")
    if output == "json":
        print_json(answer)
    elif output == "name":
        print_names([row["node"] for row in answer["nodes" if seq else "behind"]])
    elif seq:
        _print_event(answer)
    else:
        _print_fleet(answer)


@click.command()
@click.argument("trace_id")
@output_option
@with_client
def trace(client: Any, trace_id: str, output: str) -> None:
    """Show the spans of TRACE_ID, from the request to what each node did. A write and its event name their trace."""
    answer = client.call("GET", "traces", trace_id)
    spans = answer["spans"]
    if output == "json":
        print_json(answer)
    elif output == "name":
        print_names([span["name"] for span in spans])
    else:
        print_table(("STEP", "PROCESS", "START MS", "TOOK MS", "ERROR"), _tree(spans))


def _print_event(answer: dict[str, Any]) -> None:
    rows = answer["nodes"]
    last = max((stage["end_ms"] for row in rows for stage in row["stages"]), default=0.0)
    print_table(
        ("NODE", "FEED", "STATE", "APPLIED MS", "WAY", "WHY NOT"),
        [
            (
                row["node"],
                row["feed"],
                row["state"],
                _ms(row.get("applied_ms")),
                _drawn(row["stages"], last),
                row["reason"],
            )
            for row in rows
        ],
    )
    talk(f"event {answer['seq']} of {answer['at']}: applied {answer['applied']}, pending {answer['pending']}, "
         f"offline {answer['offline']}; p50 {_ms(answer['p50_ms'])} ms, p99 {_ms(answer['p99_ms'])} ms")  # fmt: skip


def _print_fleet(answer: dict[str, Any]) -> None:
    stages = [(stage["name"], _ms(stage["p50_ms"]), _ms(stage["p99_ms"])) for stage in answer["stages"]]
    print_table(("STAGE", "P50 MS", "P99 MS"), [*stages, ("applied", _ms(answer["p50_ms"]), _ms(answer["p99_ms"]))])
    talk(f"{answer['events']} events, {answer['samples']} times applied, {len(answer['behind'])} nodes behind")
    for row in answer["behind"]:
        talk(f"{row['node']}: {row['behind']} behind: {row['reason']}")


def _drawn(stages: list[dict[str, Any]], last_ms: float) -> str:
    """One sign for each part of the time until the last report of all."""
    if not stages or last_ms <= 0:
        return ""
    signs = []
    for column in range(WIDTH):
        moment = (column + 0.5) * last_ms / WIDTH
        signs.append(next((SIGNS.get(each["name"], "?") for each in stages if moment < each["end_ms"]), " "))
    return "".join(signs).rstrip()


def _tree(spans: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    """Each below the one that caused it, by their start. Who caused it may be unknown, or said to be one another."""
    known = {span["span_id"] for span in spans}
    below: dict[str, list[dict[str, Any]]] = {}
    for span in spans:
        below.setdefault(span["parent_id"] if span["parent_id"] in known else "", []).append(span)
    rows: list[tuple[object, ...]] = []
    waiting = [(0, span) for span in reversed(below.get("", []))]
    while waiting:
        depth, span = waiting.pop()
        name = "  " * depth + span["name"]
        rows.append((name, span["process"], _ms(span["offset_ms"]), _ms(span["duration_ms"]), span["error"]))
        waiting += [(depth + 1, child) for child in reversed(below.pop(span["span_id"], []))]
    return rows


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
