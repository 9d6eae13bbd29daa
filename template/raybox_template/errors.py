"""What can go wrong with templates. Each error says what to do next and survives pickling.

TemplateError
|-- InvalidSpec          the definition is wrong; fix it
|-- TemplateNotFound     no such template here; build it
|-- UvNotFound           the tool that builds environments is missing; install it
|-- LanguageNotInstalled no kernel of that language here; install it
|-- ExtractorNotFound    the package that goes into every environment is missing; install it
`-- BuildFailed          a build step failed; its output is in the message
"""

from __future__ import annotations


class TemplateError(Exception):
    """The root of everything that this package raises on purpose."""


class InvalidSpec(TemplateError):
    """A template definition breaks a rule. `field` names the part, `reason` the rule."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field, self.reason = field, reason

    def __str__(self) -> str:
        return f"template definition: {self.field}: {self.reason}"


class TemplateNotFound(TemplateError):
    """No built template goes by this name, `name:tag` or digest."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        if self.name == "default":
            return "template 'default' is not built here; run `python -m raybox_template build default`"
        return f"template {self.name!r} is not built here; build it from its definition first"


class UvNotFound(TemplateError):
    """No usable `uv`. `looked` lists the places that were tried."""

    def __init__(self, looked: tuple[str, ...]) -> None:
        super().__init__(looked)
        self.looked = looked

    def __str__(self) -> str:
        return (
            "uv, which builds the environments of templates, was not found "
            f"(tried {', '.join(self.looked)}); install it with `pip install uv`, or in a checkout run `make setup`"
        )


class LanguageNotInstalled(TemplateError):
    """There is no kernel of `language` on this machine. packages: of Debian; it needs them, we cannot install them."""

    def __init__(self, language: str, packages: tuple[str, ...] = ()) -> None:
        super().__init__(language, packages)
        self.language, self.packages = language, packages

    def __str__(self) -> str:
        first = f"install {' and '.join(self.packages)} and " if self.packages else ""
        return (
            f"{self.language} is not installed here; {first}run `python -m raybox_template languages {self.language}`"
        )


class ExtractorNotFound(TemplateError):
    """`raybox_extractor`, which is copied into every environment, is not a package folder at `where`."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where

    def __str__(self) -> str:
        return f"raybox_extractor was not found ({self.where}); install it with `pip install raybox-extractor`"


class BuildFailed(TemplateError):
    """A step of a build ended with an error.

    stage: what was being done. output: the end of what the tool wrote, at most a few thousand characters.
    """

    def __init__(self, stage: str, output: str) -> None:
        super().__init__(stage, output)
        self.stage, self.output = stage, output

    def __str__(self) -> str:
        return f"building the template failed while {self.stage}:\n{self.output}"
