"""`raybox up`: in the foreground, or the same in a process of its own session (`--detach`)."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

import click

from raybox_actors.isolation.capabilities import Finding, TokenFacts, judge, refusal, shortfalls, warnings
from raybox_actors.isolation.probes import NO_RAY, probe
from raybox_cluster import cli_processes, cli_state
from raybox_cluster.cli_state import PoolRecord, UserError
from raybox_cluster.config import UpOptions, default_run_dir
from raybox_cluster.gateway.auth import new_key

Progress = Callable[[str], None]
#: How often `up` looks whether its Ray lives.
RAY_CHECK_INTERVAL_S = 1.0


class Stop(BaseException):
    """SIGINT or SIGTERM arrived."""


def up(options: UpOptions, detach: bool) -> None:
    """The whole command. Raises UserError; prints progress to stderr and what to export to stdout.

    In the foreground it returns after Ctrl-C or SIGTERM, when everything it started is gone.
    """
    started = time.monotonic()

    def progress(line: str) -> None:
        click.echo(f"  {line}", err=True)

    def ready(record: PoolRecord) -> None:
        took = time.monotonic() - started
        click.echo(f"raybox is up at {record.url} ({took:.1f} s; {options.sandboxes} sandboxes)", err=True)
        click.echo(exports(record))

    if options.address is not None:
        _up_joined(options, detach, progress, ready)
    elif detach:
        ready(_up_detached(options, progress))
        click.echo(
            f"in the background; log: {_log_path(options.name)}; stop it with: {_down_command(options)}", err=True
        )
    else:
        _up_own(options, progress, ready)


def exports(record: PoolRecord) -> str:
    """Lines for a shell, `eval`-able as a whole: what the official SDKs and raybox's read from the environment."""
    lines = [
        "# for the official E2B SDKs",
        f"export E2B_API_KEY={record.api_key}",
        f"export E2B_API_URL={record.url}",
        f"export E2B_SANDBOX_URL={record.url}",
        "# for raybox",
        f"export RAYBOX_URL={record.url}",
        f"export RAYBOX_API_KEY={record.api_key}",
    ]
    if record.own_ray:
        lines += [
            "# for programs that join its Ray (uncomment)",
            f"# export RAY_ADDRESS={record.ray_address} RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={record.token_path}",
        ]
    return "\n".join(lines)


def _up_own(options: UpOptions, progress: Progress, ready: Callable[[PoolRecord], None]) -> None:
    """A Ray of our own, held by this process until it is told to stop. Must run in the main thread."""
    _catch_signals()
    with ExitStack() as cleanups:
        try:
            with cli_state.starting(options.name):
                refuse_second(options.name, progress)
                held, options = _reserve_port(options)
                _require_isolation(options, NO_RAY, progress)
                _require_network(options)
                _require_template(progress)
                record = _new_record(options)
                cleanups.callback(cli_state.remove, options.name)
                cli_state.write_private(Path(record.token_path), secrets.token_hex(32))
                cli_state.write(record)
            record = _start_own(options, record, progress, cleanups)
            held.close()
            cli_state.write(record)
            ready(record)
            _hold(record)
        except Stop:
            _ignore_signals()  # the way down is short; a second Ctrl-C must not leave half of it
            progress("stopping")
        except BaseException:
            _ignore_signals()
            raise


def _hold(record: PoolRecord) -> NoReturn:
    """Until a signal. Raises UserError when Ray has died under the pool."""
    from raybox_cluster import local_ray

    while (part := local_ray.died()) is None:
        time.sleep(RAY_CHECK_INTERVAL_S)
    raise UserError(f"Ray's {part} has died, and the pool {record.name} with it")


def _start_own(options: UpOptions, record: PoolRecord, progress: Progress, cleanups: ExitStack) -> PoolRecord:
    from raybox_cluster import local_ray

    clock = time.monotonic()
    os.environ[cli_processes.MARKER] = record.marker
    cleanups.callback(os.close, cli_processes.start_guard(record.marker, record.folder))
    local_ray.prepare_environment(Path(record.token_path))
    imports = threading.Thread(target=_import_ahead, name="raybox-imports")
    _import_ray()
    imports.start()  # half a second of imports while ray.init waits for its processes
    cleanups.callback(local_ray.stop, Path(record.folder))
    ray = local_ray.start(Path(record.folder), options.sandboxes * options.cpu_request)
    _catch_signals()  # ray.init puts its own in place
    imports.join()
    record = replace(record, ray_address=ray.address)
    cli_state.write(record)
    progress(f"Ray started ({time.monotonic() - clock:.1f} s)")

    from raybox_cluster.deploy import deploy, take_down_own

    config = options.pool(secrets.token_bytes(32))
    cleanups.callback(_quietly, lambda: take_down_own(config))
    deployed = deploy(options, config, options.keys(record.api_key), own_ray=True, progress=progress)
    return replace(record, url=deployed.url, ready=True)


