"""A double of the Hugging Face Hub over real HTTP, for the real huggingface_hub client.

Serves models and datasets from memory: whoami, create, info, tree, paths, refs, preupload, LFS,
commit, branch, tag, super-squash and resolve, with the Hub's own error codes. The hub is
127.0.0.1 and the LFS storage is localhost, so that a redirect to storage crosses origins as in the
real one. Faults are injected by pattern, and every request is remembered. Jobs are in hub_jobs,
what surrounds a Space in hub_spaces.
"""

import asyncio
import base64
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote

import pytest
import uvicorn
import yaml
from hub_jobs import Jobs
from hub_spaces import Spaces, space_readme_errors
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

WRITER = "hf_writer_of_the_double_0000000000"
READER = "hf_reader_of_the_double_0000000000"
STRANGER = "hf_stranger_of_the_double_00000000"
LFS_NAMES: tuple[str, ...] = (".safetensors", ".bin", ".parquet", ".arrow", ".gz")
COMMIT_OID = re.compile(r"[0-9a-fA-F]{5,40}")
SPACE_VERBS = ("secrets", "variables", "hardware", "runtime", "volumes")
WRITES = ("commit", "preupload", "tag", "branch", "super-squash")
TAG_NAME = re.compile(r"(?!-)[\w./-]+(?<![./])")


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    host: str
    path: str
    authorization: str | None

    @property
    def line(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Fault:
    """What happens instead of (or, with `after`, on top of) the next `times` matching requests."""

    pattern: str
    times: int = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    torn: bool = False
    after: bool = False
    held: threading.Event | None = None


@dataclass(frozen=True)
class Blob:
    data: bytes
    lfs: bool

    @property
    def sha1(self) -> str:
        held = self.data
        if self.lfs:
            held = (
                "version https://git-lfs.github.com/spec/v1\n"
                f"oid sha256:{self.sha256}\nsize {len(self.data)}\n"
            ).encode()
        return hashlib.sha1(b"blob %d\0" % len(held) + held).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.sha1


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: dict[str, Blob]


@dataclass
class Repo:
    id: str
    kind: str
    private: bool = False
    gated: bool = False
    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, title: str, files: dict[str, Blob], branch: str = "main") -> Commit:
        parent = self.branches.get(branch, "")
        seed = f"{self.kind} {self.id} {len(self.commits)} {parent} {title}"
        made = Commit(hashlib.sha1(seed.encode()).hexdigest(), title, files)
        self.commits.append(made)
        self.branches[branch] = made.oid
        return made

    def at(self, revision: str) -> Commit | None:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if not COMMIT_OID.fullmatch(oid):
            return None
        return next((c for c in self.commits if c.oid.startswith(oid.lower())), None)

    @property
    def head(self) -> Commit:
        found = self.at("main")
        assert found is not None
        return found


class Refusal(Exception):
    def __init__(self, status: int, message: str, code: str = "", **extra: object) -> None:
        super().__init__(message)
        self.response = JSONResponse(
            {"error": message, **extra},
            status,
            {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})},
        )


