"""`rdbench methods new` writes what runs, and `rdbench methods check` says what is wrong with a stranger's method."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rdbench.check import watch
from rdbench.check.checks import check_method
from rdbench.check.new import method_source
from rdbench.check.world import World
from rdbench.errors import InputError
from rdbench.method_file import read_method_file
from rdbench.registry import find_methods, load_method
from rdbench.uq.checkpoints import save_student
from tests.command import Command

pytestmark = pytest.mark.long

SMALL = {"members": 2, "samples": 2, "folds": 2}
"""Options that make a built-in method quick, where it has them."""

GOOD = '''"""A method of the test."""

import random
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rdbench.protocol import Prediction
from rdbench.rd.anomaly import anomaly_map, anomaly_score
from rdbench.uq.checkpoints import load_student, save_student


@dataclass
class Strange:
    samples: int = 2
    "how many"

    predicting = ("samples",)

    def fit(self, train, context):
        self.student = context.deterministic()
        # fit

    def predict(self, batch):
        maps = anomaly_map(batch.features, self.student(batch.features), batch.images.shape[-2:])
        scores = anomaly_score(maps)
        uncertainty = torch.ones_like(scores)
        # predict
        return Prediction(maps, scores, uncertainty)

    def save(self, directory):
        save_student(self.student, directory / "student.safetensors")
        # save

    def load(self, directory, context):
        self.student = load_student(directory / "student.safetensors", context)
        # load
'''

BAD: dict[str, tuple[str, str, str, str]] = {
    "reads image files": (
        "predict",
        "self.seen = [path.read_bytes() for path in Path(sys.argv[5]).rglob('*.png')]",
        "files",
        "predict lists",
    ),
    "reads names in the data folder": (
        "fit",
        "import os; self.names = os.listdir(os.environ['RDBENCH_DATA'])",
        "files",
        "data; a method sees no files but those",
    ),
    "reads the run's arguments": ("predict", "Path('/proc/self/cmdline').read_bytes()", "files", "/proc/self/cmdline"),
    "trains on the calibration images": (
        "fit",
        "context.train(context.new_student(0), context.calibration, 0)",
        "fit and save",
        "fit (line 25): it trains on the calibration images, which the decision threshold is taken from",
    ),
    "writes elsewhere": ("save", "(Path.home() / 'rdbench-strange').mkdir()", "fit and save", "does not let it do"),
    "starts a process": ("fit", "import subprocess; subprocess.run(['ls'])", "fit and save", "starts a process"),
    "walks up the stack": (
        "predict",
        "import inspect; any('labels' in frame.frame.f_locals for frame in inspect.stack())",
        "callers",
        "predict looks at callers or through memory",
    ),
    "looks through memory": ("fit", "import gc; gc.get_objects()", "callers", "gc.get_objects"),
    "knows the data sets": ("fit", "import rdbench.datasets.toy", "file", "it holds labels and files"),
    "normalises over the batch": (
        "predict",
        "self.student.train(); scores = anomaly_score(anomaly_map(batch.features, self.student(batch.features), "
        "batch.images.shape[-2:])); self.student.eval()",
        "batch",
        "must not depend on its batch",
    ),
    "ranks within the batch": (
        "predict",
        "uncertainty = scores.argsort().argsort().float()",
        "batch",
        "gets another uncertainty",
    ),
    "draws per image": (
        "predict",
        "uncertainty = torch.rand(len(scores), generator=torch.Generator().manual_seed(0))",
        "batch",
        "in another order gets another uncertainty",
    ),
    "changes features": ("predict", "batch.features[0].add_(1)", "inputs", "batch.features[0] in place"),
    "changes images": ("predict", "batch.images.clamp_(0)", "inputs", "predict changes batch.images in place"),
    "wrong shape": ("predict", "maps = maps[:, ::2]", "prediction", "has shape (4, 32, 64), wanted (4, 64, 64)"),
    "transposed members": (
        "predict",
        "return Prediction(maps, scores, uncertainty, member_scores=torch.stack([scores] * 3, dim=1))",
        "prediction",
        "prediction.member_scores has shape (4, 3), wanted (K, 4): K members, 4 images",
    ),
    "members of no dimension": (
        "predict",
        "return Prediction(maps, scores, uncertainty, member_scores=scores.mean())",
        "prediction",
        "prediction.member_scores has shape (), wanted (K, 4): K members, 4 images",
    ),
    "wrong type": ("predict", "scores = scores.double()", "prediction", "is torch.float64, wanted a float32 tensor"),
    "no tensor": ("predict", "uncertainty = [0.0] * len(scores)", "prediction", "is list, wanted a float32 tensor"),
    "NaN": ("predict", "uncertainty[0] = float('nan')", "prediction", "holds NaN or infinity"),
    "negative": ("predict", "uncertainty = -uncertainty", "prediction", "holds -1, wanted no negative values"),
    "raises": ("predict", "maps[99]", "prediction", "predict raised (line 31) IndexError"),
    "leaves": ("fit", "sys.exit('enough')", "fit and save", "fit raised (line 25) SystemExit: enough"),
    "hangs": ("predict", "while True: pass", "prediction", "took longer than 3 s"),
    "another every time": (
        "predict",
        "import time; uncertainty = uncertainty * (time.perf_counter() % 1)",
        "same again",
        "predicting the same batch again gives another uncertainty",
    ),
    "fits by the clock": (
        "fit",
        "import copy, time; self.student = copy.deepcopy(self.student); "
        "self.student.decoder.fine[0].bn1.bias.data += time.perf_counter() % 1",
        "same again",
        "fitting again with the same seed gives another",
    ),
    "saves half": (
        "load",
        "self.student.decoder.fine[0].bn1.bias.data *= torch.rand(1, generator=torch.Generator().manual_seed(0)) + 1",
        "saved whole",
        "than what was fitted; save it exactly",
    ),
    "load trains": ("load", "context.train(self.student, context.calibration, 0)", "load", "asks for training"),
    "load steps": (
        "load",
        "torch.optim.SGD(self.student.parameters(), lr=0.0).step()",
        "load",
        "load takes 1 steps of an optimizer",
    ),
    "load runs networks": (
        "load",
        "[self.student(batch.features) for batch in context.calibration.batches(4)]",
        "load",
        "load runs networks on 12 images",
    ),
    "changes the teacher": (
        "fit",
        "next(context.teacher.parameters()).data.add_(0.1)",
        "teacher",
        "fit changes the teacher; it is shared",
    ),
    "changes the shared student": (
        "fit",
        "self.student.train()",
        "shared students",
        "fit changes the student of context.trained(0); other methods use it",
    ),
    "draws in predict": ("predict", "torch.rand(1)", "random state", "predict changes torch's random state"),
    "sets what holds for all": (
        "fit",
        "torch.set_default_dtype(torch.float64)",
        "settings",
        "fit changes torch's default dtype",
    ),
    "predicting names what fitting needs": (
        "save",
        "(directory / 'samples.txt').write_text(str(self.samples))",
        "predicting",
        "samples=3 changes what is saved",
    ),
    "keeps all it sees": (
        "predict",
        "self.seen = [*getattr(self, 'seen', []), maps.clone()]",
        "memory",
        "with every batch",
    ),
    "prints": ("predict", "print('x' * 5000)", "output", "characters, wanted at most 2,000"),
    "networks without a role": (
        "load",
        "self.student.bottleneck.role = self.student.decoder.role = ''",
        "cost",
        "passes are not counted",
    ),
}


@pytest.mark.parametrize("fault", list(BAD))
def test_what_is_wrong_is_said_in_words(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, code, check, words = BAD[fault]
    if fault == "hangs":
        monkeypatch.setattr(watch, "SECONDS", 3.0)
    (tmp_path / "strange.py").write_text(GOOD.replace(f"# {where}\n", f"{code}\n"))
    rows = {row.check: row for row in check_method("strange", methods_dir=tmp_path)}
    assert rows[check].outcome == "FAILED", rows
    assert words in rows[check].words
    assert not [row for row in rows.values() if "BrokenMethod" in row.words or "InputError" in row.words]
    assert not (Path.home() / "rdbench-strange").exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise RuntimeError('no')", "{path} does not import: RuntimeError: no"),
        ("while True: pass", "import took longer than 1 s on images of 64 pixels"),
    ],
)
def test_a_file_that_does_not_import_is_said_in_one_sentence(
    code: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SECONDS", 1.0)
    path = tmp_path / "strange.py"
    path.write_text(GOOD + f"\n\n{code}\n")
    first, *_ = check_method("strange", methods_dir=tmp_path)
    assert (first.outcome, first.words) == ("FAILED", words.format(path=path))


def test_what_is_kept_in_the_module_is_not_saved(tmp_path: Path) -> None:
    source = GOOD.replace("# fit\n", "Strange.kept = self.student\n")
    source = source.replace('load_student(directory / "student.safetensors", context)', "Strange.kept")
    (tmp_path / "strange.py").write_text(source)
    rows = {row.check: row for row in check_method("strange", methods_dir=tmp_path)}
    assert "has no attribute 'kept'" in rows["load"].words


def test_a_good_method_passes_with_what_its_libraries_do(rdbench: Command, tmp_path: Path) -> None:
    code = "np.random.rand(); import sklearn.neighbors; print('fitted')"
    (tmp_path / "strange.py").write_text(GOOD.replace("# fit\n", f"{code}\n"))
    start = time.monotonic()
    done = rdbench("methods", "check", "strange", "--methods-dir", tmp_path, "-o", "samples=4")
    assert done.code == 0, done.out
    assert "samples=4" in done.out
    assert "fit changes NumPy's random state" in done.out
    assert time.monotonic() - start < 30


def test_an_uncertainty_that_is_the_same_for_all_images_is_a_warning(rdbench: Command, tmp_path: Path) -> None:
    (tmp_path / "strange.py").write_text(GOOD)
    done = rdbench("methods", "check", "strange", "--methods-dir", tmp_path)
    assert done.code == 0, done.out
    assert "uncertainty warning it is 1 for every image" in " ".join(done.out.split())


def test_a_failed_check_is_the_exit_code(rdbench: Command, tmp_path: Path) -> None:
    (tmp_path / "strange.py").write_text(GOOD.replace("# predict\n", "uncertainty -= 2\n"))
    done = rdbench("methods", "check", "strange", "--methods-dir", tmp_path)
    assert done.code == 1
    assert "holds -1, wanted no negative values" in " ".join(done.out.split())
    (tmp_path / "strange.py").write_text("import os, sys\nsys.exit(3)\n" + GOOD)
    assert rdbench("methods", "check", "strange", "--methods-dir", tmp_path).code == 1
    (tmp_path / "strange.py").write_text("def broken(:\n")
    done = rdbench("methods", "check", "strange", "--methods-dir", tmp_path)
    assert (done.code, "syntax error in line 1" in done.out) == (1, True)


def test_what_a_user_mistypes_is_one_line(rdbench: Command) -> None:
    assert "did you mean deterministic" in rdbench("methods", "check", "determinstic").error()
    assert "unknown option" in rdbench("methods", "check", "tta", "-o", "flip=true").error()
    assert "one value each" in rdbench("methods", "check", "tta", "-o", "rotation=1,2").error()


def test_a_new_method_passes_and_runs(rdbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = rdbench("methods", "new", "my_method")
    assert done.code == 0, done.err
    assert (tmp_path / "methods" / "my_method.py").read_text() == method_source("my_method")
    assert "class MyMethod:" in method_source("my_method")
    rows = check_method("my_method")
    assert {row.outcome for row in rows} == {"passed"}, rows
    done = rdbench(
        "run", "--method", "my_method", "--dataset", "toy", "--category", "twill", "--image-size", "64", "--epochs", "1"
    )
    assert done.code == 0, done.err
    assert "my_method" in done.out


def test_a_new_method_draws_from_the_seed_and_keeps_the_teachers_features_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "my_method.py").write_text(method_source("my_method"))
    method = load_method(read_method_file(tmp_path / "my_method.py", "test"), {"samples": 2})
    world = World(tmp_path)
    batch = world.batch([0, 1])

    class Perfect(torch.nn.Module):
        """A student that gives back the teacher's features whatever it sees, and keeps that."""

        def forward(self, features: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
            self.seen = features[0]
            return batch.features

    seen = []
    save_student(world.context.new_student(0), tmp_path / "student.safetensors")
    for seed in (0, 0, 1):
        method.load(tmp_path, replace(world.context, seed=seed))
        method.student = student = Perfect()  # type: ignore[attr-defined]
        assert method.predict(batch).anomaly_map.max() < 1e-5  # the noise itself is no anomaly
        seen.append(student.seen)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


@pytest.mark.parametrize("name", ["My Method", "../escape", "class", "1st", "_hidden", "größe", "a" * 99, ""])
def test_a_bad_name_is_refused(name: str, rdbench: Command, tmp_path: Path) -> None:
    done = rdbench("methods", "new", "--dir", tmp_path / "methods", "--", name)
    assert done.code == 2
    assert "give lower-case letters, digits and underscores" in done.error()
    assert not list(tmp_path.glob("**/*.py"))


def test_a_taken_name_is_refused(rdbench: Command, tmp_path: Path) -> None:
    assert "is taken by" in rdbench("methods", "new", "tta", "--dir", tmp_path).error()
    assert rdbench("methods", "new", "mine", "--dir", tmp_path).code == 0
    assert "exists; give another name" in rdbench("methods", "new", "mine", "--dir", tmp_path).error()
    (tmp_path / "file").write_text("")
    assert "cannot be written" in rdbench("methods", "new", "other", "--dir", tmp_path / "file").error()


@pytest.mark.parametrize("name", sorted(find_methods()))
def test_every_built_in_method_passes(name: str) -> None:
    known = {option.name for option in find_methods()[name].options}
    rows = check_method(name, [f"{option}={value}" for option, value in SMALL.items() if option in known])
    assert {row.outcome for row in rows} <= {"passed", "skipped"}, rows


def test_a_check_without_such_a_method_is_refused() -> None:
    with pytest.raises(InputError, match="unknown method"):
        check_method("nothing_like_it")
