"""The table of pretrained networks: when a run needs them, how they are made and read, and how to run without them.

Training reads all that its config needs, with `load`; tools and evaluators read one network, with `load_network`.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from softvq_jax.config.kinds import VIT_OPTIONS
from softvq_jax.models.dino_trunk import DINO_IMAGE_SIZE, DINO_S, DinoTrunk
from softvq_jax.models.functional import Functional, functional
from softvq_jax.models.inception import Inception
from softvq_jax.models.lpips import LPIPS
from softvq_jax.models.siglip import SO400M, siglip_config
from softvq_jax.models.vit import ViT, ViTConfig
from softvq_jax.weights import dino, dinov2, entries, files, inception, layout, lpips, siglip
from softvq_jax.weights.vit import vit_config_of, vit_rules

Tensors = Mapping[str, np.ndarray]


class MissingWeights(FileNotFoundError):
    """Weights in the config are missing; the message has their source, and says how to run without them."""


class WeightsFile(NamedTuple):
    """A file of weights.

    Attributes:
      field: the config's field with the file's path.
      content: description of the content, for messages.
      source: where the file can be downloaded.
    """

    field: str
    content: str
    source: str


@dataclasses.dataclass(frozen=True)
class PretrainedNetwork:
    """A network with pretrained weights.

    Attributes:
      files: the files of its weights.
      needed: `(config) -> bool`, whether a run uses the network.
      disable_setting: the setting by which a run does not use it.
      module: the network's class; `module(*arguments, **options, rngs=rngs)` makes it.
      options: the compute options (`dtype`, `remat`) that the class takes.
      expected: `(config) -> arguments` that its files are expected to give, to compile ahead of time without them.
      read: `(tensors, config, source) -> (arguments, parameters)`.
      anchors: names of tensors that find the network in a file, see `entries.select_state_dict`; none if `read` needs
        no names.
    """

    files: tuple[WeightsFile, ...]
    needed: Callable[[Any], bool]
    disable_setting: str
    module: type[nnx.Module]
    options: tuple[str, ...]
    expected: Callable[[Any], tuple]
    read: Callable[[Tensors, Any, str], tuple[tuple, dict]]
    anchors: tuple[str, ...] = ()

    def make(self, arguments: tuple, **compute: str) -> Functional:
        """Returns the network, with those of `dtype` and `remat` that it takes."""
        return functional(self.module, *arguments, **{name: compute[name] for name in self.options if name in compute})

    @property
    def source(self) -> str:
        """Text on where its files can be downloaded, for messages."""
        return " and ".join(dict.fromkeys(f"{file.content}: {file.source}" for file in self.files))


class Pretrained(NamedTuple):
    """The pretrained networks of a run, by name.

    Attributes:
      params: parameters, as host arrays or `ShapeDtypeStruct`s.
      arguments: the arguments of `PretrainedNetwork.make`.
    """

    params: dict[str, Any]
    arguments: dict[str, tuple]


def _encoder_config(config) -> tuple[ViTConfig, int]:
    return ViTConfig(**config.model.encoder.to_dict()), config.model.image_size


def _expected_teacher(config) -> tuple[ViTConfig, int]:
    """Returns the shape of a DINOv2 of the encoder's size."""
    if config.model.get("kind", "softvq") == "softvq":
        return _encoder_config(config)
    others = {*VIT_OPTIONS, "layer_scale", "norm_eps"}  # these are as in DINOv2
    fields = {name: value for name, value in config.model.encoder.to_dict().items() if name not in others}
    return ViTConfig(**fields), config.model.image_size


def _read_vit(tensors, shape, image_size, source):
    shape.grid(image_size)  # raises if the patches do not fit
    rules = vit_rules(shape)
    layout.check_unused(tensors, {key for rule in rules for key in rule.keys}, source=source)
    resampled = dinov2.resampled(tensors, patch_size=shape.patch_size, image_size=image_size)
    return layout.read(rules, resampled, functional(ViT, shape, image_size).shapes, source=source)


def _read_encoder(tensors, config, source):
    shape, image_size = _encoder_config(config)
    return (shape, image_size), _read_vit(dinov2.canonical(tensors, source), shape, image_size, source)


def _read_teacher(tensors, config, source):
    return _teacher(tensors, config.model.image_size, config.model.encoder.patch_size, source)


def _teacher(tensors, image_size, patch_size, source):
    tensors = dinov2.canonical(tensors, source)
    shape = vit_config_of(tensors, patch_size=patch_size)
    return (shape, image_size), _read_vit(tensors, shape, image_size, source)


def _expected_siglip(config) -> tuple[ViTConfig, int]:
    return siglip_config(*SO400M, patch_size=config.model.encoder.patch_size), config.model.image_size


def _read_siglip(tensors, config, source):
    sizes = dict(patch_size=config.model.encoder.patch_size, image_size=config.model.image_size)
    return siglip.read_siglip(tensors, **sizes, source=source)


