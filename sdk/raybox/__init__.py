"""Client of raybox sandboxes.

    from raybox import Sandbox

    with Sandbox.create() as sandbox:
        print(sandbox.run_code("1 + 1").text)

`Sandbox` blocks, `AsyncSandbox` is its asyncio twin. Where the pool is: RAYBOX_URL; who asks: RAYBOX_API_KEY. In a
process of the pool's Ray cluster neither is needed. `connect` gives the pool itself, `connect_async` its asyncio twin.
"""

from types import FunctionType as _FunctionType

from ._batch import ExecItem, ItemResult
from ._command_handle_async import AsyncCommandHandle
from ._command_handle_sync import CommandHandle
from ._command_input_async import AsyncCommandInputHandle
from ._config import ApiParams, ConnectionConfig, __version__
from ._envd_models import (
    AsyncWriteData,
    AsyncWriteEntry,
    CommandExitException,
    CommandResult,
    EntryInfo,
    FilesystemEvent,
    FilesystemEventType,
    FileType,
    ProcessInfo,
    PtyOutput,
    PtySize,
    SandboxMetrics,
    Stderr,
    Stdout,
    Username,
    WriteData,
    WriteEntry,
    WriteInfo,
)
from ._errors import (
    AuthenticationException,
    FileNotFoundException,
    GangException,
    GitAuthException,
    GitUpstreamException,
    InvalidArgumentException,
    LimitException,
    NotEnoughSpaceException,
    NotFoundException,
    OutOfMemoryException,
    RateLimitException,
    RayboxError,
    SandboxException,
    SandboxNotFoundException,
    SandboxNotRunningException,
    SandboxUnreachableException,
    ServiceBusyException,
    TemplateException,
    TimeoutException,
)
from ._filesystem_async import AsyncFileStreamReader, AsyncWatchHandle
from ._filesystem_sync import FileStreamReader, WatchHandle
from ._git_models import GitBranches, GitFileStatus, GitResetMode, GitStatus
from ._git_sync import Git
from ._lease_async import AsyncLease
from ._lease_sync import Lease
from ._models import (
    Context,
    Execution,
    ExecutionError,
    Logs,
    MIMEType,
    OutputHandler,
    OutputMessage,
    Result,
    RunCodeLanguage,
    SandboxInfo,
    SandboxListOrder,
    SandboxOnResume,
    SandboxQuery,
    SandboxState,
)
from ._network import ALL_TRAFFIC, SandboxNetworkSelectorContext, SandboxNetworkTransformContext
from ._pool import CreateParams
from ._pool_async import AsyncPool, connect_async
from ._pool_models import MemberReport, PoolCapacity
from ._pool_sync import Pool, connect
from ._sandbox_async import AsyncSandbox, AsyncSandboxPaginator
from ._sandbox_sync import Sandbox, SandboxPaginator

__all__ = [
    "ALL_TRAFFIC",
    "ApiParams",
    "AsyncCommandHandle",
    "AsyncCommandInputHandle",
    "AsyncFileStreamReader",
    "AsyncLease",
    "AsyncPool",
    "AsyncSandbox",
    "AsyncSandboxPaginator",
    "AsyncWatchHandle",
    "AsyncWriteData",
    "AsyncWriteEntry",
    "AuthenticationException",
    "CommandExitException",
    "CommandHandle",
    "CommandResult",
    "ConnectionConfig",
    "Context",
    "CreateParams",
    "EntryInfo",
    "ExecItem",
    "Execution",
    "ExecutionError",
    "FileNotFoundException",
    "FileStreamReader",
    "FileType",
    "FilesystemEvent",
    "FilesystemEventType",
    "GangException",
    "Git",
    "GitAuthException",
    "GitBranches",
    "GitFileStatus",
    "GitResetMode",
    "GitStatus",
    "GitUpstreamException",
    "InvalidArgumentException",
    "ItemResult",
    "Lease",
    "LimitException",
    "Logs",
    "MIMEType",
    "MemberReport",
    "NotEnoughSpaceException",
    "NotFoundException",
    "OutOfMemoryException",
    "OutputHandler",
    "OutputMessage",
    "Pool",
    "PoolCapacity",
    "ProcessInfo",
    "PtyOutput",
    "PtySize",
    "RateLimitException",
    "RayboxError",
    "Result",
    "RunCodeLanguage",
    "Sandbox",
    "SandboxException",
    "SandboxInfo",
    "SandboxListOrder",
    "SandboxMetrics",
    "SandboxNetworkSelectorContext",
    "SandboxNetworkTransformContext",
    "SandboxNotFoundException",
    "SandboxNotRunningException",
    "SandboxOnResume",
    "SandboxPaginator",
    "SandboxQuery",
    "SandboxState",
    "SandboxUnreachableException",
    "ServiceBusyException",
    "Stderr",
    "Stdout",
    "TemplateException",
    "TimeoutException",
    "Username",
    "WatchHandle",
    "WriteData",
    "WriteEntry",
    "WriteInfo",
    "__version__",
    "connect",
    "connect_async",
]

# Tracebacks, reprs and pickles then say raybox.X, and go on to do so when a file is renamed.
for _name in __all__:
    if isinstance(_exported := globals()[_name], type | _FunctionType) and _exported.__module__.startswith("raybox."):
        _exported.__module__ = "raybox"
del _name, _exported, _FunctionType
