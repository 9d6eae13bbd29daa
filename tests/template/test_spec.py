"""Definitions: what is accepted, and what counts as the same template."""

from __future__ import annotations

import json
import pickle
from dataclasses import FrozenInstanceError, replace
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from raybox_template import InvalidSpec, Resources, TemplateSpec, default_spec, errors
from raybox_template.spec import pins

PIN = "tabulate==0.10.0 --hash=sha256:00ff"

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
variables = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True)
specs = st.builds(
    TemplateSpec,
    name=st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,9}[a-z0-9])?", fullmatch=True),
    requirements=st.sampled_from(["", PIN, f"{PIN}\nsix==1.17.0 \\\n    --hash=sha256:01 \\\n    --hash=sha256:02\n"]),
    python=st.sampled_from(["3.11", "3.12", "3.11.7"]),
    kernel_startup=st.dictionaries(st.from_regex(r"[a-z0-9_]{1,8}\.py", fullmatch=True), text, max_size=3),
    env_vars=st.dictionaries(variables, text, max_size=3),
    resources=st.builds(Resources, cpus=st.floats(0.1, 64), memory_mib=st.integers(1, 2**20)),
)


@hypothesis.given(specs)
def test_the_canonical_form_is_json_and_comes_back(spec: TemplateSpec) -> None:
    back = TemplateSpec.from_canonical(json.loads(json.dumps(spec.canonical())))
    assert back == spec
    assert hash(back) == hash(spec)
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_comments_continuations_and_order_do_not_make_another_template() -> None:
    plain = "six==1.17.0 ; python_version < '4' --hash=sha256:01 --hash=sha256:02"
    lock = f"# made by a tool\n{plain}\n    # via x\n".replace(" --hash", " \\\n    --hash")
    one = TemplateSpec(name="a", requirements=lock, env_vars={"A": "1", "B": "2"})
    assert one == TemplateSpec(name="a", requirements=f"\r\n{plain}\r\n", env_vars={"B": "2", "A": "1"})
    assert pins(one.requirements) == [plain]
    assert replace(one, resources=Resources(cpus=1)) == replace(one, resources=Resources(cpus=1.0))


def test_a_spec_cannot_change() -> None:
    given = {"A": "1"}
    spec = TemplateSpec(name="a", env_vars=given)
    given["A"] = "2"
    assert dict(spec.env_vars) == {"A": "1"}
    with pytest.raises(FrozenInstanceError):
        spec.name = "b"  # type: ignore[misc]  # the point of the test
    with pytest.raises(TypeError):
        spec.env_vars["A"] = "3"  # type: ignore[index]  # the point of the test


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "Upper"),
        ("name", "a/b"),
        ("name", "-a"),
        ("name", "a" * 64),
        ("name", "a\n"),
        ("name", None),
        ("python", "3"),
        ("python", "2.7"),
        ("python", "3.11; rm"),
        ("python", "/usr/bin/python3"),
        ("requirements", "six"),
        ("requirements", "six==1.17.0"),
        ("requirements", "six>=1 --hash=sha256:01"),
        ("requirements", "-r other.txt"),
        ("requirements", "--index-url https://example.org"),
        ("requirements", "six @ https://example.org/six.whl --hash=sha256:01"),
        ("requirements", f"{PIN} --no-binary :all:"),
        ("requirements", None),
        ("kernel_startup", {"../escape.py": ""}),
        ("kernel_startup", {".hidden": ""}),
        ("kernel_startup", {"a.py": b"bytes"}),
        ("kernel_startup", ["a.py"]),
        ("env_vars", {"1A": ""}),
        ("env_vars", {"A=B": ""}),
        ("env_vars", {"A": "\0"}),
        ("env_vars", {"A": "\ud800"}),
        ("env_vars", {"A": 1}),
        ("env_vars", {1: "A"}),
        ("resources", {"cpus": 1}),
    ],
)
def test_what_breaks_a_rule_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidSpec) as caught:
        TemplateSpec(**{"name": "a", field: value})
    assert caught.value.field.startswith(field)


@pytest.mark.parametrize("value", [0, -1, True, "1", None, float("nan"), float("inf"), 2**40])
@pytest.mark.parametrize("field", list(Resources.__dataclass_fields__))
def test_resources_are_positive_numbers(field: str, value: Any) -> None:
    with pytest.raises(InvalidSpec, match=f"resources.{field}"):
        Resources(**{field: value})


@pytest.mark.parametrize("change", [{"more": 1}, {"resources": {"gpus": 1}}, {"resources": None}])
def test_a_canonical_form_with_other_keys_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec):
        TemplateSpec.from_canonical({**TemplateSpec(name="a").canonical(), **change})


def test_the_default_template_is_defined_and_says_matplotlib_draws_inline() -> None:
    spec = default_spec()
    assert spec.name == "default"
    assert {"pandas", "ipykernel", "matplotlib"} <= {pin.partition("==")[0] for pin in pins(spec.requirements)}
    assert list(spec.kernel_startup) == ["ipython_kernel_config.py"]
    assert spec.env_vars["MPLBACKEND"] == "module://matplotlib_inline.backend_inline"


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidSpec("name", "must be shorter"),
        errors.TemplateNotFound("x"),
        errors.UvNotFound(("PATH",)),
        errors.ExtractorNotFound("nowhere"),
        errors.BuildFailed("installing", "no space"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling(error: errors.TemplateError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))
