"""What sharing saves: all methods in one command, and the same cells one by one, each into a store of its own.

    python tests/speed/sharing.py --shift exposure --shift defocus --shift sensor     # 3 shifts x 5 severities; hours
    python tests/speed/sharing.py --size 64 --epochs 1 --backbone embedded --methods deterministic,tta -o tta.shift=0

Every command is a process of its own, as a user starts it. Options are written method.key=value.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rdbench.registry import find_methods


def main() -> None:
    """Print both wall times, their ratio and what the one command says it shared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(sorted(find_methods())))
    parser.add_argument("--dataset", default="toy")
    parser.add_argument("--root")
    parser.add_argument("--category", default="twill")
    parser.add_argument("--shift", action="append", default=[])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--weights", default="random", help="random, or a file")
    parser.add_argument("--size", default="256")
    parser.add_argument("--epochs", default="20")
    parser.add_argument("--option", "-o", action="append", default=[])
    arguments = parser.parse_args()
    methods = arguments.methods.split(",")
    common = [
        f"--{name}={getattr(arguments, name)}" for name in ("dataset", "category", "backbone", "weights", "epochs")
    ]
    common += [f"--image-size={arguments.size}", *(f"--shift={shift}" for shift in arguments.shift)]
    if arguments.root:
        common.append(f"--root={arguments.root}")

    def seconds(names: list[str], out: Path) -> tuple[float, str]:
        options = [f"--option={each}" for each in arguments.option if each.partition(".")[0] in names]
        command = [sys.executable, "-m", "rdbench.cli", "run", f"--method={','.join(names)}", f"--out={out}"]
        start = time.perf_counter()
        done = subprocess.run([*command, *common, *options], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        return time.perf_counter() - start, done.stderr

    with tempfile.TemporaryDirectory() as folder:
        together, said = seconds(methods, Path(folder) / "together")
        print(*[line.strip() for line in said.splitlines() if "shared: " in line], sep="\n")
        print(f"{len(methods)} cells in one command: {together:.0f} s", flush=True)
        apart = 0.0
        for name in methods:
            alone, _ = seconds([name], Path(folder) / name)
            apart += alone
            print(f"  {name:22} {alone:7.1f} s", flush=True)
    print(f"one by one: {apart:.0f} s, {apart / together:.2f} times as long")


if __name__ == "__main__":
    main()
