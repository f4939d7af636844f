# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A newcomer's first hour: the blocks of the documentation, typed as they are on a fresh Debian.

The hosts have no network. What it would answer is prepared: apt's cache, a folder of wheels, a clone in the
place of GitHub's repository, and an Ansible Galaxy with this collection.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from rig import documents
from rig.debian import remove_tree
from rig.hosts.base import fresh
from rig.hosts.fleet import Fleet, running
from rig.wheels import wheels

REPOSITORY = Path(__file__).parents[2]
# Debian's release -> the version of its Python.
RELEASES = {"bookworm": "3.11", "trixie": "3.13"}
# Beginning of a command that runs until Ctrl-C -> what it shows before it is pressed.
FOREGROUND = {
    "mshare survey --watch": "Measured in",
    "runuser -u postgres -- mshare run": "ready to accept connections",
    "mshare run ": "the server is ready",
}
# It waits in looks, so that a slow machine passes. A terminal's Ctrl-C is for all of a process group; without
# `env` a background job of a shell ignores it.
_TYPING = r"""
until_ctrl_c() {
  awaited=$1
  shift
  setsid env --default-signal=INT "$@" >/tmp/shown 2>&1 </dev/null &
  for look in $(seq 1200); do
    if grep -q "$awaited" /tmp/shown || ! kill -0 $!; then break; fi
    sleep 0.1
  done
  kill -INT -- -$! || :
  wait $! || :
  cat /tmp/shown
  grep -q "$awaited" /tmp/shown
}
"""
# $1 has the wheels, $2 what stands in for GitHub and Galaxy. apt's lists look as after `apt-get update`.
_PREPARE = r"""
set -e
touch /var/lib/apt/lists /var/lib/apt/periodic/update-success-stamp
cat >/etc/gitconfig <<END
[safe]
directory = *
[url "file://$2/clone"]
insteadOf = https://github.com/dbmem/mshare
END
cat >/etc/pip.conf <<END
[global]
no-index = true
find-links = $1
END
mkdir -p /etc/ansible
cat >/etc/ansible/ansible.cfg <<END
[galaxy]
server_list = here
[galaxy_server.here]
url = http://127.0.0.1:8765/api/
END
cat >/root/inventory.ini <<END
[databases]
localhost ansible_connection=local ansible_python_interpreter=/usr/bin/python3
END
setsid python3 "$2/galaxy.py" "$2"/dbmem-mshare-*.tar.gz 8765 >/dev/null 2>&1 </dev/null &
"""


def typed(script: str, beginning: str = "cd") -> str:
    """A script that ends where a line of a page's fails."""
    for start, awaited in FOREGROUND.items():
        script = re.sub(rf"^(?={start})", f"until_ctrl_c '{awaited}' ", script, flags=re.MULTILINE)
    return "\n".join(["set -e", _TYPING, beginning, script])


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What GitHub and Galaxy would answer, as a folder: a clone of what is here, and its collection."""
    folder = tmp_path_factory.mktemp("network")
    folder.chmod(0o755)
    clone = folder / "clone"
    files = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    present = b"\0".join(
        name for name in files.split(b"\0") if name and (REPOSITORY / name.decode()).exists()
    )
    clone.mkdir()
    packed = subprocess.run(
        ["tar", "--create", "--null", "--files-from=-"],
        cwd=REPOSITORY,
        input=present,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    subprocess.run(["tar", "--extract", "--directory", clone], input=packed, check=True)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], cwd=clone, check=True)
    program = str(Path(sys.executable).parent / "ansible-galaxy")
    subprocess.run([program, "collection", "build", "--output-path", folder, clone], check=True)
    (folder / "galaxy.py").write_bytes((REPOSITORY / "tests" / "rig" / "galaxy.py").read_bytes())
    yield folder
    remove_tree(clone)


@pytest.fixture(scope="module", params=RELEASES)
def host(request: pytest.FixtureRequest, network: Path) -> Iterator[Fleet]:
    python = RELEASES[request.param]
    requirements = [
        line.split(";")[0].strip()
        for line in (REPOSITORY / "requirements.txt").read_text().splitlines()
        if line.startswith("ansible-core ~= 2.19")
    ]
    library = re.findall(
        r'^  "(\w+ >= [^"]+)",$', (REPOSITORY / "lib" / "pyproject.toml").read_text(), re.MULTILINE
    )
    downloaded = wheels(python, [*requirements, *library, "setuptools >= 61", "wheel"])
    with running(f"first-hour-{request.param}", 1, fresh(request.param)) as fleet:
        fleet.show(0, downloaded)
        fleet.show(0, network)
        succeeded(fleet, _PREPARE, str(downloaded), str(network))
        yield fleet


def succeeded(fleet: Fleet, script: str, *arguments: str) -> str:
    """What a script answers; fails with all that it wrote if it fails."""
    words: Sequence[str] = fleet.ssh_command(0, "bash", "-c", script, "bash", *arguments)
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


# Ansible itself is the reader's to install; here it is the one of `make deploy`.
WITH_ANSIBLE = """
command -v git >/dev/null || apt-get install -y git
test -e ~/mshare || git clone https://github.com/dbmem/mshare ~/mshare
~/mshare/.ci/setup deploy
export PATH="$HOME/mshare/.venv/bin:$PATH" LC_ALL=C.UTF-8
cd
"""


# Programs that the pages take as the reader's own, and what they use.
_OWN_PROGRAMS = r"""
cd
getent group dba >/dev/null || groupadd dba
mkdir -p /data
truncate -s 64M /data/a /data/b
chgrp dba /data/a /data/b
chmod 0660 /data/a /data/b
printf '#!/bin/sh\nexec sleep 1000000\n' >/usr/local/bin/worker
cat >server <<'END'
#!/usr/bin/python3
import mmap, signal
memory = mmap.mmap(-1, 64 << 20)
memory[0] = 1
print("the server is ready", flush=True)
signal.pause()
END
chmod +x server /usr/local/bin/worker
mshare mount
"""


# The machine's pool of huge pages belongs to other tests, so the server does not start before it knows.
_POSTGRESQL = r"""
set -e
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
apt-get install -y postgresql gcc libc6-dev
rm /usr/sbin/policy-rc.d
version=$(ls /usr/lib/postgresql)
echo 'huge_pages = off' >"/etc/postgresql/$version/main/conf.d/tests.conf"
pg_ctlcluster "$version" main start
echo "$version"
"""


def played(blocks: Iterable[documents.Block], sizes: Mapping[str, str] | None = None) -> str:
    """The lines that write YAML blocks into a playbook, with sizes of a test's, and run it."""
    text = yaml.safe_dump(documents.plays(blocks), sort_keys=False)
    for size, small in (sizes or {}).items():
        text = text.replace(size, small)
    return f"cat >play.yml <<'END'\n{text}END\nansible-playbook -i inventory.ini play.yml\n"


