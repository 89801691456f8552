"""Studies: short runs of variants of a config at equal compute, with a table and a figure of the results."""

import json
import pathlib
import time
from collections.abc import Mapping

import jax
from absl import logging
from ml_collections import ConfigDict

from softvq_jax.config.schemas import check_values
from softvq_jax.config.study import variant_config
from softvq_jax.metrics import probes
from softvq_jax.progress import duration
from softvq_jax.report.latent_map import check_method
from softvq_jax.storage import files
from softvq_jax.studies import figure, table
from softvq_jax.studies.crops import held_out, training
from softvq_jax.studies.measures import MEASURES, Trained, latent_pictures, latents
from softvq_jax.train.loop import Run
from softvq_jax.train.metrics import NonFinite
from softvq_jax.train.tasks import TASKS
from softvq_jax.weights.pretrained import MissingWeights

MEASURED = "measured.json"


def run_name(name: str, seed: int) -> str:
    """Returns the folder of a variant's run: `NAME` for the first seed, then `NAME.seed1` and so on."""
    return f"{name}.seed{seed}" if seed else name  # names of variants have no dots


class Study:
    """A study in one workdir, with a folder for each run. Finished runs do not run again.

    All variants run with the first seed, then with the next one, so that an interrupted study has a complete table of fewer
    seeds.

    Args:
      config: from `config.study.study_config`.
      workdir: a new folder, or the workdir of a study to resume.

    Raises:
      ValueError: a measure or map is unknown; or a variant changes a field that the base config does not have, or to a
        value that is not allowed.
      ImportError: a measure needs an extra that is not installed.
    """

    def __init__(self, config: ConfigDict, workdir: pathlib.Path):
        unknown = [name for name in config.measures if name not in MEASURES]
        if unknown:
            raise ValueError(f"config.measures must be among {', '.join(MEASURES)}; got {', '.join(unknown)}")
        if latent_pictures.__name__ in config.measures:
            check_method(config.map, "config.map")
        if latents.__name__ in config.measures:
            probes.check_installed()
        self.config, self.workdir = config, workdir
        self.runs = {
            run_name(name, seed): variant_config(config, name, seed)
            for seed in range(config.seeds)
            for name in config.order
        }
        for name, run in self.runs.items():
            try:
                check_values(run)
            except ValueError as error:
                raise ValueError(f"variant {name}: {error}") from None

    def run(self) -> str:
        """Trains and measures all unfinished runs; writes `table.json`, `table.md` and `figure.svg`.

        Returns:
          The table, in Markdown.

        Raises:
          MissingWeights: a variant needs pretrained weights that cannot be found.
        """
        if "rfid" in self.config.table.columns and not self.config.base.evals.fid.every_steps:
            logging.info(
                "rFID is not measured; to measure it: --config.base.evals.fid.every_steps=1000 "
                "--config.base.evals.fid.weights=PATH"
            )
        finished, rows, began, ran = {}, [], time.monotonic(), 0
        for number, name in enumerate(self.runs):
            values = self.measured(name)
            if values is None:
                each = (time.monotonic() - began) / max(ran, 1)
                left = f", {duration(each * (len(self.runs) - number))} left" if ran else ""
                logging.info("run %s, %d of %d%s", name, number + 1, len(self.runs), left)
                values, ran = self.train_and_measure(name), ran + 1
            finished[name] = values
            rows = self.rows(finished)
            self.write(rows)
        return table.markdown(self.config, rows)

    def rows(self, finished: Mapping[str, dict]) -> list[dict]:
        """Returns a row of the table for each variant with finished runs, from the values by run."""
        rows = []
        for name in self.config.order:
            runs = [finished.get(run_name(name, seed)) for seed in range(self.config.seeds)]
            if runs := [run for run in runs if run is not None]:
                variant = self.config.variants[name]
                row = {"name": name, "line": variant.line, "x": variant.x, **table.mean(runs)}
                rows.append(row | ({"runs": runs} if self.config.seeds > 1 else {}))
        return rows

    def measured(self, name: str) -> dict | None:
        """Returns the measured values of a run with this config; None if there are none."""
        path = self.workdir / name / MEASURED
        content = files.read_json(path) if path.exists() else None
        return content["values"] if content and content.get("metadata") == self.metadata(name) else None

    def metadata(self, name: str) -> dict:
        """Returns the settings that a run's values depend on, as JSON values."""
        fields = {"config": self.runs[name]} | {part: self.config[part] for part in ("measures", "images", "map")}
        return json.loads(ConfigDict(fields).to_json_best_effort())

    def train_and_measure(self, name: str) -> dict:
        """Trains and measures one run; a diverged run has only the value `diverged`, the error message."""
        config, workdir = self.runs[name], self.workdir / name
        try:
            Run(config, workdir, TASKS[config.task]).train()
        except MissingWeights as error:
            raise MissingWeights(
                f"variant {name}: {error}\nIn a study, write --config.base instead of --config"
            ) from error
        except NonFinite as error:
            values = {"diverged": str(error).split(".")[0]}
        else:
            crops = held_out(config), training(config, self.config.images.train)
            trained = Trained(workdir, self.config, *crops)
            values = {}
            for measure in self.config.measures:
                values |= MEASURES[measure](trained)
        if jax.process_index() == 0:
            files.write_json(workdir / MEASURED, {"metadata": self.metadata(name), "values": values})
        jax.clear_caches()  # the next run has other programs, or the same ones in the compilation cache
        return values

    def write(self, rows: list[dict]) -> None:
        """Writes the table and the figure of the runs so far."""
        if jax.process_index():
            return
        files.write_json(self.workdir / "table.json", table.content(self.config, rows))
        files.write_text(self.workdir / "table.md", table.markdown(self.config, rows))
        if svg := figure.draw(self.config, rows):
            files.write_text(self.workdir / "figure.svg", svg)
