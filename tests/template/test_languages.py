"""Installing kernels of other languages. Debian's packages are there: make installed them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raybox_template.errors import BuildFailed, InvalidSpec, LanguageNotInstalled
from raybox_template.languages import PROGRAMS, RECIPES, find_runtime, find_runtimes, install
from raybox_template.store import Store
from tests.template.test_cli import command


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "languages")


def fake(folder: Path, **tools: str) -> str:
    """A PATH of these programs alone."""
    for name, text in tools.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return str(folder)


def test_all_can_be_installed_here() -> None:
    for name in RECIPES:
        runtime = install(name)
        assert find_runtime(name) == runtime
        assert (runtime.protocol == "jupyter") == ("{connection_file}" in runtime.command)
        assert all(folder.is_dir() for folder in runtime.folders)
    assert find_runtimes().keys() == RECIPES.keys()


@pytest.mark.parametrize("language", RECIPES)
def test_installing_is_done_once(store: Store, language: str) -> None:
    said: list[str] = []
    with pytest.raises(LanguageNotInstalled, match=f"`python -m raybox_template languages {language}`"):
        find_runtime(language, store=store)
    installed = install(language, store=store, progress=said.append)
    assert said == [f"language {language}: installing the kernel"]
    assert install(language, store=store, progress=said.append) == find_runtime(language, store=store) == installed
    assert len(said) == 1
    (folder,) = installed.folders
    assert folder.is_relative_to(store.root)
    for path in [folder, *folder.rglob("*")]:  # a sandbox's user is not the user who installs
        assert path.stat().st_mode & 0o044 == 0o044 or path.is_symlink(), path


def test_two_at_once_install_it_once(store: Store) -> None:
    said: list[str] = []
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: install("bash", store=store, progress=said.append), range(4)))
    assert len(set(found)) == 1
    assert said.count("language bash: installing the kernel") == 1


def test_what_was_interrupted_is_done_again(store: Store) -> None:
    runtime = install("bash", store=store)
    (folder,) = runtime.folders
    (folder.parent / "complete.json").unlink()
    (folder / "kernel.py").write_text("half")
    with pytest.raises(LanguageNotInstalled):
        find_runtime("bash", store=store)
    install("bash", store=store)
    assert (folder / "kernel.py").read_bytes() == (PROGRAMS / "bash" / "kernel.py").read_bytes()


def test_what_cannot_be_installed_names_the_packages(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", fake(tmp_path))
    for language, recipe in RECIPES.items():
        with pytest.raises(LanguageNotInstalled) as caught:
            install(language, store=store)
        for package in recipe.packages:
            assert package in str(caught.value)
    assert find_runtimes() == {}


def test_packages_that_cannot_be_had_are_reported(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("apt-get is for root")
    path = fake(
        tmp_path, **{"apt-get": 'case "$*" in *update*) exit 0;; esac; echo "E: no such package" >&2; exit 100'}
    )
    monkeypatch.setenv("PATH", path)
    (tmp_path / "env").symlink_to("/usr/bin/env")
    with pytest.raises(BuildFailed, match="E: no such package"):
        install("r", store=store)


def test_an_old_node_is_refused(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", fake(tmp_path, node="echo v18.19.0", npm="exit 1"))
    with pytest.raises(BuildFailed, match=r"Node\.js 20\.11 or later is needed; .*node is v18\.19\.0"):
        install("javascript", store=store)
    with pytest.raises(LanguageNotInstalled):
        find_runtime("javascript", store=store)


def test_unknown_languages() -> None:
    with pytest.raises(InvalidSpec, match="javascript, r, bash, java"):
        find_runtime("cobol")


def test_the_command() -> None:
    assert command("languages").returncode == 0
    done = command("languages", "bash", "r")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["bash", "r"]
    wrong = command("languages", "cobol")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (1, 1)


def test_looking_starts_no_process() -> None:
    code = (
        "import sys; from raybox_template.languages import find_runtimes; find_runtimes(); "
        "print('subprocess' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_npm_packages_are_pinned_by_content_and_name_no_registry() -> None:
    text = (PROGRAMS / "javascript" / "package-lock.json").read_text()
    packages = {name: one for name, one in json.loads(text)["packages"].items() if name}
    assert packages
    assert all(one["integrity"].startswith("sha512-") for one in packages.values())
    assert not re.search(r"https?://", "\n".join(line for line in text.splitlines() if '"url"' not in line))
