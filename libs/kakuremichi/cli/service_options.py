"""The flags of `kakuremichi service publish` that become the service's `options` in the API's JSON."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

LIMITS = (
    "connections",
    "connections_per_client",
    "rate",
    "rate_per_client",
    "bandwidth",
    "bandwidth_per_client",
    "body",
)
TIMEOUTS = ("response", "idle")

_FLAGS = (
    click.option("--exact", is_flag=True, help="--http: --path is the whole path, not a prefix."),
    click.option("--strip-prefix", is_flag=True, help="--http: the target does not see the path prefix."),
    click.option("--replace-prefix", default="", metavar="PATH", help="--http: the target sees PATH in its place."),
    click.option("--https-only", is_flag=True, help="--http: redirect visitors of port 80."),
    click.option("--set-header", "headers", multiple=True, metavar="NAME=VALUE", help="--http: of requests."),
    click.option("--upstream", type=click.Choice(["http", "https", "h2c"]), default="http", help="--http: protocol."),
    click.option("--insecure", is_flag=True, help="--upstream https: take any certificate of the target."),
    click.option("--server-name", default="", metavar="NAME", help="--upstream https: the name on the certificate."),
    click.option("--ca", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="--upstream https: PEM."),
    click.option("--proxy-protocol", type=click.IntRange(1, 2), help="Tell the target the visitor's address."),
    click.option("--limit", "limits", multiple=True, metavar="NAME=NUMBER", help=f"One of {', '.join(LIMITS)}."),
    click.option("--timeout-of", "timeouts", multiple=True, metavar="NAME=SECONDS", help=f"{' or '.join(TIMEOUTS)}."),
    click.option("--access-log", type=click.IntRange(0), default=0, metavar="N", help="Log one request in N."),
    click.option("--paused", is_flag=True, help="--http: visitors read 503."),
    click.option(
        "--options",
        "options_file",
        type=click.File("rb"),
        help="JSON as in the API, - is standard input.",
    ),
)


def option_flags(command: F) -> F:
    for flag in reversed(_FLAGS):
        command = flag(command)
    return command


def options_of(given: dict[str, Any]) -> dict[str, Any]:
    """The API's `options` object, without what was not asked for. Usage error if a flag is not of its form."""
    options = _from_file(given["options_file"])
    _put(options, "paused", given["paused"])
    _put(options, "access_log", given["access_log"])
    for name in ("exact", "strip_prefix", "replace_prefix", "https_only"):
        _put(options.setdefault("http", {}), name, given[name])
    if given["headers"]:
        request = options["http"].setdefault("request", {})
        request["set"] = request.get("set", {}) | dict(_pair(text, "--set-header") for text in given["headers"])
    upstream = options.setdefault("upstream", {})
    _put(upstream, "protocol", "" if given["upstream"] == "http" else given["upstream"])
    if given["insecure"]:
        upstream["verify"] = False
    _put(upstream, "server_name", given["server_name"])
    _put(upstream, "ca", given["ca"].read_text() if given["ca"] else "")
    _put(upstream, "proxy_protocol", given["proxy_protocol"])
    for group, names in (("limits", LIMITS), ("timeouts", TIMEOUTS)):
        flag = "--limit" if group == "limits" else "--timeout-of"
        options.setdefault(group, {}).update(_numbers(given[group], names, flag))
    return {name: value for name, value in options.items() if value not in ({}, False)}


def _from_file(file: Any) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        options = json.load(file)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not JSON ({error})", param_hint="--options") from error
    groups = ("http", "upstream", "limits", "timeouts")
    if not isinstance(options, dict) or not all(isinstance(options.get(name, {}), dict) for name in groups):
        raise click.BadParameter("an object as in the API is needed", param_hint="--options")
    return options


def _put(place: dict[str, Any], name: str, value: object) -> None:
    if value:
        place[name] = value


def _pair(text: str, flag: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{text}: of the form NAME=VALUE", param_hint=flag)
    return name.strip(), value.strip()


def _numbers(texts: Iterable[str], names: tuple[str, ...], flag: str) -> dict[str, int]:
    numbers = {}
    for text in texts:
        name, digits = _pair(text, flag)
        name = name.replace("-", "_")
        if name not in names:
            raise click.BadParameter(f"{name}: one of {', '.join(names)} is needed", param_hint=flag)
        if not (digits.isascii() and digits.isdigit()):
            raise click.BadParameter(f"{text}: a whole number is needed", param_hint=flag)
        numbers[name] = int(digits)
    return numbers
