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
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rig.debian import remove_tree
from rig.hosts.base import fresh
from rig.hosts.fleet import Fleet, running
from rig.wheels import wheels

REPOSITORY = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Debian's release -> the version of its Python.
RELEASES = {"bookworm": "3.11", "trixie": "3.13"}
# Lines that are not typed, and why.
NOT_TYPED = {
    "make test": "it is what runs this",
    "mshare survey --watch": "it runs until Ctrl-C",
}
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


def blocks(page: str, *headings: str) -> list[str]:
    """What a page has users type, of all of it or below some headings, in its order."""
    text = (REPOSITORY / page).read_text()
    if headings:
        parts = re.split(r"^##+ (.*)$", text, flags=re.MULTILINE)
        sections = dict(zip(["", *parts[1::2]], parts[::2]))
        text = "".join(sections[heading] for heading in headings)
    return [block for language, block in BLOCK.findall(text) if language in ("", "sh")]


def typed(page: str, *headings: str) -> str:
    """One script of a page's blocks, that ends where a line fails."""
    lines = "\n".join(blocks(page, *headings)).splitlines()
    kept = [line for line in lines if not any(line.startswith(start) for start in NOT_TYPED)]
    return "\n".join(["set -e", "cd", *kept, ""])


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
    downloaded = wheels(python, [*requirements, *library, "pygal", "setuptools >= 61", "wheel"])
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


def test_the_readme_and_the_page_about_deploying(host: Fleet) -> None:
    shown = succeeded(host, typed("README.md", "Try it"))
    assert "Validation passed" in shown
    # The next pages begin in the clone.
    on_this_machine = typed("docs/deploy.md", "From a clone, on this machine").replace(
        "\ncd\n", "\ncd ~/mshare\n"
    )
    shown = succeeded(host, on_this_machine)
    assert "Validation passed" in shown
    assert succeeded(host, "ls -d /usr/local/bin/mshare /run/msharefs /etc/mshare 2>/dev/null || :") == ""


def test_the_command_line_without_ansible(host: Fleet) -> None:
    page = (REPOSITORY / "docs" / "command-line.md").read_text()
    head = page.partition("\n## ")[0]
    script = "\n".join(["set -e", "cd", *(block for __, block in BLOCK.findall(head))])
    shown = succeeded(host, script.replace("git clone", "test -e mshare || git clone"))
    assert "Validation passed" in shown


# Ansible itself is the reader's to install; here it is the one of `make deploy`.
WITH_ANSIBLE = """
command -v git >/dev/null || apt-get install -y git
test -e ~/mshare || git clone https://github.com/dbmem/mshare ~/mshare
~/mshare/.ci/setup deploy
export PATH="$HOME/mshare/.venv/bin:$PATH" LC_ALL=C.UTF-8
"""


def test_on_hosts_of_an_inventory(host: Fleet) -> None:
    installed, built = blocks("docs/deploy.md", "On other hosts")
    shown = succeeded(host, f"set -e\ncd\n{WITH_ANSIBLE}{installed}cd ~/mshare\n{built}")
    assert "Validation passed" in shown
    shown = succeeded(host, WITH_ANSIBLE + typed("docs/roll-back.md", "A whole deployment"))
    assert "failed=0" in shown
    survey, *__ = blocks("docs/survey-fleet.md")
    shown = succeeded(host, f"set -e\n{WITH_ANSIBLE}cd\n{survey}")
    assert "1 host" in shown


def test_the_snippets_about_regions_are_one_play(host: Fleet) -> None:
    text = (REPOSITORY / "docs" / "region-in-your-play.md").read_text()
    play = "".join(block for language, block in BLOCK.findall(text) if language == "yaml")
    # Only the sizes are a test's; a slice must have room for what an owner itself needs.
    play = re.sub(r"(memory_max: )\S+", r"\1 1GiB", play).replace("00GiB", "00MiB").replace("4GiB", "4MiB")
    play = play.replace("16GiB", "16MiB")
    files = "mkdir -p /pmem; truncate -s 64M /pmem/orders.dat; truncate -s 16M /pmem/customers.dat"
    install = "ansible-galaxy collection install dbmem.mshare"
    run = "ansible-playbook -i inventory.ini play.yml"
    written = f"cat >play.yml <<'END'\n{play}END"
    shown = succeeded(host, "\n".join(["set -e", "cd", WITH_ANSIBLE, files, written, install, run]))
    assert re.search(r"failed=0 .*rescued=0 +ignored=0", shown), shown
