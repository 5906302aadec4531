"""harness/POWERLOSS.md says what the code does: its tables are compared, its commands run, and so is README.md's."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
from campaigns import harness
from click.testing import CliRunner

import harness as package
from harness import planted
from harness.badstorage import campaign as bad_campaign
from harness.badstorage.faults import FAULTS, VARIANTS
from harness.badstorage.session import PROPERTIES
from harness.badstorage.workloads import WORKLOADS
from harness.cli import cli
from harness.damage import asking, crew, damages, subjects
from harness.damage import campaign as damage_campaign
from harness.powerloss import choices, judge, outage, peers, shrinking, survey, trace, twice
from harness.powerloss.job import CRASH, Options
from harness.powerloss.medium import MEDIA

HERE = Path(package.__file__).parent
PAGE = (HERE / "POWERLOSS.md").read_text(encoding="utf-8")
README = (HERE.parent / "README.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```.*?^```$", "", PAGE, flags=re.DOTALL | re.MULTILINE)


def section(title: str) -> str:
    """The text under the heading ``title``, on one line but for its tables; code is left out."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", PROSE, re.DOTALL | re.MULTILINE)
    assert found, f"harness/POWERLOSS.md has no section {title!r}"
    return found[1]


def said(title: str) -> str:
    """A section as one line."""
    return re.sub(r"\s+", " ", section(title))


def table(title: str, number: int = 0) -> dict[str, list[str]]:
    """A table of a section: the cells after the first by the first, names without their backticks."""
    found = re.findall(r"(?:^\|.*\n)+", section(title), re.MULTILINE)
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in found[number].splitlines()]
    return {row[0].strip("`"): row[1:] for row in rows[2:]}


def compare(rows: Mapping[str, list[str]], wanted: Mapping[str, str]) -> None:
    """A table of two columns says the same as the code, in the same order; the failure tells what is to be written."""
    wrong = [f"| `{name}` | {words} |" for name, words in wanted.items() if rows.get(name) != [words]]
    assert wrong == [], "\n".join(["to be written:", *wrong])
    assert list(rows) == list(wanted)


def explained(module: ModuleType) -> dict[str, str]:
    """The properties in a module's docstring with their words."""
    assert module.__doc__
    found = re.findall(r"^\* ``([\w ]+)``: (.*?)\.\n(?=\n|\* )", module.__doc__, re.DOTALL | re.MULTILINE)
    return {name: re.sub(r"\s+", " ", words) for name, words in found}


def commands() -> list[str]:
    """Every line that the page says to run."""
    found = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return [line for block in found for line in block.splitlines()]


# The tables, and the numbers in the text.


def test_the_media_are_those_of_the_code() -> None:
    compare(table("The medium"), {medium.name: medium.meaning for medium in MEDIA.values()})
    assert f"one page of a file ({trace.PAGE} bytes)" in said("The medium")
    ext4, harsh = MEDIA["ext4"], MEDIA["harsh"]
    assert f"A sector ({ext4.sector_bytes} bytes; {harsh.sector_bytes} on `harsh`)" in said("The medium")


def test_the_states_are_as_many_as_are_made() -> None:
    told = said("The states that are made")
    assert f"up to {choices._VERSIONS_MAX} of those" in told
    assert f"of up to {choices._PAIRED_MAX} things all pairs" in told
    assert f"every cut, {choices._SAMPLES} of them" in told
    assert f"Of one run {Options().per_run} are drawn" in told
    assert f"fewer than {outage.IMAGES_MIN:,} different ones" in told
    again = said("What is judged")
    assert f"Of one image in {Options().twice_every} (`--twice-every`)" in again
    assert f"up to {twice._STATES} states" in again


def test_the_properties_of_an_image_are_those_that_the_judge_has() -> None:
    rows = table("What is judged")
    crash = rows.pop(CRASH)
    assert crash[0]
    compare(rows, explained(judge))


def test_what_the_judge_does_not_verify_is_told() -> None:
    assert judge.__doc__
    missing = re.sub(r"\s+", " ", judge.__doc__.split("Does not verify: ")[1]).split(" (")[0]
    assert f"Does not verify: {missing}." in said("What is judged")


def test_the_planted_bugs_are_those_that_cuts_are_to_show() -> None:
    compare(table("Planted bugs"), {name: planted.BUGS[name].meaning for name in survey.names()})
    told = said("Planted bugs")
    assert f"within {survey.LIMIT_S:g} seconds, be shrunk to at most {survey.OMITTED_MAX} missing" in told
    assert f"shown again {shrinking.TIMES} times of {shrinking.TIMES}" in told


def test_the_other_engines_have_the_promises_that_are_compared() -> None:
    compare(table("Other engines"), explained(peers))
    assert tuple(table("Other engines")) == peers.PROPERTIES
    rows = table("Other engines", 1)
    assert list(rows) == list(peers.CONFIGURATIONS)
    for name, promise in peers.PROMISES.items():
        holds = ", ".join(f"`{each}`" for each in peers.PROPERTIES if each in promise.holds) or "nothing"
        assert rows[name] == [holds, f'"{promise.sentence}" ([source]({promise.address}))'], name


