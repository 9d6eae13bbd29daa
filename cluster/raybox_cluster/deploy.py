"""Bringing a pool and its gateway up in the Ray cluster this process is connected to, and taking them down."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raybox_actors.config import NAMESPACE, PoolConfig
from raybox_actors.errors import InternalError
from raybox_cluster.cli_state import UserError
from raybox_cluster.config import UpOptions, option_name
from raybox_cluster.gateway.auth import ApiKey

#: What Serve and the actors need to start, at worst, on a small and busy machine.
START_LIMIT_S = 120.0
#: Serve's name for the deployment in each pool's application.
GATEWAY = "Gateway"
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Deployed:
    url: str
    started_serve: bool


@dataclass(frozen=True, slots=True)
class Running:
    """A pool that is up in the cluster. keys, gateways: of its gateway; None and 0 if there is none that answers."""

    config: PoolConfig
    keys: tuple[ApiKey, ...] | None = None
    gateways: int = 0


def application_name(pool: str) -> str:
    """Serve's name for the gateway of a pool."""
    return f"{pool}-gateway"


def join(address: str) -> str:
    """Connect to a running Ray cluster; returns its address. Raises UserError in a few seconds when there is none."""
    import ray

    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            # Ray itself would try for a minute.
            socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
        except OSError as error:
            raise UserError(f"no Ray answers at {address} ({error.strerror or error})") from None
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError:
        raise UserError(f"no Ray cluster was found at {address}") from None
    except Exception as error:
        raise UserError(f"Ray at {address} cannot be joined: {_one_line(error)}") from None
    return str(ray.get_runtime_context().gcs_address)


def find_running(name: str) -> Running | None:
    """The pool of this name in the cluster that this process has joined. Raises UserError if it does not answer."""
    from ray import serve

    from raybox_cluster.pool.adoption import ANSWER_LIMIT_S, running_config

    details = serve_details()
    try:
        config = running_config(name)
    except InternalError as error:
        raise UserError(str(error)) from None
    if details is None or application_name(name) not in details["applications"]:
        return None if config is None else Running(config)
    try:
        asked = serve.get_app_handle(application_name(name)).settings.remote()
        of_gateway, keys = asked.result(timeout_s=ANSWER_LIMIT_S)
    except Exception as error:  # a gateway that cannot be asked is replaced
        logging.getLogger(__name__).warning("the gateway of %s does not answer: %r", name, error)
        return None if config is None else Running(config)
    gateways = details["applications"][application_name(name)]["deployments"][GATEWAY]["target_num_replicas"]
    return Running(config or of_gateway, keys, gateways)


def adopted_config(running: Running, options: UpOptions) -> PoolConfig:
    """What the running pool becomes by these options. Raises UserError that names what cannot change while it runs."""
    from raybox_cluster.pool.adoption import CHANGEABLE, differences

    wanted = options.pool(running.config.secret)
    differ = differences(running.config, wanted)
    fixed = [f"{_option(name)} is {_shown(has)}, not {_shown(wants)}"
             for name, (has, wants) in differ.items() if name not in CHANGEABLE]  # fmt: skip
    if fixed:
        raise UserError(
            f"the pool {options.name} runs with other settings: {'; '.join(fixed)}; give the same, or end it first"
            f" with `raybox down --name {options.name}`"
        )
    return wanted


def _option(field: str) -> str:
    return option_name({"cpu_count": "cpu"}.get(field, field))


def _shown(value: object) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def deploy(
    options: UpOptions,
    config: PoolConfig,
    keys: tuple[ApiKey, ...],
    own_ray: bool,
    progress: Progress,
    running: Running | None = None,
) -> Deployed:
    """Start the pool and its gateway, side by side, and return when both answer.

    own_ray: this Ray is ours, so the gateway listens on the user's port by itself; otherwise it is reached through the
    cluster's Serve. running: this pool as it is there already; what differs of it is changed, and the rest left alone.
    Raises UserError with the reason; then nothing that was started here is left but, in a joined cluster, Serve.
    """
    from raybox_cluster.pool.adoption import end_manager
    from raybox_cluster.pool.up_down import ensure_pool

    started = time.monotonic()

    def say(what: str) -> None:
        progress(f"{what} ({time.monotonic() - started:.1f} s)")

    def pool() -> None:
        if running is not None and (running.config, running.keys) != (config, keys):
            end_manager(running.config, and_fronts=running.keys != keys)
        ensure_pool(config, timeout_s=START_LIMIT_S, keys=keys)
        say(f"pool ready, {config.warm} of {config.sandboxes} sandboxes warm")

    def gateway() -> Deployed:
        if running is not None and (running.keys, running.gateways) == (keys, options.gateways):
            application = application_name(config.name)
            deployed = Deployed(_wait_for_gateway(lambda: _serve_url(application), application), started_serve=False)
        else:
            deployed = _deploy_gateway(options, config, keys, own_ray, replacing=running is not None)
        say(f"gateway answers at {deployed.url}")
        return deployed

    details = None if own_ray else serve_details()
    if details is not None:  # before anything is started, so that what a failure takes down is ours
        _refuse_conflicts(details, config.name, adopting=running is not None)

    # Each is mostly waiting for Ray to start processes; a thread, not a process, because Ray's connection is ours.
    executor = concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="raybox-deploy")
    try:
        both = executor.submit(pool), executor.submit(gateway)
        for one in concurrent.futures.as_completed(both):
            one.result()
        return both[1].result()
    except BaseException as error:
        if not own_ray and running is None:  # a Ray of our own is stopped as a whole
            with contextlib.suppress(Exception):
                take_down(config, started_serve=details is None)
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        raise UserError(f"the pool could not start: {_one_line(error)}") from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def take_down(config: PoolConfig, started_serve: bool) -> None:
    """End the gateway, the pool and every sandbox in a joined cluster. Idempotent."""
    from ray import serve

    from raybox_cluster.pool.up_down import teardown_pool

    details = serve_details()
    others = set() if details is None else details["applications"].keys() - {application_name(config.name)}
    if details is not None and application_name(config.name) in details["applications"]:
        serve.delete(application_name(config.name))
    teardown_pool(config)
    if details is not None and started_serve and not others:
        serve.shutdown()


