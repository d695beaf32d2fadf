"""A hub on the loopback: what huggingface_hub asks of the real one to resolve a revision and to download files."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Hub:
    """`repositories`: a folder of files for each "models/NAME" or "datasets/NAME"; `commits`: the commit of each
    revision, `main` among them; `asked`: the paths of all requests."""

    def __init__(self) -> None:
        self.repositories: dict[str, Path] = {}
        self.commits: dict[str, str] = {"main": "a" * 40}
        self.asked: list[str] = []
        self.endpoint = ""

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        self.asked.append(path)
        path, _, _ = path.partition("?")
        for name, folder in self.repositories.items():
            kind, _, short = name.partition("/")
            if path.startswith(f"/api/{name}"):
                return self._about(short, folder, path.removeprefix(f"/api/{name}").strip("/"))
            prefix = f"/{short}/resolve/" if kind == "models" else f"/{name}/resolve/"
            if path.startswith(prefix):
                revision, _, file = path.removeprefix(prefix).partition("/")
                return self._file(folder / file, revision)
        return _json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    def _about(self, name: str, folder: Path, rest: str) -> tuple[int, dict[str, str], bytes]:
        what, _, revision = rest.partition("/")
        revision, _, inside = revision.partition("/")
        if inside:
            return _json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        commit = self.commits.get(revision or "main", revision if revision in self.commits.values() else None)
        if commit is None:
            return _json(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
        files = sorted(file for file in folder.iterdir() if file.is_file())
        if what == "tree":
            entries = [
                {
                    "type": "file",
                    "path": f.name,
                    "size": f.stat().st_size,
                    "oid": hashlib.sha1(f.read_bytes()).hexdigest(),
                }
                for f in files
            ]
            return _json(200, entries)
        siblings = [{"rfilename": file.name} for file in files]
        return _json(
            200, {"id": name, "sha": commit, "siblings": siblings, "private": False, "tags": [], "downloads": 0}
        )

    def _file(self, file: Path, revision: str) -> tuple[int, dict[str, str], bytes]:
        commit = self.commits.get(revision, revision)
        if not file.is_file():
            return _json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        content = file.read_bytes()
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        return 200, {"ETag": etag, "X-Repo-Commit": commit, "Content-Type": "application/octet-stream"}, content


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = hub.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_POST = do_GET

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _entry(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    return {"type": "file", "path": file.name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


def _json(status: int, content: Any, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(content).encode()
