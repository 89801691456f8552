"""The photographs in scikit-image's wheel, which need no download.

They are all of its RGB photographs except `motorcycle_right`, which shows the same scene as `motorcycle_left`. A vertical
band in the middle of each photograph is held out: no pixel of it is used in training.
"""

import dataclasses
import functools
import importlib.util
import pathlib

import numpy as np
from PIL import Image

from softvq_jax.data import crops, source
from softvq_jax.data.decoding import DEFAULT, Decoding

FILES = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
HELD_OUT_PER_PHOTOGRAPH = 8


@dataclasses.dataclass(frozen=True)
class Region:
    """A rectangle in one of the photographs."""

    file: str
    box: tuple[int, int, int, int]  # left, top, right, bottom
    label: int

    @property
    def where(self) -> str:
        return f"{self.file}, from {self.box[:2]} to {self.box[2:]}"

    def read(self, decoding: Decoding = DEFAULT) -> tuple[Image.Image, int]:
        return _pixels(self), self.label


class EmbeddedPhotographs(source.Source):
    """The training regions, left and right of each photograph's held-out band. The class is the photograph's index.

    Args:
      holdout: width of the band, as a share of the width of the photograph.
    """

    class_names = tuple(pathlib.Path(file).stem for file in FILES)

    def __init__(self, holdout: float):
        self._regions = []
        for label, (file, (width, height)) in enumerate(_sizes()):
            left, right = _band(width, holdout)
            self._regions += [Region(file, (0, 0, left, height), label), Region(file, (right, 0, width, height), label)]

    def __len__(self) -> int:
        return len(self._regions)

    def __getitem__(self, i: int) -> Region:
        return self._regions[i]

    def key(self, i: int) -> str:
        return self._regions[i].where

    @functools.cached_property
    def part_fingerprints(self) -> dict[str, str]:
        of = {name: [str(r) for r in self._regions if r.label == label] for label, name in enumerate(self.class_names)}
        return {name: source.digest(regions, 16) for name, regions in of.items()}

    def fingerprint(self) -> str:
        return source.digest(map(str, self._regions))


class HeldOutPhotographs(EmbeddedPhotographs):
    """Squares in the held-out bands, `HELD_OUT_PER_PHOTOGRAPH` per photograph, drawn with a fixed seed.

    Sides and positions are drawn as in `crops.random_region` for crops of `size` pixels.
    """

    def __init__(self, holdout: float, size: int):
        rng = np.random.default_rng(0)
        photographs = list(enumerate(_sizes()))
        self._regions = []
        for _ in range(HELD_OUT_PER_PHOTOGRAPH):
            for label, (file, (width, height)) in photographs:
                left, right = _band(width, holdout)
                self._regions.append(Region(file, _square(left, right, height, size, rng), label))


def _band(width, holdout):
    left = round(width * (1 - holdout) / 2)
    return left, width - left


def _square(left, right, height, size, rng):
    short = min(right - left, height)
    side = int(rng.integers(min(size, short), min(crops.MAX_REGION_SCALE * size, short), endpoint=True))
    x = left + int(rng.integers(right - left - side, endpoint=True))
    y = int(rng.integers(height - side, endpoint=True))
    return x, y, x + side, y + side


def _path(file: str) -> pathlib.Path:
    # `find_spec` does not import scikit-image, which is slow and not needed to read files.
    package = importlib.util.find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("data.source='embedded' reads photographs of scikit-image: pip install scikit-image")
    path = pathlib.Path(package.submodule_search_locations[0], "data", file)
    if not path.exists():
        raise FileNotFoundError(f"the installed scikit-image does not ship {file} (looked for {path}); 0.26 does")
    return path


@functools.cache
def _photograph(file: str) -> Image.Image:
    path = _path(file)
    return source.decode(path.read_bytes(), str(path))


@functools.cache
def _pixels(region: Region) -> Image.Image:
    return _photograph(region.file).crop(region.box)


def _sizes():
    for file in FILES:
        with Image.open(_path(file)) as image:
            yield file, image.size
