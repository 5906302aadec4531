"""What was found once and kept: each failure is replayed on the store as it is, which must keep every promise.

``tests/schedules/NAME.json`` is a failure as ``harness explore`` or ``harness powerloss`` found it, and as ``harness
corpus add`` kept it, with the story of what it caught. One that names a planted bug must end in that violation with the
bug and in none without: so it is known to play what it played.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import corpus
from harness.corpus import Entry
from harness.pytest_plugin import Torture

KEPT = corpus.entries(Path(__file__).parent.parent / "schedules")


@pytest.mark.parametrize("entry", KEPT, ids=lambda entry: entry.name)
def test_the_store_keeps_its_promises_on_what_once_broke_one(entry: Entry, torture: Torture) -> None:
    # A store that is mended goes another way than the one that was recorded.
    torture.replay(entry.path, times=2, clean=True, unknown=("divergence",))


@pytest.mark.parametrize("entry", [each for each in KEPT if each.kept.bug], ids=lambda entry: entry.name)
def test_a_kept_failure_of_a_planted_bug_still_shows_it(entry: Entry, torture: Torture) -> None:
    result = torture.replay(entry.path, times=2, check=False)
    assert result.outcome == "VIOLATION"
    assert entry.kept.property_name in result.properties
    assert result.counts == {"reproduced": 2, "runs": 2}


@pytest.mark.parametrize("entry", KEPT, ids=lambda entry: entry.name)
def test_every_kept_failure_tells_its_story(entry: Entry) -> None:
    assert len(entry.kept.story.split()) >= 20
    assert f"harness replay tests/schedules/{entry.path.name}" in entry.kept.page