def test_the_readme_and_the_page_about_deploying(host: Fleet) -> None:
    shown = succeeded(host, typed(documents.script("README.md: Try it")))
    assert "Validation passed" in shown
    # The next page begins in the clone.
    on_this_machine = documents.script("docs/deploy.md: From a clone, on this machine")
    shown = succeeded(host, typed(on_this_machine, "cd ~/mshare"))
    assert "Validation passed" in shown
    assert succeeded(host, "ls -d /usr/local/bin/mshare /run/msharefs /etc/mshare 2>/dev/null || :") == ""


def test_the_command_line_without_ansible(host: Fleet) -> None:
    script = typed(documents.script("docs/command-line.md: The command line `mshare`"))
    shown = succeeded(host, script.replace("git clone", "test -e mshare || git clone"))
    assert "Validation passed" in shown


def test_on_hosts_of_an_inventory(host: Fleet) -> None:
    installed, built = documents.shell_blocks("docs/deploy.md: On other hosts")
    shown = succeeded(host, typed(f"{installed.commands}cd ~/mshare\n{built.commands}", WITH_ANSIBLE))
    assert "Validation passed" in shown
    again = documents.script(
        "docs/roll-back.md: Another version of the collection", "docs/deploy.md: Host by host"
    )
    shown = succeeded(host, typed(again, WITH_ANSIBLE))
    assert len(re.findall(r"changed=0 .*failed=0", shown)) == 2, shown
    shown = succeeded(host, typed(documents.script("docs/roll-back.md: A whole deployment"), WITH_ANSIBLE))
    assert "failed=0" in shown
    shown = succeeded(host, typed(documents.script("docs/survey-fleet.md: Survey many hosts"), WITH_ANSIBLE))
    assert "1 host" in shown


def test_the_snippets_about_regions_are_one_play(host: Fleet) -> None:
    snippets = documents.yaml_blocks(
        "docs/region-in-your-play.md: A region in your own play",
        "docs/region-in-your-play.md: Many large files in one region",
        "docs/region-in-your-play.md: Several regions on a host",
        "docs/region-in-your-play.md: Modules without roles",
        "docs/region-in-your-play.md: Removing it again",
    )
    # Only the sizes are a test's; a slice must have room for what an owner itself needs.
    small = {"310GiB": "1GiB", "00GiB": "00MiB", "4GiB": "4MiB", "16GiB": "16MiB"}
    files = "mkdir -p /pmem; truncate -s 64M /pmem/orders.dat; truncate -s 16M /pmem/customers.dat\n"
    install = "ansible-galaxy collection install dbmem.mshare\n"
    shown = succeeded(host, typed(files + install + played(snippets, small), WITH_ANSIBLE))
    assert re.search(r"failed=0 .*rescued=0 +ignored=0", shown), shown


