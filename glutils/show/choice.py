"""Pictures to choose among, by name and by strength, in a page without a server; every one of them without script."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .. import _validate
from .._png import encode as png
from .figures import check_text, emit
from .frames import html_id, image_tag, montage, slider_tag, width_of
from .images import Pictures, stack

# On input of any control: the frames of the chosen names, and of these the one of the slider's number; hide the others.
# Where another choice has more or fewer frames, the slider keeps its place from left to right.
_ON_INPUT = (
    "var f=this.closest('figure'),r=f.querySelector('input[type=range]'),"
    "k=Array.from(f.querySelectorAll('select,input[type=radio]:checked')).map(function(e){return e.value}).join('-'),"
    "a=Array.from(f.querySelectorAll('[data-frame]')),m=a.filter(function(e){return e.dataset.frame===k}),"
    "i=Math.round(r.value/r.max*(m.length-1));"
    "r.max=m.length-1;r.value=i;a.forEach(function(e){e.hidden=e!==m[i]});"
    "var t=m[i].querySelector('img').alt;r.setAttribute('aria-valuetext',t);"
    "if(this!==r)f.querySelector('[role=status]').textContent=t"
)
_UNSEEN = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap"


@dataclass(frozen=True)
class Frame:
    """One picture with what belongs to it.

    Attributes:
        png: the bytes of a PNG file.
        alt: what a reader who does not see it must know; not empty.
        title: the line above it.
        bars: numbers below it, each as (label, share of the full bar from 0 to 1, text).
        width: CSS pixels, on screens that have them.
    """

    png: bytes
    alt: str
    title: str
    bars: tuple[tuple[str, float, str], ...] = ()
    width: int = 320

    def __post_init__(self) -> None:
        if not isinstance(self.png, bytes) or not self.png.startswith(b"\x89PNG"):
            raise TypeError("png must be the bytes of a PNG file")
        check_text("alt", self.alt)
        check_text("title", self.title)
        for label, share, text in self.bars:
            check_text("a bar's label", label)
            check_text("a bar's text", text)
            _validate.number(f"bar {label!r}", share, at_least=0, at_most=1)

    @property
    def html(self) -> str:
        """The frame as HTML."""
        bars = "".join(
            f'<div style="display:flex;gap:.6em;align-items:center;flex-wrap:wrap;margin-top:.3em">'
            f'<meter min="0" max="1" value="{share:.3f}" aria-label="{html.escape(label)}" '
            f'style="width:8em;height:1em"></meter><span>{html.escape(label)}: {html.escape(text)}</span></div>'
            for label, share, text in self.bars
        )
        title = f'<div style="font-weight:bold;margin:.4em 0">{html.escape(self.title)}</div>'
        return f"{title}{image_tag(self.png, self.alt, self.width)}{bars}"


def frame(
    images: Pictures, truth: Pictures, *, title: str, said: str, bars: Iterable[tuple[str, float, str]] = ()
) -> Frame:
    """A frame with images above the truth (or left of it, if it is one image).

    Args:
        images: a Reconstruction or a stack (B, 1 or 3, H, W), in the order of ``truth``.
        truth: the private `Batch` or images.
        title: the line above. said: its alt text. bars: as in :class:`Frame`.
    """
    picture = montage(stack("images", images), stack("truth", truth))
    return Frame(png(picture), said, title, tuple(bars), width_of(picture))


def choice(
    frames: Mapping[tuple[str, ...], Sequence[Frame]],
    *,
    name: str,
    axes: Sequence[str],
    label: str,
    caption: str | None = None,
) -> None:
    """Display pictures to choose among: names on one or more axes, then a slider. Arguments as in `choice_html`."""
    page = choice_html(frames, name=name, axes=axes, label=label, caption=caption)
    plain = "\n".join(f"{', '.join(key)}: {one.alt}" for key, series in frames.items() for one in series)
    emit({"text/html": page, "text/plain": plain})


def choice_html(
    frames: Mapping[tuple[str, ...], Sequence[Frame]],
    *,
    name: str,
    axes: Sequence[str],
    label: str,
    caption: str | None = None,
) -> str:
    """HTML of a figure in which a reader chooses names and moves a slider; it works from a file, with no network.

    Everything is in the page itself. All controls are the browser's own, so the keyboard moves them. Without script
    the figure shows every frame, one after the other, with its names and its title.

    Args:
        frames: names, one on each axis, to a list of :class:`Frame`, such as
            ``{("Gaussian noise", "adaptive"): [...], ...}``; every combination of the names that occur. The first
            entry and its first frame are shown first.
        name: what its ids are made of: lower-case letters, digits and hyphens, once per page.
        axes: the axes' labels. The first is a list to select from, the others are buttons.
        label: what the slider moves through.
        caption: the line below.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    ident = f"frames-{html_id(name)}"
    _validate.instance("frames", frames, Mapping)
    if not isinstance(axes, Sequence) or isinstance(axes, str) or not axes:
        raise TypeError(f"axes must be a list of labels, got {axes!r}")
    for key, series in frames.items():
        if not isinstance(key, tuple) or len(key) != len(axes):
            raise ValueError(f"frames must have one name for each of {len(axes)} axes as keys, got {key!r}")
        if not isinstance(series, Sequence) or len(series) < 2 or not all(isinstance(one, Frame) for one in series):
            raise TypeError(f"frames[{key!r}] must be a list of two or more Frames")
    options = [list(dict.fromkeys(key[i] for key in frames)) for i in range(len(axes))]
    lacking = [key for key in itertools.product(*options) if key not in frames]
    if lacking or not frames:
        raise ValueError(f"frames must hold every combination of its names, lacks {lacking[:1] or 'all'}")
    numbers = {key: "-".join(str(o.index(k)) for o, k in zip(options, key, strict=True)) for key in frames}
    first = next(iter(frames))
    shown = "\n".join(
        f'<div data-frame="{numbers[key]}"{"" if (key, i) == (first, 0) else " hidden"}>'
        f"<div hidden>{html.escape(', '.join(key))}</div>{one.html}</div>"
        for key, series in frames.items()
        for i, one in enumerate(series)
    )
    controls = "\n".join(_control(ident, i, check_text("an axis", axis), options[i]) for i, axis in enumerate(axes))
    series = frames[first]
    slider = slider_tag(ident, check_text("label", label), len(series) - 1, 0, series[0].alt, 320, _ON_INPUT)
    below = "" if caption is None else f"\n<figcaption>{html.escape(check_text('caption', caption))}</figcaption>"
    return (
        f'<figure id="{ident}" style="margin:1em 0;max-width:100%">\n<div data-controls="">\n{controls}\n{slider}\n'
        f'</div>\n<div data-all="" style="margin-top:.6em">\n{shown}\n</div>\n'
        f'<div role="status" style="{_UNSEEN}"></div>'
        f"<noscript><style>#{ident} [data-controls]{{display:none}}#{ident} [data-all]{{display:grid;gap:1.5em;"
        f"grid-template-columns:repeat(auto-fill,minmax(16em,1fr))}}#{ident} [hidden]{{display:block!important}}"
        f"</style></noscript>{below}\n</figure>"
    )


