"""Images drawn at random on a tensor device: what the embedded teacher is distilled on. No photograph is near it.

A family draws *fields*, (n, 1, S, S), patterns of any mean and range; :func:`_paint` turns fields into colours;
:func:`draw` composes painted textures through masks and ends with light, pose, blur and noise as a camera adds them.
Each image draws its parameters from wide ranges, so that no two are alike in frequency, contrast, colour or sharpness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

GROUP = 4
"""Images of one family drawn at a time."""


class Dice:
    """Random parameters for the images of one group, from one generator."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size = size
        self.generator = generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """One number per image, (n, 1, 1, 1), or of another shape."""
        shape = shape or (GROUP, 1, 1, 1)
        return low + (high - low) * torch.rand(*shape, generator=self.generator, device=self.generator.device)

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return self.uniform(math.log(low), math.log(high), *shape).exp()

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, device=self.generator.device)

    def chance(self, probability: float, *shape: int) -> Tensor:
        """1 with that probability, else 0."""
        return (self.uniform(0, 1, *shape) < probability).float()

    def pick(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self.generator, device=self.generator.device))

    def plane(self) -> tuple[Tensor, Tensor]:
        """Coordinates x, y of every pixel, turned and shifted at random per image, in pixels."""
        axis = torch.arange(self.size, dtype=torch.float32, device=self.generator.device)
        x, y = axis.view(1, 1, 1, -1), axis.view(1, 1, -1, 1)
        upright = self.chance(0.4)
        angle = self.uniform(0, math.tau) * (1 - upright) + upright * 0.5 * math.pi * self.uniform(0, 4).floor()
        u = x * angle.cos() + y * angle.sin() + self.uniform(0, 1000)
        v = y * angle.cos() - x * angle.sin() + self.uniform(0, 1000)
        return u, v

    def clouds(self, cells: int, channels: int = 1) -> Tensor:
        """Smooth noise of standard deviation about 1 with `cells` lumps across the image."""
        coarse = self.normal(GROUP, channels, cells, cells)
        return F.interpolate(coarse, size=(self.size, self.size), mode="bicubic", align_corners=False)

    def warped(self) -> tuple[Tensor, Tensor]:
        """:meth:`plane` bent by smooth noise, in half of the images."""
        u, v = self.plane()
        bend = self.clouds(3 + self.pick(10), 2) * self.log_uniform(0.5, 12) * self.chance(0.5)
        return u + bend[:, :1], v + bend[:, 1:]


def _hash(seed: Tensor, column: Tensor, row: Tensor | float = 0.0) -> Tensor:
    """A number in [0, 1) for each whole column and row, the same wherever they come again in the image."""
    return ((seed + column * 0.7548776662 + row * 0.5698402910) * 12.9898).sin().mul_(43758.5453) % 1.0


def spectral(dice: Dice) -> Tensor:
    """Noise with a power-law or band spectrum, stretched along one direction: clouds, grain, brushed metal, fibres."""
    size = dice.size
    device = dice.generator.device
    fy, fx = torch.fft.fftfreq(size, device=device)[:, None], torch.fft.rfftfreq(size, device=device)[None]
    angle = dice.uniform(0, math.pi) * dice.chance(0.6)
    stretch = dice.log_uniform(1, 40) ** dice.chance(0.5)
    along, across = fx * angle.cos() + fy * angle.sin(), fy * angle.cos() - fx * angle.sin()
    frequency = ((along * stretch) ** 2 + across**2).sqrt() + 1 / size
    power = frequency ** -dice.uniform(0.0, 2.5)
    centre, width = dice.log_uniform(0.015, 0.4), dice.log_uniform(0.08, 0.8)
    band = (-((frequency / centre).log() ** 2) / (2 * width**2)).exp()
    amplitude = torch.where(dice.chance(0.4) > 0, band, power)
    noise = torch.complex(dice.normal(GROUP, 1, *amplitude.shape[-2:]), dice.normal(GROUP, 1, *amplitude.shape[-2:]))
    field = _standardise(torch.fft.irfft2(noise * amplitude, s=(size, size)))
    ridges = dice.chance(0.2)
    return field * (1 - ridges) - field.abs() * ridges