def test_the_snippets_of_the_roles_are_one_playbook(host: Fleet) -> None:
    """What they leave behind is what the next pages need: the library, and its preload."""
    clients, readers = documents.yaml_blocks("roles/clients/README.md: Role dbmem.mshare.clients")
    snippets = [
        *documents.yaml_blocks(
            "roles/runtime/README.md: Role dbmem.mshare.runtime",
            "roles/msharefs/README.md: Role dbmem.mshare.msharefs",
            "README.md: What you can do with it",
            "roles/region/README.md: Role dbmem.mshare.region",
        ),
        clients,
        *documents.yaml_blocks("docs/molecule.md: What else to assert"),
        readers,
        *documents.yaml_blocks("docs/roll-back.md: One region, or its clients"),
    ]
    small = {"310GiB": "1GiB", "300GiB": "256MiB", "1500": "15"}
    reader = (
        "printf '#!/bin/sh\\nexec sleep 1000000\\n' >/usr/local/bin/reader; chmod +x /usr/local/bin/reader\n"
    )
    shown = succeeded(host, typed(reader + played(snippets, small), WITH_ANSIBLE))
    assert re.search(r"failed=0 .*rescued=0 +ignored=0", shown), shown


@pytest.fixture(scope="module")
def postgresql(host: Fleet) -> str:
    """A cluster as Debian's package makes it, and what builds the preload; its version."""
    return succeeded(host, _POSTGRESQL).splitlines()[-1]


def test_the_pages_about_postgresql(host: Fleet, postgresql: str) -> None:
    def of(script: str) -> str:
        """A page's lines for the version of this Debian; memory may be too fragmented to collapse it all."""
        script = re.sub(r"\b15(?=/main|-main|/bin)", postgresql, script)
        return re.sub(r"^(mshare collapse .*)$", r"\1 || [ $? = 3 ]", script, flags=re.MULTILINE)

    read = documents.script(
        "README.md: What you can do with it",
        "docs/survey.md: Survey a host",
        "docs/survey-fleet.md: From stored surveys",
        "docs/plan.md: What to do about page tables",
        "docs/command-line.md: `mshare survey`",
        "docs/command-line.md: `mshare plan`",
    )
    compared = f"cp -r mshare-survey last\n{documents.script('docs/command-line.md: `mshare report`')}"
    with_reports = f'{WITH_ANSIBLE}PATH="$HOME/mshare-venv/bin:$PATH"'
    shown = succeeded(host, typed(of(read + compared), with_reports))
    assert "postgresql 5432" in shown

    moves = documents.yaml_blocks(
        "docs/plan.md: In a play",
        "docs/postgresql.md: PostgreSQL on a region",
        "roles/postgresql/README.md: Role dbmem.mshare.postgresql",
    )
    there_and_back = played(moves) + documents.script("docs/postgresql.md: PostgreSQL on a region")
    shown = succeeded(host, typed(of(there_and_back), WITH_ANSIBLE))
    assert "of it in huge pages" in shown

    on_the_host = documents.script(
        "docs/command-line.md: `mshare postgresql present`",
        "docs/collapse.md: What it needs",
        "docs/command-line.md: `mshare collapse`",
    )
    shown = succeeded(host, typed(of(on_the_host)))
    assert "huge pages" in shown
    stopped = f"mshare postgresql absent --restart\npg_ctlcluster {postgresql} main stop\n"
    run = documents.script("docs/run.md: Unmodified programs: `mshare run`")
    shown = succeeded(host, typed(stopped + of(run)))
    assert "took over anonymous shared memory of" in shown


def test_the_page_about_the_command_line(host: Fleet) -> None:
    (listed,) = documents.shell_blocks("docs/command-line.md: `mshare list`")
    (modelled,) = documents.shell_blocks("docs/command-line.md: `mshare model`")
    script = documents.script(
        "docs/command-line.md: `mshare create`",
        "docs/command-line.md: `mshare map`",
        "docs/command-line.md: `mshare clients start`",
        "docs/command-line.md: `mshare run`",
    )
    for size, small in (("8GiB", "256MiB"), ("GiB", "MiB"), ("--count 1500", "--count 15")):
        script = script.replace(size, small)
    shown = succeeded(host, typed(script + listed.commands, _OWN_PROGRAMS))
    header, *__ = listed.answer
    assert header.split() in [line.split() for line in shown.splitlines()]
    assert shown.count("the server is ready") == 4
    assert succeeded(host, typed(modelled.commands)).splitlines() == modelled.answer
    succeeded(host, "mshare umount --force")
