"""Bad input gets one clear line and exit code 2; what is finished stays."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rdbench.benchmark.method_run as method_run
from rdbench.benchmark.store import Store, read_predictions, sha256
from tests.command import QUICK, Command, start
from tests.datasets import trees
from tests.made_up import make_source

pytestmark = pytest.mark.long


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    trees.mvtec_ad2(root)
    return root


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "tta", "--seed", "-1"], "--seed -1"),
        (["--method", "tta", "--seed", str(2**64)], f"--seed {2**64}: less than 2**62 is wanted"),
        (["--method", "dtta"], "unknown method 'dtta'; did you mean tta"),
        (["--method", ","], "--method names none"),
        (["--method", "mc_dropout", "-o", "sample=3"], "unknown option of mc_dropout 'sample'; did you mean samples"),
        (["--method", "mc_dropout", "-o", "p=1.5"], "method mc_dropout: p must be in [0, 1), got 1.5"),
        (["--method", "mc_dropout", "-o", "placement=decoders"], "option placement of mc_dropout"),
        (["--method", "tta", "--category", "vail"], "unknown category of mvtec_ad2 'vail'; did you mean vial"),
        (["--method", "tta", "--shift", "lightning:3"], "unknown shift 'lightning'; did you mean lighting"),
        (["--method", "tta", "--shift", "lighting:6"], "severity '6'"),
        (["--method", "tta", "--backbone", "resnet81"], "unknown backbone 'resnet81'"),
        (["--method", "tta", "--image-size", "250"], "--image-size 250"),
        (["--method", "tta", "--image-size", "big"], "--image-size big"),
        (["--method", "tta", "--epochs", "0"], "--epochs 0"),
        (["--method", "tta", "--batch-size", "9" * 24], f"--batch-size {'9' * 24}: from 1 to 4,096 is wanted"),
        (["--method", "tta", "--alpha", "1"], "--alpha 1"),
        (["--method", "tta", "--dataset", "toy"], "toy is drawn and reads no files; name the data set there"),
        (["--method", "tta", "--workers", "9" * 24], f"--workers {'9' * 24}: from 1 to 1,000 is wanted"),
        (["--method", "tta", "--device", "tpu"], "--device tpu"),
        (["--method", "tta", "--weights", "nowhere.pth"], "nowhere.pth"),
        (["--method", "tta", "--root", "nowhere"], "nowhere"),
        (["--method", "tta", "--dataset", "mvtec"], "unknown dataset 'mvtec'"),
        (["--method", "tta", "--methods-dir", "nowhere"], "--methods-dir nowhere"),
    ],
)
def test_what_cannot_be_run_is_said_at_once(
    rdbench: Command, root: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = tmp_path / "runs"
    given = ["run", "--dataset", "mvtec_ad2", "--root", root, "--out", out, *QUICK, *arguments]
    done = rdbench(*given)
    assert done.code == 2, done.err
    assert message in done.error()
    assert done.err.startswith("Error: ")
    assert not list(Store(out).results())


@pytest.mark.parametrize("format", ["table", "csv", "markdown"])
def test_where_nothing_can_be_printed_it_is_said(tmp_path: Path, format: str) -> None:
    """A full disk behind the output, a terminal without Unicode."""
    source = make_source("tta")
    assert source.predictions is not None
    source.predictions().save(tmp_path / "predictions.npz")
    digest = sha256(tmp_path / "predictions.npz")
    result = source.result.model_copy(update={"predictions_sha256": digest})
    Store(tmp_path / "runs").write(result, tmp_path / "predictions.npz")
    command = [sys.executable, "-m", "rdbench.cli", "results", str(tmp_path / "runs"), "--format", format]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "Error: [Errno 28] No space left on device"
    plain = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=plain, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "tta" in done.stdout


def test_shifts_that_do_nothing_at_this_size_are_said_once(rdbench: Command, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        "defaults: {categories: [twill], image_size: 64, shifts: [blur:3, motion:2, lighting:3]}\n"
        "runs: [{methods: [deterministic]}, {methods: [tta]}, {methods: [tta], image_size: 256}]\n"
    )
    done = rdbench("sweep", sweep, "--dry-run", "--out", tmp_path / "runs")
    assert done.code == 0, done.err
    said = "Caution: blur:3, motion:2 leave images of 64 x 64 pixels as they are"
    assert done.error().count("Caution") == done.error().count(said) == 1


def test_weights_that_do_not_fit_are_named(rdbench: Command, root: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    done = rdbench(
        "run", "-m", "tta", "--dataset", "mvtec_ad2", "--root", root, "--out", tmp_path / "runs",
        "--backbone", "resnet18", "--weights", tmp_path / "weights.pth",
    )  # fmt: skip
    assert done.code == 2
    assert "weights.pth" in done.error()


def test_weights_that_cannot_be_reached_name_the_file_and_the_ways_out(
    rdbench: Command, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody answers
    done = rdbench("run", "-m", "tta", "--dataset", "mvtec_ad2", "--root", root, "--out", tmp_path / "runs")
    assert done.code == 2
    for hint in ("wide_resnet50_2-", "--weights", "--backbone embedded", str(tmp_path / "torch")):
        assert hint in done.error()


def damage(root: Path, how: str) -> str:
    """Damage a data set; returns what the message must name."""
    vial = root / "vial"
    image = vial / "test_public/bad/000_regular.png"
    mask = vial / "test_public/ground_truth/bad/000_regular_mask.png"
    if how == "truncated image":
        image.write_bytes(image.read_bytes()[:60])
        return "000_regular.png"
    if how == "no image":
        image.write_bytes(b"<html>")
        return "000_regular.png"
    if how == "mask missing":
        mask.unlink()
        return "000_regular"
    if how == "lighting called clean":
        image.rename(image.with_name("000_clean.png"))
        mask.rename(mask.with_name("000_clean_mask.png"))
        return "000_clean.png"
    if how == "mask of another size":
        trees.draw_mask(mask, (10, 10))
        return "000_regular_mask.png"
    if how == "no train/good":
        (vial / "train").rename(vial / "training")
        return "train"
    if how == "no defect image":
        for path in (vial / "test_public/bad").iterdir():
            path.unlink()
        return "bad"
    for path in sorted((vial / "train/good").iterdir())[1:]:
        path.unlink()
    return "train"


DAMAGES = (
    "truncated image",
    "no image",
    "mask missing",
    "mask of another size",
    "lighting called clean",
    "no train/good",
    "no defect image",
    "few training images",
)


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_data_is_named(rdbench: Command, root: Path, tmp_path: Path, how: str) -> None:
    named = damage(root, how)
    done = rdbench("run", "-m", "tta", "--dataset", "mvtec_ad2", "--root", root, "--out", tmp_path / "runs", *QUICK)
    assert done.code == 2, done.err
    assert named in done.error()
    assert not list(Store(tmp_path / "runs").results())


def test_a_damaged_category_costs_itself_alone(rdbench: Command, root: Path, tmp_path: Path) -> None:
    trees.mvtec_ad2(root, "rice")
    damage(root, "truncated image")
    done = rdbench(
        "run", "-m", "deterministic", "--dataset", "mvtec_ad2", "--root", root, "--out", tmp_path / "runs", *QUICK
    )
    assert done.code == 2
    assert "vial" in done.error()
    assert [result.spec.category for _, result in Store(tmp_path / "runs").results()] == ["rice"]


METHOD = '''"""A method of the test."""
from dataclasses import dataclass
import torch
from rdbench.protocol import Prediction

@dataclass
class Strange:
    def fit(self, train, context): {fit}
    def predict(self, batch):
        b, _, h, w = batch.images.shape
        maps, scores, uncertainty = torch.zeros(b, h, w), torch.rand(b), torch.rand(b)
        {predict}
        return Prediction(maps, scores, uncertainty)
    def save(self, directory): pass
    def load(self, directory, context): self.fit(None, None)
'''


@pytest.mark.parametrize(
    ("fit", "predict", "reason", "code"),
    [
        ("raise RuntimeError('no luck')", "pass", "RuntimeError: no luck", 1),
        ("pass", "raise KeyError('x')", "KeyError: 'x'", 1),
        ("pass", "scores[0] = float('nan')", "prediction.anomaly_score holds NaN", 2),
        ("pass", "maps -= 1", "prediction.anomaly_map holds -1", 1),
        ("pass", "uncertainty = uncertainty[:-1]", "prediction.uncertainty has shape", 1),
        ("pass", "scores = scores.double()", "prediction.anomaly_score is torch.float64", 1),
        ("pass", "return None", "predict returned NoneType", 1),
        ("pass", "scores = scores.to('meta')", "prediction.anomaly_score is on meta, wanted cpu", 1),
        (
            "self.calls = iter(range(2, 99))",
            "return Prediction(maps, scores, uncertainty, None, torch.rand(next(self.calls), b))",
            "4 members in a batch after 3 in another",
            1,
        ),
        (
            "self.seen = 0",
            "self.seen += b; scores, uncertainty = torch.full((b,), self.seen + 0.0), torch.ones(b)",
            "the method learns from what it predicts",
            1,
        ),
        ("pass", "batch.features[0].mul_(0)", "changed the images or the teacher's features in place", 1),
        ("pass", "batch.images.zero_(); raise KeyError('x')", "KeyError: 'x'", 1),
        ("next(context.teacher.parameters()).data.zero_()", "pass", "the method changed the teacher in place", 1),
        ("context.teacher.double()", "pass", "the method changed the teacher in place", 1),
        ("context.teacher.network.forward = lambda images: [images] * 3", "pass", "the method changed the teacher", 1),
        ("context.teacher.network.register_forward_hook(lambda *_: [])", "pass", "the method changed the teacher", 1),
        (
            "it = next(m for m in context.teacher.modules() if hasattr(m, 'running_mean'))._parameters; "
            "it['weight'], it['bias'] = it.pop('bias'), it.pop('weight')",
            "pass",
            "the method changed the teacher",
            1,
        ),
        (
            "layers = next(m for m in context.teacher.modules() if type(m).__name__ == 'Sequential')._modules; "
            "first = next(iter(layers)); layers[first] = layers.pop(first)",
            "pass",
            "the method changed the teacher",
            1,
        ),
        ("pass", "batch.images.data = batch.images[:1]; return None", "predict returned NoneType", 1),
        ("pass", "batch.features[0].resize_(1); return None", "predict returned NoneType", 1),
        ("raise type('Odd', (BaseException,), {})('x')", "pass", "Odd: x", 1),
        ("pass", "torch.set_default_device('meta'); return None", "predict returned NoneType", 1),
        ("pass", "torch.set_float32_matmul_precision('medium'); return None", "predict returned NoneType", 1),
        ("pass", "torch.backends.fp32_precision = 'tf32'; return None", "predict returned NoneType", 1),
        ("pass", "torch.backends.cudnn.allow_tf32 = True; return None", "predict returned NoneType", 1),
        ("pass", "torch.set_grad_enabled(True); return None", "predict returned NoneType", 1),
        (
            "torch.nn.modules.module.register_module_forward_hook(lambda *_: []); self.x",
            "pass",
            "has no attribute 'x'",
            1,
        ),
        ("raise SystemExit(3)", "pass", "the method would end the program: SystemExit(3)", 1),
        ("raise RuntimeError('\\ud800 bad')", "pass", r"RuntimeError: \ud800 bad", 1),
        ("raise RuntimeError('x' * 3_000_000)", "pass", "x [...] x", 1),
        (
            "pass",
            "torch.set_autocast_dtype('cpu', torch.bfloat16); torch.set_autocast_enabled('cpu', True); return None",
            "predict returned NoneType",
            1,
        ),
        ("pass", "torch.set_flush_denormal(True); return None", "predict returned NoneType", 1),
        (
            "pass",
            "import random, numpy; torch.manual_seed(1); random.seed(1); numpy.random.seed(1); return None",
            "predict returned NoneType",
            1,
        ),
        (
            "pass",
            "from torch.overrides import TorchFunctionMode as M; "
            "type('Odd', (M,), {'__torch_function__': lambda *_: NotImplemented})().__enter__(); return None",
            "predict returned NoneType",
            1,
        ),
        ("pass", "import sys; sys.stderr.close(); sys.stdout.close(); return None", "predict returned NoneType", 1),
        ("pass", "import os; os.umask(0o777); return None", "predict returned NoneType", 1),
        ("pass", "import signal; signal.alarm(60); return None", "predict returned NoneType", 1),
        (
            "pass",
            "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); return None",
            "predict returned NoneType",
            1,
        ),
        ("pass", "torch.set_default_dtype(torch.float64); import os; os.chdir('/'); return None", "NoneType", 1),
    ],
)
def test_a_strange_method_costs_its_own_cell_alone(
    rdbench: Command, root: Path, tmp_path: Path, undisturbed: bytes, fit: str, predict: str, reason: str, code: int
) -> None:
    methods = tmp_path / "mine"
    methods.mkdir()
    (methods / "strange.py").write_text(METHOD.format(fit=fit, predict=predict))
    done = rdbench(
        "run", "-m", "strange,deterministic", "--methods-dir", methods, "--dataset", "mvtec_ad2", "--root", root,
        "--out", tmp_path / "runs", "--no-gallery", *QUICK,
    )  # fmt: skip
    assert done.code == code
    assert reason in done.error()
    assert len(done.err) < 100_000
    [(directory, result)] = Store(tmp_path / "runs").results()
    assert result.spec.method == "deterministic"
    assert read_predictions(directory, result).scores.tobytes() == undisturbed
    assert (directory / "result.json").stat().st_mode & 0o400


def test_a_method_that_keeps_all_it_sees_is_given_up_before_memory_is_full(
    rdbench: Command, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lets go of what it kept; the cell beside it is not touched. What fits where others left room is not seen."""
    monkeypatch.setattr(method_run, "MOST_KEPT", 500 * 2**20 / os.sysconf("SC_PHYS_PAGES") / os.sysconf("SC_PAGE_SIZE"))
    methods = tmp_path / "mine"
    methods.mkdir()
    keep = "self.kept = [*getattr(self, 'kept', ()), torch.ones(50 * 2**18)]"  # 50 MB
    (methods / "strange.py").write_text(METHOD.format(fit="pass", predict=keep))
    done = rdbench(
        "run", "-m", "strange,deterministic", "--methods-dir", methods, "--dataset", "mvtec_ad2", "--root", root,
        "--out", tmp_path / "runs", "--shift", "exposure", "--batch-size", "2", *QUICK,
    )  # fmt: skip
    assert done.code == 1
    assert re.search(r"predict keeps memory: 5\d\d MB more after (1[2-9]|2\d) batches", done.error())
    assert {result.spec.method for _, result in Store(tmp_path / "runs").results()} == {"deterministic"}
    assert not [thing for thing in gc.get_objects() if type(thing).__name__ == "Strange" and vars(thing)]


