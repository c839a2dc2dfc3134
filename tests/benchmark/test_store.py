"""The store holds whole cells only, and says what is wrong with anything else."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from rdbench.benchmark.locks import MERGE, RUN
from rdbench.benchmark.results import CellFailure, CellSpec, Predictions, slug
from rdbench.benchmark.store import PREDICTIONS, RESULT, Store, open_store, read_predictions, read_result, sha256
from rdbench.errors import InputError
from tests.made_up import make_cell, make_predictions, make_spec


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "runs", create=True)


def written(store: Store, tmp_path: Path, **changes: object) -> Path:
    predictions = tmp_path / "made_up.npz"
    make_predictions().save(predictions)
    return store.write(make_cell(predictions_sha256=sha256(predictions), **changes), predictions)


def test_a_cell_comes_back_as_it_went_in(store: Store, tmp_path: Path) -> None:
    directory = written(store, tmp_path)
    ((found, result),) = store.results()
    assert found == directory
    assert store.has(make_spec())
    assert not store.has(make_spec(seed=1))
    back = read_predictions(directory, result)
    for name, value in vars(make_predictions()).items():
        np.testing.assert_array_equal(getattr(back, name), value)


OTHER: dict[str, object] = {
    "protocol": 2,
    "dataset": "mvtec_ad",
    "category": "bottle",
    "method": "mc_dropout",
    "options": {"shift": 5},
    "method_sha256": "4" * 64,
    "seed": 1,
    "backbone": "resnet34",
    "weights_sha256": "5" * 64,
    "image_size": (320, 256),
    "map_size": (256, 256),
    "epochs": 11,
    "batch_size": 8,
    "precision": "bf16",
    "conditions": ("clean", "noise:3"),
    "fingerprint": "6" * 64,
}


@pytest.mark.parametrize("name", CellSpec.model_fields)
def test_every_field_of_the_spec_makes_another_cell(store: Store, tmp_path: Path, name: str) -> None:
    written(store, tmp_path)
    if name == "weights":
        assert store.has(make_spec(weights="renamed.pth")), "a file's name decides nothing"
    else:
        assert not store.has(make_spec(**{name: OTHER[name]}))


def test_methods_share_a_group_and_seeds_do_not() -> None:
    assert make_spec().group_id == make_spec(method="mc_dropout", options={}, method_sha256="9" * 64).group_id
    assert make_spec().group_id != make_spec(seed=1).group_id


def test_a_failure_is_kept_until_the_cell_succeeds(store: Store, tmp_path: Path) -> None:
    failure = CellFailure(spec=make_spec(), stage="fit", reason="no", traceback="", bad_input=False)
    path = store.write_failure(failure)
    assert CellFailure.model_validate_json(path.read_text()) == failure
    assert list(store.results()) == []
    written(store, tmp_path)
    assert not path.exists()


def test_an_unfinished_cell_is_never_read(store: Store) -> None:
    (store.work_directory("cells") / "half").mkdir()
    (store.work_directory("cells") / "half" / RESULT).write_text("{")
    assert list(store.results()) == []


@pytest.mark.parametrize(("text", "message"), [("{", "no valid result"), ('{"spec": {}}', r"spec\.protocol")])
def test_a_damaged_result_is_named(store: Store, tmp_path: Path, text: str, message: str) -> None:
    directory = written(store, tmp_path)
    (directory / RESULT).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        list(store.results())
    assert str(directory / RESULT) in str(error.value)


def test_a_cell_without_its_result_is_run_again(store: Store, tmp_path: Path) -> None:
    directory = written(store, tmp_path)
    (directory / "model").mkdir()
    assert [model for model, _ in store.kept_models(make_spec(), "deterministic")] == [directory / "model"]
    (directory / RESULT).unlink()
    assert not list(store.kept_models(make_spec(), "deterministic"))
    assert not list(store.results())
    assert not store.has(make_spec())


def test_what_may_not_be_read_is_named_and_not_left_out(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = written(store, tmp_path)
    for closed in (directory, directory.parent, directory.parent.parent):
        with monkeypatch.context() as patch:
            forbid(closed, patch)
            with pytest.raises(InputError, match=f"{closed} (may not be read|cannot be listed)"):
                list(store.results())
            with pytest.raises(InputError, match=f"{closed} may not be read by this user; change its permissions"):
                store.has(make_spec())


def forbid(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """As if the folder belonged to somebody else; the superuser may read every one."""
    iterdir, access = Path.iterdir, os.access

    def listed(self: Path) -> Iterator[Path]:
        if self == folder:
            raise PermissionError(errno.EACCES, "Permission denied")
        return iterdir(self)

    patch.setattr(Path, "iterdir", listed)
    patch.setattr(os, "access", lambda path, mode: path != folder and access(path, mode))


def test_changed_predictions_are_refused(store: Store, tmp_path: Path) -> None:
    directory = written(store, tmp_path)
    ((_, result),) = store.results()
    make_predictions(seed=1).save(directory / PREDICTIONS)
    with pytest.raises(InputError, match="not what the result was computed from"):
        read_predictions(directory, result)


def test_predictions_of_another_version_are_named(store: Store, tmp_path: Path) -> None:
    directory = written(store, tmp_path)
    ((_, result),) = store.results()
    with np.load(directory / PREDICTIONS) as archive:
        np.savez(directory / PREDICTIONS, **{name: archive[name] for name in archive.files if name != "parts"})
    changed = result.model_copy(update={"predictions_sha256": sha256(directory / PREDICTIONS)})
    with pytest.raises(InputError, match=r"predictions\.npz: it lacks parts; remove") as error:
        read_predictions(directory, changed)
    assert str(error.value).count(PREDICTIONS) == 1


def test_pickled_predictions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.npz"
    names = list(Predictions.__dataclass_fields__)
    np.savez(path, **{name: np.array([{"a": 1}], dtype=object) for name in names})
    with pytest.raises(ValueError, match="allow_pickle"):
        Predictions.load(path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write results to"):
        open_store(tmp_path / "file" / "runs", create=True)
    with pytest.raises(InputError, match="no results at"):
        open_store(tmp_path / "nothing", create=False)


@pytest.mark.parametrize("name", ["../../etc", "a/b", "..", "", "ü", "x" * 300, "con.txt", "a b"])
def test_no_name_leaves_its_directory(name: str) -> None:
    safe = slug(name)
    assert Path(safe).name == safe
    assert safe not in ("", ".", "..")
    assert len(safe) < 100
    assert make_spec(category=name).path.parts[:2] == ("toy", safe)


def test_distinct_names_stay_distinct() -> None:
    assert len({slug(name) for name in ("a b", "a-b", "a/b", "a.b", "a  b")}) == 5


def test_what_one_run_works_on_another_leaves_alone(store: Store) -> None:
    with store.locks.hold("group"):
        with store.locks.hold("another"):
            pass
        with pytest.raises(InputError, match="another run is at work"), store.locks.hold("group"):
            pass
    with store.locks.hold("group"):
        pass


def test_a_run_that_ends_while_its_lock_is_read_disturbs_nobody(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run takes its lock file with it, here between the look whether it is held and the reading of what it says."""
    flock, asked = fcntl.flock, []

    def ends(file: IO[bytes], kind: int) -> None:
        try:
            flock(file, kind)
        except BlockingIOError:
            asked.append(file.name)
            Path(file.name).unlink()
            raise

    with store.locks.hold(f"{RUN}1", "0 of 1 cells done"):
        monkeypatch.setattr(fcntl, "flock", ends)
        assert [holder.what for holder in store.locks.held()] == ["0 of 1 cells done"]
        assert len(asked) == 1
        assert not list(store.locks.held())


