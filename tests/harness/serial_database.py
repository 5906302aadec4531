"""A tiny serializable database in memory with clients that are killed: it makes histories that are right.

Every operation takes effect at one moment between its invocation and its completion; a killed write takes
effect before its death, after it (a survivor finishes it), or never. What comes out is known to be right, so
a checker that finds anything in it is wrong; and one thing changed in it is known to be wrong.
"""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

import msgspec

from harness.history import (
    Died,
    Event,
    Fail,
    Info,
    Invoke,
    Mark,
    Ok,
    Read,
    RunEvent,
    Spawned,
    operation_id,
)

ACCOUNTS = tuple(f"bank/{number}" for number in range(5))
BUNDLES = tuple(f"bundle/{number}" for number in range(4))
LISTS = tuple(f"append/{number}" for number in range(3))
REGISTERS = tuple(f"register/{number}" for number in range(5))
ITEMS = ACCOUNTS + BUNDLES + LISTS + REGISTERS


class Settings(NamedTuple):
    """What kind of history to make. ``hidden``: the share of reads that carry no T; ``jump``: the share of
    commits before which the engine takes a T for itself; ``deletes``: whether anything is ever deleted;
    ``resolve``: the share of killed writers whose successor looks for their last write; ``keeps``: how many
    versions of an item it finds (with 1, no trace of a removal).
    """

    steps: int = 400
    processes: int = 5
    kill: float = 0.03
    abort: float = 0.1
    hidden: float = 0.0
    jump: float = 0.05
    deletes: bool = True
    resolve: float = 0.8
    keeps: int = 4

    @property
    def dense(self) -> bool:
        """Whether every T belongs to a commit."""
        return not self.jump


class Version(NamedTuple):
    writer: int | None
    sequence: int | None
    value: Any = None


ABSENT = Version(None, None)


