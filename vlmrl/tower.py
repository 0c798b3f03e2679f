"""The image tower of the built-in judge: the front of a MobileNetV2 and a few convolutions that keep places apart.

After `register`, `AutoModel.from_pretrained` reads a judge like any other dual encoder.
Average pooling, which ends the usual image models, forgets where things are; progress is mostly where things are.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, MobileNetV2Config, MobileNetV2Model, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

FINE, COARSE = 5, 9
"""Blocks of MobileNetV2 after which its features are taken: 1/8 and 1/16 of the picture's side."""


class JudgeVisionConfig(PretrainedConfig):
    """Sizes of the tower."""

    model_type = "judge_vision"

    def __init__(
        self, image_size: int = 128, width: int = 64, hidden_size: int = 256, dropout: float = 0.0, **rest: Any
    ) -> None:
        self.image_size, self.width, self.hidden_size, self.dropout = image_size, width, hidden_size, dropout
        super().__init__(**rest)


class JudgeVisionModel(PreTrainedModel):
    """Pictures to vectors."""

    config_class = JudgeVisionConfig
    main_input_name = "pixel_values"

    def __init__(self, config: JudgeVisionConfig) -> None:
        super().__init__(config)
        settings = MobileNetV2Config(image_size=config.image_size, tf_padding=False, layer_norm_eps=1e-5)
        whole = MobileNetV2Model(settings, add_pooling_layer=False)
        self.stem, self.blocks = whole.conv_stem, whole.layer[:COARSE]
        self.tail = Tail(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Modules initialise themselves."""

    def front(self, pixel_values: Float[Tensor, "N 3 S S"]) -> tuple[Tensor, Tensor]:
        """Features at 1/8 and 1/16 of the side; trained on ImageNet, never trained here."""
        x = self.stem(pixel_values)
        for block in self.blocks[:FINE]:
            x = block(x)
        fine = x
        for block in self.blocks[FINE:]:
            x = block(x)
        return fine, x

    def forward(self, pixel_values: Float[Tensor, "N 3 S S"], **_: Any) -> BaseModelOutputWithPooling:
        """Return the vectors as `pooler_output`."""
        return BaseModelOutputWithPooling(pooler_output=self.tail(*self.front(pixel_values)))


class Tail(nn.Module):
    """Convolutions over both scales, then one layer that sees every place apart."""

    def __init__(self, config: JudgeVisionConfig) -> None:
        super().__init__()
        width, places = config.width, -(-config.image_size // 32)
        self.drop = nn.Dropout2d(config.dropout / 2)
        self.fine = nn.Sequential(_conv(32, width), _conv(width, width, stride=2))
        self.both = nn.Sequential(_conv(width + 64, 2 * width), _conv(2 * width, 2 * width, stride=2))
        self.out = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(config.dropout),
            nn.Linear(2 * width * places**2, config.hidden_size),
            nn.GELU(),
            nn.Dropout(config.dropout),
        )

    def forward(self, fine: Float[Tensor, "N 32 F F"], coarse: Float[Tensor, "N 64 C C"]) -> Float[Tensor, "N D"]:
        """Vectors of pictures."""
        return self.out(self.both(torch.cat([self.fine(self.drop(fine)), self.drop(coarse)], dim=1)))


def _conv(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, 3, stride, 1)
    return nn.Sequential(layer, nn.GroupNorm(8, outputs), nn.GELU())


def register() -> None:
    """Let `AutoModel` read checkpoints with this tower."""
    AutoConfig.register(JudgeVisionConfig.model_type, JudgeVisionConfig, exist_ok=True)
    AutoModel.register(JudgeVisionConfig, JudgeVisionModel, exist_ok=True)
