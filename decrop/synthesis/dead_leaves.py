"""Dead leaves: images of shapes that cover each other, made from random numbers alone.

Opaque leaves of all sizes have much of the statistics of natural images: edges, flat regions,
occlusion and scale invariance (Lee, Mumford and Huang 2001, "Occlusion models for natural images").
What networks learn on them carries over to photographs (Baradad et al. 2021, "Learning to see by
looking at noise").
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Array = NDArray[Any]

# Leaves are in turn discs, triangles, quadrilaterals and pentagons.
_CORNERS = (0, 3, 4, 5)
MOST_CORNERS = max(_CORNERS)
# How far a corner may leave its place in a regular polygon, as a share of the way to the next.
_IRREGULARITY = 0.8
# Leaves whose radii differ by less than this factor are painted together; for speed alone.
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
    the circle. Each leaf is painted in a window around it only, largest leaves first.

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


# Mean area of a leaf, in squared radii, over its shapes.
_MEAN_AREA = 2.0
# Mean number of leaves over a point; with it, about a twentieth of the images is background.
_COVERAGE = 3.0
# The smallest radius of an image, in pixels, is between these; the largest is half the image.
_FINEST_RADIUS, _COARSEST_RADIUS = 0.75, 3.0
# Colours of an image, and ranges of their mean and of their standard deviations.
_PALETTE = (3, 10)
_LEVEL = (0.25, 0.75)
_CONTRAST = (0.08, 0.3)
_SATURATION = (0.02, 0.2)
# Standard deviation of brightness among leaves of one colour.
_TINT = 0.03
# Most that brightness changes from the centre of a leaf to its rim.
_SHADING = 0.15
# Most that illumination changes brightness, as a share, at the points of a coarse grid.
_ILLUMINATION = 0.4
_ILLUMINATION_GRID = 3
# Sample points along a side of a pixel; the mean over them softens edges.
SUPERSAMPLING = 2
# Images that are painted together; for speed alone.
_IMAGES_TOGETHER = 64


def dead_leaves(
    shape: Sequence[int], generator: np.random.Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """Make images of discs, triangles, quadrilaterals and pentagons of many sizes.

    The density of radii falls with their third power, at which the model is scale invariant (Lee,
    Mumford and Huang 2001); leaves reach in from outside. Each image has a palette, a smallest
    radius and a smooth illumination of its own, each leaf a linear shading.

    All random numbers are from the CPU, image by image: the n-th image of a generator does not
    depend on how many are made in a call nor, but for the last bits, on the device.

    Args:
        shape: B, C, H and W; C is 1 for grey, 3 for colour.

    Returns:
        float32 [B, C, H, W] in [0,1].
    """
    return in_parts(_draw, shape, generator, device)


Draw = Callable[[tuple[int, int, int, int], np.random.Generator, torch.device], Tensor]


def in_parts(
    draw: Draw, shape: Sequence[int], generator: np.random.Generator, device: torch.device | str
) -> Tensor:
    """Draw images [B, C, H, W], a few at a time, which takes less memory and is faster."""
    images = torch.empty(shape, device=device)
    for start in range(0, len(images), _IMAGES_TOGETHER):
        part = images[start : start + _IMAGES_TOGETHER]
        count, channels, height, width = part.shape
        part.copy_(draw((count, channels, height, width), generator, images.device))
    return images


@dataclass(frozen=True)
class Sizes:
    """How many leaves of which radii an image takes, in pixels.

    The smallest radius of an image is at most `most_coarse`.
    """

    height: int
    width: int
    most_coarse: float = _COARSEST_RADIUS

    @property
    def largest(self) -> float:
        return max(self.height, self.width) / 2

    @property
    def finest(self) -> float:
        return min(_FINEST_RADIUS, self.largest / 4)

    @property
    def coarsest(self) -> float:
        return min(self.most_coarse, self.largest / 2)

    def count(self, smallest: Array) -> Array:
        """Return how many leaves of at least this radius give the coverage."""
        density = _COVERAGE / (_MEAN_AREA * np.log(self.largest / smallest))
        count: Array = np.floor(density * self._measure(smallest))
        return count

    def radii(self, uniform: Array, smallest: Array) -> Array:
        """Turn uniform numbers into radii of leaves that reach into the image."""
        table = np.geomspace(self.largest, self.finest, 256)
        radii: Array = np.interp(uniform * self._measure(smallest), self._measure(table), table)
        return radii

    def _measure(self, radius: Array) -> Array:
        # The integral of r^-3 (height + 2 r) (width + 2 r) from this to the largest radius: centres
        # lie in the image, or outside no further than the leaf reaches.
        measure: Array = (
            self.height * self.width * (radius**-2.0 - self.largest**-2.0) / 2
            + 2 * (self.height + self.width) * (1 / radius - 1 / self.largest)
            + 4 * np.log(self.largest / radius)
        )
        return measure


Shapes = Sequence[tuple[int, ...]]


def uniform_numbers(images: int, shapes: Shapes, generator: np.random.Generator) -> list[Array]:
    """Return uniform numbers in [0,1), float32 [images, *shape] for each shape, image by image."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    uniform = generator.random((images, ends[-1]), np.float32)
    return [
        part.reshape(images, *shape)
        for part, shape in zip(np.split(uniform, ends[:-1], axis=1), shapes, strict=True)
    ]


