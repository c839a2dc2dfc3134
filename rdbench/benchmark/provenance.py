"""What a result was made with: versions, commit, device."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from rdbench import __version__
from rdbench.benchmark.results import Provenance

PACKAGES = ("torch", "torchvision", "torch-uncertainty", "numpy", "scipy", "scikit-learn", "pillow")


def provenance(device: torch.device, kept_memory: bool) -> Provenance:
    """The provenance of results made now, in this process, on `device`; `kept_memory`: see :class:`Provenance`."""
    commit, dirty = _git_state(Path(__file__).resolve().parents[2])
    return Provenance(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        rdbench=__version__,
        packages={name: version(name) for name in PACKAGES},
        git_commit=commit,
        git_dirty=dirty,
        device=_device_name(device),
        platform=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        threads=torch.get_num_threads(),
        kept_memory=kept_memory,
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capability = torch.backends.cpu.get_cpu_capability()
    return f"CPU ({platform.processor() or platform.machine()}, {capability})"


@cache  # what runs is what was there when the process began
def _git_state(checkout: Path) -> tuple[str, bool | None]:
    """The commit that the running code was checked out from, if it was; an installed package has none."""
    if not (checkout / ".git").exists():
        return "", None
    try:
        commit = _git(checkout, "rev-parse", "HEAD")
        return commit, bool(_git(checkout, "status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return "", None


def _git(checkout: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "--no-optional-locks", "-C", str(checkout), *arguments],  # else `status` gets in a commit's way
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return done.stdout.strip()
