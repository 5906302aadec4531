"""The commands that copy or work on whole stores, as their users run them: dump, load, backup, compact, recover."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import kvs
from kvs.archive import write_dump
from tests.kvs.damage import SMALL, flip
from tests.kvs.test_kvs_cli import json_lines, run

KVS = [sys.executable, "-m", "kvs"]
PLAIN = {number: bytes(range(number % 256)) * (number % 7) for number in range(2000)}
MIB = 1 << 20
LARGE_VALUES, LARGE_BYTES = 16, 64 * MIB
LARGE_RSS_MAX = 4 * LARGE_BYTES
MEASURED = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss * 1024, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Runs a command and says the most memory that it had. Of a process that is begun by a larger one the kernel says what
that had (exec(2) keeps it), and pytest is larger.
"""
"""Python and numpy, a value as the store reads and as it appends it (two copies), and some: not five values."""


@pytest.fixture
def path(store_dir: Path) -> Path:
    """A store with 2,000 keys."""
    with kvs.open(store_dir) as store:
        store.put_many(PLAIN)
        del store[7]
    return store_dir


@pytest.fixture
def target(store_dir: Path) -> Path:
    """Where a new store may be made."""
    store_dir.parent.mkdir(exist_ok=True)
    return store_dir.with_name("target")


def items(path: Path) -> dict[int, bytes]:
    """What is in a store, which must be sound."""
    with kvs.open(path, "r") as store:
        assert store.verify() == []
        return {int.from_bytes(key, "big"): value for key, value in store.items()}


EXPECTED = {number: value for number, value in PLAIN.items() if number != 7}


def dumped(path: Path) -> bytes:
    """What ``kvs dump`` writes, without a process."""
    out = io.BytesIO()
    with kvs.open(path, "r") as store, store.snapshot() as snapshot:
        write_dump(snapshot, store.stat(), out)
    return out.getvalue()


def beside(path: Path) -> set[str]:
    return {each.name for each in path.parent.iterdir()}


