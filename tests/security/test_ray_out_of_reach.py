"""Code in a sandbox reaches nothing of Ray, whatever it tries. One attack, one test.

Every test first proves, from outside, that its target is there and answers; otherwise the attack would fail for the
wrong reason, and go on failing when it must not.
"""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import ray._raylet

import raybox
from raybox_cluster import cli_state
from raybox_cluster.ray_access import gcs_requires_token
from tests.security.conftest import Others
from tests.support.components import GATEWAY, MANAGER, NODE_AGENT, command_line, pid_of
from tests.support.listeners import Listener, accepts, listeners, own_addresses
from tests.support.pool import RunningPool, processes_of

pytestmark = pytest.mark.pool

#: Runs code in a sandbox and returns what it printed. Code that raises fails the test: an attack reports by printing.
Inside = Callable[[str], str]

#: Who listens -> how its command line begins, or what is in it.
SERVERS = {
    "gcs": "/gcs/gcs_server",
    "raylet": "/raylet/raylet",
    "autoscaler and its metrics": "/autoscaler/",
    "dashboard and its metrics": "dashboard/dashboard.py",
    "dashboard agent with the Jobs API": "ray::DashboardAgent",
    "runtime environment agent": "ray::RuntimeEnvAgent",
    "pool manager's worker": MANAGER,
    "Serve controller's worker": "ray::ServeController",
    "node agent's worker": NODE_AGENT,
    "front's worker": "ray::Front",
    "gateway's worker and HTTP": GATEWAY,
    "sandbox actors' workers": "ray::SandboxActor",
}
#: Tries every address that could lead to this machine; prints those that answered.
CONNECT = """
import socket
for host in {hosts!r}:
    for port in {ports!r}:
        try:
            socket.create_connection((host, port), timeout=2).close()
        except OSError as error:
            assert not isinstance(error, TimeoutError), (host, port)
        else:
            print(host, port)
"""


@pytest.fixture(autouse=True)
def _others_are_served(others: Others) -> Iterator[None]:
    yield
    others.are_served()


@pytest.fixture(scope="module")
def inside(running_pool: RunningPool) -> Iterator[Inside]:
    with raybox.Sandbox.create(api_url=running_pool.url, api_key=running_pool.api_key, timeout=600) as sandbox:

        def run(code: str) -> str:
            execution = sandbox.run_code(code)
            assert execution.error is None, execution.error
            return "".join(execution.logs.stdout)

        yield run


@pytest.fixture(scope="module")
def folder(running_pool: RunningPool) -> Path:
    """Of the pool's Ray."""
    record = cli_state.read(running_pool.name)
    assert record is not None
    return Path(record.folder)


@pytest.fixture(scope="module")
def session(folder: Path) -> Path:
    return (folder / "r" / "session_latest").resolve()


@pytest.fixture(scope="module")
def token(running_pool: RunningPool) -> str:
    return Path(running_pool.token_path).read_text().strip()


@pytest.fixture(scope="module", autouse=True)
def _somebody_has_come_over_ray(running_pool: RunningPool) -> None:
    """So that the node has a front."""
    program = "import ray, raybox; ray.init(log_to_driver=False); raybox.connect(transport='ray').capacity()"
    environment = os.environ | running_pool.environment | {"RAYBOX_POOL": running_pool.name}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, timeout=60)


def of(pool: RunningPool, server: str) -> list[Listener]:
    return [one for one in listeners(pool) if SERVERS[server] in one.command]


# ---- ports ----


def test_the_list_of_servers_is_complete(running_pool: RunningPool) -> None:
    """Whatever else of the pool listens would be attacked by no test below."""
    unknown = [one for one in listeners(running_pool) if not any(mark in one.command for mark in SERVERS.values())]
    assert not unknown


@pytest.mark.parametrize("server", SERVERS)
def test_ports(server: str, running_pool: RunningPool, inside: Inside) -> None:
    targets = of(running_pool, server)
    assert targets, [one.command[:80] for one in listeners(running_pool)]
    assert all(accepts(one.host, one.port) for one in targets), targets
    hosts = ["127.0.0.1", "::1", "localhost", *own_addresses()]
    assert inside(CONNECT.format(hosts=hosts, ports=[one.port for one in targets])) == ""


