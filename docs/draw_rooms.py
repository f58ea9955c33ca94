"""Import graph of the code -> docs/images/rooms.svg, the picture of ARCHITECTURE.md: `make rooms`.

A room is a folder below bayes_pfl, pipelines or serve. The modules that lie directly in one of the three form two more rooms:
`(shared)`, which the folders import, and `(programs)`, which they do not. An arrow from A to B means that a
module of A imports one of B. Arrows that follow from others (A to B to C implies A to C) are left out.
"""

import html
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

import grimp

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "rooms.svg"
FRAMES = ("pipelines", "serve", "bayes_pfl")
WIDTH, MARGIN, GAP, FLOOR_GAP = 1240, 20, 16, 44
TITLE_HEIGHT, LINE_HEIGHT, CHARACTER = 22, 15, 6.3
ABOVE, BELOW = "(programs)", "(shared)"


class Box(NamedTuple):
    """Where a room is drawn, pixels."""

    left: float
    top: float
    width: float
    height: float


def room_of(module: str, graph: grimp.ImportGraph) -> str:
    """The room of a module.

    Args:
        module: dotted name.
        graph: imports of the whole project.

    Returns:
        `package/folder`, or the package with `(programs)` or `(shared)` for a module that lies directly in it.
    """
    package, *rest = module.split(".")
    if not rest or f"{package}.{rest[0]}" in _folders(package, graph):
        return f"{package}/{rest[0]}" if rest else package
    folders, users = _folders(package, graph), graph.find_downstream_modules(module)
    return f"{package}/{BELOW if any('.'.join(name.split('.')[:2]) in folders for name in users) else ABOVE}"


def rooms(graph: grimp.ImportGraph) -> dict[str, list[str]]:
    """All rooms.

    Args:
        graph: imports of the whole project.

    Returns:
        Names of the modules, relative to their room, by room.
    """
    members: dict[str, list[str]] = {}
    for module in sorted(graph.modules):
        _, *rest = module.split(".")
        is_folder = any(other.startswith(module + ".") for other in graph.modules)
        if not rest or is_folder or rest[-1] == "__main__":
            continue
        room = room_of(module, graph)
        inside = ".".join(rest if room.endswith(")") else rest[1:]).replace(".", "/")
        members.setdefault(room, []).append(inside)
    return members


def arrows(graph: grimp.ImportGraph) -> set[tuple[str, str]]:
    """Which room imports which, without the arrows that follow from others.

    Args:
        graph: imports of the whole project.

    Returns:
        Pairs (importing room, imported room) of the same package.

    Raises:
        graphlib.CycleError: if rooms import each other in a circle.
    """
    uses: dict[str, set[str]] = {}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            source, target = room_of(module, graph), room_of(imported, graph)
            if source != target and "/" in source and "/" in target and source.split("/")[0] == target.split("/")[0]:
                uses.setdefault(source, set()).add(target)
    reach: dict[str, set[str]] = {}
    for room in TopologicalSorter(uses).static_order():
        reach[room] = set().union(*({target} | reach[target] for target in uses.get(room, ())))
    return {
        (source, target)
        for source, targets in uses.items()
        for target in targets
        if not any(target in reach[between] for between in targets)
    }


def draw() -> str:
    """The picture.

    Returns:
        SVG text; the same for the same code.
    """
    graph = grimp.build_graph(*FRAMES, cache_dir=None)
    members, pairs = rooms(graph), arrows(graph)
    half = (WIDTH - 3 * MARGIN) / 2
    parts: list[str] = []
    heights = []
    for package, left in (("pipelines", MARGIN), ("serve", 2 * MARGIN + half)):
        drawn, height = _frame(package, members, pairs, left, MARGIN, half)
        parts += drawn
        heights.append(height)
    top = MARGIN + max(heights) + FLOOR_GAP
    drawn, height = _frame("bayes_pfl", members, pairs, MARGIN, top, WIDTH - 2 * MARGIN)
    parts += drawn
    for package, left in (("pipelines", MARGIN), ("serve", 2 * MARGIN + half)):
        frame_height = heights[0 if package == "pipelines" else 1]
        parts.append(_arrow(left + half / 2, MARGIN + frame_height, left + half / 2, top))
    total = top + height + MARGIN
    style = (
        "text{font-family:Helvetica,Arial,sans-serif;font-size:12px;fill:#222}.t{font-weight:bold}.f{font-size:16px;font-weight:bold}"
        "rect{fill:#fff;stroke:#456;rx:5}.frame{fill:#eef2f6;stroke:#9ab}path{stroke:#456;fill:none;marker-end:url(#head)}"
    )
    head = '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><polygon points="0,0 8,4 0,8" fill="#456"/></marker>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total:.0f}" role="img" aria-label="Rooms of the code and who imports whom">\n'
        f"<style>{style}</style>\n<defs>{head}</defs>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _folders(package: str, graph: grimp.ImportGraph) -> set[str]:
    """Dotted names of the folders directly below a package."""
    return {
        ".".join(name.split(".")[:2])
        for name in graph.modules
        if name.startswith(package + ".") and name.count(".") > 1
    }


