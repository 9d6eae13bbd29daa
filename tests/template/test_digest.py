"""Digests: the same for the same template, another for anything that would make another sandbox."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from raybox_template import ExtractorNotFound, Resources, TemplateSpec
from raybox_template.build import find_extractor
from raybox_template.digest import canonical_bytes, digest_of, read_sources
from tests.template.test_spec import PIN, specs

sources = st.dictionaries(st.text(max_size=8), st.binary(max_size=8), max_size=4)


@hypothesis.given(specs, sources)
def test_order_and_name_do_not_matter(spec: TemplateSpec, files: dict[str, bytes]) -> None:
    turned = replace(
        spec,
        name="other",
        kernel_startup=dict(reversed(list(spec.kernel_startup.items()))),
        env_vars=dict(reversed(list(spec.env_vars.items()))),
    )
    assert digest_of(turned, dict(reversed(files.items()))) == digest_of(spec, files)


@hypothesis.given(specs, specs, sources, sources)
def test_equal_digests_mean_equal_content(
    one: TemplateSpec, two: TemplateSpec, files: dict[str, bytes], others: dict[str, bytes]
) -> None:
    same = replace(one, name="x") == replace(two, name="x") and files == others
    assert (digest_of(one, files) == digest_of(two, others)) is same


@pytest.mark.parametrize(
    "change",
    [
        {"requirements": PIN},
        {"python": "3.12"},
        {"kernel_startup": {"a.py": "x"}},
        {"env_vars": {"A": "x"}},
        {"resources": Resources(memory_mib=1)},
        {"resources": Resources(cpus=0.5)},
        {"resources": Resources(disk_mib=1)},
        {"resources": Resources(pids_max=1)},
    ],
    ids=str,
)
def test_every_field_but_the_name_changes_the_digest(change: dict[str, Any]) -> None:
    spec = TemplateSpec(name="a")
    assert digest_of(replace(spec, **change), {}) != digest_of(spec, {})


def test_the_sources_of_the_extractor_change_the_digest(extractor: Path) -> None:
    spec = TemplateSpec(name="a")
    before = digest_of(spec, read_sources(extractor))
    (extractor / "inner" / "__pycache__").mkdir()
    (extractor / "inner" / "__pycache__" / "x.pyc").write_bytes(b"compiled")
    (extractor / ".hidden").write_text("an editor's")
    assert digest_of(spec, read_sources(extractor)) == before
    (extractor / "inner" / "more.py").write_text("x = 1\n")
    with_more = digest_of(spec, read_sources(extractor))
    (extractor / "inner" / "more.py").rename(extractor / "inner" / "other.py")
    assert len({before, with_more, digest_of(spec, read_sources(extractor))}) == 3


def test_a_digest_is_what_it_was() -> None:
    """Should this fail, stores out there hold versions that nobody will find again: raise LAYOUT on purpose instead."""
    spec = TemplateSpec(name="a", requirements=PIN, kernel_startup={"k.py": "1"}, env_vars={"A": "é"})
    assert canonical_bytes(spec, {"a.py": b"x"}) == (
        b'{"definition":{"env_vars":{"A":"\\u00e9"},"kernel_startup":{"k.py":"1"},"python":"3.11",'
        b'"requirements":"tabulate==0.10.0 --hash=sha256:00ff\\n",'
        b'"resources":{"cpus":1.0,"disk_mib":2048,"memory_mib":1024,"pids_max":256}},'
        b'"extractor":{"a.py":"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"},"layout":1}'
    )


def test_the_installed_extractor_is_found_without_importing_it() -> None:
    assert "ipython.py" in read_sources(find_extractor())


def test_a_folder_that_is_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExtractorNotFound):
        read_sources(tmp_path)
