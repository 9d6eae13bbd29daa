"""The gateway as a Ray Serve deployment, with an HTTP listener of its own.

Serve keeps one replica alive, replaces it when it dies and lets the application be reached through Serve's proxies.
On a Ray that `raybox up` started, requests do not come that way: each replica listens on the user's port itself.
Serve has this too ("direct ingress"), and it was measured first, on 2 cores, one keep-alive connection, Ray 2.60:

    GET of nothing, median       own listener 0.19 ms; direct ingress 0.51 ms, with RAY_SERVE_RUN_USER_CODE_IN_
                                 SEPARATE_THREAD=0 0.32 ms; Serve's HTTP proxy 4.3 ms
    ten chunks, streamed         0.38 ms; 0.78 ms and 0.37 ms; 4.0 ms
    answers again after SIGKILL  1.4-1.9 s; 62 s; 1.5-2.0 s
    of the replica

The 62 s decide it. Direct ingress binds the replica's port without SO_REUSEADDR, so that with the port pinned (range
[port, port + 1), RAY_SERVE_PORT_QUARANTINE_S=0) a replacement waits until the dead replica's connections leave
TIME_WAIT. It also needs a proxy process on the head node (60 MB and 1 s of start), and it takes from any client's
headers how long a request may last (x-request-timeout-seconds) and that its disconnect shall go unnoticed
(x-request-disconnect-disabled). The own listener uses public interfaces only, and needs no setting of the cluster's.

Both ways, an exception after the response began aborts the connection. When the client goes away, the application gets
`http.disconnect` from receive(); through Serve's proxy its task is also cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from dataclasses import dataclass
from typing import Any

import uvicorn
from ray import serve
from starlette.types import ASGIApp

from raybox_actors.config import PoolConfig
from raybox_cluster.deploy import GATEWAY
from raybox_cluster.gateway.auth import ApiKey

#: Clients keep idle connections for up to 300 s; closing them first shows up there as a reset now and then.
KEEP_ALIVE_S = 640
#: Serve counts an open stream as an ongoing request; beyond this many it queues.
MAX_ONGOING_REQUESTS = 10_000
#: The replica that is being replaced may hold the port for a moment: it hangs, or drains.
BIND_WAIT_S = 15.0
#: How long streams may go on when the replica is told to stop.
OWN_DRAIN_S = 3.0
CLUSTER_DRAIN_S = 600.0


@dataclass(frozen=True, slots=True)
class Listener:
    """Where a replica listens by itself."""

    host: str
    port: int


def bind(where: Listener) -> socket.socket:
    """A bound socket that does not listen yet. Raises OSError, EADDRINUSE when somebody listens there.

    SO_REUSEADDR, so that connections of a dead predecessor in TIME_WAIT do not matter, and not SO_REUSEPORT, with which
    two replicas, one of them hanging, would share the connections and nobody would notice a port that is taken.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound


async def listening(where: Listener) -> socket.socket:
    """A listening socket; waits for a predecessor to let go of the port. Raises OSError."""
    deadline = asyncio.get_running_loop().time() + BIND_WAIT_S
    while True:
        try:
            bound = bind(where)
            try:
                bound.listen(2048)
            except OSError:
                bound.close()
                raise
            return bound
        except OSError as error:
            if error.errno != errno.EADDRINUSE or asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(0.05)


@serve.deployment(name=GATEWAY)
@serve.ingress()
class Gateway:
    """One replica. `keys` have hashes; the keys themselves stay out of Ray."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, config: PoolConfig, keys: tuple[ApiKey, ...], listener: Listener | None
    ) -> None:
        from raybox_cluster.gateway.app import create_app
        from raybox_cluster.gateway.auth import ApiKeys
        from raybox_cluster.pool.backend_ray import RayBackend

        self.config, self.keys = config, keys
        self.gateway: ASGIApp = create_app(
            await RayBackend(config).start(),
            ApiKeys(keys),
            max_timeout_s=config.max_timeout_s,
            max_wait_s=config.max_admission_wait_s,
            open_run_code=config.run_code_access == "open",
        )
        self.serving: asyncio.Task[None] | None = None
        if listener is not None:
            bound = await listening(listener)
            self.server = uvicorn.Server(
                uvicorn.Config(
                    self.gateway,
                    lifespan="off",
                    access_log=False,
                    server_header=False,  # servers inside say for themselves what they are
                    log_config=None,
                    timeout_keep_alive=KEEP_ALIVE_S,
                    timeout_graceful_shutdown=int(OWN_DRAIN_S),
                )
            )
            # Serve runs user code on one loop, in a thread that is not the main one: no signal handlers get installed.
            self.serving = asyncio.get_running_loop().create_task(self.server.serve(sockets=[bound]))

    async def settings(self) -> tuple[PoolConfig, tuple[ApiKey, ...]]:
        """What it was started with, by a Serve handle."""
        return self.config, self.keys

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self.gateway

    async def check_health(self) -> None:
        """Called by Serve, which replaces the replica when this raises."""
        if self.serving is not None and self.serving.done():
            raise RuntimeError("the listener has stopped")

    async def __del__(self) -> None:
        """Called once by Serve before it stops the replica: streams may end, for a while."""
        if self.serving is not None:
            self.server.should_exit = True
            with contextlib.suppress(Exception):
                await self.serving


def application(
    config: PoolConfig, keys: tuple[ApiKey, ...], listener: Listener | None = None, replicas: int = 1
) -> Any:
    """The Serve application of one pool. `listener` None: reachable through Serve's proxies only; with one, as only one
    process can listen there, there is one replica."""
    return Gateway.options(  # type: ignore[attr-defined]  # the decorators of Serve are not typed
        num_replicas=1 if listener is not None else replicas,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        # A dead replica is noticed by the first check after its death, and its replacement needs 1 s more.
        health_check_period_s=1.0,
        health_check_timeout_s=30.0,
        graceful_shutdown_timeout_s=OWN_DRAIN_S + 2.0 if listener is not None else CLUSTER_DRAIN_S,
        graceful_shutdown_wait_loop_s=0.2,
        ray_actor_options={"num_cpus": 0},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    ).bind(config, keys, listener)
