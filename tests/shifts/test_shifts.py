"""Shifts: names, purity to the bit, severities, masks, and each kind against a hand-computed case or other code."""

from __future__ import annotations

import colorsys
import io
import math
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFont
from scipy import ndimage
from torch import Tensor

from rdbench.datasets import load_category
from rdbench.datasets.decode import decode_batches
from rdbench.errors import InputError
from rdbench.shifts import (
    GROUPS,
    KINDS,
    SEVERITIES,
    STANDS_FOR,
    Condition,
    apply_shift,
    apply_to_mask,
    kinds_of,
    leaves_alone,
    parse_shift,
)
from rdbench.shifts.draws import Draws
from rdbench.shifts.preview import contact_sheet
from tests.datasets import trees

KEYS = ["test/crack/000", "test/good/001", "test/good/002"]


def drawn(height: int = 96, width: int = 96, count: int = 3) -> Tensor:
    """Coloured images with edges, texture, dark and bright places, 8-bit levels."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    texture = torch.from_numpy(np.random.default_rng(0).uniform(-0.1, 0.1, (count, 3, height, width))).float()
    plane = torch.stack([0.3 + 0.3 * x, 0.25 + 0.3 * y, 0.2 + 0.3 * (x > 0.5)])
    return ((plane + texture).clamp(0, 1) * 255).round() / 255


def conditions() -> list[Condition]:
    return [Condition(kind, severity) for kind in KINDS for severity in (1, 3, 5)]


def errors_grow(images: Tensor, kind: str, keys: list[str]) -> bool:
    """True if the mean squared difference from the clean images grows with every severity, from above 0."""
    shifted = [apply_shift(images, Condition(kind, severity), 0, keys) for severity in range(1, 6)]
    errors = [0.0] + [float((one - images).square().mean()) for one in shifted]
    return all(low < high for low, high in pairwise(errors))


# Names


def test_importing_is_light() -> None:
    code = "import sys, rdbench.shifts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_parsing() -> None:
    assert [str(condition) for condition in parse_shift("lighting:3")] == ["lighting:3"]
    assert parse_shift("motion") == tuple(Condition("motion", severity) for severity in range(1, 6))
    assert GROUPS["lighting"] == ("exposure", "gradient", "colour_temperature", "highlight", "flicker")
    assert GROUPS["blur"] == ("defocus", "motion")
    assert GROUPS["noise"] == ("sensor", "salt_pepper")
    assert GROUPS["camera"] == ("contrast", "jpeg", "resolution", "viewpoint", "dirt")
    assert parse_shift("blur") == parse_shift("defocus") + parse_shift("motion")
    assert len(parse_shift("all")) == 14 * 5
    assert [str(condition) for condition in parse_shift("adshift")] == [
        "adshift_brightness:3", "adshift_contrast:3", "adshift_defocus_blur:3", "adshift_gaussian_noise:3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lightning:3", "did you mean lighting"),
        ("defocuss", "did you mean defocus"),
        ("exposure:0", "severity '0'"),
        ("exposure:6", "1 to 5"),
        ("exposure:", "severity ''"),
        ("exposure:2.5", "severity '2.5'"),
        ("exposure:٣", "1 to 5"),
        ("camera:3", "camera is a group"),
        ("all:3", "all is a group"),
        ("", "unknown shift"),
    ],
)
def test_what_is_no_shift(text: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        parse_shift(text)


def test_a_group_with_a_severity_is_its_first_kind() -> None:
    for group, kind in STANDS_FOR.items():
        assert GROUPS[group][0] == kind
        shown = [apply_shift(drawn(), Condition(name, 2), 0, KEYS) for name in (group, kind)]
        assert torch.equal(*shown)


def test_every_kind_says_what_its_levels_are() -> None:
    for kind in KINDS.values():
        assert len(kind.levels) == 5
        assert len(set(kind.levels)) == 5


# Purity


@pytest.mark.parametrize("condition", conditions(), ids=str)
def test_neither_batch_nor_order_nor_memory_layout_changes_a_bit(condition: Condition) -> None:
    images = drawn(64, 97)
    together = apply_shift(images, condition, 7, KEYS)
    assert together.shape == images.shape
    assert together.dtype == torch.float32
    assert 0 <= together.min() <= together.max() <= 1
    for index, key in enumerate(KEYS):
        assert torch.equal(apply_shift(images[index : index + 1], condition, 7, [key])[0], together[index])
    backwards = apply_shift(images.flip(0).to(memory_format=torch.channels_last), condition, 7, KEYS[::-1])
    assert torch.equal(backwards.flip(0), together)


def test_another_process_with_other_threads_gives_the_same_bits(tmp_path: Path) -> None:
    images = drawn(64, 64)
    torch.save(images, tmp_path / "images.pt")
    code = f"""