class HubDouble:
    """Use as a context manager. `endpoint` is what HF_ENDPOINT should be."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.storage: dict[str, bytes] = {}
        self.users = {WRITER: ("ada", "write"), READER: ("ada", "read"), STRANGER: ("bob", "write")}
        self.orgs: dict[str, dict[str, str]] = {}  # an organisation's members and their roles
        self.fine_grained: dict[str, dict] = {}  # what such tokens may
        self.spaces = Spaces()
        self.requests: list[Seen] = []
        self.faults: list[Fault] = []
        self.page_size = 50
        self.ignored: set[str] = set()
        self.jobs = Jobs(Path(tempfile.mkdtemp(prefix="hub-jobs-")))

    def __enter__(self) -> "HubDouble":
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.storage_origin = f"http://localhost:{self.port}"
        config = uvicorn.Config(
            self._serve,
            log_level="critical",
            lifespan="off",
            interface="asgi3",
            http="h11",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.jobs.close()
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()
        shutil.rmtree(self.jobs.folder, ignore_errors=True)

    # What a test says and asks.

    def environment(self, cache: Path) -> dict[str, str]:
        """The environment of a child process whose Hub this is, without any token."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        return kept | {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def patch(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """Turn this process's huggingface_hub to this Hub, with a cache of its own."""
        point_client(monkeypatch, self.endpoint, cache)

    def add_repo(
        self,
        repo: str,
        files: Path | dict[str, bytes],
        *,
        kind: str = "models",
        private: bool = False,
        gated: bool = False,
    ) -> str:
        """Put one commit of `files` (a folder, or contents by name) into `repo`; its commit."""
        if isinstance(files, Path):
            names = [p for p in sorted(files.rglob("*")) if p.is_file()]
            files = {str(p.relative_to(files)): p.read_bytes() for p in names}
        held = self.repos.setdefault((kind, repo.lower()), Repo(repo, kind))
        held.private, held.gated = private, gated
        blobs = {name: Blob(data, name.endswith(LFS_NAMES)) for name, data in files.items()}
        self.storage |= {b.sha256: b.data for b in blobs.values() if b.lfs}
        return held.commit("Add files", blobs).oid

    def repo(self, name: str, kind: str = "models") -> Repo:
        return self.repos[kind, name.lower()]

    def fail(self, pattern: str, status: int, *, times: int = 1, **headers: str) -> None:
        """Answer the next `times` requests whose "METHOD /path" matches with `status`."""
        named = {k.replace("_", "-"): v for k, v in headers.items()}
        self.faults.append(Fault(pattern, times, status=status, headers=named))

    def tear(self, pattern: str, *, times: int = 1, after: bool = False) -> None:
        """Close the connection inside the answer; with `after`, the request was carried out."""
        self.faults.append(Fault(pattern, times, torn=True, after=after))

    def hold(self, pattern: str) -> threading.Event:
        """Send half of the next matching answer, and the rest once the event is set."""
        held = threading.Event()
        self.faults.append(Fault(pattern, after=True, held=held))
        return held

    def lines(self, pattern: str = "") -> list[str]:
        return [r.line for r in self.requests if re.search(pattern, r.line)]

    # The server.

    async def _serve(self, scope, receive, send) -> None:
        request = Request(scope, receive)
        path = scope["raw_path"].decode()
        seen = Seen(
            request.method,
            request.headers.get("host", "").split(":")[0],
            path,
            request.headers.get("authorization"),
        )
        self.requests.append(seen)
        fault = self._take_fault(seen.line)
        body = await request.body()
        response: Response = Response(status_code=200)
        if fault is None or fault.after:
            try:
                response = self._answer(request, seen, body)
            except Refusal as refusal:
                response = refusal.response
        if fault is not None and fault.torn:
            await send({"type": "http.response.start", "status": 200, **TORN_HEADERS})
            await send({"type": "http.response.body", "body": b'{"cut', "more_body": True})
            raise ConnectionResetError("torn on purpose")
        if fault is not None and fault.status is not None:
            response = JSONResponse({"error": "injected"}, fault.status, fault.headers)
        if fault is not None and fault.held is not None:
            await send_halves(response, send, fault.held)
            return
        await response(scope, receive, send)

    def _take_fault(self, line: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.pattern, line):
                fault.times -= 1
                return fault
        return None

    def _answer(self, request: Request, seen: Seen, body: bytes) -> Response:
        user, role = self._user(seen.authorization)
        parts = [unquote(p) for p in seen.path.strip("/").split("/")]
        if seen.host == "localhost":
            return self._storage(request, parts, body)
        if parts[0] == "api":
            return self._api(request, parts[1:], body, user, role)
        if parts[-5:-3] == ["info", "lfs"] or parts[-4:-2] == ["info", "lfs"]:
            return self._lfs_batch(parts, body, user, role)
        return self._resolve(request, parts, user)

    def _user(self, authorization: str | None) -> tuple[str | None, str]:
        if authorization is None:
            return None, ""
        user = self.users.get(authorization.removeprefix("Bearer "))
        if user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return user

    def _find(self, kind: str, name: str, user: str | None) -> Repo:
        found = self.repos.get((kind, name.lower()))
        if found is None or (found.private and not self._may_write(found.id.split("/")[0], user)):
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        return found

    def _writable(self, kind: str, name: str, user: str | None, role: str) -> Repo:
        found = self._find(kind, name, user)
        if role == "read" or not self._may_write(found.id.split("/")[0], user):
            raise Refusal(403, "You don't have the rights to write there")
        return found

    def _may_write(self, owner: str, user: str | None) -> bool:
        member = self.orgs.get(owner.lower(), {}).get(user or "")
        return owner.lower() == user or member in ("admin", "write", "contributor")

    @staticmethod
    def _at(repo: Repo, revision: str) -> Commit:
        found = repo.at(revision)
        if found is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def _api(
        self, request: Request, parts: list[str], body: bytes, user: str | None, role: str
    ) -> Response:
        held = json.loads(body) if body and "json" in request.headers["content-type"][:17] else {}
        if parts == ["whoami-v2"]:
            return self._whoami(user, role, seen_token(request))
        if parts == ["repos", "create"]:
            return self._create(held, user, role)
        if parts == ["validate-yaml"]:
            if held.get("repoType") == "space" and (wrong := space_readme_errors(held["content"])):
                errors = [{"message": line} for line in wrong]
                return JSONResponse({"errors": errors, "warnings": []}, 400)
            return validate_yaml(held["content"])
        if parts[0] == "jobs":
            return self.jobs.answer(request, parts[1:], held, user, role)
        if parts == ["spaces", "hardware"]:
            return self.spaces.machines()
        kind, name, rest = parts[0], "/".join(parts[1:3]), parts[3:]
        if kind == "buckets" and request.method == "POST":
            if role == "read" or not self._may_write(parts[1], user):
                raise Refusal(403, "You don't have the rights to make a bucket there")
            return self.spaces.bucket(name, self.endpoint)
        if kind == "spaces" and rest and rest[0] in SPACE_VERBS:
            self._writable(kind, name, user, role)
            return self.spaces.answer(request, name, rest[0], held)
        verb = rest[0] if rest else "revision"
        revision = rest[1] if len(rest) > 1 else "main"
        if request.method == "POST" and verb in WRITES:
            repo = self._writable(kind, name, user, role)
            if verb == "tag":
                return self._tag(repo, revision, held)
            if verb == "branch":
                return self._branch(repo, revision, held)
            if verb == "super-squash":
                return self._super_squash(repo, revision, held)
            if verb == "preupload":
                return self._preupload(repo, revision, held)
            return self._commit(repo, revision, body)
        repo = self._find(kind, name, user)
        if verb == "refs":
            return JSONResponse(
                {
                    "branches": refs(repo.branches, "heads"),
                    "tags": refs(repo.tags, "tags"),
                    "converts": [],
                }
            )
        at = self._at(repo, revision)
        if verb == "tree":
            return self._tree(request, at, "/".join(rest[2:]))
        if verb == "paths-info":
            wanted = parse_qs(body.decode())["paths"]
            return JSONResponse([entry(p, at.files[p]) for p in wanted if p in at.files])
        if verb == "commits":
            return JSONResponse(
                [commit_entry(c) for c in reversed(repo.commits[: repo.commits.index(at) + 1])]
            )
        return JSONResponse(info(repo, at))

    def _whoami(self, user: str | None, role: str, token: str) -> Response:
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        return JSONResponse(
            {
                "type": "user",
                "name": user,
                "fullname": user.title(),
                "avatarUrl": "",
                "orgs": [
                    {"type": "org", "name": name, "roleInOrg": members[user]}
                    for name, members in self.orgs.items()
                    if user in members
                ],
                "auth": {
                    "accessToken": {"displayName": "test", "role": role}
                    | ({"fineGrained": self.fine_grained[token]} if role == "fineGrained" else {})
                },
            }
        )

    def _create(self, held: dict, user: str | None, role: str) -> Response:
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        owner = held.get("organization") or user
        kind = f"{held.get('type') or 'model'}s"
        name = f"{owner}/{held['name']}"
        if role == "read" or not self._may_write(owner, user):
            raise Refusal(403, f"You don't have the rights to create a model under {owner!r}")
        prefix = "" if kind == "models" else f"{kind}/"
        known = self.repos.get((kind, name.lower()))
        url = f"{self.endpoint}/{prefix}{known.id if known else name}"
        if known:
            raise Refusal(409, "You already created this model repo", url=url)
        if kind == "spaces" and (refused := self.spaces.create(name, held)):
            return refused
        repo = Repo(name, kind, private=held.get("visibility") == "private")
        repo.commit("initial commit", {".gitattributes": Blob(b"*.safetensors lfs\n", lfs=False)})
        self.repos[kind, name.lower()] = repo
        return JSONResponse({"url": url, "name": name, "id": name})

    def _preupload(self, repo: Repo, revision: str, held: dict) -> Response:
        at = self._at(repo, revision)
        files = []
        for file in held["files"]:
            known = at.files.get(file["path"])
            files.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LFS_NAMES) else "regular",
                    "shouldIgnore": file["path"] in self.ignored | git_ignored(at),
                    "oid": known.etag if known else None,
                }
            )
        return JSONResponse({"files": files})

    def _lfs_batch(self, parts: list[str], body: bytes, user: str | None, role: str) -> Response:
        git = next(i for i, part in enumerate(parts) if part.endswith(".git"))
        kind = parts[0] if git == 2 else "models"
        name = "/".join(parts[git - 1 : git + 1]).removesuffix(".git")
        self._writable(kind, name, user, role)
        objects = []
        for wanted in json.loads(body)["objects"]:
            made = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.storage:
                href = f"{self.storage_origin}/put/{wanted['oid']}?signature=x"
                made["actions"] = {"upload": {"href": href, "header": {}}}
            objects.append(made)
        return JSONResponse({"transfer": "basic", "objects": objects})

    def _storage(self, request: Request, parts: list[str], body: bytes) -> Response:
        verb, oid = parts
        if verb == "put" and request.method == "PUT":
            if hashlib.sha256(body).hexdigest() != oid:
                raise Refusal(422, "The content does not match its digest")
            self.storage[oid] = body
            return Response()
        return ranged(request, self.storage[oid], {"ETag": f'"{oid}"'})

    def _commit(self, repo: Repo, branch: str, body: bytes) -> Response:
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        at = self._at(repo, branch)
        parent = header.get("parentCommit")
        if parent is not None and not at.oid.startswith(parent.lower()):
            raise Refusal(412, "The branch was updated since you opened this page")
        files = dict(at.files)
        ignored = git_ignored(at)
        for line in lines:
            if line["key"] in ("file", "lfsFile") and line["value"]["path"] in ignored:
                continue
            apply_line(files, line["key"], line["value"], self.storage)
        made = repo.commit(header["summary"], files, branch)
        return JSONResponse(
            {
                "success": True,
                "commitOid": made.oid,
                "commitUrl": f"{self.endpoint}/{repo.id}/commit/{made.oid}",
            }
        )

    def _tag(self, repo: Repo, revision: str, held: dict) -> Response:
        name = held["tag"]
        if not TAG_NAME.fullmatch(name) or ".." in name:
            raise Refusal(400, f"Invalid tag name: {name}")
        if name in repo.tags:
            raise Refusal(409, f"Tag reference exists already: refs/tags/{name}")
        repo.tags[name] = self._at(repo, revision).oid
        return Response()

    def _super_squash(self, repo: Repo, branch: str, held: dict) -> Response:
        """The branch's head as its only commit; every other one is gone for good."""
        if branch not in repo.branches:
            raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        made = repo.commit(held["message"], dict(repo.head.files), branch)
        repo.commits = [made]
        return JSONResponse({"oid": made.oid})

    def _branch(self, repo: Repo, branch: str, held: dict) -> Response:
        if branch in repo.branches:
            raise Refusal(409, f"Reference refs/heads/{branch} already exists")
        repo.branches[branch] = self._at(repo, held.get("startingPoint", "main")).oid
        return Response()

    def _tree(self, request: Request, at: Commit, folder: str) -> Response:
        start = int(request.query_params.get("cursor", "0"))
        names = [n for n in sorted(at.files) if not folder or n.startswith(f"{folder}/")]
        if not names and folder:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        page = names[start : start + self.page_size]
        headers = {}
        if start + self.page_size < len(names):
            url = f"{self.endpoint}{request.url.path}?recursive=true"
            headers["Link"] = f'<{url}&cursor={start + self.page_size}>; rel="next"'
        return JSONResponse([entry(n, at.files[n]) for n in page], headers=headers)

    def _resolve(self, request: Request, parts: list[str], user: str | None) -> Response:
        here = parts.index("resolve") if "resolve" in parts else -1
        if here < 2:
            raise Refusal(404, "Not found")
        kind = parts[0] if here == 3 else "models"
        repo = self._find(kind, "/".join(parts[here - 2 : here]), user)
        if repo.gated and repo.id.split("/")[0] != user:
            message = f"Access to model {repo.id} is restricted"
            raise Refusal(403 if user else 401, message, "GatedRepo")
        at = self._at(repo, parts[here + 1])
        blob = at.files.get("/".join(parts[here + 2 :]))
        headers = {"X-Repo-Commit": at.oid}
        if blob is None:
            refusal = Refusal(404, "Entry not found", "EntryNotFound")
            refusal.response.headers.update(headers)
            raise refusal
        if blob.lfs:
            headers |= {
                "X-Linked-Size": str(len(blob.data)),
                "X-Linked-ETag": f'"{blob.sha256}"',
                "Location": f"{self.storage_origin}/get/{blob.sha256}?signature=x",
            }
            return Response(status_code=302, headers=headers)
        return ranged(request, blob.data, headers | {"ETag": f'"{blob.sha1}"'})


