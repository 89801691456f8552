"""LPIPS on VGG16."""

import torch
from torch import nn

VGG_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class Head(nn.Module):
    """A head of LPIPS: a positive combination of squared differences."""

    def __init__(self, width):
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(width, 1, 1, bias=False))


class LPIPS(nn.Module):
    def __init__(self):
        super().__init__()
        layers, self.taps, inputs = [], [], 3
        for stage, (width, depth) in enumerate(VGG_STAGES):
            layers += [nn.MaxPool2d(2)] if stage else []
            for _ in range(depth):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
                inputs = width
            self.taps.append(len(layers))
            setattr(self, f"lin{stage}", Head(width))
        self.features = nn.Sequential(*layers)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)

    def unit_features(self, images):
        x, start = (images - self.shift) / self.scale, 0
        for end in self.taps:
            x = self.features[start:end](x)
            y = x.float()
            yield y / (torch.sqrt((y * y).sum(1, keepdim=True)) + 1e-10)
            start = end

    def forward(self, a, b):
        distance = 0.0
        for stage, (x, y) in enumerate(zip(self.unit_features(a), self.unit_features(b), strict=True)):
            weights = getattr(self, f"lin{stage}").model[1].weight[0, :, 0, 0]
            distance = distance + torch.einsum("bchw,c->bhw", (x - y) ** 2, weights).mean((1, 2))
        return distance