import torch
from rdbench.shifts import KINDS, Condition, apply_shift
torch.set_num_threads(1)
images = torch.load({str(tmp_path / "images.pt")!r})
torch.save({{k: apply_shift(images, Condition(k, 4), 3, {KEYS}) for k in KINDS}}, {str(tmp_path / "shifted.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    for kind, shifted in torch.load(tmp_path / "shifted.pt").items():
        assert torch.equal(apply_shift(images, Condition(kind, 4), 3, KEYS), shifted), kind


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (
    "defocus", "contrast", "jpeg", "resolution", "adshift_brightness", "adshift_contrast", "adshift_defocus_blur")],
)  # fmt: skip
def test_what_is_drawn_depends_on_key_and_seed(kind: str) -> None:
    image = drawn(count=1).expand(24, 3, 96, 96).contiguous()
    keys = [str(number) for number in range(24)]
    shifted = apply_shift(image, Condition(kind, 3), 0, keys)
    assert len({view.numpy().tobytes() for view in shifted}) > 1
    assert not torch.equal(shifted, apply_shift(image, Condition(kind, 3), 1, keys))


@pytest.mark.parametrize("kind", KINDS)
def test_severities_grow(kind: str) -> None:
    assert errors_grow(drawn(256, 288, 2), kind, KEYS[:2])


def test_the_inputs_are_left_alone_and_checked() -> None:
    images = drawn()
    before = images.clone()
    for kind in KINDS:
        apply_shift(images, Condition(kind, 5), 0, KEYS)
    assert torch.equal(images, before)
    with pytest.raises(ValueError, match="B keys"):
        apply_shift(images, Condition("exposure", 1), 0, KEYS[:2])


@pytest.mark.parametrize("kind", KINDS)
def test_black_white_and_tiny_images(kind: str) -> None:
    for images in (torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32), torch.full((1, 3, 1, 1), 0.5)):
        for severity in (1, 5):
            shifted = apply_shift(images, Condition(kind, severity), 0, KEYS[:1])
            assert torch.isfinite(shifted).all()
            assert 0 <= shifted.min() <= shifted.max() <= 1


# Each kind


def test_exposure_is_stops_of_light() -> None:
    image = torch.full((40, 3, 4, 4), 0.4)
    shifted = apply_shift(image, Condition("exposure", 5), 0, [str(number) for number in range(40)])
    up, down = 0.4 * 2, 0.4 / 2  # two stops: light times four, its root times two
    assert {round(float(value) * 255) for value in shifted[:, 0, 0, 0]} == {round(up * 255), round(down * 255)}


def test_gradient_spans_its_stops_and_leaves_the_middle() -> None:
    image = torch.full((20, 3, 101, 101), 0.4)
    shifted = apply_shift(image, Condition("gradient", 4), 0, [str(number) for number in range(20)])
    assert ((shifted[:, 0, 50, 50] - 0.4).abs() < 1 / 255).all()
    ratio = shifted.amax((1, 2, 3)) / shifted.amin((1, 2, 3))
    assert (ratio - 2).abs().max() < 0.08  # two stops from corner to corner


