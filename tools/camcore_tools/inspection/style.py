"""The looks of the page of `camcore inspect`."""

__all__ = ["STYLE"]

STYLE = """
:root {
  --ground: #f6f7f9; --card: #fff; --text: #1a2230; --faint: #5b6678; --line: #dfe3ea; --soft: #eef1f5;
  --accent: #c2410c; --head: #1d4ed8; --cam: #7e22ce; --trunk: #8a94a6; --good: #15803d; --bad: #c81e2d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #0d1117; --card: #161c26; --text: #e4e9f1; --faint: #97a3b6; --line: #2a3342; --soft: #1f2733;
    --accent: #fb923c; --head: #7aa2ff; --cam: #c99bff; --trunk: #6b778c; --good: #4ade80; --bad: #f87171;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1320px; margin: 0 auto; padding: clamp(1.2rem, 3.5vw, 3rem) clamp(0.9rem, 2.5vw, 2rem); }
h1 { font-size: clamp(1.5rem, 4.2vw, 2.4rem); line-height: 1.15; letter-spacing: -0.02em; margin: 0 0 0.5rem;
  overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; letter-spacing: -0.01em; margin: 0 0 0.7rem; }
p { margin: 0 0 0.8rem; color: var(--faint); max-width: 78ch; overflow-wrap: anywhere; }
b, strong { color: var(--text); font-weight: 600; }
code, .mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: 0.9em; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 0.7rem;
  margin: 1.3rem 0 0; }
.figures div { display: flex; flex-direction: column-reverse; justify-content: flex-end; background: var(--card);
  border: 1px solid var(--line); border-radius: 12px; padding: 0.75rem 0.95rem; }
.figures dd { margin: 0; font-size: 1.45rem; font-weight: 650; letter-spacing: -0.02em; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.figures dt { font-size: 0.82rem; line-height: 1.4; color: var(--faint); margin-top: 0.15rem; }
.verdict { border-left: 4px solid var(--good); background: var(--card); border-radius: 4px 12px 12px 4px;
  padding: 0.75rem 1rem; margin: 1.1rem 0 0; color: var(--text); max-width: none; }
.verdict.partly { border-color: var(--accent); }
.verdict.obstacle { border-color: var(--bad); }
.columns { display: grid; grid-template-columns: minmax(0, 6fr) minmax(0, 7fr); gap: 1.1rem; margin-top: 1.1rem;
  align-items: start; }
header + .card { margin-top: 1.1rem; }
table.methods { table-layout: fixed; }
table.methods th:nth-child(2) { width: 6.5rem; }
table.methods th:nth-child(3) { width: 36%; }
.stack { display: grid; gap: 1.1rem; grid-template-columns: minmax(0, 1fr); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 1.05rem 1.15rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
th, td { text-align: left; padding: 0.36rem 0.9rem 0.36rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
th { color: var(--faint); font-weight: 500; font-size: 0.82rem; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.key { color: var(--faint); white-space: nowrap; }
td.entry { min-width: 9.5rem; }
td.nowrap, .nowrap { white-space: nowrap; }
tr.chosen td:first-child { box-shadow: inset 3px 0 var(--accent); padding-left: 0.6rem; }
.faint { color: var(--faint); }
.bar { display: block; height: 7px; border-radius: 4px; background: var(--soft); min-width: 70px;
  margin-top: 0.45rem; }
.bar i { display: block; height: 100%; border-radius: 4px; background: var(--accent); }
.no { color: var(--bad); font-weight: 600; }
.tag { display: inline-block; font-size: 0.78rem; padding: 0.05rem 0.5rem; border-radius: 99px; background: var(--soft);
  color: var(--faint); white-space: nowrap; }
details { margin-top: 0.6rem; color: var(--faint); font-size: 0.9rem; }
summary { cursor: pointer; color: var(--text); }
details p { margin: 0.4rem 0 0; }
ul.plain { list-style: none; margin: 0.7rem 0 0; padding: 0; color: var(--faint); font-size: 0.9rem; }
ul.plain li { margin: 0.2rem 0; }
.legend { display: flex; flex-wrap: wrap; gap: 0.3rem 1rem; margin: 0 0 0.8rem; font-size: 0.84rem;
  color: var(--faint); }
.legend span::before { content: ""; display: inline-block; width: 11px; height: 11px; border-radius: 3px;
  margin-right: 0.4rem; vertical-align: -1px; background: var(--swatch); }
.drawing svg { display: block; margin: 0 auto; height: auto; }
.drawing text { font: 11px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  fill: var(--faint); }
.box rect { fill: var(--card); stroke: var(--line); stroke-width: 1.4; }
.drawing .box text.op { font: 600 13px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif;
  fill: var(--text); }
.drawing .box text.macs { font-size: 10px; text-anchor: end; }
.drawing .box text.weight { fill: var(--text); }
.box rect.stripe { stroke: none; fill: var(--trunk); }
.box.head rect { stroke: var(--head); fill: color-mix(in srgb, var(--head) 7%, var(--card)); }
.box.head rect.stripe { fill: var(--head); }
.box.cam rect { stroke: var(--cam); fill: color-mix(in srgb, var(--cam) 7%, var(--card)); }
.box.cam rect.stripe { fill: var(--cam); }
.box.front rect { stroke-dasharray: 5 4; fill: var(--soft); stroke: var(--trunk); }
.box.input rect, .box.output rect { fill: var(--soft); stroke: var(--trunk); }
.box.front text, .box.input text, .box.output text { text-anchor: middle; }
.edge path { fill: none; stroke: var(--trunk); stroke-width: 1.4; }
.edge path.head { fill: var(--trunk); stroke: none; }
.edge.features path { stroke: var(--accent); stroke-width: 2.4; }
.edge.features path.head { fill: var(--accent); stroke: none; }
.edge.scores path { stroke: var(--head); stroke-width: 2; }
.edge.scores path.head { fill: var(--head); stroke: none; }
.drawing text.shape { paint-order: stroke; stroke: var(--card); stroke-width: 4px; stroke-linejoin: round; }
.drawing text.shape.features { fill: var(--accent); font-weight: 700; }
.drawing text.shape.scores { fill: var(--head); font-weight: 700; }
footer { margin-top: 1.6rem; font-size: 0.84rem; color: var(--faint); }
@media (max-width: 900px) { .columns { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 560px) {
  .figures { grid-template-columns: repeat(2, 1fr); }
  .figures dd { font-size: 1.2rem; }
  .card { padding: 0.9rem 0.85rem; }
  .wide { display: none; }
  table.methods th { white-space: normal; }
  table.methods th:nth-child(2) { width: 4.6rem; }
}
@media print { body { background: #fff; } .card { break-inside: avoid; } }
"""
