"""The style sheet of the report: light and dark, wide and narrow, the system's own fonts."""

CSS = """
:root { --bg:#f7f8f9; --card:#ffffff; --ink:#1f2a33; --muted:#5d6a75; --line:#e1e6ea; --head:#f1f4f6;
  --accent:#2f6f9f; --bar:#f0b46c; --good:#1e7a4c; --bad:#b3402f; --note:#fff6e3; --noteline:#e2b45f; }
@media (prefers-color-scheme: dark) { :root { --bg:#14191d; --card:#1d242a; --ink:#e4eaee; --muted:#9aa7b1;
  --line:#313b43; --head:#252e35; --accent:#7db8e0; --bar:#8a5d22; --good:#6fcf9b; --bad:#ef8d7c;
  --note:#30291a; --noteline:#8d6d2e; } }
* { box-sizing: border-box; }
body { margin:0; background:var(--bg); color:var(--ink); line-height:1.5;
  font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
  -webkit-text-size-adjust:100%; }
main { max-width:1220px; margin:0 auto; padding:28px 20px 56px; }
h1 { font-size:1.65rem; line-height:1.25; margin:0; letter-spacing:-.01em; overflow-wrap:anywhere; }
h2 { font-size:1.1rem; margin:0 0 10px; }
h3 { font-size:.95rem; margin:18px 0 6px; }
.sub { color:var(--muted); margin:6px 0 0; }
.note { background:var(--note); border-left:4px solid var(--noteline); padding:9px 14px;
  border-radius:4px; margin:14px 0 0; }
section { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:18px 20px;
  margin-top:18px; }
section > p { margin:8px 0; color:var(--muted); max-width:75ch; }
.scroll { overflow-x:auto; margin:0 -20px; padding:0 20px; -webkit-overflow-scrolling:touch;
  /* A shadow at the right edge as long as there is more to scroll to. */
  background:linear-gradient(to left,var(--card) 30%,transparent) right/48px 100% no-repeat local,
    linear-gradient(to left,var(--line),transparent) right/18px 100% no-repeat scroll; }
table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums; }
th, td { padding:6px 12px; text-align:right; white-space:nowrap; border-bottom:1px solid var(--line); }
th { font-weight:600; font-size:.83rem; color:var(--muted); background:var(--head); }
td.wrap { white-space:normal; min-width:15em; }
.text { text-align:left; }
th:first-child, td:first-child { text-align:left; }
.sticky th:first-child, .sticky td:first-child { position:sticky; left:-20px; background:var(--card);
  z-index:1; }
.sticky th:first-child { background:var(--head); }
tbody tr:last-child td { border-bottom:0; }
.best { font-weight:700; }
.absent { color:var(--muted); font-style:italic; }
.spread { color:var(--muted); font-size:.83em; }
.up { color:var(--good); } .down { color:var(--bad); }
tr.difference td { border-top:2px solid var(--line); color:var(--muted); }
tr.difference td.up { color:var(--good); } tr.difference td.down { color:var(--bad); }
.bar { display:inline-block; width:64px; height:9px; margin-left:9px; border-radius:2px;
  background:var(--head);
  overflow:hidden; text-align:left; vertical-align:baseline; }
.bar i { display:block; height:100%; background:var(--bar); }
figure { margin:14px 0 4px; } figure + figure { margin-top:24px; }
figure img { display:block; max-width:100%; height:auto; border-radius:6px; background:#fff;
  border:1px solid var(--line); }
figcaption { font-weight:600; margin-bottom:7px; } figcaption span { font-weight:400; color:var(--muted); }
dl.facts { display:flex; flex-wrap:wrap; gap:10px 28px; margin:0 0 14px; }
dl.facts div { min-width:6em; } dl.facts dt { color:var(--muted); font-size:.83rem; }
dl.facts dd { margin:0; font-size:1.06rem; font-variant-numeric:tabular-nums; overflow-wrap:anywhere; }
details { margin-top:8px; } summary { cursor:pointer; color:var(--accent); padding:3px 0; }
details ul { margin:4px 0 8px; padding-left:20px; columns:22em;
  font:12.5px/1.5 ui-monospace,Menlo,Consolas,monospace;
  overflow-wrap:anywhere; }
pre { overflow:auto; max-height:34em; background:var(--head); border-radius:6px; padding:12px 14px;
  margin:8px 0 0;
  font:12.5px/1.45 ui-monospace,Menlo,Consolas,monospace; }
@media (min-width:1000px) { figure.narrow { display:inline-block; width:49%; vertical-align:top; }
  figure.narrow, figure + figure.narrow { margin-top:14px; } }
@media (max-width:560px) { main { padding:18px 10px 40px; } section { padding:14px; border-radius:8px; }
  h1 { font-size:1.3rem; } figure img { min-width:640px; } .narrow img { min-width:0; } .wide img { min-width:1080px; } td.wrap { min-width:8em; } th { white-space:normal; vertical-align:bottom; }
  .scroll { margin:0 -14px; padding:0 14px; } th, td { padding:6px 9px; }
  .sticky th:first-child, .sticky td:first-child { left:-14px; }
  .sticky td:first-child { white-space:normal; min-width:5.8em; } .bar { width:40px; } }
@media print { body { background:#fff; } section { break-inside:avoid; } .scroll { overflow:visible; } }
"""
