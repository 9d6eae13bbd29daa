"""/files on port 49983 as raw HTTP, over real files: who may, what comes back, and what bad requests are told."""

from __future__ import annotations

import asyncio
import gzip
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from raybox_actors.agent.errors import AgentError
from raybox_actors.values import SandboxInfo
from raybox_cluster.gateway.signatures import sign
from tests.cluster.gateway.conftest import Gateway
from tests.cluster.gateway.local_agent import LocalAgent
from tests.support.wait import async_wait_until

pytestmark = pytest.mark.anyio

UNAUTHORIZED = "unauthorized access, please provide a valid access token or method signing if supported"


class Box:
    """One sandbox, spoken to on port 49983 with its token."""

    def __init__(self, gateway: Gateway, info: SandboxInfo) -> None:
        self.gateway, self.info = gateway, info
        self.token = info.envd_access_token or ""
        routing = {"E2b-Sandbox-Id": info.sandbox_id, "E2b-Sandbox-Port": "49983"}
        self.client = httpx.AsyncClient(base_url=gateway.url, headers=routing | {"X-Access-Token": self.token})

    @property
    def agent(self) -> LocalAgent:
        return self.gateway.backend.agent_of(self.info.sandbox_id)

    def content(self, path: str) -> bytes:
        return self.agent.real(path).read_bytes()

    def put(self, path: str, content: bytes) -> None:
        real = self.agent.real(path)
        real.parent.mkdir(parents=True, exist_ok=True)
        real.write_bytes(content)

    async def get(self, path: str, **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.get("/files", params={"path": path}, headers=sent)

    async def upload(self, path: str | None, body: Any, params: dict[str, str] | None = None, **headers: str) -> Any:
        query = ({} if path is None else {"path": path}) | (params or {})
        sent = {"Content-Type": "application/octet-stream"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post("/files", params=query, content=body, headers=sent)


@pytest.fixture
async def box(gateway: Gateway) -> AsyncIterator[Box]:
    box = Box(gateway, await gateway.sandbox())
    async with box.client:
        yield box


# --- who may ---------------------------------------------------------------------------------------------------------


async def test_every_other_route_needs_the_token(box: Box) -> None:
    for wrong in ("", "wrong"):
        for method, path in (
            ("GET", "/metrics"),
            ("GET", "/envs"),
            ("POST", "/process.Process/List"),
            ("POST", "/process.Process/Start"),
            ("GET", "/nothing"),
        ):
            answer = await box.client.request(method, path, headers={"X-Access-Token": wrong})
            assert (answer.status_code, answer.json()) == (401, {"code": 401, "message": UNAUTHORIZED}), path
    assert (await box.client.get("/health", headers={"X-Access-Token": "wrong"})).status_code == 204


async def test_a_sandbox_without_a_token_is_open(gateway: Gateway) -> None:
    info = await gateway.sandbox(secure=False)
    answer = await gateway.on_port(49983, info.sandbox_id, "GET", "/envs")
    assert (answer.status_code, answer.json()) == (200, {})
    assert (await gateway.on_port(49983, info.sandbox_id, "GET", "/files?path=x")).status_code == 404


@pytest.mark.parametrize(
    ("token", "query", "message"),
    [
        ("wrong", {}, "access token present in header but does not match"),
        (None, {}, "missing signature query parameter"),
        (None, {"signature": "v1_x"}, "invalid signature"),
    ],
)
async def test_files_need_the_token_or_a_signature(
    box: Box, token: str | None, query: dict[str, str], message: str
) -> None:
    routing = {"E2b-Sandbox-Id": box.info.sandbox_id, "E2b-Sandbox-Port": "49983"}
    sent = routing if token is None else routing | {"X-Access-Token": token}
    async with httpx.AsyncClient(base_url=box.gateway.url, headers=sent) as client:
        for method in ("GET", "POST"):
            answer = await client.request(method, "/files", params={"path": "x"} | query)
            assert (answer.status_code, answer.json()) == (401, {"code": 401, "message": message})
            assert answer.headers["content-type"] == "application/json"


def signed(box: Box, path: str, operation: Any, expiration: int | None = None, user: str = "user") -> dict[str, str]:
    text = None if expiration is None else str(expiration)
    query = {"path": path, "username": user, "signature": sign(path, operation, user, box.token, text)}
    return query if text is None else query | {"signature_expiration": text}


@pytest.mark.parametrize("known", [True, False])
async def test_a_signed_url_finds_its_sandbox_by_itself(box: Box, known: bool) -> None:
    """With no header that names it, on a gateway that has seen the sandbox or not."""
    if known:
        await box.client.get("/envs")
    for _ in range(3):
        await box.gateway.sandbox()
    async with httpx.AsyncClient(base_url=box.gateway.url) as client:
        query = signed(box, "hello.txt", "write", int(time.time()) + 60)
        answer = await client.post("/files", params=query, files={"file": ("ignored", b"hi")})
        assert (answer.status_code, answer.json()[0]["path"]) == (200, "/home/user/hello.txt")
        assert box.content("/home/user/hello.txt") == b"hi"
        answer = await client.get("/files", params=signed(box, "hello.txt", "read"))
        assert (answer.status_code, answer.content) == (200, b"hi")
        assert answer.headers["access-control-allow-origin"] == "*"
    assert ("sandboxes" in box.gateway.backend.calls) != known


async def test_signed_urls_that_are_refused(box: Box) -> None:
    box.put("/home/user/a", b"x")
    async with httpx.AsyncClient(base_url=box.gateway.url) as client:

        async def get(query: dict[str, str]) -> tuple[int, object]:
            answer = await client.get("/files", params=query)
            return answer.status_code, answer.json()

        def refused(message: str) -> tuple[int, object]:
            return 401, {"code": 401, "message": message}

        assert await get(signed(box, "a", "read", 1000)) == refused("signature is already expired")
        assert await get(signed(box, "a", "write")) == refused("invalid signature")
        assert await get(signed(box, "a", "read") | {"path": "b"}) == refused("invalid signature")
        assert await get(signed(box, "a", "read") | {"username": "root"}) == refused("invalid signature")
        assert await get({"path": "a"}) == refused("missing signature query parameter")
        assert (await client.put("/files", params=signed(box, "a", "read"))).status_code == 405
        # The gateway knows whose it was, and says that this sandbox is gone.
        box.gateway.backend.end(box.info.sandbox_id, "killed")
        status, body = await get(signed(box, "a", "read"))
        assert isinstance(body, dict)
        assert (status, body["message"]) in ((502, "The sandbox was not found"), (401, "invalid signature"))


async def test_many_signed_urls_ask_for_one_list_at_a_time(box: Box) -> None:
    async with httpx.AsyncClient(base_url=box.gateway.url) as client:
        query = signed(box, "a", "read") | {"path": "b"}
        answers = await asyncio.gather(*(client.get("/files", params=query) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {401}
    assert box.gateway.backend.calls.count("sandboxes") <= 20


# --- reading ---------------------------------------------------------------------------------------------------------


async def test_a_file_comes_with_its_headers(box: Box) -> None:
    box.put("/home/user/dir/a b.txt", b"content")
    answer = await box.get("dir/a b.txt", Accept_Encoding="identity")
    assert (answer.status_code, answer.content) == (200, b"content")
    assert answer.headers["content-length"] == "7"
    assert answer.headers["content-disposition"] == 'inline; filename="a b.txt"'
    assert (answer.headers["vary"], answer.headers["accept-ranges"]) == ("Accept-Encoding", "bytes")
    assert answer.headers["content-type"] == "text/plain"
    head = await box.client.head("/files", params={"path": "dir/a b.txt"}, headers={"Accept-Encoding": "identity"})
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "7")


async def test_an_empty_file_has_a_length(box: Box) -> None:
    box.put("/home/user/empty", b"")
    for encoding in ("identity", "gzip"):
        answer = await box.get("~/empty", Accept_Encoding=encoding)
        assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")
        assert "content-encoding" not in answer.headers


@pytest.mark.parametrize("content", [b"x" * 1_000_000, os.urandom(700_000), b"short"])
async def test_gzip_for_those_who_take_it(box: Box, content: bytes) -> None:
    box.put("/home/user/f", content)
    answer = await box.get("f", Accept_Encoding="gzip")
    assert (answer.headers["content-encoding"], answer.content) == ("gzip", content)  # httpx unpacks it
    assert "content-length" not in answer.headers
    answer = await box.get("f", Accept_Encoding="br;q=1, *;q=0")
    assert (answer.status_code, answer.json()["code"]) == (406, 406)


async def test_a_file_that_claims_to_be_empty_is_read_to_its_end(box: Box) -> None:
    assert (await box.agent.stat("/proc/self/status", "user")).size_bytes == 0
    for encoding in ("gzip", "identity"):
        answer = await box.get("/proc/self/status", Accept_Encoding=encoding)
        assert (answer.status_code, b"Pid:" in answer.content) == (200, True)


async def test_ranges(box: Box) -> None:
    box.put("/home/user/f", b"0123456789")

    async def part(value: str) -> tuple[int, bytes, str | None]:
        answer = await box.get("f", Range=value, Accept_Encoding="gzip")
        return answer.status_code, answer.content, answer.headers.get("content-range")

    assert await part("bytes=2-4") == (206, b"234", "bytes 2-4/10")
    assert await part("bytes=-3") == (206, b"789", "bytes 7-9/10")
    assert await part("bytes=8-") == (206, b"89", "bytes 8-9/10")
    assert await part("bytes=0-1,3-4") == (200, b"0123456789", None)
    status, body, where = await part("bytes=10-")
    assert (status, where) == (416, "bytes */10")
    assert b'"code":416' in body
    answer = await box.get("missing", Range="bytes=0-1")
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("nope.txt", 404, "path '/home/user/nope.txt' does not exist"),
        ("/home", 400, "path '/home' is a directory"),
        ("", 400, "path '/home/user' is a directory"),
        ("a\0b", 400, "path must not contain NUL"),
        ("x" * 4097, 400, "path is longer than 4096 characters"),
    ],
)
async def test_files_that_cannot_be_read(box: Box, path: str, status: int, message: str) -> None:
    answer = await box.get(path)
    assert (answer.status_code, answer.json()["code"], answer.json()["message"]) == (status, status, message)
    assert answer.headers["content-type"] == "application/json"


async def test_unknown_users(box: Box) -> None:
    for method in ("GET", "POST"):
        answer = await box.client.request(
            method,
            "/files",
            params={"path": "x", "username": "nobody"},
            headers={"Content-Type": "application/octet-stream"},
        )
        assert (answer.status_code, answer.json()["message"]) == (401, "invalid username: 'nobody'")


async def test_other_methods(box: Box) -> None:
    for method in ("PUT", "DELETE", "PATCH"):
        answer = await box.client.request(method, "/files")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
        assert answer.json()["code"] == 405
    for path in ("/envs", "/metrics"):
        assert (await box.client.post(path)).status_code == 405
    assert (await box.client.post("/health")).status_code == 405
    assert (await box.client.get("/process.Process/List")).status_code == 405
    preflight = await box.client.options(
        "/files", headers={"Access-Control-Request-Method": "POST", "Origin": "https://example.org"}
    )
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, "*")


