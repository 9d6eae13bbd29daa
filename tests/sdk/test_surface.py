"""What the package shows: exported names, twins, and the E2B SDK's signatures."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import e2b
import pytest

import raybox
from raybox import (
    AsyncLease,
    AsyncPool,
    AsyncSandbox,
    AsyncSandboxPaginator,
    CreateParams,
    Lease,
    Pool,
    Sandbox,
    SandboxPaginator,
)
from raybox._config import ApiParams

# It has no type hints that a checker could read.
official = importlib.import_module("e2b_code_interpreter")

#: What the E2B SDK's sandbox has and ours has not.
MISSING = {
    "beta_pause": "pausing is not there yet",
    "create_snapshot": "snapshots are not there yet",
    "default_mcp_template": "MCP servers are not there yet",
    "delete_snapshot": "snapshots are not there yet",
    "fork": "forks are not there yet",
    "get_mcp_token": "MCP servers are not there yet",
    "get_mcp_url": "MCP servers are not there yet",
    "list_snapshots": "snapshots are not there yet",
    "mcp_port": "MCP servers are not there yet",
    "pause": "pausing is not there yet",
}

#: Parts of a sandbox: our class and the module and class of the E2B SDK.
PARTS = [
    ("_filesystem", "Filesystem", "filesystem.filesystem"),
    ("_commands", "Commands", "commands.command"),
    ("_pty", "Pty", "commands.pty"),
    ("_git", "Git", "git"),
]

#: What is different between our two colours, and between theirs, with the reason.
COLOURED = {
    ("Commands", "connect"): "asyncio: events go to callbacks while others work",
    ("Commands", "stream_input"): "asyncio: a handle to write to, not an iterable to read from",
    ("Filesystem", "watch_dir"): "asyncio: events come by themselves, and are not asked for",
    ("Pty", "connect"): "asyncio: output goes to a callback",
    ("Pty", "create"): "asyncio: output goes to a callback",
    ("Pty", "stream_input"): "asyncio: a handle to write to, not an iterable to read from",
}

HANDLES = ["CommandHandle", "WatchHandle", "AsyncCommandHandle", "AsyncWatchHandle", "AsyncCommandInputHandle"]

METHODS = [
    "download_url",
    "get_metrics",
    "update_network",
    "upload_url",
    "create",
    "connect",
    "list",
    "get_info",
    "kill",
    "set_timeout",
    "is_running",
    "get_host",
    "run_code",
    "create_code_context",
    "list_code_contexts",
    "restart_code_context",
    "remove_code_context",
]

VALUES = [
    "CommandExitException",
    "CommandResult",
    "Context",
    "EntryInfo",
    "Execution",
    "ExecutionError",
    "FilesystemEvent",
    "GitBranches",
    "GitFileStatus",
    "GitStatus",
    "Logs",
    "OutputMessage",
    "ProcessInfo",
    "PtySize",
    "Result",
    "SandboxInfo",
    "SandboxMetrics",
    "SandboxPaginator",
    "SandboxQuery",
    "WriteInfo",
]

#: Parameters that only we have, with the reason.
OURS = {
    ("create", "wait_s"): "the pool's lines; comes last",
    ("Execution", "timings_ms"): "measured by the client; comes last",
    ("Execution", "lost_events"): "of a replay; comes last",
    ("create", "locality"): "of a Ray cluster; comes last",
    ("run_code", "execution_id"): "runs at most once; comes last",
    ("run_code", "detach"): "outlives the call; comes last",
}
OUR_OPTIONS = {"transport", "pool"}  #: the way over Ray
#: What `**` parameters are called is nobody's business.
STARRED = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def test_exported_names_are_sorted_and_say_raybox() -> None:
    assert raybox.__all__ == sorted(raybox.__all__)
    public = {name for name in vars(raybox) if not name.startswith("_") and not inspect.ismodule(vars(raybox)[name])}
    assert public | {"__version__"} == set(raybox.__all__)
    for name in raybox.__all__:
        exported = getattr(raybox, name)
        if isinstance(exported, type) and exported.__module__ != "builtins":
            assert (exported.__module__, exported.__qualname__) == ("raybox", name)


def test_every_error_is_exported() -> None:
    tree = [raybox.RayboxError]
    for error in tree:
        tree += error.__subclasses__()
    assert {error.__name__ for error in tree} <= set(raybox.__all__)


def test_version_is_that_of_the_distribution() -> None:
    assert raybox.__version__ == importlib.metadata.version("raybox")


HEAVY = {"anyio", "e2b", "httpx", "numpy", "pandas", "pydantic", "ray"}


def test_import_is_light() -> None:
    program = "import sys, raybox; print(*{name.split('.')[0] for name in sys.modules})"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "raybox" in result.stdout.split()
    assert HEAVY.isdisjoint(result.stdout.split())


def surface(cls: type) -> dict[str, tuple[list[tuple[str, Any, Any]], str | None]]:
    found = {}
    for name in dir(cls):
        member = getattr(cls, name)
        plain = name.replace("__aenter__", "__enter__").replace("__aexit__", "__exit__")
        if callable(member) and (
            not name.startswith("_") or name in ("__aenter__", "__aexit__", "__enter__", "__exit__")
        ):
            parameters = inspect.signature(member).parameters.values()
            found[plain] = ([(p.name, p.kind, p.default) for p in parameters], member.__doc__)
        elif isinstance(member, property):
            found[plain] = ([], member.__doc__)
    return found


@pytest.mark.parametrize(
    ("one", "other"),
    [(Sandbox, AsyncSandbox), (SandboxPaginator, AsyncSandboxPaginator), (Pool, AsyncPool), (Lease, AsyncLease)],
)
def test_twins(one: type, other: type) -> None:
    assert surface(one) == surface(other)


def test_public_methods_are_documented() -> None:
    for cls in (Sandbox, Pool, Lease):
        assert [name for name, (_, doc) in surface(cls).items() if not doc and not name.startswith("__")] == []


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(Sandbox, official.Sandbox), (AsyncSandbox, official.AsyncSandbox)],
    ids=["sync", "async"],
)
def test_method_has_the_signature_of_the_e2b_sdk(ours: type, theirs: type, name: str) -> None:
    check_signatures(name, getattr(ours, name), getattr(theirs, name))
    assert isinstance(inspect.getattr_static(ours, name), classmethod) == isinstance(
        inspect.getattr_static(theirs, name), classmethod
    )


@pytest.mark.parametrize("name", VALUES)
def test_value_has_the_signature_of_the_e2b_sdk(name: str) -> None:
    theirs = getattr(official, name, None) or getattr(e2b, name)
    check_signatures(name, getattr(raybox, name), theirs)


@pytest.mark.parametrize("colour", ["Sandbox", "AsyncSandbox"])
@pytest.mark.parametrize(
    "name",
    [
        "_connect_by_id",
        "_kill_by_id",
        "_set_timeout_by_id",
        "_get_info_by_id",
        "_get_metrics_by_id",
        "_update_network_by_id",
    ],
)
def test_class_level_method_has_the_signature_of_the_e2b_sdk(colour: str, name: str) -> None:
    theirs = {
        "_connect_by_id": "_cls_connect_sandbox",
        "_kill_by_id": "_cls_kill",
        "_set_timeout_by_id": "_cls_set_timeout",
        "_get_info_by_id": "_cls_get_info",
        "_get_metrics_by_id": "_cls_get_metrics",
        "_update_network_by_id": "_cls_update_network",
    }[name]
    check_signatures(name, getattr(getattr(raybox, colour), name), getattr(getattr(official, colour), theirs))


def of_colour(module: str, name: str, colour: str) -> type:
    found: type = getattr(importlib.import_module(f"raybox.{module}_{colour}"), name)
    return found


@pytest.mark.parametrize(("module", "name", "_"), PARTS)
def test_twins_of_parts(module: str, name: str, _: str) -> None:
    blocking, asynchronous = (surface(of_colour(module, name, colour)) for colour in ("sync", "async"))
    assert list(blocking) == list(asynchronous)
    for method, described in blocking.items():
        if (name, method) in COLOURED:
            assert described[0] != asynchronous[method][0], "no difference any more"
        else:
            assert described == asynchronous[method], method
        assert method.startswith("__") or described[1]


def test_what_is_different_is_different_in_the_e2b_sdk_too() -> None:
    for _, name, place in PARTS:
        blocking, asynchronous = (
            surface(getattr(importlib.import_module(f"e2b.sandbox_{colour}.{place}"), name))
            for colour in ("sync", "async")
        )
        different = {method for method in blocking if repr(blocking[method][0]) != repr(asynchronous[method][0])}
        assert different == {method for part, method in COLOURED if part == name}


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize(("module", "name", "place"), PARTS)
def test_part_has_the_methods_of_the_e2b_sdk(module: str, name: str, place: str, colour: str) -> None:
    ours = of_colour(module, name, colour)
    theirs = getattr(importlib.import_module(f"e2b.sandbox_{colour}.{place}"), name)
    methods = {method for method in vars(theirs) if not method.startswith("_")}
    assert {method for method in vars(ours) if not method.startswith("_")} == methods
    for method in methods:
        check_signatures(method, getattr(ours, method), getattr(theirs, method))
        assert inspect.iscoroutinefunction(getattr(ours, method)) == inspect.iscoroutinefunction(
            getattr(theirs, method)
        )


@pytest.mark.parametrize("name", HANDLES)
def test_handle_has_the_methods_of_the_e2b_sdk(name: str) -> None:
    ours, theirs = getattr(raybox, name), getattr(e2b, name)
    members = {member for member in vars(theirs) if not member.startswith("_") or member in ("__iter__", "__aenter__")}
    assert members <= set(vars(ours))
    for member in members:
        if callable(getattr(theirs, member)):
            check_signatures(member, getattr(ours, member), getattr(theirs, member))
            assert inspect.iscoroutinefunction(getattr(ours, member)) == inspect.iscoroutinefunction(
                getattr(theirs, member)
            )


@pytest.mark.parametrize("colour", ["Sandbox", "AsyncSandbox"])
def test_nothing_of_the_e2b_sdk_is_missing_unnoticed(colour: str) -> None:
    theirs = {name for name in dir(getattr(official, colour)) if not name.startswith("_")}
    ours = {name for name in dir(getattr(raybox, colour)) if not name.startswith("_")}
    assert theirs - ours == set(MISSING)


def check_signatures(name: str, ours: Callable[..., Any], theirs: Callable[..., Any]) -> None:
    def listed(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
        return [
            (parameter.name, parameter.kind, parameter.default)
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind not in STARRED and (name, parameter.name) not in OURS
        ]

    def plain(parameters: list[tuple[str, Any, Any]]) -> list[tuple[str, Any, str]]:
        return [(parameter, kind, repr(default)) for parameter, kind, default in parameters]

    assert plain(listed(ours)) == plain(listed(theirs))


def test_every_per_call_option_of_the_e2b_sdk_is_accepted() -> None:
    assert set(ApiParams.__annotations__) == set(e2b.ApiParams.__annotations__) | OUR_OPTIONS


def test_a_pool_creates_with_what_a_sandbox_is_created_with() -> None:
    of_sandbox = inspect.signature(Sandbox.create).parameters.keys() - {"opts", "logger", "template"}
    assert set(CreateParams.__annotations__) == of_sandbox | set(ApiParams.__annotations__)


def test_the_ways_to_a_pool_are_twins() -> None:
    blocking, asynchronous = inspect.signature(raybox.connect), inspect.signature(raybox.connect_async)
    assert blocking.parameters == asynchronous.parameters
    assert raybox.connect.__doc__ == raybox.connect_async.__doc__


def test_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="'api_token'"):
        Sandbox.kill("x", api_token="y")  # type: ignore[call-arg]  # that is the point
