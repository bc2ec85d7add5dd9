"""Parts of an HTML page that needs nothing beside itself; for reports and for the comparison of runs.

It is light or dark as its reader's system is, and fits on a phone. Arguments are plain texts, but for `parts`, which
are HTML.
"""

import base64
import html
from string import Template
from typing import Iterable, NamedTuple, Sequence, Tuple, Union

from paddleseg.utils.files import atomic_path

_PAGE = Template(r"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title><link rel="icon" href="data:,">
<style>
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #595959; --paper: #fafafa; --card: #fff; --line: #ddd;
  --right: 0 114 178; --wrong: 213 94 0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --soft: #a8a8a8; --paper: #141517; --card: #1e2023;
  --line: #383b40; --right: 38 118 180; --wrong: 190 84 10; } }
* { box-sizing: border-box; }
body { font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 12px; max-width: 1160px; color: var(--ink);
  background: var(--paper); }
h1 { font-size: 1.4rem; margin: .3em 0; } h2 { font-size: 1.15rem; margin: 1.8em 0 .4em; }
h3 { font-size: 1rem; margin: 1.2em 0 .3em; overflow-wrap: anywhere; } p { margin: .4em 0; max-width: 75ch;
  overflow-wrap: anywhere; }
.soft, figcaption { color: var(--soft); font-size: .88rem; }
.wide { overflow: auto; max-height: 80vh; }
table { border-collapse: collapse; background: var(--card); font-size: .9rem; }
th, td { padding: 4px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--card); z-index: 1;
  white-space: normal; max-width: 18em; overflow-wrap: break-word; }
thead th { font-weight: 600; vertical-align: bottom; position: sticky; top: 0; background: var(--card); z-index: 1; }
thead th:first-child { z-index: 2; }
tbody th { font-weight: 400; }
.right, .wrong { padding: 3px 5px; min-width: 2.1em; text-align: center; font-size: .8rem; }
.right { background: rgb(var(--right) / calc(var(--v) * 1%)); }
.wrong { background: rgb(var(--wrong) / calc(var(--v) * 1%)); }
.deep { color: #fff; }
#matrix thead th:not(:first-child) { writing-mode: vertical-rl; transform: rotate(180deg); padding: 6px 2px;
  text-align: left; }
.numbers { display: flex; flex-wrap: wrap; gap: 8px; margin: .8em 0; }
.numbers div { background: var(--card); border: 1px solid var(--line); padding: 6px 12px; }
.numbers b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 12px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); min-width: 0; }
body > figure { width: fit-content; margin-top: 10px; }
figure img { max-width: 100%; height: auto; display: block; }
@media (prefers-color-scheme: dark) { img.chart { filter: invert(.88) hue-rotate(180deg); } }
figcaption { padding: 4px 10px 8px; overflow-wrap: anywhere; }
.panels { display: grid; grid-template-columns: repeat(4, 1fr); gap: 6px; }
figure img.photo, figure img.flat { width: 100%; }
.panels .flat { image-rendering: pixelated; }
@media (max-width: 700px) { .panels { grid-template-columns: repeat(2, 1fr); } table { font-size: .76rem; }
  th, td { padding: 3px; } th:first-child { max-width: 8.5em; }
  .numbers div { flex: 1; padding: 4px 8px; } .numbers b { font-size: 1.05rem; } }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: .88rem; margin: .5em 0;
  max-height: 40vh; overflow: auto; overflow-wrap: anywhere; }
.legend span { display: flex; align-items: baseline; }
.legend span::before { content: ""; flex: none; width: .9em; height: .9em; margin-right: .4em;
  vertical-align: -.08em; background: var(--fill); border: 1px solid var(--line); }
pre { background: var(--card); border: 1px solid var(--line); padding: 10px; overflow-x: auto; font-size: .8rem; }
summary { cursor: pointer; }
@media print { .wide { max-height: none; } }
</style></head><body>
<h1>$title</h1>
$body
</body></html>
""")


def write(path: str, title: str, parts: Iterable[str]) -> None:
    """Write the whole page to a file."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(_PAGE.substitute(title=html.escape(title), body="\n".join(parts)))


def section(title: str, note: str, *parts: str) -> str:
    return "\n".join([f"<h2>{html.escape(title)}</h2>", f'<p class="soft">{html.escape(note)}</p>' if note else "",
                      *parts])


class Cell(NamedTuple):
    """Coloured cell of a table: its text, a tooltip, its strength in percent, its hue."""

    text: str
    title: str
    percent: float
    is_right: bool = True


def table(heads: Sequence[str], rows: Iterable[Sequence[Union[str, Cell]]], name: str) -> str:
    """A table; the first cell of a row is its head, `name` is the table's id."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "\n".join(f"<tr><th>{html.escape(row[0])}</th>{''.join(map(_cell, row[1:]))}</tr>" for row in rows)
    return (f'<div class="wide"><table id="{name}"><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>'
            "</div>")


def _cell(cell: Union[str, Cell]) -> str:
    if isinstance(cell, str):
        return f"<td>{html.escape(cell)}</td>"
    kind = ("right deep" if cell.percent > 85 else "right") if cell.is_right else "wrong"
    return (f'<td class="{kind}" style="--v:{cell.percent:.3g}" title="{html.escape(cell.title)}">'
            f"{html.escape(cell.text)}</td>")


def numbers(pairs: Iterable[Tuple[str, str]]) -> str:
    """Values in large type: (name, value)."""
    return '<div class="numbers">' + "".join(f"<div>{html.escape(name)}<b>{html.escape(value)}</b></div>"
                                             for name, value in pairs) + "</div>"


def figure(file: bytes, caption: str, style: str) -> str:
    """A picture, the content of a PNG or JPEG file; `style` is chart, photo, or flat for what has few colours."""
    kind = "png" if file.startswith(b"\x89PNG") else "jpeg"
    caption = html.escape(caption)
    return (f'<figure><img class="{style}" alt="{caption}" src="data:image/{kind};base64,'
            f'{base64.b64encode(file).decode()}"><figcaption>{caption}</figcaption></figure>')


def legend(entries: Iterable[Tuple[str, str]]) -> str:
    """Colours by name: (name, CSS colour)."""
    return '<div class="legend">' + "".join(f'<span style="--fill:{color}">{html.escape(name)}</span>'
                                            for name, color in entries) + "</div>"