def seen_token(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ")


async def send_halves(response: Response, send, held: threading.Event) -> None:
    middle = len(response.body) // 2
    start = {"type": "http.response.start", "status": response.status_code}
    await send({**start, "headers": response.raw_headers})
    half = {"type": "http.response.body", "body": bytes(response.body[:middle]), "more_body": True}
    await send(half)
    await asyncio.to_thread(held.wait, 60)
    await send({"type": "http.response.body", "body": bytes(response.body[middle:])})


TORN_HEADERS = {"headers": [(b"content-length", b"100000"), (b"content-type", b"application/json")]}


def git_ignored(at: Commit) -> set[str]:
    """The plain names in a .gitignore that lies there, which keep files out of an upload."""
    held = at.files.get(".gitignore")
    return set(held.data.decode().split()) if held else set()


def apply_line(files: dict[str, Blob], key: str, value: dict, storage: dict[str, bytes]) -> None:
    if key == "file":
        files[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
    elif key == "lfsFile":
        if value["oid"] not in storage:
            raise Refusal(400, f"LFS pointer {value['oid']} points to nothing")
        files[value["path"]] = Blob(storage[value["oid"]], lfs=True)
    elif key == "deletedFile":
        files.pop(value["path"], None)
    elif key == "deletedFolder":
        for name in [n for n in files if n.startswith(value["path"].rstrip("/") + "/")]:
            del files[name]


def entry(path: str, blob: Blob) -> dict:
    made: dict = {"type": "file", "oid": blob.sha1, "size": len(blob.data), "path": path}
    if blob.lfs:
        made["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 134}
    return made


def info(repo: Repo, at: Commit) -> dict:
    siblings = []
    for name, blob in sorted(at.files.items()):
        file: dict = {"rfilename": name, "size": len(blob.data), "blobId": blob.sha1}
        if blob.lfs:
            file["lfs"] = {"sha256": blob.sha256, "size": len(blob.data), "pointerSize": 134}
        siblings.append(file)
    readme = at.files.get("README.md")
    return {
        "_id": repo.id,
        "id": repo.id,
        "modelId": repo.id,
        "sha": at.oid,
        "private": repo.private,
        "gated": "manual" if repo.gated else False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "siblings": siblings,
        "cardData": front_matter(readme.data.decode()) if readme else None,
    }


def commit_entry(commit: Commit) -> dict:
    return {
        "id": commit.oid,
        "title": commit.title,
        "message": "",
        "authors": [],
        "date": "2026-01-01T00:00:00.000Z",
    }


def refs(named: dict[str, str], kind: str) -> list[dict]:
    return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": o} for n, o in named.items()]


def front_matter(text: str) -> dict | None:
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    return yaml.safe_load(match.group(1)) if match else None


def validate_yaml(text: str) -> Response:
    """What the Hub checks of a model card's metadata that this project writes."""
    try:
        held = front_matter(text) or {}
    except yaml.YAMLError as error:
        return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, 400)
    errors = []
    base = held.get("base_model")
    if base is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", str(base)):
        errors.append({"message": '"base_model" must be the id of a model on the Hub'})
    if not isinstance(held.get("tags", []), list):
        errors.append({"message": '"tags" must be a list'})
    return JSONResponse({"errors": errors, "warnings": []}, 400 if errors else 200)


def ranged(request: Request, data: bytes, headers: dict[str, str]) -> Response:
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    status = 200
    if wanted:
        start = int(wanted[1])
        end = int(wanted[2]) + 1 if wanted[2] else len(data)
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        data, status = data[start:end], 206
    headers["Accept-Ranges"] = "bytes"
    response = Response(data, status, headers, media_type="application/octet-stream")
    if request.method == "HEAD":
        response.body = b""
    return response


def point_client(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    """Turn this process's huggingface_hub to `endpoint`, with an empty cache and no token.

    huggingface_hub reads its environment at import, so its constants are set here.
    """
    from huggingface_hub import close_session, constants

    close_session()
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(name="hub_double")
def hub_double_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    """A Hub that this process's huggingface_hub already speaks to, with a cache in tmp_path."""
    from huggingface_hub import close_session

    with HubDouble() as hub:
        hub.patch(monkeypatch, tmp_path / "hf-cache")
        yield hub
        close_session()
