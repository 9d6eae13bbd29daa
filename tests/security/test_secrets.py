"""Keys and tokens of a running pool are where they must be and nowhere else; quotas hold on a real pool."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import e2b_code_interpreter
import httpx
import pytest

import raybox
from raybox_cluster import cli_state
from raybox_cluster.gateway.auth import hash_key, new_key
from tests.support.pool import RunningPool, processes_of, start_pool, stop_pool
from tests.support.pool import raybox as command
from tests.support.wait import wait_until

pytestmark = [pytest.mark.pool, pytest.mark.slow]

CREATE = {"templateID": "code-interpreter-v1", "timeout": 120}
#: Prints everything that Ray's control store keeps of actors and of everything else, as a driver sees it.
STORE = """
import ray, sys
from ray.experimental import internal_kv as kv
ray.init(log_to_driver=False, namespace="raybox")
print(len(ray._private.state.actors()), ray._private.state.actors())
gcs = ray._private.worker.global_worker.gcs_client
for namespace in (None, b"serve", b"session", b"cluster", b"job", b"fun", b"cls", b"metadata", b"usage_stats"):
    for name in gcs.internal_kv_keys(b"", namespace, 10):
        value = gcs.internal_kv_get(name, namespace, 10)
        sys.stdout.flush()
        sys.stdout.buffer.write(name + b"=" + (value or b"") + b"\\n")
"""


@dataclass(frozen=True)
class Keyed:
    pool: RunningPool
    alice: str
    bob: str


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """A strict pool with keys from a file: alice may have two sandboxes, bob has no quota."""
    name, alice, bob = f"keyed-{os.getpid()}", new_key(), new_key()
    file = tmp_path_factory.mktemp("keys") / "pool.yaml"
    file.write_text(
        "require: strict\nsandboxes: 4\nwarm: 1\napi-keys:\n"
        f"  - {{name: alice, key: {alice}, sandboxes: 2}}\n"
        f"  - {{name: bob, sha256: {hash_key(bob)}}}\n"
    )
    pool = None
    try:
        pool = start_pool(name, "--config", str(file))
        yield Keyed(pool, alice, bob)
    finally:
        if pool is None:
            command("down", "--name", name)
        else:
            stop_pool(pool)


def ask(keyed: Keyed, key: str, method: str, path: str, json: object = None) -> httpx.Response:
    return httpx.request(
        method, keyed.pool.url + path, json=json, headers={"X-API-KEY": key}, timeout=60, trust_env=False
    )


def everything_logged(pool: RunningPool) -> list[Path]:
    record = cli_state.read(pool.name)
    assert record is not None
    logs = [*Path(record.folder).rglob("*"), Path(record.log), *Path(f"/run/raybox/{pool.name}").rglob("*")]
    return [path for path in logs if path.is_file() and not path.is_symlink()]


def test_keys_and_tokens_are_in_no_log_no_argument_and_no_store(keyed: Keyed) -> None:
    made = ask(keyed, keyed.alice, "POST", "/v2/sandboxes", CREATE | {"network": {"allowPublicTraffic": False}})
    assert made.status_code == 201, made.text
    sandbox = made.json()
    path = f"/sandboxes/{sandbox['sandboxID']}"
    secrets = {
        "admin's key": keyed.pool.api_key,
        "alice's key": keyed.alice,
        "bob's key": keyed.bob,
        "access token": sandbox["envdAccessToken"],
        "traffic token": sandbox["trafficAccessToken"],
        "Ray's token": Path(keyed.pool.token_path).read_text().strip(),
    }
    assert all(len(one) >= 32 for one in secrets.values())
    try:
        # Whatever goes wrong is logged; so let things go wrong, with secrets at hand.
        data_plane = {"E2b-Sandbox-Id": sandbox["sandboxID"], "E2b-Sandbox-Port": "49999"}
        for token in (sandbox["trafficAccessToken"], "wrong" + sandbox["trafficAccessToken"]):
            httpx.post(
                f"{keyed.pool.url}/execute",
                json={"code": "1/0"},
                headers=data_plane | {"E2B-Traffic-Access-Token": token},
                timeout=60,
                trust_env=False,
            )
        for key in (keyed.bob, keyed.alice + "x", keyed.pool.api_key):
            ask(keyed, key, "POST", f"{path}/timeout", {"timeout": "x"})
            ask(keyed, key, "GET", path)
        assert command("status", "--name", keyed.pool.name).returncode == 0

        def where(text: bytes) -> list[str]:
            return [name for name, secret in secrets.items() if secret.encode() in text]

        logs = everything_logged(keyed.pool)
        assert len(logs) > 10
        assert any(b"gcs" in log.read_bytes() for log in logs)
        assert {str(log): where(log.read_bytes()) for log in logs if where(log.read_bytes())} == {}

        processes = processes_of(keyed.pool)
        lines = subprocess.run(
            ["ps", "-ww", "-o", "args=", "-p", ",".join(str(one.pid) for one in processes)],
            capture_output=True, check=True,
        ).stdout  # fmt: skip
        assert b"ray::PoolManager" in lines
        assert where(lines) == []
        for process in processes:
            assert where(_environment(process.pid)) == [], process

        store = subprocess.run(
            [sys.executable, "-c", STORE],
            capture_output=True,
            timeout=60,
            check=True,
            env=os.environ | keyed.pool.environment,
        ).stdout
        assert keyed.pool.name.encode() in store
        assert hash_key(keyed.alice).encode() in store, "the hash is what is kept, so it must be where we looked"
        assert where(store) == []
    finally:
        assert ask(keyed, keyed.alice, "DELETE", path).status_code == 204


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it has ended
        return b""


def test_keys_are_in_files_that_are_private(keyed: Keyed) -> None:
    """The admin's, so that commands here need not be given it; the others' are in the operator's own file alone."""
    holding = {
        path: secret
        for path in cli_state.home().glob("run/*")
        for secret in (keyed.pool.api_key, keyed.alice, keyed.bob)
        if path.is_file() and secret.encode() in path.read_bytes()
    }
    record = cli_state.record_path(keyed.pool.name)
    assert holding == {record: keyed.pool.api_key}
    assert record.stat().st_mode & 0o777 == 0o600


