"""Folders of several nodes on one machine: each keeps its own, and what dead ones left goes."""

from __future__ import annotations

from pathlib import Path

from raybox_actors.isolation.policy import MAX_SLOTS_PER_NODE, host_slot
from raybox_actors.node_folder import NodeFolder


def test_a_node_removes_what_dead_ones_left_and_not_what_living_ones_hold(tmp_path: Path) -> None:
    living, other = NodeFolder(tmp_path / "pool" / "a"), NodeFolder(tmp_path / "pool" / "b")
    living.open()
    (living.path / "zygote.sock").touch()
    dead = tmp_path / "pool" / "c"
    (dead / "etc").mkdir(parents=True)
    other.open()
    assert set(other.siblings()) == {living.path}
    assert (living.path / "zygote.sock").exists()
    living.close()
    assert other.siblings() == []
    assert other.path.stat().st_mode & 0o777 == 0o700
    other.close()
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_a_node_s_own_is_left_for_people_to_see(tmp_path: Path) -> None:
    folder = NodeFolder(tmp_path / "pool" / "a")
    folder.open()
    (folder.path / "strange").touch()
    folder.close()
    assert (folder.path / "strange").exists()


def test_slots_of_nodes_that_share_a_machine_have_different_numbers_there() -> None:
    one, other = "0" * 56, "c0ffee" + "0" * 50
    numbers = {host_slot(node, slot) for node in (one, other) for slot in range(1000)}
    assert len(numbers) == 2000
    assert max(numbers) < MAX_SLOTS_PER_NODE
    assert host_slot(other[:12], 7) == host_slot(other, 7)