def test_the_faults_of_bad_storage_are_those_of_the_code() -> None:
    workloads, calls, properties = (table("Bad storage", number) for number in range(3))
    compare(workloads, {name: workload.meaning for name, workload in WORKLOADS.items()})
    compare(calls, {name: ", ".join(f"`{error}`" for error in errors) for name, errors in FAULTS.items()})
    compare(properties, PROPERTIES)
    assert len(VARIANTS) == 4
    assert "in four variants" in said("Bad storage")
    assert f"up to {bad_campaign._SECOND_WITHIN} calls behind the first" in said("Bad storage")


def test_the_damages_are_those_of_the_code() -> None:
    compare(table("Damage"), {name: (make.__doc__ or "").strip() for name, make in subjects.RECIPES.items()})
    assert tuple(table("Damage", 1)) == asking.PHASES
    told = said("Damage")
    assert f"runs of {damages.RUNS[0]} to {damages.RUNS[-1]} bytes" in told
    *sizes, last = damages.BLOCKS
    assert f"blocks of {', '.join(map(str, sizes))} and {last} bytes" in told
    assert f"takes {crew.CPU_LIMIT_S:g} s of processor time, waits for {crew.REAL_LIMIT_S:g} s" in told
    assert f"wants {crew.MEMORY_BYTES >> 30} GiB more" in told
    assert f"Fewer than {damage_campaign.TRIALS_MIN:,} trials" in told
    for name in asking.OUTCOMES:
        assert name in told


def test_every_link_leads_somewhere() -> None:
    pages = {"": PAGE, "../README.md": README, "README.md": (HERE / "README.md").read_text(encoding="utf-8")}
    for target in re.findall(r"\]\(([^)]+)\)", PROSE):
        path, _, anchor = target.partition("#")
        if target.startswith(("http://", "https://")):
            continue
        assert (HERE / path).exists(), target
        headings = re.findall(r"^#+ (.*)$", pages.get(path, ""), re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, target


# The commands.


def quick(arguments: list[str], directory: Path) -> list[str]:
    """The same command with little to do. Of an option that is given twice the last counts."""
    command, engines = arguments[0], "--engine" in arguments
    if command == "powerloss":
        less = ["--engine", "sqlite-wal-full", "--images", "3"] if engines else ["--seconds", "0.3"]
        return [*arguments, *less, "--seed", "1", "--out", str(directory)]
    if command == "selftest":
        return [*arguments, "--only", "index-trusted-after-reboot"]
    if command == "badstorage" and engines:
        return [*arguments, "--engine", "sqlite-wal-full", "--calls", "fdatasync", "--limit", "2"]
    if command == "badstorage":
        less = ["--workloads", "writes", "--variants", "mmap-durable", "--limit", "2", "--pairs", "1"]
        return [*arguments, *less]
    assert command == "damage", arguments
    less = (
        ["--seconds", "1"] if "--fuzz" in arguments else ["--seconds", "0.3", "--count", "50", "--jobs", "1"]
    )
    return [*arguments, *less, "--out", str(directory / "damage.json")]


@pytest.mark.parametrize(
    "line", [line for line in commands() if shlex.split(line)[1] not in ("replay", "shrink")]
)
def test_every_command_of_the_page_can_be_run(line: str, tmp_path: Path) -> None:
    name, *arguments = shlex.split(line)
    assert name == "harness"
    if "--engine" in arguments and shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    done = harness(*quick(arguments, tmp_path), cwd=tmp_path)
    assert "Traceback" not in done.stderr
    if "--fuzz" in arguments and importlib.util.find_spec("atheris") is None:
        assert done.returncode == 2
        assert "kvs-torture[fuzz]" in done.stderr
        return
    right = (1, 3) if "--bug" in arguments else (0, 3)  # so little may prove nothing
    assert done.returncode in right, done.stdout + done.stderr


def test_every_command_in_the_text_takes_these_options() -> None:
    named = [shlex.split(code) for code in re.findall(r"`(harness [^`\n]+)`", PROSE)]
    assert {command for _, command, *_ in named} >= {"powerloss", "badstorage", "damage", "selftest"}
    for _, command, *arguments in named:
        if arguments:
            cli.commands[command].make_context(command, list(arguments))
        assert CliRunner().invoke(cli, [command, "--help"]).exit_code == 0


def shape(page: list[str]) -> list[str]:
    """The lines of a failure's page without its numbers and the name of its run."""
    return [re.sub(r"\d+", "#", re.sub(r"results/runs/\S+-powerloss/", "RUN/", line)) for line in page]


def test_the_failure_that_the_page_shows_is_what_is_printed_and_can_be_repeated_and_shrunk(
    tmp_path: Path,
) -> None:
    (shown,) = (
        block
        for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
        if block.startswith("$ harness powerloss")
    )
    prompt, *expected = shown.splitlines()
    done = harness(*shlex.split(prompt.removeprefix("$ harness ")), cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    printed = done.stdout.split("\n\n")[0].splitlines()
    assert shape(printed) == shape(expected)

    (made,) = tmp_path.glob("results/runs/*/failure-1.json")
    made.rename(tmp_path / "failure-1.json")
    for line in commands():
        arguments = shlex.split(line)[1:]
        if arguments[0] in ("replay", "shrink"):
            again = harness(*arguments, cwd=tmp_path)
            assert again.returncode == 1, f"{line}: {again.stdout}{again.stderr}"
            assert "Traceback" not in again.stderr
            assert "the name of the new file" in again.stdout