def _floors(package: str, members: dict[str, list[str]], pairs: set[tuple[str, str]]) -> list[list[str]]:
    """Rooms of a package from the top floor to the ground: a room stands one floor above the highest room that it imports."""
    names = [name for name in members if name.startswith(package + "/")]
    level: dict[str, int] = {}
    order = TopologicalSorter({name: {target for source, target in pairs if source == name} for name in names})
    for name in order.static_order():
        level[name] = 1 + max((level[target] for source, target in pairs if source == name), default=-1)
    return [
        sorted(name for name in names if level[name] == floor) for floor in sorted(set(level.values()), reverse=True)
    ]


def _frame(
    package: str, members: dict[str, list[str]], pairs: set[tuple[str, str]], left: float, top: float, width: float
) -> tuple[list[str], float]:
    """One package with its rooms and arrows as SVG elements, and its height."""
    boxes: dict[str, Box] = {}
    texts: list[str] = []
    y = top + 40
    for floor in _floors(package, members, pairs):
        room_width = min(460.0, (width - GAP * (len(floor) + 1)) / len(floor))
        offset = left + (width - len(floor) * room_width - (len(floor) - 1) * GAP) / 2
        lines = {name: wrap(", ".join(members[name]), max(12, int((room_width - 16) / CHARACTER))) for name in floor}
        height = TITLE_HEIGHT + LINE_HEIGHT * max(map(len, lines.values())) + 8
        for index, name in enumerate(floor):
            box = boxes[name] = Box(offset + index * (room_width + GAP), y, room_width, height)
            texts.append(
                f'<rect x="{box.left:.0f}" y="{box.top:.0f}" width="{box.width:.0f}" height="{box.height:.0f}"/>'
            )
            texts.append(_text(box.left + 8, box.top + 16, name.partition("/")[2], "t"))
            texts += [
                _text(box.left + 8, box.top + TITLE_HEIGHT + LINE_HEIGHT * number + 10, line)
                for number, line in enumerate(lines[name])
            ]
        y += height + FLOOR_GAP
    height = y - FLOOR_GAP + GAP - top
    frame = f'<rect class="frame" x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{height:.0f}"/>'
    return [frame, _text(left + 12, top + 24, package, "f"), *_arrows(boxes, pairs), *texts], height


def _arrows(boxes: dict[str, Box], pairs: set[tuple[str, str]]) -> list[str]:
    """Curves from the lower edge of a room to the upper edge of the room that it imports, spread over the edge."""
    inside = sorted(pair for pair in pairs if pair[0] in boxes)
    curves = []
    for source, target in inside:
        leaving = sorted((boxes[pair[1]].left, pair[1]) for pair in inside if pair[0] == source)
        arriving = sorted((boxes[pair[0]].left, pair[0]) for pair in inside if pair[1] == target)
        start, end = boxes[source], boxes[target]
        x1 = start.left + start.width * (1 + [name for _, name in leaving].index(target)) / (1 + len(leaving))
        x2 = end.left + end.width * (1 + [name for _, name in arriving].index(source)) / (1 + len(arriving))
        curves.append(_arrow(x1, start.top + start.height, x2, end.top))
    return curves


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    middle = (y1 + y2) / 2
    return f'<path d="M{x1:.0f},{y1:.0f} C{x1:.0f},{middle:.0f} {x2:.0f},{middle:.0f} {x2:.0f},{y2:.0f}"/>'


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.0f}" y="{y:.0f}"{attribute}>{html.escape(text)}</text>'


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PICTURE.write_text(draw(), encoding="utf-8")
    print(PICTURE.relative_to(ROOT))
