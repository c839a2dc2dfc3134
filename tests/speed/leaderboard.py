"""How long the leaderboard takes: 200 methods x 15 categories x 3 seeds x 16 conditions, figures made up.

    python tests/speed/leaderboard.py [METHODS]

Prints the seconds to write the site from results in memory, the weight of the first page without its libraries, and,
where Chromium is installed, the milliseconds to sort the table of 200 methods. Goals: 60 s, 3 MB, 200 ms.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from rdbench.benchmark.results import CellResult, Figure
from rdbench.report.leaderboard import write_site
from tests.made_up import make_cell

CONDITIONS = ("clean", *(f"{kind}:{severity}" for kind in ("lighting", "blur", "noise") for severity in range(1, 6)))
FIGURES = (
    "image_auroc", "image_ap", "image_f1_max", "image_fpr_95", "fpr", "fnr", "failures", "error_rate", "prevalence",
    "ece", "brier", "nll", "false_alarm_gap", "shift_auroc", "auroc_drop",
    *(f"{name}{control}" for name in ("augrc", "aurc", "e_aurc", "failure_auroc", "errors_caught_10")
      for control in ("", "_random", "_margin", "_oracle")),
)  # fmt: skip


def made_up(methods: int) -> list[CellResult]:
    """The cells, their figures taken from a pool of made-up ones."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0.02, 0.9, 20_000)
    pool = [Figure(value=v, low=v - 0.02, high=v + 0.03) for v in values.tolist()]
    draw = iter(rng.integers(len(pool), size=methods * 45 * len(CONDITIONS) * len(FIGURES)).tolist())
    model = make_cell(conditions=CONDITIONS)
    cells = []
    for m in range(methods):
        for c in range(15):
            for seed in range(3):
                name = "deterministic" if m == 0 else f"method_{m:03d}"
                spec = model.spec.model_copy(update={"method": name, "category": f"category_{c:02d}", "seed": seed})
                image = {k: {name: pool[next(draw)] for name in FIGURES} for k in CONDITIONS}
                cells.append(model.model_copy(update={"spec": spec, "image": image}))
    return cells


def main() -> None:
    """Measure and print."""
    methods = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    cells = made_up(methods)
    print(f"{methods} methods, {len(cells) * len(CONDITIONS):,} cells")
    with tempfile.TemporaryDirectory() as folder:
        start, cpu = time.perf_counter(), time.process_time()
        page = write_site(cells, Path(folder) / "site")
        print(
            f"site written in {time.perf_counter() - start:.1f} s, {time.process_time() - cpu:.1f} s of them computing"
        )
        [clean] = page.parent.glob("data/*/clean.js")
        [trends] = page.parent.glob("data/*/trends.js")
        scripts = [
            path for path in (page.parent / "static").iterdir() if path.name not in ("datatables.js", "plotly.js")
        ]
        weight = sum(path.stat().st_size for path in (page, clean, trends, *scripts))
        print(
            f"first page {page.stat().st_size / 1e6:.2f} MB, with what it loads {weight / 1e6:.2f} MB, libraries apart"
        )
        whole = sum(path.stat().st_size for path in page.parent.rglob("*") if path.is_file())
        print(f"whole site {whole / 1e6:.0f} MB")
        if shutil.which("chromium") and shutil.which("chromedriver"):
            measure_sorting(page, Path(folder) / "profile")


def measure_sorting(page: Path, profile: Path) -> None:
    """Click five column heads and time until the table has been sorted and laid out."""
    from tests.report.browser import Browser, new_chrome

    chrome = new_chrome(profile)
    try:
        Browser(chrome).open(page)
        script = """
            const done = arguments[arguments.length - 1];
            const table = document.querySelector("section.ranking:not([hidden]) table.board");
            const first = () => table.tBodies[0].rows[0].textContent;
            (async () => {
                const times = [];
                for (const at of [3, 6, 8, 3, 0]) {
                    const before = first();
                    const start = performance.now();
                    table.tHead.rows[0].cells[at].click();
                    while (first() === before) await new Promise((next) => setTimeout(next));
                    table.getBoundingClientRect();
                    times.push(performance.now() - start);
                }
                done(times);
            })();
        """
        print("sorted in", ", ".join(f"{ms:.0f}" for ms in chrome.execute_async_script(script)), "ms")
    finally:
        chrome.quit()


if __name__ == "__main__":
    main()