def test_strict_refuses_to_join_with_a_token_that_others_can_read(keyed: Keyed, tmp_path: Path) -> None:
    """Everything else about this cluster is as strict as can be: only the copy of its token is not."""
    copy, name = tmp_path / "token", f"{keyed.pool.name}-b"
    copy.write_bytes(Path(keyed.pool.token_path).read_bytes())
    copy.chmod(0o644)
    up = command(
        "up", "--name", name, "--address", keyed.pool.ray_address, "--require", "strict",
        RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(copy),
    )  # fmt: skip
    assert (up.returncode, up.stdout) == (2, ""), up.stderr
    assert up.stderr.splitlines()[-1] == (
        "raybox: this machine cannot isolate sandboxes as strictly as required: ray token: "
        f"{copy} can be read by others (mode 0644); see `raybox doctor`"
    )
    assert cli_state.read(name) is None


def test_a_quota_is_exact_when_creates_race(keyed: Keyed) -> None:
    with ThreadPoolExecutor(8) as executor:
        answers = list(executor.map(lambda _: ask(keyed, keyed.alice, "POST", "/v2/sandboxes", CREATE), range(8)))
    made = [one.json()["sandboxID"] for one in answers if one.status_code == 201]
    try:
        assert sorted(one.status_code for one in answers) == [201] * 2 + [429] * 6, [one.text for one in answers]
        refused = next(one for one in answers if one.status_code == 429)
        assert refused.json()["kind"] == "limit"
        assert refused.json()["message"] == "the quota of API key alice is used up: its sandboxes have 2 of 2 sandboxes"
        said = "quota of API key alice is used up"
        with pytest.raises(raybox.LimitException, match=said):
            raybox.Sandbox.create(api_url=keyed.pool.url, api_key=keyed.alice)
        with pytest.raises(e2b_code_interpreter.RateLimitException, match=said):
            e2b_code_interpreter.Sandbox.create(api_url=keyed.pool.url, api_key=keyed.alice)
        others = ask(keyed, keyed.bob, "POST", "/v2/sandboxes", CREATE)
        assert others.status_code == 201, others.text
        made.append(others.json()["sandboxID"])
        listed = {
            key: {one["sandboxID"] for one in ask(keyed, key, "GET", "/v2/sandboxes").json()}
            for key in (keyed.alice, keyed.bob, keyed.pool.api_key)
        }
        assert listed == {keyed.alice: set(made[:2]), keyed.bob: set(made[2:]), keyed.pool.api_key: set(made)}
        assert ask(keyed, keyed.bob, "DELETE", f"/sandboxes/{made[0]}").status_code == 404
        assert ask(keyed, keyed.alice, "DELETE", f"/sandboxes/{made[0]}").status_code == 204
        again = ask(keyed, keyed.alice, "POST", "/v2/sandboxes", CREATE)
        assert again.status_code == 201, again.text
        made[0] = again.json()["sandboxID"]
    finally:
        for sandbox_id in made:
            assert ask(keyed, keyed.pool.api_key, "DELETE", f"/sandboxes/{sandbox_id}").status_code == 204

    def at_rest() -> bool:
        states: dict[str, int] = ask(keyed, keyed.pool.api_key, "GET", "/raybox/status").json()["slots_by_state"]
        return sum(states.get(state, 0) for state in ("warm", "idle")) == 4

    wait_until(at_rest, 30)
