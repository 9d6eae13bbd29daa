"""The pure parts of uploads: forms, packed bodies, paths."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybox_actors.errors import BadRequest
from raybox_cluster.gateway import uploads
from raybox_cluster.gateway.multipart import (
    MAX_PART_HEADER_BYTES,
    MAX_PARTS,
    MAX_PREAMBLE_BYTES,
    MultipartReader,
    PartData,
    PartEnded,
    PartStarted,
    boundary_of,
)
from tests.cluster.gateway.test_envd_values import cut, sizes

pytestmark = pytest.mark.anyio


# --- forms -----------------------------------------------------------------------------------------------------------


def parts_of(body: bytes, boundary: bytes, pieces: Iterable[int] = ()) -> list[tuple[str, str | None, bytes]]:
    reader = MultipartReader(boundary)
    found: list[tuple[str, str | None, bytes]] = []
    for piece in cut(body, pieces):
        for event in reader.feed(piece):
            match event:
                case PartStarted(name, filename):
                    found.append((name, filename, b""))
                case PartData(data):
                    found[-1] = (*found[-1][:2], found[-1][2] + data)
                case PartEnded():
                    pass
    reader.finish()
    return found


paths = st.text(st.characters(exclude_characters='"\\\r\n', categories=("L", "N", "P", "S", "Zs")), max_size=12)
contents = st.binary(max_size=60) | st.sampled_from((b"\r\n", b"\r\n--", b"--b", b"\r\n--", b"\r", b"\r\n--bx", b""))


@given(st.lists(st.tuples(st.none() | paths, contents), max_size=4), sizes)
def test_a_form_is_read_however_it_arrives(files: list[tuple[str | None, bytes]], pieces: list[int]) -> None:
    boundary = b"bound"
    body = b""
    for filename, content in files:
        name = b"" if filename is None else b'; filename="%s"' % filename.encode()
        body += b'--bound\r\nContent-Disposition: form-data; name="file"%s\r\n\r\n%s\r\n' % (name, content)
    body += b"--bound--\r\n"
    expected = [("file", filename, content) for filename, content in files]
    assert parts_of(body, boundary, pieces) == expected
    assert parts_of(b"to be ignored\r\n" + body + b"and this", boundary, pieces) == expected


@given(st.binary(max_size=300), sizes)
def test_any_bytes_are_a_form_or_a_bad_request(body: bytes, pieces: list[int]) -> None:
    for prefix in (b"", b"--b\r\n", b"--b\r\nContent-Disposition: form-data\r\n\r\n"):
        try:
            parts_of(prefix + body, b"b", pieces)
        except BadRequest:
            continue


def test_names_of_files() -> None:
    def named(disposition: bytes) -> str | None:
        return parts_of(b"--b\r\nContent-Disposition: form-data; %s\r\n\r\n\r\n--b--" % disposition, b"b")[0][1]

    assert named(b'name="file"; filename="/home/user/d\xc3\xa9j\xc3\xa0 vu.txt"') == "/home/user/déjà vu.txt"
    assert named(b'name="file"; filename="a\\"b\\\\c"') == 'a"b\\c'
    assert named(b'name="file"; filename="a;b=c"') == "a;b=c"
    assert named(b"name=file;filename=plain") == "plain"
    assert named(b"name=file; filename=\"x\"; filename*=UTF-8''d%C3%A9j%C3%A0") == "déjà"
    assert named(b'name="file"; filename=""') == ""
    assert named(b'name="file"') is None
    for bad in (b'name="file"; filename="\xff"', b"name=file; filename*=latin-1''x"):
        with pytest.raises(BadRequest):
            named(bad)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b",
        b"--b\r\n",
        b"--b\r\nContent-Disposition: form-data; name=file\r\n\r\nunfinished",
        b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--",
        b"--bad\r\n\r\n",
        b"x" * (MAX_PREAMBLE_BYTES + 10),
        b"--b" + b" " * (MAX_PREAMBLE_BYTES + 10),
        b"--b\r\nX: " + b"x" * MAX_PART_HEADER_BYTES + b"\r\n\r\n",
        b"--b\r\nContent-Disposition: form-data; name=x\r\n\r\n\r\n" * (MAX_PARTS + 1) + b"--b--",
    ],
)
def test_bodies_that_are_no_form(body: bytes) -> None:
    with pytest.raises(BadRequest):
        parts_of(body, b"b")


def test_a_form_of_the_greatest_number_of_parts() -> None:
    body = b"--b\r\nContent-Disposition: form-data; name=x\r\n\r\n\r\n" * MAX_PARTS + b"--b--"
    assert len(parts_of(body, b"b")) == MAX_PARTS


def test_boundaries() -> None:
    assert boundary_of(b"multipart/form-data; charset=utf-8; boundary=abc") == b"abc"
    assert boundary_of(b'multipart/form-data; boundary="a b:c"') == b"a b:c"
    for bad in (b"multipart/form-data", b"multipart/form-data; boundary=", b"x; boundary=" + b"b" * 201):
        with pytest.raises(BadRequest):
            boundary_of(bad)


# --- uploads ---------------------------------------------------------------------------------------------------------


async def stream(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def all_of(pieces: AsyncIterator[bytes]) -> list[bytes]:
    return [piece async for piece in pieces]


async def test_gzip_is_unpacked_in_bounded_pieces() -> None:
    content = bytes(5_000_000) + b"end"
    packed = gzip.compress(content[:4_000_000]) + gzip.compress(content[4_000_000:])
    assert len(packed) < 10_000
    for pieces in ([packed], cut(packed, [1] * 50), cut(packed, [1000] * 5)):
        unpacked = await all_of(uploads.unzipped(stream(pieces)))
        assert b"".join(unpacked) == content
        assert max(map(len, unpacked)) <= uploads.WRITE_BYTES
    for bad in (b"no gzip", packed[:-2], packed + b"x", gzip.compress(b"abc")[:-4]):
        with pytest.raises(BadRequest):
            await all_of(uploads.unzipped(stream([bad])))
    assert await all_of(uploads.unzipped(stream([]))) == []


async def test_small_pieces_are_joined() -> None:
    pieces = [b"x" * 1000] * 1000 + [b"y" * 300_000]
    joined = await all_of(uploads.joined(stream(pieces)))
    assert b"".join(joined) == b"".join(pieces)
    assert all(len(piece) >= uploads.WRITE_BYTES for piece in joined[:-1])
    assert len(joined) < 6


def test_paths_of_one_upload_are_told_apart() -> None:
    same = ["x", "./x", "/home/user/x", "~/x", "a/../x", "/home//user/./x"]
    assert {uploads.resolved(path, "user") for path in same} == {"/home/user/x"}
    assert uploads.resolved("x", "root") == "/root/x"
    assert uploads.resolved("~", "user") == "/home/user"
