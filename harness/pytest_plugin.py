"""Torture in a test: the fixture ``torture``, the marker of the same name, and the options ``--torture-*`` of pytest.

def test_my_store_keeps_its_promises(torture):
    torture(MyEngine, seconds=10, workloads=["bank", "bundle"])

Each test, each of its parameters and each worker of pytest-xdist has its own seeds, which follow from one seed of the
session, and its own directories. A failure is explained, comes with a line that replays it, and leaves its artefacts.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from harness.errors import HarnessError, UsageError

if TYPE_CHECKING:
    from harness.torture import TortureResult

SECONDS: Final = 10.0
"""How long a campaign of a test lasts that says nothing else..."""
EXPLORE_SECONDS: Final = 5.0
"""...and exploring, or cutting the power."""
REPLAYED_SECONDS: Final = 120.0
"""How long a campaign is taken to have lasted that is replayed, for the time after which a replay is given up."""
STALL_S: Final = 15.0
"""How long survivors may go without a commit: tests share the processors, so the store is not blamed for less."""
OUT: Final = ".torture"
SEEDS: Final = "seeds.jsonl"
"""In there: a line for everything that was tortured, whatever came of it."""
_NAME_MAX: Final = 60
_PROPERTY: Final = "torture"
_SEED: Final = "torture_seed"
_EACH: Final = "torture_each"
_PASSED: Final = pytest.StashKey[bool]()
_WORDS: Final = pytest.StashKey[str]()
"""Why a test had to fail: an explanation of many lines, of which the first one says the most."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the command line."""
    group = parser.getgroup("torture", "torturing stores (kvs-torture)")
    group.addoption("--torture-seed", type=int, help="Seed of all torture tests.  [default: random]")
    group.addoption("--torture-seconds", type=float, help="Seconds of each torture, whatever the tests say.")
    group.addoption(
        "--torture-out", help=f"Where artefacts and seeds go.  [default: {OUT} in the root directory]"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, and draw the seed, which workers of xdist are told."""
    config.addinivalue_line(
        "markers",
        "torture(seconds=..., seed=..., workloads=...): a test that tortures a store, and the defaults of its torture.",
    )
    if config.option.torture_seed is None:
        told: dict[str, Any] = getattr(config, "workerinput", {})
        config.option.torture_seed = told.get(_SEED, secrets.randbits(32))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of xdist the seed, and whether all workers run the same tests: then their own seeds must differ."""
    node.workerinput[_SEED] = node.config.option.torture_seed
    node.workerinput[_EACH] = node.config.getvalue("dist") == "each"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that uses the fixture, so that ``-m "not torture"`` leaves them all out."""
    for item in items:
        if "torture" in getattr(item, "fixturenames", ()) and item.get_closest_marker("torture") is None:
            item.add_marker("torture")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember that a test passed, for the fixture that decides what stays.

    Explain a failure once: on CI, where ``CI`` is set, pytest's summary would repeat the whole of it.
    """
    report = yield
    if report.when == "call":
        item.stash[_PASSED] = report.passed
    words = item.stash.get(_WORDS, None)
    if words is not None and call.excinfo is not None and str(call.excinfo.value) == words:
        told = call.excinfo.getrepr(style="value", tbfilter=False)
        if told.reprcrash is not None:
            told.reprcrash.message = words.partition("\n")[0]
        report.longrepr = told
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say the seed, if anything was tortured."""
    reports = [
        each
        for group in ("passed", "failed", "error")
        for each in terminalreporter.stats.get(group, ())
        if any(name == _PROPERTY for name, *_ in getattr(each, "user_properties", ()))
    ]
    if reports:
        tests = len({report.nodeid for report in reports})
        seed = config.option.torture_seed
        terminalreporter.write_line(f"torture: {tests} test{'s' * (tests != 1)} with --torture-seed {seed}")


@pytest.fixture
def torture_seed(request: pytest.FixtureRequest) -> int:
    """The seed of this session, for a test that draws at random by itself. It is printed with a failure."""
    seed = _session_seed(request)
    print(f"torture seed: --torture-seed {seed}")
    return seed


@pytest.fixture
def torture(request: pytest.FixtureRequest) -> Iterator[Torture]:
    """Tortures a store, and fails the test if the verdict is anything but ``OK``: see ``Torture``."""
    tortured = Torture(request.node, _session_seed(request))
    yield tortured
    if request.node.stash.get(_PASSED, False):
        tortured.forget()


def _session_seed(request: pytest.FixtureRequest) -> int:
    seed = int(request.config.option.torture_seed)
    request.node.user_properties.append((_PROPERTY, str(seed)))
    return seed


class Torture:
    """What the fixture ``torture`` is. Every method runs a command in a process of its own and returns its result.

    All but ``OK`` fails the test: a violation is told with all that is known of it and a line that replays it, and an
    ``UNKNOWN`` with what was missing, but for properties in ``unknown``, of which nothing need be known.
    ``check=False`` only returns the result. Defaults come from the test's marker, seeds from the session's, the test's
    name and how many came before. Artefacts are kept if the test fails.
    """

    def __init__(self, item: pytest.Item, seed: int) -> None:
        config = item.config
        self._item = item
        self._seed = seed
        self._here = config.invocation_params.dir
        given = config.option.torture_out
        self._root = config.rootpath / OUT if given is None else self._here / given
        worker: dict[str, Any] = getattr(config, "workerinput", {})
        name = str(worker.get("workerid", "main"))
        self._apart = f"{name}/" if worker.get(_EACH) else ""
        self._directory = self._root / name / _file_name(item.nodeid)
        self._made: list[Path] = []
        self._count = 0
        self._defaults: dict[str, Any] = {}
        for marker in reversed(list(item.iter_markers("torture"))):
            self._defaults |= marker.kwargs

    def __call__(
        self, engine: Any, *, check: bool = True, unknown: Sequence[str] = (), **given: Any
    ) -> TortureResult:
        """Run a campaign: free-running processes on a store of ``engine``, killed and stopped while they work.

        ``engine`` is a class that other processes can import, or a name as ``harness run --engine`` takes. ``given``
        are other options of ``harness run``, such as ``seconds``, ``workloads``, ``writers``, ``faults``, ``bug``.
        """
        promised = getattr(engine, "stall_s", None) or 0.0
        told = {
            "seconds": SECONDS,
            "stall_s": max(STALL_S, promised),
            **self._defaults,
            **given,
            "engine": engine,
        }
        return self._conduct("run", told, check=check, unknown=unknown)

    def explore(self, *, check: bool = True, unknown: Sequence[str] = (), **given: Any) -> TortureResult:
        """Explore schedules of kvs. ``given`` are options of ``harness explore``, such as ``scenario``, ``seconds``,
        ``schedules``, ``strategy``, ``bug``.
        """
        told = {"seconds": EXPLORE_SECONDS, **self._own(), **given}
        if "schedules" in given and "seconds" not in given:
            del told["seconds"]
        return self._conduct("explore", told, check=check, unknown=unknown)

    def powerloss(self, *, check: bool = True, unknown: Sequence[str] = (), **given: Any) -> TortureResult:
        """Cut the power in recorded runs of kvs. ``given`` are options of ``harness powerloss``, such as ``scenario``,
        ``seconds``, ``images``, ``medium``, ``bug``.
        """
        told = {"seconds": EXPLORE_SECONDS, **self._own(), **given}
        if "images" in given and "seconds" not in given:
            del told["seconds"]
        return self._conduct("powerloss", told, check=check, unknown=unknown)

    def replay(
        self, path: str | os.PathLike[str], *, check: bool = True, unknown: Sequence[str] = (), **given: Any
    ) -> TortureResult:
        """Show what was found once again, which fails the test: the file of a failure, or a campaign's run directory.
        ``given`` are options of ``harness replay``, such as ``times``, ``simulated``, ``clean`` (leave out the planted
        bug). A relative ``path`` begins where pytest was started.
        """
        return self._conduct("replay", given, check=check, unknown=unknown, path=Path(path))

    def forget(self) -> None:
        """Remove what this test left behind, and directories that are empty then."""
        for run_dir in self._made:
            shutil.rmtree(run_dir, ignore_errors=True)
        for directory in (self._directory, self._directory.parent):
            with contextlib.suppress(OSError):
                directory.rmdir()

    def _own(self) -> dict[str, Any]:
        """Of the marker, what every command has."""
        return {name: self._defaults[name] for name in ("seconds", "seed") if name in self._defaults}

    def _conduct(
        self,
        kind: str,
        told: dict[str, Any],
        *,
        check: bool,
        unknown: Sequence[str],
        path: Path | None = None,
    ) -> TortureResult:
        """Run the command, note its seed, and fail the test if it has to."""
        self._count += 1
        if path is None:
            seconds = self._item.config.option.torture_seconds
            told |= {"seconds": seconds} if seconds is not None else {}
            told["seed"] = self._next_seed() if told.get("seed") is None else told["seed"]
        python_path = [str(each) for each in self._item.config.getini("pythonpath")]
        began = time.monotonic()
        try:
            result = self._result(kind, told, path, python_path)
            words = self._verdict(result, unknown, python_path) if check else ""
            self._note(kind, told, result, time.monotonic() - began)
        except UsageError as error:
            words = f"torture was used wrongly: {error}"
        except (HarnessError, OSError) as error:
            words = f"torture failed by itself, no store is to blame: {error}\n{self._seeds(told)}"
        if words:
            self._item.stash[_WORDS] = words
            pytest.fail(words, pytrace=False)
        return result

    def _result(
        self, kind: str, told: dict[str, Any], path: Path | None, python_path: list[str]
    ) -> TortureResult:
        from harness import torture

        if "engine" in told:
            told["engine"] = torture.reference(told["engine"], self._here)
        out: Path | None = None
        if path is None or (self._here / path).is_dir():
            self._prepare()
            out = self._directory
            told["out"] = torture.seen_from(self._here, out)
        arguments = [kind, *([str(path)] if path else []), *torture.options(told), "--json"]
        known = set(out.iterdir()) if out is not None else set()
        seconds = told.get("seconds") or (REPLAYED_SECONDS if path is not None else 0.0)
        limit_s = torture.GRACE_S + torture.TIME_FACTOR * float(seconds)
        try:
            done = torture.command(arguments, here=self._here, limit_s=limit_s, python_path=python_path)
        finally:
            made = sorted(set(out.iterdir()) - known) if out is not None else []
            self._made += made
        run_dir = made[-1] if made else None
        again = self._here / path if path is not None else None
        return torture.read(kind, done, run_dir, here=self._here, seed=told.get("seed"), again=again)

    def _next_seed(self) -> int:
        name = f"{self._seed}/{self._apart}{self._item.nodeid}/{self._count}"
        return int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "little")

    def _prepare(self) -> None:
        """Make the directories; the one in the root directory is not for a repository."""
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._root.name == OUT and not (self._root / ".gitignore").exists():
            (self._root / ".gitignore").write_text("*\n")

    def _verdict(self, result: TortureResult, unknown: Sequence[str], python_path: list[str]) -> str:
        """Why the test has to fail, "" if it need not."""
        if result:
            return ""
        if result.outcome == "UNKNOWN" and result.unknown and set(result.unknown) <= set(unknown):
            return ""
        counts = ", ".join(f"{count:,} {name}" for name, count in result.counts.items())
        about = ", ".join(result.properties or result.unknown)
        lines = [f"{result.outcome}  {about}{': ' if counts else ''}{counts}", "", result.text, ""]
        if result.replay:
            path = os.pathsep.join(os.path.relpath(each, self._here) for each in python_path)
            with_path = f"PYTHONPATH={shlex.quote(path)} " if path else ""
            lines += [f"replay      {with_path}{result.replay}", f"  in        {self._here}"]
        lines.append(self._seeds({"seed": result.seed}))
        if result.page is not None:
            lines.append(f"page        {result.page}")
        if result.run_dir is not None:
            lines.append(f"artefacts   {result.run_dir}")
        return "\n".join(lines)

    def _seeds(self, told: dict[str, Any]) -> str:
        own = f"{told['seed']}, of " if told.get("seed") is not None else ""
        return f"seed        {own}--torture-seed {self._seed}"

    def _note(self, kind: str, told: dict[str, Any], result: TortureResult, seconds: float) -> None:
        """Append one line to the record of seeds; many workers do so at the same time."""
        if result.seed is None:
            return
        facts = {
            "test": self._item.nodeid,
            "command": kind,
            "engine": str(told.get("engine", "kvs")),
            "seed": result.seed,
            "outcome": str(result.outcome),
            "seconds": round(seconds, 3),
            "counts": dict(result.counts),
        }
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(self._root / SEEDS, flags, 0o666)
        try:
            os.write(fd, f"{json.dumps(facts)}\n".encode())
        finally:
            os.close(fd)


def _file_name(nodeid: str) -> str:
    """A name for the directory of a test: readable, short, and of no other test."""
    words = re.sub(r"[^\w.]+", "-", nodeid.rpartition("/")[2]).strip("-.")
    return f"{words[:_NAME_MAX]}-{blake2b(nodeid.encode(), digest_size=3).hexdigest()}"
