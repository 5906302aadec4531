"""The commands that copy whole stores or work on whole ones: dump, load, backup, compact and recover."""

from __future__ import annotations

import contextlib
import json
import secrets
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from kvs import archive, backup, files, layout, salvage
from kvs.cli_base import (
    EXIT_CODES,
    EXIT_NEGATIVE,
    EXIT_STORE,
    IO,
    JSON,
    LOCK_TIMEOUT,
    STORE,
    Command,
    json_object,
    options,
    progress,
    show,
    stdout,
)
from kvs.errors import DamagedDumpError, SnapshotTooOldError, UnknownStoreError
from kvs.store import Store
from kvs.store import open as open_store

_CAPACITY_MAX: Final = 1 << 22
"""An index is made for at most so many keys at once: what a dump says of itself is not believed further."""


def _property(name: str, what: str) -> Callable[[Command], Command]:
    option = name.replace("_", "-")
    return click.option(f"--{option}/--no-{option}", default=None, help=f"{what}  [default: as in the dump]")


@click.command(epilog=EXIT_CODES)
@STORE
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write to this file; it is there when it is whole.",
)
@options(JSON, IO, LOCK_TIMEOUT)
def dump(store: str, output: Path | None, *, as_json: bool, io: str, lock_timeout: float) -> None:
    """Write everything in one snapshot of the store to stdout or a file, for load.

    Values may be 1 GiB; memory stays bounded. The store may be in use. Where a key is written four times before
    it was dumped, the dump ends with exit code 3: try again. Every part of a dump is checksummed, and load refuses
    one that is damaged or cut off.

    \b
    Example:
      kvs dump /srv/cache -o cache.dump
      kvs dump /srv/cache | ssh other kvs load /srv/cache
    """
    to_stdout = output is None or str(output) == "-"
    if to_stdout and sys.stdout.isatty():
        raise click.UsageError("a dump is binary: redirect stdout, or name a file with -o")
    with (
        open_store(store, "r", io=io, lock_timeout_s=lock_timeout) as opened,
        opened.snapshot() as snapshot,
        _destination(None if to_stdout else output) as out,
    ):
        counters = opened.stat()
        with progress("dumping", counters["keys"]) as done:
            try:
                keys = archive.write_dump(snapshot, counters, out, done)
                out.flush()
            except SnapshotTooOldError as error:
                left = "what was written is no whole dump" if to_stdout else f"{output} was not written"
                click.echo(f"kvs: {error}; {left}", err=True)
                raise click.exceptions.Exit(EXIT_STORE) from None
    if as_json:
        fields = {"keys": keys, "transaction": snapshot.transaction_counter}
        click.echo(json.dumps(fields), err=to_stdout)


@contextlib.contextmanager
def _destination(path: Path | None) -> Iterator[BinaryIO]:
    """Where to write: stdout, a device or pipe as it is, or a file that gets its name when the block has ended well."""
    if path is None:
        yield stdout()
    elif path.exists() and not stat.S_ISREG(path.stat().st_mode):
        with path.open("wb") as out:
            yield out
    else:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            with temporary.open("xb") as out:
                yield out
                out.flush()
                files.sync_data(out.fileno(), temporary)
            files.publish(temporary, path)
            files.sync_directory(path.absolute().parent)
        finally:
            files.unlink(temporary)


@click.command(epilog=EXIT_CODES)
@STORE
@click.argument("file", type=click.Path(path_type=Path), required=False)
@_property("durable", "Whether a commit survives power loss.")
@_property("integrity", "Whether every value carries its hash.")
@_property("content_addressed", "Whether every key must be its value's xxh3-128.")
@options(JSON, LOCK_TIMEOUT)
def load(
    store: str, file: Path | None, *, as_json: bool, lock_timeout: float, **properties: bool | None
) -> None:
    """Make a new store out of the dump in FILE, or stdin if it is absent or "-".

    There must be nothing at STORE, or an empty directory. The store gets its name when all of the dump was read and
    checked: a damaged or unfinished dump, an interrupt or a full disk leave nothing behind.

    \b
    Example:
      kvs load /srv/copy cache.dump
      kvs dump /srv/cache | kvs load /srv/copy --durable
    """
    path = Path(store)
    backup.check_vacant(path.absolute())
    with contextlib.ExitStack() as stack:
        if file is None or str(file) == "-":
            if sys.stdin.isatty():
                raise click.UsageError("a dump is binary: redirect stdin, or name a file")
            source: BinaryIO = sys.stdin.buffer
        else:
            source = stack.enter_context(file.open("rb"))
        try:
            reading = archive.read_dump(source)
            asked = {name: value for name, value in properties.items() if value is not None}
            make = _maker({**reading.properties, **asked}, reading.about, lock_timeout)
            done = stack.enter_context(progress("loading", reading.about))
            with backup.fresh(path) as temporary:
                keys = _load(temporary, reading, make, done)
        except (DamagedDumpError, UnknownStoreError) as error:
            click.echo(f"kvs: {error}; {store} was not made", err=True)
            raise click.exceptions.Exit(EXIT_STORE) from None
    _told(as_json, keys=keys, transaction=reading.transaction_counter)


