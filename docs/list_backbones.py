"""open_clip's architectures -> docs/backbones.md, which of them can be the backbone: `make backbones`.

Each is built without memory, on torch's meta device, and asked what `Backbone` and `PromptEncoder` ask of it.
"""

import sys
import warnings
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import open_clip
import torch

from bayes_pfl.clip import backbone as rooms
from bayes_pfl.clip.hub import ANSWER_S
from bayes_pfl.clip.prompt_encoder import PromptEncoder
from bayes_pfl.config import BackboneConfig
from bayes_pfl.config.architectures import Architecture
from bayes_pfl.errors import BackboneError

PAGE = Path(__file__).with_name("backbones.md")

HEAD = """# Backbones

Made by `make backbones` from the installed open_clip {version}: every architecture that it knows, built and tried.
`--set backbone.name=NAME --set backbone.pretrained=TAG_OR_FILE` chooses one. Image size and layers are those of the
table unless `--set backbone.image_size=PIXELS` and `--set backbone.feature_layers=[3,6,9,12]` (vision blocks, counted
from 1) say otherwise. A multiple of the patch size may stand for the image size: position embeddings are interpolated.
ViT-L-14-336 is run at 518 px, as in the papers. Names that end in `-quickgelu` need `--set backbone.quick_gelu=true`, which their
weights were trained with; a contradiction between name, weights and setting is an error.

A file of weights may be safetensors, what `torch.save` wrote of a state dict, OpenAI's TorchScript archive
(`ViT-L-14-336px.pt`), or a CLIP of Hugging Face Transformers. Tensors are read, nothing in a file is executed.

A file does not say which activation it was trained with. open_clip's list does, where the file has the name of its download (`b16_400m.pt`) or
lies in a folder of its repository's name (`DFN2B-CLIP-ViT-B-16/`, or the hub's cache): a contradiction is an error then, too. Of other files a
warning asks for `--set backbone.quick_gelu=true` or `false`. OpenAI's, DFN's and MetaCLIP's weights were trained with QuickGELU (DFN's
`dfn2b_s39b` and MetaCLIP's `metaclip_altogether` were not); LAION's (but `laion400m` of ViT-B-32), DataComp's and CommonPool's with exact GELU.

## Download, cache, and machines without a network

A tag is downloaded once, from Hugging Face's hub into `HF_HOME` (`~/.cache/huggingface/hub` by default), and read from
there without asking the hub again. `bayes-pfl doctor` lists what is in the cache.

Without a network:

- Copy `HF_HOME` from a machine that has downloaded the tag, and set `HF_HUB_OFFLINE=1`.
- Or copy the file of weights, and name it: `--set backbone.pretrained=FILE` for a training, or for a method without one.
- A trained model names the file that it was trained with. Where that has moved: `--weights FILE` of `score`, `evaluate`,
  `compare`, `calibrate`, `serve` and `reference`, or `Detector.load(folder, weights=FILE)`. Its SHA-256 must be the recorded one.

A hub that does not answer within {seconds:g} s is one sentence with the address of the file.

## Which one

| `backbone.name` | `backbone.pretrained` | layers | image, px | MB to download | memory, GiB | s an image |
|---|---|---|---|---|---|---|
| embedded | none: it comes along | 3, 6, 9, 12 | 112 | 0 | 1.0 | 0.04 |
| ViT-B-16 | openai, laion2b_s34b_b88k, datacomp_xl_s13b_b90k | 3, 6, 9, 12 | 224 | 598 | 1.6 | 0.9 |
| ViT-B-16-plus-240 | laion400m_e31, laion400m_e32 | 3, 6, 9, 12 | 240 | 834 | 1.8 (estimated) | 1.4 (estimated) |
| ViT-L-14 | openai, laion2b_s32b_b82k, datacomp_xl_s13b_b90k | 6, 12, 18, 24 | 224 | 1710 | 2.8 (estimated) | 3 (estimated) |
| ViT-L-14-336 | openai | 6, 12, 18, 24 | 518 | 1712 | 4 (estimated) | 9 |
| EVA02-L-14-336 | merged2b_s6b_b61k | 6, 12, 18, 24 | 336 | 1712 | 3 (estimated) | 6 (estimated) |
| ViT-H-14 | laion2b_s32b_b79k | 8, 16, 24, 32 | 224 | 3944 | 5 (estimated) | 7 (estimated) |
| ViT-bigG-14 | laion2b_s39b_b160k | 12, 24, 36, 48 | 224 | 10158 | 12 (estimated) | 18 (estimated) |

MB is the size of the parameters in float32, as most files on the hub have them; nothing was downloaded to measure it. Memory is
the largest of the process, and time that of one core, for one image in float32 with R = 10. Both were measured with random weights of
the exact shapes where no word stands beside them. The estimates are in proportion to parameters and patches.
"""


