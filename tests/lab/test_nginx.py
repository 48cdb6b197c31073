"""nginx at a site with curl and wrk before it: large uploads and downloads, ranges, conditions, chunks, and load."""

import hashlib
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kakuremichi.fleet.lab_fleet import Fleet
from kakuremichi.lab.units import Unit
from support import visits
from support.fleet import eventually, put

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]  # whoever comes first starts the fleet

PORT = 9880
SIZE = 64 * 1024 * 1024
CONFIG = f"""
daemon off;
worker_processes 1;
user root;
pid {{folder}}/pid;
error_log stderr error;
events {{{{ }}}}
http {{{{
  access_log off;
  types {{{{ text/event-stream events; text/html html; }}}}
  client_body_temp_path {{folder}}/temp;
  server {{{{
    listen 127.0.0.1:{PORT};
    root {{folder}}/www;
    client_max_body_size 0;
    location /up/ {{{{ dav_methods PUT; }}}}
    location /events {{{{ gzip on; gzip_min_length 0; gzip_types text/event-stream; limit_rate 16k; }}}}
  }}}}
}}}}
"""


@pytest.fixture
def www(tmp_path: Path) -> Path:
    """What nginx serves and keeps."""
    www = tmp_path / "www"
    (www / "up").mkdir(parents=True)
    (www / "index.html").write_text("<p>hello</p>\n")
    (tmp_path / "nginx.conf").write_text(CONFIG.format(folder=tmp_path))
    return www


@pytest.fixture(autouse=True)
async def nginx(fleet: Fleet, tmp_path: Path, www: Path) -> AsyncIterator[None]:
    """On the loopback of site-a."""
    config = tmp_path / "nginx.conf"
    argv = ("/usr/sbin/nginx", "-p", str(tmp_path), "-c", str(config))
    log = str(fleet.directory / "nginx.log")
    await fleet.units.start(Unit(name="nginx", argv=argv, namespace=fleet.lab.namespace("site-a"), log=log))
    await eventually(lambda: visits.outcome(fleet.lab, "site-a", "127.0.0.1", PORT) == "open")
    yield
    await fleet.units.stop("nginx")


def published(fleet: Fleet, name: str) -> str:
    host = f"{name}.lab.test"
    put(fleet, name, kind="http", host=host, targets=[{"agent": "site-a", "port": PORT}])
    return host


def curl(fleet: Fleet, gateway: str, url: str, *words: str) -> str:
    """Its output, by HTTP/2 and TLS, the certificate checked."""
    host = url.partition("/")[0]
    certificate = fleet.directory / "certificates" / "lab.pem"
    resolved = ("--resolve", f"{host}:443:{fleet.lab.address(gateway)}")
    argv = ["curl", "-sS", "--http2", "--max-time", "60", "--cacert", str(certificate), *resolved, *words]
    done = fleet.lab.run("visitor", [*argv, f"https://{url}"], timeout=90)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_64_mib_come_and_go_whole(fleet: Fleet, www: Path, tmp_path: Path) -> None:
    host, content = published(fleet, "nginx-large"), os.urandom(SIZE)
    sent, received = tmp_path / "sent", tmp_path / "received"
    sent.write_bytes(content)
    upload = ("-T", str(sent), "-o", os.devnull, "-w", "%{http_version} %{http_code}")

    said = curl(fleet, "gw1", f"{host}/up/told", *upload)
    assert (said, digest(www / "up" / "told")) == ("2 201", digest(sent))
    said = curl(fleet, "gw2", f"{host}/up/untold", *upload, "-H", "content-length:")  # nobody knows its length before
    assert (said, digest(www / "up" / "untold")) == ("2 201", digest(sent))
    said = curl(fleet, "gw3", f"{host}/up/told", "-o", str(received), "-w", "%{http_code}")
    assert (said, digest(received)) == ("200", digest(sent))


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


async def test_ranges_and_conditions_are_the_targets_to_answer(fleet: Fleet, www: Path, tmp_path: Path) -> None:
    host = published(fleet, "nginx-range")
    (www / "numbers").write_text("".join(f"{number:08}\n" for number in range(100_000)))
    url, part = f"{host}/numbers", tmp_path / "part"

    code = curl(fleet, "gw1", url, "-r", "90000-90017", "-o", str(part), "-w", "%{http_code}")
    assert (code, part.read_text()) == ("206", "00010000\n00010001\n")
    several = curl(fleet, "gw1", url, "-r", "0-7,9-16", "-i")
    assert "multipart/byteranges" in several
    assert all(number in several for number in ("00000000", "00000001"))
    assert curl(fleet, "gw1", url, "-r", "9000000-", "-o", os.devnull, "-w", "%{http_code}") == "416"
    head = curl(fleet, "gw2", url, "-I")
    (tag,) = re.findall(r"(?im)^etag: (\S+)", head)
    conditional = curl(fleet, "gw2", url, "-H", f"If-None-Match: {tag}", "-o", str(part), "-w", "%{http_code}")
    assert conditional == "304"
    part.write_text("00000000\n0000")  # a download that broke off goes on where it was
    assert curl(fleet, "gw3", url, "-C", "-", "-o", str(part), "-w", "%{http_code}") == "206"
    assert part.read_bytes() == (www / "numbers").read_bytes()


async def test_chunks_pass_as_the_target_makes_them(fleet: Fleet, www: Path) -> None:
    host = published(fleet, "nginx-chunks")
    lines = "".join(
        f"data: {json.dumps({'number': number, 'noise': os.urandom(8).hex()})}\n\n" for number in range(500)
    )
    (www / "events").mkdir()
    (www / "events" / "all.events").write_text(lines)

    said = curl(fleet, "gw1", f"{host}/events/all.events", "--http1.1", "-i", "--compressed")

    head, _, body = said.partition("\n\n")
    assert "transfer-encoding: chunked" in head.lower()
    assert "content-encoding: gzip" in head.lower()
    assert body == lines


async def test_wrk_gets_only_good_answers(fleet: Fleet) -> None:
    host = published(fleet, "nginx-load")

    argv = ["wrk", "-t", "1", "-c", "32", "-d", "1s", "-H", f"Host: {host}", f"http://{fleet.lab.address('gw1')}/"]
    said = fleet.lab.run("visitor", argv, timeout=30, check=True).stdout

    assert re.search(r"^\s+[1-9]\d* requests in ", said, re.MULTILINE), said
    assert not re.search(r"Socket errors|Non-2xx", said), said