def red_to_blue(kelvin: float) -> float:
    """Linear sRGB red over blue of a black body, by Planck's law and the observer of Wyman et al. (2013)."""
    wave = np.arange(380.0, 781.0)
    power = wave**-5 / np.expm1(1.438777e7 / (wave * kelvin))

    def lobe(height: float, middle: float, below: float, above: float) -> NDArray[np.float64]:
        return height * np.exp(-(((wave - middle) / np.where(wave < middle, below, above)) ** 2) / 2)

    x = power @ (lobe(1.056, 599.8, 37.9, 31.0) + lobe(0.362, 442.0, 16.0, 26.7) + lobe(-0.065, 501.1, 20.4, 26.2))
    y = power @ (lobe(0.821, 568.8, 46.9, 40.5) + lobe(0.286, 530.9, 16.3, 31.1))
    z = power @ (lobe(1.217, 437.0, 11.8, 36.0) + lobe(0.681, 459.0, 26.0, 13.8))
    return float((3.2406 * x - 1.5372 * y - 0.4986 * z) / (0.0557 * x - 0.2040 * y + 1.0570 * z))


def test_colour_temperature_keeps_luminance_and_warms_or_cools() -> None:
    image = torch.full((20, 3, 2, 2), 0.4)
    shifted = apply_shift(image, Condition("colour_temperature", 5), 0, [str(number) for number in range(20)])
    light = shifted[:, :, 0, 0].square()
    luminance = light @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert (luminance - 0.16).abs().max() < 0.003
    ratio = (light[:, 0] / light[:, 2]).tolist()
    assert {value > 1 for value in ratio} == {True, False}
    for found, kelvin in ((max(ratio), 3941), (min(ratio), 18605)):
        assert found == pytest.approx(red_to_blue(kelvin) / red_to_blue(6504), rel=0.05)


def test_defocus_is_the_mean_over_a_disc() -> None:
    image = (drawn(256, 256, 1) * 255).round()
    y, x = np.mgrid[-6:7, -6:7]
    disc = (x**2 + y**2 <= 6.5**2).astype(float)
    wanted = ndimage.convolve(image[0, 1].double().numpy(), disc / disc.sum(), mode="mirror")
    shifted = apply_shift(image / 255, Condition("defocus", 5), 0, KEYS[:1])
    assert np.abs(shifted[0, 1].numpy() * 255 - wanted).max() <= 0.5 + 1e-4


def test_motion_keeps_lines_along_it_and_spreads_a_point() -> None:
    image = torch.zeros(1, 3, 256, 256)
    image[:, :, 128, 128] = 1
    shifted = apply_shift(image, Condition("motion", 2), 0, KEYS[:1])[0, 0]
    assert int((shifted > 0).sum()) == 7
    assert (shifted[shifted > 0] - 1 / 7).abs().max() < 1 / 255
    rows, columns = np.nonzero(shifted.numpy())
    assert rows.mean() == columns.mean() == 128
    assert math.hypot(np.ptp(rows), np.ptp(columns)) == pytest.approx(6, abs=0.8)


def test_sensor_noise_is_that_of_photons_and_read_out() -> None:
    for level in (0.3, 0.6):
        image = torch.full((1, 3, 256, 256), round(level * 255) / 255)
        image[:, 1, 0, 0] = 0  # not grey: the channels' noise is independent
        light = apply_shift(image, Condition("sensor", 2), 0, KEYS[:1]).square() * 400
        photons = float(image[0, 0, 1, 1]) ** 2 * 400
        assert light.mean() == pytest.approx(photons, rel=0.01)
        assert light.std() == pytest.approx(math.sqrt(photons + 9), rel=0.03)
        channels = light[0].flatten(1).numpy()
        assert np.abs(np.corrcoef(channels) - np.eye(3)).max() < 0.02


