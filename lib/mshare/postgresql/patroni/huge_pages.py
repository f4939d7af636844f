# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL's huge_pages for a Patroni cluster: in its store, where it counts for all members.

With huge_pages = on a member does not start where its host has too few of them. It is therefore set only
with permission to restart, when the hosts of all members have been asked, and put back as soon as one of
them does not come up with it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ...errors import Conflict, MshareError
from ...units import KIB
from .. import ask, clusters
from ..clusters import Cluster
from . import restart, store
from .api import Api, Health
from .local import Member
from .store import Change

HUGE_PAGES, SIZE = "huge_pages", "huge_page_size"
_AUTO = "postgresql.auto.conf"


def read(member: Member) -> dict[str, object]:
    """What the cluster's store has; Unavailable where Patroni's REST API does not answer."""
    return Api(member.rest).stored()


def native(member: Member, stored: store.Fields, page_bytes: int | None) -> Change:
    """The change that has PostgreSQL ask for huge pages; of a size, if one is given."""
    wanted = {HUGE_PAGES: "on"}
    if page_bytes is not None:
        wanted[SIZE] = f"{page_bytes // KIB}kB"
    return store.change(stored, member.scope, wanted)


def back(member: Member, stored: store.Fields) -> Change:
    """The change that puts back what was there before `native`; an empty one if nothing of ours is there."""
    return store.change(stored, member.scope, {})


def own_size(cluster: Cluster, member: Member, stored: store.Fields) -> str:
    """huge_page_size as this cluster has it without us; empty where it has none."""
    note = store.noted(stored, member.scope)
    entry = None if note is None else note.parameters.get(SIZE)
    if entry is not None:
        return "" if entry.before is None else str(entry.before)
    return clusters.settings(cluster).get(SIZE, ("", ""))[0]


def is_on(fields: store.Fields) -> bool:
    """Whether PostgreSQL demands huge pages by the store."""
    return store.means(store.parameters(fields).get(HUGE_PAGES)) is True


def require_effect(cluster: Cluster, member: Member) -> None:
    """Conflict where this member has a huge_pages of its own, which counts more than the store's."""
    own = _own(cluster, member)
    if own is not None and store.means(own.value) is not True:
        raise Conflict(
            f"{own.place} sets huge_pages to {own.value} for member {member.name}, which counts more than the"
            f" store of Patroni cluster {member.scope}, so nothing was changed; {own.next_step}, and run this"
            " again"
        )


@dataclass(frozen=True)
class _Own:
    """huge_pages as one member has it for itself."""

    value: object
    place: str
    next_step: str


def _own(cluster: Cluster, member: Member) -> _Own | None:
    value, source = clusters.settings(cluster).get(HUGE_PAGES, ("", ""))
    if source == _AUTO:
        return _Own(value, os.path.join(cluster.data_directory, _AUTO), "run ALTER SYSTEM RESET huge_pages")
    if member.parameters.get(HUGE_PAGES) is not None:
        place = f"postgresql.parameters in {member.configuration}"
        return _Own(member.parameters[HUGE_PAGES], place, "remove it there, run `patronictl reload`")
    return None


def waits(member: Member) -> bool:
    """Whether Patroni has PostgreSQL wait for a restart because of its huge_pages; False where it does not
    say, as before Patroni 3.3."""
    try:
        return Api(member.rest).health().waits_for(HUGE_PAGES)
    except MshareError:
        return False


def require_all_asked(member: Member, members_ready: bool) -> None:
    """Conflict where the hosts of other members may have no pool: the setting counts for them, too."""
    if members_ready:
        return
    others = [other.name for other in Api(member.rest).view().others(member.name)]
    if others:
        raise Conflict(
            f"huge_pages in the store of Patroni cluster {member.scope} counts for all of its members, also"
            f" for {', '.join(others)}, and PostgreSQL does not start with it where the host has too few huge"
            " pages, so nothing was changed; move all members with the playbook dbmem.mshare.postgresql,"
            " which asks each host first, or set members_ready to true (mshare_postgresql_members_ready) once"
            " each host has a pool that is large enough"
        )


def change(member: Member, change: Change) -> None:
    """Change the store; MshareError, with nothing changed, where Patroni does not."""
    Api(member.rest).change_store(change.patch)


def require_heard(cluster: Cluster, member: Member, demanded: bool, restarts: bool) -> None:
    """Wait until this member's configuration is as its store has it; MshareError where it does not become so.

    `restarts` says that the server has to be restarted for huge pages that are `demanded`, which Patroni is
    to know as well.
    """
    # What a member has for itself, the store does not change.
    if _own(cluster, member) is not None:
        return

    def heard(health: Health) -> bool:
        value = ask.setting(cluster, HUGE_PAGES)
        known = value is None or (store.means(value) is True) == demanded
        return known and (bool(health.pending_restart) or not (demanded and restarts))

    wanted = "a pending restart for huge_pages" if demanded else "its former huge_pages"
    restart.settle(
        member, heard, f"member {member.name} does not have {wanted} from the store of its Patroni cluster"
    )


def take_back(member: Member) -> str:
    """Put back what `native` changed, so that a member starts again that does not start with it; a clause
    that says how that went, for the end of a sentence."""
    try:
        change = back(member, read(member))
    except MshareError as error:
        return f"the store of Patroni cluster {member.scope} could not be put back: {error}"
    if not change.differs:
        return f"the store of Patroni cluster {member.scope} has nothing of this collection to put back"
    return f"{undo(member, change.patch)}; members that run in huge pages keep them until they are restarted"


def undo(member: Member, patch: store.Fields) -> str:
    """The same with a patch that is known."""
    try:
        Api(member.rest).change_store(patch)
    except MshareError as error:
        return f"the store of Patroni cluster {member.scope} could not be put back: {error}"
    return f"the store of Patroni cluster {member.scope} was put back"
