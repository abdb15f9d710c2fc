"""A figure as SVG to be set into a page: small, in the page's own colours, its texts as text.

Colours become the page's variables (`paints`), so that a figure follows it into the dark; black is
the page's ink, and what is behind a figure is the page. Marks that would take more room than a
picture of them (hundreds of curves, thousands of dots) are such a picture inside the SVG; axes,
texts and what stands out stay lines.
"""

from __future__ import annotations

import base64
import colorsys
import io
import re
from collections.abc import Iterable
from xml.etree import ElementTree

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image  # matplotlib stands on it

ROOM = 60_000
"""Bytes of a figure's marks; layers of them (what is drawn at one height) that would take more are
pictures, the largest first."""
VERTEX, MARK, ARTIST = 16, 48, 240
"""Bytes of a point of a line, of a mark, and of what is around each line."""
DPI, COLOURS = 160, 128
NAMESPACE = re.compile(r"\{[^}]*\}")
COLOUR = re.compile(r"#([0-9a-f]{6})\b")
PAINT = re.compile(r"var\(--c([0-9a-f]{6})\)")
REFERENCE = re.compile(r"(?<=#)[\w.:-]+")
DECIMALS = re.compile(r"(\.\d\d)\d+")
FONT = re.compile(r"font-family:[^;]*;?\s*")
TURNED_BY_NOTHING = re.compile(r"rotate\(-?0 [^)]*\)")
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
INK = "#000000"
UNSAID = {"Date": None, "Creator": None, "Format": None, "Type": None}


def svg(figure: Figure, name: str, alt: str) -> str:
    """Return a figure as an `svg` element; name: of its ids, unlike any other's on the page.

    alt: what it shows, for those who cannot see it.
    """
    rasterise(figure)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    figure.patch.set_visible(False)
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "hlvnn"}):
        figure.savefig(buffer, format="svg", dpi=DPI, bbox_inches="tight", metadata=UNSAID)
    root = ElementTree.fromstring(CONTROL.sub("\N{REPLACEMENT CHARACTER}", buffer.getvalue()))
    drawn = ElementTree.Element(
        "svg",
        {"class": "figure", "role": "img", "aria-label": alt, "viewBox": root.get("viewBox", "")},
    )
    referred = {found for one in root.iter() for found in _references(one)}
    _copy(root, drawn, referred, name)
    return ElementTree.tostring(drawn, encoding="unicode")


def rasterise(figure: Figure) -> None:
    """Let layers that hold too many marks be drawn as pictures."""
    layers: dict[tuple[int, float], list[Artist]] = {}
    for place, axes in enumerate(figure.axes):
        for artist in (*axes.lines, *axes.collections):
            layers.setdefault((place, artist.get_zorder()), []).append(artist)
    sizes = {key: sum(map(_size, layer)) for key, layer in layers.items()}
    left = sum(sizes.values())
    for key in sorted(sizes, key=lambda key: -sizes[key]):
        if left <= ROOM:
            return
        left -= sizes[key]
        for artist in layers[key]:
            artist.set_rasterized(True)


def _size(artist: Artist) -> int:
    """Return about how many bytes an artist takes."""
    if isinstance(artist, Line2D):
        each = VERTEX if artist.get_marker() in ("None", "none", "", " ", None) else MARK
        return ARTIST + each * len(np.asarray(artist.get_xdata()))
    if isinstance(artist, PathCollection):
        return ARTIST + MARK * len(artist.get_offsets())  # type: ignore[arg-type]
    if isinstance(artist, LineCollection):
        return sum(ARTIST + VERTEX * len(one) for one in artist.get_segments())
    return ARTIST


def _copy(
    old: ElementTree.Element, new: ElementTree.Element, referred: set[str], name: str
) -> None:
    """Append what is in `old` to `new`, without what a page has no use for."""
    for child in old:
        tag = NAMESPACE.sub("", str(child.tag))
        if tag in ("style", "metadata"):
            continue
        kept = _attributes(child, referred, name)
        if tag == "g" and not kept:
            _copy(child, new, referred, name)
            continue
        copied = ElementTree.SubElement(new, tag, kept)
        if tag in ("text", "tspan"):
            copied.text = child.text if tag == "tspan" or not len(child) else None
        _copy(child, copied, referred, name)
        _say_once(copied)
        if tag == "defs" and not len(copied):
            new.remove(copied)


def _say_once(group: ElementTree.Element) -> None:
    """Move the style that all marks of a group have to the group."""
    styles = {one.get("style") for one in group}
    if len(group) > 1 and len(styles) == 1 and {one.tag for one in group} == {"use"}:
        style = styles.pop()
        if style and "style" not in group.attrib:
            group.set("style", style)
            for one in group:
                del one.attrib["style"]


def _attributes(element: ElementTree.Element, referred: set[str], name: str) -> dict[str, str]:
    kept = {}
    for key, value in element.items():
        key = NAMESPACE.sub("", key)
        if key == "id":
            if value in referred:
                kept["id"] = f"{name}-{value}"
        elif key == "href" and value.startswith("data:"):
            kept[key] = _fewer_colours(value)
        elif key == "href" or value.startswith("url(#"):
            kept[key] = value.replace("#", f"#{name}-", 1)
        elif key == "style":
            kept[key] = painted(FONT.sub("", value)).strip("; ").replace("; ", ";")
        else:
            value = TURNED_BY_NOTHING.sub("", " ".join(value.split()))
            kept[key] = DECIMALS.sub(r"\1", value)
    return {key: value for key, value in kept.items() if value}


def _fewer_colours(address: str) -> str:
    """Return a picture's data address with a third of the bytes: marks have few colours."""
    kind, _, data = address.partition(",")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    buffer = io.BytesIO()
    few = picture.quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(buffer, "PNG", optimize=True)
    return f"{kind},{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _references(element: ElementTree.Element) -> Iterable[str]:
    for key, value in element.items():
        if not value.startswith("data:") and NAMESPACE.sub("", key) != "style":
            yield from REFERENCE.findall(value)


def painted(style: str) -> str:
    """Return a style with the page's variables in place of colours."""
    return COLOUR.sub(r"var(--c\1)", style.replace(INK, "currentColor"))


def paints(page: str) -> str:
    """Return the CSS of the colours that a page's figures use, in the light and in the dark."""
    used = sorted(set(PAINT.findall(page)))
    light = "".join(f"--c{one}:#{one};" for one in used)
    dark = "".join(f"--c{one}:{in_the_dark(one)};" for one in used)
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme: dark){{:root{{{dark}}}}}\n"


def in_the_dark(colour: str) -> str:
    """Return what a colour ("0072b2") is on a dark page: the same hue, as light as it was dark."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4))
    hue, light, strong = colorsys.rgb_to_hls(red, green, blue)
    turned = colorsys.hls_to_rgb(hue, 0.1 + 0.84 * (1 - light), 0.85 * strong)
    return "#" + "".join(f"{round(255 * one):02x}" for one in turned)
