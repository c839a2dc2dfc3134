"""How long `rdbench evaluate` takes over many stored cells.

    python tests/speed/evaluate.py [--cells 1000] [--images 117]

The cells are made up from a seed, under four conditions each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from rdbench.benchmark.store import open_store, sha256
from tests.made_up import make_cell, make_predictions


def main() -> None:
    """Make the cells up, evaluate them, print the time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--images", type=int, default=116)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder) / "runs", create=True)
        for seed in range(arguments.cells):
            path = Path(folder) / "made_up.npz"
            make_predictions(seed=seed, images=arguments.images).save(path)
            store.write(make_cell(seed=seed, predictions_sha256=sha256(path)), path)
        code = (
            "import sys; from rdbench.cli import app\n"
            f"app(['evaluate', {str(store.root)!r}, '--no-intervals'], standalone_mode=False)\n"
            "assert 'torch' not in sys.modules"
        )
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        seconds = time.perf_counter() - begin
    print(f"{arguments.cells} cells of {arguments.images} images: {seconds:.1f} s, torch was not started")


if __name__ == "__main__":
    main()
