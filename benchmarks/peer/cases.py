"""The functions to compare, with weights and inputs from the other side."""

import contextlib
import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

from peer.discriminator import Discriminator
from peer.gan_step import GanStep, Networks
from peer.lpips import LPIPS
from peer.sit import SiT
from peer.tokenizer import Tokenizer

NETWORKS = {
    "tokenizer": Tokenizer,
    "sit": SiT,
    "lpips": lambda config: LPIPS(),
    "discriminator": lambda config: Discriminator(config["width"]),
    "gan_step": Networks,
}


class Case:
    """A network with its weights and inputs.

    Attributes:
      kind, config, bfloat16: from case.json.
      device: "cuda" or "cpu".
      network, inputs: on the device.
    """

    def __init__(self, folder: pathlib.Path):
        case = json.loads((folder / "case.json").read_text())
        self.kind, self.config, self.bfloat16 = case["kind"], case["config"], case["dtype"] == "bfloat16"
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.network = NETWORKS[self.kind](self.config).to(self.device)
        missing = self.network.load_state_dict(_tensors(folder / "weights.npz"), strict=False).missing_keys
        unused = [name for name in missing if "decoder.model.patch_embed" not in name and "num_batches" not in name]
        if unused:
            raise SystemExit(f"weights.npz lacks {unused}")
        self.inputs = {name: x.to(self.device) for name, x in _tensors(folder / "inputs.npz").items()}
        for name in {"images", "a", "b"} & self.inputs.keys():
            self.inputs[name] = self.inputs[name].permute(0, 3, 1, 2).contiguous()

    def context(self):
        return torch.autocast(self.device, torch.bfloat16) if self.bfloat16 else contextlib.nullcontext()

    def functions(self):
        """Returns `(function, arguments, gradient)` by name, for all kinds but "gan_step"."""
        net, x = self.network, self.inputs
        if self.kind == "tokenizer":
            return {
                "encode": (net.encode, (x["images"],), False),
                "decode": (net.decode, (x["latents"],), False),
                "forward + backward": (lambda images: F.mse_loss(net(images), images), (x["images"],), True),
            }
        if self.kind == "sit":
            arguments = (x["x"], x["t"], x["labels"])

            def loss(noisy, t, labels, target):
                return F.mse_loss(net(noisy, t, labels), target)

            return {
                "evaluation": (net, arguments, False),
                "forward + backward": (loss, (*arguments, x["target"]), True),
            }
        if self.kind == "lpips":
            images = x["b"].requires_grad_()
            for parameter in net.parameters():
                parameter.requires_grad_(False)
            return {
                "distance": (net, (x["a"], x["b"].detach()), False),
                "distance + gradient": (lambda a, b: net(a, b).mean(), (x["a"], images), True),
            }
        net.train()
        return {"forward + backward": (lambda features: net(features).mean(), (x["features"],), True)}


class Runner:
    """Runs the functions of a case, eagerly or compiled."""

    def __init__(self, case: Case, *, compiled: bool):
        self.case = case
        self.functions = {}
        for name, (function, arguments, gradient) in case.functions().items():
            self.functions[name] = (torch.compile(function) if compiled else function, arguments, gradient)

    def __call__(self, name):
        """Runs a function; returns its result. The gradient, if there is one, is then in `.grad`."""
        function, arguments, gradient = self.functions[name]
        with self.case.context(), torch.set_grad_enabled(gradient):
            result = function(*arguments)
        if gradient:
            for tensor in (*self.case.network.parameters(), *self.case.inputs.values()):
                tensor.grad = None
            result.backward()
        return result

    def numbers(self, name):
        """Returns the result, and the norm of the gradient of all parameters and inputs, if there is one."""
        result = self(name).detach().float()
        if result.ndim == 4:
            result = result.permute(0, 2, 3, 1)
        found = {"result": result.cpu().numpy()}
        if self.functions[name][2]:
            gradients = [x.grad for x in (*self.case.network.parameters(), *self.case.inputs.values())]
            squares = sum(float((g.double() ** 2).sum()) for g in gradients if g is not None)
            found["gradient_norm"] = np.asarray(squares**0.5)
        return found


class StepRunner:
    """Takes training steps, eagerly or compiled, with networks of its own."""

    def __init__(self, folder: pathlib.Path, *, compiled: bool):
        self.case = Case(folder)
        inputs = self.case.inputs
        self.images, self.rates = inputs.pop("images"), inputs.pop("learning_rates").tolist()
        self.step = GanStep(self.case.config, self.case.network, compiled=compiled)
        self.draws = inputs

    def __call__(self, name):
        with self.case.context():
            return self.step(self.images, self.draws, self.rates)

    def numbers(self, name):
        """Takes a step; returns its losses and gradient norms by name."""
        return {name: np.asarray(float(torch.as_tensor(value).detach())) for name, value in self(name).items()}


def runners(folder: pathlib.Path) -> dict:
    """Returns a runner for each of the case's variants."""
    case = json.loads((folder / "case.json").read_text())
    if case["kind"] == "gan_step":
        return {variant: StepRunner(folder, compiled=variant == "compiled") for variant in case["variants"]}
    shared = Case(folder)
    return {variant: Runner(shared, compiled=variant == "compiled") for variant in case["variants"]}


def _tensors(path):
    with np.load(path) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}
