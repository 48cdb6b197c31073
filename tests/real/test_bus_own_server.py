"""A NATS of one's own: what `kakuremichi trust init` writes is what nats-server takes, and `up` goes on with it."""

import subprocess
from pathlib import Path

from kakuremichi.bus.config import TlsFiles
from kakuremichi.bus.issuer import open_issuer
from kakuremichi.bus.own_server import OPERATOR_FOLDER, OwnServer, write_server_config
from kakuremichi.bus.server import find_nats_server
from kakuremichi.fleet.ca import Ca
from kakuremichi.fleet.control_plane import ControlPlane, Options


def test_nats_server_takes_the_configuration(tmp_path: Path) -> None:
    ca = Ca(tmp_path / "tls")
    ca.prepare({"127.0.0.1"})
    tls = TlsFiles(ca.server_certificate, ca.server_key)
    server = OwnServer(listen="127.0.0.1:4222", store_dir=tmp_path / "store", tls=tls)

    _, path = write_server_config(tmp_path / "server", server)

    done = subprocess.run([find_nats_server(), "-t", "-c", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "handshake_first: true" in path.read_text()


def test_a_control_plane_goes_on_with_the_operator_that_it_is_given(tmp_path: Path) -> None:
    given, _ = write_server_config(tmp_path / "server", OwnServer())
    control = ControlPlane(Options(directory=tmp_path / "control", trust=tmp_path / "server"))

    control._take_operator()

    taken = tmp_path / "control" / OPERATOR_FOLDER
    assert {file.relative_to(given.directory) for file in given.directory.rglob("*")} == {
        file.relative_to(taken) for file in taken.rglob("*")
    }
    assert open_issuer(taken / "registry").account == given.accounts.public("EDGE")
    (taken / "operator.jwt").write_text("kept")
    control._take_operator()
    assert (taken / "operator.jwt").read_text() == "kept"
