"""Builds with the real uv: what comes out, two at a time, interrupted, killed, failing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import raybox_template
from raybox_template import (
    BuildFailed,
    BuiltTemplate,
    ExtractorNotFound,
    Store,
    TemplateNotFound,
    TemplateSpec,
    UvNotFound,
    build_template,
    ensure,
    find,
)
from raybox_template.build import find_uv, resources_of
from raybox_template.spec import Resources
from tests.template.conftest import Gate

BUILDER = """
import sys
from pathlib import Path
from raybox_template import Store, TemplateSpec, build_template
root, extractor, uv = sys.argv[1:]
spec = TemplateSpec(name="small", kernel_startup={"ipython_config.py": "c = get_config()\\n"}, env_vars={"A": "b"})
lines = []
built = build_template(spec, store=Store(Path(root)), extractor=Path(extractor), uv=uv or None, progress=lines.append)
print(built.root, len(lines))
"""


def builder(store: Store, extractor: Path, uv: Path | None = None) -> subprocess.Popen[str]:
    """Another process that builds what the fixture `small` defines."""
    command = [sys.executable, "-c", BUILDER, str(store.root), str(extractor), str(uv or "")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def asked(built: BuiltTemplate, code: str) -> str:
    return subprocess.run([built.python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_built_template_is_complete(store: Store, extractor: Path, small: TemplateSpec) -> None:
    lines: list[str] = []
    built = build_template(small, store=store, extractor=extractor, progress=lines.append)
    facts = json.loads(asked(built, "import sys, json; print(json.dumps([sys.prefix, sys.base_prefix, sys.version]))"))
    assert [Path(facts[0]), Path(facts[1])] == [built.root, built.prefixes[1]] == list(built.prefixes)
    assert facts[2].startswith(f"{small.python}.")
    assert asked(built, "import raybox_extractor, raybox_extractor.inner; print(raybox_extractor.answer)") == "42"
    assert (built.root / "etc" / "ipython" / "ipython_config.py").read_text() == "c = get_config()\n"
    assert lines[0] == "template small: creating the environment (Python 3.11)"
    assert lines[-1].startswith("template small: done in ")
    assert store.get(built.digest) == find("small", store=store) == find(built.digest, store=store) == built


def test_a_second_build_does_nothing_and_says_nothing(store: Store, extractor: Path, small: TemplateSpec) -> None:
    built = build_template(small, store=store, extractor=extractor)
    lines: list[str] = []
    nothing = Path("/nonexistent/uv")
    assert build_template(small, store=store, extractor=extractor, uv=nothing, progress=lines.append) == built
    assert lines == []
    renamed = replace(small, name="renamed")
    assert build_template(renamed, store=store, extractor=extractor, uv=nothing) == built
    assert store.resolve("renamed:latest") == built.digest


def test_the_extractor_arrives_compiled(store: Store, extractor: Path, small: TemplateSpec) -> None:
    built = build_template(small, store=store, extractor=extractor)
    compiled = {path.name for path in built.root.rglob("raybox_extractor/**/*.pyc")}
    assert compiled == {f"__init__.{sys.implementation.cache_tag}.pyc"}


def test_every_user_can_read_it_whatever_the_umask(
    store: Store, extractor: Path, small: TemplateSpec, modes: Callable[[Path], dict[str, int]]
) -> None:
    before = os.umask(0o077)
    try:
        built = build_template(small, store=store, extractor=extractor)
    finally:
        os.umask(before)
    assert [path for path, mode in modes(store.folder(built.digest) / "env").items() if not mode & 0o004] == []


def test_two_processes_build_it_once(store: Store, extractor: Path) -> None:
    both = [builder(store, extractor) for _ in range(2)]
    results = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    folders = {out.split()[0] for out, _ in results}
    assert len(folders) == 1
    assert len(list((store.root / "versions").iterdir())) == 1


def test_a_second_builder_waits_and_says_so(store: Store, extractor: Path, small: TemplateSpec, gate: Gate) -> None:
    other = builder(store, extractor, gate.uv)
    gate.wait_until_entered()
    lines: list[str] = []

    def progress(line: str) -> None:
        lines.append(line)
        gate.let_through()

    built = build_template(small, store=store, extractor=extractor, uv="/bin/false", progress=progress)
    assert lines == ["template small: waiting for another build of the same version"]
    out, err = other.communicate(timeout=60)
    assert out.split() == [str(built.root), "3"], err


def test_a_killed_builder_leaves_nothing_to_trip_over(
    store: Store, extractor: Path, small: TemplateSpec, gate: Gate
) -> None:
    killed = builder(store, extractor, gate.uv)
    gate.wait_until_entered()
    killed.kill()
    killed.communicate(timeout=60)
    lines: list[str] = []

    def progress(line: str) -> None:
        # uv outlived its builder and would write into the folder: the lock is its, too.
        if not lines:
            threading.Thread(target=gate.let_through).start()
        lines.append(line)

    built = build_template(small, store=store, extractor=extractor, progress=progress)
    assert lines[0] == "template small: waiting for another build of the same version"
    assert asked(built, "import raybox_extractor; print(raybox_extractor.answer)") == "42"


def test_an_interrupted_builder_leaves_nothing(store: Store, extractor: Path, small: TemplateSpec, gate: Gate) -> None:
    interrupted = builder(store, extractor, gate.uv)
    gate.wait_until_entered()
    interrupted.send_signal(signal.SIGINT)
    _, err = interrupted.communicate(timeout=60)
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert list((store.root / "versions").iterdir()) == []
    assert build_template(small, store=store, extractor=extractor).python.exists()


def test_a_half_built_folder_is_garbage(store: Store, extractor: Path, small: TemplateSpec) -> None:
    built = build_template(small, store=store, extractor=extractor)
    (store.folder(built.digest) / "complete.json").unlink()
    (built.root / "left-over").touch()
    (built.root / "bin" / "python").unlink()
    with pytest.raises(TemplateNotFound):
        find("small", store=store)
    assert build_template(small, store=store, extractor=extractor) == built
    assert not (built.root / "left-over").exists()


def test_a_failed_step_says_what_and_why_and_leaves_nothing(store: Store, extractor: Path, small: TemplateSpec) -> None:
    wrong = replace(small, requirements=f"tabulate==0.10.0 --hash=sha256:{'0' * 64}")
    with pytest.raises(BuildFailed) as caught:
        build_template(wrong, store=store, extractor=extractor)
    assert caught.value.stage == "installing packages"
    assert "tabulate" in caught.value.output
    assert list((store.root / "versions").iterdir()) == []
    with pytest.raises(BuildFailed, match="creating the environment"):
        build_template(replace(small, python="3.99"), store=store, extractor=extractor)


def test_a_tool_that_cannot_be_started_is_a_failed_build(
    store: Store, extractor: Path, small: TemplateSpec, tmp_path: Path
) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/nonexistent/interpreter\n")
    tool.chmod(0o755)
    with pytest.raises(BuildFailed, match="No such file"):
        build_template(small, store=store, extractor=extractor, uv=tool)


def test_a_version_with_the_same_packages_lends_its_compiled_files(
    store: Store, extractor: Path, small: TemplateSpec
) -> None:
    default = raybox_template.default_spec().requirements.splitlines()
    spec = replace(small, requirements=next(line for line in default if line.startswith("tabulate==")))
    compiled = []
    for value in ("1", "2"):
        built = build_template(replace(spec, env_vars={"A": value}), store=store, extractor=extractor)
        assert asked(built, "import tabulate; print(tabulate.tabulate([[1]], tablefmt='plain'))") == "1"
        compiled.append(next(built.root.rglob("tabulate/__pycache__/__init__.*.pyc")))
    assert compiled[0] != compiled[1]
    assert compiled[0].samefile(compiled[1])


def test_missing_tools_and_packages_have_errors_of_their_own(
    store: Store, extractor: Path, small: TemplateSpec, tmp_path: Path
) -> None:
    with pytest.raises(UvNotFound, match="pip install uv"):
        build_template(small, store=store, extractor=extractor, uv=tmp_path / "no-uv")
    with pytest.raises(ExtractorNotFound, match="no-extractor"):
        build_template(small, store=store, extractor=tmp_path / "no-extractor")
    with pytest.raises(TemplateNotFound, match="nosuch"):
        ensure("nosuch", store=store)


def test_uv_is_looked_for_on_path_then_in_the_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_uv() == uv
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr("raybox_template.build._HERE", tmp_path / "checkout" / "template" / "raybox_template")
    in_checkout = tmp_path / "checkout" / ".tools" / "bin" / "uv"
    in_checkout.parent.mkdir(parents=True)
    uv.rename(in_checkout)
    assert find_uv() == in_checkout
    in_checkout.unlink()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UvNotFound, match="make setup"):
        find_uv()


def test_a_template_s_resources_are_told_and_the_default_one_has_none(
    store: Store, extractor: Path, small: TemplateSpec
) -> None:
    spec = replace(small, resources=Resources(cpus=0.5, memory_mib=256))
    built = build_template(spec, store=store, extractor=extractor)
    assert resources_of(built, store=store) == {"cpus": 0.5, "memory_mib": 256, "disk_mib": 2048, "pids_max": 256}
    plain = build_template(replace(small, name="default"), store=store, extractor=extractor)
    assert resources_of(plain, store=store) == {}
