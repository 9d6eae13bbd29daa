"""How much of a value is turned into data. What is cut is marked where it is cut, and each bound has a test.

The numbers are guesses at what a reader of results can use; at the bounds a conversion takes well below a second.
"""

from __future__ import annotations

# A plain list or dict beyond these has no JSON; its text is all there is.
JSON_ITEMS_MAX = 100_000  # values and keys, containers included
JSON_CHARS_MAX = 2_000_000  # characters in all strings and keys together
JSON_DEPTH_MAX = 100  # containers inside containers

# A data frame beyond these loses rows or columns from its end.
FRAME_ROWS_MAX = 10_000
FRAME_COLUMNS_MAX = 500
FRAME_CELLS_MAX = 200_000
FRAME_BYTES_MAX = 4_000_000  # of ASCII JSON, the marker not counted
FRAME_CELL_CHARS_MAX = 10_000  # of one text
FRAME_CELL_ITEMS_MAX = 1_000  # of one list, dict or array
FRAME_KEY_CHARS_MAX = 200  # of one column's name

# Saving an image also displays it. Beyond these it is only saved.
SAVED_IMAGES_SHOWN_MAX = 20  # in one cell
SAVED_IMAGE_PIXELS_MAX = 16_000_000

# A figure's data beyond these is cut: points say so in their series' label, elements in the chart's title.
CHART_POINTS_MAX = 20_000  # points of lines and scatters, and outliers of boxes, in one figure
CHART_ELEMENTS_MAX = 2_000  # series, bars, wedges, boxes and charts in one figure
CHART_TICKS_MAX = 1_000  # on one axis
CHART_TEXT_CHARS_MAX = 1_000  # of one title, label or category
