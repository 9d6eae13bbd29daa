"""Loading the extension: free, repeatable, and before a fork."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raybox_template import BuiltTemplate
    from tests.extractor.conftest import Shell

HEAVY = ("pandas", "numpy", "matplotlib", "PIL", "polars", "plotly", "altair")


def test_what_the_user_did_not_import_is_not_imported(fresh_shell: Shell) -> None:
    fresh_shell.run("[1, 2]")
    fresh_shell.run("{'a': object()}")
    loaded = fresh_shell.value("[name for name in __import__('sys').modules]")
    assert "raybox_extractor.ipython" in loaded
    assert not set(HEAVY) & {name.partition(".")[0] for name in loaded}


def test_importing_the_package_alone_needs_no_ipython(template: BuiltTemplate) -> None:
    code = "import sys, raybox_extractor; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([template.python, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert not {*HEAVY, "IPython", "traitlets"} & set(done.stdout.split())


def test_figures_are_read_with_matplotlib_alone(template: BuiltTemplate, tmp_path: Path) -> None:
    code = """
import sys
for name in ("IPython", "pandas", "seaborn", "polars", "plotly", "altair", "scipy"):
    sys.modules[name] = None
from matplotlib.figure import Figure
from raybox_extractor import extract_figure
figure = Figure()
figure.add_subplot().plot([1, 2], label="a")
print(extract_figure(figure)["elements"])
"""
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run([template.python, "-I", "-c", code], capture_output=True, text=True, env=environ, check=True)
    assert done.stdout == "[{'label': 'a', 'points': [[0.0, 1.0], [1.0, 2.0]]}]\n"


def test_pil_is_hooked_when_the_cell_that_imports_it_uses_it(fresh_shell: Shell) -> None:
    cell = fresh_shell.run("from PIL import Image\nImage.new('RGB', (3, 2)).show()")
    assert "image/png" in cell.only


def test_pil_is_still_hooked_after_a_search_that_did_not_import_it(fresh_shell: Shell) -> None:
    fresh_shell.run("import importlib.util; importlib.util.find_spec('PIL.Image')")
    assert "image/png" in fresh_shell.run("import PIL.Image as P; P.new('RGB', (3, 2)).show()").only


def test_pil_is_hooked_once_after_loading_twice_and_after_a_reload(fresh_shell: Shell, tmp_path: Path) -> None:
    for code in (
        "from PIL import Image",
        "%reload_ext raybox_extractor.ipython",
        "get_ipython().extension_manager.load_extension('raybox_extractor.ipython')",
        "import raybox_extractor.ipython as extension; extension.load_ipython_extension(get_ipython())",
        "import importlib; importlib.reload(Image)",
    ):
        assert fresh_shell.run(code).error is None
    assert len(fresh_shell.run("Image.new('RGB', (3, 2)).save('x.png')").outputs) == 1
    assert fresh_shell.value("[type(f).__name__ for f in __import__('sys').meta_path].count('_ImportHook')") == 1
    assert fresh_shell.value("len(get_ipython().events.callbacks['pre_run_cell'])") == 1


def test_a_package_that_only_looks_like_pil_is_left_alone(fresh_shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "PIL").mkdir()
    (tmp_path / "PIL" / "__init__.py").touch()
    (tmp_path / "PIL" / "Image.py").write_text("answer = 42")
    cell = fresh_shell.run(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport PIL.Image\nPIL.Image.answer")
    assert cell.only == {"text/plain": "42"}


def test_an_import_of_pil_that_fails_fails_as_it_would(fresh_shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "PIL").mkdir()
    (tmp_path / "PIL" / "__init__.py").touch()
    (tmp_path / "PIL" / "Image.py").write_text("1 / 0")
    cell = fresh_shell.run(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport PIL.Image")
    assert cell.error == "ZeroDivisionError: division by zero"
    (tmp_path / "PIL" / "Image.py").unlink()
    cell = fresh_shell.run("import PIL.Image")
    assert cell.error == "ModuleNotFoundError: No module named 'PIL.Image'"


def test_everything_works_in_a_child_forked_after_warm_up(fresh_shell: Shell) -> None:
    warm_up = "import pandas as pd; from PIL import Image\npd.DataFrame({'a': [1]})"
    assert fresh_shell.run(warm_up).error is None
    for _ in range(2):
        cell = fresh_shell.run("display(pd.DataFrame({'a': [1]}))\nImage.new('RGB', (3, 2)).show()\n[1]", fork=True)
        assert cell.error is None
        frame, image, plain = cell.outputs
        assert frame["e2b/data"] == {"a": [1]}
        assert "image/png" in image
        assert plain == {"text/plain": "[1]", "application/json": [1]}


def test_the_stock_kernel_reads_the_start_up_files(template: BuiltTemplate, tmp_path: Path) -> None:
    code = """
import sys
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpec

manager = KernelManager(transport="ipc")
manager._kernel_spec = KernelSpec(
    argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--HistoryManager.enabled=False"],
    language="python",
)
manager.start_kernel()
client = manager.client()
client.start_channels()
client.wait_for_ready(60)
def show(message):
    content = message["content"]
    if message["msg_type"] in ("execute_result", "display_data"):
        print(*sorted(content["data"]))
    elif message["msg_type"] == "stream":
        print(content["text"], end="")
    elif message["msg_type"] == "error":
        print(content["ename"], "\\x1b" in "".join(content["traceback"]))
for cell in (
    "[True, 1]",
    "1/0",
    "print(get_ipython().display_formatter.format(list(range(2000)))[0]['text/plain'][-5:])",
    "import matplotlib.pyplot as p; p.rcParams['figure.dpi'] = 60; print(p.figure().dpi); p.plot([1]); p.show()",
):
    client.execute_interactive(cell, timeout=60, output_hook=show)
client.stop_channels()
manager.shutdown_kernel(now=True)
"""
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": "/tmp"}
    done = subprocess.run([template.python, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environ)
    assert done.stdout.splitlines() == [
        "application/json text/plain",
        "ZeroDivisionError False",
        "1999]",
        "60.0",
        "e2b/chart image/png text/plain",
    ], done.stderr
