"""The positional grid of CLIP's image encoder, brought to another image size as a released code does it."""

from typing import Any

import open_clip
import torch
from torch import nn
from torch.nn import functional as F

from bayes_pfl.config import BackboneConfig
from bayes_pfl.errors import BackboneError


def resize_positions(visual: Any, config: BackboneConfig) -> None:
    """Replace the positions of a loaded image encoder: bicubic or bilinear, align_corners=False, no antialiasing.

    open_clip's own loader resizes bicubically with antialiasing. The class token's position stays.

    Args:
        visual: built at its checkpoint's own size; changed.
        config: its image size and kind of resize.

    Raises:
        BackboneError: it has no positional grid of CLIP's kind, or patches do not fit the size.
    """
    if not isinstance(visual, open_clip.transformer.VisionTransformer):
        raise BackboneError(
            f"{config.name} has no positional grid of CLIP's kind: set backbone.position_resize to antialiased_bicubic."
        )
    height, width = (config.image_size // side for side in visual.patch_size)
    if height == 0 or width == 0:
        raise BackboneError(
            f"An image of {config.image_size} px has no patch of {visual.patch_size[0]} px: enlarge it."
        )
    positions = visual.positional_embedding.detach()
    grid = positions[1:].T.unflatten(1, visual.grid_size)[None]
    resized = F.interpolate(grid, size=(height, width), mode=config.position_resize, align_corners=False)
    joined = torch.cat([positions[:1], resized[0].flatten(1).T])
    visual.positional_embedding = nn.Parameter(joined.contiguous(), requires_grad=False)
    visual.image_size, visual.grid_size = (config.image_size, config.image_size), (height, width)
