"""One trial: damage a store, ask it everything that can be asked, and judge every answer.

Right is what the undamaged store says. A clean refusal names the file (and, but for whole files, the place in it). An
older revision or absence may only be where ``verify`` says that something is wrong. A value that the key never had is
never right, nor is any exception that a user could not understand.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import kvs
from harness.damage.damages import Damage, Edit
from harness.damage.place import Place
from harness.damage.subjects import ABSENT, Ring, Subject, newest
from kvs import files, layout, salvage

PHASES: Final = ("read", "write", "reboot", "recover", "held")
"""What is done with a damaged store: ``read`` it, ``write`` to it, open it after a restart of the machine, ``recover``
it into a new one; or damage it while a handle ``held`` it open."""
OUTCOMES: Final = ("right", "refused", "said", "violation")
_WRITTEN: Final = b"written after the damage"
_OPTIONS: Final[dict[str, Any]] = {"lock_timeout_s": 2.0, "index_capacity": 20, "smallfile_bytes": 1500}
_OTHER_BOOT: Final = bytes(range(16))
_NO_MARK: Final = bytes(16)


unraisable: list[Problem] = []
"""What came out where nobody can catch it: it would be a traceback on the terminal."""


class Problem(NamedTuple):
    """An answer that must never be: which kind of wrong it is, and what was asked and seen."""

    kind: str
    message: str


def watch_unraisable() -> None:
    """From now on an exception that nobody can catch is a problem of the trial that it comes in."""

    def hook(seen: sys.UnraisableHookArgs) -> None:
        what = f"{type(seen.exc_value).__name__}, ignored in {getattr(seen.object, '__qualname__', seen.object)!r}"
        unraisable.append(Problem(what.partition(" in <")[0], f"{what}: {seen.exc_value}"))

    sys.unraisablehook = hook


class Answers:
    """What a damaged store answered."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.rings = subject.rings
        self.problems: list[Problem] = []
        self.refused = 0
        self.verify_refused = False
        self.rebuilt = False
        self.gone = False
        """Whether a smallfile is gone, another one stands in its place, or nothing is left of what was in it: whoever
        rebuilds the index from what is left does not notice. This much the format says of itself."""
        self.deviations: list[str] = []
        self.said: list[str] = []

    def settle(self, store: kvs.Store) -> None:
        """What the dead left is finished by now, or was found to be nothing."""
        subject = self.subject
        if subject.rings is not subject.settled and self.time(store) == subject.last:
            self.rings = subject.settled

    def time(self, store: kvs.Store) -> int:
        """The newest transaction that the store shows; -1 if it refuses to say."""
        try:
            return int(store.stat()["transactions"])
        except kvs.CorruptedStoreError as error:
            self.refuse("stat", error)
        except Exception as error:  # noqa: BLE001 - as below
            self.crashed("stat", error)
        return -1

    def refuse(self, asked: str, error: kvs.CorruptedStoreError) -> None:
        """The store said that it is damaged. It has to say where."""
        self.refused += 1
        if not error.path:
            self.problems.append(Problem("nowhere", f"{asked}: {error} names no file"))

    def ask(self, asked: str, call: Callable[[], Any], right: Any, possible: Callable[[Any], bool]) -> None:
        """``right`` is the right answer, ``possible`` says of another one whether it was right once."""
        try:
            answer = call()
        except kvs.CorruptedStoreError as error:
            self.refuse(asked, error)
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what this looks for
            self.crashed(asked, error)
            return
        if answer == right:
            return
        if not possible(answer):
            self.problems.append(Problem("wrong value", f"{asked}: {answer!r} instead of {right!r}"))
        else:
            self.deviations.append(f"{asked}: {answer!r} instead of {right!r}")

    def crashed(self, asked: str, error: Exception) -> None:
        """An exception came out that is no clean error."""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = ""
        if trace is not None:
            code = trace.tb_frame.f_code
            where = f" in {Path(code.co_filename).name}, {code.co_name}"
        self.problems.append(Problem(f"{type(error).__name__}{where}", f"{asked}: {error}"))

    def conclude(self) -> str:
        """The outcome of the whole trial; what deviated and was not said is a problem by now."""
        self.problems += unraisable
        unraisable.clear()
        if self.rebuilt and self.said:
            self.problems.append(
                Problem("unsound", f"the index was rebuilt, and verify says: {self.said[0]}")
            )
        elif (
            self.deviations and not self.said and not self.verify_refused and not (self.rebuilt and self.gone)
        ):
            for each in self.deviations[:3]:
                asked = f"{'rebuilt ' * self.rebuilt}{each.partition(':')[0]}"
                self.problems.append(Problem(f"unsaid {asked}", f"verify says nothing; {each}"))
        if self.problems:
            return "violation"
        if self.deviations:
            return "said"
        return "refused" if self.refused else "right"

    def verify(self, store: kvs.Store) -> None:
        """Ask the store what is wrong with it."""
        try:
            found = [f"{finding.invariant}: {finding.message}" for finding in store.verify()]
        except kvs.CorruptedStoreError as error:
            self.refuse("verify", error)
            self.verify_refused = True
            return
        except Exception as error:  # noqa: BLE001 - as above
            self.crashed("verify", error)
            return
        self.said += found


