"""POST /run_code, as SandboxFusion has it: one program with its stdin, whose answer says how it ended.

Reward code of RL trainers asks so, once for every test case, and judges by the words of the answer: what is no fault of
the program must say `SandboxError`, whatever HTTP says.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from fastapi import APIRouter, Request
from starlette.responses import Response

from raybox_actors import fields as f
from raybox_actors.errors import BadRequest, RayboxError
from raybox_actors.items import check_names
from raybox_actors.values import CreateRequest, ItemKind, ItemRequest
from raybox_cluster.batch.holding import LEASE_S
from raybox_cluster.batch.run import Result
from raybox_cluster.batch.schedule import Rules
from raybox_cluster.batch.service import Service
from raybox_cluster.batch.wire import decode_base64, encode_base64

from .asgi import ClientGone, headers_of, json_response, read_body, wait_until_gone
from .auth import ApiKey, key_of
from .backend import Backend
from .routes_batch import default_in_flight

RUN_CODE_PATH: Final = "/run_code"
MAX_BODY_BYTES: Final = 16 * 1024 * 1024
MAX_FILES: Final = 1024
MAX_NAME_CHARS: Final = 4096
DEFAULT_LIMIT_S: Final = 10.0
MAX_LIMIT_S: Final = 3600.0
#: The least that a sandbox can do something with; who asks for less gets this.
LEAST_MEMORY_MIB: Final = 64
#: SandboxFusion's names -> ours. Others that it knows are told apart from those that nobody knows.
LANGUAGES: Final[dict[str, tuple[str, ItemKind]]] = {
    "python": ("python", "program"),
    "nodejs": ("javascript", "program"),
    "javascript": ("javascript", "program"),
    "typescript": ("typescript", "cell"),
    "bash": ("bash", "program"),
    "R": ("r", "program"),
    "java": ("java", "program"),
}
#: They compile and run in one go, so they have both times.
COMPILED: Final = frozenset({"java", "typescript"})
ABSENT: Final = frozenset(
    [
        "cpp",
        "go",
        "go_test",
        "php",
        "csharp",
        "sql",
        "rust",
        "cuda",
        "lua",
        "perl",
        "D_ut",
        "ruby",
        "scala",
        "julia",
        "pytest",
        "junit",
        "kotlin_script",
        "jest",
        "verilog",
        "python_gpu",
        "lean",
        "swift",
        "racket",
    ]
)
KILLED: Final = -9


@dataclass(frozen=True, slots=True)
class RunCode:
    item: ItemRequest
    memory_mib: int | None


def run_code_routes(backend: Backend) -> APIRouter:
    router = APIRouter()

    async def rules() -> Rules:
        return Rules(await default_in_flight(backend))

    service = Service(backend, rules)

    async def run_code(request: Request) -> Response:
        body = await read_body(request.receive, headers_of(request.scope), MAX_BODY_BYTES)
        try:
            asked = parse_run_code(body)
        except _NotHere as error:
            return json_response(200, sandbox_error(str(error)))
        gone = asyncio.ensure_future(wait_until_gone(request.receive))
        running = asyncio.ensure_future(_run(key_of(request.scope), asked))
        try:
            await asyncio.wait({gone, running}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                raise ClientGone
            return json_response(200, answer_of(running.result()))
        except RayboxError as error:
            return json_response(200, sandbox_error(str(error)))
        finally:
            gone.cancel()
            running.cancel()

    async def _run(key: ApiKey, asked: RunCode) -> Result:
        create = CreateRequest(
            timeout_s=LEASE_S,
            owner=key.name,
            quota=key.quota,
            weight=key.weight,
            resources={"memory_mib": asked.memory_mib} if asked.memory_mib is not None else {},
        )
        return await service.run((key.name, asked.memory_mib), create, asked.item)

    router.add_route(RUN_CODE_PATH, run_code, methods=["POST"])
    return router


class _NotHere(Exception):
    """A language of SandboxFusion's that this pool does not run."""