def _up_joined(options: UpOptions, detach: bool, progress: Progress, ready: Callable[[PoolRecord], None]) -> None:
    """In a cluster that others started: the pool outlives this process if it is detached, or killed.

    One of this name that runs there is adopted: its sandboxes, ids and tokens stay valid, and so does its key, if it
    was started from this machine.
    """
    _catch_signals()
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    with ExitStack() as cleanups:
        try:
            with cli_state.starting(options.name):
                earlier = _earlier_joined(options.name, progress)
                _import_ray()
                from raybox_cluster import ray_access
                from raybox_cluster.deploy import adopted_config, deploy, find_running, join, take_down

                assert options.address is not None
                address = join(options.address)
                cleanups.callback(_shutdown_ray)
                _catch_signals()
                progress(f"joined the Ray cluster at {address}")
                earlier = _of_this_cluster(earlier, address)
                token = ray_access.token_facts(address)
                _require_isolation(options, token, progress, *ray_access.judge_serve(ray_access.serve_host()))
                running = find_running(options.name)
                if running is None:
                    config = options.pool(secrets.token_bytes(32))
                else:
                    config = adopted_config(running, options)
                    progress(f"a pool {options.name} is running there, and is adopted with its sandboxes")
                    if options.api_key is None and earlier is not None:
                        options = replace(options, api_key=earlier.api_key)
                record = replace(_new_record(options), own_ray=False, ray_address=address, folder="", token_path="")
                keys = options.keys(record.api_key)
                deployed = deploy(options, config, keys, own_ray=False, progress=progress, running=running)
                record = replace(
                    record,
                    url=deployed.url,
                    started_serve=deployed.started_serve or (earlier is not None and earlier.started_serve),
                    ready=True,
                    pid=0 if detach else record.pid,
                    pid_started=0 if detach else record.pid_started,
                )
                with ExitStack() as to_end:
                    to_end.callback(cli_state.remove, options.name)
                    to_end.callback(_quietly, lambda: take_down(config, record.started_serve))
                    cli_state.write(record)
                    kept = to_end.pop_all()
            if not detach:
                cleanups.push(kept)
            progress("the gateway is reached through this cluster's Serve, whose HTTP settings apply")
            ready(record)
            if detach:
                return
            while True:
                signal.pause()
        except Stop:
            _ignore_signals()
            progress("stopping")
        except BaseException:
            _ignore_signals()
            raise


def _up_detached(options: UpOptions, progress: Progress) -> PoolRecord:
    """Start `_up_own` in a session of its own; return its record when the pool answers. Raises UserError."""
    refuse_second(options.name, progress)
    log = _log_path(options.name)
    told, tell = os.pipe()
    with os.fdopen(told) as lines:
        try:
            with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as log_file:
                process = subprocess.Popen(
                    [sys.executable, "-m", "raybox_cluster.cli_up", str(tell)],
                    stdin=subprocess.PIPE,
                    stdout=log_file,
                    stderr=log_file,
                    pass_fds=[tell],
                    start_new_session=True,
                    cwd="/",
                )
        finally:
            os.close(tell)
        # By stdin, not by arguments, which everybody on the machine can read: there is a key in it.
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(options)).encode())
        process.stdin.close()
        try:
            return _follow(lines, process, progress, log)
        except BaseException:
            process.terminate()
            process.wait()
            raise


def _follow(lines: object, process: subprocess.Popen[bytes], progress: Progress, log: Path) -> PoolRecord:
    for line in lines:  # type: ignore[attr-defined]  # a text file
        said = json.loads(line)
        if "ready" in said:
            process.returncode = 0  # it lives on without us: subprocess must not warn that we never waited
            return PoolRecord(**said["ready"])
        if "failed" in said:
            process.wait()
            raise UserError(said["failed"])
        progress(said["progress"])
    process.wait()
    raise UserError(f"the pool's process ended while starting (exit code {process.returncode}); see {log}")


def _run_detached(tell: int) -> NoReturn:
    """What the detached process runs: options on stdin, one JSON object per line into descriptor `tell`."""
    os.set_inheritable(tell, False)  # the pool's processes must not keep the pipe open
    options = UpOptions(**json.load(sys.stdin))

    listening = True

    def say(**what: object) -> None:
        if listening:
            with contextlib.suppress(OSError):  # whoever started us may have gone; that is no reason to stop
                os.write(tell, json.dumps(what).encode() + b"\n")

    def ready(record: PoolRecord) -> None:
        nonlocal listening
        say(ready=asdict(record))
        listening = False
        os.close(tell)

    def progress(line: str) -> None:
        say(progress=line)
        click.echo(line, err=True)

    try:
        _up_own(options, progress, ready)
    except UserError as error:
        say(failed=str(error))
        click.echo(str(error), err=True)
        sys.exit(2)
    sys.exit(0)


