"""Figures and data frames to plain data, inside a sandbox or any notebook. Standard library only.

Importing it has no side effects. `raybox_extractor.ipython` is the IPython extension that puts it to use.
"""

from raybox_extractor.figures import extract_figure
from raybox_extractor.frames import extract_frame
from raybox_extractor.plain import NotPlain, plain_or_none, to_plain

__all__ = ["NotPlain", "extract_figure", "extract_frame", "plain_or_none", "to_plain"]