class Answer(NamedTuple):
    """What an architecture is, or why it is refused."""

    name: str
    refusal: str
    image_size: int = 0
    blocks: int = 0
    layers: str = ""
    patches: str = ""
    widths: str = ""


def ask(name: str) -> Answer:
    """Build an architecture and ask it for patch tokens and for a text tower that learned prompts go through.

    Args:
        name: open_clip's.

    Returns:
        Its sizes, or the reason of the refusal.
    """
    architecture = open_clip.get_model_config(name)
    size = architecture["vision_cfg"].get("image_size", 224)
    size = size if isinstance(size, int) else size[0]
    config = BackboneConfig(
        name=name,
        pretrained="random:0",
        image_size=size,
        feature_layers=(1,),
        quick_gelu=bool(architecture.get("quick_gelu", False)),
    )
    try:
        with torch.device("meta"), mock.patch.object(rooms, "digest_of", return_value=""):
            backbone = rooms.Backbone(config)
            PromptEncoder(backbone)
            rows, columns = backbone.grid
            shape = backbone.encode_image(torch.zeros(1, 3, size, size)).patches.shape
    except BackboneError as error:
        return Answer(name, str(error).removeprefix(f"{name} has ").split("; choose")[0])
    if shape != (1, 1, rows * columns, backbone.patch_width):
        return Answer(name, f"patch tokens of an unexpected shape {tuple(shape)}")
    visual = backbone.clip.visual
    blocks = visual.transformer.resblocks if hasattr(visual, "transformer") else visual.trunk.blocks
    widths = f"{backbone.patch_width} / {backbone.text_width} / {backbone.joint_width}"
    layers = ", ".join(map(str, Architecture(size, len(blocks)).quarters))
    return Answer(name, "", size, len(blocks), layers, f"{rows} x {columns}", widths)


def page(answers: list[Answer]) -> str:
    """The page of all answers.

    Args:
        answers: of `ask`.

    Returns:
        Markdown.
    """
    works = [answer for answer in answers if not answer.refusal]
    refused = [answer for answer in answers if answer.refusal]
    lines = [
        head(),
        f"## {len(works)} work",
        "",
        "| architecture | image, px | vision blocks | layers unless given | patches | width of patches / text / joint | "
        "open_clip's weights |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += map(row, works)
    lines += ["", f"## {len(refused)} are refused", "", "| architecture | because it has |", "|---|---|"]
    lines += map(row, refused)
    return "\n".join(lines) + "\n"


def head() -> str:
    """What stands above the table of all architectures.

    Returns:
        Markdown.
    """
    return HEAD.format(version=open_clip.__version__, seconds=ANSWER_S)


def row(answer: Answer) -> str:
    """An architecture in its table.

    Args:
        answer: of `ask`.

    Returns:
        A line of Markdown.
    """
    if answer.refusal:
        return f"| {answer.name} | {answer.refusal} |"
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(answer.name)) or "none"
    sizes = answer.image_size, answer.blocks, answer.layers, answer.patches, answer.widths
    return f"| {' | '.join([answer.name, *map(str, sizes), tags])} |"


def main(path: Path) -> None:
    """Write the page.

    Args:
        path: its file.
    """
    warnings.simplefilter("ignore")
    names = open_clip.list_models()
    answers = []
    for number, name in enumerate(names, 1):
        answers.append(ask(name))
        print(f"{number}/{len(names)}  {name}  {answers[-1].refusal or 'works'}", file=sys.stderr)
    path.write_text(page(answers), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else PAGE)
