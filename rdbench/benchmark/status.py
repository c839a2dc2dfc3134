"""What is going on in a store: finished, failed, at work, left over. Reads only, at any moment. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rdbench.benchmark.results import CellFailure
from rdbench.benchmark.store import CELLS, FAILED, LOCKS, RESULT, RUN, WORK, Holder, open_store
from rdbench.words import count


@dataclass(frozen=True)
class Status:
    """A store at one moment."""

    finished: Counter[str]
    """Cells by data set, as its folder is called."""
    failed: Counter[str]
    reasons: list[tuple[str, list[str]]]
    """Each reason why cells failed, and which."""
    runs: list[Holder]
    """The runs that go on."""
    groups: list[Holder]
    """The groups that are worked on."""
    left: list[str]
    """Groups that were begun and are worked on by nobody."""

    def lines(self) -> Iterator[str]:
        """What is at work, failed and left over, in words."""
        for run in self.runs:
            yield f"run: {_words(run)}"
        for group in self.groups:
            yield f"at work: {_words(group)}"
        for reason, cells in self.reasons:
            more = f" and {len(cells) - 3} more" if len(cells) > 3 else ""
            yield f"failed: {'; '.join(cells[:3])}{more}: {reason}"
        for group_id in self.left:
            yield f"begun and not finished: {group_id}; the same command goes on from there"
        if not (self.runs or self.groups):
            yield "nothing is at work here"


def read_status(root: Path) -> Status:
    """What is going on in the store at `root`. Raises InputError if there is none."""
    store = open_store(root, create=False)
    held, begun = list(store.held()), _begun(root)
    now = {holder.name for holder in store.held()} | {holder.name for holder in held}
    runs = [holder for holder in held if holder.name.startswith(RUN)]
    groups = [holder for holder in held if not holder.name.startswith(RUN)]
    finished = Counter(path.parts[-4] for path in root.glob(f"[!.]*/*/*/{RESULT}"))
    failed: Counter[str] = Counter()
    reasons: dict[str, list[str]] = {}
    for path in sorted((root / FAILED).glob("[!.]*.json")):
        try:
            failure = CellFailure.model_validate_json(path.read_bytes())
        except FileNotFoundError:  # succeeded meanwhile
            continue
        except ValueError:
            reasons.setdefault("the note of it cannot be read; remove it", []).append(str(path))
            continue
        failed[failure.spec.path.parts[0]] += 1
        reasons.setdefault(failure.reason, []).append(str(failure.spec))
    # A group may have begun, or ended, between one look and the next.
    left = [name for name in _begun(root) if name in begun and not name.startswith(tuple(now))]
    return Status(finished, failed, list(reasons.items()), runs, groups, left)


def _begun(root: Path) -> list[str]:
    return sorted(path.name for path in (root / WORK).glob("*") if path.is_dir() and path.name not in (LOCKS, CELLS))


def _words(holder: Holder) -> str:
    if not holder.host:
        return f"{holder.name} (its lock file does not say by whom)"
    return f"{holder.what or holder.name} (process {holder.pid} on {holder.host}, since {holder.since})"


def progress_words(done: int, failed: int, cells: int) -> str:
    """How far a run is, as its lock says it."""
    return f"{done} of {count(cells, 'cell')} done, {failed} failed"