def test_a_grey_image_stays_grey_under_noise() -> None:
    image = torch.full((1, 1, 64, 64), 0.5).expand(1, 3, 64, 64)
    shifted = apply_shift(image, Condition("sensor", 4), 0, KEYS[:1])
    assert torch.equal(shifted[:, 0], shifted[:, 2])
    assert shifted.std() > 0.05


def test_the_normal_noise_is_normal() -> None:
    noise = Draws("sensor", 0, ["key"], torch.device("cpu")).normal(200, 200).flatten()
    assert noise.mean() == pytest.approx(0, abs=0.01)
    assert noise.std() == pytest.approx(1, abs=0.01)
    assert (noise.abs() > 1.959964).float().mean() == pytest.approx(0.05, abs=0.003)
    neighbours = Draws("sensor", 0, ["key"], torch.device("cpu")).normal(200, 200)[0, 0]
    assert abs(np.corrcoef(neighbours[:, 1:].flatten(), neighbours[:, :-1].flatten())[0, 1]) < 0.02


def test_salt_and_pepper_is_its_share_of_pixels() -> None:
    image = torch.full((1, 3, 256, 256), 0.5)
    shifted = apply_shift(image, Condition("salt_pepper", 5), 0, KEYS[:1])[0]
    assert torch.equal(shifted[0], shifted[2])
    assert (shifted[0] == 1).float().mean() == pytest.approx(0.02, abs=0.003)
    assert (shifted[0] == 0).float().mean() == pytest.approx(0.02, abs=0.003)


def test_contrast_shrinks_to_the_mean() -> None:
    image = torch.tensor([0.2, 0.6]).repeat(1, 3, 4, 2)
    shifted = apply_shift(image, Condition("contrast", 3), 0, KEYS[:1])
    assert shifted[0, 0, 0].tolist() == pytest.approx([0.3, 0.5, 0.3, 0.5], abs=0.5 / 255 + 1e-6)


def test_jpeg_is_pillows() -> None:
    image = drawn(64, 64, 1)
    buffer = io.BytesIO()
    Image.fromarray((image[0] * 255).byte().permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=20)
    wanted = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1) / 255
    assert torch.equal(apply_shift(image, Condition("jpeg", 3), 0, KEYS[:1])[0], wanted)


def test_resolution_is_the_mean_of_each_large_pixel() -> None:
    image = drawn(256, 256, 1)
    shifted = apply_shift(image, Condition("resolution", 3), 0, KEYS[:1])
    means = torch.nn.functional.avg_pool2d(image, 4)
    assert (shifted[:, :, ::4, ::4] - means).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(shifted[:, :, ::4, ::4], shifted[:, :, 3::4, 3::4])


def test_viewpoint_moves_a_mask_as_it_moves_the_image() -> None:
    masks = torch.zeros(3, 192, 256, dtype=torch.bool)
    masks[:, 60:120, 100:180] = True
    images = masks[:, None].float().expand(3, 3, 192, 256)
    for severity in (1, 5):
        condition = Condition("viewpoint", severity)
        moved = apply_to_mask(masks, condition, 0, KEYS)
        assert ((apply_shift(images, condition, 0, KEYS)[:, 0] > 0.5) != moved).float().mean() < 0.005
        assert (moved != masks).any()
    # A mask of another size than the image that the model saw moves by the same share of the picture.
    large = masks.repeat_interleave(4, 1).repeat_interleave(2, 2)
    condition = Condition("viewpoint", 5)
    small = apply_to_mask(masks, condition, 0, KEYS)
    shrunk = apply_to_mask(large, condition, 0, KEYS, image_size=(192, 256))[:, 2::4, 1::2]
    assert (shrunk != small).float().mean() < 0.005


def test_viewpoint_rotates_by_its_degrees() -> None:
    image = torch.zeros(1, 3, 257, 257)
    image[:, :, 126:131, 20:237] = 1  # a horizontal bar
    shifted = apply_shift(image, Condition("viewpoint", 3), 0, KEYS[:1])[0, 0].numpy()
    rows, columns = np.nonzero(shifted > 0.5)
    slope = np.polyfit(columns, rows, 1)[0]
    assert abs(math.degrees(math.atan(slope))) == pytest.approx(2, abs=0.6)


