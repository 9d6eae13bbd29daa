"""One turn of a policy: the code it wrote, run; as the text that it is shown and as facts for the trainer. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .._errors import Kind, RayboxError
from .._models import Execution

#: What a policy is shown of one turn, in characters; the middle of a longer text is left out.
MAX_CHARS = 8_192
NO_OUTPUT = "[no output]"


@dataclass(frozen=True, slots=True)
class Turn:
    """What came of one piece of code.

    text: what the policy is shown. kind: `ok`, or what ended it. should_mask_sample: the fault was not the policy's, so
    that the sample must be left out of the update and never be scored. execution: None when there is no result.
    """

    text: str
    kind: Kind | Literal["ok"]
    should_mask_sample: bool
    execution: Execution | None = None

    @property
    def facts(self) -> dict[str, object]:
        """For the `info` or the metrics of a framework."""
        return {"kind": self.kind, "should_mask_sample": self.should_mask_sample}


def turn_of(execution: Execution, max_chars: int = MAX_CHARS) -> Turn:
    """Of code that was run, whatever it raised: output, then the value of the last expression, then the error."""
    parts = ["".join(execution.logs.stdout), "".join(execution.logs.stderr), execution.text or ""]
    error = execution.error
    if error is not None:
        parts.append(error.traceback or f"{error.name}: {error.value}")
    text = "\n".join(part.rstrip("\n") for part in parts if part.strip())
    return Turn(shorten(text, max_chars) or NO_OUTPUT, "ok" if error is None else error.kind, False, execution)


def turn_of_fault(error: RayboxError, max_chars: int = MAX_CHARS) -> Turn:
    """Of code that has no result: out of its time, its sandbox lost, the pool out of reach."""
    return Turn(shorten(f"[{error}]", max_chars), error.kind, error.should_mask_sample)


def shorten(text: str, max_chars: int) -> str:
    """The text, or its beginning and its end with a note between them that says how much is missing."""
    if len(text) <= max_chars:
        return text
    head = max_chars // 2
    tail = max_chars - head
    return f"{text[:head]}\n[{len(text) - max_chars} characters left out]\n{text[len(text) - tail :]}"
