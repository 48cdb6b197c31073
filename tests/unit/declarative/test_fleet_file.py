"""The declarative file: its form, all faults at once, and the way back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.declarative.fleet_file import FleetFile, parse, write
from kakuremichi.declarative.spec import ServiceSpec, TargetIn
from kakuremichi.declarative.strict_yaml import FileRefusedError
from kakuremichi.model.ids import NodeId
from kakuremichi.model.options import Headers, Http, Limits, Options

FLEET = """\
source: fleet
services:
  wiki:
    kind: http
    host: wiki.example.com
    targets:
      - {agent: site-a, port: 8080}
    options:
      http:
        pages: {503: "<h1>later</h1>"}
  ssh:
    kind: tcp
    port: 10022
    sources: [198.51.100.0/24]
    targets:
      - agent: site-b
        address: 192.168.2.130
        port: 22
"""


def refusal(text: str) -> list[str]:
    with pytest.raises(FileRefusedError) as caught:
        parse(text.encode(), "f.yaml")
    return str(caught.value).splitlines()


def test_a_file_names_its_source_and_its_services() -> None:
    file = parse(FLEET.encode(), "f.yaml")
    assert file.source == "fleet"
    assert file.services["ssh"] == ServiceSpec(
        kind="tcp", port=10022, sources=("198.51.100.0/24",),
        targets=(TargetIn(agent=NodeId("site-b"), address="192.168.2.130", port=22),),
    )  # fmt: skip
    assert file.services["wiki"].options.http.pages == {503: "<h1>later</h1>"}


def test_all_faults_are_told_at_once_with_their_lines() -> None:
    text = """\
source: Fleet
colour: red
services:
  wiki:
    kind: http
    hots: wiki.example.com
  ssh:
    kind: tcp
    targets:
      - {agent: site-a, port: 22}
      - {agent: Site, port: 22}
  "a b": {kind: http}
  game:
    kind: udp
    port: "6000"
"""
    assert refusal(text) == [
        "f.yaml:2: 'colour' is not known here; there are source and services",
        "f.yaml:1: source: 1 to 31 of a-z, 0-9 and `-`, not led by `-`",
        "f.yaml:6: service wiki.hots: Object contains unknown field `hots`",
        "f.yaml:11: service ssh.targets.1.agent: 1 to 31 of a-z, 0-9 and `-`, not led by `-`",
        "f.yaml:12: service 'a b': 1 to 31 of a-z, 0-9 and `-`, not led by `-`",
        "f.yaml:15: service game.port: Expected `int`, got `str`",
    ]


@pytest.mark.parametrize(
    "text", ["", "[]", "a", "source: x\n", "services:\n", "services: []\n", "services: {wiki: }", "services: {a: [1]}"]
)
def test_a_file_that_forgets_its_services_removes_none(text: str) -> None:
    assert refusal(text)


def test_no_services_at_all_has_to_be_said() -> None:
    assert parse(b"services: {}", "f.yaml") == FleetFile("", {})


@pytest.mark.parametrize("source", ["by-hand", "", "A", "1.5", "[a]", "a" * 32, "null"])
def test_a_source_that_cannot_be_one_is_refused(source: str) -> None:
    assert refusal(f"source: {source}\nservices: {{}}\n")


names = st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,30}\Z")
text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)
specs = st.builds(
    ServiceSpec,
    kind=st.sampled_from(["http", "tcp", "udp"]), pool=names, host=text, path=text,
    port=st.integers(0, 65535), last_port=st.just(0), sources=st.lists(text, max_size=3).map(tuple),
    targets=st.lists(st.builds(TargetIn, agent=names, address=text, port=st.integers(1, 65535)), max_size=2).map(tuple),
    options=st.builds(
        Options,
        limits=st.builds(Limits, rate=st.integers(0, 10)),
        http=st.builds(
            Http,
            request=st.builds(Headers, set=st.dictionaries(text, text, max_size=2)),
            pages=st.dictionaries(st.sampled_from([503, 403]), text, max_size=2),
        ),
    ),
)  # fmt: skip


@given(names.filter(lambda name: name != "by-hand"), st.dictionaries(names, specs, max_size=3))
def test_what_is_written_is_read_as_it_was(source: str, services: dict[str, ServiceSpec]) -> None:
    file = FleetFile(source, services)
    assert parse(write(file).encode(), "f.yaml") == file


def test_what_is_usual_is_not_written() -> None:
    file = FleetFile("", {"ssh": ServiceSpec(kind="tcp", port=10022, last_port=10022)})
    assert write(file) == "services:\n  ssh:\n    kind: tcp\n    port: 10022\n"
