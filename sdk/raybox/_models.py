"""What users get back: plain values, without I/O. Same names and fields as the E2B SDK has them."""

from __future__ import annotations

import json as json_module
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, TypeVar, overload

from ._errors import KINDS, Kind
from .charts import Chart, chart_from_dict

logger = logging.getLogger("raybox")

T = TypeVar("T")

RunCodeLanguage = Literal["python", "javascript", "typescript", "r", "java", "bash"] | str
OutputHandler = Callable[[T], Any]
OutputHandlerWithAsync = Callable[[T], Any] | Callable[[T], Awaitable[Any]]

#: The representations a result can have, in the order in which `Result.formats()` lists them.
FORMATS = (
    "text",
    "html",
    "markdown",
    "svg",
    "png",
    "jpeg",
    "pdf",
    "latex",
    "json",
    "javascript",
    "data",
    "chart",
)


class MIMEType(str):
    """Name of a representation that has no field of its own in `Result`, as in `Result.extra`."""

    __slots__ = ()


@dataclass
class OutputMessage:
    """One piece of output, as it was written: `line` may hold several lines, or part of one.

    timestamp: when the kernel wrote it, as the server sent it: an ISO 8601 date, or integer nanoseconds since 1970.
    error: True for stderr.
    """

    line: str
    timestamp: int | str
    error: bool = False

    def __str__(self) -> str:
        return self.line


@dataclass(init=False)
class ExecutionError:
    """What the code raised: the exception's class name, its text, and the traceback without colours.

    kind: `user_code`, unless the server says that it is a limit of the sandbox which ended the code: `oom`, `timeout`.
    """

    name: str
    value: str
    traceback: str
    kind: Kind = field(default="user_code", repr=False)

    def __init__(self, name: str, value: str, traceback: str, **later: Any) -> None:
        self.name = name
        self.value = value
        self.traceback = traceback
        if (kind := later.get("kind")) in KINDS:
            self.kind = kind

    def to_json(self) -> str:
        """Name, value and traceback as a JSON object."""
        return json_module.dumps({"name": self.name, "value": self.value, "traceback": self.traceback})


@dataclass(init=False, repr=False)
class Result:
    """One value that was displayed, in every representation that the kernel gave of it.

    png, jpeg and pdf are base64 text; json and data are plain Python values (data: column -> list of values, of a data
    frame); chart is a typed view of a plot, None if there is none or it could not be read; extra holds representations
    of other MIME types by their name; raw is the message the server sent. `result["png"]` reads like `result.png`, and
    `result["application/x.y"]` like `result.extra["application/x.y"]`; a name of neither kind raises KeyError.

    is_main_result: True for the value of the cell's last expression, False for what was displayed explicitly.
    """

    text: str | None = None
    html: str | None = None
    markdown: str | None = None
    svg: str | None = None
    png: str | None = None
    jpeg: str | None = None
    pdf: str | None = None
    latex: str | None = None
    json: Any = None
    javascript: str | None = None
    data: dict[str, Any] | None = None
    chart: Chart | None = None
    is_main_result: bool = False
    extra: dict[str, Any] | None = None
    raw: dict[str, Any] = field(default_factory=dict, compare=False)

    def __init__(
        self,
        text: str | None = None,
        html: str | None = None,
        markdown: str | None = None,
        svg: str | None = None,
        png: str | None = None,
        jpeg: str | None = None,
        pdf: str | None = None,
        latex: str | None = None,
        json: Any = None,
        javascript: str | None = None,
        data: dict[str, Any] | None = None,
        chart: dict[str, Any] | None = None,
        is_main_result: bool = False,
        extra: dict[str, Any] | None = None,
        **later: Any,  # keys that a newer server may send; they are in `raw`
    ) -> None:
        self.text = text
        self.html = html
        self.markdown = markdown
        self.svg = svg
        self.png = png
        self.jpeg = jpeg
        self.pdf = pdf
        self.latex = latex
        self.json = json
        self.javascript = javascript
        self.data = data
        self.chart = _read_chart(chart) if chart else None
        self.is_main_result = is_main_result
        self.extra = extra
        given = {name: getattr(self, name) for name in FORMATS if getattr(self, name) is not None}
        if chart is not None:
            given["chart"] = chart
        self.raw = {**given, "is_main_result": is_main_result, "extra": extra, **later}

    def formats(self) -> list[str]:
        """Names of the representations there are: fields first, then MIME types in `extra`."""
        return [name for name in FORMATS if getattr(self, name)] + list(self.extra or ())

    def __getitem__(self, item: str) -> Any:
        if item in self.__dataclass_fields__:
            return getattr(self, item)
        if self.extra is not None and item in self.extra:
            return self.extra[item]
        raise KeyError(item)

    def __repr__(self) -> str:
        if self.text:
            return f"Result({self.text})"
        return f"Result(Formats: {', '.join(self.formats())})"

    __str__ = __repr__

    # What Jupyter asks an object for when it shows it.

    def _repr_html_(self) -> str | None:
        return self.html

    def _repr_markdown_(self) -> str | None:
        return self.markdown

    def _repr_svg_(self) -> str | None:
        return self.svg

    def _repr_png_(self) -> str | None:
        return self.png

    def _repr_jpeg_(self) -> str | None:
        return self.jpeg

    def _repr_pdf_(self) -> str | None:
        return self.pdf

    def _repr_latex_(self) -> str | None:
        return self.latex

    def _repr_json_(self) -> Any:
        return self.json

    def _repr_javascript_(self) -> str | None:
        return self.javascript

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:  # noqa: ARG002
        """What has no method of its own: a plotly or altair figure is one in the notebook too."""
        return dict(self.extra or {})


