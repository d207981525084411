"""pytorch-cv's networks from their descriptions, in plain PyTorch, with its published names."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def block(
    in_channels: int, channels: int, kernel: int, dilation: int = 1, bias: bool = False
) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(in_channels, channels, kernel, padding=padding, dilation=dilation, bias=bias)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())


def upsample(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, like.shape[-2:], mode="bilinear", align_corners=True)


class Attention(nn.Module):
    """Self-attention with shared queries and keys, on a map max-pooled by `scale`."""

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
        return upsample(context, x) if self.scale > 1 else context


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
    def __init__(self, width: int = 64, channels: int = 512):
        super().__init__()
        for stage, in_channels in ((5, 32 * width), (4, 16 * width), (3, 8 * width)):
            setattr(self, f"conv{stage}", block(in_channels, channels, 3))
        for index, dilation in enumerate((1, 2, 4, 8)):
            separable = Separable(3 * channels, channels, dilation)
            branch = nn.Sequential(separable, nn.BatchNorm2d(channels), nn.ReLU())
            setattr(self, f"dilation{index + 1}", branch)

    def forward(self, c3: Tensor, c4: Tensor, c5: Tensor) -> Tensor:
        fine = self.conv3(c3)
        joined = torch.cat([upsample(self.conv5(c5), fine), upsample(self.conv4(c4), fine), fine], 1)
        return torch.cat([getattr(self, f"dilation{index}")(joined) for index in (1, 2, 3, 4)], 1)


class Network(nn.Module):
    """ResNet-v1s, in the three parts of pytorch-cv, and an auxiliary classifier.

    Args:
        num_classes: number of classes.
        blocks: number of blocks in the four stages.
        jpu: compute a map of stride 8 from the last three; otherwise dilate layer3 and layer4.
        width: channels in the blocks of layer1, and of the stem's first two convolutions; its last has twice
            as many. The files have 64.
    """

    def __init__(
        self,
        num_classes: int,
        blocks: tuple[int, ...] = (3, 4, 6, 3),
        jpu: bool = True,
        width: int = 64,
    ):
        super().__init__()
        from torchvision.models.resnet import Bottleneck, ResNet

        network = ResNet(Bottleneck, [1, 1, 1, 1])
        network.inplanes, network.dilation = 2 * width, 1
        layer1 = network._make_layer(Bottleneck, width, blocks[0])
        layer2 = network._make_layer(Bottleneck, 2 * width, blocks[1], stride=2)
        layer3 = network._make_layer(Bottleneck, 4 * width, blocks[2], stride=2, dilate=not jpu)
        layer4 = network._make_layer(Bottleneck, 8 * width, blocks[3], stride=2, dilate=not jpu)
        stem = []
        for in_channels, channels, stride in ((3, width, 2), (width, width, 1), (width, 2 * width, 1)):
            convolution = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
            stem += [convolution, nn.BatchNorm2d(channels), nn.ReLU()]
        self.base1 = nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1), layer1, *layer2)
        self.base2, self.base3 = layer3, layer4
        if jpu:
            self.JPU = JPU(width)
        self.auxlayer = nn.Module()
        self.auxlayer.block = nn.Sequential(
            *block(16 * width, 256, 3), nn.Dropout(0.1), nn.Conv2d(256, num_classes, 1)
        )

    def features(self, image: Tensor) -> Tensor:
        """Return the map of stride 8, the head's input."""
        c3 = self.base1(image)
        c4 = self.base2(c3)
        c5 = self.base3(c4)
        return self.JPU(c3, c4, c5) if hasattr(self, "JPU") else c5

    def auxiliary(self, image: Tensor) -> Tensor:
        return self.auxlayer.block(self.base2(self.base1(image)))


class HeadNetwork(Network):
    """A network whose head is named `head`."""

    def __init__(self, head: nn.Module, num_classes: int, **options):
        super().__init__(num_classes, **options)
        self.head = head

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image))


