"""OCNet and the JPU neck from their descriptions, in plain PyTorch, with the names of pytorch-cv's files."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def block(
    in_channels: int, channels: int, kernel: int, dilation: int = 1, bias: bool = False
) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(in_channels, channels, kernel, padding=padding, dilation=dilation, bias=bias)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())


def enlarge(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, like.shape[-2:], mode="bilinear", align_corners=True)


class Attention(nn.Module):
    """Self-attention whose queries are its keys; on a map that is max-pooled by `scale`."""

    def __init__(self, channels: int, key_channels: int, value_channels: int, scale: int):
        super().__init__()
        self.scale = scale
        self.f_key = nn.Sequential(
            nn.Conv2d(channels, key_channels, 1), nn.BatchNorm2d(key_channels), nn.ReLU()
        )
        self.f_query = self.f_key
        self.f_value = nn.Conv2d(channels, value_channels, 1)
        self.W = nn.Conv2d(value_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = nn.MaxPool2d(self.scale)(x)
        key, value = self.f_key(pooled), self.f_value(pooled)
        energies = torch.einsum("nchw,ncij->nhwij", key, key) / key.shape[1] ** 0.5
        weights = energies.flatten(3).softmax(dim=3).view_as(energies)
        context = self.W(torch.einsum("nhwij,ncij->nchw", weights, value))
        return enlarge(context, x) if self.scale > 1 else context


class Base(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.stages = nn.ModuleList([Attention(channels, channels // 2, channels // 2, 1)])
        self.conv_bn_dropout = block(2 * channels, channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_bn_dropout(torch.cat([self.stages[0](x), x], 1))


class ContextOnly(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.stages = nn.ModuleList([Attention(channels, channels // 2, channels, 2)])
        self.conv_bn_dropout = block(channels, channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_bn_dropout(self.stages[0](x))


class ASP(nn.Module):
    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.context = nn.Sequential(*block(in_channels, channels, 3, bias=True), ContextOnly(channels))
        self.conv2 = block(in_channels, channels, 1)
        self.conv3 = block(in_channels, channels, 3, 12)
        self.conv4 = block(in_channels, channels, 3, 24)
        self.conv5 = block(in_channels, channels, 3, 36)
        self.conv_bn_dropout = block(5 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.context, self.conv2, self.conv3, self.conv4, self.conv5)
        return self.conv_bn_dropout(torch.cat([branch(x) for branch in branches], 1))


class Separable(nn.Module):
    def __init__(self, in_channels: int, channels: int, dilation: int):
        super().__init__()
        self.conv1 = nn.Conv2d(
            in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False
        )
        self.bn = nn.BatchNorm2d(in_channels)
        self.pointwise = nn.Conv2d(in_channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.bn(self.conv1(x)))


class JPU(nn.Module):
    def __init__(self, channels: int = 512):
        super().__init__()
        for stage, in_channels in ((5, 2048), (4, 1024), (3, 512)):
            setattr(self, f"conv{stage}", block(in_channels, channels, 3))
        for index, dilation in enumerate((1, 2, 4, 8)):
            separable = Separable(3 * channels, channels, dilation)
            branch = nn.Sequential(separable, nn.BatchNorm2d(channels), nn.ReLU())
            setattr(self, f"dilation{index + 1}", branch)

    def forward(self, c3: Tensor, c4: Tensor, c5: Tensor) -> Tensor:
        fine = self.conv3(c3)
        joined = torch.cat([enlarge(self.conv5(c5), fine), enlarge(self.conv4(c4), fine), fine], 1)
        return torch.cat([getattr(self, f"dilation{index}")(joined) for index in (1, 2, 3, 4)], 1)


class OCNet(nn.Module):
    """ResNet-50-v1s, JPU, OCNet and an auxiliary classifier; normalised images to logits.

    Args:
        kind: "base" or "asp".
    """

    def __init__(self, kind: str, num_classes: int):
        super().__init__()
        from torchvision.models.resnet import Bottleneck, ResNet

        network = ResNet(Bottleneck, [3, 4, 6, 3])
        network.inplanes = 128
        layer1 = network._make_layer(Bottleneck, 64, 3)
        stem = []
        for in_channels, channels, stride in ((3, 64, 2), (64, 64, 1), (64, 128, 1)):
            convolution = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
            stem += [convolution, nn.BatchNorm2d(channels), nn.ReLU()]
        self.base1 = nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1), layer1, *network.layer2)
        self.base2, self.base3 = network.layer3, network.layer4
        self.JPU = JPU()
        if kind == "base":
            self.context = nn.Sequential(*block(2048, 512, 3, bias=True), Base(512))
        else:
            self.context = nn.Sequential(ASP(2048, 512))
        self.cls = nn.Conv2d(512, num_classes, 1)
        self.auxlayer = nn.Module()
        self.auxlayer.block = nn.Sequential(
            *block(1024, 256, 3), nn.Dropout(0.1), nn.Conv2d(256, num_classes, 1)
        )

    def forward(self, image: Tensor) -> Tensor:
        c3 = self.base1(image)
        c4 = self.base2(c3)
        return self.cls(self.context(self.JPU(c3, c4, self.base3(c4))))

    def auxiliary(self, image: Tensor) -> Tensor:
        return self.auxlayer.block(self.base2(self.base1(image)))
