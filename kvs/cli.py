"""The ``kvs`` command: get, put, delete, scan, stat and verify; the rest is in ``cli_transfer``. Data on stdout,
diagnostics on stderr.
"""

from __future__ import annotations

import json
import os
import sys
from typing import NoReturn

import click

import kvs
from kvs import cli_completion, cli_transfer
from kvs.cli_base import (
    EXIT_CODES,
    EXIT_NEGATIVE,
    EXIT_STORE,
    IO,
    JSON,
    LOCK_TIMEOUT,
    STORE,
    Group,
    json_object,
    options,
    progress,
    show,
    stdout,
)


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.version_option(package_name="kvs-torture", prog_name="kvs")
def main() -> None:
    """Read, write, check, copy and repair a kvs store, beside any number of other processes.

    A KEY is 32 hex digits; with --text it is any text, and the key is its xxh3-128 (kvs.key_for). Values are
    bytes: get writes them to stdout as they are, put takes them from stdin. With --json, output is JSON, one
    object a line, with keys and values in hex.

    \b
    Example:
      kvs put /srv/cache --text greeting "hello, world"
      kvs get /srv/cache --text greeting
    """


# -- parameters ---------------------------------------------------------------------------------------------


def _key(ctx: click.Context, _: click.Parameter, value: str) -> bytes:
    """The key that an argument stands for; ``--text`` is eager, so it is known by now."""
    if ctx.meta.get("kvs.text"):
        return kvs.key_for(os.fsencode(value))
    try:
        key = bytes.fromhex(value) if value.isalnum() else b""
    except ValueError:
        key = b""
    if len(key) != 16:
        raise click.BadParameter(f"{value!r} is not 32 hex digits; --text takes any text as a key")
    return key


