"""Kernels of other languages than Python: where they are, and how they get there.

    <RAYBOX_HOME>/languages/versions/<digest>/env/            a kernel's program, with the packages that it needs
    <RAYBOX_HOME>/languages/versions/<digest>/complete.json   written last: without it the folder is garbage

The digest is of the program and of the tools that it was built with (their files' sizes and times), so that whatever
changes is built anew. Interpreters themselves are the system's: Debian's packages, installed where they are missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raybox_template.build import _run, _write
from raybox_template.errors import BuildFailed, InvalidSpec, LanguageNotInstalled
from raybox_template.store import Store, _write_atomically, default_root

PROGRAMS = Path(__file__).resolve().parent / "kernel_programs"
NODE_AT_LEAST = (20, 11)
#: The JVM's own defaults are for servers: a quarter of the machine's memory, and threads for each of its processors.
JVM_OPTIONS = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:CICompilerCount=1",
    "-Xshare:auto",
    "-Xlog:disable",
    "-Xlog:all=off",
    "-Xms16m",
    "-Xmx512m",
    "-Xss1m",
    "--add-opens=java.base/java.io=ALL-UNNAMED",
    "--add-modules=jdk.jshell,jdk.unsupported",
)
#: Cells that are run once at installation: what they load and verify, later starts find in an archive.
REHEARSAL = (
    "int x = 1; x + 1",
    "undefinedName",
    'throw new RuntimeException("a");',
    "System.out.print(1)",
    "record A(int b) {} new A(1)",
    'for (int i = 0; i < 2; i++) { System.out.print(""); }',
    "List.of(1, 2).stream().map(a -> a + 1).toList()",
)
R_LIBRARIES = ("/usr/lib/R/site-library", "/usr/local/lib/R/site-library", "/usr/lib/R/library")

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Runtime:
    """A kernel that can be started.

    command: with {python} for the template's interpreter and, of kernels that speak Jupyter's protocol,
    {connection_file}. protocol: or frames on descriptor 3, as the pool's own Python kernel sends them. folders: of the
    host, that must be visible at their own paths wherever it runs, besides the system's.
    """

    language: str
    command: tuple[str, ...]
    protocol: Literal["frames", "jupyter"]
    folders: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one language gets its kernel.

    tools: commands that must be there. packages: of Debian, that have them. program: folder of files below PROGRAMS.
    """

    tools: tuple[str, ...]
    packages: tuple[str, ...]
    program: str
    command: Callable[[Path, Mapping[str, Path]], tuple[str, ...]]
    build: Callable[[Path, Mapping[str, Path], int], None] = lambda _folder, _tools, _lock: None
    protocol: Literal["frames", "jupyter"] = "frames"


def _javascript(folder: Path, tools: Mapping[str, Path]) -> tuple[str, ...]:
    options = ("--disable-warning=ExperimentalWarning", "--v8-pool-size=1", "--max-old-space-size=512")
    return (str(tools["node"]), *options, str(folder / "main.mjs"))


def _build_javascript(folder: Path, tools: Mapping[str, Path], lock: int) -> None:
    said = _run([tools["node"], "--version"], "asking node for its version", folder, lock).strip()
    version = tuple(int(part) for part in said.lstrip("v").split(".")[:2])
    if version < NODE_AT_LEAST:
        needed = ".".join(map(str, NODE_AT_LEAST))
        raise BuildFailed("installing javascript", f"Node.js {needed} or later is needed; {tools['node']} is {said}")
    options = ["--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund", "--loglevel=error"]
    _run([tools["npm"], "ci", *options], "installing the JavaScript kernel's packages", folder, lock)


def _java(folder: Path, tools: Mapping[str, Path]) -> tuple[str, ...]:
    archive = f"-XX:SharedArchiveFile={folder / 'kernel.jsa'}"
    return (str(tools["java"]), *JVM_OPTIONS, archive, "-cp", str(folder / "kernel.jar"), "Kernel")


def _build_java(folder: Path, tools: Mapping[str, Path], lock: int) -> None:
    sources = sorted(folder.glob("*.java"))
    javac, java = tools["javac"], tools["java"]
    _run([javac, "-nowarn", "-d", folder / "classes", *sources], "compiling the Java kernel", folder, lock)
    jar = javac.parent / "jar"
    _run([jar, "cf", folder / "kernel.jar", "-C", folder / "classes", "."], "packing the Java kernel", folder, lock)
    rehearse: list[str | Path] = [
        java,
        *JVM_OPTIONS,
        f"-XX:ArchiveClassesAtExit={folder / 'kernel.jsa'}",
        "-cp",
        folder / "kernel.jar",
    ]
    _run([*rehearse, "Kernel", *REHEARSAL], "rehearsing the Java kernel", folder, lock)


def _r(folder: Path, tools: Mapping[str, Path]) -> tuple[str, ...]:
    options = ("--no-echo", "--no-save", "--no-restore", f"--file={folder / 'kernel.R'}")
    return (str(tools["R"]), *options, "--args", "{connection_file}")


def _bash(folder: Path, _tools: Mapping[str, Path]) -> tuple[str, ...]:
    return ("{python}", "-I", "-S", str(folder / "kernel.py"))


