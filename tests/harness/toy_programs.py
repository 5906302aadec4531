"""Tiny programs over shared variables and locks, all of whose interleavings can be listed: what a search that reduces
them is held against.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from harness.history import Invoke, Ok
from harness.scenario import Program, Scenario
from harness.schedule.footprints import DEATHS, Footprint
from harness.schedule.search import STEP
from harness.stepped.base import Actor, State
from harness.stepped.program import Aftermath

Op = tuple[Any, ...]
"""``("set", v, ...)`` writes a new value to each variable, torn word by word; ``("add", v)`` counts up; ``("get", v)``
notes what is there; ``("lock", l)``, ``("unlock", l)``; ``("invoke",)``, ``("ok",)``: the ends of an operation."""
Move = tuple[int, int]


class Toy(NamedTuple):
    """A few processes, when each joins, and how many may die."""

    programs: tuple[tuple[Op, ...], ...]
    joins: tuple[int, ...]
    kills: int


class World:
    """One state of a toy. Moves are ``(process, way)`` as in ``schedule.exhaustive``."""

    def __init__(self, toy: Toy) -> None:
        self.toy = toy
        self.at = [0] * len(toy.programs)
        self.dead: dict[int, Move] = {}
        self.variables: dict[int, Any] = {}
        self.locks: dict[int, int] = {}
        self.logs: list[list[Any]] = [[] for _ in toy.programs]
        self.spans: list[tuple[int, str]] = []

    @classmethod
    def of(cls, toy: Toy, moves: Sequence[Move]) -> World:
        """The state after ``moves``."""
        world = cls(toy)
        for move in moves:
            world.move(move)
        return world

    def waiting(self) -> bool:
        """Whether somebody is there who has not come to its end."""
        return any(self.op(process) is not None for process in range(1, len(self.at) + 1))

    def copy(self) -> World:
        other = World(self.toy)
        other.at, other.dead, other.variables = self.at[:], dict(self.dead), dict(self.variables)
        other.locks, other.logs = dict(self.locks), [log[:] for log in self.logs]
        other.spans = self.spans[:]
        return other

    def op(self, process: int) -> Op | None:
        """What the living, present process does next."""
        program = self.toy.programs[process - 1]
        there = self.toy.joins[process - 1] <= len(self.dead) and process not in self.dead
        return program[self.at[process - 1]] if there and self.at[process - 1] < len(program) else None

    def steps(self) -> list[Move]:
        found = []
        for process in range(1, len(self.at) + 1):
            op = self.op(process)
            if op is not None and not (op[0] == "lock" and op[1] in self.locks):
                found.append((process, STEP))
        return found

    def deaths(self) -> list[Move]:
        if len(self.dead) >= self.toy.kills:
            return []
        living = [(p, op) for p in range(1, len(self.at) + 1) if (op := self.op(p)) is not None]
        return [(p, way) for p, op in living for way in range(max(1, parts(op)))]

    def move(self, move: Move) -> Footprint:
        """Make the move; returns what it touches."""
        process, way = move
        op = self.op(process)
        assert op is not None
        reads: set[int] = set()
        if way != STEP:
            writes = self._free(process)
            if op[0] == "set":
                writes |= self._set(process, op[1 : 1 + way])
            self.dead[process] = (self.at[process - 1], way)
            if any(self.toy.joins):
                writes.add(DEATHS)
            return Footprint(frozenset(reads), frozenset(writes))
        if self.toy.joins[process - 1] and self.at[process - 1] == 0:
            reads.add(DEATHS)
        writes = set()
        kind = op[0]
        if kind == "set":
            writes = self._set(process, op[1:])
        elif kind == "add":
            self.variables[op[1]] = (self.variables.get(op[1], 0), "+", process)
            writes.add(op[1])
        elif kind == "get":
            self.logs[process - 1].append(self.variables.get(op[1]))
            reads.add(op[1])
        elif kind == "lock":
            self.locks[op[1]] = process
            writes.add(-10 - op[1])
        elif kind == "unlock" and self.locks.get(op[1]) == process:
            del self.locks[op[1]]
            writes.add(-10 - op[1])
        else:
            self.spans.append((process, kind))
        self.at[process - 1] += 1
        if self.op(process) is None:
            writes |= self._free(process)
        return Footprint(frozenset(reads), frozenset(writes), kind == "invoke", kind == "ok")

    def _free(self, process: int) -> set[int]:
        """What the kernel does when a process is gone."""
        freed = {-10 - lock for lock, owner in self.locks.items() if owner == process}
        self.locks = {lock: owner for lock, owner in self.locks.items() if owner != process}
        return freed

    def _set(self, process: int, variables: Sequence[int]) -> set[int]:
        for variable in variables:
            self.variables[variable] = (process, self.at[process - 1])
        return set(variables)

    def outcome(self) -> tuple[Any, ...]:
        """Everything that anybody can see in the end, the real-time order of operations included."""
        order = {
            (a, i, b, j)
            for i, (a, first) in enumerate(self._ends())
            for j, (b, second) in enumerate(self._ends())
            if i < j and a[0] != b[0] and {first, second} == {"invoke", "ok"}
        }
        return (
            tuple(self.at),
            tuple(sorted(self.dead.items())),
            tuple(sorted(self.variables.items())),
            tuple(sorted(self.locks.items())),
            tuple(map(tuple, self.logs)),
            frozenset((a, b) for a, _, b, _ in order),
        )

    def _ends(self) -> Iterator[tuple[tuple[int, int], str]]:
        counts: dict[int, int] = {}
        for process, kind in self.spans:
            counts[process] = counts.get(process, 0) + 1
            yield (process, counts[process]), kind


def parts(op: Op) -> int:
    """Units of the write of ``op``."""
    return len(op) - 1 if op[0] == "set" and len(op) > 2 else 0


def schedules(toy: Toy, preemptions: int | None = None) -> Iterator[list[Move]]:
    """Every maximal schedule, one by one (within the bound, if there is one)."""

    def walk(world: World, moves: list[Move], last: int, left: int) -> Iterator[list[Move]]:
        steps = world.steps()
        if not steps:
            yield moves
        for move in steps + world.deaths():
            cost = move[1] == STEP and last != move[0] and (last, STEP) in steps
            if preemptions is not None and cost > left:
                continue
            after = world.copy()
            after.move(move)
            yield from walk(after, [*moves, move], move[0] if move[1] == STEP else last, left - cost)

    yield from walk(World(toy), [], 0, preemptions or 0)


class ToyStage:
    """A stage on which a toy is played, and the witness of what its moves touch."""

    def __init__(self, toy: Toy) -> None:
        self.toy = toy
        programs = tuple(Program("writer", joins=joins) for joins in toy.joins)
        self.scenario = Scenario("toy", programs, (0,), kills=toy.kills)
        self.place: Any = self
        self.clock = 0
        self.locks = tuple(
            sorted({f"{op[1]}" for program in toy.programs for op in program if op[0] == "lock"})
        )
        self.touched = Footprint()

    def begin(self) -> Sequence[Actor]:
        self.world = World(self.toy)
        self.moves: list[Move] = []
        self.actors = [Actor(number, program) for number, program in enumerate(self.scenario.programs, 1)]
        for actor in self.actors:
            self._stand(actor)
        return self.actors

    def _stand(self, actor: Actor) -> None:
        program = self.toy.programs[actor.number - 1]
        at = self.world.at[actor.number - 1]
        if at == len(program):
            actor.state, actor.point = State.ENDED, ""
        else:
            actor.point, actor.parts = f"toy.{at}", parts(program[at])

    def step(self, actor: Actor) -> None:
        op = self.world.op(actor.number)
        assert op is not None
        if op[0] == "lock" and op[1] in self.world.locks:
            actor.state, actor.waits = State.WAITING, f"{op[1]}"
            self.touched = Footprint(frozenset({-10 - op[1]}))
            return
        actor.state, actor.waits = State.PARKED, ""
        self._move(actor, STEP)
        if op[0] == "invoke":
            actor.events.append(Invoke(actor.number, 1, self.clock, "write", "toy", (), ()))
        elif op[0] == "ok":
            actor.events.append(Ok(actor.number, 1, self.clock, None, ()))
        self._stand(actor)

    def kill(self, actor: Actor, torn: int) -> None:
        self._move(actor, torn)
        actor.state = State.DEAD

    def _move(self, actor: Actor, way: int) -> None:
        self.moves.append((actor.number, way))
        self.touched = self.world.move((actor.number, way))

    def holding(self, actor: Actor) -> tuple[str, ...]:
        return tuple(f"{lock}" for lock, owner in self.world.locks.items() if owner == actor.number)

    def end(self) -> None:
        pass

    def close(self) -> None:
        pass

    def examine(self, clock: int, killed: Any) -> Aftermath:
        return Aftermath([], [])

    # -- the witness ----------------------------------------------------------------------------------------

    def start(self) -> None:
        self.touched = Footprint()

    def stop(self) -> None:
        pass

    def take(self, mover: Any, point: str) -> Footprint:
        touched, self.touched = self.touched, Footprint()
        return Footprint(touched.reads - {DEATHS}, touched.writes - {DEATHS})

    def wants(self, standing: Any) -> str:
        op = self.world.op(standing.number)
        return f"{op[1]}" if op is not None and op[0] == "lock" else ""

    def is_free(self, lock: str) -> bool:
        return int(lock) not in self.world.locks

    def held_by(self, standing: Any) -> frozenset[int]:
        return frozenset(-10 - int(lock) for lock in self.holding(standing))
