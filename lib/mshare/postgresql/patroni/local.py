# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Patroni of this host: its process, the unit that starts it, and what its configuration says.

Its environment wins over its file, as Patroni has it (patroni/config.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...errors import Conflict, Unavailable
from ...host import procfs
from ..managers import evidence, units
from ..managers.patroni import data_directories_of, files_of, given, processes

_TEXT_NAME = "PATRONI_CONFIGURATION"


@dataclass(frozen=True)
class RestApi:
    """How a member's REST API is reached."""

    address: str
    """HOST:PORT."""
    encrypted: bool = False
    user: str | None = None
    password: str | None = None
    authority: str | None = None
    """A file of certificates that count; None: the host's own."""
    certificate: str | None = None
    """A file with a certificate to show, for Patroni's verify_client."""
    key: str | None = None
    key_password: str | None = None
    verified: bool = True
    """False where Patroni's own client does not verify certificates either (ctl.insecure)."""

    @property
    def url(self) -> str:
        return f"{'https' if self.encrypted else 'http'}://{self.address}"


@dataclass(frozen=True)
class Member:
    """The member of a Patroni cluster that runs on this host."""

    scope: str
    """The cluster's name."""
    name: str
    unit: str
    rest: RestApi
    configuration: str = field(default="", compare=False)
    """Where its own configuration is, for a sentence."""
    parameters: Mapping[str, object] = field(default_factory=dict, compare=False)
    """PostgreSQL's parameters there: they count more than those in the cluster's store."""
    pid: int = field(default=0, compare=False)
    """Of Patroni."""


def member(cluster: str, reason: str, data_directory: str) -> Member:
    """The member whose cluster is in a data directory; `reason` says by what Patroni was recognised.

    Conflict where Patroni does not run, or no systemd unit starts it; Unavailable for a configuration that
    cannot be read.
    """
    pid = next((pid for pid in processes() if data_directory in data_directories_of(pid)), None)
    if pid is None:
        raise Conflict(
            f"PostgreSQL cluster {cluster} is managed by Patroni ({reason}), and no Patroni runs for it on"
            " this host, so nothing was changed; start Patroni, or if it no longer manages this cluster,"
            " remove what it left, or start the server by its own unit"
        )
    unit = evidence.unit_of_process(pid)
    if unit is None or not units.describe(unit).starts:
        raise Conflict(
            f"PostgreSQL cluster {cluster} is managed by Patroni ({reason}), which no systemd unit starts"
            f" (process {pid}), so nothing was changed; install the library (role dbmem.mshare.runtime with"
            " mshare_runtime_preload: true), set LD_PRELOAD and MSHARE_PRELOAD_PAGES in the environment that"
            " Patroni is started with, and restart Patroni on one member after the other, replicas first"
        )
    path, fields, environment = _configuration(pid, data_directory)
    return replace(of_configuration(fields, environment, path, unit), pid=pid)


def _configuration(pid: int, data_directory: str) -> tuple[str, Mapping[str, object], dict[str, str]]:
    """Where the configuration of a process is, what it has, and what the environment has of it."""
    pairs = (pair.partition("=") for pair in (procfs.read(f"/proc/{pid}/environ") or "").split("\0"))
    environment = {name: value for name, __, value in pairs if name.startswith("PATRONI_")}
    if _TEXT_NAME in environment:
        source = f"{_TEXT_NAME} of process {pid}"
        return source, _fields(environment[_TEXT_NAME], source), environment
    fields: dict[str, object] = {}
    for path in files_of(pid):
        text = evidence.text_for(os.path.realpath(path), data_directory)
        fields = _merged(fields, _fields(text, path))
    return given(pid) or f"the environment of process {pid}", fields, environment


def _merged(fields: Mapping[str, object], later: Mapping[str, object]) -> dict[str, object]:
    """What several files of a folder make together: of a key that two have, the later one counts."""
    merged = {**fields, **later}
    for name, value in later.items():
        before = fields.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            merged[name] = _merged(before, value)
    return merged


def _fields(text: str, path: str) -> Mapping[str, object]:
    try:
        import yaml
    except ImportError:
        raise Unavailable(
            f"{path} cannot be read without PyYAML; install python3-yaml (python3-pyyaml on EL) for the"
            " Python that Ansible uses here"
        ) from None
    try:
        fields = yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Unavailable(f"{path} is not YAML: {' '.join(str(error).split())}; correct it first") from None
    if not isinstance(fields, dict):
        raise Unavailable(f"{path} holds no keys and values; correct it first")
    return fields


def of_configuration(
    fields: Mapping[str, object], environment: Mapping[str, str], path: str, unit: str
) -> Member:
    """A member by what its configuration says; Unavailable, naming the key, where one is missing."""

    def value(section: str, key: str) -> str | None:
        name = "_".join(part.upper() for part in ("patroni", section, key) if part)
        among = _section(fields, section) if section else fields
        text = environment.get(name, among.get(key))
        return None if text is None else str(text)

    def needed(section: str, key: str) -> str:
        text = value(section, key)
        if not text:
            raise Unavailable(
                f"{path} has no {'.'.join(filter(None, (section, key)))}, which is needed to reach Patroni;"
                " add it"
            )
        return text

    user, password = _login(fields, environment)
    rest = RestApi(
        needed("restapi", "connect_address"),
        bool(value("restapi", "certfile")),
        user,
        password,
        value("ctl", "cacert") or value("restapi", "cafile"),
        value("ctl", "certfile"),
        value("ctl", "keyfile"),
        value("ctl", "keyfile_password"),
        (value("ctl", "insecure") or "").lower() not in ("true", "on", "yes", "1"),
    )
    parameters = _section(_section(fields, "postgresql"), "parameters")
    # Its name may be among PostgreSQL's, as in configurations of long ago.
    name = value("", "name") or _text(_section(fields, "postgresql").get("name")) or needed("", "name")
    return Member(needed("", "scope"), name, unit, rest, path, parameters)


def _login(fields: Mapping[str, object], environment: Mapping[str, str]) -> tuple[str | None, str | None]:
    """User and password for what changes something: those of patronictl (ctl), else the API's own, as
    Patroni has it (patroni/request.py). Either may have both in one text, `auth: user:password`."""
    for section in ("ctl", "restapi"):
        among = _section(fields, section)
        given = _section(among, "authentication")
        user, password = (
            environment.get(f"PATRONI_{section.upper()}_{key.upper()}", _text(given.get(key)))
            for key in ("username", "password")
        )
        if user is not None:
            return user, password
        if among.get("auth"):
            user, __, password = str(among["auth"]).partition(":")
            return user, password
    return None, None


def _section(fields: Mapping[str, object], name: str) -> Mapping[str, object]:
    section = fields.get(name)
    return section if isinstance(section, dict) else {}


def _text(value: object) -> str | None:
    return None if value is None else str(value)
