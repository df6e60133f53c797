"""A hub on this machine: enough of the Hugging Face hub's protocol for the real huggingface_hub.

It resolves files with ETag, commit hash and, for large files, a redirect; lists repositories; says
401, 403 and 404 as the hub does; cuts a transfer; and takes uploads and commits.
"""

import base64
import hashlib
import http.server
import json
import threading
from dataclasses import dataclass, field
from urllib.parse import unquote

# As the hub keeps them: not in git, and found by a redirect.
LARGE = (".safetensors", ".h5", ".keras", ".bin", ".pth")
# What a token may do.
TOKENS = {"hf_stranger": "nothing", "hf_reader": "read", "hf_writer": "write"}


@dataclass
class Repo:
    """A repository: its branches, and the files of each commit."""

    private: bool = False
    gated: bool = False
    revisions: dict = field(default_factory=dict)
    commits: dict = field(default_factory=dict)

    def commit(self, files, revision="main"):
        """Add a commit, `files` being path to bytes, and return its hash."""
        text = repr(sorted(files.items())) + revision
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha], self.revisions[revision] = dict(files), sha
        return sha


class Hub:
    """The server, in a thread.

    Attributes:
        repos: dict, OWNER/NAME to `Repo`.
        cut: dict, name of a file to the number of bytes after which its transfer ends; nothing
            is sent when the rest is asked for.
        requests: list of (method, path) as they came.
        created: list of what /api/repos/create was asked for.
    """

    def __init__(self):
        self.repos, self.cut, self.requests, self.created, self.stored = {}, {}, [], [], {}
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.cdn = f"http://localhost:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def add(self, name, files, revision="main", **kinds):
        """Add a commit to a repository, made if it is new, and return its hash."""
        self.repos.setdefault(name, Repo(**kinds))
        return self.repos[name].commit(files, revision)


