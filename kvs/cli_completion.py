"""The command ``completion``: prints the script by which a shell completes commands, options and names."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

SHELLS: Final = ("bash", "zsh", "fish")

_HELP: Final = """Print the script by which a shell completes {program}'s commands, options and names.

\b
Where it belongs, so that every new shell has it:
  bash  ~/.local/share/bash-completion/completions/{program}
  zsh   a file _{program} in a directory of $fpath
  fish  ~/.config/fish/completions/{program}.fish

\b
Examples:
  {program} completion bash > ~/.local/share/bash-completion/completions/{program}
  {program} completion zsh > ~/.zfunc/_{program}
  {program} completion fish > ~/.config/fish/completions/{program}.fish
"""


def completion_of(program: str) -> click.Command:
    """The command ``completion`` of ``program``, to be added to its group."""

    @click.command("completion", help=_HELP.format(program=program))
    @click.argument("shell", type=click.Choice(SHELLS))
    @click.pass_context
    def completion(context: click.Context, shell: str) -> None:
        script = get_completion_class(shell)
        assert script is not None, shell
        root = context.find_root().command
        click.echo(script(root, {}, program, f"_{program.upper()}_COMPLETE").source())

    return completion