def _emptied(subject: Subject, name: str, damage: Damage) -> bool:
    """Whether no record of a smallfile is where it was, or begins as it did."""
    before = subject.images[name].data
    after = bytearray(before)
    for edit in damage.edits:
        if edit.name == name and edit.act == "write":
            after[edit.offset : edit.offset + len(edit.data)] = edit.data
    blocks = [slice(at, at + layout.ALIGN) for at in range(layout.SMALLFILE_BEGIN, len(before), layout.ALIGN)]
    used = [block for block in blocks if any(before[block])]
    return name.endswith(".small") and bool(used) and all(before[block] != after[block] for block in used)


def run(place: Place, damage: Damage, phase: str, io: str) -> tuple[str, list[Problem]]:
    """Do the trial; returns its outcome (one of ``OUTCOMES``) and what was wrong."""
    answers = Answers(place.subject)
    answers.gone = any(edit.act != "write" and ".small" in edit.name + edit.other for edit in damage.edits)
    answers.gone |= any(_emptied(place.subject, name, damage) for name in place.subject.images)
    if phase == "held":
        _held(place, damage, io, answers)
        return answers.conclude(), answers.problems
    if phase == "reboot":
        damage = _unclean(place, damage)
    with place.damaged(damage):
        {"read": _read, "write": _write, "reboot": _reboot, "recover": _recover}[phase](place, io, answers)
    return answers.conclude(), answers.problems


@contextlib.contextmanager
def booted(boot: bytes) -> Iterator[None]:
    """As if the kernel had this boot id."""
    real = files.boot_id
    files.boot_id = lambda: boot  # type: ignore[assignment]
    try:
        yield
    finally:
        files.boot_id = real


def _opened(place: Place, flag: str, io: str, answers: Answers) -> kvs.Store | None:
    """The store, unless it refuses cleanly."""
    try:
        return kvs.open(place.path, flag, io=io, **_OPTIONS)
    except kvs.CorruptedStoreError as error:
        answers.refuse("open", error)
    except (kvs.UnknownStoreError, kvs.StoreNotFoundError):
        answers.refused += 1
    except Exception as error:  # noqa: BLE001 - what came out is what this looks for
        answers.crashed(f"open {flag!r}", error)
    return None


def _close(store: kvs.Store, answers: Answers) -> None:
    try:
        store.close()
    except kvs.CorruptedStoreError as error:
        answers.refuse("close", error)
    except Exception as error:  # noqa: BLE001 - as above
        answers.crashed("close", error)


def _read(place: Place, io: str, answers: Answers) -> None:
    store = _opened(place, "r", io, answers)
    if store is None:
        return
    _read_what_is_there(place, store, answers)
    answers.verify(store)
    _close(store, answers)


def _write(place: Place, io: str, answers: Answers) -> None:
    place.touched()
    store = _opened(place, "w", io, answers)
    if store is None:
        return
    key = next(iter(answers.rings))
    answers.settle(store)
    answers.verify(store)
    _read_what_is_there(place, store, answers)
    if place.subject.name != "addressed":
        for name in (ABSENT, key):
            answers.ask("put", partial(_put, store, name), None, lambda _: True)
            if answers.problems or answers.refused:
                break
            answers.ask(
                "get of what was written",
                partial(store.get, name),
                _WRITTEN,
                partial(answers.subject.had, name),
            )
        if not place.rebuilt():
            _read_newest(store, answers, besides={ABSENT, key})
    answers.verify(store)
    _close(store, answers)


def _held(place: Place, damage: Damage, io: str, answers: Answers) -> None:
    store = _opened(place, "r", io, answers)
    if store is None:
        return
    store.get(next(iter(answers.subject.rings)))  # so that a smallfile is mapped
    with place.damaged(damage):
        _read_what_is_there(place, store, answers)
        answers.verify(store)
        _close(store, answers)


def _unclean(place: Place, damage: Damage) -> Damage:
    """The same, to a store that was not closed cleanly: its index may be of any age."""
    marks = [
        Edit("write", name, layout.H_CLEAN * layout.WORD, _NO_MARK)
        for name in place.subject.images
        if name.startswith("index.")
    ]
    return Damage(damage.kind, (*marks, *damage.edits))


def _reboot(place: Place, io: str, answers: Answers) -> None:
    with booted(_OTHER_BOOT):
        _read(place, io, answers)


def _read_what_is_there(place: Place, store: kvs.Store, answers: Answers) -> None:
    """Everything; or what is left, where the index was made anew, or where the last transaction of a durable store
    looks like one that was never acknowledged.
    """
    subject = answers.subject
    answers.rebuilt = place.rebuilt()
    if answers.rebuilt or (subject.durable and answers.time(store) == subject.last - 1):
        _read_at_some_time(store, answers)
    else:
        read_all(store, answers)


