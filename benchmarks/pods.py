"""Memory and speed of the published configs on TPU slices, by ahead-of-time compilation: a table.

    python benchmarks/pods.py                                   # all configs and slices
    python benchmarks/pods.py --configs l64 --slices v5e:16x16  # some

Compiles the real step with `tools.aot_compile` for `IMAGES` images per chip and parameters sharded over 16 chips: first
without remat, then with stronger remat settings until one fits. Results are added to `benchmarks/pods.json`, and are
not computed again; `benchmarks/pods.md` is its table. Needs `pip install -e '.[aot]'`.
"""

import argparse
import json
import pathlib

from softvq_jax.aot.memory_saving import FSDP, REMAT
from softvq_jax.aot.step_cost import StepCost
from softvq_jax.aot.topology import chips_of
from softvq_jax.config import load_config
from softvq_jax.tools.aot_compile import measure

FOLDER = pathlib.Path(__file__).parent
CONFIGS = (
    "b64", "b32", "bl64", "bl32", "l64", "l32", "bl64_512", "l32_512",
    "sit:xl_l64", "sit:xl_l32", "dit:xl_l64", "dit:xl_l32",
)  # fmt: skip
SLICES = ("v4:2x2x4", "v4:4x8x8", "v5e:4x4", "v5e:16x16", "v5p:2x2x4", "v5p:4x8x8", "v6e:4x4", "v6e:16x16")
IMAGES = 16  # per chip: the recipe's global batch of 256 on 16 chips, 4,096 on 256


def numbers(report: StepCost) -> dict:
    """Returns the values for the table, as JSON values."""
    found = {"gib": report.memory.total / 2**30, "of": report.memory.available / 2**30, "fits": report.memory.fits}
    if report.memory.fits and report.roofline is not None:
        seconds = report.roofline._asdict()
        found |= {"rate": report.images_per_second, "hours": report.hours, "bound": report.roofline.bound, **seconds}
    return found


def case(name: str, slice_name: str, remat: str) -> dict:
    """Compiles one config for one slice and returns its numbers."""
    config = load_config(name)
    config.model.remat, config.mesh.fsdp = remat, FSDP
    config.train.batch_size = IMAGES * chips_of(slice_name)
    return numbers(measure(config, slice_name))


def fill(known: dict, configs: list[str], slices: list[str], path: pathlib.Path) -> None:
    """Compiles the cases that are not in `known`, `{"l64 v5e:16x16": {remat: numbers}}`; saves it after each."""
    for name in configs:
        for slice_name in slices:
            tried = known.setdefault(f"{name} {slice_name}", {})
            for remat in REMAT:
                if any(result["fits"] for result in tried.values()):
                    break
                if remat not in tried:
                    tried[remat] = case(name, slice_name, remat)
                    path.write_text(json.dumps(known, indent=1) + "\n")


def table(known: dict) -> str:
    """Returns a row per config and slice, in Markdown."""
    lines = [
        f"{IMAGES} images per chip, parameters sharded over {FSDP} chips; speeds and times are the roofline's best case.",
        "",
        "| config | slice | images per step | remat | GiB per chip | images/s | bound by | 50 epochs | too large with |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key, tried in known.items():
        name, slice_name = key.split()
        batch = IMAGES * chips_of(slice_name)
        too_large = ", ".join(
            f"{remat} ({result['gib']:.0f} GiB)" for remat, result in tried.items() if not result["fits"]
        )
        fitting = [(remat, result) for remat, result in tried.items() if result["fits"]]
        cells = ["none fits", *[""] * 4]
        if fitting:
            [(remat, found)] = fitting
            cells = [remat, f"{found['gib']:.1f} of {found['of']:.1f}", f"{found['rate']:,.0f}", found["bound"]]
            cells.append(f"{found['hours']:.1f} h")
        lines.append(f"| {' | '.join([name, slice_name, f'{batch:,}', *cells, too_large])} |")
    return "\n".join(lines) + "\n"


def summary(known: dict) -> str:
    """Returns a row per config and a column per slice: GiB per chip, remat setting, and images/s at best."""
    names, slices = (list(dict.fromkeys(key.split()[part] for key in known)) for part in (0, 1))
    lines = [f"| | {' | '.join(slices)} |", "|---" * (len(slices) + 1) + "|"]
    for name in names:
        lines.append(f"| `{name}` | {' | '.join(_cell(known.get(f'{name} {where}', {})) for where in slices)} |")
    return "\n".join(lines) + "\n"


def _cell(tried: dict) -> str:
    for remat, found in tried.items():
        if found["fits"]:
            return f"{found['gib']:.1f}{'' if remat == 'none' else f', {remat}'}; {found['rate']:,.0f}"
    return f"{min(result['gib'] for result in tried.values()):.0f}: too large" if tried else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="*", default=CONFIGS, choices=CONFIGS)
    parser.add_argument("--slices", nargs="*", default=SLICES, choices=SLICES)
    args = parser.parse_args()
    path = FOLDER / "pods.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    fill(known, args.configs, args.slices, path)
    (FOLDER / "pods.md").write_text(f"{summary(known)}\n{table(known)}")


if __name__ == "__main__":
    main()
