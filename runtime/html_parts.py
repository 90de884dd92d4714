"""Style and script of the page. The script makes every text node with `textContent`, so nothing in the data can become markup."""
from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --line: light-dark(#ddd, #444); --mark: light-dark(#fff3bf, #4d4100);
  --kin: light-dark(#e7f5ff, #12304a); --dim: light-dark(#666, #aaa);
  --add: light-dark(#d3f9d8, #10391a); --cut: light-dark(#ffe3e3, #4a1518); }
* { box-sizing: border-box; }
body { margin: 0; font: 14px/1.4 system-ui, sans-serif; height: 100vh; display: flex; flex-direction: column; }
body.index { display: block; padding: 1em; height: auto; }
header { display: flex; gap: 1.5em; align-items: baseline; padding: .4em 1em; border-bottom: 1px solid var(--line); flex-wrap: wrap; }
h1 { font-size: 16px; margin: 0; } h2 { font-size: 14px; margin: .8em 0 .3em; } select { max-width: 60vw; }
#note { color: var(--dim); }
main { flex: 1; display: flex; min-height: 0; }
nav { width: 15em; overflow: auto; border-right: 1px solid var(--line); padding: .5em; flex: none; }
nav button, #views button { display: block; width: 100%; text-align: left; border: 0; background: none; padding: .25em .5em; font: inherit;
  color: inherit; cursor: pointer; border-radius: 4px; }
nav button.unchanged { color: var(--dim); } nav small { float: right; }
button[aria-current=true], button[aria-selected=true] { background: var(--mark) !important; }
#views { display: flex; border-bottom: 1px solid var(--line); } #views button { width: auto; }
section { flex: 3; display: flex; flex-direction: column; min-width: 0; } #view { flex: 1; overflow: auto; padding: .5em; }
aside { flex: 2; overflow: auto; padding: .5em 1em; border-left: 1px solid var(--line); min-width: 0; }
pre, .code { font: 12px/1.45 ui-monospace, monospace; white-space: pre; margin: 0; }
pre { overflow: auto; max-height: 32em; border: 1px solid var(--line); padding: .4em; border-radius: 4px; }
.code div { padding: 0 .3em; width: max-content; min-width: 100%; }
.pick { cursor: pointer; } .pick:hover { outline: 1px solid var(--dim); outline-offset: -1px; }
.kin { background: var(--kin); } .chosen { background: var(--mark); }
.add { background: var(--add); } .cut { background: var(--cut); } .hunk, .dim { color: var(--dim); }
svg text { font: 11px ui-monospace, monospace; fill: currentColor; } svg rect { fill: Canvas; stroke: var(--dim); }
svg .kin rect { fill: var(--kin); } svg .chosen rect { fill: var(--mark); } svg path { fill: none; stroke: var(--dim); }
"""

SCRIPT = r"""
"use strict";
let DATA;
const VIEWS = ["text", "changes", "drawing", "plan"];
const state = {graph: 0, stage: 0, view: "text", node: -1, step: -1};
const byId = id => document.getElementById(id);

function put(parent, tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  parent.appendChild(made);
  return made;
}
function clear(id) { const place = byId(id); place.replaceChildren(); return place; }
const graph = () => DATA.graphs[state.graph];
function stage() {
  const found = graph().stages[state.stage];
  return found.same === undefined ? found : graph().stages[found.same];
}
const timed = () => graph().steps.some(step => step.us !== undefined);
const chosen = () => state.node >= 0 ? stage().nodes[state.node] : null;

function kin(node) {
  const other = chosen();
  if (other) return other.origin >= 0 && node.origin === other.origin;
  return state.step >= 0 && node.exact && node.steps.includes(state.step);
}
function mark(element, node, number) {
  if (number === state.node) element.classList.add("chosen");
  else if (kin(node)) element.classList.add("kin");
}
function pick(element, change) {
  element.classList.add("pick");
  element.tabIndex = 0;
  element.onclick = () => go(change);
  element.onkeydown = event => { if (event.key === "Enter") go(change); };
}

function go(change) {
  const before = chosen();
  if (change.graph !== undefined) Object.assign(state, {stage: 0, node: -1, step: -1});
  Object.assign(state, change);
  if (change.stage !== undefined && change.node === undefined) {
    state.node = before && before.origin >= 0 ? stage().nodes.findIndex(n => n.origin === before.origin) : -1;
  }
  history.replaceState(null, "", "#" + ["graph", "stage", "view", "node", "step"].map(k => k + "=" + state[k]).join("&"));
  render();
}
function read() {
  for (const part of location.hash.slice(1).split("&")) {
    const [key, value] = part.split("=");
    if (key === "view" && VIEWS.includes(value)) state.view = value;
    else if (["graph", "stage", "node", "step"].includes(key) && /^-?\d+$/.test(value)) state[key] = Number(value);
  }
  if (!DATA.graphs[state.graph]) state.graph = 0;
  if (DATA.graphs.length && !graph().stages[state.stage]) state.stage = 0;
  if (DATA.graphs.length && !stage().nodes[state.node]) state.node = -1;
  if (DATA.graphs.length && !graph().steps[state.step]) state.step = -1;
}

function showStages() {
  const nav = clear("stages");
  graph().stages.forEach((s, i) => {
    const button = put(nav, "button", s.name, s.same === undefined ? "changed" : "unchanged");
    put(button, "small", s.count + " ops");
    button.setAttribute("aria-current", i === state.stage);
    button.onclick = () => go({stage: i, step: -1});
  });
  const views = clear("views");
  for (const name of VIEWS) {
    const button = put(views, "button", name);
    button.setAttribute("role", "tab");
    button.setAttribute("aria-selected", name === state.view);
    button.onclick = () => go({view: name});
  }
}

const show = {
  text(place) {
    for (const [text, number] of stage().lines) {
      const line = put(place, "div", text);
      if (number < 0) continue;
      mark(line, stage().nodes[number], number);
      line.dataset.node = number;
      pick(line, {node: number, step: -1});
    }
  },
  changes(place) {
    const here = graph().stages[state.stage];
    if (here.same !== undefined || !here.diff.length) put(place, "div", state.stage ? "This pass changed nothing." : "As recorded.", "dim");
    else for (const text of here.diff) put(place, "div", text, {"+": "add", "-": "cut", "@": "hunk"}[text[0]] || "");
  },
  plan(place) {
    graph().plan.forEach((text, i) => {
      const time = i ? graph().steps[i - 1].us : undefined;
      const line = put(place, "div", (time === undefined ? "" : time.toFixed(1).padStart(9) + " us").padEnd(timed() ? 14 : 0) + text);
      if (!i) return;
      if (state.step === i - 1) line.classList.add("chosen");
      else if (chosen() && chosen().steps.includes(i - 1)) line.classList.add("kin");
      line.dataset.step = i - 1;
      pick(line, {step: i - 1, node: -1});
    });
  },
  drawing(place) { draw(place, stage().nodes); },
};

function draw(place, all) {
  const nodes = all.map((n, i) => ({n, i})).filter(item => !item.n.inner);
  if (nodes.length > 1500) { put(place, "div", "too large to draw: " + nodes.length + " ops", "dim"); return; }
  const depth = new Map(), rows = [], x = new Map();
  for (const {n, i} of nodes) {
    const level = Math.max(-1, ...n.inputs.map(k => depth.get(k))) + 1;
    depth.set(i, level);
    (rows[level] = rows[level] || []).push(i);
  }
  const W = 132, H = 54;
  for (const row of rows) {
    const want = i => all[i].inputs.length ? all[i].inputs.reduce((s, k) => s + x.get(k), 0) / all[i].inputs.length : 0;
    row.sort((a, b) => want(a) - want(b) || a - b);
    let free = 0;
    for (const i of row) { const at = Math.max(free, all[i].inputs.length ? want(i) : free); x.set(i, at); free = at + W; }
  }
  const ns = "http://www.w3.org/2000/svg";
  const add = (parent, tag, facts) => {
    const made = document.createElementNS(ns, tag);
    for (const [key, value] of Object.entries(facts)) made.setAttribute(key, value);
    parent.appendChild(made);
    return made;
  };
  const width = Math.max(0, ...x.values()) + W, height = rows.length * H + 8;
  const svg = add(place, "svg", {width, height, role: "img"});
  for (const {n, i} of nodes) for (const k of n.inputs) {
    const [x1, y1, x2, y2] = [x.get(k) + W / 2, depth.get(k) * H + 36, x.get(i) + W / 2, depth.get(i) * H + 6];
    add(svg, "path", {d: `M${x1} ${y1}C${x1} ${y1 + 14} ${x2} ${y2 - 14} ${x2} ${y2}`});
  }
  for (const {n, i} of nodes) {
    const g = add(svg, "g", {transform: `translate(${x.get(i)} ${depth.get(i) * H + 4})`});
    add(g, "rect", {x: 3, width: W - 6, height: 32, rx: 4});
    add(g, "text", {x: 8, y: 13}).textContent = n.op.slice(0, 18);
    add(g, "text", {x: 8, y: 27, opacity: .7}).textContent = n.type.replace("tensor", "").slice(0, 18);
    mark(g, n, i);
    g.dataset.node = i;
    pick(g, {node: i, step: -1});
  }
}

function source(place, number) {
  if (number < 0) { put(place, "p", "made by a pass, from no line of the program", "dim"); return; }
  const found = graph().places[number];
  put(place, "h2", found.file + ":" + found.line, "source");
  const box = put(put(place, "pre"), "div", undefined, "code");
  if (!found.text.length) put(box, "div", "(the file cannot be read)", "dim");
  found.text.forEach((text, i) => {
    const line = found.first + i;
    put(box, "div", String(line).padStart(5) + "  " + text, line === found.line ? "chosen" : "");
  });
}
function fold(place, title, text, open) {
  if (!text) return;
  const box = put(place, "details", undefined, title.split(" ")[0].toLowerCase());
  box.open = open;
  put(box, "summary", title);
  put(box, "pre", text);
}
function amount(n) {
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["K", 1e3]]) if (n >= size) return (n / size).toFixed(1) + unit;
  return String(n);
}
function launch(place, number) {
  const step = graph().steps[number];
  const title = put(place, "h2", "launch " + number + ": " + step.title, "launch");
  pick(title, {step: number, node: -1});
  put(place, "pre", step.line);
  put(place, "p", amount(step.bytes) + " bytes read and written, " + amount(step.flops) + " floating-point operations", "dim");
  if (step.us !== undefined) {
    put(place, "p", "ran " + step.runs + " times, " + step.us.toFixed(1) + " us each, " + (100 * step.roofline).toFixed(0)
        + " % of what this machine can do at best", "time");
  }
  fold(place, "Kernel IR", step.kernel, true);
  for (const key of step.code) {
    fold(place, "LLVM IR of " + key, graph().codes[key].llvm, false);
    fold(place, "Assembly of " + key, graph().codes[key].asm, false);
  }
}
function showDetails() {
  const place = clear("details"), node = chosen();
  if (node) {
    put(place, "h2", node.op + " : " + node.type, "op");
    source(place, node.place);
    if (!node.steps.length) put(place, "p", "No launch computes it: it is a view, a constant, or was folded away.", "dim");
    else if (!node.exact) put(place, "p", "No launch is known to compute it; these stem from the same line.", "dim");
    node.steps.forEach(i => launch(place, i));
  } else if (state.step >= 0) {
    launch(place, state.step);
    graph().steps[state.step].places.forEach(i => source(place, i));
  } else {
    put(place, "p", "Choose an operation, or a launch in the plan, to see its line of Python, its kernel, LLVM IR and assembly.", "dim");
  }
}

function render() {
  byId("graphs").value = state.graph;
  byId("note").textContent = DATA.note;
  if (!DATA.graphs.length) { put(clear("view"), "p", "Nothing was compiled.", "dim"); return; }
  showStages();
  const view = clear("view");
  show[state.view](state.view === "drawing" ? view : put(view, "div", undefined, "code"));
  const first = view.querySelector(".chosen, .kin");
  if (first) first.scrollIntoView({block: "nearest"});
  showDetails();
}

async function unpack(text) {
  const packed = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}
byId("graphs").onchange = event => go({graph: Number(event.target.value)});
window.onhashchange = () => { if (DATA) { read(); render(); } };
document.onkeydown = event => {
  if (event.target.tagName === "SELECT" || !DATA || !DATA.graphs.length) return;
  const move = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (move && graph().stages[state.stage + move]) go({stage: state.stage + move, step: -1});
};
unpack(byId("data").textContent).then(data => {
  DATA = data;
  DATA.graphs.forEach((g, i) => { put(byId("graphs"), "option", i + ": " + g.title).value = i; });
  read();
  render();
}).catch(error => { byId("note").textContent = "The page's data cannot be read: " + error; });
"""