def test_other_kinds_leave_masks_alone() -> None:
    masks = torch.rand(3, 8, 8) > 0.5
    for kind in KINDS.values():
        if not kind.geometric:
            assert torch.equal(apply_to_mask(masks, Condition(kind.name, 5), 0, KEYS), masks)


def test_highlights_and_dirt_are_spots() -> None:
    image = torch.full((3, 3, 256, 256), 0.5)
    level = 128 / 255
    lit = apply_shift(image, Condition("highlight", 1), 0, KEYS)
    assert (lit == 1).flatten(1).any(1).all()
    assert (lit >= level).all()
    assert ((lit > level).float().mean((1, 2, 3)) < 2 * math.pi * 16**2 / 256**2).all()
    dirty = apply_shift(image, Condition("dirt", 2), 0, KEYS)
    assert ((dirty < 0.3).float().mean((1, 2, 3)) > 0).all()


def test_flicker_is_rows() -> None:
    shifted = apply_shift(torch.full((1, 3, 256, 64), 0.8), Condition("flicker", 3), 0, KEYS[:1])
    assert torch.equal(shifted, shifted[..., :1].expand_as(shifted))
    light = shifted[0, 0, :, 0].square()
    assert float(light.min() / light.max()) == pytest.approx(0.6, abs=0.02)


def test_published_brightness_is_hsvs() -> None:
    image = drawn(8, 8, 1)
    shifted = apply_shift(image, Condition("adshift_brightness", 3), 0, KEYS[:1])
    for y, x in ((0, 0), (3, 5), (7, 7)):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[0, :, y, x].tolist())
        wanted = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.3, 1))
        assert shifted[0, :, y, x].tolist() == pytest.approx(wanted, abs=0.5 / 255 + 1e-5)


def test_published_defocus_is_imagenet_cs_kernel() -> None:
    image = drawn(64, 64, 1)
    y, x = np.mgrid[-8:9, -8:9]
    disc = (x**2 + y**2 <= 36).astype(float)
    bell = np.exp(-np.array([1, 0, 1]) / (2 * 0.5**2))
    kernel = ndimage.convolve(disc / disc.sum(), np.outer(bell, bell) / bell.sum() ** 2, mode="constant")
    wanted = ndimage.convolve(image[0, 0].double().numpy(), kernel, mode="mirror")
    shifted = apply_shift(image, Condition("adshift_defocus_blur", 3), 0, KEYS[:1])[0, 0].numpy()
    inner = (slice(2, -2),) * 2  # beyond, a mirrored mean is not the mean of the mirrored
    assert np.abs(shifted - wanted)[inner].max() <= 0.5 / 255 + 1e-5


def test_published_contrast_and_noise() -> None:
    image = drawn(64, 64, 1)
    mean = image.mean((2, 3), keepdim=True)
    contrast = apply_shift(image, Condition("adshift_contrast", 3), 0, KEYS[:1])
    assert (contrast - (mean + 0.2 * (image - mean))).abs().max() <= 0.5 / 255 + 1e-5
    noisy = apply_shift(torch.full((1, 3, 128, 128), 0.5), Condition("adshift_gaussian_noise", 1), 0, KEYS[:1])
    assert noisy.std() == pytest.approx(0.08, rel=0.02)


# Pictures


def test_the_contact_sheet(tmp_path: Path) -> None:
    path = trees.draw(tmp_path / "image.png", (80, 60))
    sheet = contact_sheet(path, ["exposure", "dirt"], side=64, tile=50)
    assert sheet.mode == "RGB"
    assert sheet.width > 6 * 50
    assert contact_sheet(path, kinds_of("all"), side=64, tile=50).height > 6 * sheet.height
    thin = trees.draw(tmp_path / "thin.png", (2, 400))
    assert contact_sheet(thin, ["exposure"], side=4, tile=50).height > 50
    with pytest.raises(InputError, match="does not exist"):
        contact_sheet(tmp_path / "gone.png", ["exposure"])


