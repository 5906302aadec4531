"""Planted bugs: known mistakes in kvs that the harness must catch, or it is not to be believed.

Each bug is a mutation of the store's own source: a piece of one function's text is replaced and the
function compiled again in its module. So a bug is always the current code but for one mistake, and one whose
text is no longer found fails loudly instead of testing nothing.
"""

from typing import Final

from harness.planted import (
    claiming,
    committing,
    housekeeping,
    locking,
    outages,
    persisting,
    repairing,
    viewing,
)
from harness.planted.mutation import Bug, Mutation, remember

BUGS: Final[dict[str, Bug]] = (
    locking.BUGS
    | committing.BUGS
    | repairing.BUGS
    | claiming.BUGS
    | viewing.BUGS
    | housekeeping.BUGS
    | persisting.BUGS
    | outages.BUGS
)
"""Every planted bug by name."""

remember(BUGS.values())

__all__ = ["BUGS", "Bug", "Mutation"]
