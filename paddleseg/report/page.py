"""Parts of an HTML page that needs nothing beside itself; for reports and for the comparison of runs.

It is light or dark as its reader's system is, and fits on a phone.
"""

import html
import math
from string import Template
from typing import Iterable, List, NamedTuple, Sequence, Tuple

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 480, 270, 62, 40, 12  # of a chart, in its own units
LINE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#3d9fd6", "#7a5cc0", "#808080")

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
.heat td { padding: 3px 5px; min-width: 2.1em; text-align: center; font-size: .8rem; cursor: default;
  background: rgb(var(--wrong) / calc(var(--v, 0) * 1%)); }
.heat td.hit { background: rgb(var(--right) / calc(var(--v, 0) * 1%)); }
.heat td.deep { color: #fff; }
.heat td:hover, .heat td:focus { outline: 2px solid var(--ink); outline-offset: -2px; }
#matrix thead th:not(:first-child) { writing-mode: vertical-rl; transform: rotate(180deg); padding: 6px 2px;
  text-align: left; }
.said { min-height: 1.5em; font-size: .9rem; }
.numbers { display: flex; flex-wrap: wrap; gap: 8px; margin: .8em 0; }
.numbers div { background: var(--card); border: 1px solid var(--line); padding: 6px 12px; }
.numbers b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: 3px 10px; align-items: center;
  font-size: .9rem; max-width: 760px; }
.bars i { display: block; height: .95em; background: var(--line); }
.bars i::before { content: ""; display: block; height: 100%; width: calc(var(--v, 0) * 1%); background: var(--fill); }
.bars b { font-weight: 400; font-variant-numeric: tabular-nums; text-align: right; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 12px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); min-width: 0; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { padding: 4px 10px 8px; overflow-wrap: anywhere; }
.panels { display: grid; grid-template-columns: repeat(4, 1fr); gap: 6px; }
.panels img { width: 100%; height: auto; display: block; }
.panels .flat { image-rendering: pixelated; }
@media (max-width: 700px) { .panels { grid-template-columns: repeat(2, 1fr); } table { font-size: .76rem; }
  th, td { padding: 3px; } th:first-child { max-width: 8.5em; }
  .bars { font-size: .8rem; }
  .numbers div { flex: 1; padding: 4px 8px; } .numbers b { font-size: 1.05rem; } }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: .88rem; margin: .5em 0;
  max-height: 40vh; overflow: auto; overflow-wrap: anywhere; }
.legend span { display: flex; align-items: baseline; }
.legend span::before { content: ""; flex: none; width: .9em; height: .9em; margin-right: .4em;
  vertical-align: -.08em; background: var(--fill); border: 1px solid var(--line); }
