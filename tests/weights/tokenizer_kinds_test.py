"""Every kind of tokenizer through `Tokenizer`: published and own files come back bit for bit, and code is not imported."""

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest

from softvq_jax.tokenizer import Tokenizer
from softvq_jax.weights import files, tokenizer_kinds
from softvq_jax.weights.layout import WeightsError
from softvq_jax.weights.tokenizer_files import OWN_CONFIG
from tests import small_maetok, small_titok
from tests import small_tokenizers as small
from tests.weights.tokenizer_test import assert_same_files

CONFIGS = {
    "softvq": small.config(),
    "titok two-stage": small_titok.config("two_stage"),
    "titok vq": small_titok.config("vq"),
    "titok vae": small_titok.config("vae"),
    "maetok": small_maetok.config(),
}


def published(name):
    """The tensors and `config.json` of a published tokenizer in small, and its images' size."""
    if name == "maetok":
        return *small_maetok.published(), small_maetok.SIZE
    tensors, fields = small_titok.published(small_titok.PUBLISHED[name])
    return tensors, fields, 256


@pytest.mark.parametrize("name", ["maetok", *small_titok.KINDS])
def test_published_files_round_trip(name, tmp_path):
    tensors, fields, size = published(name)
    theirs = small.save_published(tmp_path / "theirs", tensors, fields)
    tokenizer = Tokenizer.from_pretrained(theirs)
    assert tokenizer.kind == ("maetok" if name == "maetok" else "titok") and tokenizer.config.image_size == size
    assert f"Tokenizer({tokenizer.kind}, {size} px" in repr(tokenizer)
    tokenizer.save_pretrained(tmp_path / "ours")
    assert_same_files(tmp_path / "ours", theirs)


@pytest.mark.parametrize("name", CONFIGS)
def test_our_tokenizers_round_trip(name, tmp_path):
    config = CONFIGS[name]
    ours = Tokenizer(config, small.params(config))
    ours.save_pretrained(tmp_path / "tokenizer")
    again = Tokenizer.from_pretrained(tmp_path)  # as a run's workdir
    assert again.config == config and again.kind == name.split()[0]
    jax.tree.map(np.testing.assert_array_equal, again.params, ours.params)
    own = tmp_path / "tokenizer" / OWN_CONFIG
    assert ("kind" in files.read_json(own) if own.is_file() else True) == (name != "softvq")


@pytest.mark.parametrize("name", [pytest.param("titok two-stage", marks=pytest.mark.slow), "titok vq"])
def test_indices_of_a_titok(name):
    """The codes of the indices are the latents, and images from either are equal; computed here by the network's parts."""
    config = CONFIGS[name]
    tokenizer, images = Tokenizer(config, small.params(config)), small.images()
    vectors = np.asarray(tokenizer.pre_bottleneck(images)).reshape(1, -1, small_titok.DIM)
    params = tokenizer.params | {"bottleneck": {"codebook": vectors[:, :16]}}  # of the vectors that choose codes
    tokenizer = tokenizer.replace(params=params)
    indices, latents = tokenizer.encode_indices(images), tokenizer.encode(images)
    assert indices.shape == (3, 1, small_titok.NUM_TOKENS) and len(np.unique(indices)) > 2
    codes = np.float64(tokenizer.params["bottleneck"]["codebook"][0])
    if config.l2_normalize:
        codes = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    np.testing.assert_allclose(latents, codes[indices[:, 0]], atol=1e-6)
    decoded = tokenizer.decode_indices(indices)
    np.testing.assert_array_equal(decoded, tokenizer.decode(latents))
    model = tokenizer.network
    features = model.decoder(latents)  # in the release's range [0, 1], and ours: 2 x - 1
    np.testing.assert_allclose(decoded, np.clip(model.decoder.to_pixels(features), -1, 1), atol=2e-5)
    with pytest.raises(ValueError, match=r"indices range from 0 to 16; expected 0 to 15"):
        tokenizer.decode_indices(np.array([[[0, 1, 2, 3, 4, 16]]]))


def test_images_of_a_titok_in_the_wrong_range():
    tokenizer = Tokenizer(CONFIGS["titok vae"], small.params(CONFIGS["titok vae"]))
    with pytest.warns(UserWarning, match=r"all image values are in \[0, 1\]; expected \[-1, 1\]"):
        tokenizer.encode((small.images() + 1) / 2)
    with pytest.raises(ValueError, match=r"expected \[-1, 1\]: x / 127\.5 - 1 from 0\.\.255"):
        tokenizer.encode(127.5 * small.images() + 127.5)


