"""Whether this machine can make a sandbox's system folders writable: idmapped lower layers under an overlay."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROBE = Path(__file__).parents[1] / "guest" / "filesystem.py"
PROBE_LIMIT_S = 10.0


def layers_failure() -> str:
    """Empty if it can; else what the kernel said, and sandboxes have read-only system folders.

    Tries it, in a process and a mount namespace of their own, which leave nothing. Blocks for some 50 ms.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(PROBE)],
            capture_output=True,
            text=True,
            timeout=PROBE_LIMIT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it does not say why"])[-1]
