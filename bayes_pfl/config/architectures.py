"""The name of an architecture -> its own image size and quarters of its depth: what a backbone has unless told."""

import functools
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = Path(__file__).parents[1]
PUBLISHED_SIZE = {"ViT-L-14-336": 518, "ViT-L-14-336-quickgelu": 518}
"""Of the architecture that the papers use, image sizes that they enlarge it to."""


class Architecture(NamedTuple):
    """What an architecture says of itself."""

    image_size: int
    """Side of its input, pixels."""
    depth: int
    """Vision blocks."""

    @property
    def quarters(self) -> tuple[int, ...]:
        """The last vision blocks of four equal parts, counted from 1."""
        return tuple(sorted({max(1, self.depth * part // 4) for part in (1, 2, 3, 4)}))

    def scaled(self, layers: Sequence[int], depth: int) -> tuple[int, ...]:
        """Layers of another architecture at the same share of the depth.

        Args:
            layers: of the other one, counted from 1.
            depth: of the other one.

        Returns:
            Layers of this one.
        """
        return tuple(sorted({max(1, round(layer * self.depth / depth)) for layer in layers}))


@functools.cache
def architecture(name: str) -> Architecture | None:
    """What is known of an architecture before it is built.

    Args:
        name: open_clip's, or a JSON file, `package:` for one in this package.

    Returns:
        Image size and depth; None where they cannot be told: building it says why.
    """
    try:
        values = json.loads(_file(name).read_text(encoding="utf-8"))
        vision = values["vision_cfg"]
        size = vision.get("image_size", 224)
        size = PUBLISHED_SIZE.get(name, size if isinstance(size, int) else size[0])
        depth = _timm_depth(vision["timm_model_name"]) if "timm_model_name" in vision else vision["layers"]
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None
    return Architecture(size, depth) if isinstance(depth, int) and depth > 0 else None


def _file(name: str) -> Path:
    """The JSON file of an architecture; those of open_clip are read without importing it, which takes seconds."""
    if name.endswith(".json"):
        return PACKAGE / name.removeprefix("package:") if name.startswith("package:") else Path(name)
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None or "/" in name:
        raise OSError(f"no architecture {name}")
    return Path(spec.origin).parent / "model_configs" / f"{name}.json"


def _timm_depth(name: str) -> Any:
    """Blocks of an image encoder of timm, which only the encoder itself knows: built without memory."""
    import timm
    import torch

    with torch.device("meta"):
        encoder = timm.create_model(name, pretrained=False)
    return len(encoder.blocks)  # type: ignore[arg-type]