# --- writing ---------------------------------------------------------------------------------------------------------


async def test_a_body_as_it_is(box: Box) -> None:
    answer = await box.upload("deep/er/f.bin", b"\0\1\2")
    assert answer.status_code == 200
    assert answer.json() == [{"name": "f.bin", "path": "/home/user/deep/er/f.bin", "type": "file"}]
    assert box.content("/home/user/deep/er/f.bin") == b"\0\1\2"
    assert (await box.upload("deep/er/f.bin", b"")).status_code == 200
    assert box.content("/home/user/deep/er/f.bin") == b""


async def test_a_chunked_and_a_packed_body(box: Box) -> None:
    content = os.urandom(300_000) * 3

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(content), 70_000):
            yield content[at : at + 70_000]

    assert (await box.upload("chunked", pieces())).status_code == 200
    assert box.content("/home/user/chunked") == content
    assert (await box.upload("packed", gzip.compress(content), Content_Encoding="gzip")).status_code == 200
    assert box.content("/home/user/packed") == content
    assert (await box.upload("plain", b"x", Content_Encoding="identity")).status_code == 200


async def test_a_form_of_several_files(box: Box) -> None:
    files = [
        ("file", ("/home/user/a/ä ö.txt", b"one")),
        ("file", ("b.txt", b"x" * 600_000)),
        ("other", ("c.txt", b"three")),
        ("file", ("/tmp/empty", b"")),
    ]
    answer = await box.client.post("/files", files=files)
    assert answer.status_code == 200
    assert [entry["path"] for entry in answer.json()] == ["/home/user/a/ä ö.txt", "/home/user/b.txt", "/tmp/empty"]
    assert box.content("/home/user/a/ä ö.txt") == b"one"
    assert box.content("/home/user/b.txt") == b"x" * 600_000
    assert box.content("/tmp/empty") == b""
    assert not box.agent.real("/home/user/c.txt").exists()


