"""/raybox/leases: what is asked of the pool, what is answered, and what is refused."""

from __future__ import annotations

import pytest

from raybox_actors.values import Lease, LeaseOwner, Quota
from raybox_cluster.gateway.auth import ApiKey, hash_key, new_key
from tests.cluster.gateway.conftest import Gateway

pytestmark = pytest.mark.anyio

PATH = "/raybox/leases/step-1"


async def test_a_lease_is_made_once_and_then_given_again(gateway: Gateway) -> None:
    body = {
        "ttl_s": 90.5,
        "owner": {"kind": "heartbeat", "id": "p-1"},
        "create": {"templateID": "base", "metadata": {"a": "b"}, "envVars": {"C": "d"}},
    }
    answers = [await gateway.client.put(PATH, json=body) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    first, second = [answer.json() for answer in answers]
    assert (first.pop("created"), second.pop("created")) == (True, False)
    assert first == second
    assert first["sandbox"]["sandboxID"] == first["sandboxID"]
    assert (first["key"], first["ttl_s"]) == ("step-1", 90.5)
    assert first["owners"] == [{"kind": "heartbeat", "id": "p-1"}]
    request, recreate = gateway.backend.leased[0]
    assert not recreate
    assert (request.timeout_s, request.owner, request.metadata, request.env_vars) == (
        90.5,
        "tester",
        {"a": "b"},
        {"C": "d"},
    )
    assert request.lease == Lease("step-1", 90.5, (LeaseOwner("heartbeat", "tester/client/p-1"),))
    (listed,) = (await gateway.client.get("/raybox/leases")).json()
    assert listed == {name: value for name, value in first.items() if name != "sandbox"}


async def test_what_is_not_said_has_its_default(gateway: Gateway) -> None:
    assert (await gateway.client.put(PATH)).status_code == 201
    ((request, recreate),) = gateway.backend.leased
    assert request.lease == Lease("step-1", 600.0, (LeaseOwner("none"),))
    assert (request.timeout_s, request.template, recreate) == (600.0, "code-interpreter-v1", False)


@pytest.mark.parametrize(("kind", "digits"), [("job", 8), ("actor", 32), ("process", 56)])
async def test_owners_in_ray(gateway: Gateway, kind: str, digits: int) -> None:
    owner = {"kind": kind, "id": "0a" * (digits // 2)}
    assert (await gateway.client.put(PATH, json={"owner": owner})).json()["owners"] == [owner]
    for wrong in ("0a" * (digits // 2 + 1), "0A" * (digits // 2), "", None, 7):
        answer = await gateway.client.put(PATH, json={"owner": {"kind": kind, "id": wrong}})
        assert answer.status_code == 400, wrong


async def test_heartbeats(gateway: Gateway) -> None:
    mine = {"owner": {"kind": "heartbeat", "id": "p"}}
    await gateway.client.put(PATH, json=mine)
    await gateway.client.put("/raybox/leases/unnamed", json={"owner": {"kind": "heartbeat"}})
    assert (await gateway.client.post("/raybox/leases/heartbeat", json={"owner": "p"})).json() == {"leases": 1}
    assert (await gateway.client.post("/raybox/leases/heartbeat", json={"owner": "q"})).json() == {"leases": 0}
    assert gateway.backend.heartbeats[0] == LeaseOwner("heartbeat", "tester/client/p")
    assert (await gateway.client.post("/raybox/leases/unnamed/heartbeat")).status_code == 204
    assert (await gateway.client.post("/raybox/leases/nope/heartbeat")).status_code == 404


async def test_release_ends_the_sandbox_but_not_its_successor(gateway: Gateway) -> None:
    sandbox_id = (await gateway.client.put(PATH)).json()["sandboxID"]
    assert (await gateway.client.delete(f"{PATH}?sandbox_id=another")).status_code == 404
    assert sandbox_id in gateway.backend.live
    assert (await gateway.client.delete(f"{PATH}?sandbox_id={sandbox_id}")).status_code == 204
    assert gateway.backend.gone[sandbox_id] == "killed"
    answer = await gateway.client.delete(PATH)
    assert (answer.status_code, answer.json()["message"]) == (404, "lease step-1 not found")


async def test_a_lost_sandbox_is_told(gateway: Gateway) -> None:
    sandbox_id = (await gateway.client.put(PATH)).json()["sandboxID"]
    gateway.backend.end(sandbox_id, "oom")
    lost = await gateway.client.put(PATH)
    assert (lost.status_code, lost.json()["kind"], lost.json()["cause"]) == (404, "sandbox_lost", "oom")
    assert lost.json()["should_mask_sample"] is True
    sandbox_id = (await gateway.client.put(PATH)).json()["sandboxID"]
    gateway.backend.end(sandbox_id, "oom")
    assert (await gateway.client.put(PATH, json={"recreate": True})).status_code == 201


async def test_keys_of_another_api_key_are_others(gateway: Gateway) -> None:
    bob = new_key()
    gateway.with_keys(ApiKey("bob", hash_key(bob), quota=Quota(sandboxes=1)))
    as_bob = {"X-API-KEY": bob}
    mine = (await gateway.client.put(PATH)).json()["sandboxID"]
    his = (await gateway.client.put(PATH, headers=as_bob)).json()["sandboxID"]
    assert mine != his
    assert gateway.backend.leased[-1][0].quota == Quota(sandboxes=1)
    assert [one["sandboxID"] for one in (await gateway.client.get("/raybox/leases", headers=as_bob)).json()] == [his]
    assert len((await gateway.client.get("/raybox/leases")).json()) == 2
    await gateway.client.post("/raybox/leases/heartbeat", json={"owner": "p"}, headers=as_bob)
    assert gateway.backend.heartbeats[-1] == LeaseOwner("heartbeat", "bob/client/p")
    assert (await gateway.client.delete(PATH, headers=as_bob)).status_code == 204
    assert mine in gateway.backend.live


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/raybox/leases/a%20b", {}, "the key of a lease must match [A-Za-z0-9._:~@=+-]{1,255}"),
        ("/raybox/leases/" + "x" * 256, {}, "the key of a lease must match [A-Za-z0-9._:~@=+-]{1,255}"),
        (PATH, {"ttl_s": 0}, "ttl_s must be a number above 0 and up to 86400"),
        (PATH, {"ttl_s": "1"}, "ttl_s must be a number above 0 and up to 86400"),
        (PATH, {"ttl_s": True}, "ttl_s must be a number above 0 and up to 86400"),
        (PATH, {"ttl_s": 86401}, "ttl_s must be a number above 0 and up to 86400"),
        (PATH, {"create": {"timeout": 5}}, "create.timeout: a lease lives as long as ttl_s says"),
        (PATH, {"owner": {"kind": "cat"}}, "owner.kind must be one of none, heartbeat, job, actor, process"),
        (PATH, {"owner": {"kind": "heartbeat", "id": "a/b"}}, "the id of an owner must match [A-Za-z0-9_-]{1,64}"),
        (PATH, {"owner": "me"}, "owner must be an object"),
        (PATH, [], "the request body must be a JSON object"),
    ],
)
async def test_what_is_refused(gateway: Gateway, path: str, body: object, message: str) -> None:
    answer = await gateway.client.put(path, json=body)
    assert (answer.status_code, answer.json()["message"]) == (400, message)
    assert not gateway.backend.leased


async def test_not_a_number_is_refused(gateway: Gateway) -> None:
    for text in (b'{"ttl_s": NaN}', b'{"ttl_s": Infinity}', b'{"ttl_s": 1e999}'):
        assert (await gateway.client.put(PATH, content=text)).status_code == 400


async def test_leases_need_an_api_key(gateway: Gateway) -> None:
    nobody = {"X-API-KEY": "e2b_" + "0" * 40}
    for method, path in (("PUT", PATH), ("DELETE", PATH), ("GET", "/raybox/leases"), ("POST", f"{PATH}/heartbeat")):
        assert (await gateway.client.request(method, path, headers=nobody)).status_code == 401
