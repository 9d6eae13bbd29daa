"""Runs the programs of examples/gallery in a sandbox and writes docs/gallery.md: each picture, and its chart beside it.

    .venv/bin/python examples/draw_gallery.py

Needs a pool: RAYBOX_URL and RAYBOX_API_KEY, as `raybox up` prints them.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybox import Sandbox

ROOT = Path(__file__).parents[1]
PROGRAMS = ROOT / "examples" / "gallery"
PAGE = ROOT / "docs" / "gallery.md"
PICTURES = ROOT / "docs" / "gallery"

BEGINNING = """# Gallery

What a plot leaves behind: a picture, and its data. Every program below is a file in `examples/gallery`;
`examples/draw_gallery.py` ran them in a sandbox and wrote this page.

```python
from raybox import Sandbox

with Sandbox.create() as sandbox:
    code = "import matplotlib.pyplot as plt; plt.bar(['a', 'b'], [1, 2]); plt.show()"
    result = sandbox.run_code(code).results[0]
    print(len(result.png), result.chart.type, [(bar.label, bar.value) for bar in result.chart.elements])
```

The keys of a chart, and how figures of other libraries read, are in the extractor's
[README](../extractor/README.md#charts).
"""


@dataclass(frozen=True)
class Drawn:
    """What one program left behind."""

    about: str
    code: str
    png: bytes
    chart: dict[str, Any]

    def section(self, name: str) -> str:
        code = self.code.strip()
        picture = f"![{name}](gallery/{name}.png)"
        return f"\n## {self.about}\n\n{picture}\n\n```py\n{code}\n```\n\n```json\n{shown(self.chart)}\n```\n"


def run(sandbox: Sandbox, program: Path) -> Drawn:
    """Run a program of the gallery. Raises ValueError unless it shows exactly one figure."""
    text = program.read_text()
    about, code = text.removeprefix('"""').split('"""', 1)
    execution = sandbox.run_code(text)
    if execution.error or len(execution.results) != 1 or execution.results[0].chart is None:
        raise ValueError(f"{program.name}: {execution}")
    (result,) = execution.results
    assert result.chart is not None
    return Drawn(about.rstrip("."), code, base64.b64decode(result.png or ""), result.chart.to_dict())


def shown(chart: dict[str, Any], indent: str = "") -> str:
    """The chart as JSON, one key or element a line."""
    lines = []
    for key, value in chart.items():
        if key == "elements" and value:
            is_super = chart["type"] == "superchart"
            inner = indent + "    "
            parts = [inner + (shown(part, inner) if is_super else json.dumps(part)) for part in value]
            text = "[\n" + ",\n".join(parts) + f"\n{indent}  ]"
        else:
            text = json.dumps(value, ensure_ascii=False)
        lines.append(f"{indent}  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def main() -> None:
    page = BEGINNING
    PICTURES.mkdir(exist_ok=True)
    with Sandbox.create() as sandbox:
        for program in sorted(PROGRAMS.glob("*.py")):
            drawn = run(sandbox, program)
            (PICTURES / f"{program.stem}.png").write_bytes(drawn.png)
            page += drawn.section(program.stem)
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
