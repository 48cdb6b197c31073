"""`kakuremichi completion SHELL`: the script that a shell reads."""

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash   source <(kakuremichi completion bash)
    zsh    source <(kakuremichi completion zsh)
    fish   kakuremichi completion fish | source
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    script = get_completion_class(shell)
    if script is None:
        raise click.UsageError(f"{shell}: there is no completion for it")
    click.echo(script(context.find_root().command, {}, "kakuremichi", "_KAKUREMICHI_COMPLETE").source())
