"""`kakuremichi`: every group is imported when it is called, so that `--help` and completion are quick."""

import sys
from importlib import import_module

import click

from kakuremichi.cli.exits import HELP, INTERRUPTED, CliError

COMMANDS = {
    "up": ("kakuremichi.cli.up", "up", "Start a deployment on this machine."),
    "down": ("kakuremichi.cli.up", "down", "Stop it."),
    "status": ("kakuremichi.cli.status", "status", "How everything is, on one screen."),
    "get": ("kakuremichi.cli.get", "get", "List gateways, agents, services, tokens or events."),
    "describe": ("kakuremichi.cli.get", "describe", "Show one of them whole."),
    "counters": ("kakuremichi.cli.counters", "counters", "What passed through services: connections, requests, bytes."),
    "service": ("kakuremichi.cli.service", "service", "Publish private services, and take them back."),
    "apply": ("kakuremichi.cli.declare", "apply", "Make the services what a file says."),
    "export": ("kakuremichi.cli.declare", "export", "Print the services as such a file."),
    "token": ("kakuremichi.cli.token", "token", "Make the tokens with which nodes join."),
    "api-token": ("kakuremichi.cli.api_token", "api_token", "Make the tokens with which the API is called."),
    "account": ("kakuremichi.cli.account", "account", "Who signs in to the portal, and within which limits."),
    "session": ("kakuremichi.cli.account", "session", "Who is signed in, and end that."),
    "gateway": ("kakuremichi.cli.nodes", "gateway", "The public nodes that visitors reach."),
    "agent": ("kakuremichi.cli.nodes", "agent", "The nodes at the sites."),
    "revoke": ("kakuremichi.cli.upkeep", "revoke", "Cut a gateway or an agent off everywhere, for ever."),
    "rotate": ("kakuremichi.cli.upkeep", "rotate", "Give a gateway or an agent a new WireGuard key."),
    "state": ("kakuremichi.cli.state", "state", "What was true at any moment."),
    "diff": ("kakuremichi.cli.differ", "diff", "What is different: -f FILE and the fleet, or two moments."),
    "restore": ("kakuremichi.cli.restore", "restore", "Publish the services as they were at an earlier moment."),
    "replay": ("kakuremichi.cli.state", "replay", "Fold an export of the log into the state."),
    "audit": ("kakuremichi.cli.audit", "audit", "Export the log, and check an export."),
    "propagation": ("kakuremichi.cli.propagation", "propagation", "When each node had a change applied, and why not."),
    "trace": ("kakuremichi.cli.propagation", "trace", "The steps of one change, from the request to each node."),
    "trust": ("kakuremichi.cli.trust", "trust", "Keep the keys that say who is a peer away from the server."),
    "demo": ("kakuremichi.cli.demo", "demo", "See it work in a small internet on this machine."),
    "lab": ("kakuremichi.cli.lab", "lab", "The small internet itself."),
    "completion": ("kakuremichi.cli.completion", "completion", "Print the completion script of a shell."),
}
"""Name → module, attribute, and the line in `--help`."""


class LazyGroup(click.Group):
    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        try:
            found = getattr(import_module(module), attribute)
        except ImportError as error:
            hint = "some commands need an extra: pip install 'kakuremichi[up]'"
            raise CliError(f"{cmd_name}: this installation lacks {error.name or error}", hints=(hint,)) from error
        if not isinstance(found, click.Command):
            raise TypeError(f"{module}.{attribute} is no command")
        return found

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=HELP)
@click.version_option(package_name="kakuremichi")
def cli() -> None:
    """Reach private services through a fleet of public gateways."""


def main() -> None:
    try:
        # click would end with 1 on Ctrl-C; scripts tell an interruption by 130.
        code = cli.main(prog_name="kakuremichi", standalone_mode=False)
    except click.Abort:
        click.echo("interrupted", err=True)
        code = INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