def test_the_gateway_over_http(running_pool: RunningPool, inside: Inside) -> None:
    assert httpx.get(f"{running_pool.url}/health", trust_env=False).status_code == 200
    code = (
        "import urllib.request\n"
        "try:\n"
        f"    print(urllib.request.urlopen({running_pool.url + '/health'!r}, timeout=2).status)\n"
        "except OSError as error: assert not isinstance(error, TimeoutError)\n"
    )
    assert inside(code) == ""


def test_a_datagram_to_this_machine(inside: Inside) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(5)
        port = listening.getsockname()[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            sending.sendto(b"from outside", ("127.0.0.1", port))
        assert listening.recv(100) == b"from outside"
        code = (
            "import socket\n"
            f"for host in {['127.0.0.1', *own_addresses()]!r}:\n"
            "    try:\n"
            f"        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'from inside', (host, {port}))\n"
            "    except OSError: pass\n"
            "print('tried')"
        )
        assert inside(code) == "tried\n"
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.recv(100)


def test_a_server_inside_does_not_listen_outside(inside: Inside) -> None:
    """The other way round: a sandbox cannot stand in for a port that a Ray process would connect to."""
    code = "import socket; held = socket.create_server(('', 0)); print(held.getsockname()[1])"
    port = int(inside(code))
    assert inside(f"socket.create_connection(('127.0.0.1', {port})).close(); print('up')") == "up\n"
    try:
        assert not any(accepts(host, port) for host in ("127.0.0.1", *own_addresses()))
    finally:
        inside("held.close()")


def test_ray_answers_nobody_without_the_token(running_pool: RunningPool) -> None:
    """The second wall, should the first have a hole."""
    import grpc

    assert gcs_requires_token(running_pool.ray_address)
    agent = of(running_pool, "dashboard agent with the Jobs API")
    url = next(f"http://{one.host}:{one.port}" for one in agent if one.port != 0 and one.host != "127.0.0.1")
    answer = httpx.post(f"{url}/api/job_agent/jobs/", json={"entrypoint": "true"}, trust_env=False)
    assert answer.status_code == 401
    with grpc.insecure_channel(running_pool.ray_address) as channel:
        call = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive", bytes, bytes)
        with pytest.raises(grpc.RpcError) as raised:
            call(b"", timeout=10, metadata=[("authorization", "Bearer " + "0" * 64)])
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


# ---- sockets and shared memory ----


@pytest.mark.parametrize("name", ["raylet", "plasma_store"])
def test_unix_sockets(name: str, session: Path, inside: Inside) -> None:
    path = session / "sockets" / name
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    code = (
        "import socket\n"
        "client = socket.socket(socket.AF_UNIX)\n"
        f"try: client.connect({str(path)!r})\n"
        "except FileNotFoundError: print('no such socket')"
    )
    assert inside(code) == "no such socket\n"


def test_sockets_of_the_node_agent(running_pool: RunningPool, inside: Inside) -> None:
    paths = list(Path(f"/run/raybox/{running_pool.name}").rglob("*.sock"))
    assert paths
    for path in paths:
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert inside(f"import os; print(os.path.exists({str(path)!r}))") == "False\n"


def test_abstract_unix_sockets(inside: Inside) -> None:
    name = f"\0raybox-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        listening.bind(name)
        listening.listen()
        client.connect(name)
        assert f"@{name[1:]}" in Path("/proc/net/unix").read_text()
        code = (
            "import socket\n"
            f"try: socket.socket(socket.AF_UNIX).connect({name!r})\n"
            "except ConnectionRefusedError: print('refused')\n"
            "print('@' in open('/proc/net/unix').read())"
        )
        assert inside(code) == "refused\nFalse\n"


def test_shared_memory_of_the_node(inside: Inside) -> None:
    """The object store lives there."""
    path = Path(f"/dev/shm/raybox-test-{os.getpid()}")
    path.write_text("an object")
    try:
        assert inside(f"import os; print(os.path.exists({str(path)!r}), os.listdir('/dev/shm'))") == "False []\n"
        assert path.read_text() == "an object"
    finally:
        path.unlink()


def test_the_mapping_of_the_object_store(running_pool: RunningPool, inside: Inside) -> None:
    raylet = next(one.pid for one in processes_of(running_pool) if "/raylet/raylet" in command_line(one.pid))
    assert "plasma" in Path(f"/proc/{raylet}/maps").read_text()
    code = (
        "import glob\n"
        "for path in glob.glob('/proc/[0-9]*/maps'):\n"
        "    try: print(*(line for line in open(path) if 'plasma' in line))\n"
        "    except OSError: pass"
    )
    assert inside(code).strip() == ""


# ---- files ----


def test_folders_of_ray(folder: Path, session: Path, inside: Inside) -> None:
    assert (session / "logs" / "gcs_server.out").read_text()
    code = (
        "import os\n"
        f"for path in {[str(folder), str(session), '/tmp/ray', '/root/.ray', '/home/user/.ray']!r}:\n"
        "    if os.path.exists(path): print(path)"
    )
    assert inside(code) == ""


def test_folders_of_ray_are_closed_to_others(folder: Path, session: Path) -> None:
    """Ray opens its own to everybody; they lie in one that is not."""
    assert (session / "sockets").stat().st_mode & 0o007
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.stat().st_uid == os.geteuid()


def test_the_token_and_the_keys_of_the_pool(running_pool: RunningPool, token: str, inside: Inside) -> None:
    paths = [Path(running_pool.token_path), cli_state.record_path(running_pool.name)]
    assert len(token) >= 32
    for path in paths:
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert inside(f"import os; print(os.path.exists({str(path)!r}))") == "False\n"
    left = Path.home() / ".ray" / "auth_token"
    assert not left.exists() or left.stat().st_mode & 0o777 == 0o600


def test_no_file_inside_holds_the_token(token: str, inside: Inside) -> None:
    """Everything that the user of a sandbox may read, but for the read-only folders of the system and the template."""
    code = f"""
import os
wanted, seen = {token[::-1]!r}[::-1].encode(), 0
planted = '/tmp/planted'
open(planted, 'wb').write(b'x' + wanted)
for top in ('/etc', '/run', '/tmp', '/var', '/home', '/root', '/dev/shm'):
    for folder, _, names in os.walk(top):
        for name in names:
            try:
                with open(os.path.join(folder, name), 'rb') as file:
                    found = wanted in file.read(1 << 20)
                    seen += 1
            except OSError: continue
            if found: print(os.path.join(folder, name))
os.unlink(planted)
print(seen > 10)
"""
    assert inside(code) == "/tmp/planted\nTrue\n"


# ---- processes and what they leave behind ----


def test_processes_of_the_host(running_pool: RunningPool, inside: Inside) -> None:
    raylet = next(one.pid for one in processes_of(running_pool) if "/raylet/raylet" in command_line(one.pid))
    assert Path(f"/proc/{raylet}/environ").read_bytes()
    code = (
        "import glob\n"
        "for path in glob.glob('/proc/[0-9]*/cmdline'):\n"
        "    try: line = open(path).read()\n"
        "    except OSError: continue\n"
        "    if any(word in line for word in ('raylet', 'gcs_server', 'ray::', 'raybox_cluster')): print(path, line)"
    )
    assert inside(code) == ""


def test_signals_to_the_host(running_pool: RunningPool, inside: Inside) -> None:
    targets = [one.pid for one in processes_of(running_pool) if "ray" in command_line(one.pid)]
    assert targets
    for pid in targets:
        os.kill(pid, 0)
    code = (
        "import os\n"
        "own = {int(name) for name in os.listdir('/proc') if name.isdigit()}\n"
        f"for pid in set({targets!r}) - own:\n"
        "    try: os.kill(pid, 0)\n"
        "    except ProcessLookupError: continue\n"
        "    print(pid)"
    )
    assert inside(code) == ""


def test_environment(running_pool: RunningPool, inside: Inside) -> None:
    outside = Path(f"/proc/{pid_of(running_pool, NODE_AGENT)}/environ").read_text()
    assert "RAY_AUTH_TOKEN_PATH=" in outside
    assert "RAYBOX_RUN=" in outside
    code = (
        "import glob, os\n"
        "found = [open(path, 'rb').read() for path in glob.glob('/proc/[0-9]*/environ') if os.access(path, os.R_OK)]\n"
        "found.append(repr(dict(os.environ)).encode())\n"
        "print(len(found) > 1)\n"
        "for one in found:\n"
        "    for word in (b'RAY_', b'RAYBOX_RUN', b'auth_token', b'.token'):\n"
        "        if word in one: print(word, one)"
    )
    assert inside(code) == "True\n"


def test_inherited_descriptors(running_pool: RunningPool, session: Path, inside: Inside) -> None:
    """Ray's workers have their log files open, and what they start inherits those."""
    worker = next(
        one.pid for one in processes_of(running_pool) if command_line(one.pid).startswith("ray::SandboxActor")
    )
    held = {str(path.readlink()) for path in Path(f"/proc/{worker}/fd").iterdir()}
    assert any(str(session) in target for target in held)
    code = (
        "import os\n"
        "for name in os.listdir('/proc/self/fd'):\n"
        "    try: target = os.readlink('/proc/self/fd/' + name)\n"
        "    except OSError: continue\n"
        "    print(target.split(':')[0])"
    )
    allowed = ("pipe", "socket", "anon_inode", "/dev/null", "/dev/urandom", "/proc/", "/memfd")
    assert [line for line in inside(code).splitlines() if not line.startswith(allowed)] == []
    code = (
        "import os, socket\n"
        "for name in os.listdir('/proc/self/fd'):\n"
        "    try: found = socket.socket(fileno=os.dup(int(name)))\n"
        "    except OSError: continue\n"
        "    with found: print(found.family.name)"
    )
    assert set(inside(code).split()) <= {"AF_UNIX"}


@pytest.fixture
def logs(session: Path, running_pool: RunningPool) -> list[Path]:
    """Every file that Ray, Serve or the pool writes what happens to."""
    pool_logs = [
        cli_state.run_folder() / f"{running_pool.name}.log",
        *Path("/run/raybox").glob(f"{running_pool.name}/*"),
    ]
    return [path for path in [*(session / "logs").rglob("*"), *pool_logs] if path.is_file()]


def test_what_code_prints_is_in_no_log(logs: list[Path], inside: Inside) -> None:
    """Nor do drivers get it, who get what is in the logs of workers."""
    assert any(path.name.startswith("worker-") and path.stat().st_size for path in logs)
    assert any(b"gcs" in path.read_bytes() for path in logs)
    marker = f"printed-{os.getpid()}-"
    code = f"""
import os, subprocess, sys, ctypes
marker = {marker[::-1]!r}[::-1]
print(marker + 'print')
print(marker + 'stderr', file=sys.stderr)
os.write(1, (marker + 'fd 1\\n').encode())
os.write(2, (marker + 'fd 2\\n').encode())
subprocess.run(['echo', marker + 'child'])
subprocess.run('echo ' + marker + 'other > /proc/1/fd/1 || true', shell=True, stderr=subprocess.DEVNULL)
ctypes.CDLL(None).puts((marker + 'libc').encode())
ctypes.CDLL(None).fflush(None)
"""
    assert f"{marker}print" in inside(code)
    assert [path for path in logs if marker.encode() in path.read_bytes()] == []


def test_ray_is_not_installed_inside(inside: Inside) -> None:
    assert ray._raylet.__file__
    code = (
        "import importlib.util\n"
        "print([name for name in ('ray', 'raybox_cluster', 'raybox_actors') if importlib.util.find_spec(name)])\n"
    )
    assert inside(code) == "[]\n"
    assert inside(f"import os; print(os.path.exists({ray._raylet.__file__!r}))") == "False\n"