async def test_a_form_of_one_file_and_a_path(box: Box) -> None:
    answer = await box.client.post("/files", params={"path": "target"}, files={"file": ("whatever/name", b"1")})
    assert [entry["path"] for entry in answer.json()] == ["/home/user/target"]
    nameless = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nplain value\r\n--b--\r\n'
    answer = await box.upload("nameless", nameless, Content_Type="multipart/form-data; boundary=b")
    assert answer.status_code == 200
    assert box.content("/home/user/nameless") == b"plain value"


async def test_metadata_is_kept_and_replaced(box: Box) -> None:
    answer = await box.upload("f", b"x", X_Metadata_Owner="me", X_Metadata_Team="b c")
    assert answer.json()[0]["metadata"] == {"owner": "me", "team": "b c"}
    assert (await box.agent.stat("f", "user")).metadata == {"owner": "me", "team": "b c"}
    assert "metadata" not in (await box.upload("f", b"y")).json()[0]
    assert (await box.upload("f", b"y", X_Metadata_Owner="v" * 5000)).status_code == 400


FORM = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("path", "kind", "body", "words"),
    [
        (None, "application/octet-stream", b"x", "path is required"),
        ("x", "text/plain", b"x", "multipart/form-data or application/octet-stream"),
        ("x", "", b"x", "multipart/form-data or application/octet-stream"),
        ("x", "multipart/form-data", b"x", "boundary"),
        ("x", FORM, b"x", "ended before its last boundary"),
        ("x", FORM, b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx', "ended before its last boundary"),
        (None, FORM, b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--', "a file needs a path"),
        ("/tmp", "application/octet-stream", b"x", "is a directory"),
    ],
)
async def test_bad_uploads(box: Box, path: str | None, kind: str, body: bytes, words: str) -> None:
    box.agent.real("/tmp").mkdir()
    answer = await box.upload(path, body, Content_Type=kind)
    assert (answer.status_code, answer.json()["code"]) == (400, 400)
    assert words in answer.json()["message"]


async def test_two_files_of_one_path(box: Box) -> None:
    files = [("file", ("a", b"1")), ("file", ("/home/user/x/../a", b"2"))]
    answer = await box.client.post("/files", files=files)
    assert (answer.status_code, answer.json()["message"]) == (
        400,
        "two files of one upload have the path '/home/user/a'",
    )


async def test_packed_bodies_that_are_none(box: Box) -> None:
    for body in (b"no gzip", gzip.compress(b"x" * 1000)[:-9]):
        answer = await box.upload("x", body, Content_Encoding="gzip")
        assert (answer.status_code, answer.json()["code"]) == (400, 400)
    assert (await box.upload("x", b"x", Content_Encoding="br")).status_code == 400


async def test_a_full_disk_is_507(box: Box) -> None:
    box.agent.room_bytes = 1_000_000
    answer = await box.upload("big", bytes(3_000_000))
    assert (answer.status_code, answer.json()["code"], answer.json()["kind"]) == (507, 507, "limit")
    assert answer.json()["message"] == "not enough disk space left"
    answer = await box.client.post("/files", files={"file": ("big2", bytes(3_000_000))})
    assert answer.status_code == 507


async def test_what_was_written_before_the_client_left_stays_and_nothing_else(box: Box) -> None:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield bytes(400_000)
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(box.upload("part", endless()))
    await begun.wait()
    await async_wait_until(lambda: box.agent.written_bytes >= 256 * 1024)
    task.cancel()
    await asyncio.wait({task})
    assert (await box.upload("part", b"again")).status_code == 200
    assert box.content("/home/user/part") == b"again"


# --- the sandbox goes ------------------------------------------------------------------------------------------------


async def test_files_of_a_sandbox_that_is_gone(box: Box) -> None:
    await box.client.get("/envs")  # so that its token is known
    box.gateway.backend.end(box.info.sandbox_id, "timeout")
    for method, path in (
        ("GET", "/files?path=x"),
        ("POST", "/files?path=x"),
        ("PUT", "/files"),
        ("POST", "/process.Process/List"),
        ("POST", "/process.Process/Nope"),
        ("GET", "/envs"),
        ("GET", "/metrics"),
        ("POST", "/init"),
        ("GET", "/health"),
    ):
        for token in (box.token, "wrong"):
            kind = "application/octet-stream" if "files" in path else "application/json"
            answer = await box.client.request(method, path, headers={"X-Access-Token": token, "Content-Type": kind})
            assert (answer.status_code, answer.json()["message"]) == (502, "The sandbox was not found"), path
            assert answer.json()["cause"] == "timeout"


async def test_a_download_is_cut_off_when_the_sandbox_goes(box: Box) -> None:
    box.put("/home/user/big", os.urandom(30_000_000))
    request = box.client.build_request("GET", "/files", params={"path": "big"}, headers={"Accept-Encoding": "identity"})
    answer = await box.client.send(request, stream=True)
    pieces = answer.aiter_raw()
    await anext(pieces)
    box.gateway.backend.end(box.info.sandbox_id, "killed")
    with pytest.raises(httpx.RemoteProtocolError):
        [piece async for piece in pieces]


async def test_an_agent_that_is_away_is_503_and_one_that_died_with_its_sandbox_502(box: Box) -> None:
    box.agent.fault = AgentError("unavailable", "the agent went away")
    answer = await box.get("x")
    assert (answer.status_code, answer.json()["message"], answer.json()["retryable"]) == (
        503,
        "the agent went away",
        True,
    )
    del box.gateway.backend.live[box.info.sandbox_id]
    box.agent._check_alive = lambda: None  # it notices later than everybody else
    answer = await box.get("x")
    assert (answer.status_code, answer.json()["message"]) == (502, "The sandbox was not found")


async def test_the_environment_and_the_metrics_of_the_agent(gateway: Gateway) -> None:
    box = Box(gateway, await gateway.sandbox(env_vars={"A": "1"}))
    async with box.client:
        assert (await box.client.get("/envs")).json() == {"A": "1"}
        assert (await box.client.get("/metrics")).json() == {}