def _load(
    directory: Path, reading: archive.Dump, make: backup.OpenStore, done: backup.Progress | None
) -> int:
    keys = backup.fill(directory, reading.items(), make, done)
    with open_store(directory, "r") as loaded:
        if len(loaded) != keys:
            raise ValueError(
                f"the dump has {keys} records of {len(loaded)} keys: no snapshot has a key twice, so it was not made by"
                " kvs dump; nothing was made"
            )
    return keys


def _maker(properties: Mapping[str, Any], keys: int, lock_timeout: float = 30.0) -> Callable[[Path], Store]:
    """How a new store with these properties is opened that will have about so many keys. It appends by system calls:
    pages that only one process writes once need no map.
    """
    capacity = max(layout.INDEX_CAPACITY, min(keys, _CAPACITY_MAX))
    return lambda path: open_store(
        path, "c", **properties, io="append", lock_timeout_s=lock_timeout, index_capacity=capacity
    )


def _told(as_json: bool, **fields: Any) -> None:
    """Say what was done."""
    if as_json:
        json_object(**fields)
    else:
        show(fields)


@click.command("backup", epilog=EXIT_CODES)
@STORE
@click.argument("directory", type=click.Path(path_type=Path))
@options(JSON, IO, LOCK_TIMEOUT)
def back_up(store: str, directory: Path, *, as_json: bool, io: str, lock_timeout: float) -> None:
    """Write one snapshot of a store that may be in use as a new store at DIRECTORY.

    There must be nothing at DIRECTORY, or an empty directory. The backup gets its name when it is complete and on
    the medium; a failure leaves nothing behind. It has the newest revision of each key, and can be opened at once.

    \b
    Example:
      kvs backup /srv/cache /mnt/backup/cache-monday
    """
    with (
        open_store(store, "r", io=io, lock_timeout_s=lock_timeout) as opened,
        opened.snapshot() as snapshot,
    ):
        counters = opened.stat()
        make = _maker({name: counters[name] for name in archive.PROPERTIES}, counters["keys"])
        with progress("copying", counters["keys"]) as done:
            keys = backup.backup(snapshot, directory, make, done)
        transaction = snapshot.transaction_counter
    _told(as_json, keys=keys, transaction=transaction)


@click.command(epilog=EXIT_CODES)
@STORE
@click.option(
    "--min-dead",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="Leave files alone of which a smaller share than this (0 to 1) is dead.",
)
@options(JSON, IO, LOCK_TIMEOUT)
def compact(store: str, *, min_dead: float, as_json: bool, io: str, lock_timeout: float) -> None:
    """Give the room of what nobody can read any more back to the file system, while everybody goes on.

    Needs room for what is copied at a time. Interrupted or killed, nothing is lost, and the next one goes on.

    \b
    Example:
      kvs compact /srv/cache
      kvs compact /srv/cache --min-dead 0.5 --json
    """
    with (
        open_store(store, "w", io=io, lock_timeout_s=lock_timeout) as opened,
        progress("compacting") as done,
    ):
        before = opened.stat()["disk_bytes"]
        compacted = opened.compact(min_dead=min_dead, progress=done)
        after = opened.stat()["disk_bytes"]
    _told(as_json, disk_bytes_before=before, disk_bytes_after=after, **compacted._asdict())


@click.command(epilog=EXIT_CODES)
@click.argument("damaged", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@options(JSON)
def recover(damaged: Path, new: Path, *, as_json: bool) -> None:
    """Salvage everything that verifies of the store at DAMAGED into a new store at NEW, and list what was lost.

    DAMAGED is only read, and no process may have it open for writing. Writes one line for each damaged place, lost
    key, and key whose value is likely but not certain, then a summary. Ends with 0 if nothing was lost, with 1 if
    something was; with 3 if nothing could be done, and then nothing is at NEW.

    \b
    Example:
      kvs recover /srv/cache /srv/recovered > lost.txt
      kvs recover /srv/cache /srv/recovered --json
    """

    def report(loss: salvage.Loss) -> None:
        if not as_json:
            click.echo(loss.message)
            return
        json_object(**_plain(loss))

    with progress("recovering") as done:
        found = salvage.recover(
            damaged, new, lambda path, properties: _maker(properties, 0)(path), report, done
        )
    if as_json:
        json_object(**found._asdict(), whole=found.whole)
    else:
        lost = f"{found.damaged} damaged or missing, {found.lost} keys lost, {found.uncertain} uncertain"
        click.echo(f"recovered {found.keys} keys into {new}: {'nothing was lost' if found.whole else lost}")
    if not found.whole:
        raise click.exceptions.Exit(EXIT_NEGATIVE)


def _plain(loss: salvage.Loss) -> dict[str, Any]:
    """The fields of a loss that apply, as JSON has them."""
    said = {name: value for name, value in loss._asdict().items() if value not in {"", b"", -1, 0}}
    if loss.key:
        said["key"] = loss.key.hex()
    if loss.kind == "key":
        said["kept"] = loss.kept
    return said


COMMANDS: Final = (dump, load, back_up, compact, recover)
"""All of them, for the group."""
