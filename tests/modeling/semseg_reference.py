"""semseg's networks around a context module, from their description, with the published names."""

from torch import Tensor, nn


class Bottleneck(nn.Module):
    """A bottleneck with torchvision's names, with stride and dilation on the 3 x 3 convolution."""

    def __init__(self, in_channels: int, width: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride > 1 or in_channels != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn1(self.conv1(x)).relu()
        branch = self.bn2(self.conv2(branch)).relu()
        branch = self.bn3(self.conv3(branch))
        return (branch + (x if self.downsample is None else self.downsample(x))).relu()


def block(in_channels: int, out_channels: int, kernel: int) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]


class SemsegNetwork(nn.Module):
    """ResNet-50 with every 3 x 3 convolution of layer3 and layer4 dilated, context, classifier."""

    def __init__(self, context_name: str, context: nn.Module, num_classes: int):
        super().__init__()
        stem = [nn.Conv2d(3, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        stem += [*block(64, 64, 3), *block(64, 128, 3), nn.MaxPool2d(3, 2, 1)]
        self.layer0 = nn.Sequential(*stem)
        channels = 128
        for index, (depth, width, stride, dilation) in enumerate(
            [(3, 64, 1, 1), (4, 128, 2, 1), (6, 256, 1, 2), (3, 512, 1, 4)], start=1
        ):
            blocks = [Bottleneck(channels, width, stride, dilation)]
            blocks += [Bottleneck(4 * width, width, 1, dilation) for _ in range(depth - 1)]
            self.add_module(f"layer{index}", nn.Sequential(*blocks))
            channels = 4 * width
        self.context_name = context_name
        self.add_module(context_name, context)
        self.cls = nn.Sequential(*block(4096, 512, 3), nn.Dropout2d(0.1), nn.Conv2d(512, num_classes, 1))
        self.aux = nn.Sequential(*block(1024, 256, 3), nn.Dropout2d(0.1), nn.Conv2d(256, num_classes, 1))

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for index in range(5):
            x = getattr(self, f"layer{index}")(x)
        return self.cls(getattr(self, self.context_name)(x))
