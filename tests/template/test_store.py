"""The store: markers, locks, aliases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raybox_template import InvalidSpec, Store
from raybox_template.store import default_root

DIGEST = "a" * 64
OTHER = "b" * 64


def publish(store: Store, digest: str = DIGEST, base: Path = Path("/usr")) -> None:
    store.clear(digest)
    python = store.environment(digest) / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    store.publish(digest, base_prefix=base, definition={"name": "x"})


def test_a_version_is_there_once_published(store: Store) -> None:
    assert store.get(DIGEST) is None
    publish(store)
    built = store.get(DIGEST)
    assert built
    assert built.digest == DIGEST
    assert built.prefixes == (built.root, Path("/usr"))
    assert built.python == built.root / "bin" / "python"
    assert [(found.digest, definition) for found, definition in store.versions()] == [(DIGEST, {"name": "x"})]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"root": 1, "base_prefix": 2}', "null"])
def test_a_broken_marker_is_no_marker(store: Store, content: str) -> None:
    publish(store)
    (store.folder(DIGEST) / "complete.json").write_text(content)
    assert store.get(DIGEST) is None
    assert list(store.versions()) == []


def test_a_version_whose_interpreter_is_gone_is_not_there(store: Store) -> None:
    publish(store)
    (store.environment(DIGEST) / "bin" / "python").unlink()
    assert store.get(DIGEST) is None


def test_a_store_that_was_moved_has_nothing(store: Store, tmp_path: Path) -> None:
    publish(store)
    store.root.rename(tmp_path / "moved")
    assert Store(tmp_path / "moved").get(DIGEST) is None


def test_clearing_takes_the_marker_away_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(store)

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.clear(DIGEST)
    assert store.get(DIGEST) is None
    assert list(store.clear(DIGEST).iterdir()) == []


def test_aliases_point_at_versions(store: Store) -> None:
    assert store.resolve("name") is None
    store.set_alias("name", DIGEST)
    store.set_alias("name:v1", DIGEST)
    store.set_alias("name", OTHER)
    assert store.resolve("name") == store.resolve("name:latest") == OTHER
    assert store.resolve("name:v1") == DIGEST
    assert store.resolve(DIGEST) == DIGEST
    assert store.aliases() == {"name:latest": OTHER, "name:v1": DIGEST}


@pytest.mark.parametrize("alias", ["", "../x", "a/b", "A", "a:", "a:b/c", "a:.", ".a", "a:b:c", "a\n"])
def test_an_alias_cannot_name_another_file(store: Store, alias: str) -> None:
    with pytest.raises(InvalidSpec):
        store.set_alias(alias, DIGEST)
    with pytest.raises(InvalidSpec):
        store.resolve(alias)


@pytest.mark.parametrize("digest", ["", "x", "..", "a" * 63, "A" * 64, "a" * 64 + "\n"])
def test_a_digest_cannot_name_another_folder(store: Store, digest: str) -> None:
    for use in (store.folder, store.get, store.clear, lambda value: store.set_alias("a", value)):
        with pytest.raises(InvalidSpec):
            use(digest)


def test_an_alias_file_with_something_else_in_it_is_no_alias(store: Store) -> None:
    store.set_alias("name", DIGEST)
    (store.root / "aliases" / "name:latest").write_text("../../etc")
    assert store.resolve("name") is None
    assert store.aliases() == {}


def test_the_store_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAYBOX_HOME", str(tmp_path))
    assert default_root() == Store().root == tmp_path / "templates"
    monkeypatch.delenv("RAYBOX_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_root() == tmp_path / ".cache" / "raybox" / "templates"


def test_the_marker_is_for_people_too(store: Store) -> None:
    publish(store)
    marker = json.loads((store.folder(DIGEST) / "complete.json").read_text())
    assert marker["definition"] == {"name": "x"}


def test_a_definition_is_read_back_and_a_version_that_is_not_there_has_none(store: Store) -> None:
    publish(store)
    assert store.definition(DIGEST) == {"name": "x"}
    assert store.definition("0" * 64) == {}
