"""The kinds of shift and what each of their five severities is physically."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of shift."""

    name: str
    group: str
    summary: str
    wording: str
    """What a severity is physically, to be filled with its values."""
    values: tuple[tuple[float, ...], ...]
    """The parameters of the five severities, in the order of `wording`. Pixels are those of a 256-pixel image."""
    geometric: bool = False
    """True if pixels move, so that masks must move with them."""

    @property
    def levels(self) -> tuple[str, ...]:
        """What each of the five severities is physically, in words."""
        return tuple(self.wording.format(*values) for values in self.values)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            name="exposure",
            group="lighting",
            summary="exposure up or down, drawn per image",
            wording="{:g} stops up or down",
            values=((0.4,), (0.8,), (1.2,), (1.6,), (2.0,)),
        ),
        Kind(
            name="gradient",
            group="lighting",
            summary="uneven light: brighter on one side, darker on the other",
            wording="{:g} stops from one side to the other",
            values=((0.5,), (1.0,), (1.5,), (2.0,), (3.0,)),
        ),
        Kind(
            name="colour_temperature",
            group="lighting",
            summary="light warmer or cooler than daylight (6500 K), drawn per image",
            wording="{:g} mired off: {:g} K or {:g} K",
            values=((20, 5755, 7477), (40, 5161, 8791), (60, 4678, 10666), (80, 4278, 13559), (100, 3941, 18605)),
        ),
        Kind(
            name="highlight",
            group="lighting",
            summary="specular spots that saturate",
            wording="spots: {:g}, radius {:g} px",
            values=((1, 12), (2, 16), (3, 20), (4, 25), (6, 30)),
        ),
        Kind(
            name="flicker",
            group="lighting",
            summary="bands of a rolling shutter under flickering light",
            wording="light {:g} % lower in the dark bands",
            values=((12,), (25,), (40,), (60,), (80,)),
        ),
        Kind(
            name="defocus",
            group="blur",
            summary="out of focus: each point becomes a disc",
            wording="disc {:g} px across",
            values=((3,), (5,), (7,), (9,), (13,)),
        ),
        Kind(
            name="motion",
            group="blur",
            summary="the part moves while the shutter is open",
            wording="path {:g} px long",
            values=((3,), (7,), (11,), (15,), (21,)),
        ),
        Kind(
            name="sensor",
            group="noise",
            summary="shot noise and read noise of the sensor",
            wording="white is {:g} photons, read noise {:g}",
            values=((1600, 3), (400, 3), (160, 3), (80, 3), (40, 3)),
        ),
        Kind(
            name="salt_pepper",
            group="noise",
            summary="hot and dead pixels",
            wording="{:g} % of the pixels white or black",
            values=((0.1,), (0.3,), (1.0,), (2.0,), (4.0,)),
        ),
        Kind(
            name="contrast",
            group="camera",
            summary="contrast lost to haze or stray light",
            wording="{:g} % of the contrast left",
            values=((80,), (65,), (50,), (35,), (20,)),
        ),
        Kind(
            name="jpeg",
            group="camera",
            summary="JPEG compression",
            wording="quality {:g}",
            values=((60,), (35,), (20,), (10,), (5,)),
        ),
        Kind(
            name="resolution",
            group="camera",
            summary="a camera with fewer, larger pixels",
            wording="pixels {:g} times as wide",
            values=((2,), (3,), (4,), (6,), (8,)),
        ),
        Kind(
            name="viewpoint",
            group="camera",
            summary="the camera was knocked: rotation, shift and perspective, signs drawn per image",
            wording="{:g}°, {:g} px, {:g} % perspective",
            values=((0.5, 1, 1), (1, 2, 2), (2, 3, 3), (3, 4, 5), (4, 6, 8)),
            geometric=True,
        ),
        Kind(
            name="dirt",
            group="camera",
            summary="smudges and dust on the lens",
            wording="smudges: {:g} of {:g} %, specks: {:g}",
            values=((2, 20, 4), (2, 35, 8), (3, 45, 14), (3, 60, 22), (4, 70, 32)),
        ),
        Kind(
            name="adshift_brightness",
            group="adshift",
            summary="brightness as in ADShift (ImageNet-C)",
            wording="HSV value plus {:g}",
            values=((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
        ),
        Kind(
            name="adshift_contrast",
            group="adshift",
            summary="contrast as in ADShift (ImageNet-C)",
            wording="contrast times {:g}",
            values=((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
        ),
        Kind(
            name="adshift_defocus_blur",
            group="adshift",
            summary="defocus blur as in ADShift (ImageNet-C)",
            wording="radius {:g} pixels, softened {:g}",
            values=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        ),
        Kind(
            name="adshift_gaussian_noise",
            group="adshift",
            summary="Gaussian noise as in ADShift (ImageNet-C)",
            wording="standard deviation {:g}",
            values=((0.08,), (0.12,), (0.18,), (0.26,), (0.38,)),
        ),
    )
}
