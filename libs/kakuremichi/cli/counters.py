"""`kakuremichi counters [SERVICE]`: what passed through services, as their gateways have counted it."""

from typing import Any

import click

from kakuremichi.cli.options import complete_names, output_option, with_client
from kakuremichi.cli.output import print_json, print_names, print_table, talk

HEAD = ("OPEN", "COUNT", "RATE/S", "1XX", "2XX", "3XX", "4XX", "5XX", "REFUSED", "IN", "OUT")
CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")


@click.command()
@click.argument("service", required=False, shell_complete=complete_names("services"))
@click.option("--pool", help="Only services of this pool.")
@output_option
@with_client
def counters(client: Any, service: str | None, pool: str | None, output: str) -> None:
    """Show what passed through SERVICE, in all and at each gateway; without SERVICE the sums of all services.

    COUNT is requests of http, connections of tcp, flows of udp; REFUSED those that a rule or a limit of the service
    did not let through. Gateways are asked at this moment; one that does not answer is named.
    """
    if service is not None:
        answer = client.call("GET", "services", service, "counters")
        rows = [("(all)", answer["total"]), *((row["node"], row) for row in answer["gateways"])]
    else:
        answer = client.call("GET", "counters", query={"pool": pool} if pool else {})
        rows = [(item["name"], item["total"]) for item in answer["items"]]
    if output == "json":
        print_json(answer)
        return
    if output == "name":
        print_names([str(name) for name, _ in rows if name != "(all)"])
        return
    print_table(("GATEWAY" if service else "SERVICE", *HEAD), [(name, *cells(counted)) for name, counted in rows])
    for node in answer["silent"]:
        talk(f"gateway {node}: did not answer, it is not in these figures")
    for error in answer["errors"]:
        talk(f"gateway {error['node']}: {error['message']}")


def cells(counted: dict[str, Any]) -> tuple[str, ...]:
    """Under HEAD; `-` is what is not counted for this kind, or not known now."""
    statuses = counted["statuses"] or {}
    count = counted["connections"] if counted["requests"] is None else counted["requests"]
    refused = counted["limited"] if counted["denied"] is None else counted["denied"]
    rate = "-" if counted["rate"] is None else f"{counted['rate']:.1f}"
    numbers = (_number(statuses.get(name)) for name in CLASSES)
    return (
        _number(counted["open"]), _number(count), rate, *numbers, _number(refused),
        _size(counted["bytes_in"]), _size(counted["bytes_out"]),
    )  # fmt: skip


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _size(value: int | None) -> str:
    """Bytes with at most three digits before the point: `812`, `70.3k`, `1.2G`."""
    if value is None:
        return "-"
    size, unit = float(value), ""
    for larger in "kMGTPE":
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.1f}{unit}" if unit else str(value)
