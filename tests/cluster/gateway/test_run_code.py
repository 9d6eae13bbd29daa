"""POST /run_code against what asks it: reward code that judges by the words of the answer."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from raybox_actors.errors import NoCapacity, SandboxLost
from raybox_actors.results import END_LINE, text_line
from raybox_actors.values import CreateRequest, ItemOutcome, ItemRequest, SandboxInfo
from raybox_cluster.batch import run as batch_run
from raybox_cluster.gateway.app import create_app
from raybox_cluster.gateway.auth import ApiKeys
from tests.cluster.gateway.conftest import KEEPALIVE_S, Gateway

pytestmark = pytest.mark.anyio


def request_of(code: str = "x", **fields: object) -> dict[str, object]:
    """What verl sends, with nothing left out and nothing added."""
    usual = {"compile_timeout": 10, "run_timeout": 10, "code": code, "stdin": "", "language": "python"}
    return {**usual, "files": {}, "fetch_files": [], **fields}


def judged(answer: dict[str, Any], expected: str) -> bool | int:
    """As reward code does: right, wrong, or -1 (nobody's fault), -2 (it failed), -3 (too slow)."""
    ran = answer["run_result"]
    if answer["status"] == "Success" and ran["status"] == "Finished":
        return str(ran["stdout"]).rstrip("\n") == expected.rstrip("\n")
    if answer["status"] == "Failed" and ran is not None:
        if ran["status"] == "TimeLimitExceeded":
            return -3
        if ran["status"] == "Error" or ran["return_code"] != 0:
            return -2
    return -1


def outcome(status: Any, exit_code: int | None, out: str = "", err: str = "") -> ItemOutcome:
    lines = text_line("stdout", out) + text_line("stderr", err) + END_LINE
    return ItemOutcome(status, lines, 0.25, clean=True, exit_code=exit_code)


@pytest.mark.parametrize(
    ("done", "expected", "verdict"),
    [
        (outcome("ok", 0, "42\n"), "42", True),
        (outcome("ok", 0, "41\n"), "42", False),
        (outcome("error", 1, "42\n", "Traceback"), "42", -2),
        (outcome("error", -11), "42", -2),
        (outcome("timeout", None, "42\n"), "42", -3),
        (outcome("oom", None), "42", -2),
    ],
)
async def test_the_answer_is_judged_as_it_is_meant(
    gateway: Gateway, done: ItemOutcome, expected: str, verdict: bool | int
) -> None:
    async def run(_sandbox_id: str, item: ItemRequest) -> ItemOutcome:
        assert (item.kind, item.stdin, item.timeout_s) == ("program", b"6 7\n", 10.0)
        return done

    gateway.backend.run = run
    answer = await gateway.client.post("/run_code", json=request_of(stdin="6 7\n"))
    assert answer.status_code == 200
    body = answer.json()
    assert judged(body, expected) == verdict
    assert body.keys() == {"status", "message", "compile_result", "run_result", "executor_pod_name", "files"}
    assert body["run_result"].keys() == {"status", "execution_time", "return_code", "stdout", "stderr"}


async def test_a_fault_of_ours_is_never_a_wrong_answer(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(sandbox_id: str, _item: ItemRequest) -> ItemOutcome:
        gateway.backend.end(sandbox_id, "node_lost")
        raise SandboxLost(sandbox_id, "node_lost")

    gateway.backend.run = lost
    body = (await gateway.client.post("/run_code", json=request_of())).json()
    assert (body["status"], judged(body, "")) == ("SandboxError", -1)
    assert "node_lost" in body["message"]

    async def full(_request: CreateRequest) -> SandboxInfo:
        raise NoCapacity("every sandbox is taken", 0.0)

    gateway.backend.create = full  # type: ignore[method-assign,assignment]
    monkeypatch.setattr(batch_run, "PAUSE_S", 0.0)
    monkeypatch.setattr("raybox_cluster.batch.schedule.STARVED_S", 0.0)
    body = (await gateway.client.post("/run_code", json=request_of(memory_limit_MB=256))).json()
    assert (body["status"], judged(body, "")) == ("SandboxError", -1)
    assert "taken" in body["message"]


async def test_files_go_in_and_come_back(gateway: Gateway) -> None:
    async def run(_sandbox_id: str, item: ItemRequest) -> ItemOutcome:
        assert item.files == {"in/a.bin": b"\0\1"}
        assert item.fetch == ("out.bin",)
        return ItemOutcome("ok", END_LINE, 0.0, True, 0, {"out.bin": b"\xff"})

    gateway.backend.run = run
    files = {"in/a.bin": base64.b64encode(b"\0\1").decode(), "absent": None}
    body = (await gateway.client.post("/run_code", json=request_of(files=files, fetch_files=["out.bin"]))).json()
    assert body["files"] == {"out.bin": base64.b64encode(b"\xff").decode()}


@pytest.mark.parametrize(
    ("said", "language", "kind", "limit_s"),
    [
        ("nodejs", "javascript", "program", 10),
        ("typescript", "typescript", "cell", 20),
        ("R", "r", "program", 10),
        ("java", "java", "program", 20),
        ("bash", "bash", "program", 10),
    ],
)
async def test_languages_by_their_names_there(
    gateway: Gateway, said: str, language: str, kind: str, limit_s: float
) -> None:
    async def run(_sandbox_id: str, item: ItemRequest) -> ItemOutcome:
        assert (item.language, item.kind, item.timeout_s) == (language, kind, limit_s)
        return outcome("ok", None if kind == "cell" else 0)

    gateway.backend.run = run
    body = (await gateway.client.post("/run_code", json=request_of(language=said))).json()
    assert (body["status"], body["run_result"]["return_code"]) == ("Success", 0)


async def test_a_language_that_is_not_here_is_nobodys_fault(gateway: Gateway) -> None:
    body = (await gateway.client.post("/run_code", json=request_of(language="cpp"))).json()
    assert body["status"] == "SandboxError"
    assert "there are python" in body["message"]
    body = (await gateway.client.post("/run_code", json=request_of(language="typescript", stdin="x"))).json()
    assert body["status"] == "SandboxError"


@pytest.mark.parametrize(
    "wrong",
    [
        {"language": "klingon"},
        {"code": None},
        {"run_timeout": 0},
        {"compile_timeout": "soon", "language": "java"},
        {"files": {"../x": ""}},
        {"files": {"x": "*"}},
        {"fetch_files": "x"},
        {"memory_limit_MB": "much"},
        {"stdin": 1},
    ],
)
async def test_requests_that_mean_nothing_are_refused(gateway: Gateway, wrong: dict[str, object]) -> None:
    answer = await gateway.client.post("/run_code", json={**request_of(), **wrong})
    assert (answer.status_code, answer.json()["kind"]) == (400, "bad_request")


async def test_a_limit_of_memory_is_the_sandboxes(gateway: Gateway) -> None:
    for asked, given in ((-1, {}), (512, {"memory_mib": 512}), (1, {"memory_mib": 64})):
        await gateway.client.post("/run_code", json=request_of(memory_limit_MB=asked))
        assert gateway.backend.created[-1].resources == given


async def test_who_may_ask(gateway: Gateway) -> None:
    async def status(**headers: str) -> int:
        sent = {"X-API-KEY": "", **headers}
        request = gateway.client.build_request("POST", "/run_code", json=request_of(), headers=sent)
        if not sent["X-API-KEY"]:
            del request.headers["X-API-KEY"]
        return (await gateway.client.send(request)).status_code

    assert await status() == 401
    assert await status(Authorization="Bearer wrong") == 401
    assert await status(Authorization=f"Bearer {gateway.key}") == 200
    assert await status(**{"X-API-KEY": gateway.key}) == 200
    gateway.switch.app = create_app(
        gateway.backend, ApiKeys.of(tester=gateway.key), keepalive_s=KEEPALIVE_S, open_run_code=True
    )
    assert await status() == 200
    assert gateway.backend.created[-1].owner == "run-code"
    assert await status(Authorization="Bearer wrong") == 401, "a key that is wrong is not no key"
    listing = gateway.client.build_request("GET", "/v2/sandboxes", headers={"Authorization": f"Bearer {gateway.key}"})
    del listing.headers["X-API-KEY"]
    assert (await gateway.client.send(listing)).status_code == 401, "nothing else is open"