svg text { fill: var(--soft); font: 13px system-ui, sans-serif; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
pre { background: var(--card); border: 1px solid var(--line); padding: 10px; overflow-x: auto; font-size: .8rem; }
summary { cursor: pointer; }
@media print { .wide { max-height: none; } }
</style></head><body>
<h1>$title</h1>
$body
<script>
// A phone has no pointer that hovers, so a touched cell says in words under its table what a hovered one shows.
for (const table of document.querySelectorAll("table.heat")) {
  const heads = [...table.tHead.rows[0].cells], said = document.getElementById(table.dataset.said);
  const say = event => {
    const cell = event.target.closest("td");
    if (!cell) return;
    const values = {row: cell.parentNode.cells[0].textContent, column: heads[cell.cellIndex].textContent,
      count: (+cell.dataset.n).toLocaleString("en"), share: cell.dataset.share || cell.textContent};
    cell.title = table.dataset.words.replace(/\{(\w+)\}/g, (_, name) => values[name]);
    said.textContent = cell.title;
  };
  table.addEventListener("pointerover", say);
  table.addEventListener("click", say);
}
</script>
</body></html>
""")


def page(title: str, parts: Iterable[str]) -> str:
    """The whole page; `parts` are HTML."""
    return _PAGE.substitute(title=html.escape(title), body="\n".join(parts))


def section(title: str, note: str, *parts: str) -> str:
    return "\n".join([f"<h2>{html.escape(title)}</h2>", f'<p class="soft">{html.escape(note)}</p>' if note else "",
                      *parts])


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], name: str) -> str:
    """A table of texts; `name` is its id."""
    return _table(heads, ((row[0], [f"<td>{html.escape(cell)}</td>" for cell in row[1:]]) for row in rows),
                  f'id="{name}"')


class Cell(NamedTuple):
    """Of a heat map: its text, its strength in percent, the number and the share that are said of it, its hue."""

    text: str
    percent: float
    count: int
    share: str = ""
    is_hit: bool = True


def heat_map(heads: Sequence[str], rows: Iterable[Tuple[str, Sequence[Cell]]], name: str, words: str) -> str:
    """A table of coloured cells.

    Args:
        words: what is said of a cell, with {row}, {column}, {count} and {share} (the text, if it is empty).
    """
    body = ((row, [_heat_cell(cell) for cell in cells]) for row, cells in rows)
    return (_table(heads, body, f'id="{name}" class="heat" data-said="{name}-said" data-words="{html.escape(words)}"')
            + f'\n<p class="said soft" id="{name}-said">Point at a cell, or touch it.</p>')


def _heat_cell(cell: Cell) -> str:
    kinds = ("hit deep" if cell.percent > 85 else "hit") if cell.is_hit else ""
    mark = f' class="{kinds}"' if kinds else ""
    share = f' data-share="{html.escape(cell.share)}"' if cell.share else ""
    strength = f' style="--v:{cell.percent:.3g}"' if cell.percent >= 0.05 else ""
    return f'<td{mark}{strength} data-n="{cell.count}"{share}>{html.escape(cell.text)}</td>'


def _table(heads: Sequence[str], rows: Iterable[Tuple[str, Sequence[str]]], attributes: str) -> str:
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "\n".join(f"<tr><th>{html.escape(first)}</th>{''.join(cells)}</tr>" for first, cells in rows)
    return (f'<div class="wide"><table {attributes}><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>'
            "</div>")


def numbers(pairs: Iterable[Tuple[str, str]]) -> str:
    """A row of (name, value)."""
    return '<div class="numbers">' + "".join(f"<div>{html.escape(name)}<b>{html.escape(value)}</b></div>"
                                             for name, value in pairs) + "</div>"


def bars(rows: Iterable[Tuple[str, float, str]], color: str = "rgb(var(--right))") -> str:
    """A bar for each (name, 0..1 or NaN, text)."""
    lines = [f'<span>{html.escape(name)}</span><i style="--v:{0 if math.isnan(value) else 100 * value:.2f};'
             f'--fill:{color}"></i><b>{html.escape(text)}</b>' for name, value, text in rows]
    return '<div class="wide"><div class="bars">' + "\n".join(lines) + "</div></div>"


def legend(entries: Iterable[Tuple[str, str]]) -> str:
    """Of (name, CSS colour)."""
    return '<div class="legend">' + "".join(f'<span style="--fill:{color}">{html.escape(name)}</span>'
                                            for name, color in entries) + "</div>"


class Line(NamedTuple):
    """A curve of a chart: (x, y) points, its colour and its SVG dashes ("" for none)."""

    name: str
    points: Sequence[Tuple[float, float]]
    color: str
    dashes: str = ""


def line_chart(caption: str, lines: Sequence[Line], x_label: str) -> str:
    """A <figure> of lines over common axes, x from 0; a line of one point is a dot. Values must be finite."""
    points = [point for line in lines for point in line.points]
    x_ticks, y_ticks = ticks(0, max(x for x, _ in points)), ticks(*_ends([y for _, y in points]))
    right, bottom = _WIDTH - 26, _HEIGHT - _BOTTOM

    def across(x: float) -> float:
        return _LEFT + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (right - _LEFT)

    def down(y: float) -> float:
        return bottom - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - _TOP)

    parts = [f'<path class="grid" d="M{_LEFT} {down(y):.1f}H{right}"/><text x="{_LEFT - 6}" y="{down(y) + 4:.1f}" '
             f'text-anchor="end">{y:.6g}</text>' for y in y_ticks]
    parts += [f'<text x="{across(x):.1f}" y="{bottom + 16}" text-anchor="middle">{x:.6g}</text>' for x in x_ticks]
    parts.append(f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 5}" text-anchor="middle">{html.escape(x_label)}'
                 "</text>")
    for line in lines:
        path = "L".join(f"{across(x):.1f} {down(y):.1f}" for x, y in line.points)
        dot = "h0" if len(line.points) == 1 else ""
        width = ';stroke-width:6;stroke-linecap:round' if dot else ""
        dashes = f' stroke-dasharray="{line.dashes}"' if line.dashes else ""
        parts.append(f'<path class="line" style="stroke:{line.color}{width}"{dashes} d="M{path}{dot}">'
                     f"<title>{html.escape(line.name)}</title></path>")
    return (f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(caption)}">'
            + "".join(parts) + f"</svg><figcaption>{html.escape(caption)}</figcaption></figure>")


def _ends(values: Sequence[float]) -> Tuple[float, float]:
    return min(values), max(values)


def ticks(low: float, high: float, most: int = 6) -> List[float]:
    """Round numbers, evenly spread, from at most `low` to at least `high`."""
    if high <= low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    scale = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (scale, 2 * scale, 5 * scale, 10 * scale, 20 * scale):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= most:
            break
    return [number * step for number in range(first, last + 1)]


def thinned(points: Sequence[Tuple[float, float]], most: int = 500) -> List[Tuple[float, float]]:
    """The points, or `most` means of neighbours where they are more."""
    size = -(-len(points) // most)
    groups = (points[start:start + size] for start in range(0, len(points), size)) if size else ()
    return [tuple(sum(values) / len(group) for values in zip(*group)) for group in groups]