def refuse_second(name: str, progress: Progress) -> None:
    """Raises UserError when a pool of this name is up; clears away what one that was killed left behind."""
    record = cli_state.read(name)
    if record is None:
        return
    if record.held or (not record.own_ray and _answers(record.url)):
        raise _already_up(record)
    from raybox_cluster.cli_down import clear_away

    progress(f"clearing away what an earlier {name} left behind")
    clear_away(record)


def _already_up(record: PoolRecord) -> UserError:
    state = f"already up at {record.url}" if record.ready else "being started"
    return UserError(f"the pool {record.name} is {state}; `raybox down --name {record.name}` stops it")


def _earlier_joined(name: str, progress: Progress) -> PoolRecord | None:
    """The record of a joined pool of this name that no process holds any more. Raises UserError as refuse_second."""
    record = cli_state.read(name)
    if record is None or record.own_ray or record.held:
        refuse_second(name, progress)
        return None
    return record


def _of_this_cluster(record: PoolRecord | None, address: str) -> PoolRecord | None:
    """Raises UserError for a pool that is up in another one: two of one name could not be told apart here."""
    if record is None or record.ray_address == address:
        return record
    if _answers(record.url):
        raise UserError(f"the pool {record.name} is already up in the Ray cluster at {record.ray_address}")
    return None


def _answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(f"{url}/health", timeout=3, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _new_record(options: UpOptions) -> PoolRecord:
    from raybox_cluster import local_ray

    own = options.address is None
    return PoolRecord(
        name=options.name,
        url=f"http://{options.url_host}:{options.port}",
        api_key=options.api_key or new_key(),
        ray_address="",
        own_ray=own,
        pid=os.getpid(),
        pid_started=cli_processes.started_ticks(os.getpid()),
        marker=secrets.token_hex(8),
        folder=str(local_ray.make_folder()) if own else "",
        token_path=str(cli_state.run_folder() / f"{options.name}.token"),
        log=str(_log_path(options.name)),
        started_at_s=time.time(),
    )


def _reserve_port(options: UpOptions) -> tuple[socket.socket, UpOptions]:
    """A socket that keeps the port for us while Ray starts; it does not listen, so the gateway can bind beside it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise UserError(f"host: {options.host} is not known here ({error.strerror})") from None
    held = socket.socket(family, kind, protocol)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind(address)
    except OSError as error:
        held.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {options.port} on {options.host} is taken; choose another with --port") from None
        raise UserError(f"cannot listen on {options.host}:{options.port}: {error.strerror}") from None
    return held, replace(options, port=held.getsockname()[1])


def _require_isolation(options: UpOptions, token: TokenFacts, progress: Progress, *further: Finding) -> None:
    """Raises UserError when this machine, or what `further` is about, falls short of what the options require."""
    findings = [*judge(probe(default_run_dir(), token)), *further]
    short = shortfalls(findings, options.require)
    if short:
        strict = " as strictly as required" if options.require == "strict" else ""
        raise UserError(f"this machine cannot isolate sandboxes{strict}: {refusal(short)}; see `raybox doctor`")
    for finding in warnings(findings):
        progress(f"warning: {finding.name}: {finding.detail} -> {finding.remedy}")


def _require_network(options: UpOptions) -> None:
    from raybox_actors.network.stack import egress_available

    if options.network == "egress" and (reason := egress_available()):
        raise UserError(f"--network egress: {reason}")


def _require_template(progress: Progress) -> None:
    from raybox_template.build import ensure
    from raybox_template.errors import TemplateError

    try:
        ensure(progress=progress)
    except TemplateError as error:
        raise UserError(f"the default template: {' '.join(str(error).split())[:400]}") from None


def _import_ray() -> None:
    import logging

    import ray  # noqa: F401  # for its effect

    # A filter, because Serve sets its logger's level itself when it starts.
    logging.getLogger("ray.serve").addFilter(lambda said: said.levelno >= logging.WARNING)


def _import_ahead() -> None:
    import raybox_cluster.deploy
    import raybox_cluster.pool.up_down
    import raybox_cluster.serve_app  # noqa: F401  # all for their effect


def _shutdown_ray() -> None:
    import ray

    ray.shutdown()


def _quietly(action: Callable[[], None]) -> None:
    """For ways out: whatever it says, what comes after it must still happen."""
    try:
        action()
    except Exception as error:
        click.echo(f"  while stopping: {type(error).__name__}: {error}", err=True)


def _catch_signals() -> None:
    def stop(_number: int, _frame: object) -> None:
        raise Stop

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _log_path(name: str) -> Path:
    return cli_state.run_folder() / f"{name}.log"


def _down_command(options: UpOptions) -> str:
    return "raybox down" if options.name == "raybox" else f"raybox down --name {options.name}"


if __name__ == "__main__":
    _run_detached(int(sys.argv[1]))
