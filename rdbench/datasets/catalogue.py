"""What is known of each dataset before any file is read: licence, home page and the official counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetInfo:
    """One dataset."""

    name: str
    summary: str
    licence: str
    url: str
    """Where to get it; empty for what needs no download."""
    size: str
    """Of the download, in words."""
    counts: Mapping[str, Mapping[str, int]]
    """Official category -> split -> number of images."""

    @property
    def categories(self) -> tuple[str, ...]:
        """The official categories, sorted."""
        return tuple(sorted(self.counts))


def _counts(splits: tuple[str, ...], table: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, int]]:
    return {category: dict(zip(splits, row, strict=True)) for category, row in table.items()}


_MVTEC_AD = {
    "bottle": (209, 83),
    "cable": (224, 150),
    "capsule": (219, 132),
    "carpet": (280, 117),
    "grid": (264, 78),
    "hazelnut": (391, 110),
    "leather": (245, 124),
    "metal_nut": (220, 115),
    "pill": (267, 167),
    "screw": (320, 160),
    "tile": (230, 117),
    "toothbrush": (60, 42),
    "transistor": (213, 100),
    "wood": (247, 79),
    "zipper": (240, 151),
}

_MVTEC_AD2 = {
    "can": (412, 46, 321, 321),
    "fabric": (387, 43, 314, 314),
    "fruit_jelly": (263, 37, 255, 255),
    "rice": (313, 35, 277, 277),
    "sheet_metal": (137, 19, 142, 142),
    "vial": (291, 41, 276, 276),
    "wallplugs": (293, 33, 232, 232),
    "walnuts": (432, 48, 228, 228),
}

_VISA = {
    "candle": (900, 200),
    "capsules": (542, 160),
    "cashew": (450, 150),
    "chewinggum": (453, 150),
    "fryum": (450, 150),
    "macaroni1": (900, 200),
    "macaroni2": (900, 200),
    "pcb1": (904, 200),
    "pcb2": (901, 200),
    "pcb3": (905, 201),
    "pcb4": (904, 201),
    "pipe_fryum": (450, 150),
}

DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="toy",
            summary="drawn in memory: three categories, defects from faint to plain, three lights",
            licence="Apache-2.0, as rdbench",
            url="",
            size="nothing to download",
            counts=_counts(
                ("train", "validation", "test"), dict.fromkeys(("flange", "tablets", "twill"), (60, 12, 60))
            ),
        ),
        DatasetInfo(
            name="mvtec_ad",
            summary="15 industrial objects and textures under one light (Bergmann et al., 2019)",
            licence="CC BY-NC-SA 4.0",
            url="https://www.mvtec.com/company/research/datasets/mvtec-ad",
            size="4.9 GB",
            counts=_counts(("train", "test"), _MVTEC_AD),
        ),
        DatasetInfo(
            name="mvtec_ad2",
            summary="8 harder objects, each test part under several real lights (Heckler-Kram et al., 2025)",
            licence="CC BY-NC-SA 4.0",
            url="https://www.mvtec.com/company/research/datasets/mvtec-ad-2",
            size="some 30 GB",
            counts=_counts(("train", "validation", "test_private", "test_private_mixed"), _MVTEC_AD2),
        ),
        DatasetInfo(
            name="visa",
            summary="12 objects, the official one-class split (Zou et al., 2022)",
            licence="CC BY 4.0",
            url="https://github.com/amazon-science/spot-diff",
            size="1.8 GB",
            counts=_counts(("train", "test"), _VISA),
        ),
        DatasetInfo(
            name="folder",
            summary="your own images, in folders laid out as any of the datasets above",
            licence="",
            url="",
            size="",
            counts={},
        ),
    )
}
