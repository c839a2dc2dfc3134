"""Where the leaderboard's templates, static files and published entries lie."""

from __future__ import annotations

from pathlib import Path


def leaderboard_directory(name: str) -> Path:
    """The directory `name` ("templates", "static" or "results"): inside the wheel, or beside the package."""
    package = Path(__file__).parents[1]
    installed = package / "leaderboard" / name
    return installed if installed.is_dir() else package.parent / "leaderboard" / name