def take_down_own(config: PoolConfig) -> None:
    """End the pool and every sandbox of a Ray that is about to be stopped as a whole, so Serve needs no goodbye."""
    from raybox_cluster.pool.up_down import teardown_pool

    teardown_pool(config)


def _deploy_gateway(
    options: UpOptions, config: PoolConfig, keys: tuple[ApiKey, ...], own_ray: bool, replacing: bool
) -> Deployed:
    from ray import serve

    from raybox_cluster.serve_app import KEEP_ALIVE_S, Listener, application

    name = application_name(config.name)
    details = None if own_ray else serve_details()
    if details is None:
        serve.start(
            # No proxy: the gateway has a listener of its own, and a proxy is one more process to start.
            proxy_location="Disabled" if own_ray else "EveryNode",
            http_options={"host": options.host, "port": options.port or 8000, "keep_alive_timeout_s": KEEP_ALIVE_S},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
    listener = Listener(options.host, options.port) if own_ray else None
    target = serve.RunTarget(application(config, keys, listener, options.gateways), name=name, route_prefix="/")
    # Serve's own wait looks once a second; ours below looks all the time, but cannot tell the new one from the old.
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=replacing)
    own_url = f"http://{options.url_host}:{options.port}"
    url = _wait_for_gateway((lambda: own_url) if own_ray else (lambda: _serve_url(name)), name)
    return Deployed(url, started_serve=details is None)


def _refuse_conflicts(details: dict[str, Any], pool: str, adopting: bool) -> None:
    for name, application in details["applications"].items():
        if name == application_name(pool):
            if adopting:
                continue
            raise UserError(f"a pool called {pool} is already up in this cluster; choose another --name")
        if application.get("route_prefix") == "/":
            raise UserError(f"the Serve of this cluster already has an application at /: {name}")


def _wait_for_gateway(find_url: Callable[[], str | None], application: str) -> str:
    """The gateway's URL, once it answers there."""
    import httpx
    from ray import serve

    deadline = time.monotonic() + START_LIMIT_S
    look_at = time.monotonic() + 1.0
    with httpx.Client(timeout=5.0, trust_env=False) as client:
        while True:
            url = find_url()
            # Without a key: the gateway itself says 401, and Serve's proxy 404 or 503 until it knows of the gateway.
            with contextlib.suppress(httpx.TransportError):
                if url is not None and client.get(f"{url}/raybox/status").status_code == 401:
                    return url
            now = time.monotonic()
            if now > look_at:
                status = serve.status().applications.get(application)
                if status is not None and status.status.name in ("DEPLOY_FAILED", "UNHEALTHY"):
                    details = "; ".join(one.message for one in status.deployments.values()) or status.message
                    raise UserError(f"the gateway could not start: {_reason(details)}")
                look_at = now + 0.5
            if now > deadline:
                raise UserError(f"the gateway did not answer at {url} within {START_LIMIT_S:.0f} s")
            time.sleep(0.02)


def serve_details() -> dict[str, Any] | None:
    """What Serve says of itself, as its REST interface gives it; None when no Serve runs in this cluster."""
    # The public way to the same needs the dashboard, which a cluster may not have.
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else dict(client.get_serve_details())


def _serve_url(application: str) -> str | None:
    """Where a joined cluster's Serve takes HTTP for the application, None as long as it does not.

    Proxies, HAProxy, or with direct ingress the replica itself: Serve's target groups know.
    """
    details = serve_details() or {}
    host = str((details.get("http_options") or {}).get("host") or "0.0.0.0")  # noqa: S104  # compared, not bound
    for group in details.get("target_groups") or ():
        if str(group["protocol"]).upper().endswith("HTTP") and group.get("app_name", "") in ("", application):
            for target in group["targets"]:
                everywhere = host in ("0.0.0.0", "::")  # noqa: S104  # compared, not bound
                ip = target["ip"] if everywhere else host
                return f"http://[{ip}]:{target['port']}" if ":" in ip else f"http://{ip}:{target['port']}"
    return None


def _reason(message: str) -> str:
    """The last line of the innermost traceback in what Serve says of a failed deployment."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if line.split(":")[0].rpartition(".")[2].endswith(("Error", "Exception"))]
    return (errors or lines or ["no reason given"])[-1]


def _one_line(error: BaseException) -> str:
    return _reason(str(error)) if str(error).strip() else type(error).__name__
