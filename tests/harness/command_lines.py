"""Command lines of ours in a text, and whether a command line would be taken, without doing what it says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

_ENDS = frozenset({"|", "&&", "||", ";", "&"})
_CONTINUED = re.compile(r"\\\n\s*")
_REDIRECTIONS = frozenset({">", ">>", "<"})


def command_lines(text: str, program: str) -> list[list[str]]:
    """The arguments of every call of ``program`` in lines of shell; what follows a pipe or ``&&`` counts, too."""
    found = []
    for line in _CONTINUED.sub(" ", text).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        call: list[str] | None = None
        before = ""
        for word in [*lexer, ";"]:
            file, before = before in _REDIRECTIONS, word
            if word in _ENDS | _REDIRECTIONS:
                if call is not None:
                    found.append(call)
                call = None
            elif file:
                continue
            elif call is not None:
                call.append(word)
            elif word == program or word.endswith(f"/{program}"):
                call = []
    return found


def commands(group: click.Command, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command and all below it, with the names that lead there."""
    yield names, group
    if isinstance(group, click.Group):
        for name in group.list_commands(click.Context(group)):
            command = group.get_command(click.Context(group), name)
            assert command is not None
            yield from commands(command, *names, name)


def examples(command: click.Command, program: str) -> list[list[str]]:
    """The command lines that the help of a command shows as examples."""
    with click.Context(command, info_name=program) as context:
        page = command.get_help(context)
    _, _, after = page.partition("Example")
    after = _CONTINUED.sub(" ", after)
    return command_lines("\n".join(re.findall(rf"^ +({program} .*)$", after, re.M)), program)


def parse(root: click.Command, program: str, arguments: list[str], directory: Path) -> str:
    """The name of the command that would run; files that it wants to be there are made in ``directory``, the current
    one. Raises click's UsageError if the command line is refused.
    """
    command, name, rest = root, program, list(arguments)
    parent: click.Context | None = None
    while True:
        context = _context(command, name, rest, parent, directory)
        if not isinstance(command, click.Group):
            return context.command_path
        parent, rest = context, [*context._protected_args, *context.args]
        name, found, rest = command.resolve_command(context, rest)  # type: ignore[assignment]
        assert found is not None
        command = found


def _context(
    command: click.Command, name: str, arguments: list[str], parent: click.Context | None, directory: Path
) -> click.Context:
    while True:
        try:
            return command.make_context(name, list(arguments), parent=parent)
        except click.BadParameter as error:
            missing = re.search(r"(File|Directory|Path) '([^']+)' does not exist", error.message)
            if missing is None or Path(missing[2]).is_absolute():
                raise
            path = directory / missing[2]
            path.parent.mkdir(parents=True, exist_ok=True)
            if missing[1] == "Directory":
                path.mkdir()
            else:
                path.touch()