def parse_run_code(body: bytes) -> RunCode:
    """Raises BadRequest, and _NotHere for what is right but cannot be had. Pure but for the item's name."""
    fields = f.json_object(body)
    code = f.text(fields, "code", MAX_BODY_BYTES)
    named = f.text(fields, "language", MAX_NAME_CHARS)
    if code is None or named is None:
        raise BadRequest("code and language are required")
    if named not in LANGUAGES:
        known = ", ".join(LANGUAGES)
        if named in ABSENT:
            raise _NotHere(f"language {named} is not installed here; there are {known}")
        raise BadRequest(f"language {named[:64]!r} is not known; there are {known}")
    language, kind = LANGUAGES[named]
    files = {
        name: decode_base64(f"files[{name[:64]!r}]", text)
        for name, text in f.mapping(fields, "files").items()
        if text is not None
    }
    fetch = fields.get("fetch_files") or []
    if not isinstance(fetch, list) or len(fetch) + len(files) > MAX_FILES:
        raise BadRequest(f"fetch_files must be a list, of at most {MAX_FILES} names together with files")
    wanted = tuple(f.check_text("fetch_files", name, MAX_NAME_CHARS) for name in fetch)
    check_names((*files, *wanted))
    stdin = (f.text(fields, "stdin", MAX_BODY_BYTES) or "").encode()
    if kind == "cell" and (stdin or files or wanted):
        raise _NotHere(f"{named} has no stdin and no files here")
    limit_s = f.seconds(fields, "run_timeout", MAX_LIMIT_S) or DEFAULT_LIMIT_S
    if named in COMPILED:
        limit_s += f.seconds(fields, "compile_timeout", MAX_LIMIT_S) or DEFAULT_LIMIT_S
    return RunCode(
        ItemRequest(f"run-{uuid4().hex}", code, kind, language, stdin, files, {}, wanted, limit_s),
        _memory(fields),
    )


def _memory(fields: f.Json) -> int | None:
    """-1, as SandboxFusion has it, and nothing mean the pool's own."""
    value = f.integer(fields, "memory_limit_MB", -1, 1 << 24)
    return None if value is None or value <= 0 else max(value, LEAST_MEMORY_MIB)


def answer_of(result: Result) -> f.Json:
    """The answer's body. Pure."""
    outcome = result.outcome
    if outcome is None and result.status != "oom":
        return sandbox_error(str(result.error or f"the program was not run: {result.status}"))
    text = {"stdout": "", "stderr": ""}
    for line in outcome.lines.splitlines() if outcome is not None else ():
        event = json.loads(line)
        if event["type"] in text:
            text[event["type"]] += event["text"]
        elif event["type"] == "error":
            text["stderr"] += event["traceback"] + "\n"
        elif event["type"] == "result" and event.get("text") is not None:
            text["stdout"] += event["text"] + "\n"
    codes = {"ok": 0, "error": 1, "timeout": None, "oom": KILLED}
    exit_code = outcome.exit_code if outcome is not None else None
    run_result = {
        "status": "TimeLimitExceeded" if result.status == "timeout" else "Finished",
        "execution_time": outcome.duration_s if outcome is not None else 0.0,
        "return_code": codes.get(result.status) if exit_code is None else exit_code,
        **text,
    }
    body = _body("Success" if result.status == "ok" else "Failed", "")
    files = {name: encode_base64(data) for name, data in outcome.files.items()} if outcome is not None else {}
    return {**body, "run_result": run_result, "files": files}


def sandbox_error(message: str) -> f.Json:
    """Whoever scores by it leaves the sample out."""
    return _body("SandboxError", message)


def _body(status: str, message: str) -> f.Json:
    return {
        "status": status,
        "message": message,
        "compile_result": None,
        "run_result": None,
        "executor_pod_name": None,
        "files": {},
    }
