"""Definitions become environments on disk. The only file that starts processes."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from raybox_template.digest import digest_of, read_sources
from raybox_template.errors import BuildFailed, ExtractorNotFound, TemplateNotFound, UvNotFound
from raybox_template.spec import TemplateSpec, pins
from raybox_template.store import BuiltTemplate, Store

_HERE = Path(__file__).resolve().parent
_OUTPUT_KEPT = 4000  # characters of a failed tool's output that go into the error
_PROBE = (
    "import json, sys, sysconfig; print(json.dumps({'version': sys.version.split()[0], 'prefix': sys.prefix, "
    "'base_prefix': sys.base_prefix, 'purelib': sysconfig.get_path('purelib')}))"
)

Progress = Callable[[str], None]


def default_spec() -> TemplateSpec:
    """The template that sandboxes get when nobody names one."""
    startup = _HERE / "kernel_startup"
    return TemplateSpec(
        name="default",
        requirements=(_HERE / "environments" / "default.lock").read_text(),
        kernel_startup={path.name: path.read_text() for path in startup.iterdir() if path.is_file()},
        # Kernels that are not started by ipykernel's own application need to be told.
        env_vars={"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
    )


def find_extractor() -> Path:
    """The folder of the installed `raybox_extractor`, found without importing it. Raises ExtractorNotFound."""
    found = importlib.util.find_spec("raybox_extractor")
    folders = list(found.submodule_search_locations or ()) if found else []
    if not folders:
        raise ExtractorNotFound("it is not importable here")
    return Path(folders[0])


def find_uv(explicit: str | os.PathLike[str] | None = None) -> Path:
    """The `uv` to build with: the argument, PATH, `.tools/bin` of the checkout, the `uv` package. Raises UvNotFound."""
    if explicit is not None:
        if not os.access(explicit, os.X_OK):
            raise UvNotFound((os.fspath(explicit),))
        return Path(explicit).absolute()
    on_path = shutil.which("uv")
    if on_path:
        return Path(on_path).absolute()
    in_checkout = _HERE.parent.parent / ".tools" / "bin" / "uv"
    if os.access(in_checkout, os.X_OK):
        return in_checkout
    if importlib.util.find_spec("uv"):
        module = importlib.import_module("uv")
        try:
            return Path(module.find_uv_bin())
        except (AttributeError, FileNotFoundError):  # another package of that name, or one without its binary
            pass
    raise UvNotFound(("PATH", str(in_checkout), "the Python package uv"))


def ensure(name: str = "default", *, store: Store | None = None, progress: Progress | None = None) -> BuiltTemplate:
    """The built template of this name; `default` is built if it is missing, which takes about 20 s.

    name: `default`, or `name`, `name:tag` or a digest of something that was built before.
    progress: called with one line per stage, and not at all when nothing is to be done.
    Safe to call from many processes at once: one builds, the others wait for it.
    Raises TemplateNotFound, UvNotFound, ExtractorNotFound, BuildFailed.
    """
    store = store or Store()
    if name == "default":
        return build_template(default_spec(), store=store, progress=progress)
    return find(name, store=store)


def resources_of(built: BuiltTemplate, *, store: Store | None = None) -> dict[str, float]:
    """What sandboxes of the template get when their creator asks for nothing else; see spec.Resources.

    Empty for the default template, whose sandboxes get what the pool gives.
    """
    definition = (store or Store()).definition(built.digest)
    resources = definition.get("resources")
    if definition.get("name") == "default" or not isinstance(resources, dict):
        return {}
    return {str(name): value for name, value in resources.items()}


def find(name: str = "default", *, store: Store | None = None) -> BuiltTemplate:
    """The built template of this name, never building one. Raises TemplateNotFound.

    `default` is the default template as this installation defines it, not one that an older installation built.
    """
    store = store or Store()
    if name == "default":
        digest: str | None = digest_of(default_spec(), read_sources(find_extractor()))
    else:
        digest = store.resolve(name)
    built = store.get(digest) if digest else None
    if built is None:
        raise TemplateNotFound(name)
    return built


def build_template(
    spec: TemplateSpec,
    *,
    store: Store | None = None,
    extractor: Path | None = None,
    uv: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> BuiltTemplate:
    """The built version of `spec`, from the store if it is there; `<spec.name>:latest` then points at it.

    extractor: the folder of the `raybox_extractor` package; found by its import name if not given.
    uv: the tool to build with; see `find_uv`.
    Interrupting or killing it leaves nothing that a later build trips over.
    Raises UvNotFound, ExtractorNotFound, BuildFailed.
    """
    store = store or Store()
    sources = read_sources(extractor or find_extractor())
    digest = digest_of(spec, sources)
    built = store.get(digest)
    if built is None:
        say = _labelled(spec.name, progress)
        with store.building(digest, on_wait=lambda: say("waiting for another build of the same version")) as lock:
            built = store.get(digest)  # the build that was waited for may have been this one
            if built is None:
                built = _build(spec, sources, digest, store, find_uv(uv), lock, say)
    store.set_alias(spec.name, digest)
    return built


def _build(
    spec: TemplateSpec,
    sources: Mapping[str, bytes],
    digest: str,
    store: Store,
    uv: Path,
    lock: int,
    say: Progress,
) -> BuiltTemplate:
    started_s = time.monotonic()
    folder = store.clear(digest)
    environment = store.environment(digest)
    try:
        say(f"creating the environment (Python {spec.python})")
        _run(
            [uv, "venv", "--quiet", "--no-project", "--python", _interpreter(spec.python), environment],
            "creating the environment",
            folder,
            lock,
        )
        python = environment / "bin" / "python"
        facts = json.loads(_run([python, "-I", "-c", _PROBE], "asking the new interpreter", folder, lock))
        if facts["version"] != spec.python and not facts["version"].startswith(f"{spec.python}."):
            raise BuildFailed("creating the environment", f"wanted Python {spec.python}, got {facts['version']}")

        count = len(pins(spec.requirements))
        if count:
            say(f"installing packages ({count} pins)")
            lock_file = folder / "requirements.lock"
            lock_file.write_text(spec.requirements)
            _link_bytecode(spec, facts, store, environment)
            options = ["--quiet", "--require-hashes", "--compile-bytecode"]
            _run([uv, "pip", "sync", *options, "--python", python, lock_file], "installing packages", folder, lock)

        say("adding the extractor and the kernel's start-up files")
        package = Path(facts["purelib"]) / "raybox_extractor"
        for relative, content in sources.items():
            _write(package / relative, content)
        for name, text in spec.kernel_startup.items():
            _write(environment / "etc" / "ipython" / name, text.encode())
        _run([python, "-I", "-m", "compileall", "-q", package], "compiling the extractor", folder, lock)
        built = store.publish(digest, base_prefix=Path(facts["base_prefix"]), definition=spec.canonical())
    except BaseException:
        # Tidiness only: a folder without its marker is garbage, and the next build removes it.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    say(f"done in {time.monotonic() - started_s:.0f} s")
    return built


def _link_bytecode(spec: TemplateSpec, facts: Mapping[str, str], store: Store, environment: Path) -> None:
    """Give the environment the compiled files of a version with the same packages, if there is one.

    Nearly all of a build is compiling, and most new versions differ in the extractor only: 2 s instead of 30. Compiled
    files carry their source's time and size, so that what does not fit is compiled again.
    """
    for built, definition in store.versions():
        if definition.get("requirements") != spec.requirements or definition.get("python") != spec.python:
            continue
        if built.prefixes[-1] != Path(facts["base_prefix"]):
            continue
        with contextlib.suppress(OSError):  # the other version may be going away, which costs time and nothing else
            for compiled in (built.root / "lib").rglob("__pycache__/*.pyc"):
                if "raybox_extractor" not in compiled.parts:
                    target = environment / compiled.relative_to(built.root)
                    _make_parents(target)
                    os.link(compiled, target)
        return


def _interpreter(version: str) -> str:
    """What to tell uv: the running interpreter if it will do (nothing is searched or downloaded), else the version."""
    running = sys.version.split()[0]
    return sys.executable if running == version or running.startswith(f"{version}.") else version


def _run(command: Sequence[str | os.PathLike[str]], stage: str, folder: Path, lock: int) -> str:
    """Run to the end and return what it wrote to stdout. Raises BuildFailed."""
    import subprocess  # 10 ms that a look-up of a built template does not need to spend

    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environ.pop("VIRTUAL_ENV", None)
    try:
        # The folder as working directory: uv would otherwise read the settings of whatever project the caller is in.
        # The umask: a sandbox's user is not the user who builds. The lock: see Store.building.
        done = subprocess.run(
            [os.fspath(word) for word in command],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            umask=0o022,
            pass_fds=(lock,),
            check=False,
        )
    except OSError as error:
        raise BuildFailed(stage, f"{os.fspath(command[0])}: {error.strerror or error}") from error
    if done.returncode:
        output = (done.stderr.strip() or done.stdout.strip())[-_OUTPUT_KEPT:]
        raise BuildFailed(stage, output or f"{os.fspath(command[0])} ended with status {done.returncode}")
    return done.stdout


def _make_parents(path: Path) -> None:
    """Create what is missing above `path`, readable by everybody whatever the umask."""
    if not path.parent.exists():
        _make_parents(path.parent)
        path.parent.mkdir()
        path.parent.chmod(0o755)


def _write(path: Path, content: bytes) -> None:
    _make_parents(path)
    path.write_bytes(content)
    path.chmod(0o644)


def _labelled(name: str, progress: Progress | None) -> Progress:
    def say(line: str) -> None:
        if progress:
            progress(f"template {name}: {line}")

    return say
