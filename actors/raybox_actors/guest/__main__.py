"""`python -I guest ADDRESS LEAN_ADDRESS PARENT FILTER IMPORT...` in a template's environment: be the zygote of that
template.

PARENT is the pid whose end ends the zygote. FILTER is a descriptor to read the sandboxes' system call filter from.
"""

import os
import sys

folder = os.path.dirname(os.path.abspath(__file__))


def _hide() -> None:
    """User code must not import our modules by their plain names."""
    sys.path.remove(folder)
    sys.path_importer_cache.pop(folder, None)
    ours = [name for name, module in sys.modules.items() if str(getattr(module, "__file__", "")).startswith(folder)]
    for name in ours:
        if name != "__main__":
            sys.modules[f"_raybox_{name}"] = sys.modules.pop(name)


def main(address: str, lean_address: str, parent: int, program: int, imports: list[str]) -> None:
    """Warm up, listen, write "ready" to stdout, and serve until the parent dies."""
    sys.path.insert(0, folder)
    from lean import start_lean
    from program import PlainInterpreter
    from zygote import Zygote, settle

    plain = PlainInterpreter()
    calls = settle(parent, program)
    lean = start_lean(lean_address, calls, plain, _hide)
    from warm import Notebook

    _hide()
    zygote = Zygote(address, calls, Notebook(imports, plain), lean)
    os.write(1, b"ready\n")
    zygote.run()


if __name__ == "__main__":
    if folder in sys.path:
        sys.path.remove(folder)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