RECIPES = {
    "javascript": Recipe(("node", "npm"), ("nodejs", "npm"), "javascript", _javascript, _build_javascript),
    "r": Recipe(("R", "IRkernel"), ("r-base-core", "r-cran-irkernel"), "r", _r, protocol="jupyter"),
    "bash": Recipe(("bash",), ("bash",), "bash", _bash),
    "java": Recipe(("java", "javac"), ("openjdk-17-jdk-headless",), "java", _java, _build_java),
}


def find_runtime(language: str, *, store: Store | None = None) -> Runtime:
    """The installed kernel of a language; a few file reads, no process. Raises LanguageNotInstalled, InvalidSpec."""
    recipe = _recipe(language)
    tools = _tools(recipe)
    if tools is None:
        raise LanguageNotInstalled(language)
    store = store or _store()
    digest = _digest(language, recipe, tools)
    if not (store.folder(digest) / "complete.json").exists():
        raise LanguageNotInstalled(language)
    return _runtime(language, recipe, store.environment(digest), tools)


def find_runtimes(languages: Iterable[str] = RECIPES) -> dict[str, Runtime]:
    """Those of the languages that are installed."""
    found = {}
    for language in languages:
        try:
            found[language] = find_runtime(language)
        except LanguageNotInstalled:
            continue
    return found


def install(language: str, *, store: Store | None = None, progress: Progress | None = None) -> Runtime:
    """The kernel of a language, installed if it is missing: Debian packages too, if this is root on such a system.

    Safe to call from many processes at once; interrupting it leaves nothing that a later call trips over. `progress`
    is not called when nothing is to be done. Raises LanguageNotInstalled, BuildFailed, InvalidSpec.
    """
    store = store or _store()
    try:
        return find_runtime(language, store=store)
    except LanguageNotInstalled:
        pass
    say = progress or (lambda _line: None)
    recipe = _recipe(language)
    tools = _tools(recipe)
    if tools is None:
        _install_packages(language, recipe, store, say)
        tools = _tools(recipe)
        if tools is None:
            raise BuildFailed(f"installing {language}", f"{' and '.join(recipe.packages)} did not bring what it needs")
    digest = _digest(language, recipe, tools)
    waiting = f"language {language}: waiting for another installation"
    with store.building(digest, on_wait=lambda: say(waiting)) as lock:
        if not (store.folder(digest) / "complete.json").exists():
            say(f"language {language}: installing the kernel")
            _install_program(language, recipe, store, digest, tools, lock)
    return find_runtime(language, store=store)


def _install_program(
    language: str, recipe: Recipe, store: Store, digest: str, tools: Mapping[str, Path], lock: int
) -> None:
    version = store.clear(digest)
    folder = store.environment(digest)
    try:
        for name, content in _program(recipe).items():
            _write(folder / name, content)
        folder.chmod(0o755)
        recipe.build(folder, tools, lock)
        _write_atomically(version / "complete.json", json.dumps({"language": language}) + "\n")
    except BaseException:
        shutil.rmtree(version, ignore_errors=True)
        raise


def _install_packages(language: str, recipe: Recipe, store: Store, say: Progress) -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise LanguageNotInstalled(language, recipe.packages)
    say(f"language {language}: installing {', '.join(recipe.packages)}")
    store.root.mkdir(parents=True, exist_ok=True)
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
    with store.building(hashlib.sha256(b"apt").hexdigest()) as lock:
        if _tools(recipe) is None:  # the one that was waited for may have brought it
            _run([*apt, "update"], "reading Debian's package lists", store.root, lock)
            words = [*apt, "install", "-y", "--no-install-recommends", *recipe.packages]
            _run(words, f"installing {language}", store.root, lock)


def _runtime(language: str, recipe: Recipe, folder: Path, tools: Mapping[str, Path]) -> Runtime:
    folders = [folder]
    for name, tool in tools.items():
        outside = not tool.is_relative_to("/usr") and not tool.is_relative_to("/bin")
        if outside and name in ("node", "java"):
            folders.append(tool.parent.parent)
    return Runtime(language, recipe.command(folder, tools), recipe.protocol, tuple(folders))


def _tools(recipe: Recipe) -> dict[str, Path] | None:
    """The commands, None unless all are there; those with links in their ways by the file's own path."""
    found = {}
    for name in recipe.tools:
        if name == "IRkernel":  # a package of R, not a command
            path = next((f"{one}/{name}" for one in R_LIBRARIES if Path(one, name, "DESCRIPTION").exists()), None)
        else:
            path = shutil.which(name)
        if path is None:
            return None
        found[name] = Path(path).resolve() if name in ("node", "java", "javac") else Path(path)
    return found


def _program(recipe: Recipe) -> dict[str, bytes]:
    folder = PROGRAMS / recipe.program
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def _digest(language: str, recipe: Recipe, tools: Mapping[str, Path]) -> str:
    stats = {name: (str(path), path.stat().st_size, path.stat().st_mtime_ns) for name, path in tools.items()}
    said = {name: hashlib.sha256(content).hexdigest() for name, content in _program(recipe).items()}
    words = [language, said, stats, JVM_OPTIONS, REHEARSAL]
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


def _recipe(language: str) -> Recipe:
    if language not in RECIPES:
        raise InvalidSpec("language", f"must be one of {', '.join(RECIPES)}, not {language!r}")
    return RECIPES[language]


def _store() -> Store:
    return Store(default_root().parent / "languages")
