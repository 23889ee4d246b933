"""The endpoints of the Hub that the clients call for datasets and models; any other address is answered with 501."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

import yaml

from .calls import Call
from .server import HubError, Reply, Request
from .store import Commit, File, git_oid, is_large

if TYPE_CHECKING:
    from .hub import LocalHub

KINDS = {"datasets": "dataset", "models": "model"}


def answer(hub: LocalHub, request: Request) -> Reply:
    """Answer a request to the endpoint itself."""
    with hub.lock:
        method = "GET" if request.method == "HEAD" else request.method
        parts = request.parts
        if request.proxied:
            raise HubError(501, f"{request.path} is not on this Hub")
        if general := GENERAL.get((method, request.path)):
            return general(Call(hub, request))
        if parts[0] == "api" and len(parts) >= 4 and parts[1] in KINDS:
            action = parts[4] if len(parts) > 4 else ""
            if matches := OF_REPO.get((method, action)):
                call = Call(hub, request)
                call.open_repo(KINDS[parts[1]], "/".join(parts[2:4]), matches[1])
                call.segments = parts[5:]
                return matches[0](call)
        kind = KINDS[parts.pop(0)] if parts[0] in KINDS else "model"
        if parts[2:3] == ["resolve"] and method == "GET" and len(parts) > 4:
            call = Call(hub, request)
            call.open_repo(kind, "/".join(parts[:2]), "read")
            call.segments = parts[3:]
            return resolve(call)
        if len(parts) > 2 and parts[1].endswith(".git") and (found_lfs := LFS.get("/".join(parts[2:]))):
            call = Call(hub, request)
            call.open_repo(kind, f"{parts[0]}/{parts[1].removesuffix('.git')}", "write")
            return found_lfs(call)
        raise HubError(501, f"The local Hub does not know {request.method} {request.path}")


def answer_storage(hub: LocalHub, request: Request) -> Reply:
    """Answer a request to the storage of large files, whose addresses are signed."""
    if "Authorization" in request.headers:
        raise HubError(400, "Only one auth mechanism allowed: a Hub token was sent to the storage")
    with hub.lock:
        kind, namespace, name, sha256 = request.parts
        repo = hub.repos[kind, f"{namespace}/{name}"]
        if request.method != "PUT":
            return Reply(repo.lfs[sha256], headers={"ETag": f'"{sha256}"'}, ranges=True)
        file = File.of(request.body, lfs=True)
        if file.sha256 != sha256:
            raise HubError(400, f"The content has SHA-256 {file.sha256}, not {sha256}")
        repo.lfs[sha256] = request.body
        return Reply(headers={"ETag": f'"{sha256}"'})


# -- the account and the repositories ---------------------------------------------------------------------------------
def whoami(call: Call) -> Reply:
    if call.account is None:
        raise HubError(401, "Invalid username or password.")
    return Reply(call.account.describe())


def validate_yaml(call: Call) -> Reply:
    return Reply({"errors": [], "warnings": []})


def agent_harnesses(call: Call) -> Reply:
    return Reply({"standardEnvVars": [], "harnesses": {}})


def _named(call: Call) -> tuple[str, str]:
    asked = call.request.json()
    if call.account is None:
        raise HubError(401, "Invalid username or password.")
    return asked.get("type") or "model", f"{asked.get('organization') or call.account.name}/{asked['name']}"


def create(call: Call) -> Reply:
    repo_type, repo_id = _named(call)
    call.require_write(repo_id)
    asked = call.request.json()
    existing = call.hub.repos.get((repo_type, repo_id))
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    repo = existing or call.hub.create_repo(repo_id, repo_type=repo_type, private=private)
    body = {"url": f"{call.hub.url}/{repo.path}", "name": repo_id, "id": repo_id}
    if existing:
        return Reply({**body, "error": f"You already created this {repo_type} repo"}, 409)
    return Reply(body)


def delete(call: Call) -> Reply:
    call.open_repo(*_named(call), "write")
    del call.hub.repos[call.repo.repo_type, call.repo.repo_id]
    return Reply({})


def settings(call: Call) -> Reply:
    asked = call.request.json()
    if "private" in asked or "visibility" in asked:
        call.repo.private = asked.get("visibility", "private" if asked.get("private") else "public") == "private"
    call.repo.gated = asked.get("gated", call.repo.gated)
    return Reply({})


def auth_check(call: Call) -> Reply:
    if call.segments == ["write"]:
        call.require_write(call.repo.repo_id)
    call.require_content()
    return Reply({})


def info(call: Call) -> Reply:
    repo, commit = call.repo, call.commit(call.segments[0] if call.segments else "main")
    siblings: list[dict[str, Any]] = [{"rfilename": path} for path in commit.files]
    if call.request.flag("blobs"):
        siblings = [
            {"rfilename": path, "size": file.size, "blobId": file.oid, **_lfs(file, "sha256")}
            for path, file in commit.files.items()
        ]
    full = {
        **{"_id": git_oid("repo", repo.path.encode())[:24], "id": repo.repo_id, "author": repo.namespace},
        **{"sha": commit.oid, "lastModified": commit.date, "createdAt": repo.created, "siblings": siblings},
        **{"private": repo.private, "gated": repo.gated, "disabled": False, "downloads": 0, "likes": 0, "tags": []},
        **_card_data(commit),
    }
    requested = call.request.query.get("expand")
    return Reply({name: full[name] for name in full if not requested or name in ("_id", "id", *requested)})


def _card_data(commit: Commit) -> dict[str, Any]:
    card = commit.files.get("README.md")
    block = re.match(r"---\r?\n(.*?)\r?\n---", card.content.decode(errors="replace"), re.DOTALL) if card else None
    try:
        return {"cardData": data} if block and isinstance(data := yaml.safe_load(block[1]), dict) else {}
    except yaml.YAMLError:
        return {}


# -- files ------------------------------------------------------------------------------------------------------------
def _lfs(file: File, name: str) -> dict[str, Any]:
    if file.sha256 is None:
        return {}
    return {"lfs": {name: file.sha256, "size": file.size, "pointerSize": file.pointer_size}}


def _entry(call: Call, line: list[Commit], path: str, expand: bool) -> dict[str, Any] | None:
    commit = line[-1]
    entry: dict[str, Any]
    if file := commit.files.get(path):
        entry = {"type": "file", "oid": file.oid, "size": file.size, "path": path, **_lfs(file, "oid")}
        if xet_hash := call.hub.xet.hashes.get(file.sha256 or ""):
            entry["xetHash"] = xet_hash
    elif commit.under(path):
        entry = {"type": "directory", "oid": commit.folder_oid(path), "size": 0, "path": path}
    else:
        return None
    if expand:
        last = call.repo.last_change(line, path)
        entry["lastCommit"] = {"id": last.oid, "title": last.title, "date": last.date}
    return entry


def tree(call: Call) -> Reply:
    line, folder = call.line(call.segments[0]), "/".join(call.segments[1:]).strip("/")
    commit, depth = line[-1], folder.count("/") + 1 if folder else 0
    paths = [path for path in (*commit.folders(), *commit.files) if path.startswith(f"{folder}/" if folder else "")]
    if folder and not paths:
        raise HubError(
            404, f"{folder} does not exist on {call.segments[0]}", "EntryNotFound", **_commit_header(commit)
        )
    if not call.request.flag("recursive"):
        paths = [path for path in paths if path.count("/") == depth]
    expand = call.request.flag("expand")
    return Reply([_entry(call, line, path, expand) for path in paths])


def paths_info(call: Call) -> Reply:
    body = call.request.body.decode()
    asked = json.loads(body) if body.startswith("{") else parse_qs(body)
    expand = str(asked.get("expand", "")).strip("[']").lower() == "true"
    matches = (_entry(call, call.line(call.segments[0]), path.strip("/"), expand) for path in asked["paths"])
    return Reply([entry for entry in matches if entry])


def resolve(call: Call) -> Reply:
    commit, path = call.commit(call.segments[0]), "/".join(call.segments[1:])
    headers = _commit_header(commit)
    call.require_content()
    file = commit.files.get(path)
    if file is None:
        raise HubError(404, f"{path} does not exist", "EntryNotFound", **headers)
    headers |= {"ETag": f'"{file.etag}"', "Content-Disposition": f"inline; filename*=UTF-8''{quote(path)}"}
    if file.sha256 is None:
        return Reply(file.content, headers=headers, ranges=True)
    headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    if xet_hash := call.hub.xet.hashes.get(file.sha256):
        route = f"{call.hub.url}/api/{call.repo.repo_type}s/{call.repo.repo_id}/xet-read-token/{commit.oid}"
        headers |= {"X-Xet-Hash": xet_hash, "X-Xet-Refresh-Route": route, "Link": f'<{route}>; rel="xet-auth"'}
    return Reply(b"", 302, {**headers, "Location": call.hub.storage_url(call.repo, file.sha256)})


def _commit_header(commit: Commit) -> dict[str, str]:
    return {"X-Repo-Commit": commit.oid}


# -- uploads ----------------------------------------------------------------------------------------------------------
def preupload(call: Call) -> Reply:
    files = call.commit(call.segments[0]).files
    modes = []
    for asked in call.request.json()["files"]:
        path, existing = asked["path"], files.get(asked["path"])
        mode = "lfs" if is_large(path, asked["size"]) else "regular"
        oid = existing.etag if existing else None
        modes.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return Reply({"files": modes})


def lfs_batch(call: Call) -> Reply:
    objects = []
    verify = f"{call.hub.url}{call.request.path.removesuffix('objects/batch')}verify"
    for asked in call.request.json()["objects"]:
        answer = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in call.repo.lfs:
            upload = {"href": call.hub.storage_url(call.repo, asked["oid"]), "header": {}}
            answer["actions"] = {"upload": upload, "verify": {"href": verify, "header": {}}}
        objects.append(answer)
    return Reply({"transfer": "basic", "objects": objects})


def lfs_verify(call: Call) -> Reply:
    asked = call.request.json()
    if len(call.repo.lfs.get(asked["oid"], b"")) != asked["size"]:
        raise HubError(404, f"{asked['oid']} was not uploaded")
    return Reply({})


def xet_token(call: Call) -> Reply:
    write = "xet-write-token" in call.request.path
    if write:
        call.require_write(call.repo.repo_id)
    else:
        call.require_content()
    url = call.hub.xet.upload_url() if write else call.hub.xet.read_url()
    expires = int(time.time()) + 3600
    headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(expires)}
    return Reply({"accessToken": "xet", "exp": expires, "casUrl": url}, headers=headers)


def commit(call: Call) -> Reply:
    account, repo = call.require_write(call.repo.repo_id), call.repo
    lines = [json.loads(line) for line in call.request.body.splitlines() if line]
    header = next(line["value"] for line in lines if line["key"] == "header")
    branch = call.branch()
    head = repo.head(branch)
    proposed = call.request.flag("create_pr")
    if not proposed and not head.oid.startswith(header.get("parentCommit") or ""):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    files = dict(head.files)
    for line in lines:
        _apply(call, files, line["key"], line["value"])
    extra = {}
    if proposed:
        number = 1 + sum(name.startswith("refs/pr/") for name in repo.branches)
        extra["pullRequestUrl"] = f"{call.hub.url}/{repo.path}/discussions/{number}"
        repo.branches[branch := f"refs/pr/{number}"] = list(repo.branches[call.branch()])
    new_commit = repo.add(branch, files, header["summary"], header.get("description", ""), account.name)
    url = f"{call.hub.url}/{repo.path}/commit/{new_commit.oid}"
    return Reply({"success": True, "commitOid": new_commit.oid, "commitUrl": url, "hookOutput": "", **extra})


def _apply(call: Call, files: dict[str, File], key: str, value: dict[str, Any]) -> None:
    if key == "file":
        files[value["path"]] = File.of(base64.b64decode(value["content"]), lfs=False)
    elif key == "lfsFile":
        content = call.repo.lfs.get(value["oid"]) or call.hub.xet.receive(value["oid"])
        if content is None:
            raise HubError(400, f"{value['path']} points to {value['oid']}, which was not uploaded")
        call.repo.lfs[value["oid"]] = content
        files[value["path"]] = File.of(content, lfs=True)
    elif key in ("deletedFile", "deletedFolder"):
        path = value["path"].rstrip("/")
        gone = [name for name in files if name == path or (key == "deletedFolder" and name.startswith(f"{path}/"))]
        if not gone:
            raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
        for name in gone:
            del files[name]
    elif key != "header":
        raise HubError(400, f"Unknown operation {key}")


# -- history ----------------------------------------------------------------------------------------------------------
def refs(call: Call) -> Reply:
    heads = {name: line[-1] for name, line in call.repo.branches.items()}
    branches = {name: commit for name, commit in heads.items() if not name.startswith("refs/")}
    return Reply(
        {
            "branches": [_ref(name, f"refs/heads/{name}", commit) for name, commit in branches.items()],
            "tags": [_ref(name, f"refs/tags/{name}", commit) for name, commit in call.repo.tags.items()],
            "converts": [],
            "pullRequests": [_ref(name, name, heads[name]) for name in heads if name not in branches],
        }
    )


def _ref(name: str, ref: str, commit: Commit) -> dict[str, str]:
    return {"name": name, "ref": ref, "targetCommit": commit.oid}


def commits(call: Call) -> Reply:
    return Reply(
        [
            {
                **{"id": commit.oid, "title": commit.title, "message": commit.message, "date": commit.date},
                "authors": [{"user": commit.author}],
            }
            for commit in reversed(call.line(call.segments[0]))
        ]
    )


def create_branch(call: Call) -> Reply:
    if call.segments[0] in call.repo.branches:
        raise HubError(409, f"Reference already exists: refs/heads/{call.segments[0]}")
    call.repo.branches[call.segments[0]] = [*call.line(call.request.json().get("startingPoint") or "main")]
    return Reply({})


def delete_branch(call: Call) -> Reply:
    if call.branch() == "main":
        raise HubError(403, "The main branch cannot be deleted")
    del call.repo.branches[call.branch()]
    return Reply({})


def create_tag(call: Call) -> Reply:
    tag = call.request.json()["tag"]
    if tag in call.repo.tags:
        raise HubError(409, f"Reference already exists: refs/tags/{tag}")
    call.repo.tags[tag] = call.commit(call.segments[0])
    return Reply({})


def delete_tag(call: Call) -> Reply:
    if call.repo.tags.pop(call.segments[0], None) is None:
        raise HubError(404, f"Tag {call.segments[0]} does not exist", "RevisionNotFound")
    return Reply({})


GENERAL: dict[tuple[str, str], Callable[[Call], Reply]] = {
    ("GET", "/api/whoami-v2"): whoami,
    ("GET", "/api/agent-harnesses"): agent_harnesses,
    ("POST", "/api/validate-yaml"): validate_yaml,
    ("POST", "/api/repos/create"): create,
    ("DELETE", "/api/repos/delete"): delete,
}
OF_REPO: dict[tuple[str, str], tuple[Callable[[Call], Reply], str]] = {
    ("GET", ""): (info, "read"),
    ("GET", "revision"): (info, "read"),
    ("GET", "auth-check"): (auth_check, "read"),
    ("PUT", "settings"): (settings, "write"),
    ("GET", "tree"): (tree, "read"),
    ("POST", "paths-info"): (paths_info, "read"),
    ("POST", "preupload"): (preupload, "write"),
    ("POST", "commit"): (commit, "write"),
    ("GET", "xet-read-token"): (xet_token, "read"),
    ("GET", "xet-write-token"): (xet_token, "write"),
    ("GET", "refs"): (refs, "read"),
    ("GET", "commits"): (commits, "read"),
    ("POST", "branch"): (create_branch, "write"),
    ("DELETE", "branch"): (delete_branch, "write"),
    ("POST", "tag"): (create_tag, "write"),
    ("DELETE", "tag"): (delete_tag, "write"),
}
LFS: dict[str, Callable[[Call], Reply]] = {"info/lfs/objects/batch": lfs_batch, "info/lfs/verify": lfs_verify}
