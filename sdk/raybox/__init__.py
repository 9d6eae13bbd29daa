"""Client of raybox sandboxes.

    from raybox import Sandbox

    with Sandbox.create() as sandbox:
        print(sandbox.run_code("1 + 1").text)

`Sandbox` blocks, `AsyncSandbox` is its asyncio twin. Where the pool is: RAYBOX_URL; who asks: RAYBOX_API_KEY.
"""

from ._config import ApiParams, ConnectionConfig, __version__
from ._errors import (
    AuthenticationException,
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
from ._requests import ALL_TRAFFIC, SandboxNetworkSelectorContext, SandboxNetworkTransformContext
from ._sandbox_async import AsyncSandbox, AsyncSandboxPaginator
from ._sandbox_sync import Sandbox, SandboxPaginator

__all__ = [
    "ALL_TRAFFIC",
    "ApiParams",
    "AsyncSandbox",
    "AsyncSandboxPaginator",
    "AuthenticationException",
    "ConnectionConfig",
    "Context",
    "Execution",
    "ExecutionError",
    "InvalidArgumentException",
    "LimitException",
    "Logs",
    "MIMEType",
    "NotEnoughSpaceException",
    "NotFoundException",
    "OutOfMemoryException",
    "OutputHandler",
    "OutputMessage",
    "RateLimitException",
    "RayboxError",
    "Result",
    "RunCodeLanguage",
    "Sandbox",
    "SandboxException",
    "SandboxInfo",
    "SandboxListOrder",
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
    "TemplateException",
    "TimeoutException",
    "__version__",
]

# Tracebacks, reprs and pickles then say raybox.X, and go on to do so when a file is renamed.
for _name in __all__:
    if isinstance(_exported := globals()[_name], type):
        _exported.__module__ = "raybox"
del _name, _exported
