"""The programs that give the figures of docs/methods.md and docs/results.md run, and know what is known by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rdbench.report.entries import published
from tests.figures import on_toy
from tests.figures.published import (
    RULE,
    auroc_gain,
    conformal,
    levels,
    light_told,
    main,
    over_seeds,
    p_values,
    pairs,
    published_cells,
    wrong_share,
)


def test_every_method_has_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--resamples", "20"])
    said = capsys.readouterr().out
    methods = set(published_cells())
    assert len(methods) == 22
    for method in methods - {"deterministic"}:
        assert said.count(f" {method} ") >= 4, method
    assert "nan" not in said


def test_the_deterministic_uncertainty_ranks_pairs_as_its_stored_figure_does() -> None:
    seeds = published_cells()["deterministic"]
    stored = [cell.result.image["clean"] for cell in published() if cell.result.spec.method == "deterministic"]
    *_, all_pairs = pairs(seeds)
    assert all_pairs == pytest.approx(np.mean([figures["failure_auroc"].value for figures in stored]))
    wrong = np.mean([figures["error_rate"].value for figures in stored])
    assert wrong_share(seeds, True) < wrong < wrong_share(seeds, False)


def test_p_values_come_back_from_the_uncertainty() -> None:
    p = np.arange(1, 87) / 86
    uncertainty = (1 / (1 + np.abs(np.log(p / RULE)))).astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(p_values(uncertainty), p, rtol=1e-12)


def test_seeds_that_agree_leave_the_interval_of_the_parts() -> None:
    draws = np.linspace(-1, 1, 1001)
    mean, low, high = over_seeds(np.tile(np.concatenate([[0.0], draws]), (3, 1)))
    assert (mean, low, high) == pytest.approx((0, -0.95, 0.95))


def test_figures_of_toy(tmp_path: Path) -> None:
    """On a training too short to say anything."""
    world = on_toy.World("twill", 32, 1, 0, tmp_path)
    assert on_toy.mc_batchnorm_spread(world) > 0
    own, least, most = on_toy.laplace_losses(world)
    assert own > 0
    assert 0 < least < most
    correlations, ratios = on_toy.noise_fit(world, 1.0)
    assert len(correlations) == len(ratios) == 3
    assert all(-1 <= figure <= 1 for figure in correlations)
    assert all(figure > 0 for figure in ratios)


def test_the_page_says_what_the_entries_give() -> None:
    """Some of what docs/results.md takes from there, as it words it."""
    page = " ".join((Path(__file__).parents[2] / "docs" / "results.md").read_text().split())
    cells = published_cells()
    gain, low, high = (f"{figure:+.3f}".replace("0.", ".") for figure in auroc_gain(cells, "tta_geometric", 1000))
    assert f"`tta_geometric` ({gain}, {low} to {high})" in page
    told = [light_told(cells[method], "overexposed", 2)[0] for method in ("mahalanobis", "tta_photometric", "knn")]
    assert (
        "{:.0f} of 100 pairs for `mahalanobis`, {:.0f} for `tta_photometric`, {:.0f} for `knn`".format(
            *(100 * share for share in told)
        )
        in page
    )
    shares = [levels(cells[method])[0] for method in ("snapshot_ensemble", "masksembles")]
    assert (
        "{:.0f} % of the members' variance in `snapshot_ensemble`, {:.0f} % in `masksembles`".format(
            *(100 * share for share in shares)
        )
        in page
    )
    missed = [pairs(cells[method])[0] for method in ("scale_disagreement", "mahalanobis", "knn")]
    assert "in {:.0f}, {:.0f} and {:.0f} of 100 pairs".format(*(100 * share for share in missed)) in page
    at = {alpha: conformal(cells["conformal"], alpha) for alpha in (0.05, 0.10, 0.20)}
    assert f"{at[0.05][0]:.3f} at 0.05 and {at[0.20][0]:.3f} at 0.20".replace("0.1", ".1") in page
    assert "for {:.0f}, {:.0f} and {:.0f} % of".format(*(100 * found[1] for found in at.values())) in page
