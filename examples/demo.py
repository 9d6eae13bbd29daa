"""raybox's main job on real input, from start to end. `make demo` runs it.

Starts a pool on this machine, uploads a data set that a PyPI package ships, analyses it over several cells that keep
state, reads back a data frame, text and a figure, shows an error, does the same through the official E2B client, and
stops everything. Ends with `demo: ok`, or one clear line and exit code 1.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

POOL = f"demo{os.getpid()}"
RAYBOX = [sys.executable, "-m", "raybox_cluster"]
OUTPUT = Path("demo-output")

CELLS = [
    (
        "read",
        "import pandas as pd\nweather = pd.read_csv('seattle-weather.csv', parse_dates=['date'])\nweather.head(3)",
    ),
    ("summarise", "monthly = weather.set_index('date').resample('ME')[['temp_max', 'precipitation']].mean().round(2)"),
    ("print", "print(f'{len(weather)} days, {len(monthly)} months, wettest: {monthly.precipitation.idxmax():%B %Y}')"),
    ("frame", "monthly.tail(3)"),
    (
        "draw",
        "import matplotlib.pyplot as plt\n"
        "figure, axis = plt.subplots(figsize=(8, 3))\n"
        "axis.plot(monthly.index, monthly.temp_max, label='maximum, °C')\n"
        "axis.bar(monthly.index, monthly.precipitation, width=20, alpha=0.4, label='precipitation, mm')\n"
        "axis.set_title('Seattle, monthly means'); axis.legend(); plt.show()",
    ),
]


def say(text: str = "") -> None:
    print(text, flush=True)


def upload(files: Any, path: Path) -> None:
    """Into the sandbox's home; `files` is either client's."""
    written = files.write(path.name, path.read_bytes())
    say(f"    upload: {written.path}")


def check(execution: Any) -> Any:
    if execution.error is not None:
        raise SystemExit(f"demo: a cell failed: {execution.error.name}: {execution.error.value}")
    return execution


def analyse(client: str, run: Callable[[str], Any]) -> bytes:
    """The cells, each printed with what came back; returns the figure."""
    png = None
    for name, code in CELLS:
        execution = check(run(code))
        for line in execution.logs.stdout:
            say(f"    {name}: {line.rstrip()}")
        for result in execution.results:
            if result.data:
                columns = ", ".join(result.data)
                say(f"    {name}: a data frame with columns {columns}")
                say("\n".join(f"        {line}" for line in (result.text or "").splitlines()))
            if result.png:
                png = base64.b64decode(result.png)
    if png is None or not png.startswith(b"\x89PNG"):
        raise SystemExit("demo: no figure came back")
    OUTPUT.mkdir(exist_ok=True)
    target = OUTPUT / f"seattle-{client}.png"
    target.write_bytes(png)
    say(f"    draw: {target} ({len(png):,} bytes)")
    failed = run("monthly.loc['1900-01']")
    if failed.error is None:
        raise SystemExit("demo: the error cell raised nothing")
    say(f"    error, as asked for: {failed.error.name}: {failed.error.value}")
    say(f"        {failed.error.traceback.splitlines()[-1][:100]}")
    if run("len(monthly)").text != "48":
        raise SystemExit("demo: the state was lost")
    return png


def with_raybox(data: Path) -> None:
    from raybox import Sandbox

    began = time.perf_counter()
    with Sandbox.create(timeout=300) as sandbox:
        created_ms = 1e3 * (time.perf_counter() - began)
        first = check(sandbox.run_code("'ready'"))
        upload(sandbox.files, data)
        analyse("raybox", sandbox.run_code)
        stages = {f"{name} (server)": value for name, value in sandbox.timings_ms.items()}
        stages |= {"created (client)": created_ms}
        stages |= {f"first cell: {name.replace('_', ' ')}": value for name, value in first.timings_ms.items()}
        say("    timings: " + ", ".join(f"{name} {value:.1f} ms" for name, value in stages.items()))


def with_official_client(data: Path) -> None:
    from e2b_code_interpreter import Sandbox

    with Sandbox.create(timeout=300) as sandbox:
        upload(sandbox.files, data)
        analyse("e2b", sandbox.run_code)


def main(data: Path) -> None:
    began = time.perf_counter()
    say("demo: starting Ray, the pool and the gateway on this machine")
    started = subprocess.run(
        [*RAYBOX, "up", "--detach", "--address", "local", "--name", POOL, "--port", "0", "--sandboxes", "3"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if started.returncode:
        raise SystemExit("demo: the pool did not start")
    try:
        for line in started.stdout.splitlines():
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").partition("=")
                os.environ[name] = value
        say(f"demo: the same work through two clients, on {data.name} ({data.stat().st_size:,} bytes)")
        say("  raybox SDK")
        with_raybox(data)
        say("  official e2b-code-interpreter client")
        with_official_client(data)
    finally:
        say("demo: stopping everything")
        subprocess.run([*RAYBOX, "down", "--name", POOL], check=True)
    left = subprocess.run(["pgrep", "-f", f"{POOL}[:-]|run/{POOL}"], capture_output=True, text=True, check=False)
    if left.stdout.strip():
        raise SystemExit(f"demo: processes were left running: {left.stdout.split()}")
    say(f"demo: ok ({time.perf_counter() - began:.0f} s)")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        raise SystemExit("demo: which CSV file? (make demo knows)")
    try:
        main(Path(sys.argv[1]))
    except Exception as error:
        raise SystemExit(f"demo: failed: {type(error).__name__}: {error}") from error
