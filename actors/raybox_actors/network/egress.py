"""Giving sandboxes a way out: a user-mode stack, rules in the sandbox's own network namespace, and a resolver.

docs/decisions/network.md says why it is built like this, and what it does not protect from.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TypeVar

from raybox_actors.errors import InternalError
from raybox_actors.network import netlink
from raybox_actors.network.resolver import Resolver, listening_sockets, node_servers
from raybox_actors.network.rules import (
    DEFAULT_DENIED,
    SANDBOX_ADDRESS,
    STACK_GATEWAY,
    STACK_NETWORK,
    NetworkPolicy,
    NetworkRequest,
    always_denied,
    grant,
    policy_of,
    ruleset,
)
from raybox_actors.network.stack import LINK, LINK_MTU_BYTES, Birthplace, Stack, egress_available

__all__ = ["Egress", "EgressHost", "EgressOptions", "egress_available"]

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

#: A stack that died under a sandbox is started anew, so often.
RESTARTS = 3


@dataclass(frozen=True, slots=True)
class EgressOptions:
    """What a pool says of its sandboxes' network."""

    denied: tuple[str, ...] = DEFAULT_DENIED  #: as rules.check_denied returns it
    dns: tuple[str, ...] = ()  #: IPv4 addresses of name servers; empty: the node's own
    outer_namespace: str | None = None  #: path of the network namespace to go out from; None: this process's


class EgressHost:
    """What the sandboxes of one slot, one after the other, need to have a network. Used on one loop (stack.py)."""

    def __init__(self, slot: int, options: EgressOptions) -> None:
        self.options = options
        self.birthplace = Birthplace(slot, options.outer_namespace)

    async def attach(self, first_pid: int, request: NetworkRequest | None = None) -> Egress:
        """Give the network namespace of this process a way out under the rules of `request` (None: the internet).

        About 30 ms, and nothing ever gets out that the rules do not allow. Raises InternalError, with the reason where
        this node cannot do it; then, and on cancellation, nothing is left.
        """
        await self.birthplace.start()
        try:
            egress = Egress(self, os.open(f"/proc/{first_pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise InternalError(f"the sandbox has gone: {error}") from error
        try:
            await egress._start(request or NetworkRequest())
        except BaseException as error:
            await egress.close()
            if isinstance(error, OSError):
                raise InternalError(f"the sandbox's network could not be made: {error}") from error
            raise
        return egress

    async def policy(self, request: NetworkRequest) -> NetworkPolicy:
        """With what is always denied, as the node is now."""
        node = await netlink.in_namespace(self.birthplace.outer, netlink.node_networks)
        return policy_of(request, always_denied(self.options.denied, *node))

    async def open_socket(self) -> socket.socket:
        """A UDP socket of the outer namespace."""
        if self.options.outer_namespace is None:
            return _udp_socket()
        return await netlink.in_namespace(self.birthplace.outer, _udp_socket, socket.socket.close)

    def close(self) -> None:
        """Release what `attach` made for all. Sandboxes that are attached keep their network. Idempotent."""
        self.birthplace.close()


class Egress:
    """The network of one sandbox. Made by `EgressHost.attach`; ended by `close`."""

    def __init__(self, host: EgressHost, namespace: int) -> None:
        """namespace: descriptor of the sandbox's network namespace; ours from now on."""
        self.request = NetworkRequest()
        self._host, self._namespace = host, namespace
        self._policy = NetworkPolicy()
        self._stack: Stack | None = None
        self._resolver: Resolver | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()  #: of changes to the rules

    @property
    def stack_pid(self) -> int | None:
        return self._stack.pid if self._stack is not None else None

    async def _inside(self, work: Callable[[], Result]) -> Result:
        return await netlink.in_namespace(self._namespace, work)

    async def _start(self, request: NetworkRequest) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._set_rules(request))
                group.create_task(self._plug_in())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        sockets = await netlink.in_namespace(self._namespace, listening_sockets, _close_all)
        servers = self._host.options.dns or node_servers()
        self._resolver = Resolver(sockets, servers, self._policy, self._host.open_socket, self._grant)
        await self._inside(_configure)  # the rules are there
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _plug_in(self) -> None:
        self._stack = await self._host.birthplace.start_stack(self._namespace)

    async def apply(self, request: NetworkRequest) -> None:
        """Replace the rules at once; connections that they deny are cut when this returns. About 20 ms. Raises
        InternalError, and then the rules are those of before."""
        async with self._turn:
            known = await self._set_rules(request)
            policy = self._policy
            cut = await self._inside(lambda: netlink.cut_connections(lambda peer: policy.permits(peer, known)))
        if cut:
            logger.info("%d connections ended with a change of network rules", cut)

    async def _set_rules(self, request: NetworkRequest) -> frozenset[IPv4Address]:
        """Returns the addresses that are open because of a name."""
        policy = await self._host.policy(request)
        known = frozenset(self._resolver.remembered(policy)) if self._resolver is not None else frozenset()
        await self._inside(lambda: netlink.run_nft(ruleset(policy, known)))
        self.request, self._policy = request, policy
        if self._resolver is not None:
            self._resolver.policy = policy
        return known

    async def _grant(self, name: str, addresses: Sequence[IPv4Address]) -> None:
        async with self._turn:
            if self._policy.domains and self._policy.permits_name(name):
                await self._inside(lambda: netlink.run_nft(grant(addresses)))

    async def _watch(self) -> None:
        """A stack that dies takes its connections with it, and no more."""
        for restarts_left in range(RESTARTS, -1, -1):
            assert self._stack is not None
            await self._stack.ended()
            logger.error("a network stack ended by itself: %s; restarts left: %d", self._stack.said(), restarts_left)
            if not restarts_left:
                return
            await self._stack.close()
            try:
                await self._plug_in()
                await self._inside(_configure)
            except (InternalError, OSError) as error:
                logger.error("a sandbox has lost its network: %s", error)
                return

    async def close(self) -> None:
        """End the stack and the resolver; the rules go with the namespace. About 20 ms. Idempotent."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait({self._watcher})
            self._watcher = None
        if self._resolver is not None:
            await self._resolver.close()
        if self._stack is not None:
            await self._stack.close()
        if self._namespace >= 0:
            os.close(self._namespace)
            self._namespace = -1


def _close_all(sockets: tuple[socket.socket, ...]) -> None:
    for sock in sockets:
        sock.close()


def _udp_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _configure() -> None:
    netlink.configure_link(LINK, SANDBOX_ADDRESS, STACK_NETWORK.prefixlen, STACK_GATEWAY, LINK_MTU_BYTES)
