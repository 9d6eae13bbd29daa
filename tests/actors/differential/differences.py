"""Where our kernel may differ from stock ipykernel, each with its reason. One that no cell shows any more is stale."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    """What the comparison must find: `ours` somewhere in what our kernel told, `stock` in what stock told."""

    reason: str
    ours: str = ""
    stock: str = ""


DIFFERENCES = {
    "argv": Difference("there is no launcher and no connection file on our command line", "[]", "-f"),
    "background-output-later": Difference(
        "stock attributes the output of a task to the cell that made it, and whoever reads only the running cell's "
        "messages never sees it; ours gives it to the cell that runs at the time"
    ),
    "buffer": Difference(
        "stock's sys.stdout has no buffer; ours writes bytes to the descriptor, as a terminal's would",
        "binary",
        "'OutStream' object has no attribute 'buffer'",
    ),
    "closed-stdout": Difference(
        "`with sys.stdout:` closes stock's stream for good; every later print fails. Ours does not close", "with"
    ),
    "fileno": Difference(
        "stock's fileno() is the launcher's own stdout, which nobody reads; ours is descriptor 1", "explicit"
    ),
    "frozen-modules": Difference(
        "the zygote runs the standard library's modules from their files (frozen ones would cost debugpy its "
        "breakpoints), so tracebacks show their source",
        "raise KeyError(key) from None",
        "<frozen os>",
    ),
    "lone-surrogates": Difference(
        "stock fails to encode such a message and drops all of its text; ours sends U+FFFD in their place",
        "lone \ufffd surrogate \ufffd",
        "surrogates not allowed",
    ),
    "loop-words": Difference(
        "stock logs what the loop itself has to say outside of every cell, where nobody reads it",
        "Exception in callback",
    ),
    "no-connection-file": Difference("our transport is one inherited socket", "", "shell_port"),
    "no-subshells": Difference("subshells are threads of stock's transport", "", "subshell id"),
    "own-frames": Difference(
        "the trace goes through the code of the transport, which is another file in each", "guest", "ipykernel"
    ),
    "stale-parent": Difference(
        "a stream behind a replacement without set_parent() keeps stock's output with the cell that set it last; "
        "ours belongs to the cell that runs"
    ),
    "start-flags": Difference(
        "the zygote is started isolated from the environment and with its modules unfrozen; what users see of that "
        "(sys.path, writing bytecode) is put right after the fork",
        "",
        "",
    ),
}
