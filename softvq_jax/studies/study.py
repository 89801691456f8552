"""Studies: small runs side by side at equal compute, and a table and a figure of what they show."""

import json
import pathlib
import time

import jax
from absl import logging
from ml_collections import ConfigDict

from softvq_jax.config.study import variant_config
from softvq_jax.progress import duration
from softvq_jax.report.latent_map import check_method
from softvq_jax.studies import figure, table
from softvq_jax.studies.crops import held_out, training
from softvq_jax.studies.measures import MEASURES, Trained, latent_pictures
from softvq_jax.train.loop import Run
from softvq_jax.train.metrics import NonFinite
from softvq_jax.train.pretrained import MissingWeights
from softvq_jax.train.tasks import TASKS
from softvq_jax.weights import files

MEASURED = "measured.json"


class Study:
    """A study in one workdir: each variant in a folder of its own. Finished variants are not run again.

    Args:
      config: from `studies.config.study_config`.
      workdir: a new folder, or one whose study goes on.

    Raises:
      ValueError: an unknown measure or map, or a variant that changes what is not there.
      ImportError: the map needs an extra.
    """

    def __init__(self, config: ConfigDict, workdir: pathlib.Path):
        unknown = [name for name in config.measures if name not in MEASURES]
        if unknown:
            raise ValueError(f"measures are {', '.join(unknown)}; expected some of {', '.join(MEASURES)}")
        if latent_pictures.__name__ in config.measures:
            check_method(config.map, "config.map")
        self.config, self.workdir = config, workdir
        self.variants = {name: variant_config(config, name) for name in config.order}

    def run(self) -> str:
        """Trains and measures what is not there yet, and writes `table.json`, `table.md` and `figure.svg`.

        Returns:
          The table, in Markdown.

        Raises:
          MissingWeights: a variant needs a network whose weights are not here.
        """
        if "rfid" in self.config.table.columns and not self.config.base.evals.fid.every_steps:
            logging.info(
                "no rFID: it needs --config.base.evals.fid.every_steps=1000 --config.base.evals.fid.weights=PATH"
            )
        rows, began, ran = [], time.monotonic(), 0
        for number, name in enumerate(self.variants):
            values = self.measured(name)
            if values is None:
                each = (time.monotonic() - began) / max(ran, 1)
                left = f"{duration(each * (len(self.variants) - number))} left" if ran else "time left not known yet"
                logging.info("variant %s, %d of %d, %s", name, number + 1, len(self.variants), left)
                values, ran = self.train_and_measure(name), ran + 1
            given = self.config.variants[name]
            rows.append({"name": name, "line": given.line, "x": given.x, **values})
            self.write(rows)
        return table.markdown(self.config, rows)

    def measured(self, name: str) -> dict | None:
        """What an earlier run measured of a variant, None where it did not, or of another config."""
        path = self.workdir / name / MEASURED
        found = files.read_json(path) if path.exists() else None
        return found["values"] if found and found["about"] == self.about(name) else None

    def about(self, name: str) -> dict:
        """What the values depend on, as JSON values."""
        fields = {"config": self.variants[name]} | {part: self.config[part] for part in ("measures", "images", "map")}
        return json.loads(ConfigDict(fields).to_json_best_effort())

    def train_and_measure(self, name: str) -> dict:
        """Runs one variant to its end; one that diverges has `diverged`, the message, for its values."""
        config, workdir = self.variants[name], self.workdir / name
        try:
            Run(config, workdir, TASKS[config.task]).train()
        except MissingWeights as error:
            raise MissingWeights(f"variant {name}: {error}\nIn a study, write --config.base for --config") from error
        except NonFinite as error:
            values = {"diverged": str(error).split(".")[0]}
        else:
            crops = held_out(config), training(config, self.config.images.train)
            trained = Trained(workdir, self.config, *crops)
            values = {}
            for measure in self.config.measures:
                values |= MEASURES[measure](trained)
        if jax.process_index() == 0:
            files.write_json(workdir / MEASURED, {"about": self.about(name), "values": values})
        jax.clear_caches()  # the next variant's programs are others
        return values

    def write(self, rows: list[dict]) -> None:
        """The table and the figure of the variants so far."""
        if jax.process_index():
            return
        files.write_json(self.workdir / "table.json", table.content(self.config, rows))
        (self.workdir / "table.md").write_text(table.markdown(self.config, rows))
        if drawn := figure.draw(self.config, rows):
            (self.workdir / "figure.svg").write_text(drawn)