def test_dump_and_load_through_a_pipe(path: Path, target: Path) -> None:
    with (
        subprocess.Popen([*KVS, "dump", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as dump,
        subprocess.Popen(
            [*KVS, "load", str(target)], stdin=dump.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as load,
    ):
        assert dump.stdout is not None
        assert dump.stderr is not None
        dump.stdout.close()
        output, errors = load.communicate(timeout=60)
        assert (load.returncode, errors) == (0, b"")
        assert (dump.wait(60), dump.stderr.read()) == (0, b"")
    assert output.split() == [b"keys", b"1999", b"transaction", b"2"]
    assert items(target) == EXPECTED


def test_dump_and_load_through_a_file(path: Path, target: Path) -> None:
    file = path.with_name("a.dump")
    assert json_lines(run("dump", path, "-o", file, "--json").stdout) == [{"keys": 1999, "transaction": 2}]
    assert (
        file.read_bytes() == run("dump", path).stdout == run("dump", path, "--io", "append", "-o", "-").stdout
    )
    assert json_lines(run("load", target, file, "--json").stdout) == [{"keys": 1999, "transaction": 2}]
    assert items(target) == EXPECTED
    assert beside(path) == {"store", "target", "a.dump"}


def test_properties_travel_unless_options_say_otherwise(store_dir: Path, target: Path) -> None:
    with kvs.open(store_dir, durable=True, content_addressed=True) as store:
        store[kvs.key_for(b"v")] = b"v"
    dump = dumped(store_dir)
    run("load", target, stdin=dump)
    run("load", f"{target}2", "-", "--no-durable", "--no-integrity", "--no-content-addressed", stdin=dump)
    for path, expected in ((target, (True, True, True)), (Path(f"{target}2"), (False, False, False))):
        with kvs.open(path, "r") as store:
            stat = store.stat()
        assert (stat["durable"], stat["integrity"], stat["content_addressed"]) == expected


def test_load_into_a_content_addressed_store_refuses_other_keys(path: Path, target: Path) -> None:
    done = run("load", target, "--content-addressed", stdin=dumped(path), code=3)
    assert b"content addressed" in done.stderr
    assert beside(target) == {"store"}


@pytest.mark.parametrize("part", [0, 56, 0.5, -1])
def test_a_dump_that_is_cut_off_is_refused_in_one_line(path: Path, target: Path, part: float) -> None:
    dump = dumped(path)
    end = int(len(dump) * part) if isinstance(part, float) else part
    done = run("load", target, stdin=dump[:end], code=3)
    assert done.stderr.count(b"\n") == 1
    assert b"target was not made" in done.stderr
    assert (b"at byte " in done.stderr) == (end != 0)
    assert beside(target) == {"store"}


@pytest.mark.parametrize("where", [3, 30, 80, 0.99])
def test_a_damaged_dump_is_refused_in_one_line(path: Path, target: Path, where: float) -> None:
    dump = bytearray(dumped(path))
    dump[int(len(dump) * where) if isinstance(where, float) else where] ^= 16
    done = run("load", target, stdin=bytes(dump), code=3)
    assert done.stderr.count(b"\n") == 1
    assert b"target was not made" in done.stderr
    assert beside(target) == {"store"}


def test_load_and_the_others_touch_nothing_that_is_there(path: Path) -> None:
    dump = dumped(path)
    before = {each.name: each.read_bytes() for each in path.iterdir()}
    assert b"something here already" in run("load", path, stdin=dump, code=3).stderr
    assert b"something here already" in run("backup", path, path, code=3).stderr
    assert b"something here already" in run("recover", path, path, code=3).stderr
    assert {each.name: each.read_bytes() for each in path.iterdir()} == before


def test_a_dump_whose_snapshot_gets_too_old_says_so(store_dir: Path, target: Path) -> None:
    with kvs.open(store_dir) as store:
        for number in range(40):
            store[number] = bytes(MIB)
        with subprocess.Popen(
            [*KVS, "dump", str(store_dir)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as dump:
            assert dump.stdout is not None
            begun = dump.stdout.read(100)  # its snapshot is taken, and soon it waits for us
            for _ in range(4):
                for number in range(40):
                    store[number] = b"overwritten"
            rest, errors = dump.communicate(timeout=60)
    assert dump.returncode == 3
    assert b"Traceback" not in errors
    assert b"four or more times" in errors
    assert b"no whole dump" in errors
    run("load", target, stdin=begun + rest, code=3)
    assert beside(target) == {"store"}


def test_a_dump_file_appears_only_when_it_is_whole(path: Path) -> None:
    flip(path / SMALL, 2000)  # some value
    file = path.with_name("a.dump")
    file.write_bytes(b"last week's")
    done = run("dump", path, "-o", file, code=3)
    assert b"is damaged" in done.stderr
    assert file.read_bytes() == b"last week's"
    assert beside(path) == {"store", "a.dump"}


def test_a_reader_that_goes_away_ends_dump_quietly(store_dir: Path) -> None:
    with kvs.open(store_dir) as store:
        store[1] = bytes(4 * MIB)
    with subprocess.Popen(
        [*KVS, "dump", str(store_dir)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as dump:
        assert dump.stdout is not None
        assert dump.stderr is not None
        assert dump.stdout.read(10)
        dump.stdout.close()
        assert (dump.wait(60), dump.stderr.read()) == (141, b"")


def test_ctrl_c_in_a_load_leaves_nothing(path: Path, target: Path) -> None:
    dump = dumped(path)
    with subprocess.Popen(
        [*KVS, "load", str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as load:
        assert load.stdin is not None
        load.stdin.write(dump[:-10])
        load.stdin.flush()
        while not any(name.endswith(".part") for name in beside(target)):
            assert load.poll() is None
            time.sleep(0.001)
        load.send_signal(signal.SIGINT)
        assert load.stderr is not None
        errors = load.stderr.read()
        assert (load.wait(60), errors) == (130, b"interrupted\n")
        load.stdin.close()
    assert beside(target) == {"store"}


def test_a_full_disk_in_a_load_leaves_nothing(store_dir: Path, target: Path) -> None:
    with kvs.open(store_dir) as store:
        store[1] = bytes(8 * MIB)
    dump = dumped(store_dir)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 * MIB, 4 * MIB))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    done = subprocess.run(
        [*KVS, "load", str(target)],
        input=dump,
        capture_output=True,
        check=False,
        preexec_fn=limit,
        timeout=60,
    )
    assert done.returncode == 3
    assert b"no room" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert beside(target) == {"store"}


def test_backup_of_a_store_in_use(path: Path, target: Path) -> None:
    with kvs.open(path) as store:
        store[3000] = b"in use"
        output = json_lines(run("backup", path, target, "--json").stdout)
    assert output == [{"keys": 2000, "transaction": 3}]
    assert items(target) == EXPECTED | {3000: b"in use"}
    assert beside(target) == {"store", "target"}


def test_compact_says_what_the_store_takes_before_and_after(store_dir: Path) -> None:
    with kvs.open(store_dir) as store:
        for number in range(12):
            store[number % 3] = random.Random(number).randbytes(MIB)
        for number in range(15):
            store[number % 3] = b"short"
    (found,) = json_lines(run("compact", store_dir, "--json").stdout)
    assert found["disk_bytes_after"] < found["disk_bytes_before"] - 8 * MIB
    lines = run("compact", store_dir, "--min-dead", "0.9").stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == list(found)
    assert items(store_dir) == dict.fromkeys(range(3), b"short")
    assert b"Usage: " in run("compact", store_dir, "--min-dead", "2", code=2).stderr


def test_recover_of_a_whole_store_loses_nothing(path: Path, target: Path) -> None:
    output = run("recover", path, target).stdout.decode()
    assert output == f"recovered 1999 keys into {target}: nothing was lost\n"
    assert items(target) == EXPECTED


def test_recover_lists_what_was_lost_and_ends_with_1(path: Path, target: Path) -> None:
    value = PLAIN[200]
    flip(path / SMALL, (path / SMALL).read_bytes().index(value) + 10)
    for index in path.glob("index.*"):
        index.unlink()
    *losses, summary = json_lines(recover(path, target, "--json").stdout)
    key = next(each["key"] for each in losses if each["kind"] == "key")
    lost = int(key, 16)
    assert losses[0] == {"kind": "note", "message": "index.0  is missing", "path": str(path / "index.0")}
    assert summary["keys"] == 1998
    assert (summary["damaged"], summary["lost"], summary["whole"]) == (1, 1, False)
    assert items(target) == {number: value for number, value in EXPECTED.items() if number != lost}
    shutil.rmtree(target)
    lines = recover(path, target).stdout.decode().splitlines()
    assert f"key {key}  its revision of transaction 1 is lost; nothing is left of it" in lines
    assert lines[-1].startswith(f"recovered 1998 keys into {target}: 1 damaged or missing, 1 keys lost")


def recover(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    """Run ``kvs recover`` where something is lost."""
    done = subprocess.run(
        [*KVS, "recover", *map(str, arguments)], capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (1, b"")
    return done


@pytest.mark.parametrize("command", ["dump", "backup", "compact", "recover"])
def test_a_store_that_is_not_there_is_exit_code_3(store_dir: Path, target: Path, command: str) -> None:
    arguments = [target] if command in {"backup", "recover"} else []
    assert b"there is no store here" in run(command, store_dir, *arguments, code=3).stderr
    assert beside(target) == set()


@pytest.mark.parametrize("file", ["no-such-file", ""])
def test_a_dump_that_cannot_be_opened_is_one_line(target: Path, file: str) -> None:
    done = run("load", target, target.with_name(file or target.parent.name), code=3)
    assert done.stderr.count(b"\n") == 1
    assert beside(target) == set()


@pytest.mark.parametrize(
    "arguments",
    [["dump"], ["load"], ["backup", "store"], ["recover", "store"], ["compact"], ["load", "a", "b", "c"]],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert b"Usage: " in run(*arguments, code=2).stderr


def test_stat_shows_lists_in_lines_of_their_own(path: Path) -> None:
    with kvs.open(path) as store, kvs.open(path), store.snapshot():
        text = run("stat", path).stdout.decode().splitlines()
        (found,) = json_lines(run("stat", path, "--json").stdout)
    assert len(found["writers"]) == 2
    assert any(line.startswith("writers ") and f"pid {os.getpid()}" in line for line in text)
    assert sum(f"pid {os.getpid()}" in line for line in text) == 2
    assert any(line.split()[:1] == ["pins"] and "2" in line for line in text)


def test_one_gigabyte_goes_through_a_pipe_in_bounded_memory(store_dir: Path, target: Path) -> None:
    store_dir.parent.mkdir(exist_ok=True)
    wanted = 3 * LARGE_VALUES * LARGE_BYTES
    if shutil.disk_usage(store_dir.parent).free < wanted:
        pytest.skip(f"{store_dir.parent} has no room for {wanted >> 30} GiB")
    value = random.Random(1).randbytes(MIB) * (LARGE_BYTES // MIB)
    with kvs.open(store_dir, io="append") as store:
        for number in range(LARGE_VALUES):
            store[number] = value
    measured = [sys.executable, "-S", "-c", MEASURED]
    with (
        subprocess.Popen(
            [*measured, *KVS, "dump", str(store_dir)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as dump,
        subprocess.Popen(
            [*measured, *KVS, "load", str(target)],
            stdin=dump.stdout,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as load,
    ):
        assert dump.stdout is not None
        dump.stdout.close()
        used: dict[str, Any] = {}
        for name, process in (("load", load), ("dump", dump)):
            assert process.stderr is not None
            used[name] = int(process.stderr.read().splitlines()[-1])
            assert process.wait() == 0
    with kvs.open(target, "r", io="append") as copy:
        assert len(copy) == LARGE_VALUES
        assert copy[LARGE_VALUES - 1] == value
    assert max(used.values()) < LARGE_RSS_MAX, json.dumps(used)