class OCNet(Network):
    """OCNet; `variant` is "base" or "asp"."""

    def __init__(self, variant: str, num_classes: int, channels: int = 512, **options):
        super().__init__(num_classes, **options)
        if variant == "base":
            self.context = nn.Sequential(*block(2048, channels, 3, bias=True), Base(channels))
        else:
            self.context = nn.Sequential(ASP(2048, channels))
        self.cls = nn.Conv2d(channels, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.cls(self.context(self.features(image)))


def classifier(in_channels: int, channels: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        *block(in_channels, channels, 3), nn.Dropout(0.1), nn.Conv2d(channels, num_classes, 1)
    )


class FCNHead(nn.Module):
    def __init__(self, num_classes: int, channels: int = 512):
        super().__init__()
        self.block = classifier(2048, channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class PSPHead(nn.Module):
    def __init__(
        self,
        num_classes: int,
        channels: int = 512,
        in_channels: int = 2048,
        bins: tuple[int, ...] = (1, 2, 3, 4),
    ):
        super().__init__()
        self.bins = bins
        self.psp = nn.Module()
        for index in range(len(bins)):
            setattr(self.psp, f"conv{index + 1}", block(in_channels, channels, 1))
        self.block = classifier(in_channels + len(bins) * channels, channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        joined = [x]
        for index, side in enumerate(self.bins):
            projection = getattr(self.psp, f"conv{index + 1}")
            joined.append(upsample(projection(F.adaptive_avg_pool2d(x, side)), x))
        return self.block(torch.cat(joined, 1))


class DeepLabV3Head(nn.Module):
    def __init__(self, num_classes: int, channels: int = 256):
        super().__init__()
        self.aspp = nn.Module()
        self.aspp.b0 = block(2048, channels, 1)
        for index, dilation in enumerate((12, 24, 36)):
            setattr(self.aspp, f"b{index + 1}", block(2048, channels, 3, dilation))
        self.aspp.b4 = nn.Module()
        self.aspp.b4.gap = nn.Sequential(nn.AdaptiveAvgPool2d(1), *block(2048, channels, 1))
        self.aspp.project = nn.Sequential(*block(5 * channels, channels, 1), nn.Dropout(0.5))
        self.block = classifier(channels, channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        branches = [getattr(self.aspp, f"b{index}")(x) for index in range(4)]
        branches.append(self.aspp.b4.gap(x).expand_as(branches[0]))
        return self.block(self.aspp.project(torch.cat(branches, 1)))


class PositionAttention(nn.Module):
    """Position attention whose weights sum to one over queries, dimension 1 of (query, key)."""

    def __init__(self, channels: int):
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            convolution(x).flatten(2) for convolution in (self.query_conv, self.key_conv, self.value_conv)
        )
        weights = torch.einsum("ndq,ndk->nqk", query, key).softmax(dim=1)
        return self.gamma * torch.einsum("nqk,nck->ncq", weights, value).view_as(x) + x


class ChannelAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)
        likeness = torch.einsum("ncp,ndp->ncd", pixels, pixels)
        weights = (likeness.max(dim=2, keepdim=True)[0] - likeness).softmax(dim=2)
        return self.gamma * torch.einsum("ncd,ndp->ncp", weights, pixels).view_as(x) + x


class DANetHead(nn.Module):
    def __init__(self, num_classes: int, channels: int = 512):
        super().__init__()
        self.conv5a, self.conv5c = block(2048, channels, 3), block(2048, channels, 3)
        self.sa, self.sc = PositionAttention(channels), ChannelAttention()
        self.conv51, self.conv52 = block(channels, channels, 3), block(channels, channels, 3)
        self.conv8 = nn.Sequential(nn.Dropout(0.1), nn.Conv2d(channels, num_classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        position = self.conv51(self.sa(self.conv5a(x)))
        channel = self.conv52(self.sc(self.conv5c(x)))
        return self.conv8(position + channel)


class Classifier(nn.Module):
    """ResNet-v1s for ImageNet, all layers but the last in one sequence."""

    def __init__(self, blocks: tuple[int, ...] = (3, 4, 6, 3), width: int = 64):
        super().__init__()
        network = Network(2, blocks, width=width)
        stem, stages = list(network.base1)[:10], list(network.base1)[10:]
        layers = [stages[0], nn.Sequential(*stages[1:]), network.base2, network.base3]
        self.features = nn.Sequential(*stem, *layers, nn.AdaptiveAvgPool2d(1))
        self.fc = nn.Linear(32 * width, 1000)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.features(image).flatten(1))
