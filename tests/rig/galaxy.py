# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An Ansible Galaxy with one collection, for hosts without a network: python3 galaxy.py TARBALL PORT

It answers what `ansible-galaxy collection install` asks of version 3 of Galaxy's API.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import sys
from pathlib import Path
from typing import Any

_COLLECTION = "/api/v3/collections/dbmem/mshare/"
_VERSIONS = f"{_COLLECTION}versions/"


def answers(tarball: Path, address: str) -> dict[str, bytes]:
    """Path -> content of everything there is."""
    content = tarball.read_bytes()
    match = re.fullmatch(r"dbmem-mshare-(.+)\.tar\.gz", tarball.name)
    assert match is not None, tarball.name
    version = match[1]
    detail: dict[str, Any] = {
        "version": version,
        "href": f"{_VERSIONS}{version}/",
        "namespace": {"name": "dbmem"},
        "collection": {"name": "mshare"},
        "download_url": f"{address}/{tarball.name}",
        "artifact": {"sha256": hashlib.sha256(content).hexdigest(), "filename": tarball.name},
        "metadata": {"dependencies": {}},
        "signatures": [],
    }
    listing = {"meta": {"count": 1}, "links": {"next": None}, "data": [detail]}
    moment = "2026-01-01T00:00:00Z"
    collection = {
        "namespace": "dbmem",
        "name": "mshare",
        "created_at": moment,
        "updated_at": moment,
        "highest_version": {"version": version, "href": detail["href"]},
    }
    documents = {
        "/api/": {"available_versions": {"v3": "v3/"}},
        _COLLECTION: collection,
        _VERSIONS: listing,
        f"{_VERSIONS}{version}/": detail,
    }
    return {path: json.dumps(answer).encode() for path, answer in documents.items()} | {
        f"/{tarball.name}": content
    }


def main() -> None:
    tarball, port = Path(sys.argv[1]), int(sys.argv[2])
    known = answers(tarball, f"http://127.0.0.1:{port}")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = known.get(self.path.partition("?")[0])
            self.send_response(404 if content is None else 200)
            kind = "application/gzip" if self.path.endswith(".gz") else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

    http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
