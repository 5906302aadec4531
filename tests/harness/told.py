"""What tests of the facts of runs have in common: verdicts by name, and what a command line is understood as."""

from __future__ import annotations

import shlex
from typing import Any

import click

from harness import cli
from harness.verdict import Outcome
from harness.viewer.facts import Facts


def outcomes(facts: Facts) -> dict[str, Outcome]:
    return {row.property_name: row.outcome for row in facts.checked}


def context(line: str) -> dict[str, Any]:
    """The parameters that the command line ``line`` is understood as."""
    name, command, *arguments = shlex.split(line)
    assert name == "harness"
    made: click.Context = cli.cli.commands[command].make_context(command, arguments)
    return made.params