class _Refused(Exception):
    """An answer that is an error: (status, X-Error-Code, X-Error-Message)."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.serve()

    do_GET = do_POST = do_PUT = do_HEAD

    def serve(self):
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append((self.command, path))
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            self.body = self.chunks()
        try:
            self.route(self.path.partition("?")[0])
        except _Refused as refused:
            status, code, message = refused.args
            self.answer(status, b"", {"X-Error-Code": code, "X-Error-Message": message})

    def chunks(self):
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, status, body=b"", headers=(), cut=None):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True

    def json(self, content, **headers):
        self.answer(200, json.dumps(content).encode(), headers)

    def route(self, path):
        """Answer a request; `path` is as it came, quoted."""
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            return self.create()
        if path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        if path == "/api/whoami-v2":
            return self.json({"name": "lab", "type": "user", "auth": {}})
        if parts[0] == "cdn" and "Authorization" in self.headers:
            raise _Refused(400, "", "A token was sent to another host")
        if parts[0] == "cdn":
            return self.large(parts[1])
        if parts[:2] == ["api", "models"]:
            return self.api("/".join(parts[2:4]), parts[4:])
        if len(parts) > 2 and parts[1].endswith(".git"):
            return self.batch(f"{parts[0]}/{parts[1].removesuffix('.git')}")
        if len(parts) < 5 or parts[2] != "resolve":
            raise _Refused(404, "", "No such page")
        return self.resolve("/".join(parts[:2]), parts[3], unquote("/".join(parts[4:])))

    def right(self):
        """Return what the request's token may do; None without one."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            raise _Refused(401, "", "Invalid credentials in Authorization header")
        return TOKENS.get(token)

    def repo(self, name, write=False):
        """Return a repository that the request's token may see, or may write to."""
        right, repo = self.right(), self.hub.repos.get(name)
        if repo is None or (repo.private and right not in ("read", "write")):
            raise _Refused(401 if right is None else 404, "RepoNotFound", "Repository not found")
        if write and right != "write":
            raise _Refused(403, "", "you have no right to write here")
        return repo

    def files(self, name, revision):
        """Return (commit, its files) of a repository's revision, which may be a hash."""
        repo, revision = self.repo(name), unquote(revision)
        if repo.gated and self.right() not in ("read", "write"):
            status = 401 if self.right() is None else 403
            raise _Refused(status, "GatedRepo", "Access to it is restricted")
        commit = repo.revisions.get(revision, revision)
        if commit not in repo.commits:
            raise _Refused(404, "RevisionNotFound", "Invalid rev id")
        return commit, repo.commits[commit]

    def resolve(self, name, revision, file):
        commit, files = self.files(name, revision)
        headers = {"X-Repo-Commit": commit}
        if file not in files:
            return self.answer(404, b"", {**headers, "X-Error-Code": "EntryNotFound"})
        data = files[file]
        headers["ETag"] = f'"{hashlib.sha1(data).hexdigest()}"'
        if not file.endswith(LARGE):
            return self.answer(200, data, headers)
        oid = hashlib.sha256(data).hexdigest()
        self.hub.stored[oid] = data, self.hub.cut.get(file)
        headers |= {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(len(data))}
        # On another host, as the hub's are, and signed: whoever has the address needs no token.
        headers["Location"] = f"{self.hub.cdn}/cdn/{oid}?signature=hf_signature"
        return self.answer(302, b"", headers)

    def large(self, oid):
        if self.command == "PUT":
            self.hub.stored[oid] = self.body, None
            return self.answer(200)
        data, cut = self.hub.stored[oid]
        start = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0]
        rest = data[int(start) :]
        if len(rest) == len(data):
            return self.answer(200, rest, {"ETag": f'"{oid}"'}, cut)
        span = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return self.answer(206, rest, {"Content-Range": span}, None if cut is None else 0)

    def api(self, name, rest):
        if rest and rest[0] == "preupload":
            self.repo(name, write=True)
            return self.json({"files": [self.mode(file) for file in self.sent()["files"]]})
        if rest and rest[0] == "commit":
            return self.commit(name, unquote(rest[1]))
        revision = rest[1] if len(rest) > 1 else "main"
        commit, files = self.files(name, revision)
        if rest and rest[0] == "tree":
            rows = [
                {"type": "file", "path": path, "size": len(data), "oid": "0" * 40}
                for path, data in files.items()
            ]
            return self.json(rows, **{"X-Repo-Commit": commit})
        siblings = [{"rfilename": path} for path in files]
        info = {"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []}
        return self.json({**info, "private": self.hub.repos[name].private, "gated": False})

    def sent(self):
        return json.loads(self.body)

    def create(self):
        if self.right() != "write":
            raise _Refused(403 if self.right() else 401, "", "you have no right to make it")
        sent = self.sent()
        self.hub.created.append(sent)
        name = f"{sent['organization'] or 'lab'}/{sent['name']}"
        if name in self.hub.repos:
            return self.answer(409, json.dumps({"url": f"{self.hub.url}/{name}"}).encode())
        private = sent.get("visibility") == "private" or bool(sent.get("private"))
        self.hub.add(name, {".gitattributes": b""}, private=private)
        return self.json({"url": f"{self.hub.url}/{name}", "name": name})

    @staticmethod
    def mode(file):
        kind = "lfs" if file["path"].endswith(LARGE) else "regular"
        return {"path": file["path"], "uploadMode": kind, "shouldIgnore": False}

    def batch(self, name):
        """Say where large files are to be sent."""
        self.repo(name, write=True)
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.hub.cdn}/cdn/{wanted['oid']}"}}}
            for wanted in self.sent()["objects"]
        ]
        self.json({"transfer": "basic", "objects": objects})

    def commit(self, name, revision):
        repo = self.repo(name, write=True)
        files = dict(repo.commits[repo.revisions[revision]])
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]][0]
            elif operation["key"] == "deletedFile":
                files.pop(value["path"], None)
        sha = repo.commit(files, revision)
        url = f"{self.hub.url}/{name}/commit/{sha}"
        self.json({"success": True, "commitOid": sha, "commitUrl": url})
