"""Uploads to a stand-in for the Hub, with the real client."""

import base64
import hashlib
import http.server
import json
import re
import threading

import huggingface_hub
import jax
import numpy as np
import pytest

from softvq_jax import Generator, Tokenizer, generator
from softvq_jax.generators.family import FAMILIES
from softvq_jax.weights import hub
from softvq_jax.weights.tokenizer_kinds import KINDS
from tests import generator_test, programs, small_maetok, small_titok
from tests import small_tokenizers as small

COMMIT = "a" * 40


class Handler(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as a commit and a download need; `server.files` are those of each repository."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, content=b"", status=200, kind="application/json", **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), "X-Repo-Commit": COMMIT} | headers
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers.get("Authorization")))
        if self.path == "/api/repos/create":
            fields = json.loads(body)
            name = "/".join(filter(None, (fields.get("organization"), fields["name"])))
            self.server.files.setdefault(name, {})
            self.answer({"url": f"{self.server.url}/{name}", "name": name, "id": name})
        elif match := re.fullmatch(r"/api/models/(\w+/\w+)/preupload/main", self.path.split("?")[0]):
            files = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]})
        elif match := re.fullmatch(r"/api/models/(\w+/\w+)/commit/main", self.path.split("?")[0]):
            lines = [json.loads(line) for line in body.splitlines()]
            for line in lines:
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.files[match[1]][line["value"]["path"]] = content
            url = f"{self.server.url}/{match[1]}/commit/{COMMIT}"
            self.answer({"success": True, "commitUrl": url, "commitOid": COMMIT})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        else:
            self.answer({"error": self.path}, 404)

    def do_GET(self):
        path = self.path.split("?")[0]
        if match := re.fullmatch(r"/api/models/(\w+/\w+)(/revision/\w+)?", path):
            files = self.server.files[match[1]]
            siblings = [{"rfilename": name} for name in files]
            self.answer({"id": match[1], "modelId": match[1], "sha": COMMIT, "siblings": siblings, "tags": []})
        elif match := re.fullmatch(r"/api/models/(\w+/\w+)/tree/\w+/?", path):
            files = self.server.files[match[1]].items()
            entries = [
                {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()} for n, c in files
            ]
            self.answer(entries)
        elif match := re.fullmatch(r"/(\w+/\w+)/resolve/\w+/(.+)", path):
            content = self.server.files.get(match[1], {}).get(match[2])
            if content is None:
                self.answer({"error": "Entry not found"}, 404, **{"X-Error-Code": "EntryNotFound"})
            else:
                etag = f'"{hashlib.sha1(content).hexdigest()}"'
                self.answer(content, kind="application/octet-stream", ETag=etag)
        else:
            self.answer({"error": path}, 404)

    do_HEAD = do_GET


@pytest.fixture
def server():
    """A stand-in for the Hub, on a port of this machine."""
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.url = f"http://127.0.0.1:{running.server_port}"
    running.files, running.requests = {}, []
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


PAPERS = {
    "softvq": (small.config(), "2412.10958"),
    "titok": (small_titok.config("vq"), "2406.07550"),
    "maetok": (small_maetok.config(), "2502.03444"),
    "sit": (generator_test.SIT, "2401.08740"),
    "dit": (generator_test.DIT, "2212.09748"),
    "mar": (generator_test.MAR, "2406.11838"),
    "maskgit": (small_titok.generator_config("bert"), "2202.04200"),
}


@pytest.mark.parametrize("name", PAPERS)
def test_the_card_of_each_kind_and_family_has_the_tag_of_its_paper(name, monkeypatch):
    config, paper = PAPERS[name]
    if name in KINDS:
        model = Tokenizer(config, small.params(config))
    else:
        params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), generator.abstract_params(config))
        model = Generator(config, params, None if name == "maskgit" else generator_test.STATISTICS)
    cards = []
    monkeypatch.setattr(hub, "push", lambda save, card, repo_id, **options: cards.append(card))
    model.push_to_hub("someone/model")
    [card] = cards
    tags = card.data.to_dict()["tags"]
    assert [tag for tag in tags if tag.startswith("arxiv:")] == [f"arxiv:{paper}"]
    assert f"https://arxiv.org/abs/{paper}" in card.text and repr(model) in card.text


def test_every_kind_and_family_has_a_card():
    assert PAPERS.keys() == {*KINDS, *FAMILIES}


@pytest.mark.slow
def test_pushed_and_opened_again(server, tmp_path):
    environment = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    (output,) = programs.run("hub_client", env=environment)
    assert f"{server.url}/someone/tokenizer/commit/{COMMIT}" in output
    assert {"README.md", "config.json", "model.safetensors"} <= server.files["someone/tokenizer"].keys()
    card = huggingface_hub.ModelCard(server.files["someone/tokenizer"]["README.md"].decode())
    data = card.data.to_dict()
    assert (data["license"], data["library_name"]) == ("mit", "softvq-jax") and "test" in data["tags"]
    (result,) = card.data.eval_results
    assert (result.metric_name, result.metric_value, result.dataset_name) == ("rFID", 0.61, "imagenet-1k")
    assert 'Tokenizer.from_pretrained("someone/tokenizer")' in card.text and "| rFID | 0.61 |" in card.text
    assert {token for _, token in server.requests} == {"Bearer hf_test"}


def test_model_card():
    card = hub.model_card("name", "What it is.", tags=["image"])
    assert card.data.to_dict()["tags"] == ["softvq-jax", "jax", "image"]
    assert card.text.strip() == "# name\n\nWhat it is."
    card = hub.model_card("name", "What it is.", paper="2412.10958")
    assert card.data.to_dict()["tags"] == ["softvq-jax", "jax", "arxiv:2412.10958"]
    assert card.text.strip().endswith("Paper: [arXiv 2412.10958](https://arxiv.org/abs/2412.10958).")
    with pytest.raises(ValueError, match="metrics rFID need dataset"):
        hub.model_card("name", "", metrics={"rFID": 1.0})