def test_a_maetok_opens_at_other_sizes(tmp_path):
    """Positions that are only recomputed are those of the files of the other size, so the same network results."""
    theirs = small.save_published(tmp_path / "theirs", *small_maetok.published())
    tokenizer = Tokenizer.from_pretrained(theirs, image_size=40)
    assert tokenizer.config == dataclasses.replace(Tokenizer.from_pretrained(theirs).config, image_size=40)
    images = small.images(1, 40)
    assert tokenizer.reconstruct(images).shape == images.shape
    tokenizer.save_pretrained(tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["image_size"] == 40
    again = Tokenizer.from_pretrained(tmp_path / "ours")
    assert again.config == tokenizer.config
    np.testing.assert_array_equal(again.encode(images), tokenizer.encode(images))
    # Opening at its own size changes nothing.
    Tokenizer.from_pretrained(theirs, image_size=small_maetok.SIZE).save_pretrained(tmp_path / "same")
    assert_same_files(tmp_path / "same", theirs)


def test_sizes_that_are_refused(tmp_path):
    theirs = small.save_published(tmp_path / "maetok", *small_maetok.published())
    for size in (36, 0, -8):
        with pytest.raises(WeightsError, match=f"image_size is {size}; expected a multiple of the patch size, 8"):
            Tokenizer.from_pretrained(theirs, image_size=size)
    for size in ("40", 40.0):
        with pytest.raises(WeightsError, match=f"image_size is {size!r}; expected an integer, in pixels"):
            Tokenizer.from_pretrained(theirs, image_size=size)
    small.tokenizer(small.config()).save_pretrained(tmp_path / "softvq")
    with pytest.raises(WeightsError, match=r"image_size=64 was given, but a SoftVQ-VAE .* own size, 32 px"):
        Tokenizer.from_pretrained(tmp_path / "softvq", image_size=64)
    assert Tokenizer.from_pretrained(tmp_path / "softvq", image_size=32).config == small.config()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": {"vq_model": {"use_l2_norm": "yes"}}}, "use_l2_norm is 'yes'; expected True or False"),
        ({"model": [1]}, r"model of model\.vq_model is \[1\]; expected an object of fields"),
        ({"vq_std": -1}, "vq_std is -1; expected a number above 0"),
    ],
)
def test_wrong_values_in_a_titoks_config(fields, message, tmp_path):
    tensors, published, _ = published_vae()
    theirs = small.save_published(tmp_path / "theirs", tensors, published | fields)
    with pytest.raises(WeightsError, match=rf"the config\.json of .*theirs.*: {message}"):
        Tokenizer.from_pretrained(theirs)


def published_vae():
    return published("vae")


def test_a_missing_tensor_of_a_titok_is_named(tmp_path):
    tensors, fields, _ = published_vae()
    del tensors["decoder.ffn.0.weight"]
    theirs = small.save_published(tmp_path / "theirs", tensors, fields)
    message = r"theirs.*: the weights have no tensor 'decoder\.ffn\.0\.weight': not a TiTok tokenizer"
    with pytest.raises(WeightsError, match=message):
        Tokenizer.from_pretrained(theirs)


def test_an_unknown_kind_is_refused(tmp_path):
    small.tokenizer(small.config(num_codebooks=1)).save_pretrained(tmp_path)
    fields = tokenizer_kinds.config_to_dict(small.config()) | {"kind": "dalle"}
    files.write_json(tmp_path / OWN_CONFIG, fields)
    with pytest.raises(WeightsError, match=r"kind of tokenizer is 'dalle'; expected one of softvq, titok, maetok"):
        Tokenizer.from_pretrained(tmp_path)


# --- files that name code ---------------------------------------------------------------------------------------------


CODE = """
from softvq_jax.models.quantizers import AE
import pathlib
pathlib.Path(__file__).with_name("imported").touch()
class Theirs(AE):
    pass
"""


@pytest.fixture
def downloaded(tmp_path, monkeypatch):
    """A folder whose `softvq_jax.json` names a bottleneck in a module that nothing has imported."""
    small.tokenizer(small.config("ae")).save_pretrained(tmp_path / "tokenizer")
    own = tmp_path / "tokenizer" / OWN_CONFIG
    files.write_json(own, files.read_json(own) | {"bottleneck": "their_code_of_a_test:Theirs"})
    (tmp_path / "their_code_of_a_test.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("their_code_of_a_test", None)


def test_downloaded_files_do_not_import_code(downloaded, monkeypatch):
    for _ in range(2):
        with pytest.raises(WeightsError, match=r"bottleneck 'their_code_of_a_test:Theirs' is code .* trust_code=True"):
            Tokenizer.from_pretrained(downloaded / "tokenizer")
    assert not (downloaded / "imported").exists()
    trusted = Tokenizer.from_pretrained(downloaded / "tokenizer", trust_code=True)
    assert (downloaded / "imported").exists() and trusted.config.bottleneck == "their_code_of_a_test:Theirs"
    assert Tokenizer.from_pretrained(downloaded / "tokenizer").config == trusted.config  # imported already


def test_commands_trust_code_by_an_environment_variable(downloaded, monkeypatch):
    monkeypatch.setenv(tokenizer_kinds.TRUST_CODE, "1")
    assert Tokenizer.from_pretrained(downloaded / "tokenizer").config.bottleneck.endswith(":Theirs")


def test_every_config_has_one_kind():
    for name, config in CONFIGS.items():
        kind = tokenizer_kinds.kind_of(config)
        assert kind.name == name.split()[0] and kind is tokenizer_kinds.KINDS[kind.name]
    with pytest.raises(ValueError, match="'titok' is registered already"):
        tokenizer_kinds.register_kind(dataclasses.replace(tokenizer_kinds.TITOK))
