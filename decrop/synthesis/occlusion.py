"""Occlusion: the topmost of many overlapping shapes at each point of an image."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

# Leaves are in turn discs, triangles, quadrilaterals and pentagons.
_CORNERS = (0, 3, 4, 5)
MOST_CORNERS = max(_CORNERS)
# How far a corner may leave its place in a regular polygon, as a share of the way to the next.
_IRREGULARITY = 0.8
# Leaves whose radii differ by less than this factor are drawn together; for speed alone.
_RADIUS_RATIO_TOGETHER = 0.8


@dataclass(frozen=True)
class Leaves:
    """Leaves [images, leaves], in pixels from the top left corner.

    Attributes:
        number: from 1; a leaf covers those of lower numbers.
        radius: of the circle around the leaf; 0 where there is none.
        row: of the centre.
        column: of the centre.
        corners: in [0,1), places of the corners [images, leaves, MOST_CORNERS]; the first turns the
            leaf if it has fewer.
    """

    number: Array
    radius: Array
    row: Array
    column: Array
    corners: Array

    def at(self, index: tuple[Any, ...]) -> "Leaves":
        """Return the leaves at an index into [images, leaves]."""
        return Leaves(
            self.number[index],
            self.radius[index],
            self.row[index],
            self.column[index],
            self.corners[index],
        )


def topmost_leaves(
    leaves: Leaves, *, height: int, width: int, points_per_pixel: int, device: torch.device
) -> Tensor:
    """Find the leaf on top at each of `points_per_pixel` x `points_per_pixel` points of a pixel.

    Leaves are in turn discs, triangles, quadrilaterals and pentagons; the polygons are inscribed in
    the circle. Each leaf is drawn in a window around it only, largest leaves first.

    Returns:
        int32 [images, height * points_per_pixel, width * points_per_pixel] numbers; 0 is no leaf.
    """
    rows, columns = height * points_per_pixel, width * points_per_pixel
    images, count = leaves.number.shape
    topmost = torch.zeros(images, rows * columns, dtype=torch.int32, device=device)
    for shape, corners in enumerate(_CORNERS):
        own = np.arange(shape, count, len(_CORNERS))
        order = own[np.argsort(-leaves.radius[:, own], axis=1, kind="stable")]
        by_size = leaves.at((np.arange(images)[:, None], order))
        for part in _parts(by_size.radius.max(axis=0)):
            points, numbers = _inside(
                by_size.at((slice(None), part)), corners, rows, columns, points_per_pixel, device
            )
            topmost.scatter_reduce_(1, points.flatten(1), numbers.flatten(1), "amax")
    return topmost.view(images, rows, columns)


def _parts(radii: Array) -> Iterator[slice]:
    start, end = 0, int((radii > 0).sum())
    while start < end:
        similar = int((radii[start:end] > _RADIUS_RATIO_TOGETHER * radii[start]).sum())
        yield slice(start, start + similar)
        start += similar


def _inside(
    leaves: Leaves,
    corners: int,
    rows: int,
    columns: int,
    points_per_pixel: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Return the points of a window around each leaf, and its number at those inside it, else 0."""
    reach = math.ceil(2 * leaves.radius.max() * points_per_pixel) + 1

    def window(centre: Array, points: int) -> tuple[Tensor, Tensor]:
        first = np.floor((centre - leaves.radius) * points_per_pixel)
        size = min(reach, points)
        # A window that would leave the image is moved: it still holds all that is inside.
        start = _on(device, first.clip(0, points - size), torch.int64)
        index = start[..., None] + torch.arange(size, device=device)
        return index, (index + 0.5) / points_per_pixel - _on(device, centre)[..., None]

    row, down = window(leaves.row, rows)
    column, right = window(leaves.column, columns)
    if corners == 0:
        square = _on(device, leaves.radius**2)[..., None]
        outside = (down**2)[..., None] + (right**2 - square)[..., None, :]
    else:
        outside = torch.full((), -math.inf, device=device)
        for normal, distance in _edges(leaves, corners):
            sine, cosine = _on(device, np.sin(normal)), _on(device, np.cos(normal))
            beyond = (down * sine[..., None])[..., None] + (
                right * cosine[..., None] - _on(device, distance)[..., None]
            )[..., None, :]
            outside = torch.maximum(outside, beyond)
    number = _on(device, leaves.number, torch.int32)[..., None, None]
    return (row * columns)[..., None] + column[..., None, :], number * (outside < 0)


def _edges(leaves: Leaves, corners: int) -> Iterator[tuple[Array, Array]]:
    """Yield the angle of each edge's normal, and how far from the centre the edge is."""
    places = np.arange(corners) + _IRREGULARITY * leaves.corners[..., :corners]
    angles = 2 * np.pi * (places / corners + leaves.corners[..., -1:])
    following = np.concatenate([angles[..., 1:], angles[..., :1] + 2 * np.pi], axis=-1)
    for edge in range(corners):
        start, end = angles[..., edge], following[..., edge]
        yield (start + end) / 2, leaves.radius * np.cos((end - start) / 2)


def _on(device: torch.device, values: Array, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.as_tensor(values).to(device, dtype)