@dataclass(frozen=True)
class Scene:
    """Painted leaves of images; leaf 0 is the background, whose radius is that of the largest.

    Attributes:
        leaves: [images, leaves].
        topmost: number of the leaf at each point, int32 [images, rows, columns].
        planes: colour of each leaf at the corner of the image, and how it changes a point down and
            one to the right, [images, leaves, channels + 2].
        light: factor of each pixel, [images, 1, height, width].
    """

    leaves: Leaves
    topmost: Tensor
    planes: Array
    light: Tensor

    def pixels(self, points: Tensor) -> Tensor:
        """Turn values at points [images, channels, rows, columns] into those of lit pixels."""
        return F.avg_pool2d(points, SUPERSAMPLING) * self.light


def scene_shapes(channels: int, sizes: "Sizes") -> Shapes:
    """Return the shapes of the uniform numbers of an image's scene."""
    leaves = 1 + int(sizes.count(np.array(sizes.finest)))
    return (
        (5, 1),
        (_PALETTE[1], 1 + channels),
        (1, _ILLUMINATION_GRID, _ILLUMINATION_GRID),
        (7, leaves),
        (leaves, MOST_CORNERS),
    )


def scene(numbers: Sequence[Array], sizes: "Sizes", device: torch.device) -> Scene:
    """Paint leaves by uniform numbers of the shapes that `scene_shapes` tells."""
    of_image, palette, illumination, of_leaf, corners = numbers
    leaves, height, width = of_leaf.shape[2], sizes.height, sizes.width
    fineness, level, contrast, saturation, palette_size = np.moveaxis(of_image, 1, 0)
    size, row, column, colour, tint, shading, direction = np.moveaxis(of_leaf, 1, 0)

    smallest = sizes.finest * (sizes.coarsest / sizes.finest) ** fineness
    radius = sizes.radii(size, smallest)
    radius[:, 0] = sizes.largest
    row = between(-radius, height + radius, row)
    column = between(-radius, width + radius, column)
    number = np.broadcast_to(np.arange(leaves), radius.shape)
    visible = np.where(number <= sizes.count(smallest), radius, 0)
    painted = Leaves(number, visible, row, column, corners)
    topmost = topmost_leaves(
        painted.at(np.s_[:, 1:]),
        height=height,
        width=width,
        points_per_pixel=SUPERSAMPLING,
        device=device,
    )

    colours = _palette(palette, level, contrast, saturation)
    entries = np.floor(between(_PALETTE[0], _PALETTE[1] + 1, palette_size))
    chosen = np.floor(colour * entries).astype(np.int64)
    colours = np.take_along_axis(colours, chosen[..., None], axis=1)
    slope = _SHADING * shading / radius
    down, right = slope * np.sin(2 * np.pi * direction), slope * np.cos(2 * np.pi * direction)
    # The plane through the leaf's colour at its centre, by its value at the corner of the image.
    corner = colours + (_TINT * standard(tint) - down * row - right * column)[..., None]
    planes = np.concatenate([corner, down[..., None], right[..., None]], axis=2)
    gain = between(1 - _ILLUMINATION, 1 + _ILLUMINATION, illumination)
    light = F.interpolate(
        torch.as_tensor(gain).float().to(device),
        size=(height, width),
        mode="bicubic",
        align_corners=True,
    )
    return Scene(painted, topmost, planes, light)


def _draw(
    shape: tuple[int, int, int, int], generator: np.random.Generator, device: torch.device
) -> Tensor:
    images, channels, height, width = shape
    sizes = Sizes(height, width)
    numbers = uniform_numbers(images, scene_shapes(channels, sizes), generator)
    drawn = scene(numbers, sizes, device)
    return drawn.pixels(colours_at_points(drawn.planes, drawn.topmost)).clamp(0, 1)


def _palette(uniform: Array, level: Array, contrast: Array, saturation: Array) -> Array:
    """Turn uniform numbers [images, colours, 1 + channels] into [images, colours, channels]."""
    brightness = between(*_LEVEL, level) + between(*_CONTRAST, contrast) * standard(uniform[..., 0])
    hue = standard(uniform[..., 1:])
    hue = hue - hue.mean(axis=2, keepdims=True)
    palette: Array = brightness[..., None] + between(*_SATURATION, saturation)[..., None] * hue
    return palette


def colours_at_points(planes: Array, topmost: Tensor) -> Tensor:
    """Evaluate each point's plane [images, leaves, channels + 2]: [images, channels, *points]."""
    found = of_topmost(planes, topmost)
    row, column = point_places(topmost)
    return found[:, :-2] + found[:, -2:-1] * row[:, None] + found[:, -1:] * column


def of_topmost(values: Array, topmost: Tensor) -> Tensor:
    """Return values [images, leaves, V] of the leaf at each point: [images, V, *points]."""
    images, leaves, _ = values.shape
    first = leaves * torch.arange(images, device=topmost.device)
    table = torch.as_tensor(values).float().to(topmost.device).flatten(0, 1)
    return F.embedding(topmost + first[:, None, None], table).movedim(-1, 1)


def point_places(topmost: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows and the columns of points, in pixels."""
    _, rows, columns = topmost.shape
    row = (torch.arange(rows, device=topmost.device) + 0.5) / SUPERSAMPLING
    column = (torch.arange(columns, device=topmost.device) + 0.5) / SUPERSAMPLING
    return row, column


def between(low: Array | float, high: Array | float, uniform: Array) -> Array:
    between: Array = low + (high - low) * uniform
    return between


def standard(uniform: Array) -> Array:
    """Turn uniform numbers in [0,1) into ones of mean 0 and standard deviation 1."""
    return between(-math.sqrt(3), math.sqrt(3), uniform)
