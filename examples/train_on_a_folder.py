# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train on your own folder
#
# The data are a folder with one subfolder per class. A tokenizer does not use the classes, so one subfolder is enough.
# Here the folder is made from the photographs in scikit-image; use the path of your own folder instead.

# %%
import json
import pathlib
import tempfile

from PIL import Image
from skimage import data

from softvq_jax.config import load_config
from softvq_jax.train.loop import Run
from softvq_jax.train.tasks import TASKS

work = pathlib.Path(tempfile.mkdtemp())
folder = work / "photographs"
for name in ("astronaut", "chelsea", "coffee", "rocket"):
    photograph = getattr(data, name)()
    (folder / name).mkdir(parents=True)
    for i, left in enumerate(range(0, photograph.shape[1] - 200, 40)):
        Image.fromarray(photograph[60:260, left : left + 200]).save(folder / name / f"{i}.jpg")
print(len(list(folder.rglob("*.jpg"))), "images")

# %% [markdown]
# ## The config
#
# A config is a nested `ConfigDict`. Its fields can be set but not added, so a spelling mistake is an error. On the
# command line every field is a flag: `--config.data.path=photographs`.

# %%
config = load_config("tiny_patches")
config.data.update(source="folder", path=str(folder), holdout=0.2, augment="random_crop")
config.model.update(image_size=32, num_latent_tokens=16, latent_dim=16, codebook_size=256)
config.train.update(batch_size=16, num_steps=120)
config.optim.update(learning_rate=4e-2, warmup_epochs=5.0, ema_decay=0.97)
config.log.every_steps = 20
config.evals.held_out.update(every_steps=60, num_images=8, num_pictures=8)

# %% [markdown]
# `load_config` takes the name of a config that ships with the package, or the path of a file. `tiny_patches` trains with a
# pixel loss only. The full recipe, as in the config `b64`, also uses pretrained networks: a DINOv2 encoder and teacher,
# LPIPS, and the DINO discriminator. They are downloaded, or read from the paths in `config.weights`. If a file is
# missing, the error message states which one, where to get it, and how to run without it.

# %% [markdown]
# ## Train
#
# A run has a workdir. Running the same cell again with the same workdir resumes an interrupted run.

# %%
workdir = work / "run"
results = Run(config, workdir, TASKS[config.task]).train()
for name, value in results.items():
    print(f"{name}: {value:.4g}")

# %% [markdown]
# ## What the run wrote
#
# `metrics.jsonl` has one JSON object per line.

# %%
for line in (workdir / "metrics.jsonl").read_text().splitlines():
    values = json.loads(line)
    if "eval_psnr" in values:
        print(f"step {values['step']:4d}: held-out PSNR {values['eval_psnr']:.2f} dB")

# %% [markdown]
# `images/` has held-out images above their reconstructions, here after the last step.

# %%
grid = Image.open(sorted((workdir / "images").rglob("*.png"))[-1])
grid.resize((2 * grid.width, 2 * grid.height), Image.Resampling.NEAREST)

# %% [markdown]
# The trained tokenizer is in `tokenizer/`; `Tokenizer.from_pretrained(workdir)` opens it. A page with curves, images
# and the config is one command away: `python -m softvq_jax.tools.report --workdir=...`.

# %%
print(sorted(path.name for path in workdir.iterdir()))
