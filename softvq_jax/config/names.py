"""Finds configs by name: `l64`, `configs/l64.py`, `studies/bottlenecks`, `sit:xl_l64`.

The project's configs are found from any folder, in a checkout and in an installed wheel. Nothing here imports jax.
"""

import dataclasses
import difflib
import functools
import pathlib
import re
import runpy

from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Found:
    """A config file and the argument of its `get_config`.

    Attributes:
      path: the file.
      argument: the part after the colon; None without a colon.
      renamed: whether the given name is an old one, such as configs/sit_xl_l64.py.
    """

    path: pathlib.Path
    argument: str | None = None
    renamed: bool = False

    def __str__(self) -> str:
        return str(self.path) if self.argument is None else f"{self.path}:{self.argument}"


@functools.cache
def configs_folder() -> pathlib.Path:
    """Returns the folder of the project's configs: inside the package in a wheel, next to it in a checkout."""
    package = pathlib.Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def config_names() -> list[str]:
    """Returns the names of the project's configs, such as "l64" and "studies/bottlenecks"."""
    folder = configs_folder()
    paths = [*sorted(folder.glob("*.py")), *sorted(folder.glob("studies/*.py"))]
    return [str(path.relative_to(folder).with_suffix("")) for path in paths if path.stem != "__init__"]


def find_config(name: str) -> Found:
    """Finds a config by path or by name.

    Args:
      name: path of a file; or a name in `config_names`, with or without "configs/" and ".py". A colon separates the
        argument of a file with several configs, as in "sit:xl_l64".

    Raises:
      ValueError: there is no such config; the message names the nearest.
    """
    file, colon, argument = name.partition(":")
    option = argument if colon else None
    if pathlib.Path(file).is_file():
        return Found(pathlib.Path(file), option)
    short = file.removeprefix("./").removeprefix("configs/").removesuffix(".py")
    names = config_names()
    if short in names:
        return Found(configs_folder() / f"{short}.py", option)
    family, _, rest = short.partition("_")
    if option is None and rest and family in names and takes_argument(configs_folder() / f"{family}.py"):
        return Found(configs_folder() / f"{family}.py", rest, renamed=True)
    nearest = difflib.get_close_matches(short, names, n=1, cutoff=0.0)
    hint = f"the nearest name is {nearest[0]!r}" if nearest else f"{configs_folder()} has no configs"
    raise ValueError(f"--config={name}: no such file or config; {hint}")


def load_config(name: str) -> ConfigDict:
    """Loads a config by name or path; see `find_config`.

    Raises:
      ValueError: there is no such config, or its file does not accept the argument.
    """
    found = find_config(name)
    get_config = runpy.run_path(str(found.path))["get_config"]
    if found.argument is None:
        return get_config()
    if not takes_argument(found.path):
        raise ValueError(f"--config={name}: {found.path} takes no argument; leave out {':' + found.argument!r}")
    return get_config(found.argument)


def takes_argument(path: pathlib.Path) -> bool:
    """Returns whether a config file takes an argument, which selects one of several configs."""
    return re.search(r"^def get_config\(\s*\w", path.read_text(), re.MULTILINE) is not None
