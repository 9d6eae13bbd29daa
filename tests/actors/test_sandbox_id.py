"""Ids: what is minted comes back, and nothing else is taken for genuine."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybox_actors import sandbox_id
from raybox_actors.sandbox_id import ENTROPY_BYTES, LENGTH, MAX_EPOCH, MAX_SLOT, mint, parse, verify

SECRET = b"a secret of this pool"
ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"

node_ids = st.text("0123456789abcdef", min_size=12, max_size=56)
slots = st.integers(0, MAX_SLOT)
epochs = st.integers(0, MAX_EPOCH)
entropies = st.binary(min_size=ENTROPY_BYTES, max_size=32)
ids = st.builds(mint, st.just(SECRET), node_ids, slots, epochs, entropies)


@given(st.binary(max_size=40), node_ids, slots, epochs, entropies)
def test_what_is_minted_comes_back(secret: bytes, node_id: str, slot: int, epoch: int, entropy: bytes) -> None:
    text = mint(secret, node_id, slot, epoch, entropy)
    parts = parse(text)
    assert parts is not None
    assert (parts.node, parts.slot, parts.epoch) == (node_id[:12], slot, epoch)
    assert verify(secret, text) == parts
    assert str(parts) == text


@given(ids)
def test_an_id_fits_a_host_name_with_a_port_before_it(text: str) -> None:
    assert re.fullmatch(r"i[a-z0-9]+", text)
    assert len(text) == LENGTH
    assert len(f"65535-{text}") <= 63


@given(st.text(max_size=100) | st.text(ALPHABET, min_size=LENGTH, max_size=LENGTH) | ids.map(lambda t: t + "\n"))
def test_any_other_text_is_not_genuine(text: str) -> None:
    assert verify(SECRET, text) is None


@given(st.text(max_size=100) | st.from_regex(r"\A[a-z0-9]{41}\n?\Z"))
def test_parse_is_total(text: str) -> None:
    parts = parse(text)
    assert parts is None or str(parts) == text


@given(ids, st.integers(0, LENGTH - 1), st.sampled_from(ALPHABET))
def test_changing_any_character_spoils_it(text: str, at: int, character: str) -> None:
    changed = text[:at] + character + text[at + 1 :]
    assert (verify(SECRET, changed) is None) == (changed != text)


@given(ids)
def test_another_pool_does_not_accept_it(text: str) -> None:
    assert verify(b"another secret", text) is None


@pytest.mark.parametrize(
    "text",
    ["", "i", "i" * LENGTH, "I" + "0" * (LENGTH - 1), "\u0130" * LENGTH, "i" + "\u0660" * (LENGTH - 1), "x" * 10**6],
)
def test_strange_text(text: str) -> None:
    assert verify(SECRET, text) is None


@pytest.mark.parametrize(
    ("node_id", "slot", "epoch", "entropy"),
    [
        ("0" * 11, 0, 0, bytes(ENTROPY_BYTES)),
        ("0" * 11 + "g", 0, 0, bytes(ENTROPY_BYTES)),
        ("A" * 12, 0, 0, bytes(ENTROPY_BYTES)),
        ("0" * 12, -1, 0, bytes(ENTROPY_BYTES)),
        ("0" * 12, MAX_SLOT + 1, 0, bytes(ENTROPY_BYTES)),
        ("0" * 12, 0, MAX_EPOCH + 1, bytes(ENTROPY_BYTES)),
        ("0" * 12, 0, 0, bytes(ENTROPY_BYTES - 1)),
    ],
)
def test_mint_refuses_what_an_id_cannot_hold(node_id: str, slot: int, epoch: int, entropy: bytes) -> None:
    with pytest.raises(ValueError, match=r"node_id|slot|entropy"):
        mint(SECRET, node_id, slot, epoch, entropy)


def test_random_part_and_tag_are_long_enough() -> None:
    assert 36**sandbox_id._RANDOM > 2**40
    assert 36**sandbox_id._TAG > 2**30
