"""Uploads tokenizers and generators to the Hugging Face Hub, with a model card."""

import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import huggingface_hub

LIBRARY = "softvq-jax"


def model_card(
    title: str,
    body: str,
    *,
    paper: str = "",
    tags: Sequence[str] = (),
    license: str | None = None,
    metrics: Mapping[str, float] | None = None,
    dataset: str | None = None,
    pipeline_tag: str | None = None,
) -> "huggingface_hub.ModelCard":
    """Returns a model card: a Markdown page with metadata for the Hub.

    Args:
      title: heading of the page.
      body: Markdown below the heading.
      paper: arXiv number of the method's paper; "" for none.
      tags: tags in addition to the library's own.
      license: identifier of the license on the Hub, such as "mit".
      metrics: numbers by name, such as `{"rFID": 0.61}`.
      dataset: data set on which the network was trained and the metrics were measured, such as "imagenet-1k".
      pipeline_tag: task of the model on the Hub.

    Raises:
      ValueError: metrics without a data set.
    """
    import huggingface_hub

    results = []
    if metrics:
        if not dataset:
            raise ValueError(f"metrics {', '.join(metrics)} need dataset=..., the data set that they were measured on")
        results = [
            huggingface_hub.EvalResult(
                task_type=pipeline_tag or "image-feature-extraction",
                dataset_type=dataset,
                dataset_name=dataset,
                metric_type=name.lower(),
                metric_name=name,
                metric_value=value,
            )
            for name, value in metrics.items()
        ]
    data = huggingface_hub.ModelCardData(
        license=license,
        library_name=LIBRARY,
        tags=[LIBRARY, "jax", *([f"arxiv:{paper}"] if paper else []), *tags],
        datasets=dataset,
        pipeline_tag=pipeline_tag,
        **({"model_name": title, "eval_results": results} if results else {}),
    )
    table = "\n".join(f"| {name} | {value} |" for name, value in (metrics or {}).items())
    measured = f"\n## Metrics\n\nMeasured on {dataset}.\n\n| metric | value |\n|---|---|\n{table}\n" if table else ""
    if paper:
        body += f"\n\nPaper: [arXiv {paper}](https://arxiv.org/abs/{paper})."
    return huggingface_hub.ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {title}\n\n{body}\n{measured}")


def push(
    save: Callable[[pathlib.Path], Any],
    card: "huggingface_hub.ModelCard",
    repo_id: str,
    *,
    commit_message: str,
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
) -> str:
    """Uploads a folder in one commit; the arguments are those of `huggingface_hub.ModelHubMixin.push_to_hub`.

    Args:
      save: writes the files into a folder.
      card: model card, written as `README.md`.
      repo_id: "owner/name"; created if it does not exist.

    Returns:
      The URL of the commit.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi(token=token, library_name=LIBRARY)
    repo_id = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        save(path)
        (path / "README.md").write_text(str(card), encoding="utf-8")
        options = {"commit_message": commit_message, "revision": branch, "create_pr": create_pr}
        return str(api.upload_folder(repo_id=repo_id, repo_type="model", folder_path=os.fspath(path), **options))


class PushToHub:
    """Adds `push_to_hub` to a class that has `save_pretrained`."""

    pipeline_tag: ClassVar[str]
    """Task of the model on the Hub."""

    @property
    def paper(self) -> str:
        """arXiv number of the method's paper; "" for none."""
        return ""

    def save_pretrained(self, folder: str | os.PathLike, *, dtype: str | None = None) -> None:
        """Writes the files into a folder."""
        raise NotImplementedError

    def card_text(self, repo_id: str) -> str:
        """Returns the text of the model card, in Markdown."""
        raise NotImplementedError

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        model_card_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Uploads the files to the Hugging Face Hub, with a model card; `from_pretrained(repo_id)` opens them.

        The arguments are those of `huggingface_hub.ModelHubMixin.push_to_hub`.

        Args:
          repo_id: "owner/name"; created if it does not exist.
          commit_message, private, token, branch, create_pr: options of the commit and the repository.
          model_card_kwargs: `license`, `metrics`, `dataset`, `paper` and `tags` of the card, see `model_card`.

        Returns:
          The URL of the commit.
        """
        title, text = repo_id.split("/")[-1], self.card_text(repo_id)
        known: dict[str, Any] = {"pipeline_tag": self.pipeline_tag, "paper": self.paper}
        card = model_card(title, text, **(known | dict(model_card_kwargs or {})))
        message = commit_message or f"Push {type(self).__name__.lower()} with softvq-jax."
        options = {"private": private, "token": token, "branch": branch, "create_pr": create_pr}
        return push(self.save_pretrained, card, repo_id, commit_message=message, **options)
