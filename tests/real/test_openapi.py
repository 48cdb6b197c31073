"""The running portal held against its own OpenAPI document, by requests that schemathesis makes of it.

Registry, NATS and PostgreSQL are real. The requests are the same in every run.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import (
    CheckFunction,
    content_type_conformance,
    negative_data_rejection,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode

from support.deployment import Deployment, running_deployment

pytestmark = [
    pytest.mark.timeout(300),
    # schemathesis draws from `random`, which hypothesis seeds.
    pytest.mark.filterwarnings("ignore:Do not use the `random` module"),
]

CONFORMS: list[CheckFunction] = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip
BOUNDED = settings(
    max_examples=20, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
STREAMS = "text/event-stream"  # has no end


@pytest.fixture
async def deployment(run_dir: Path) -> AsyncIterator[Deployment]:
    async with running_deployment(run_dir) as made:
        await made.join("gateway", "gw1")
        await made.join("agent", "site-a")
        code, _, said = await made.cli("service", "publish", "wiki", "--http", "w.example.com", "--to", "site-a:80")
        assert code in (0, 7), said
        yield made


def operations(session: requests.Session, url: str) -> Iterator[Any]:
    """Those of the API; what streams and what shows pages is left out."""
    document = session.get(f"{url}/api/v1/openapi.json", timeout=10).json()
    document["paths"] = {
        path: {method: one for method, one in item.items() if STREAMS not in str(one["responses"])}
        for path, item in document["paths"].items()
        if path.startswith("/api/v1/")
    }
    schema = schemathesis.openapi.from_dict(document)
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        yield found.ok()


def failures(
    operation: Any,
    mode: GenerationMode,
    checks: list[CheckFunction],
    *,
    session: requests.Session,
    url: str,
    path: dict[str, str] | None,
) -> list[str]:
    """What of the answers to generated requests does not conform."""
    found: dict[str, None] = {}

    @BOUNDED
    @given(case=operation.as_strategy(mode, path_parameters=path))
    def ask(case: Any) -> None:
        try:
            response = case.call(base_url=url, session=session, timeout=30)
            case.validate_response(response, checks=checks, transport_kwargs={"session": session})
        except FailureGroup as group:
            for failure in group.exceptions:
                found[f"{operation.label}: {failure}\n{case.as_curl_command()}"] = None

    try:
        ask()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, operation.label  # an operation without parameters forbids nothing
    return list(found)


def session_of(deployment: Deployment) -> requests.Session:
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {(deployment.folder / 'admin.token').read_text()}"
    return session


def play(deployment: Deployment, mode: GenerationMode, checks: list[CheckFunction], name: str = "") -> list[str]:
    found: list[str] = []
    with session_of(deployment) as session:
        asked = 0
        for operation in operations(session, deployment.url):
            named = "{name}" in operation.path
            if named or not name:
                asked += 1
                path = {"name": name} if name else None
                found += failures(operation, mode, checks, session=session, url=deployment.url, path=path)
        assert asked
    return found


async def test_answers_are_those_of_the_document(deployment: Deployment) -> None:
    assert await asyncio.to_thread(play, deployment, GenerationMode.POSITIVE, CONFORMS) == []


async def test_answers_about_what_exists_are_those_of_the_document(deployment: Deployment) -> None:
    for name in ("wiki", "gw1", "site-a"):
        assert await asyncio.to_thread(play, deployment, GenerationMode.POSITIVE, CONFORMS, name) == []


async def test_what_the_document_forbids_is_refused(deployment: Deployment) -> None:
    checks = [*CONFORMS, negative_data_rejection]
    assert await asyncio.to_thread(play, deployment, GenerationMode.NEGATIVE, checks) == []


SSH = {"kind": "tcp", "port": 10022, "targets": [{"agent": "site-a", "address": "192.168.7.9", "port": 22}]}
SERVICE, SERVICES = "/api/v1/services/{name}", "/api/v1/services"
AGENT = "/api/v1/agents/{name}"
ONE_AFTER_THE_OTHER: tuple[tuple[str, dict[str, Any], int], ...] = (
    (f"PUT {SERVICE}", {"body": SSH, "query": {"dry_run": "1"}}, 200),
    (f"PUT {SERVICE}", {"body": SSH, "headers": {"If-Match": "*"}}, 412),
    (f"PUT {SERVICE}", {"body": SSH, "headers": {"If-None-Match": "*", "Idempotency-Key": "once"}}, 200),
    (f"PUT {SERVICE}", {"body": SSH, "headers": {"If-None-Match": "*"}}, 412),
    (f"PUT {SERVICE}", {"body": SSH | {"port": 1}, "headers": {"Idempotency-Key": "once"}}, 409),
    (f"PUT {SERVICE}", {"body": SSH, "query": {"wait": "applied", "timeout": "0.2"}}, 200),
    (f"GET {SERVICE}", {}, 200),
    (f"GET {SERVICE}", {"headers": {"If-None-Match": "*"}}, 304),
    (f"GET {SERVICES}", {"query": {"limit": 1, "kind": "tcp"}}, 200),
    (f"PUT {SERVICE}", {"body": SSH | {"source": "fleet"}}, 409),
    (f"PUT {SERVICE}", {"body": SSH | {"source": "fleet"}, "query": {"adopt": "by-hand"}}, 200),
    (f"DELETE {SERVICE}", {"query": {"source": "other"}}, 409),
    (f"DELETE {SERVICE}", {"query": {"source": "fleet", "dry_run": "1"}}, 200),
    (f"DELETE {SERVICE}", {"headers": {"If-Match": '"1"'}}, 412),
    (f"DELETE {SERVICE}", {}, 200),
    (f"POST {SERVICES}", {"body": SSH | {"name": "ssh"}}, 201),
    (f"POST {SERVICES}", {"body": SSH | {"name": "ssh"}}, 409),
    ("POST /api/v1/tokens", {"body": {"role": "agent", "node": "new"}, "query": {"dry_run": "1"}}, 200),
    ("POST /api/v1/tokens", {"body": {"role": "agent", "node": "new"}}, 201),
    (f"GET {AGENT}", {}, 200),
    (f"DELETE {AGENT}", {}, 409),
    (f"DELETE {AGENT}", {"query": {"cascade": "true", "dry_run": "1"}}, 200),
    (f"DELETE {AGENT}", {"query": {"cascade": "true"}, "headers": {"If-Match": '"1"'}}, 412),
    (f"POST {AGENT}/revoke", {"query": {"dry_run": "1"}}, 200),
    (f"DELETE {AGENT}", {"query": {"cascade": "true"}}, 200),
    ("GET /api/v1/gateways", {"query": {"limit": 1, "state": "enrolled"}}, 200),
    ("GET /api/v1/events", {"query": {"limit": 3}}, 200),
)  # fmt: skip


def play_one_after_the_other(deployment: Deployment) -> None:
    with session_of(deployment) as session:
        known = {operation.label: operation for operation in operations(session, deployment.url)}
        for label, given, status in ONE_AFTER_THE_OTHER:
            operation = known[label]
            name = {SERVICE: "ssh"}.get(operation.path, "site-a")
            path = {"name": name} if "{name}" in operation.path else {}
            case = operation.Case(path_parameters=path, **given)
            response = case.call_and_validate(base_url=deployment.url, session=session, checks=CONFORMS)
            assert response.status_code == status, (label, given, response.text)


async def test_each_kind_of_answer_is_that_of_the_document(deployment: Deployment) -> None:
    await asyncio.to_thread(play_one_after_the_other, deployment)


async def test_one_thing_is_not_taken_for_another(deployment: Deployment) -> None:
    """A method that is not offered, a name of another kind, a body of another kind."""
    with session_of(deployment) as session:
        url = f"{deployment.url}/api/v1"
        for method, path, sent, status in (
            ("PATCH", "services/wiki", {"json": SSH}, 405),
            ("PUT", "services", {"json": SSH}, 405),
            ("GET", "agents/site-a/revoke", {}, 405),
            ("GET", "services/wiki", {"headers": {"X-HTTP-Method-Override": "DELETE"}}, 200),
            ("DELETE", "gateways/site-a", {}, 404),
            ("POST", "agents/gw1/revoke", {}, 404),
            ("GET", "agents/wiki", {}, 404),
            ("DELETE", "services/gw1", {}, 404),
            ("GET", "tokens/wiki", {}, 404),
            ("PUT", "services/wiki", {"data": "kind=tcp&port=10022"}, 415),
            ("PUT", "services/wiki", {"data": "kind: tcp", "headers": {"Content-Type": "application/yaml"}}, 415),
            ("PUT", "services/wiki", {"data": "[" * 60_000, "headers": {"Content-Type": "application/json"}}, 400),
            ("PUT", "services/wiki", {"data": " " * 70_000, "headers": {"Content-Type": "application/json"}}, 413),
        ):
            response = await asyncio.to_thread(session.request, method, f"{url}/{path}", timeout=10, **sent)
            assert response.status_code == status, (method, path, response.text)
            assert ("Allow" in response.headers) == (status == 405)
        services = await asyncio.to_thread(session.get, f"{url}/services", timeout=10)
        assert [item["name"] for item in services.json()["items"]] == ["wiki"]
