"""The two JavaScript libraries of the page, taken from the installed packages and written beside it."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

EXPORTS = re.compile(r"export\s*\{([^{}]*)\};?")


def write_libraries(static: Path) -> None:
    """Write `datatables.js` (from itables, MIT) and `plotly.js` (from plotly, MIT) into the directory `static`."""
    (static / "datatables.js").write_text(datatables_script(), encoding="utf-8")
    (static / "plotly.js").write_bytes((files("plotly") / "package_data" / "plotly.min.js").read_bytes())


def datatables_script() -> str:
    """DataTables as a plain script that defines `window.DataTable`.

    itables ships it as a module, and browsers load no module from the file system.
    """
    module = (files("itables") / "html" / "dt_bundle.js").read_text(encoding="utf-8")
    [exports] = EXPORTS.finditer(module)
    [name] = [item.split()[0] for item in exports[1].split(",") if item.split()[-1] == "default"]
    body = f"{module[: exports.start()]}window.DataTable = {name};{module[exports.end() :]}"
    return f'(() => {{"use strict";{body}\n}})();\n'