def _control(ident: str, axis: int, label: str, options: Sequence[str]) -> str:
    """A list to select from for the first axis, buttons for the others."""
    event, label = html.escape(_ON_INPUT), html.escape(label)
    if axis == 0:
        entries = "".join(
            f'<option value="{k}"{" selected" if k == 0 else ""}>{html.escape(option)}</option>'
            for k, option in enumerate(options)
        )
        return (
            f'<label for="{ident}-0" style="display:block">{label}</label>\n<select id="{ident}-0" autocomplete="off" '
            f'style="font:inherit;padding:.2em;max-width:100%" data-lm-suppress-shortcuts="true" oninput="{event}">'
            f"{entries}</select>"
        )
    buttons = "".join(
        f'<label style="display:inline-block;margin-right:1em;min-height:1.6em"><input type="radio" '
        f'name="{ident}-{axis}" value="{k}" autocomplete="off"{" checked" if k == 0 else ""} '
        f'data-lm-suppress-shortcuts="true" oninput="{event}"> {html.escape(option)}</label>'
        for k, option in enumerate(options)
    )
    return (
        f'<fieldset style="border:0;padding:0;margin:.5em 0 0"><legend style="font-size:1em;margin:0">{label}</legend>'
        f"{buttons}</fieldset>"
    )