class _Client:
    """One process: idle, or in the middle of one operation."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.index = 0
        self.invoke: Invoke | None = None
        self.plan: Any = None
        self.result: Ok | Fail | None = None


class SerialDatabase:
    """Call ``run`` once; then ``histories`` (events by process) and ``run_events`` hold the campaign."""

    def __init__(self, random: Random, settings: Settings) -> None:
        self.random = random
        self.settings = settings
        self.now = 1_000
        self.sequence = 0
        self.state: dict[str, Version] = {}
        self.states: dict[int, dict[str, Version]] = {0: {}}
        self.histories: dict[int, list[Event]] = {}
        self.run_events: list[RunEvent] = []
        self.committed: set[int] = set()
        """The ids of all writes that took effect, whoever knows of it."""
        self._clients: list[_Client] = []
        self._zombies: list[tuple[int, Invoke, Any]] = []
        self._unresolved: dict[int, list[Invoke]] = {}
        """The killed writes that the client of a number is to look for."""
        self._past: dict[str, list[Version]] = {}

    def run(self) -> SerialDatabase:
        """Setup, campaign, final."""
        setup = self._new_client("setup")
        self._do(setup, "write", "bank", ACCOUNTS, values=dict.fromkeys(ACCOUNTS, 100), plan=("opening",))
        self.run_events.append(Mark(self._tick(), "start"))
        self._clients = [self._new_client("writer") for _ in range(self.settings.processes)]
        for _ in range(self.settings.steps):
            self._step()
        for client in self._clients:
            while client.invoke is not None:
                self._advance(client)
        self.run_events.append(Mark(self._tick(), "stop"))
        while self._zombies:
            self._finish_zombie()
        self._do(self._new_client("final"), "final", "all", (), plan=("read", ITEMS))
        self.run_events.append(Mark(self._tick(), "end"))
        return self

    def _tick(self) -> int:
        self.now += self.random.randint(1, 1000)
        return self.now

    def _new_client(self, role: str) -> _Client:
        client = _Client(len(self.histories) + 1)
        self.histories[client.number] = []
        self.run_events.append(Spawned(client.number, self._tick(), 1000 + client.number, role))
        return client

    def _step(self) -> None:
        if self._zombies and self.random.random() < 0.2:
            self._finish_zombie()
        slot = self.random.randrange(len(self._clients))
        client = self._clients[slot]
        if client.invoke is not None and self.random.random() < self.settings.kill:
            self._kill(client)
            successor = self._clients[slot] = self._new_client("writer")
            self._inherit(client, successor)
        elif client.invoke is None and self._unresolved.get(client.number):
            killed = self._unresolved[client.number][-1]
            self._invoke(client, "resolve", killed.workload, (), (), {}, ("resolve", killed))
        elif client.invoke is None:
            self._invoke(client, *self._choose())
        else:
            self._advance(client)

    def _kill(self, client: _Client) -> None:
        assert client.invoke is not None
        if client.invoke.f == "write" and client.result is None and self.random.random() < 0.5:
            self._zombies.append((client.number, client.invoke, client.plan))
        if self.random.random() < 0.3:
            self.histories[client.number].append(Info(client.number, client.index, self._tick(), "cut off"))
        self.run_events.append(Died(client.number, self._tick(), 9, fault="kill-time"))

    def _inherit(self, dead: _Client, successor: _Client) -> None:
        """Whom the successor of ``dead`` is to resolve: its last write, and those that it did not come to."""
        assert dead.invoke is not None
        left = self._unresolved.pop(dead.number, [])
        if dead.invoke.f == "write" and self.random.random() < self.settings.resolve:
            left.append(dead.invoke)
        self._unresolved[successor.number] = left

    def _resolve(self, killed: Invoke) -> tuple[Read, ...]:
        """Seal the fate of ``killed``, and show what is kept of its items."""
        for zombie in self._zombies:
            if zombie[1] is killed:
                self._zombies.remove(zombie)
                if self.random.random() < 0.5:
                    self._commit(operation_id(killed.process, killed.index), killed, zombie[2])
                break
        items = (*killed.writes, *killed.deletes)[: self.random.randint(1, 3)]
        return tuple(read for item in items for read in self._kept(item))

    def _kept(self, item: str) -> list[Read]:
        past = self._past.get(item, [])
        if self.settings.keeps == 1:
            return [self._shown(item, self.state.get(item, ABSENT))]
        kept = [self._shown(item, version) for version in past[: -self.settings.keeps - 1 : -1]]
        return kept if len(past) >= self.settings.keeps else [*kept, Read(item, None, 0)]

    def _finish_zombie(self) -> None:
        number, invoke, plan = self._zombies.pop(self.random.randrange(len(self._zombies)))
        self._commit(operation_id(number, invoke.index), invoke, plan)

    def _choose(self) -> tuple[Any, ...]:
        random = self.random
        kind = random.random()
        if kind < 0.2:
            items = tuple(random.sample(ACCOUNTS, 2))
            return "write", "bank", items, (), {}, ("transfer", random.randint(1, 20))
        if kind < 0.35:
            items = tuple(random.sample(BUNDLES, random.randint(1, 3)))
            return "write", "bundle", items, (), {}, ("blind",)
        if kind < 0.5:
            items = tuple(random.sample(LISTS, random.randint(1, 2)))
            return "write", "append", items, (), {}, ("append",)
        if kind < 0.7:
            return self._choose_register()
        if kind < 0.8:
            return "get", "register", (), (), {}, ("read", (random.choice(ITEMS),))
        if kind < 0.9:
            return "read", "all", (), (), {}, ("read", ITEMS)
        items = tuple(random.sample(ITEMS, random.randint(1, 6)))
        return "read", "all", (), (), {}, ("read", items)

    def _choose_register(self) -> tuple[Any, ...]:
        random = self.random
        items = random.sample(REGISTERS, random.randint(1, 3))
        cut = random.randint(0, len(items)) if self.settings.deletes and random.random() < 0.5 else 0
        plan = ("modify", random.randint(0, 2))
        if self.settings.deletes and random.random() < 0.1:
            return "write", "append", (), (random.choice(LISTS),), {}, ("blind",)
        return "write", "register", tuple(items[cut:]), tuple(items[:cut]), {}, plan

    def _do(self, client: _Client, f: Any, workload: str, writes: Any, plan: Any, values: Any = None) -> None:
        self._invoke(client, f, workload, writes, (), values or {}, plan)
        while client.invoke is not None:
            self._advance(client)

    def _invoke(
        self, client: _Client, f: Any, workload: str, writes: Any, deletes: Any, values: Any, plan: Any
    ) -> None:
        client.index += 1
        identity = operation_id(client.number, client.index)
        if plan[0] == "append":
            values = dict.fromkeys(writes, identity)
        killed = operation_id(plan[1].process, plan[1].index) if plan[0] == "resolve" else 0
        client.invoke = Invoke(
            client.number, client.index, self._tick(), f, workload, writes, deletes, values, killed
        )
        client.plan, client.result = plan, None
        self.histories[client.number].append(client.invoke)

    def _advance(self, client: _Client) -> None:
        invoke = client.invoke
        assert invoke is not None
        if client.result is None:
            client.result = self._effect(client, invoke)
        else:
            completion = msgspec.structs.replace(client.result, time=self._tick())
            self.histories[client.number].append(completion)
            client.invoke = None

    def _effect(self, client: _Client, invoke: Invoke) -> Ok | Fail:
        if invoke.f == "write":
            if client.plan[0] != "opening" and self.random.random() < self.settings.abort:
                return Fail(client.number, client.index, 0, "conflict")
            identity = operation_id(client.number, client.index)
            reads, values = self._commit(identity, invoke, client.plan)
            return Ok(client.number, client.index, 0, self.sequence, reads, values)
        if invoke.f == "resolve":
            reads = self._resolve(client.plan[1])
            self._unresolved[client.number].remove(client.plan[1])
            return Ok(client.number, client.index, 0, None, reads)
        sequence = None if invoke.f == "get" else self.sequence
        reads = tuple(self._read(item) for item in client.plan[1])
        return Ok(client.number, client.index, 0, sequence, reads)

    def _read(self, item: str) -> Read:
        return self._shown(item, self.state.get(item, ABSENT))

    def _shown(self, item: str, version: Version) -> Read:
        hidden = self.random.random() < self.settings.hidden
        return Read(item, version.writer, None if hidden else version.sequence, version.value)

    def _commit(self, identity: int, invoke: Invoke, plan: Any) -> tuple[tuple[Read, ...], dict[str, Any]]:
        self.committed.add(identity)
        self.sequence += 1 + (self.random.random() < self.settings.jump)
        reads: tuple[Read, ...] = ()
        values: dict[str, Any] = {}
        new: dict[str, Any] = {}
        if plan[0] == "opening":
            new = dict(invoke.values)
        elif plan[0] == "transfer":
            reads = tuple(self._read(item) for item in invoke.writes)
            source, target = invoke.writes
            amount = min(plan[1], reads[0].value)
            new = values = {source: reads[0].value - amount, target: reads[1].value + amount}
        elif plan[0] == "append":
            reads = tuple(self._read(item) for item in invoke.writes)
            new = {read.item: [*(read.value or []), identity] for read in reads}
        elif plan[0] == "modify":
            touched = (*invoke.writes, *invoke.deletes)
            looked = [*touched[: plan[1]], *self.random.sample(ITEMS, self.random.randint(0, 2))]
            reads = tuple(self._read(item) for item in dict.fromkeys(looked))
        for item in invoke.writes:
            self.state[item] = Version(identity, self.sequence, new.get(item))
            self._past.setdefault(item, []).append(self.state[item])
        for item in invoke.deletes:
            self.state.pop(item, None)
            self._past.setdefault(item, []).append(Version(None, self.sequence))
        for sequence in range(max(self.states) + 1, self.sequence):
            self.states[sequence] = self.states[sequence - 1]
        self.states[self.sequence] = dict(self.state)
        return reads, values


def make(seed: int, **settings: Any) -> SerialDatabase:
    """A finished campaign."""
    return SerialDatabase(Random(seed), Settings(**settings)).run()


def make_any(seed: int) -> SerialDatabase:
    """A finished campaign whose settings are drawn from the seed, too."""
    random = Random(seed)
    settings = Settings(
        steps=random.choice((100, 250, 400)),
        processes=random.randint(1, 8),
        kill=random.choice((0, 0.03, 0.1, 0.3)),
        hidden=random.choice((0, 0, 0.3, 0.9, 1)),
        jump=random.choice((0, 0.05, 0.3)),
        deletes=random.random() < 0.7,
        resolve=random.choice((0, 0.8, 1, 1)),
        keeps=random.choice((1, 2, 4, 4, 9)),
    )
    return SerialDatabase(random, settings).run()
