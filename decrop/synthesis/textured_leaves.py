"""Textured leaves: dead leaves with textures, perspective and depth of field.

Photographs have more than flat regions between edges. Denoisers come close to those trained on
photographs when leaves have textures, of power-law noise and of warped sinusoids, in perspective
and partly out of focus (Achddou, Gousseau and Ladjal 2023, "Fully synthetic training for image
restoration tasks"; VibrantLeaves, arXiv 2504.10201).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from decrop.synthesis.dead_leaves import (
    SUPERSAMPLING,
    Array,
    Scene,
    Sizes,
    between,
    colours_at_points,
    in_parts,
    of_topmost,
    point_places,
    scene,
    scene_shapes,
    standard,
    uniform_numbers,
)

# The smallest radius of an image is at most this, in pixels: many photographs show few things.
_COARSEST_RADIUS = 8.0
# Side of a texture, in points, after which it repeats.
_SIDE = 64
# Textures of an image: so many of power-law noise, and as many of sinusoids.
_TEXTURES = 2
# The amplitude of the noise falls with frequency to a power between these.
_EXPONENT = (0.3, 2.0)
# Periods of a sinusoid along the side of its texture.
_PERIODS = (1.0, 20.0)
# Most periods by which the noise moves a sinusoid, per standard deviation of the noise.
_WARP = 0.5
# How square the waves of a sinusoid are: from nearly not to nearly.
_SQUARENESS = (0.3, 4.0)
# Largest standard deviation of brightness by a texture, and by how much a channel may differ.
_CONTRAST = 0.3
_HUE = 0.3
# A texture is enlarged by a factor between these.
_SCALE = (0.5, 2.5)
# Most that perspective changes the scale from the centre of a leaf to its rim, as a share.
_PERSPECTIVE = 0.6
# Beyond this share of the scale at its centre, the background's no longer changes.
_NEAREST = 0.25
# Share of images in which the leaves below one, or those above it, are out of focus.
_OUT_OF_FOCUS = 0.5
# Standard deviation of that blur, and largest one of the blur of the whole image, in pixels.
_BLUR = (0.4, 2.0)
_BLUR_OF_ALL = 0.5


def textured_leaves(
    shape: Sequence[int], generator: np.random.Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """Make images as `dead_leaves` does, whose leaves have textures and may be out of focus.

    An image has four textures, two of power-law noise and two of sinusoids that the noise warps. A
    leaf shows one of them in perspective, with a direction, scale, place and contrast of its own.
    In half of the images the leaves below some one are out of focus, or those above it. The whole
    image is a little blurred.

    Args:
        shape: B, C, H and W; C is 1 for grey, 3 for colour.

    Returns:
        float32 [B, C, H, W] in [0,1].
    """
    return in_parts(_draw, shape, generator, device)


def _draw(
    shape: tuple[int, int, int, int], generator: np.random.Generator, device: torch.device
) -> Tensor:
    images, channels, height, width = shape
    sizes = Sizes(height, width, _COARSEST_RADIUS)
    of_scene = scene_shapes(channels, sizes)
    leaves = of_scene[-1][0]
    spectrum = (_TEXTURES, _SIDE, _SIDE // 2 + 1)
    shapes = (*of_scene, (6,), (6, _TEXTURES), spectrum, (8, leaves), (leaves, channels))
    *numbers, of_image, of_texture, phases, of_leaf, hues = uniform_numbers(
        images, shapes, generator
    )
    textureness, whole, focus, side, depth, blur = of_image.T
    drawn = scene(numbers, sizes, device)
    fields = _textures(_on(device, of_texture), _on(device, phases))
    contrast = _CONTRAST * textureness[:, None] * of_leaf[:, 0] ** 2
    texture = _at_points(drawn, fields, of_leaf[:, 1:], contrast, hues)
    points = colours_at_points(drawn.planes, drawn.topmost) + texture

    # The highest of the leaves that are in focus or not.
    last = _on(device, np.floor(depth * leaves)).to(torch.int32)
    above = (drawn.topmost > last[:, None, None])[:, None].float()
    out_of_focus = np.where(focus < _OUT_OF_FOCUS, between(*_BLUR, blur), 0)
    below_blur = np.where(side < 0.5, out_of_focus, 0)
    above_blur = np.where(side < 0.5, 0, out_of_focus)
    image = _in_focus(drawn, points, above, _on(device, below_blur), _on(device, above_blur))
    return _blurred(image, _on(device, _BLUR_OF_ALL * whole)).clamp(0, 1)


def _textures(numbers: Tensor, phases: Tensor) -> Tensor:
    """Make textures whose mean is about 0 and whose standard deviation is about 1.

    Args:
        numbers: uniform [images, 6, textures of a kind].
        phases: of the noise, uniform [images, textures of a kind, side, side // 2 + 1].

    Returns:
        [images, textures of both kinds, side, side], periodic.
    """
    exponent, frequency, direction, warp, squareness, shift = numbers.unbind(1)
    device = numbers.device
    down, right = torch.fft.fftfreq(_SIDE, device=device), torch.fft.rfftfreq(_SIDE, device=device)
    frequencies = (down.square()[:, None] + right.square()).sqrt() * _SIDE
    falloff = -(_EXPONENT[0] + (_EXPONENT[1] - _EXPONENT[0]) * exponent)[..., None, None]
    amplitude = frequencies.clamp_min(1).log().mul(falloff).exp() * (frequencies > 0)
    noise = torch.fft.irfft2(torch.polar(amplitude, 2 * torch.pi * phases), s=(_SIDE, _SIDE))
    noise = noise / noise.std((2, 3), keepdim=True)
    periods = _PERIODS[0] * (_PERIODS[1] / _PERIODS[0]) ** frequency
    angle = 2 * torch.pi * direction
    # Whole periods along both sides, so that the texture repeats.
    across, along = (periods * angle.sin()).round(), (periods * angle.cos()).round()
    place = torch.arange(_SIDE, device=device) / _SIDE
    turns = (across[..., None] * place)[..., None] + (along[..., None] * place)[..., None, :]
    turns = turns + shift[..., None, None] + _WARP * warp[..., None, None] * noise
    steepness = (_SQUARENESS[0] * (_SQUARENESS[1] / _SQUARENESS[0]) ** squareness)[..., None, None]
    waves = (steepness * (2 * torch.pi * turns).sin()).tanh() / steepness.mul(0.7).tanh()
    return torch.cat([noise, waves], 1)


def _at_points(
    drawn: Scene, textures: Tensor, numbers: Array, contrast: Array, hues: Array
) -> Tensor:
    """Return what textures add to the colours of points, [images, channels, rows, columns].

    Args:
        textures: [images, textures, side, side].
        numbers: uniform [images, 7, leaves].
        contrast: of each leaf, [images, leaves].
        hues: uniform [images, leaves, channels].
    """
    which, scale, turn, down, right, perspective, vanishing = np.moveaxis(numbers, 1, 0)
    leaves = drawn.leaves
    count = textures.shape[1]
    radius = np.broadcast_to(np.maximum(leaves.radius, 1), leaves.row.shape)
    # The texture's row and column, and its distance, are of the form a + b row + c column.
    density = SUPERSAMPLING / (_SCALE[0] * (_SCALE[1] / _SCALE[0]) ** scale)
    sine, cosine = density * np.sin(2 * np.pi * turn), density * np.cos(2 * np.pi * turn)
    slope = _PERSPECTIVE * perspective / radius
    towards = slope * np.sin(2 * np.pi * vanishing), slope * np.cos(2 * np.pi * vanishing)
    forms = []
    for start, by_row, by_column in (
        (_SIDE * down, cosine, sine),
        (_SIDE * right, -sine, cosine),
        (1.0, *towards),
    ):
        forms += [start - by_row * leaves.row - by_column * leaves.column, by_row, by_column]
    strength = contrast[..., None] * (1 + _HUE * standard(hues))
    values = np.concatenate(
        [np.stack([*forms, np.floor(count * which)], axis=-1), strength], axis=-1
    )
    found = of_topmost(values, drawn.topmost)
    row, column = point_places(drawn.topmost)
    row = row[:, None]
    texture_row, texture_column, distance = (
        found[:, first] + found[:, first + 1] * row + found[:, first + 2] * column
        for first in (0, 3, 6)
    )
    distance = distance.clamp_min(_NEAREST)
    texel_row, texel_column = (
        (place / distance).floor().long() % _SIDE for place in (texture_row, texture_column)
    )
    texel = (found[:, 9].long() * _SIDE + texel_row) * _SIDE + texel_column
    shown = textures.flatten(1).gather(1, texel.flatten(1)).view_as(distance)
    return found[:, 10:] * shown[:, None]


def _in_focus(
    drawn: Scene, points: Tensor, above: Tensor, below_blur: Tensor, above_blur: Tensor
) -> Tensor:
    """Blur what lies below and above apart, and put one before the other.

    Pixels of what lies below take colours from each other alone, as if it went on behind.
    """
    covered = drawn.pixels(above) / drawn.light
    open_ = 1 - covered
    behind = _blurred(drawn.pixels(points * (1 - above)), below_blur)
    visible = _blurred(open_, below_blur)
    # Where nothing of it is near, all of the pixel lies above.
    behind = behind / visible.clamp_min(1e-3)
    before = _blurred(drawn.pixels(points * above), above_blur)
    return before + (1 - _blurred(covered, above_blur)) * behind


def _blurred(images: Tensor, deviations: Tensor) -> Tensor:
    """Blur images [B, C, H, W] by Gaussians [B] of standard deviations in pixels."""
    by_row, by_column = (_gaussian(length, deviations) for length in images.shape[2:])
    return by_row[:, None] @ images @ by_column[:, None].mT


def _gaussian(length: int, deviations: Tensor) -> Tensor:
    """Return matrices [B, length, length] whose rows are Gaussians of sum 1."""
    place = torch.arange(length, device=deviations.device)
    squared = (place[:, None] - place).square()
    # So narrow a Gaussian is that of 0.
    variance = deviations.square().clamp_min(1e-3)[:, None, None]
    return torch.softmax(-squared / (2 * variance), dim=2)


def _on(device: torch.device, values: Array) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(values)).to(device, torch.float32)