def _read_lpips(tensors, config, source):
    return (), lpips.read_lpips(tensors, functional(LPIPS).shapes, source=source)


def _read_trunk(tensors, config, source):
    tensors = dinov2.canonical(tensors, source)
    patch_size = tensors["patch_embed.proj.weight"].shape[-1]
    shape = dataclasses.replace(vit_config_of(tensors, patch_size=patch_size), activation=DINO_S.activation)
    layout.check_unused(tensors, {key for rule in vit_rules(shape) for key in rule.keys}, source=source)
    arguments = (shape, patch_size * round((tensors["pos_embed"].shape[1] - 1) ** 0.5))
    return arguments, dino.read_dino(tensors, functional(DinoTrunk, *arguments).shapes, source=source, config=shape)


def _read_inception(tensors, config, source):
    shapes = functional(Inception).shapes
    return (), layout.read(inception.inception_rules(shapes), tensors, shapes, source=source)


_DINOV2_SOURCE = "huggingface.co/timm/vit_large_patch14_dinov2.lvd142m (or small, base), model.safetensors"
_SIGLIP_SOURCE = (
    "huggingface.co/timm/vit_so400m_patch14_siglip_gap_224.webli or google/siglip-so400m-patch14-224, model.safetensors"
)
_VIT_ANCHORS = ("cls_token", "embeddings.cls_token")
TRAINING = ("encoder", "teacher", "siglip", "lpips", "trunk")
"""The networks that a tokenizer's training step or initial state uses."""

NETWORKS = {
    "encoder": PretrainedNetwork(
        files=(WeightsFile("weights.encoder", "the DINOv2 that the encoder starts from", _DINOV2_SOURCE),),
        needed=lambda config: bool(config.weights.get("encoder", "")) and not config.init_from,
        disable_setting="weights.encoder=''  (the encoder then starts from scratch) or init_from=... (a trained tokenizer)",
        module=ViT,
        options=("dtype", "remat"),
        expected=_encoder_config,
        read=_read_encoder,
        anchors=_VIT_ANCHORS,
    ),
    "teacher": PretrainedNetwork(
        files=(WeightsFile("weights.teacher", "the DINOv2 that the latents are aligned with", _DINOV2_SOURCE),),
        needed=lambda config: bool(config.loss.alignment_weight or config.loss.get("dino_weight", 0.0)),
        disable_setting="loss.alignment_weight=0  (of a MAETok: loss.dino_weight=0)",
        module=ViT,
        options=("dtype", "remat"),
        expected=_expected_teacher,
        read=_read_teacher,
        anchors=_VIT_ANCHORS,
    ),
    "siglip": PretrainedNetwork(
        files=(WeightsFile("weights.siglip", "the SigLIP that a MAETok's auxiliary decoder predicts", _SIGLIP_SOURCE),),
        needed=lambda config: bool(config.loss.get("clip_weight", 0.0)),
        disable_setting="loss.clip_weight=0",
        module=ViT,
        options=("dtype", "remat"),
        expected=_expected_siglip,
        read=_read_siglip,
        anchors=siglip.ANCHORS,
    ),
    "lpips": PretrainedNetwork(
        files=(
            WeightsFile(
                "weights.lpips_trunk",
                "LPIPS' VGG16",
                "huggingface.co/timm/vgg16.tv_in1k, model.safetensors, or torchvision's vgg16-397923af.pth",
            ),
            WeightsFile(
                "weights.lpips_heads",
                "LPIPS' five linear heads",
                "github.com/richzhang/PerceptualSimilarity, lpips/weights/v0.1/vgg.pth",
            ),
        ),
        needed=lambda config: bool(config.loss.perceptual_weight),
        disable_setting="loss.perceptual_weight=0",
        module=LPIPS,
        options=("dtype",),
        expected=lambda config: (),
        read=_read_lpips,
    ),
    "trunk": PretrainedNetwork(
        files=(
            WeightsFile(
                "weights.dino",
                "the discriminator's DINO ViT-S/16",
                "huggingface.co/timm/vit_small_patch16_224.dino, model.safetensors",
            ),
        ),
        needed=lambda config: config.gan.discriminator == "dino",
        disable_setting="gan.discriminator='none' (or 'patchgan', which has no frozen backbone)",
        module=DinoTrunk,
        options=("dtype", "remat"),
        expected=lambda config: (DINO_S, DINO_IMAGE_SIZE),
        read=_read_trunk,
        anchors=_VIT_ANCHORS,
    ),
    "inception": PretrainedNetwork(
        files=(
            WeightsFile(
                "evals.fid.weights",
                "the FID network (Inception-v3 of 2015-12-05)",
                "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
            ),
        ),
        needed=lambda config: config.evals.fid.every_steps > 0,
        disable_setting="evals.fid.every_steps=0",
        module=Inception,
        options=(),
        expected=lambda config: (),
        read=_read_inception,
        anchors=("Conv2d_1a_3x3.conv.weight",),
    ),
}


