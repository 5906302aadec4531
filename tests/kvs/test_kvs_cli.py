"""The ``kvs`` command, as its users run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import kvs
from kvs import layout
from kvs.locks import range_is_held, writer_range
from tests.kvs.children import commit, pause_in_commit
from tests.kvs.damage import FIRST_RECORD, SMALL, flip
from tests.kvs.processes import Child, Death

KEY = "00112233445566778899aabbccddeeff"
COMMANDS = ["get", "put", "delete", "scan", "stat", "verify"]
TRANSFER_COMMANDS = ["dump", "load", "backup", "compact", "recover"]
BINARY = bytes(range(256)) * 5 + b"\r\n\0\n"


def run(*arguments: object, stdin: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
    """Run ``python -m kvs``; it must end with ``code`` and never show a traceback."""
    command = [sys.executable, "-m", "kvs", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=60)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert done.returncode == code, done.stderr.decode()
    if code:
        assert done.stderr.strip() or b"finding" in done.stdout
    if code > 1:
        assert done.stdout in {b"", b"UNKNOWN\n"}, "diagnostics go to stderr"
    return done


def json_lines(output: bytes) -> list[Any]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture
def path(store_dir: Path) -> Path:
    """A small store with three keys; commands that create one would make it large."""
    with kvs.open(store_dir, index_capacity=500) as store:
        store[bytes.fromhex(KEY)] = b"older"
        store.put_many({bytes.fromhex(KEY): BINARY, kvs.key_for("é"): b"text", 0: b""})
    return store_dir


def test_get_writes_the_value_byte_for_byte(path: Path) -> None:
    for io in ("mmap", "append"):
        done = run("get", path, KEY, "--io", io)
        assert (done.stdout, done.stderr) == (BINARY, b"")
    assert run("get", path, KEY.upper()).stdout == BINARY
    assert run("get", path, "--text", "é").stdout == b"text"
    assert run("get", path, "0" * 32).stdout == b""
    assert run("get", path, KEY, "--revision", 1).stdout == b"older"


def test_get_as_json(path: Path) -> None:
    assert json_lines(run("get", path, KEY, "--json").stdout) == [
        {"key": KEY, "value": BINARY.hex(), "transaction": 2}
    ]


def test_a_key_that_is_not_there_is_exit_code_1(path: Path) -> None:
    for arguments in (["get", path], ["delete", path]):
        done = run(*arguments, "f" * 32, code=1)
        assert done.stdout == b""
        assert b"f" * 32 + b" is not there" in done.stderr
        done = run(*arguments, "f" * 32, "--json", code=1)
        assert json_lines(done.stdout) == [{"key": "f" * 32, "value": None}]
    run("get", path, KEY, "--revision", 3, code=1)


def test_put_takes_the_value_from_stdin_or_from_the_command(path: Path) -> None:
    run("put", path, KEY, stdin=BINARY[::-1])
    assert run("get", path, KEY).stdout == BINARY[::-1]
    run("put", path, KEY, "-", stdin=b"from stdin")
    assert run("get", path, KEY).stdout == b"from stdin"
    run("put", path, KEY, "as an argument", "--io", "append", stdin=b"not this")
    assert run("get", path, KEY).stdout == b"as an argument"
    run("put", path, KEY, "", stdin=b"nor this")
    assert run("get", path, KEY).stdout == b""
    done = run("put", path, "--text", "another", "value", "--json")
    assert json_lines(done.stdout) == [{"key": kvs.key_for("another").hex(), "transaction": 7}]
    with kvs.open(path) as store:
        assert store[kvs.key_for("another")] == b"value"
        assert store.verify() == []


def test_put_creates_a_store_with_the_durability_that_was_asked_for(store_dir: Path) -> None:
    run("put", store_dir, KEY, "value", "--durable")
    with kvs.open(store_dir, "r") as store:
        assert store.stat()["durable"]
    done = run("put", store_dir, KEY, "value", "--no-durable", code=3)
    assert b"created with durable=True" in done.stderr


def test_delete_removes(path: Path) -> None:
    assert json_lines(run("delete", path, KEY, "--json").stdout) == [{"key": KEY, "transaction": 3}]
    run("get", path, KEY, code=1)
    assert run("get", path, KEY, "--revision", 1).stdout == BINARY
    assert run("delete", path, "--text", "é").stdout == b""


def test_scan_writes_every_key_once(path: Path) -> None:
    names = sorted([KEY, kvs.key_for("é").hex(), "0" * 32])
    lines = run("scan", path).stdout.decode().splitlines()
    assert sorted(lines) == names
    values = {KEY: BINARY.hex(), kvs.key_for("é").hex(): b"text".hex(), "0" * 32: ""}
    lines = run("scan", path, "--values").stdout.decode().splitlines()
    assert dict(line.split(" ") for line in lines) == values
    assert sorted(each["key"] for each in json_lines(run("scan", path, "--json").stdout)) == names
    found = json_lines(run("scan", path, "--json", "--values").stdout)
    assert {each["key"]: each["value"] for each in found} == values


def test_stat_shows_the_counters(path: Path) -> None:
    (found,) = json_lines(run("stat", path, "--json").stdout)
    assert (found["keys"], found["transactions"], found["integrity"]) == (3, 2, True)
    lines = run("stat", path).stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == list(found)
    assert "keys               3" in lines
    assert "durable            false" in lines


@pytest.mark.parametrize("options", [[], ["--read-only"], ["--io", "append"]])
def test_verify_says_ok(path: Path, options: list[str]) -> None:
    assert run("verify", path, *options).stdout == b"OK\n"
    assert json_lines(run("verify", path, "--json", *options).stdout) == [{"verdict": "OK", "findings": 0}]


@pytest.mark.parametrize("options", [[], ["--read-only"]])
def test_verify_writes_each_finding_and_how_many(path: Path, options: list[str]) -> None:
    flip(path / SMALL, FIRST_RECORD + layout.RECORD_HEADER_BYTES)
    lines = run("verify", path, *options, code=1).stdout.decode().splitlines()
    assert {line.split()[0] for line in lines[:-1]} == {"log.extent_whole", "log.time_dense", "record.whole"}
    assert lines[-1] == f"{len(lines) - 1} findings"
    *found, last = json_lines(run("verify", path, *options, "--json", code=1).stdout)
    assert last == {"verdict": f"{len(found)} findings", "findings": len(found)}
    assert all(each.keys() == {"invariant", "message"} for each in found)


def test_verify_finishes_what_a_dead_writer_left_unless_it_is_read_only(path: Path) -> None:
    with Child(commit, path, "mmap", {bytes.fromhex(KEY): b"x"}, Death("publish.before_busy")) as child:
        child.receive()
        child.join()
    done = run("verify", path, "--read-only", code=3)
    assert b"was not checked" in done.stderr
    assert run("get", path, KEY).stdout == BINARY
    assert run("verify", path).stdout == b"OK\n"
    assert run("get", path, KEY).stdout == b"x"
    assert run("verify", path, "--read-only").stdout == b"OK\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["get"],
        ["get", "store"],
        ["get", "store", "xyz"],
        ["get", "store", KEY[:-1]],
        ["get", "store", KEY + "00"],
        ["get", "store", " ".join(KEY)],
        ["get", "store", KEY, "--revision", "4"],
        ["get", "store", KEY, "--io", "direct"],
        ["get", "store", KEY, "--lock-timeout", "-1"],
        ["put", "store", KEY, "value", "too much"],
        ["stat"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert b"Usage: " in run(*arguments, code=2).stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_store_that_cannot_be_opened_is_exit_code_3(store_dir: Path, command: str) -> None:
    key = [KEY] if command in {"get", "put", "delete"} else []
    if command != "put":
        done = run(command, store_dir, *key, code=3)
        assert b"there is no store here; nothing was created" in done.stderr
        assert not store_dir.exists()
    store_dir.write_text("a file")
    assert b"this is a file; a store is a directory" in run(command, store_dir, *key, code=3).stderr
    store_dir.unlink()
    kvs.open(store_dir, index_capacity=500).close()
    (store_dir / "index.0").write_bytes(b"something else")
    assert b"not the index of a kvs store" in run(command, store_dir, *key, code=3).stderr


def test_a_damaged_value_is_exit_code_3_and_says_where(path: Path) -> None:
    flip(path / SMALL, FIRST_RECORD + layout.RECORD_HEADER_BYTES)
    done = run("get", path, KEY, "--revision", 1, code=3)
    assert f"{path / SMALL} at byte {FIRST_RECORD}".encode() in done.stderr


def test_a_lock_that_is_not_had_in_time_is_exit_code_3_and_names_the_holder(path: Path) -> None:
    with Child(pause_in_commit, path, "commit.after_lock") as holder:
        assert holder.receive() == "there"
        holder.stop()
        done = run("put", path, KEY, "x", "--lock-timeout", "0.1", code=3)
        assert f"COMMIT held by pid {holder.pid} (stopped)".encode() in done.stderr
        assert run("get", path, KEY).stdout == BINARY, "readers wait for nobody"


def test_a_reader_that_goes_away_ends_scan_quietly(store_dir: Path) -> None:
    with kvs.open(store_dir, index_capacity=30_000) as store:
        store.put_many(dict.fromkeys(range(20_000), b"v" * 20))
    for arguments in (["scan", store_dir, "--values"], ["scan", store_dir, "--json"]):
        command = [sys.executable, "-m", "kvs", *map(str, arguments)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline()
            process.stdout.close()
            errors = process.stderr.read()
            assert (process.wait(60), errors) == (141, b"")


def test_ctrl_c_ends_put_without_a_traceback(path: Path) -> None:
    with Child(pause_in_commit, path, "commit.after_lock") as holder:
        assert holder.receive() == "there"
        command = [sys.executable, "-m", "kvs", "put", str(path), KEY, "interrupted"]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            await_second_writer(path)
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            errors = process.stderr.read()
            assert (process.wait(60), errors) == (130, b"interrupted\n")
    assert run("get", path, KEY).stdout == BINARY


def await_second_writer(path: Path) -> None:
    """Until the second writer place is held: the command is past its imports, and waits for COMMIT."""
    fd = os.open(path / "ranges.lock", os.O_RDONLY)
    try:
        while not range_is_held(fd, writer_range(1)):
            time.sleep(0.001)
    finally:
        os.close(fd)


@pytest.mark.parametrize("command", [*COMMANDS, *TRANSFER_COMMANDS])
def test_help_shows_an_example_and_the_exit_codes(command: str) -> None:
    text = run(command, "--help").stdout.decode()
    assert f"Example:\n    kvs {command} " in text
    assert "Exit codes:\n    0    done\n    1  " in text
    assert "--json" in text


def test_help_lists_the_commands() -> None:
    text = run("--help").stdout.decode()
    assert all(f"\n  {command} " in text for command in COMMANDS + TRANSFER_COMMANDS)
    assert "32 hex digits" in text


def test_the_kvs_script_is_the_same_command(path: Path) -> None:
    script = Path(sys.executable).parent / "kvs"
    if not os.access(script, os.X_OK):
        pytest.skip("the package is not installed, so there is no script")
    done = subprocess.run([script, "get", path, KEY], capture_output=True, check=True, timeout=60)
    assert done.stdout == BINARY
