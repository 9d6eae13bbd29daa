"""Chinese, Japanese and Korean text in matplotlib figures: fonts for it, if the machine has some."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

#: In order of preference. Of each only what is installed is used: matplotlib complains about the others.
FAMILIES = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "Noto Sans CJK TC",
    "Source Han Sans SC",
    "Noto Sans SC",
    "Noto Sans JP",
    "Noto Sans KR",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "IPAexGothic",
    "TakaoPGothic",
    "NanumGothic",
    "Arial Unicode MS",
)


def installed(families: Iterable[str]) -> list[str]:
    """Those of FAMILIES that are among `families`, in the order of FAMILIES."""
    there = set(families)
    return [family for family in FAMILIES if family in there]


def add_fallbacks(font_manager: Any) -> None:
    """Let matplotlib look for missing characters in the fonts for them; nothing if its families were chosen already.

    font_manager: the module `matplotlib.font_manager`, imported.
    """
    settings = sys.modules["matplotlib"].rcParams
    if list(settings["font.family"]) == ["sans-serif"]:
        found = installed(font.name for font in font_manager.fontManager.ttflist)
        if found:
            settings["font.family"] = ["sans-serif", *found]
