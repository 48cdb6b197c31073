"""Steps between files and fleets, carried out by requests: one for each service, each with its own outcome."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from kakuremichi.cli.applied import ANSWER_SLACK_S, wait_query
from kakuremichi.cli.exits import CONFLICT, DENIED, UNREACHABLE, CliError
from kakuremichi.declarative.diff import Conflict, Create, Remove, Replace, Standing, Step, standing_of
from kakuremichi.declarative.spec import BY_HAND

Json = dict[str, Any]
PAGE = "1000"


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one step. `late` are nodes that have not applied it yet; `exit_code` belongs to `error`."""

    name: str
    sentence: str = ""
    changed: bool = False
    changes: tuple[Json, ...] = ()
    late: tuple[str, ...] = ()
    error: str = ""
    exit_code: int = 0
    holders: frozenset[str] = frozenset()

    def shown(self) -> Json:
        return {
            "name": self.name, "changed": self.changed, "what": self.sentence, "changes": list(self.changes),
            "pending": list(self.late), "error": self.error,
        }  # fmt: skip


def standing_services(client: Any) -> dict[str, Standing]:
    found: dict[str, Standing] = {}
    after: dict[str, str] = {}
    while True:
        page = client.call("GET", "services", query={"limit": PAGE, **after})
        try:
            found |= {str(item["name"]): standing_of(item) for item in page["items"]}
        except (msgspec.ValidationError, KeyError, TypeError) as error:
            raise CliError(f"a service of this portal is not understood: {error}; is it newer?", UNREACHABLE) from error
        if not page.get("next_after"):
            return found
        after = {"after": page["next_after"]}


class Applying:
    """Writes in the name of one source. What was changed since it was looked at is refused, not overwritten."""

    def __init__(self, client: Any, source: str) -> None:
        self._client, self._source = client, source

    def plan(self, steps: Sequence[Step]) -> tuple[Done, ...]:
        """What the registry says to each, written nothing. A holder that would be gone by then is no refusal."""
        leaving = {step.name for step in steps if isinstance(step, Remove | Replace)}
        found: list[Done] = []
        for step in steps:
            one = self._unless_lost(step, found, {"dry_run": "1"})
            if one.error and one.exit_code == CONFLICT and one.holders and one.holders <= leaving:
                waits = ", ".join(sorted(one.holders))
                one = Done(step.name, f"{_verb(step)} {step.name} once {waits} has made room", changed=True)
            found.append(one)
        return tuple(found)

    def run(self, steps: Sequence[Step], *, wait_s: float | None) -> tuple[Done, ...]:
        """All of them, also when some are refused. What others stand in the way of is tried again after them."""
        outcomes: dict[str, Done] = {}
        left, late = list(steps), False
        while left:
            again = []
            for step in left:
                # Once a node is late, it would be waited for again and again.
                query = wait_query(wait=True, timeout_s=wait_s) if wait_s is not None and not late else {}
                one = self._unless_lost(step, outcomes.values(), query, timeout_s=(wait_s or 0) + ANSWER_SLACK_S)
                outcomes[step.name] = one
                late = late or bool(one.late)
                if one.error and one.holders & {other.name for other in left if other is not step}:
                    again.append(step)
            if len(again) == len(left):
                break
            left = again
        return tuple(outcomes[step.name] for step in steps)

    def _unless_lost(self, step: Step, done: Iterable[Done], query: Json, *, timeout_s: float | None = None) -> Done:
        """Without a portal, or without the right to write, each of the others would be refused alike."""
        lost = next((one for one in done if one.exit_code in (UNREACHABLE, DENIED)), None)
        if lost is not None:
            return Done(step.name, error="not tried", exit_code=lost.exit_code)
        return self._do(step, query, timeout_s=timeout_s)

    def _do(self, step: Step, query: Json, *, timeout_s: float | None = None) -> Done:
        if isinstance(step, Conflict):
            owner = f"comes from source {step.owner}" if step.owner else "was published by hand"
            hint = f"--adopt {step.owner or BY_HAND} takes it over"
            return Done(step.name, error=f"service {step.name}: {owner}, not touched; {hint}", exit_code=CONFLICT)
        try:
            request = request_of(step, self._source)
            answer = self._client.call(
                request.method, "services", request.name, body=request.body, query={**request.query, **query},
                headers=request.headers, timeout_s=timeout_s,
            )  # fmt: skip
        except CliError as error:
            return Done(step.name, error=error.message, exit_code=error.exit_code, holders=frozenset(error.holders))
        changed = bool(answer["changed"])
        return Done(
            step.name, f"{_verb(step)} {step.name}{_fields(step)}" if changed else f"{step.name} unchanged", changed,
            tuple(answer.get("changes", ())), tuple(answer.get("pending", ())),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    name: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: Json | None = None


def request_of(step: Create | Replace | Remove, source: str) -> Request:
    """The write, on the condition that nobody else was there meanwhile. Pure."""
    if isinstance(step, Remove):
        return Request("DELETE", step.name, {"If-Match": f'"{step.seq}"'}, {"source": source})
    body = msgspec.to_builtins(step.spec, str_keys=True) | {"source": source}
    if isinstance(step, Create):
        return Request("PUT", step.name, {"If-None-Match": "*"}, {}, body)
    query = {} if step.adopts is None else {"adopt": step.adopts or BY_HAND}
    return Request("PUT", step.name, {"If-Match": f'"{step.seq}"'}, query, body)


def _verb(step: Step) -> str:
    return {Create: "publish", Replace: "change", Remove: "remove"}[type(step)]


def _fields(step: Step) -> str:
    return f": {', '.join(step.fields)}" if isinstance(step, Replace) else ""
