"""A Hub on this machine: the HTTP that huggingface_hub speaks, over repositories in memory; the client is real."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from launch import ENVIRONMENT

PREFIXES = {"": "model", "datasets/": "dataset"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories by kind and id: `files[kind, id][revision][path]` are bytes.

    Attributes:
        requests: every request's method and path.
        private: the ids that were made private.
    """

    def __init__(self):
        self.files: dict[tuple[str, str], dict[str, dict[str, bytes]]] = {}
        self.stored: dict[str, bytes] = {}  # large files by their sha256, before a commit names them
        self.requests: list[str] = []
        self.private: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def put(self, repo: str, folder: str | Path, kind: str = "model") -> None:
        """Publish a folder."""
        files = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*") if path.is_file()}
        self.files[kind, repo] = {"main": {name: path.read_bytes() for name, path in files.items()}}

    def environment(self, cache: Path) -> dict[str, str]:
        """Return the environment of a user of this Hub, with an empty cache."""
        online = {name: value for name, value in ENVIRONMENT.items() if name not in ("HF_HUB_OFFLINE", "PYTHONPATH")}
        places = {"HF_HOME": str(cache), "HF_MODULES_CACHE": str(cache / "modules")}
        more = {"HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}
        return online | places | more | {"HF_ENDPOINT": self.url, "DISABLE_SAFETENSORS_CONVERSION": "1"}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _entries(files: dict[str, bytes]) -> list[dict[str, Any]]:
    """Return what the Hub says of a repository's files and folders."""
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents} - {"."}
    entries: list[dict[str, Any]] = [{"type": "directory", "path": name, "oid": COMMIT} for name in sorted(folders)]
    return entries + [
        {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        for name, content in files.items()
    ]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self._path()
        if found := re.fullmatch(r"/(datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            prefix, repo, revision, name = found.groups()
            files = self._files(PREFIXES[prefix or ""], repo, revision)
            if files is None:
                return
            if name not in files:
                return self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            etag = hashlib.sha256(files[name]).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if part is None:
                return self._answer(200, files[name], headers)
            first, last = int(part[1]), min(int(part[2]), len(files[name]) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(files[name])}"
            self._answer(206, files[name][first : last + 1], headers)
        elif found := re.fullmatch(r"/api/(model|dataset)s/([\w.-]+/[\w.-]+)(?:/revision/([^/]+))?", path):
            kind, repo, revision = found.groups()
            files = self._files(kind, repo, revision or "main")
            if files is not None:
                names = [{"rfilename": name} for name in files]
                self._json({"id": repo, "sha": COMMIT, "siblings": names, "private": repo in self.hub.private})
        elif found := re.fullmatch(r"/api/(model|dataset)s/([\w.-]+/[\w.-]+)/tree/([^/]+)(?:/(.+))?", path):
            *place, folder = found.groups()
            files = self._files(*place)
            if files is not None:
                below = [each for each in _entries(files) if each["path"].startswith(f"{folder}/" if folder else "")]
                depth = folder.count("/") + 1 if folder else 0
                whole = re.search("recursive=true", self.path, re.IGNORECASE)
                self._json([each for each in below if whole or each["path"].count("/") == depth])
        elif path == "/api/whoami-v2":
            self._json({"name": "someone", "type": "user", "orgs": []})
        else:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})

    def do_POST(self) -> None:
        path, body = self._path(), self._body()
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo, kind = f"{asked.get('organization', 'someone')}/{asked['name']}", asked.get("type", "model")
            self.hub.files.setdefault((kind, repo), {"main": {}})
            private = asked.get("private") or asked.get("visibility") == "private"  # as older and newer clients ask
            self.hub.private += [repo] if private else []
            prefix = "datasets/" if kind == "dataset" else ""
            self._json({"url": f"{self.hub.url}/{prefix}{repo}", "name": repo, "id": repo})
        elif found := re.fullmatch(r"/api/(model|dataset)s/([\w.-]+/[\w.-]+)/branch/([^/]+)", path):
            kind, repo, branch = found.groups()
            self.hub.files[kind, repo].setdefault(branch, {})
            self._json({})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.hub.url}/store/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(r"/api/(model|dataset)s/([\w.-]+/[\w.-]+)/paths-info/([^/]+)", path):
            files, wanted = self._files(*found.groups()), parse_qs(body.decode()).get("paths", [])
            if files is not None:
                self._json([each for each in _entries(files) if each["path"] in wanted])
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = {True: "lfs", False: "regular"}
            self._json({"files": [{"path": f["path"], "uploadMode": modes[f["size"] > 20_000 or f["path"].endswith(
                ".safetensors")], "shouldIgnore": False} for f in files]})  # fmt: skip
        elif found := re.fullmatch(r"/api/(model|dataset)s/([\w.-]+/[\w.-]+)/commit/([^/]+)", path):
            self._commit(*found.groups(), body)
        else:
            self._json({"errors": [], "warnings": []})  # /api/validate-yaml

    def do_PUT(self) -> None:
        body = self._body()
        oid = self._path().rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.stored[oid] = body
        self._answer(200, b"")

    def _commit(self, kind: str, repo: str, revision: str, body: bytes) -> None:
        files = self.hub.files[kind, repo][revision]
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                files[line["value"]["path"]] = self.hub.stored[line["value"]["oid"]]
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        prefix = "datasets/" if kind == "dataset" else ""
        self._json({"commitUrl": f"{self.hub.url}/{prefix}{repo}/commit/{COMMIT}", "commitOid": COMMIT})

    def _files(self, kind: str, repo: str, revision: str) -> dict[str, bytes] | None:
        """Return a revision's files, or answer that there is no such repository or revision."""
        revisions = self.hub.files.get((kind, repo))
        if revisions is None:
            return self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        revision = "main" if revision == COMMIT else revision
        if revision not in revisions:
            return self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        return revisions[revision]

    def _path(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        return path

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
