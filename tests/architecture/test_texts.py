"""What must not stand in any committed file: where this machine keeps the clone and where it gets its packages from."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIP_SETTINGS = (Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf")
PUBLIC = {"pypi.org", "files.pythonhosted.org", "localhost", "127.0.0.1"}


def committed_files() -> list[Path]:
    """Tracked files and those that would be added; nothing outside a clone."""
    argv = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git clone: nobody commits from here")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def texts() -> dict[str, str]:
    return {str(path.relative_to(ROOT)): path.read_bytes().decode(errors="replace") for path in committed_files()}


def package_hosts() -> set[str]:
    """Hosts of the package index that this machine uses, unless everybody uses it."""
    settings = [path.read_text() for path in PIP_SETTINGS if path.exists()]
    settings += [value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_"))]
    found = {match for text in settings for match in re.findall(r"https?://(?:[^/@\s]*@)?([^/:\s]+)", text)}
    return found - PUBLIC


def test_no_file_names_the_folder_of_this_clone_or_the_package_index_of_this_machine() -> None:
    # A clone in a folder directly under / would forbid every text that has the word.
    places = {str(ROOT)} if len(ROOT.parts) > 2 else set()
    forbidden = places | package_hosts()
    found = {(name, word) for name, text in texts().items() for word in forbidden if word in text}
    assert not found


def test_requirements_name_versions_and_hashes_but_no_address() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        assert "://" not in text, f"{path.name}: an address of a package index"
        assert "--index-url" not in text
        assert "--find-links" not in text


def test_no_text_is_left_for_later() -> None:
    word = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    found = {name for name, text in texts().items() if name.endswith((".py", ".sh", "Makefile")) and word.search(text)}
    assert not found