def test_what_a_file_sets_when_a_worker_imports_it_is_put_back(
    rdbench: Command, root: Path, tmp_path: Path, undisturbed: bytes
) -> None:
    methods = tmp_path / "mine"
    methods.mkdir()
    sets = "torch.set_default_dtype(torch.float64); torch.backends.cudnn.allow_tf32 = False"
    source = METHOD.format(fit="pass", predict="pass") + f"\n{sets}\n"
    (methods / "strange.py").write_text(source)
    done = rdbench(
        "run", "-m", "strange,deterministic", "--methods-dir", methods, "--dataset", "mvtec_ad2", "--root", root,
        "--out", tmp_path / "runs", "--workers", "2", *QUICK,
    )  # fmt: skip
    assert done.code == 0, done.err
    scores = {
        result.spec.method: read_predictions(path, result).scores for path, result in Store(tmp_path / "runs").results()
    }
    assert np.allclose(scores["deterministic"], np.frombuffer(undisturbed, np.float32).reshape(1, -1), rtol=1e-5)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The scores of deterministic, run without strange company."""
    folder = tmp_path_factory.mktemp("undisturbed")
    trees.mvtec_ad2(folder / "data")
    arguments = ("-m", "deterministic", "--dataset", "mvtec_ad2", "--root", folder / "data", "--out", folder / "runs")
    assert start("run", *arguments, *QUICK).done().code == 0
    [(directory, result)] = Store(folder / "runs").results()
    return read_predictions(directory, result).scores.tobytes()


@pytest.mark.parametrize("to", ["stdout", "stderr"])
def test_what_a_method_prints_is_cut(rdbench: Command, root: Path, tmp_path: Path, to: str) -> None:
    methods = tmp_path / "mine"
    methods.mkdir()
    fit = f"import sys; print('hello ' * 10**6, file=sys.{to})"
    (methods / "chatty.py").write_text(METHOD.format(fit=fit, predict="pass").replace("Strange", f"Chatty{to}"))
    done = rdbench(
        "run", "-m", "chatty", "--methods-dir", methods, "--dataset", "mvtec_ad2", "--root", root,
        "--out", tmp_path / "runs", *QUICK,
    )  # fmt: skip
    assert done.code == 0
    assert "hello" in done.err
    assert f"Chatty{to} has printed 4000 characters; more is not shown" in done.err
    assert "hello" not in done.out
    assert len(done.err) < 10_000


def test_progress_goes_on_after_a_method_has_printed_its_share(
    rdbench: Command, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdbench.benchmark.progress.SECONDS_BETWEEN_LINES", 0.0)
    methods = tmp_path / "mine"
    methods.mkdir()
    fit = "context and (print('x' * 5000), context.train(context.new_student(0), train, 0))"
    (methods / "wordy.py").write_text(METHOD.format(fit=fit, predict="pass").replace("Strange", "Wordy"))
    done = rdbench(
        "run", "-m", "wordy", "--methods-dir", methods, "--dataset", "mvtec_ad2", "--root", root,
        "--out", tmp_path / "runs", *QUICK, "--epochs", "3",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "training: " in done.err[done.err.index("Wordy has printed") :]


def test_a_thread_that_a_method_leaves_does_not_keep_the_run_from_ending(root: Path, tmp_path: Path) -> None:
    methods = tmp_path / "mine"
    methods.mkdir()
    fit = "import threading, time; threading.Thread(target=lambda: time.sleep(10**4)).start()"
    (methods / "threads.py").write_text(METHOD.format(fit=fit, predict="pass"))
    arguments = ("-m", "threads", "--methods-dir", methods, "--dataset", "mvtec_ad2", "--root", root)
    command = [sys.executable, "-m", "rdbench.cli", "run", *arguments, "--out", tmp_path / "runs", *QUICK]
    assert subprocess.run(list(map(str, command)), check=False, timeout=300).returncode == 0
    assert len(list(Store(tmp_path / "runs").results())) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("raise type('Odd', (BaseException,), {})('x')", "does not import: Odd: x"),
        ("del Strange", "class Strange lacks fit"),
    ],
)
def test_a_method_that_does_not_import_costs_its_own_cells_alone(
    rdbench: Command, root: Path, tmp_path: Path, line: str, reason: str
) -> None:
    methods = tmp_path / "mine"
    methods.mkdir()
    (methods / "strange.py").write_text(METHOD.format(fit="pass", predict="pass") + line)
    done = rdbench(
        "run", "-m", "strange,deterministic", "--methods-dir", methods, "--dataset", "mvtec_ad2", "--root", root,
        "--out", tmp_path / "runs", *QUICK,
    )  # fmt: skip
    assert done.code == 1
    assert reason in done.error()
    assert [result.spec.method for _, result in Store(tmp_path / "runs").results()] == ["deterministic"]


def test_a_constant_image_trains_to_a_result_or_a_reason(rdbench: Command, root: Path, tmp_path: Path) -> None:
    for path in root.rglob("*.png"):
        if "mask" not in path.name:
            Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(path)
    done = rdbench(
        "run", "-m", "deterministic", "--dataset", "mvtec_ad2", "--root", root, "--out", tmp_path / "runs", *QUICK
    )
    assert done.code == 0, done.err
    ((_, result),) = Store(tmp_path / "runs").results()
    assert result.image["clean"]["image_auroc"].value == 0.5
