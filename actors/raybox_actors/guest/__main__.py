"""`python -I guest ADDRESS PARENT FILTER IMPORT...` in a template's environment: be the zygote of that template.

PARENT is the pid whose end ends the zygote. FILTER is a descriptor to read the sandboxes' system call filter from.
"""

import os
import sys

folder = os.path.dirname(os.path.abspath(__file__))
if folder not in sys.path:
    sys.path.insert(0, folder)

from zygote import main  # noqa: E402

# User code must not import our modules by their plain names.
sys.path.remove(folder)
sys.path_importer_cache.pop(folder, None)


def _is_ours(module: object) -> bool:
    return str(getattr(module, "__file__", "")).startswith(folder)


for _name in [name for name, module in sys.modules.items() if name != "__main__" and _is_ours(module)]:
    sys.modules[f"_raybox_{_name}"] = sys.modules.pop(_name)

if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