def _text(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta["kvs.text"] = value


_KEY = click.argument("key", callback=_key)
_TEXT = click.option(
    "--text",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_text,
    help="KEY is text: use its xxh3-128.",
)


def _not_there(key: bytes, as_json: bool) -> NoReturn:
    if as_json:
        json_object(key=key.hex(), value=None)
    click.echo(f"kvs: key {key.hex()} is not there", err=True)
    raise click.exceptions.Exit(EXIT_NEGATIVE)


# -- commands -----------------------------------------------------------------------------------------------


@main.command(epilog=EXIT_CODES)
@STORE
@_KEY
@options(_TEXT, JSON, IO, LOCK_TIMEOUT)
@click.option(
    "--revision",
    type=click.IntRange(0, 3),
    default=0,
    show_default=True,
    help="0 is the newest revision, 3 the oldest that is kept.",
)
def get(store: str, key: bytes, *, as_json: bool, io: str, lock_timeout: float, revision: int) -> None:
    """Write the value of KEY to stdout, byte for byte.

    \b
    Example:
      kvs get /srv/cache 00112233445566778899aabbccddeeff > value
      kvs get /srv/cache --text greeting --revision 1
    """
    with kvs.open(store, "r", io=io, lock_timeout_s=lock_timeout) as opened:
        item = opened.find(key, revision)
    if item is None:
        _not_there(key, as_json)
    if as_json:
        json_object(key=key.hex(), value=item.value.hex(), transaction=item.transaction_counter)
    else:
        stdout().write(item.value)


@main.command(epilog=EXIT_CODES)
@STORE
@_KEY
@click.argument("value", required=False)
@options(_TEXT, JSON, IO, LOCK_TIMEOUT)
@click.option(
    "--durable/--no-durable",
    default=None,
    help="Whether a put survives power loss. Fixed when the store is created; left out: as stored.",
)
def put(
    store: str,
    key: bytes,
    value: str | None,
    *,
    as_json: bool,
    io: str,
    lock_timeout: float,
    durable: bool | None,
) -> None:
    """Write VALUE, or stdin if it is absent or "-", at KEY. Creates the store if there is none.

    When this ends with 0, the value is there for every process; otherwise nothing was written.

    \b
    Example:
      kvs put /srv/cache --text greeting "hello, world"
      kvs put /srv/cache 00112233445566778899aabbccddeeff < photo.jpg
    """
    data = sys.stdin.buffer.read() if value is None or value == "-" else os.fsencode(value)
    with kvs.open(store, "c", io=io, lock_timeout_s=lock_timeout, durable=durable) as opened:
        transaction = opened.put_many([(key, data)])
    if as_json:
        json_object(key=key.hex(), transaction=transaction)


@main.command(epilog=EXIT_CODES)
@STORE
@_KEY
@options(_TEXT, JSON, IO, LOCK_TIMEOUT)
def delete(store: str, key: bytes, *, as_json: bool, io: str, lock_timeout: float) -> None:
    """Remove KEY. Its older revisions stay readable with get --revision until they are overwritten.

    \b
    Example:
      kvs delete /srv/cache --text greeting
    """

    def remove(txn: kvs.Transaction) -> kvs.Transaction | None:
        if txn.fetch(key) is None:
            return None
        txn.remove(key)
        return txn

    with kvs.open(store, "w", io=io, lock_timeout_s=lock_timeout) as opened:
        done = opened.transact(remove)
    if done is None:
        _not_there(key, as_json)
    if as_json:
        json_object(key=key.hex(), transaction=done.transaction_counter)


@main.command(epilog=EXIT_CODES)
@STORE
@options(JSON, IO, LOCK_TIMEOUT)
@click.option("--values", is_flag=True, help="Write values too: KEY, a space, and the value in hex.")
def scan(store: str, *, as_json: bool, io: str, lock_timeout: float, values: bool) -> None:
    """Write every key, one a line, in no particular order: one snapshot of the store.

    Streams in bounded memory. On a store that is written fast the snapshot may get too old, which ends the
    scan with exit code 3.

    \b
    Example:
      kvs scan /srv/cache | wc -l
      kvs scan /srv/cache --values --json
    """
    out = stdout()
    with (
        kvs.open(store, "r", io=io, lock_timeout_s=lock_timeout) as opened,
        opened.snapshot() as snapshot,
    ):
        for key, value in snapshot.items():
            if as_json:
                fields = {"key": key.hex()} | ({"value": value.hex()} if values else {})
                line = json.dumps(fields)
            else:
                line = f"{key.hex()} {value.hex()}" if values else key.hex()
            out.write(line.encode() + b"\n")


@main.command(epilog=EXIT_CODES)
@STORE
@options(JSON, LOCK_TIMEOUT)
def stat(store: str, *, as_json: bool, lock_timeout: float) -> None:
    """Write the store's counters and properties: what is live, dead and on the disk, who writes, what is pinned.

    \b
    Example:
      kvs stat /srv/cache
      kvs stat /srv/cache --json
    """
    with kvs.open(store, "r", lock_timeout_s=lock_timeout) as opened:
        fields = opened.stat()
    if as_json:
        json_object(**fields)
        return
    show(fields)


@main.command(epilog=EXIT_CODES)
@STORE
@options(JSON, IO, LOCK_TIMEOUT)
@click.option(
    "--read-only",
    is_flag=True,
    help="Take no lock and repair nothing; the structure is then checked only between commits.",
)
def verify(store: str, *, as_json: bool, io: str, lock_timeout: float, read_only: bool) -> None:
    """Check every invariant of the store: write each finding, then "OK" or "N findings" ("UNKNOWN" and exit
    code 3 where --read-only met a commit that was under way).

    Opens the store for writing, and so finishes first what a dead writer left, as any writer does.

    \b
    Example:
      kvs verify /srv/cache
      kvs verify /srv/cache --read-only --json
    """
    flag = "r" if read_only else "w"
    with kvs.open(store, flag, io=io, lock_timeout_s=lock_timeout) as opened, progress("verifying"):
        findings = opened.verify()
    unfinished = read_only and any(finding.invariant == "commit.intent_clear" for finding in findings)
    if unfinished:
        findings = [finding for finding in findings if finding.invariant != "commit.intent_clear"]
    if unfinished:
        click.echo(
            "kvs: a commit was under way or its writer died, so the index's own structure was not checked;"
            " run verify without --read-only",
            err=True,
        )
    for finding in findings:
        if as_json:
            json_object(invariant=finding.invariant, message=finding.message)
        else:
            click.echo(f"{finding.invariant}  {finding.message}")
    count = len(findings)
    verdict = f"{count} finding{'s' if count > 1 else ''}" if count else "UNKNOWN" if unfinished else "OK"
    if as_json:
        json_object(verdict=verdict, findings=count)
    else:
        click.echo(verdict)
    if unfinished and not count:
        raise click.exceptions.Exit(EXIT_STORE)
    if count:
        raise click.exceptions.Exit(EXIT_NEGATIVE)


for command in (*cli_transfer.COMMANDS, cli_completion.completion_of("kvs")):
    main.add_command(command)

__all__ = ["main"]