def _read_chart(raw: dict[str, Any]) -> Chart | None:
    try:
        return chart_from_dict(raw)
    except (KeyError, TypeError, ValueError) as error:
        # The picture is still there; a plot's data in a form we do not know must not spoil the execution.
        logger.error("chart data could not be read (is this version of raybox up to date?): %r", error)
        return None


@dataclass(init=False, repr=False)
class Logs:
    """What was written to stdout and stderr, piece by piece."""

    stdout: list[str]
    stderr: list[str]

    def __init__(self, stdout: list[str] | None = None, stderr: list[str] | None = None, **_later: Any) -> None:
        self.stdout = stdout or []
        self.stderr = stderr or []

    def __repr__(self) -> str:
        return f"Logs(stdout: {self.stdout}, stderr: {self.stderr})"

    def to_json(self) -> str:
        """Both lists as a JSON object."""
        return json_module.dumps({"stdout": self.stdout, "stderr": self.stderr})


@dataclass(init=False, repr=False)
class Execution:
    """What came of running a piece of code.

    error: what the code raised, None if it ended well. execution_count: number of executions in the context so far.
    timings_ms: milliseconds by the client's monotonic clock from sending the request: `first_byte` of the answer's
    events, and `done`, when the end of the execution was known. lost_events: how many of its events are missing here,
    because the server no longer held them when `attach_execution` asked.
    """

    results: list[Result]
    logs: Logs
    error: ExecutionError | None = None
    execution_count: int | None = None
    timings_ms: dict[str, float] = field(default_factory=dict, compare=False)
    lost_events: int = 0

    def __init__(
        self,
        results: list[Result] | None = None,
        logs: Logs | None = None,
        error: ExecutionError | None = None,
        execution_count: int | None = None,
        timings_ms: dict[str, float] | None = None,
        lost_events: int = 0,
        **_later: Any,
    ) -> None:
        self.results = results or []
        self.logs = logs or Logs()
        self.error = error
        self.execution_count = execution_count
        self.timings_ms = timings_ms or {}
        self.lost_events = lost_events

    def __repr__(self) -> str:
        return f"Execution(Results: {self.results}, Logs: {self.logs}, Error: {self.error})"

    @property
    def text(self) -> str | None:
        """Text of the main result, None if the code had none."""
        return next((result.text for result in self.results if result.is_main_result), None)

    def to_json(self) -> str:
        """Results (by representation), logs and error as a JSON object; the latter two are JSON texts inside it."""
        return json_module.dumps(
            {
                "results": serialize_results(self.results),
                "logs": self.logs.to_json(),
                "error": self.error.to_json() if self.error else None,
            }
        )


def serialize_results(results: list[Result]) -> list[dict[str, Any]]:
    """The representations of each result as plain data; `text` is always there."""
    return [
        {
            name: result.chart.to_dict() if name == "chart" and result.chart else result[name]
            for name in result.formats()
        }
        | {"text": result.text}
        for result in results
    ]


@dataclass(init=False)
class Context:
    """One kernel of a sandbox: what runs in it shares variables; executions in it run one at a time, in order."""

    id: str
    language: str
    cwd: str

    def __init__(self, context_id: str, language: str, cwd: str, **_later: Any) -> None:
        self.id = context_id
        self.language = language
        self.cwd = cwd

    @classmethod
    def from_json(cls, data: Mapping[str, str]) -> Context:
        """From the server's form of it. Raises KeyError when a field is missing."""
        return cls(context_id=data["id"], language=data["language"], cwd=data["cwd"])


class SandboxState(StrEnum):
    """Whether a sandbox runs."""

    PAUSED = "paused"
    RUNNING = "running"


SandboxListOrder = Literal["asc", "desc"]
SandboxOnResume = Literal["restore", "reboot"]


@dataclass
class SandboxQuery:
    """Which sandboxes to list; every condition that is given must hold.

    metadata: all of these pairs, exactly. started_after: at or after; without a zone it is local time.
    template: id or name.
    """

    metadata: dict[str, str] | None = None
    state: list[SandboxState] | None = None
    started_after: datetime | None = None
    template: str | None = None


@dataclass
class SandboxInfo:
    """What the control plane knows of a sandbox; `end_at` is when it ends unless its timeout is changed."""

    sandbox_id: str
    sandbox_domain: str | None
    template_id: str
    name: str | None
    metadata: dict[str, str]
    started_at: datetime
    end_at: datetime
    state: SandboxState
    cpu_count: int
    memory_mb: int
    envd_version: str
    allow_internet_access: bool | None = None
    network: dict[str, Any] | None = None
    lifecycle: dict[str, Any] | None = None
    volume_mounts: list[dict[str, str]] = field(default_factory=list)
    envd_unresponsive_at_pause: bool | None = None


@overload
def context_id(context: None) -> None: ...
@overload
def context_id(context: Context | str) -> str: ...
def context_id(context: Context | str | None) -> str | None:
    """A context's id, of the context or of its id."""
    return context.id if isinstance(context, Context) else context
