"""The looks of the demo's page."""

__all__ = ["STYLE"]

STYLE = """
:root {
  --ground: #f6f7f9; --card: #fff; --text: #1a2230; --faint: #5b6678; --line: #dfe3ea;
  --accent: #c2410c; --good: #15803d; --bad: #c81e2d; --code: #eef1f5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #0d1117; --card: #161c26; --text: #e4e9f1; --faint: #97a3b6; --line: #2a3342;
    --accent: #fb923c; --good: #4ade80; --bad: #f87171; --code: #10161f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: clamp(1.2rem, 4vw, 3.5rem) clamp(1rem, 3vw, 2rem); }
h1 { font-size: clamp(1.8rem, 5vw, 2.8rem); line-height: 1.15; letter-spacing: -0.02em; margin: 0 0 0.6rem; }
h2 { font-size: 1.35rem; letter-spacing: -0.01em; margin: 0 0 0.4rem; }
p { margin: 0 0 1rem; color: var(--faint); max-width: 72ch; }
.lead { font-size: 1.08rem; }
section { margin-top: clamp(2.2rem, 5vw, 3.4rem); }
img { display: block; width: 100%; height: auto; }
figure { margin: 0; }
figcaption { font-size: 0.85rem; color: var(--faint); padding: 0.4rem 0.6rem 0.5rem; }
b { color: var(--text); font-weight: 600; font-variant-numeric: tabular-nums; }
.figures {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 0.8rem; margin: 1.6rem 0 0;
}
.figures div {
  display: flex; flex-direction: column; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; padding: 0.9rem 1rem;
}
.figures dd { margin: 0; font-size: 1.75rem; font-weight: 650; letter-spacing: -0.02em; color: var(--accent); }
.figures dt { font-size: 0.85rem; line-height: 1.4; color: var(--faint); }
.film { max-width: 100%; border-radius: 12px; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: 0.8rem; }
.gallery figure, .strips figure, .looks figure {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; overflow: hidden;
}
.gallery .wrong { border-color: var(--bad); }
.flip { position: relative; cursor: pointer; aspect-ratio: 1; }
.flip .top { position: absolute; inset: 0; transition: opacity 0.2s; }
.flip:hover .top, .flip:focus .top { opacity: 0; }
.flip:focus-visible { outline: 3px solid var(--accent); outline-offset: -3px; }
.strips { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 0.8rem; }
.strips figcaption { display: grid; grid-template-columns: repeat(3, 1fr); gap: 0.5rem; line-height: 1.35; }
.looks { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 0.8rem; }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; }
th, td { text-align: left; padding: 0.55rem 0.9rem; border-bottom: 1px solid var(--line); }
th { color: var(--faint); font-weight: 500; }
td { font-variant-numeric: tabular-nums; }
a { color: var(--accent); }
tr:last-child td { border-bottom: 0; }
.ok { color: var(--good); font-weight: 600; }
.failed { color: var(--bad); font-weight: 600; }
pre {
  margin: 0 0 1rem; padding: 0.9rem 1rem; overflow-x: auto; background: var(--code);
  border: 1px solid var(--line); border-radius: 12px; font-size: 0.88rem; line-height: 1.6;
}
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
p code { font-size: 0.92em; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; font-size: 0.85rem; }
@media (max-width: 480px) {
  .gallery { grid-template-columns: repeat(2, 1fr); gap: 0.6rem; }
  .strips, .looks { grid-template-columns: 1fr; }
  .figures { grid-template-columns: repeat(2, 1fr); }
  thead, td:nth-child(4) { display: none; }
  tr { display: grid; grid-template-columns: 1fr auto; padding: 0.55rem 0.8rem; border-bottom: 1px solid var(--line); }
  tr:last-child { border-bottom: 0; }
  td { border: 0; padding: 0; }
  td:nth-child(2) { grid-row: 2; color: var(--faint); }
  td:nth-child(3) { grid-area: 2 / 2; color: var(--faint); }
  td:nth-child(5) { grid-area: 1 / 2; justify-self: end; }
}
"""
