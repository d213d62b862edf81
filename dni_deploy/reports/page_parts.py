"""Page parts: the style and the script of the page, written into it so that it needs nothing from outside."""

from __future__ import annotations

PAGE_CSS = """
:root{color-scheme:light dark;--back:#faf9f6;--card:#fff;--ink:#1d2329;--soft:#5b6570;--line:#dcd8d0;--mark:#b8420e;--second:#3b6ea5}
@media (prefers-color-scheme:dark){
:root{--back:#14171a;--card:#1d2226;--ink:#ece8e1;--soft:#a5adb5;--line:#363d43;--mark:#ff8f52;--second:#7fb2ea}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:72rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:clamp(1.4rem,4vw,2rem);line-height:1.2;margin:0 0 .4rem;overflow-wrap:anywhere}
h2{font-size:1.05rem;margin:0 0 .5rem}
p{margin:0 0 1rem}
.lead,.soft{color:var(--soft)}
.desk{display:grid;gap:1.25rem;grid-template-columns:minmax(0,1fr)}
@media (min-width:60rem){.desk{grid-template-columns:minmax(0,3fr) minmax(18rem,2fr);align-items:start}
figure.card{position:sticky;top:1rem}}
.card{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1rem}
figure{margin:0}
.stage{position:relative;overflow:hidden;border-radius:.35rem;background:var(--line);max-width:min(100%,var(--widest));margin:0 auto}
.stage img{display:block;width:100%;height:auto}
.stage img.over{position:absolute;inset:0;height:100%}
.stage img[hidden]{display:none}
#input{clip-path:inset(0 calc(100% - var(--cut,0%)) 0 0)}
.stage::after{content:"";position:absolute;top:0;bottom:0;left:var(--cut,0%);width:2px;margin-left:-1px;background:#fff;
box-shadow:0 0 4px #000;opacity:var(--edge,0);pointer-events:none}
label,.label{display:block;font-weight:600}
input[type=range]{width:100%;height:2.25rem;margin:.1rem 0;accent-color:var(--mark);cursor:pointer}
input:focus-visible,summary:focus-visible{outline:3px solid var(--second);outline-offset:2px;border-radius:.3rem}
.ends{display:flex;justify-content:space-between;gap:1rem;font-size:.875rem;color:var(--soft)}
.ends span{overflow-wrap:anywhere}
output{display:block;font-size:1.15rem;font-variant-numeric:tabular-nums;min-height:3.4em;overflow-wrap:anywhere}
output b{color:var(--mark)}
legend{padding:0}fieldset{border:0;padding:0;margin:0 0 1rem}
fieldset label{display:inline-flex;align-items:center;gap:.4rem;min-height:2.25rem;margin-right:1rem;font-weight:400;cursor:pointer}
fieldset input{accent-color:var(--mark);width:1.1rem;height:1.1rem}
svg{display:block;width:100%;height:auto}
svg text{fill:var(--soft);font-size:14px}
svg .grid{stroke:var(--line)}svg .curve{fill:none;stroke:var(--mark);stroke-width:2.5}
svg .other{fill:none;stroke:var(--second);stroke-width:2;stroke-dasharray:6 5}
svg .level{stroke:var(--soft);stroke-dasharray:2 4}
svg .now{fill:var(--mark);stroke:var(--card);stroke-width:2}
dl{display:grid;grid-template-columns:auto 1fr;gap:.25rem 1rem;margin:0}
dt{color:var(--soft)}dd{margin:0;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
svg+p{margin:.25rem 0 0}.stack>*+*{margin-top:1.25rem}
details{margin-top:1.25rem}summary{cursor:pointer;font-weight:600;padding:.4rem 0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.3rem .6rem;border-bottom:1px solid var(--line)}th:first-child,td:first-child{text-align:left}
tr.best td{color:var(--mark);font-weight:600}
footer{margin-top:2rem;font-size:.875rem;color:var(--soft)}
"""

PAGE_SCRIPT = """
(() => {
  "use strict";
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const at = id => document.getElementById(id);
  const stage = at("stage"), slider = at("alpha"), cut = at("cut"), told = at("told"), now = at("now");
  const shots = [...stage.querySelectorAll("img.shot")], top = at("second");
  let shown = facts.start, view = "network";
  function draw() {
    const row = facts.rows[shown], pixels = view === "pixels";
    shots.forEach((image, index) => { image.hidden = pixels ? index !== 0 : index !== shown; });
    if (top) { top.hidden = !pixels; top.style.opacity = row.position; }
    told.replaceChildren();
    const strong = document.createElement("b");
    strong.textContent = row.alpha;
    told.append(strong, document.createElement("br"), pixels ? row.pixels : row.network);
    slider.setAttribute("aria-valuetext", row.alpha + ". " + (pixels ? row.pixels : row.network));
    if (now) { now.setAttribute("cx", row.x); now.setAttribute("cy", pixels ? row.other : row.y); }
    stage.dataset.shown = shown;
    stage.dataset.view = view;
  }
  slider.addEventListener("input", () => { shown = Number(slider.value); draw(); });
  cut.addEventListener("input", () => {
    stage.style.setProperty("--cut", cut.value + "%");
    stage.style.setProperty("--edge", Number(cut.value) > 0 && Number(cut.value) < 100 ? 1 : 0);
    cut.setAttribute("aria-valuetext", cut.value + " percent of the width shows the input");
  });
  document.querySelectorAll("input[name=view]").forEach(choice =>
    choice.addEventListener("change", () => { view = choice.value; draw(); }));
  // A browser may restore the sliders of an earlier visit; the page starts as it was written.
  slider.value = facts.start; cut.value = 0;
  document.querySelectorAll("input[name=view]").forEach(choice => { choice.checked = choice.value === "network"; });
  draw();
})();
"""