def grating(dice: Dice) -> Tensor:
    """Waves in one or two directions, plain or multiplied: stripes, grids, checks, dots, corrugation."""
    u, v = dice.warped()
    period = dice.log_uniform(3, 60)
    other = period * dice.log_uniform(0.3, 3) ** dice.chance(0.5)
    a, b = (u * math.tau / period).sin(), (v * math.tau / other).sin()
    kind = dice.uniform(0, 4).floor()
    return torch.where(kind == 0, a, torch.where(kind == 1, a * b, torch.where(kind == 2, a + b, torch.maximum(a, b))))


def weave(dice: Dice) -> Tensor:
    """Plain weaves and twills of round threads of uneven brightness."""
    u, v = dice.warped()
    pitch = dice.log_uniform(4, 24)
    u, v = u / pitch, v / pitch / dice.log_uniform(0.6, 1.6)
    repeat = dice.uniform(2, 6).floor()
    over = ((u.floor() + v.floor() * dice.uniform(1, 3).floor()) % repeat) < (repeat / 2).floor()
    uneven = dice.uniform(0, 0.4)
    warp = 1 - (2 * (u % 1) - 1) ** 2 + uneven * _hash(dice.uniform(0, 1), u.floor())
    weft = 1 - (2 * (v % 1) - 1) ** 2 + uneven * _hash(dice.uniform(0, 1), v.floor()) + dice.uniform(-0.8, 0.8)
    return torch.where(over, warp, weft)