def test_a_disk_that_fills_up_does_not_end_the_run_with_its_lock(store: Store) -> None:
    """The note of who holds the lock is lost, nothing else."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with store.locks.hold("group") as tell:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4, limits[1]))  # as if there were room for 4 bytes
            tell("much further")
            assert [holder.name for holder in store.locks.held()] == ["group"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_result_that_cannot_be_written_again_is_said_and_stays(store: Store, tmp_path: Path) -> None:
    directory = written(store, tmp_path)
    before = (directory / RESULT).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4, limits[1]))  # as if there were room for 4 bytes
        with pytest.raises(InputError, match=r"result\.json: File too large; it is as it was"):
            store.rewrite(directory, read_result(directory / RESULT))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (directory / RESULT).read_bytes() == before
    assert not list(directory.glob(".*")), "nothing half-written is left"


def test_a_store_that_cannot_be_written_to_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(InputError, match="No space left on device; mend that"), store.locks.hold("group"):
        pass


def test_a_file_system_without_locks_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(InputError, match="cannot be locked: No locks available"), store.locks.hold("group"):
        pass


def test_a_cell_is_on_the_disk_before_it_is_at_its_place(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system may keep a rename and lose what the files held, if the power goes."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_text("w")
    predictions = tmp_path / "made_up.npz"
    make_predictions().save(predictions)
    target = store.root / make_spec().path
    on_disk: list[tuple[str, bool]] = []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        on_disk.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")).name, target.exists()))
        sync(descriptor)

    monkeypatch.setattr("os.fsync", watched)
    store.write(make_cell(predictions_sha256=sha256(predictions)), predictions, model)
    before = {name for name, moved in on_disk if not moved}
    assert {PREDICTIONS, RESULT, "weights", "model", f"{target.name}.{os.getpid()}"} <= before
    after = [name for name, moved in on_disk if moved]
    assert after == [target.parent.name, target.parent.parent.name, store.root.name]


def test_what_a_killed_run_left_on_its_way_in_is_cleared_up(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between its two moves, a run that replaces a cell has left none at its place: the old one comes back."""
    directory = written(store, tmp_path)
    before = (directory / RESULT).read_bytes()
    move = Path.replace

    def killed(path: Path, to: Path) -> Path:
        if to == directory:
            raise KeyboardInterrupt
        return move(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            written(store, tmp_path)
    assert not directory.exists()
    with store.locks.hold(f"{RUN}1"), store.locks.hold(f"{RUN}2"):
        store.clear_up(f"{RUN}1")
        assert not directory.exists(), "it may be the other's"
    with store.locks.hold(f"{RUN}1"):
        store.clear_up(f"{RUN}1")
    assert (directory / RESULT).read_bytes() == before
    assert not list((store.root / ".work" / "cells").iterdir())


@pytest.mark.parametrize("category", ["merge", "merged parts", "merge.", "run", "run.1", "run-1"])
def test_a_group_is_not_taken_for_a_merge_or_a_run_whatever_its_category_is_called(store: Store, category: str) -> None:
    with store.locks.hold(make_spec(category=category).group_id):
        store.locks.refuse_beside(MERGE)
        store.locks.refuse_beside(RUN)


def test_a_cell_that_is_replaced_is_never_seen_half(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when it is run again to keep its model: whoever removes the old one, removes it out of sight."""
    directory = written(store, tmp_path)
    removed: list[Path] = []
    whole = shutil.rmtree

    def watched(path: Path, **given: bool) -> None:
        removed.append(Path(path))
        whole(path, **given)

    monkeypatch.setattr("shutil.rmtree", watched)
    assert written(store, tmp_path) == directory
    assert removed
    assert directory not in removed
    assert [found for found, _ in store.results()] == [directory]
    assert not list((store.root / ".work" / "cells").iterdir())
