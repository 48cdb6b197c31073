import pickle
from pathlib import Path
from typing import Annotated

import pytest
from msgspec import Meta, Struct

from kakuremichi.runtime.config import ConfigError, Secret, read_config


class Settings(Struct, frozen=True, kw_only=True):
    database_url: Annotated[str, Meta(description="the PostgreSQL URL of the registry")]
    password: Secret
    port: Annotated[int, Meta(ge=1, le=65535, description="a TCP port")] = 8443
    rate: float = 0.5
    debug: bool = False
    state_dir: Path = Path("/var/lib/kakuremichi")
    servers: tuple[str, ...] = ("nats://localhost:4222",)


GOOD = {"KAKUREMICHI_DATABASE_URL": "postgresql://db", "KAKUREMICHI_PASSWORD": "opensesame"}


def test_what_is_not_set_keeps_its_default() -> None:
    settings = read_config(Settings, GOOD)

    assert settings.database_url == "postgresql://db"
    assert settings.password.reveal() == "opensesame"
    assert (settings.port, settings.debug, settings.servers) == (8443, False, ("nats://localhost:4222",))


def test_texts_become_values() -> None:
    settings = read_config(
        Settings,
        {
            **GOOD,
            "KAKUREMICHI_PORT": "80",
            "KAKUREMICHI_RATE": "2",
            "KAKUREMICHI_DEBUG": "true",
            "KAKUREMICHI_STATE_DIR": "/srv/k",
            "KAKUREMICHI_SERVERS": "tls://a:4222, tls://b:4222,",
            "KAKUREMICHI_OTHER": "is somebody else's",
        },
    )

    assert (settings.port, settings.rate, settings.debug, settings.state_dir) == (80, 2.0, True, Path("/srv/k"))
    assert settings.servers == ("tls://a:4222", "tls://b:4222")


def test_all_faults_are_told_at_once_and_no_value_is_shown(tmp_path: Path) -> None:
    environ = {
        "KAKUREMICHI_PASSWORD": "opensesame",
        "KAKUREMICHI_PASSWORD_FILE": str(tmp_path / "password"),
        "KAKUREMICHI_PORT": "70000",
        "KAKUREMICHI_DEBUG": "perhaps",
        "KAKUREMICHI_STATE_DIR_FILE": str(tmp_path / "absent"),
    }

    with pytest.raises(ConfigError) as caught:
        read_config(Settings, environ)

    faults = caught.value.faults
    assert faults[0] == "KAKUREMICHI_DATABASE_URL: not set, the PostgreSQL URL of the registry"
    assert faults[1] == "KAKUREMICHI_PASSWORD: set twice, here and in KAKUREMICHI_PASSWORD_FILE"
    assert faults[2] == "KAKUREMICHI_PORT: Expected `int` <= 65535, a TCP port"
    assert faults[3].startswith("KAKUREMICHI_DEBUG: Expected `bool`")
    assert faults[4].startswith(f"KAKUREMICHI_STATE_DIR_FILE: {tmp_path}/absent cannot be read")
    assert len(faults) == 5
    assert "opensesame" not in str(caught.value)


def test_an_empty_variable_is_an_absent_one() -> None:
    with pytest.raises(ConfigError, match="KAKUREMICHI_DATABASE_URL: not set"):
        read_config(Settings, {**GOOD, "KAKUREMICHI_DATABASE_URL": ""})
    assert read_config(Settings, {**GOOD, "KAKUREMICHI_PORT": ""}).port == 8443


def test_a_file_holds_the_value_without_its_line_end(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from a file\n")

    settings = read_config(Settings, {"KAKUREMICHI_DATABASE_URL": "x", "KAKUREMICHI_PASSWORD_FILE": str(file)})

    assert settings.password.reveal() == "from a file"


def test_a_secret_hides_itself() -> None:
    settings = read_config(Settings, GOOD)

    assert "opensesame" not in f"{settings} {settings!r} {settings.password} {[settings.password]}"
    with pytest.raises(TypeError):
        pickle.dumps(settings.password)
