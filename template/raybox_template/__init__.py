"""What a raybox sandbox looks like at birth: definition, digest, build and store. Standard library only."""

from raybox_template.build import build_template, default_spec, ensure, find
from raybox_template.errors import (
    BuildFailed,
    ExtractorNotFound,
    InvalidSpec,
    TemplateError,
    TemplateNotFound,
    UvNotFound,
)
from raybox_template.spec import Resources, TemplateSpec
from raybox_template.store import BuiltTemplate, Store

__all__ = [
    "BuildFailed",
    "BuiltTemplate",
    "ExtractorNotFound",
    "InvalidSpec",
    "Resources",
    "Store",
    "TemplateError",
    "TemplateNotFound",
    "TemplateSpec",
    "UvNotFound",
    "build_template",
    "default_spec",
    "ensure",
    "find",
]
