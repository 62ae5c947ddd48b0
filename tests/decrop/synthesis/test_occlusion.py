"""Leaves are found where they are: against every point of the image tested one by one."""

import math

import numpy as np
import pytest
import torch

from decrop.synthesis.dead_leaves import MOST_CORNERS, Array, Leaves, topmost_leaves

HEIGHT, WIDTH, POINTS = 9, 13, 2
CPU = torch.device("cpu")


def random_leaves(images: int, count: int, seed: int = 0) -> Leaves:
    """Leaves of which some are larger than the image, some outside it, and every fifth is none."""
    generator = np.random.default_rng(seed)
    shape = (images, count)
    radius = generator.uniform(0.4, 2.5, shape) ** 2
    radius[:, ::5] = 0
    return Leaves(
        number=np.broadcast_to(np.arange(1, count + 1), shape),
        radius=radius,
        row=generator.uniform(-4, HEIGHT + 4, shape),
        column=generator.uniform(-4, WIDTH + 4, shape),
        corners=generator.random((*shape, MOST_CORNERS)),
    )


def drawn(leaves: Leaves, height: int = HEIGHT, width: int = WIDTH) -> Array:
    found = topmost_leaves(
        leaves, height=height, width=width, points_per_pixel=POINTS, device=CPU
    ).numpy()
    assert found.shape == (len(leaves.number), height * POINTS, width * POINTS)
    return found


def polygon(leaves: Leaves, image: int, leaf: int, corners: int) -> list[tuple[float, float]]:
    """Return the corners (row, column) of a leaf, from the description of its places."""
    places = leaves.corners[image, leaf]
    found = []
    for corner in range(corners):
        angle = 2 * math.pi * ((corner + 0.8 * places[corner]) / corners + places[-1])
        radius = leaves.radius[image, leaf]
        found.append(
            (
                leaves.row[image, leaf] + radius * math.sin(angle),
                leaves.column[image, leaf] + radius * math.cos(angle),
            )
        )
    return found


def covers(leaves: Leaves, image: int, leaf: int, row: float, column: float) -> bool:
    radius = leaves.radius[image, leaf]
    corners = (0, 3, 4, 5)[leaf % 4]
    if corners == 0:
        centre = (leaves.row[image, leaf], leaves.column[image, leaf])
        return math.dist(centre, (row, column)) < radius
    ring = polygon(leaves, image, leaf, corners)
    sides = [
        (next_row - own_row) * (column - own_column) - (next_column - own_column) * (row - own_row)
        for (own_row, own_column), (next_row, next_column) in zip(
            ring, ring[1:] + ring[:1], strict=True
        )
    ]
    return radius > 0 and (min(sides) > 0 or max(sides) < 0)


def test_topmost_leaf_is_that_of_every_point() -> None:
    leaves = random_leaves(images=3, count=20)
    found = drawn(leaves)
    for image, y, x in np.ndindex(found.shape):
        row, column = (y + 0.5) / POINTS, (x + 0.5) / POINTS
        covering = [leaf for leaf in range(20) if covers(leaves, image, leaf, row, column)]
        assert found[image, y, x] == max((leaf + 1 for leaf in covering), default=0)
    assert len(np.unique(found)) > 12


def test_images_do_not_act_on_each_other() -> None:
    leaves = random_leaves(images=5, count=30)
    together = drawn(leaves)
    for image in range(5):
        assert (drawn(leaves.at(np.s_[image : image + 1])) == together[image]).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (8, 2)])
def test_small_images(height: int, width: int) -> None:
    drawn(random_leaves(images=2, count=8), height, width)


def test_no_leaves_at_all() -> None:
    assert (drawn(random_leaves(images=2, count=1)) == 0).all()