@pytest.mark.parametrize(("dataset", "name"), [
    ("toy", "flange"), ("toy", "tablets"), ("toy", "twill"), ("mvtec_ad", "magnetic_tile"),
])  # fmt: skip
def test_severities_grow_on_the_datasets(dataset: str, name: str) -> None:
    root = trees.tiles(dataset) if dataset != "toy" else None
    category = load_category(dataset, name, root, seed=0)
    chosen = category.test[:: len(category.test) // 2][:2]
    decoded = np.concatenate(list(decode_batches(category, chosen, (256, 256), batch_size=2)))
    images = torch.from_numpy(decoded).permute(0, 3, 1, 2).float() / 255
    failed = [kind for kind in KINDS if not errors_grow(images, kind, [image.key for image in chosen])]
    assert not failed


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (64, 97), (96, 96), (128, 129), (160, 160), (192, 200)])
def test_what_leaves_images_alone_is_known_beforehand(size: tuple[int, int]) -> None:
    images = drawn(*size, count=1)
    for kind in ("defocus", "blur", "motion", "resolution"):
        for severity in SEVERITIES:
            condition = Condition(kind, severity)
            alike = torch.equal(apply_shift(images, condition, 0, KEYS[:1]), images)
            assert leaves_alone(condition, size) == alike, condition


def test_all_other_kinds_change_images() -> None:
    images = drawn(64, 64)
    for kind in set(KINDS) - {"defocus", "motion", "resolution"}:
        condition = Condition(kind, 1)
        assert not leaves_alone(condition, (64, 64))
        assert not torch.equal(apply_shift(images, condition, 0, KEYS), images), kind


def test_the_page_names_the_severities_that_do_nothing() -> None:
    page = (Path(__file__).parents[2] / "docs/shifts.md").read_text()
    for text, sides in {"32": [32], "64": [64], "96": [96], "128, 160": [128, 160], "192 and more": [192, 256]}.items():
        for side in sides:
            idle = [
                [str(s) for s in SEVERITIES if leaves_alone(Condition(kind, s), (side, side))]
                for kind in ("defocus", "motion", "resolution")
            ]
            assert f"  | {' | '.join([text, *(', '.join(each) or 'none' for each in idle)])} |" in page


def test_the_page_names_the_severities_that_are_alike() -> None:
    page = " ".join((Path(__file__).parents[2] / "docs/shifts.md").read_text().split())
    (sentence,) = re.findall(r"one before over again, to the bit: (.*?)\. ", page)
    named = {
        (condition, int(side))
        for condition, sides in re.findall(r"`(\w+:\d)` at (\d+(?:(?: and|,) \d+)*)", sentence)
        for side in re.findall(r"\d+", sides)
    }
    alike = set()
    for side in range(32, 257, 32):
        image = drawn(side, side, 1)
        for kind in ("defocus", "motion", "resolution"):
            shifted = [apply_shift(image, Condition(kind, severity), 0, KEYS[:1]) for severity in SEVERITIES]
            for severity, (one, other) in enumerate(pairwise(shifted), start=2):
                if torch.equal(one, other) and not leaves_alone(Condition(kind, severity), (side, side)):
                    alike.add((f"{kind}:{severity}", side))
    assert alike == named


def test_the_page_and_the_sheet_have_room_for_every_level() -> None:
    page = (Path(__file__).parents[2] / "docs/shifts.md").read_text()
    font = ImageFont.load_default(12)
    for kind in KINDS.values():
        values = ", ".join("/".join(f"{value:g}" for value in level) for level in kind.values)
        assert f"| {kind.wording.replace('{:g}', '…')} | {values} |" in page
        assert max(font.getlength(level) for level in kind.levels) <= 226