def _read_at_some_time(store: kvs.Store, answers: Answers) -> None:
    """What was cut is gone with all that came later: the store is as it was at some T."""
    subject, time = answers.subject, answers.time(store)
    for key in subject.ever:
        right = subject.at(key, time)
        answers.ask("get", partial(store.get, key), right, partial(subject.had, key))
        answers.ask("history", partial(_is_recent, store, subject, key, time), True, lambda _: True)


def _is_recent(store: kvs.Store, subject: Subject, key: bytes, time: int) -> bool:
    """Whether the history of a key is its newest revisions at ``time``, however many a compaction has left."""
    ring, ever = _ring(store, key), [each for each in reversed(subject.ever[key]) if each[0] <= time]
    if subject.integrity:
        return ring == _vouched(ever[: len(ring)])
    return [each for each, _ in ring] == [each for each, _ in ever[: len(ring)]]


def _recover(place: Place, io: str, answers: Answers) -> None:  # noqa: ARG001 - it always reads by system calls
    losses: list[salvage.Loss] = []
    try:
        salvage.recover(
            place.path,
            place.aside,
            lambda path, kept: kvs.open(path, "n", index_capacity=20, **dict[str, Any](kept)),
            losses.append,
        )
        with kvs.open(place.aside, "r") as store:
            items = dict(store.items())
    except kvs.CorruptedStoreError as error:
        answers.refuse("recover", error)
        return
    except (kvs.UnknownStoreError, kvs.StoreNotFoundError):
        answers.refused += 1
        return
    except Exception as error:  # noqa: BLE001 - as above
        answers.crashed("recover", error)
        return
    finally:
        with contextlib.suppress(FileNotFoundError):
            for path in place.aside.iterdir():
                path.unlink()
            place.aside.rmdir()
    subject = answers.subject
    right = [newest(subject.rings), newest(subject.settled)]
    doubted = {loss.key for loss in losses if loss.kind == "uncertain" and loss.key}
    if subject.integrity:
        for key, value in items.items():
            if not subject.had(key, value) and key not in doubted:
                answers.problems.append(Problem("wrong value", f"recover: {key.hex()} is {value!r}"))
        if items not in right:
            answers.deviations.append(f"recover: {len(items)} keys of {len(right[0])}")
    answers.said += [loss.message for loss in losses]


# -- everything that can be read --------------------------------------------------------------------------


def _put(store: kvs.Store, key: bytes) -> None:
    store.put_many({key: _WRITTEN})


def _had_all(subject: Subject, key: bytes, ring: Ring) -> bool:
    return all(subject.had(key, value) for _, value in ring)


def _had_found(subject: Subject, key: bytes, found: tuple[int, bytes] | None) -> bool:
    return found is None or subject.had(key, found[1])


def read_all(store: kvs.Store, answers: Answers) -> None:
    """Ask for every key in every way, and for keys that never were."""
    subject = answers.subject
    _read_newest(store, answers)
    keys = [*answers.rings, ABSENT]
    live = newest(answers.rings)
    right = [live.get(key) for key in keys]
    for times in (1, 1 + 40 // len(keys)):  # few and many go different ways
        answers.ask(
            "get_many",
            partial(store.get_many, keys * times),
            right * times,
            partial(_had_many, subject, keys * times),
        )
    for key, ring in answers.rings.items():
        answers.ask("history", partial(_ring, store, key), _vouched(ring), partial(_had_all, subject, key))
        for number in range(min(4, len(ring) + 1)):
            item = ring[number] if number < len(ring) and ring[number][1] is not None else None
            answers.ask(
                "find",
                partial(_found, store, key, number),
                item,
                partial(_had_found, subject, key),
            )
    answers.ask("len", lambda: len(store), len(live), lambda _: True)
    answers.ask(
        "items",
        lambda: dict(store.items()),
        live,
        lambda found: all(subject.had(key, value) for key, value in found.items()),
    )


def _read_newest(
    store: kvs.Store, answers: Answers, besides: set[bytes] | frozenset[bytes] = frozenset()
) -> None:
    subject = answers.subject
    for key, ring in answers.rings.items():
        if key not in besides:
            right = ring[0][1] if ring else None
            answers.ask("get", partial(store.get, key), right, partial(subject.had, key))
    if ABSENT not in besides:
        answers.ask("get", lambda: store.get(ABSENT), None, lambda _: not subject.integrity)


def _ring(store: kvs.Store, key: bytes) -> list[tuple[int, bytes | None]]:
    return _vouched([each for each in store.history(key) if each[0]])


def _vouched(ring: Ring) -> Ring:
    """Of a removal that was forgotten nothing is left but an entry in the index, which nothing else knows: whether the
    key was ever there nobody can tell.
    """
    return ring if any(value is not None for _, value in ring) else []


def _found(store: kvs.Store, key: bytes, number: int) -> tuple[int, bytes] | None:
    item = store.find(key, number)
    return None if item is None else (item.transaction_counter, item.value)


def _had_many(subject: Subject, keys: list[bytes], values: list[Any]) -> bool:
    return len(keys) == len(values) and all(
        subject.had(key, value) for key, value in zip(keys, values, strict=True)
    )