def load(config) -> Pretrained:
    """Reads the files of all networks that a config's training needs.

    Raises:
      MissingWeights: a file is missing and cannot be downloaded.
      WeightsError: a file does not fit its network.
    """
    params, arguments = {}, {}
    for name in TRAINING:
        if NETWORKS[name].needed(config):
            arguments[name], params[name] = _read_configured(name, config)
    return Pretrained(params, arguments)


def abstract(config) -> Pretrained:
    """Returns the same as `load`, with shapes instead of parameters and without files, to compile ahead of time."""
    arguments = {name: NETWORKS[name].expected(config) for name in TRAINING if NETWORKS[name].needed(config)}
    return Pretrained({name: NETWORKS[name].make(args).shapes for name, args in arguments.items()}, arguments)


def load_teacher(name: str, image_size: int, patch_size: int) -> tuple[tuple[ViTConfig, int], dict]:
    """Reads a DINOv2 teacher for other patches and images; returns its shape with the image size, and its parameters.

    Args:
      name: path or `hf://owner/name/file`.
      image_size, patch_size: in pixels.

    Raises:
      MissingWeights: the file is missing and cannot be downloaded.
      WeightsError: the file does not fit.
    """
    network = NETWORKS["teacher"]
    try:
        tensors = _tensors(name, network, network.files[0].content)
    except FileNotFoundError as error:
        raise MissingWeights(
            f"missing: the DINOv2 teacher, config.repa.teacher={name!r}\n  reason: {error}\n"
            f"  source: {_DINOV2_SOURCE}\n  to use a local copy: --config.repa.teacher=/path/to/the/file\n"
            "  to train without it: --config.repa.weight=0"
        ) from error
    return _teacher(tensors, image_size, patch_size, name)


def load_network(name: str, names: Sequence[str]) -> tuple[Functional, dict]:
    """Reads LPIPS or Inception; returns the network and its parameters, to be called as `net(params)(...)`.

    Args:
      name: "lpips" or "inception".
      names: paths or `hf://owner/name/file` of the files that together contain all tensors.

    Raises:
      FileNotFoundError: a file is missing; the message states its source.
      WeightsError: a file is of another network.
    """
    network, tensors = NETWORKS[name], {}
    for file in names:
        try:
            tensors |= _tensors(file, network, f"{name} weights")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}. Source of {network.source}") from error
    return from_tensors(name, tensors, source=" with ".join(map(str, names)))


def load_inception(file: str) -> tuple[Functional, dict]:
    """Reads Inception, `load_network("inception", [file])`."""
    return load_network("inception", [file])


def load_lpips(names: Sequence[str]) -> tuple[Functional, dict]:
    """Reads LPIPS, `load_network("lpips", names)`."""
    return load_network("lpips", names)


def from_tensors(name: str, tensors: Tensors, *, source: str) -> tuple[Functional, dict]:
    """Returns LPIPS or Inception and its parameters, given a PyTorch state dict; `source` names it in messages."""
    network = NETWORKS[name]
    arguments, params = _read(network, entries.select_state_dict(tensors, network.anchors, source=source), None, source)
    return network.make(arguments), params


def missing(name: str, path: str, reason: Exception, file: WeightsFile | None = None) -> MissingWeights:
    """Returns the error for a missing `file` (by default the only one) of the network `name` at `path`."""
    network = NETWORKS[name]
    (file,) = network.files if file is None else (file,)
    return MissingWeights(
        f"missing: {file.content}, config.{file.field}={path!r}\n"
        f"  reason: {reason}\n"
        f"  source: {file.source}\n"
        f"  to use a local copy: --config.{file.field}=/path/to/the/file\n"
        f"  to train without it: --config.{network.disable_setting}"
    )


def _read_configured(name, config):
    network, tensors, fields = NETWORKS[name], {}, []
    for file in network.files:
        path = _field(config, file.field)
        if not path:
            raise MissingWeights(
                f"config.{file.field} is empty, but the run needs {file.content}. Set it, or {network.disable_setting}"
            )
        try:
            # One file may contain both parts of LPIPS, like the lpips package's whole model; then the tensors are equal.
            tensors |= _tensors(path, network, file.content)
        except FileNotFoundError as error:
            raise missing(name, path, error, file) from error
        fields.append(file.field if len(network.files) == 1 else path)
    return _read(network, tensors, config, " with ".join(fields))


def _read(network, tensors, config, source):
    with layout.reading(source, f"those of the {network.module.__name__}"):
        return network.read(tensors, config, source)


def _field(config, path):
    for name in path.split("."):
        config = config[name]
    return config


def _tensors(name, network, purpose):
    """Returns the tensors of a file, or of one entry of it if `name` is `FILE#ENTRY`."""
    file, mark, entry = os.fspath(name).rpartition("#")
    if not mark or files.exists(name):
        file, entry = name, None
    path = files.find_weights(files.resolve(file, purpose=purpose), purpose=purpose)
    return entries.select_state_dict(files.read_tensors(path), network.anchors, source=str(path), entry=entry)