def _cells(
    dice: Dice, jitter: Tensor, pitch: Tensor, aspect: Tensor | float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """A jittered grid: for each of the four points nearest to a pixel, the offset to it in cells and its hash."""
    u, v = dice.warped()
    u, v = u / pitch, v / pitch / aspect
    u = u + 0.5 * dice.chance(0.3) * ((v - 0.5).floor() % 2)
    column, row, seed = (u - 0.5).floor(), (v - 0.5).floor(), dice.uniform(0, 1)
    for i in (0, 1):
        for j in (0, 1):
            identity = _hash(seed, column + i, row + j)
            dx = u - column - i - 0.5 - jitter * (identity - 0.5)
            dy = v - row - j - 0.5 - jitter * ((identity * 61) % 1 - 0.5)
            yield dx, dy * aspect, identity


def cells(dice: Dice) -> Tensor:
    """Voronoi cells: their domes, their edges or flat facets; with little jitter tiles and bricks."""
    first = second = torch.full((), math.inf, device=dice.generator.device)
    facet = torch.zeros((), device=dice.generator.device)
    jitter, aspect = dice.uniform(0, 0.8) * dice.chance(0.75), dice.log_uniform(0.4, 2.5)
    for dx, dy, identity in _cells(dice, jitter, dice.log_uniform(5, 60), aspect):
        distance = dx * dx + dy * dy
        facet = torch.where(distance < first, identity, facet)
        second = torch.minimum(second, torch.maximum(first, distance))
        first = torch.minimum(first, distance)
    edge = (second.sqrt() - first.sqrt()).clamp(max=0.4) * 2
    kind = dice.uniform(0, 4).floor()
    return torch.where(kind == 0, facet, torch.where(kind == 1, -first, torch.where(kind == 2, edge, edge + facet)))


def stamps(dice: Dice) -> Tensor:
    """Layers of shapes, repeated or scattered, large under small: parts in rows, dead leaves, granules, fibres."""
    field = dice.uniform(0, 1) + torch.zeros(GROUP, 1, dice.size, dice.size, device=dice.generator.device)
    pitch = dice.log_uniform(8, 110)
    power, jitter = dice.log_uniform(1, 6), dice.uniform(0, 1) * dice.chance(0.7)
    shading, presence = dice.uniform(-1, 1) * dice.chance(0.5), dice.uniform(0.4, 1.0) ** dice.chance(0.6)
    ring, slim = dice.chance(0.2), dice.log_uniform(1, 8) ** dice.chance(0.4)
    for _ in range(1 + dice.pick(3)):
        radius, aligned = dice.uniform(0.25, 0.6), dice.chance(0.5)
        for dx, dy, identity in _cells(dice, jitter, pitch, 1.0):
            angle = math.tau * ((identity * 131) % 1) * (1 - aligned)
            x, y = dx * angle.cos() + dy * angle.sin(), (dy * angle.cos() - dx * angle.sin()) * slim
            reach = radius * (0.6 + 0.4 * ((identity * 37) % 1))
            away = ((x.abs() / reach) ** power + (y.abs() / reach) ** power + 1e-9) ** (1 / power)
            cover = ((1 - away) * reach * pitch / slim + 0.5).clamp(0, 1) * ((identity * 17) % 1 < presence)
            cover = cover * (1 - ring * (away < 0.7).float())
            value = (identity * 53) % 1 + shading * (1 - away) + 0.3 * shading * x / reach
            field = field + cover * (value - field)
        pitch = pitch * dice.uniform(0.35, 0.8)
    return field


def polar(dice: Dice) -> Tensor:
    """Rings, spokes and turned metal about a centre in or out of sight; with clouds in the radius, wood grain."""
    axis = torch.linspace(-0.5, 0.5, dice.size, device=dice.generator.device)
    spread = dice.log_uniform(0.1, 2)
    x = axis.view(1, 1, 1, -1) + spread * (dice.uniform(-1, 1))
    y = (axis.view(1, 1, -1, 1) + spread * (dice.uniform(-1, 1))) * dice.log_uniform(0.15, 1) ** dice.chance(0.4)
    radius = (x * x + y * y).sqrt() + dice.clouds(2 + dice.pick(6)) * dice.uniform(0, 0.06) * dice.chance(0.5)
    turn = torch.atan2(y, x) / math.tau
    profile = (
        dice.normal(GROUP, 1, 1, 16 * 2 ** dice.pick(6)).cumsum(-1)
        if dice.pick(2)
        else dice.normal(GROUP, 1, 1, 16 * 2 ** dice.pick(5))
    )
    profile = _standardise(profile)
    spokes = dice.uniform(2, 40).floor()
    along_radius = _lookup(profile, radius / (0.7 + 1.4 * spread))
    along_turn = (turn * spokes * math.tau).sin() * (radius > dice.uniform(0, 0.3)).float()
    sheen = (2 * math.tau * turn + dice.uniform(0, 6.28)).cos()
    return along_radius + sheen * dice.uniform(0, 0.6) + along_turn * dice.chance(0.25)


def _lookup(profile: Tensor, position: Tensor) -> Tensor:
    """The (n, 1, 1, L) profile, interpolated at positions (n, 1, S, S) of which [0, 1] is its length."""
    at = position.clamp(0, 1) * (profile.shape[-1] - 2)
    low = at.floor()
    flat = profile.flatten(1)
    left = flat.gather(1, low.long().flatten(1)).view_as(at)
    right = flat.gather(1, low.long().flatten(1) + 1).view_as(at)
    return left + (at - low) * (right - left)


def glyphs(dice: Dice) -> Tensor:
    """Rows of small random signs, as print and engraving look from afar."""
    u, v = dice.plane()
    pitch = dice.log_uniform(10, 60)
    u, v = u / pitch, v / pitch / dice.uniform(1.2, 1.8)
    bits = dice.uniform(3, 6).floor()
    margin = dice.uniform(1.1, 1.5)
    inner_u, inner_v = (u % 1) * margin, (v % 1) * margin * 1.2
    bit = _hash(
        dice.uniform(0, 1), u.floor() * 13 + (inner_u * bits).floor(), v.floor() * 17 + (inner_v * (bits + 1)).floor()
    )
    on_page = (inner_u < 1) & (inner_v < 1) & (_hash(dice.uniform(0, 1), u.floor(), v.floor()) < dice.uniform(0.5, 1))
    return _soften(dice, (bit < 0.55).float() * on_page.float(), 0.4, 2.0)


def scratches(dice: Dice) -> Tensor:
    """A few lines or many, straight or bent, thin or broad, on empty ground: scratches, wires, hairs, cracks."""
    axis = torch.arange(dice.size, dtype=torch.float32, device=dice.generator.device)
    x, y = axis.view(1, 1, 1, -1), axis.view(1, 1, -1, 1)
    rough = dice.clouds(8 + dice.pick(24)) * dice.uniform(0, 6) * dice.chance(0.4)
    field = torch.zeros(GROUP, 1, dice.size, dice.size, device=dice.generator.device)
    width, bend, main = dice.log_uniform(0.7, 8), dice.uniform(0, 0.02) * dice.chance(0.5), dice.uniform(0, math.pi)
    spread = dice.uniform(0, math.pi)
    for _ in range(2 ** (1 + dice.pick(5))):
        angle = main + spread * dice.uniform(-1, 1)
        dx, dy = x - dice.uniform(0, dice.size), y - dice.uniform(0, dice.size)
        along = dx * angle.cos() + dy * angle.sin()
        across = dy * angle.cos() - dx * angle.sin() + bend * dice.uniform(-1, 1) * along * along + rough
        line = (width * dice.uniform(0.3, 1) + 0.5 - across.abs()).clamp(0, 1)
        ends = (dice.log_uniform(10, 300) - along.abs()).clamp(0, 1)
        field = torch.maximum(field, line * ends * dice.uniform(0.3, 1))
    return field


def polygons(dice: Dice) -> Tensor:
    """A few large convex shapes, each cut by half-planes and flat or shaded: machined parts, boxes, edges, corners."""
    axis = torch.linspace(-1, 1, dice.size, device=dice.generator.device)
    x, y = axis.view(1, 1, 1, -1), axis.view(1, 1, -1, 1)
    field = dice.uniform(0, 1) + torch.zeros(GROUP, 1, dice.size, dice.size, device=dice.generator.device)
    for _ in range(1 + dice.pick(6)):
        dx, dy = x - dice.uniform(-1, 1), y - dice.uniform(-1, 1)
        reach, first = dice.log_uniform(0.1, 1.2), dice.uniform(0, math.tau)
        corners = 3 + dice.pick(4)
        depth = reach - (dx * dx + dy * dy).sqrt() * dice.chance(0.3)
        for k in range(corners):
            angle = first + math.tau * k / corners + dice.uniform(-0.3, 0.3) * dice.chance(0.6)
            depth = torch.minimum(depth, reach * dice.uniform(0.6, 1) - dx * angle.cos() - dy * angle.sin())
        cover = (depth * dice.size / 2 + 0.5).clamp(0, 1)
        bevel = (depth / reach * dice.log_uniform(1, 12)).clamp(0, 1) * dice.uniform(-0.5, 0.5) * dice.chance(0.4)
        field = field + cover * (dice.uniform(0, 1) + bevel + dice.uniform(-0.4, 0.4) * dx - field)
    return field


def network(dice: Dice) -> Tensor:
    """The output of a random convolutional network on noise that enters at every scale."""
    size, width = max(dice.size // 32, 3), 8
    hidden = dice.normal(GROUP, width, size, size)
    while size < dice.size:
        size = min(2 * size, dice.size)
        hidden = F.interpolate(hidden, size=(size, size), mode="bilinear", align_corners=False)
        kernel = dice.normal(width, width, 3, 3) * math.sqrt(2 / (9 * width))
        hidden = F.leaky_relu(F.conv2d(F.pad(hidden, (1, 1, 1, 1), mode="reflect"), kernel), 0.2)
        hidden = hidden + dice.normal(GROUP, 1, size, size) * dice.uniform(0, 0.7) * dice.normal(1, width, 1, 1)
    return torch.einsum("nchw,nc->nhw", hidden, dice.normal(GROUP, width))[:, None]


FAMILIES: tuple[Callable[[Dice], Tensor], ...] = (
    spectral, spectral, spectral, grating, weave, cells, stamps, stamps,
    polar, glyphs, scratches, polygons, network, network,
)  # fmt: skip
"""Each as often as it stands here."""

MASKS: tuple[Callable[[Dice], Tensor], ...] = (spectral, cells, stamps, scratches, polygons, glyphs, network)


def draw(count: int, size: int, generator: torch.Generator) -> Tensor:
    """`count` images, (count, 3, size, size) float32 in [0, 1], on the generator's device. `count` in fours."""
    dice = Dice(size, generator)
    groups = range(count // GROUP)
    images = torch.cat([_paint(dice, FAMILIES[dice.pick(len(FAMILIES))](dice)) for _ in groups])
    for _ in range(2):
        masks = torch.cat([_mask(dice, MASKS[dice.pick(len(MASKS))](dice)) for _ in groups])
        others = images[torch.randperm(count, generator=generator, device=images.device)]
        relief = images * others.mean(1, keepdim=True) * 2
        stain = images * (1 + 0.3 * dice.normal(count, 1, 1, 1) + 0.2 * dice.normal(count, 3, 1, 1))
        kind = dice.uniform(0, 1, count, 1, 1, 1)
        others = torch.where(kind < 0.25, relief, torch.where(kind < 0.55, stain, others))
        images = torch.lerp(images, others, masks * dice.chance(0.6, count, 1, 1, 1))
    return torch.cat([_photograph(dice, group) for group in torch.split(images, GROUP)])


def _standardise(field: Tensor) -> Tensor:
    deviation, mean = torch.std_mean(field, dim=(1, 2, 3), keepdim=True)
    return (field - mean) / (deviation + 1e-4)


def _paint(dice: Dice, field: Tensor) -> Tensor:
    """Colours (n, 3, S, S) from a field: from one colour to another through a third, soft or hard, faint or strong."""
    shade = torch.tanh(_standardise(field) * dice.log_uniform(0.3, 6)) * 0.5
    tint = dice.log_uniform(0.01, 0.5)
    ground = dice.uniform(0.1, 0.9) + tint * dice.normal(GROUP, 3, 1, 1)
    step = dice.log_uniform(0.06, 1.0) * (1 + 1.5 * tint * dice.normal(GROUP, 3, 1, 1))
    middle = tint * dice.normal(GROUP, 3, 1, 1) * dice.chance(0.4)
    return ground + shade * step * (2 * dice.chance(0.5) - 1) + (0.5 - 2 * shade * shade) * middle


def _mask(dice: Dice, field: Tensor) -> Tensor:
    """A mask in [0, 1] from a field: the part above a random level, with a hard or a soft edge, more or less opaque."""
    level = dice.uniform(-1.2, 1.8)
    return ((_standardise(field) - level) * dice.log_uniform(1, 30) + 0.5).clamp(0, 1) * dice.uniform(0.1, 1.5).clamp(
        max=1
    )


def _soften(dice: Dice, images: Tensor, low: float, high: float) -> Tensor:
    """Gaussian blur, one sigma in pixels for the group."""
    sigma = float(dice.log_uniform(low, high, 1))
    radius = max(1, math.ceil(2.5 * sigma))
    tap = torch.exp(-(torch.arange(-radius, radius + 1, device=images.device) ** 2) / (2 * sigma**2))
    tap = (tap / tap.sum()).repeat(images.shape[1], 1)
    padded = F.pad(images, (radius,) * 4, mode="reflect")
    rows = F.conv2d(padded, tap[:, None, None, :], groups=images.shape[1])
    return F.conv2d(rows, tap[:, None, :, None], groups=images.shape[1])


def _photograph(dice: Dice, images: Tensor) -> Tensor:
    """Pose, light, contrast, colour cast, blur, sensor noise and 8 bits."""
    if dice.pick(2):
        angle, zoom = dice.uniform(0, math.tau), dice.log_uniform(0.4, 1.3)
        cos, sin = (angle.cos() * zoom).view(-1), (angle.sin() * zoom).view(-1)
        skew = dice.uniform(-0.3, 0.3).view(-1)
        matrix = torch.stack((cos, skew - sin, 0 * cos, sin, cos, 0 * cos), 1).view(-1, 2, 3)
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    grey = images.mean(1, keepdim=True)
    images = torch.lerp(images, grey, dice.chance(0.35) + dice.uniform(0, 0.5) * dice.chance(0.3))
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (images - mean) * dice.log_uniform(0.4, 1.5) + mean.lerp(dice.uniform(0.15, 0.75), dice.uniform(0, 1))
    light = 1 + dice.clouds(2) * dice.uniform(0, 0.3) * dice.chance(0.6)
    images = images * light * dice.log_uniform(0.7, 1.2)
    if dice.pick(3) == 0:
        images = _soften(dice, images, 0.5, 3.0)
    noise = dice.normal(*images.shape) * dice.log_uniform(0.002, 0.08) * dice.chance(0.7)
    return ((images + noise).clamp(0, 1) * 255).round() / 255
