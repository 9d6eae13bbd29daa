"""NodeAgent: one Ray actor per node that hosts sandboxes. It owns the zygote and sweeps orphans.

No sandbox depends on it while it runs: kernels outlive the zygote, and a restarted agent brings up a new one at the
same address. Only new kernels wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from raybox_actors.agent.helpers import write_helpers
from raybox_actors.config import LanguageKernel, NodeFacts, PoolConfig
from raybox_actors.errors import InternalError, NodeFallsShort
from raybox_actors.isolation.capabilities import judge, refusal, shortfalls
from raybox_actors.isolation.cgroup import remove_pool, this_machine
from raybox_actors.isolation.layers import layers_failure
from raybox_actors.isolation.leaks import LeakSweeper
from raybox_actors.isolation.orphans import adopt_orphans, has_children_besides, reap_sandboxed
from raybox_actors.isolation.policy import SKELETONS, WallsPolicy
from raybox_actors.isolation.probes import probe, token_of_ray
from raybox_actors.isolation.walls import write_skeleton
from raybox_actors.kernels.zygote_client import wait_readable
from raybox_actors.network.egress import egress_available
from raybox_actors.network.rules import RESOLVER_ADDRESS
from raybox_actors.node_folder import NodeFolder
from raybox_actors.zygote_process import ZygoteProcess, spawn_zygote
from raybox_template.build import ensure, resources_of
from raybox_template.languages import find_runtimes

logger = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 10.0
#: At the end it looks until nothing is left, but no longer than this.
STOP_LOOKS, STOP_PAUSE_S = 20, 0.1
#: Kernels whose zygote died are ours to reap, and whoever destroys their sandbox waits for that.
REAP_INTERVAL_S = 0.5
#: A zygote that dies at once, again and again, is tried this many times before `start` and `facts` report it.
RESTART_LIMIT = 5
RETRY_DELAY_S = 0.5


def require_node(config: PoolConfig) -> None:
    """Raises NodeFallsShort, with one line, when this node must not host sandboxes of such a pool. Takes 0.1 s."""
    short = shortfalls(judge(probe(config.run_dir, token_of_ray())), config.require)
    if short:
        raise NodeFallsShort(f"this node falls short of what the pool requires ({config.require}): {refusal(short)}")


class NodeAgent:
    """Plain class of the actor; whoever creates it wraps it with ray.remote. All methods are async and idempotent."""

    def __init__(self, config: PoolConfig, node_id: str) -> None:
        self._config = config
        self._folder = NodeFolder(Path(config.run_dir) / config.name / node_id[:12])
        self._zygote: ZygoteProcess | None = None
        self._facts: NodeFacts | None = None
        self._ready = asyncio.Event()
        self._starting: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self._stopping = False
        self._cgroups = this_machine()
        self._leaks = LeakSweeper(config.name, self._folder.path, self._cgroups)

    async def start(self) -> NodeFacts:
        """Return when the zygote is ready. Builds the template first if this node does not have it (about 20 s).

        Raises InternalError with the reason when the zygote cannot be had.
        """
        if self._starting is None or (self._starting.done() and not self._stopping):
            self._starting = asyncio.create_task(self._run())
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait({ready, self._starting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if self._facts is None or not self._ready.is_set():
            if isinstance(self._failure, NodeFallsShort):
                raise InternalError(str(self._failure))
            raise InternalError(f"this node's zygote cannot be started: {self._failure}")
        return self._facts

    async def facts(self) -> NodeFacts:
        """What the sandbox actors of this node need to know; waits for the zygote."""
        return await self.start()

    @property
    def orphans_swept(self) -> int:
        """Processes that dead actors left, found and killed since the start; should stay zero."""
        return self._leaks.counts["processes"]

    async def ping(self) -> dict[str, int | bool]:
        """Also `leaked_<kind>`: how much was found left of dead sandboxes since the start; zeros, if all is well."""
        ready = self._zygote is not None and self._zygote.alive and self._ready.is_set()
        zygote_pid = self._zygote.pid if self._zygote is not None else 0
        return {
            "pid": os.getpid(),
            "zygote_pid": zygote_pid,
            "zygote_ready": ready,
            "orphans_swept": self.orphans_swept,
            **{f"leaked_{kind}": count for kind, count in self._leaks.counts.items()},
        }

    async def _run(self) -> None:
        """Keep a zygote running until `stop`; sweep and reap now and then."""
        failures = 0
        try:
            template, _ = await asyncio.gather(
                asyncio.to_thread(ensure, self._config.template), asyncio.to_thread(require_node, self._config)
            )
            await asyncio.to_thread(self._folder.open)
            skeleton = self._folder.path / SKELETONS[self._config.network]
            nameserver = str(RESOLVER_ADDRESS) if self._config.network == "egress" else ""
            await asyncio.to_thread(write_skeleton, skeleton, WallsPolicy(nameserver=nameserver))
            await asyncio.to_thread(write_helpers, skeleton, str(template.python))
            address = str(self._folder.path / "zygote.sock")
            runtimes = await asyncio.to_thread(find_runtimes)
            folders = [*template.prefixes, *(folder for runtime in runtimes.values() for folder in runtime.folders)]
            languages = {name: LanguageKernel(one.command, one.protocol) for name, one in runtimes.items()}
            read_only = tuple(map(str, folders))
            if failure := await asyncio.to_thread(layers_failure):
                logger.warning("sandboxes have read-only system folders: no layers on this machine: %s", failure)
            no_network = egress_available() if self._config.network == "egress" else None
            self._facts = NodeFacts(
                address,
                str(template.python),
                read_only,
                str(skeleton),
                not failure,
                resources_of(template),
                no_network or "",
                languages,
            )
            adopt_orphans()
            self._sweep()
            while not self._stopping and failures < RESTART_LIMIT:
                try:
                    await self._keep_zygote(str(template.python), address)
                    failures = 0
                except (InternalError, OSError) as error:
                    failures, self._failure = failures + 1, error
                    logger.warning("the zygote did not start: %s", error)
                    await asyncio.sleep(failures * RETRY_DELAY_S)
        except NodeFallsShort as error:
            logger.warning("%s", error)
            self._failure = error
        except Exception as error:
            logger.exception("node agent")
            self._failure = error

    async def _keep_zygote(self, python: str, address: str) -> None:
        """One zygote from its start to its end. Raises InternalError or OSError if it never was ready."""
        # Spawned from this thread, the actor's loop, which lives as long as the actor.
        zygote = self._zygote = spawn_zygote(python, address, self._folder.path / "zygote.log")
        try:
            await asyncio.to_thread(zygote.wait_until_ready)
            self._ready.set()
            await self._watch(zygote)
        finally:
            self._ready.clear()
            zygote.stop()

    async def _watch(self, zygote: ZygoteProcess) -> None:
        """Return when it has ended."""
        pidfd = os.pidfd_open(zygote.pid)
        ended = asyncio.create_task(wait_readable(pidfd))
        loop = asyncio.get_running_loop()
        next_sweep_s = loop.time()
        try:
            while not ended.done():
                if loop.time() >= next_sweep_s:
                    self._sweep()
                    next_sweep_s = loop.time() + SWEEP_INTERVAL_S
                await asyncio.wait({ended}, timeout=REAP_INTERVAL_S)
                if has_children_besides(zygote.pid):
                    reap_sandboxed()
        finally:
            ended.cancel()
            await asyncio.wait({ended})
            os.close(pidfd)

    def _sweep(self) -> None:
        """Never raises: sandboxes need the zygote more than they need this."""
        assert self._facts is not None
        own = self._zygote.pid if self._zygote is not None and self._zygote.alive else None
        try:
            found = self._leaks.sweep(self._facts.zygote_address, own)
        except OSError:
            logger.exception("sweep")
            return
        for leak in found:
            logger.warning("left of a dead sandbox: %s: %s", leak.kind, leak.what)

    async def stop(self) -> None:
        """End the zygote and remove what this agent made on the node."""
        self._stopping = True
        if self._zygote is not None and self._zygote.alive:
            self._zygote.process.kill()  # and no more: whoever waits for it cleans up
        if self._starting is not None:
            await asyncio.wait({self._starting}, timeout=5)
        for _ in range(STOP_LOOKS):  # what actors left that were killed a moment ago
            if self._facts is not None:
                self._sweep()
            if self._cgroups is None or remove_pool(self._cgroups, self._config.name) or self._folder.siblings():
                break
            await asyncio.sleep(STOP_PAUSE_S)
        await asyncio.to_thread(self._folder.close)
