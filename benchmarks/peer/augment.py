"""DiffAugment and the crop of the discriminator's inputs, with given random numbers.

The numbers come from the other side of the comparison, so that both sides augment alike.
"""

import torch
import torch.nn.functional as F


def _reach(side):
    return int(side / 8 + 0.5)


def color(images, brightness, saturation, contrast):
    images = images + brightness[:, None, None, None]
    gray = images.mean(1, keepdim=True)
    images = (images - gray) * saturation[:, None, None, None] + gray
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * contrast[:, None, None, None] + mean


def translate(images, shifts):
    side, reach = images.shape[-1], _reach(images.shape[-1])
    padded = F.pad(images, (reach,) * 4)
    windows = [
        image[:, reach - down : reach - down + side, reach - right : reach - right + side]
        for image, (down, right) in zip(padded, shifts.tolist(), strict=True)
    ]
    return torch.stack(windows)


def cutout(images, centers, share):
    side = images.shape[-1]
    size = int(share * side + 0.5)
    mask = torch.ones(len(images), 1, side, side, device=images.device)
    for each, (row, column) in zip(mask, (centers - size // 2).tolist(), strict=True):
        each[:, max(row, 0) : max(row + size, 0), max(column, 0) : max(column + size, 0)] = 0
    return images * mask


def augment(images, draws, index, size, share):
    """One augmented view of `images` at `size`.

    Args:
      draws: arrays by name; the first axis is that of the augmentations of a step.
      index: the augmentation's number.
      size: side of the discriminator's images.
      share: side of the cutout, as a share of the image's.
    """
    now = {name: values[index] for name, values in draws.items()}
    if now["color"]:
        images = color(images, now["brightness"], now["saturation"], now["contrast"])
    if now["translation"]:
        images = translate(images, now["shifts"])
    if now["cutout"]:
        images = cutout(images, now["centers"], share)
    if images.shape[-1] == size:
        return images
    if now["crop"]:
        top, left = now["corner"].tolist()
        return images[:, :, top : top + size, left : left + size]
    return F.interpolate(images, size=(size, size), mode="area")
