"""The control plane on the real pool: through both clients, and by hand where a client would not go."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any

import e2b_code_interpreter
import httpx
import pytest

import raybox
from tests.integration.conftest import at_rest
from tests.support.pool import RunningPool
from tests.support.pool import raybox as raybox_command
from tests.support.wait import wait_until

pytestmark = pytest.mark.pool


def test_life_of_a_sandbox(client: Any, create: Callable[..., Any]) -> None:
    sandbox = create(metadata={"who": "test"}, timeout=60)
    info = sandbox.get_info()
    assert info.sandbox_id == sandbox.sandbox_id
    assert info.metadata == {"who": "test"}
    assert sandbox.is_running()
    assert sandbox.get_info().end_at == info.end_at
    sandbox.set_timeout(100)
    assert sandbox.get_info().end_at > info.end_at
    sandbox.run_code("x = 7")
    again = client.connect(sandbox.sandbox_id)
    assert again.run_code("x").text == "7"
    assert sandbox.kill() is True
    assert sandbox.kill() is False
    assert not sandbox.is_running()
    with pytest.raises(Exception, match=r"(?i)not found|not exist|is gone") as raised:
        sandbox.get_info()
    assert "NotFound" in type(raised.value).__name__


def test_list_filters_and_pages(client: Any, create: Callable[..., Any]) -> None:
    mark = secrets.token_hex(4)
    made = [create(metadata={"mark": mark, "n": str(number)}).sandbox_id for number in range(3)]
    package = raybox if client is raybox.Sandbox else e2b_code_interpreter
    query = package.SandboxQuery(metadata={"mark": mark})
    pages = client.list(query=query, limit=2)
    first = pages.next_items()
    assert pages.has_next
    rest = pages.next_items()
    assert not pages.has_next
    assert [one.sandbox_id for one in (*first, *rest)] == list(reversed(made))


def test_a_sandbox_is_listed_as_soon_as_it_is_there(client: Any, create: Callable[..., Any]) -> None:
    for _ in range(30):
        sandbox = create()
        assert sandbox.sandbox_id in [one.sandbox_id for one in client.list().next_items()]
        sandbox.kill()


def test_after_a_kill_the_slot_serves_somebody_else(create: Callable[..., Any], running_pool: RunningPool) -> None:
    """Stale ids stay dead, and no state passes from one sandbox to the next."""
    stale = []
    for _ in range(8):
        sandbox = create()
        assert sandbox.run_code("'secret' in globals()").text == "False"
        assert sandbox.run_code("import os; os.listdir('/home/user') + os.listdir('/tmp')").text == "[]"
        sandbox.run_code("secret = 1; open('secret', 'w').close(); open('/tmp/secret', 'w').close()")
        sandbox.kill()
        stale.append(sandbox)
    for sandbox in stale:
        assert not sandbox.is_running()
    at_rest(running_pool)


def test_the_cause_is_told(running_pool: RunningPool) -> None:
    sandbox = raybox.Sandbox.create(timeout=60)
    sandbox.set_timeout(0)
    with pytest.raises(raybox.RayboxError) as raised:
        sandbox.run_code("1")
    assert (raised.value.kind, raised.value.cause) == ("sandbox_lost", "timeout")
    assert not raised.value.should_mask_sample
    assert running_pool is not None


def test_a_full_pool_says_so(client: Any, create: Callable[..., Any], running_pool: RunningPool) -> None:
    at_rest(running_pool)
    for _ in range(6):
        create()
    with pytest.raises(Exception, match=r".") as raised:
        create()
    assert type(raised.value).__name__ in ("RateLimitException", "ServiceBusyException"), raised.value
    if client is raybox.Sandbox:
        assert isinstance(raised.value, raybox.RayboxError)
        assert (raised.value.kind, raised.value.retryable) == ("capacity", True)


def test_ids_that_never_were(client: Any) -> None:
    for sandbox_id in ("nonsense", "i" + "0" * 40, secrets.token_hex(30)):
        with pytest.raises(Exception, match=r"(?i)not found|not exist"):
            client.connect(sandbox_id)


def test_a_wrong_key(client: Any) -> None:
    with pytest.raises(Exception, match=r".") as raised:
        client.create(api_key="e2b_" + "0" * 40)
    assert "Authentication" in type(raised.value).__name__


def test_malformed_requests_get_the_contracts_errors(running_pool: RunningPool) -> None:
    with httpx.Client(base_url=running_pool.url, headers={"X-API-KEY": running_pool.api_key}, timeout=30) as http:
        answers = [
            http.post("/v2/sandboxes", content=b"{not json"),
            http.post("/v2/sandboxes", json=["list"]),
            http.post("/v2/sandboxes", json={"templateID": 3}),
            http.post("/v2/sandboxes", json={"templateID": "base", "timeout": -1}),
            http.post("/v2/sandboxes", json={"templateID": "no-such-template"}),
            http.get("/v2/sandboxes", params={"limit": 0}),
            http.get("/no/such/route"),
            http.patch("/v2/sandboxes"),
            http.get("/templates/x/tags"),
            http.post("/sandboxes/nonsense/pause"),
        ]
    for answer in answers:
        body = answer.json()
        assert 400 <= answer.status_code < 600
        assert answer.status_code != 500, body
        assert body["code"] == answer.status_code
        assert isinstance(body["message"], str)


def test_idempotent_create(running_pool: RunningPool) -> None:
    headers = {"X-API-KEY": running_pool.api_key, "Idempotency-Key": secrets.token_hex(8)}
    with httpx.Client(base_url=running_pool.url, headers=headers, timeout=30) as http:
        ids = {http.post("/v2/sandboxes", json={"templateID": "base"}).json()["sandboxID"] for _ in range(3)}
        assert len(ids) == 1
        assert http.delete(f"/sandboxes/{ids.pop()}").status_code == 204


def test_run_command(running_pool: RunningPool) -> None:
    done = raybox_command("run", "--name", running_pool.name, "-c", "print('out'); 6 * 7")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["out", "42"]
    failed = raybox_command("run", "--name", running_pool.name, "-c", "1 / 0")
    assert failed.returncode == 1
    assert "ZeroDivisionError" in failed.stderr


def test_status_over_http(running_pool: RunningPool) -> None:
    answer = httpx.get(f"{running_pool.url}/raybox/status", headers={"X-API-KEY": running_pool.api_key}, timeout=30)
    assert json.loads(answer.text)["capacity"] == 6
    assert httpx.get(f"{running_pool.url}/raybox/status", timeout=30).status_code == 401


def test_when_all_is_done_the_pool_is_at_rest(running_pool: RunningPool) -> None:
    at_rest(running_pool)
    assert wait_until(lambda: not raybox.Sandbox.list().next_items(), 10)
