// Brings what is known into the document. Names are anybody's: they become text nodes, never HTML.
// Elements are kept and changed in place, so that focus, selection and what is folded stay as they are.

import * as format from "./format.js";

const $ = (id) => document.getElementById(id);
const MOST = 100; // backends of a port, and tasks of a node, that are shown
const NAMED = 3; // nodes that a sentence names
const WIRES = 6; // nodes that are shown to send to one
const COLUMNS = ["Task", "Node", "State", "Active", "New/s", "In/s", "Out/s", "Failed", "Connect", "First byte"];
const TIMES = "the median / what 99 of 100 took less than, of late";
const SAID = { aside: "set aside: it failed too often in a row, single connections probe it" };
const STATES = {
  up: "takes connections",
  suspected: "its node has fallen silent: new connections go elsewhere",
  draining: "keeps its connections, takes no new ones",
  drained: "an operator has drained it: takes no new connections, keeps those it has for a while",
  paused: "an operator has paused it: takes no new connections, keeps those it has",
  down: "takes no connections",
  serving: "the agent listens on it",
  redirected: "Docker holds it; traffic is led to the agent",
  failed: "not served",
  dead: "silent for long",
};

function el(tag, className = "", ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

// Children of `parent` for `items`, each made once and filled every time. What is gone goes first: a child that
// is moved, even to where it is, loses focus and selection.
function list(parent, items, keyOf, make, fill) {
  const wanted = new Map(items.map((item) => [keyOf(item), item]));
  const old = parent.kept ?? new Map();
  for (const [key, child] of old) if (!wanted.has(key)) child.remove();
  parent.kept = new Map();
  let place = parent.firstElementChild;
  for (const [key, item] of wanted) {
    const child = old.get(key) ?? make(item);
    parent.kept.set(key, child);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    fill(child, item);
  }
}

function state(element, name, hint = "") {
  element.dataset.state = name;
  text(element, name);
  element.title = hint || STATES[name] || "";
}

export function link(kind, sentence) {
  $("link").dataset.state = kind;
  text($("link"), sentence);
}

// For screen readers: only what went wrong, for a mesh is never still.
export function say(events) {
  const bad = events.filter((one) => tone(one.kind) === "bad").map((one) => format.name(one.text));
  if (bad.length) text($("said"), bad.slice(0, 3).join(". "));
}

export function onFind(again) {
  $("find").addEventListener("input", again);
  $("from").addEventListener("change", again);
}

// The node whose clients are shown alone: its address; empty for all.
export function from() {
  return $("from").value;
}

export function draw(status, mesh) {
  const self = status.nodes.find((node) => node.self);
  const name = self?.name || self?.address || location.hostname;
  text($("here"), name);
  scope(status, mesh, name);
  document.title = `${name} · meshlb`;
  text($("release"), `meshlb ${status.version} · source: ${status.source.kind}`);
  problems(status);
  totals(status, mesh);
  services(mesh.services);
  flow(mesh.flow);
  nodes(mesh.nodes);
}

// Whose counts these are.
function scope(status, mesh, name) {
  const choices = [{ address: "", name: "all nodes" }, ...status.nodes.map((node) => ({ ...node, name: node.name || node.address }))];
  list($("from"), choices, (one) => one.address, (one) => Object.assign(el("option"), { value: one.address }),
    (child, one) => text(child, one.name));
  $("from").parentElement.hidden = status.nodes.length < 2;
  const chosen = choices.find((one) => one.address && one.address === from());
  text($("scope"), sentence(status, mesh, name, chosen));
}

function sentence(status, mesh, name, chosen) {
  if (chosen && !mesh.telling.length) return `The agent of ${chosen.name} tells nothing: it is not connected, or of an older release.`;
  if (chosen) return `These are the connections that clients open to ${chosen.name}, wherever they are led.`;
  const count = mesh.telling.length;
  if (count < 2) {
    const why = status.nodes.length > 1 ? " No other agent tells this one what it counts." : "";
    return `This is what the agent of ${name} alone sees: the connections that clients open to this node.${why}`;
  }
  if (!mesh.silent.length) return `This is the whole mesh: the connections that clients open to any of ${count} nodes.`;
  return `These are the connections that clients open to ${count} of ${status.nodes.length} nodes. Nothing is told by the agent of ${named(mesh.silent.map((node) => node.name || node.address))}.`;
}

function named(names) {
  return names.slice(0, NAMED).join(", ") + (names.length > NAMED ? ` and ${names.length - NAMED} more` : "");
}

function problems(status) {
  const found = [...status.problems];
  if (status.draining) found.unshift("The agent is ending: it takes no new connections.");
  $("problems").hidden = !found.length;
  list($("problem-list"), found, (one) => one, () => el("li"), text);
}

function totals(status, mesh) {
  const { totals: sum, services: all } = mesh;
  const tasks = all.flatMap((service) => service.ports.flatMap((port) => port.backends));
  const up = new Set(tasks.filter((one) => one.state === "up").map((one) => one.task)).size;
  const failed = status.ports.filter((port) => port.state === "failed").length;
  const rows = [
    ["Active connections", format.short(sum.open)],
    ["New per second", format.rate(sum.accepted)],
    ["From clients", `${format.bytes(sum.received)}/s`],
    ["To clients", `${format.bytes(sum.sent)}/s`],
    ["Ports served here", `${status.ports.length - failed} of ${status.ports.length}`, failed],
    ["Tasks up", `${up} of ${new Set(tasks.map((one) => one.task)).size}`],
    ["Failovers", format.short(sum.failovers)],
    ["Turned away", format.short(sum.failed)],
  ];
  list($("totals"), rows, ([title]) => title,
    ([title]) => el("div", "", el("dt", "", title), el("dd")),
    (child, [, value, bad]) => {
      text(child.lastElementChild, value.replace("–/s", "–"));
      child.classList.toggle("bad", Boolean(bad));
    });
}

function services(all) {
  const wanted = $("find").value.trim().toLowerCase();
  const found = all.filter((service) => !wanted || matches(service, wanted));
  list($("service-list"), found, (one) => one.name, makeService, fillService);
  $("none").hidden = found.length > 0;
  text($("none"), wanted ? "Nothing of that name." : "No service publishes a port.");
}

function matches(service, wanted) {
  const words = [service.name, ...service.ports.flatMap((port) => [
    port.port, port.state, ...port.backends.flatMap((one) => [one.name, one.on, one.address, one.state])])];
  return words.some((word) => word.toLowerCase().includes(wanted));
}

function makeService(service) {
  return el("article", "service", el("h3", "name", service.name), el("div"));
}

function fillService(article, service) {
  list(article.lastElementChild, service.ports, (one) => one.port, makePort, fillPort);
}

function makePort(port) {
  const fold = el("details", "port",
    el("summary", "", el("span", "number", port.port), el("span", "state"), el("span", "facts")),
    el("p", "reason"), el("div"), el("p", "quiet"));
  fold.open = port.backends.length <= 20;
  const table = el("table", "", el("caption", "unseen", `Tasks behind port ${port.port}`), el("thead"), el("tbody"));
  const head = el("tr");
  // Roles are said because a phone's layout is no table any more for some browsers.
  table.role = "table";
  head.role = "row";
  for (const title of COLUMNS) {
    const cell = el("th", "", title);
    if (COLUMNS.indexOf(title) > 7) cell.title = TIMES;
    [cell.scope, cell.role] = ["col", "columnheader"];
    head.append(cell);
  }
  table.tHead.append(head);
  fold.children[2].append(table);
  return fold;
}

function fillPort(fold, port) {
  const [summary, reason, place, more] = fold.children;
  state(summary.children[1], port.state, port.reason);
  text(summary.children[2], facts(port));
  text(reason, port.reason);
  reason.hidden = !port.reason;
  place.hidden = !port.backends.length;
  list(place.firstElementChild.tBodies[0], port.backends.slice(0, MOST), (one) => one.task, makeBackend, fillBackend);
  more.hidden = port.backends.length > 0 && port.backends.length <= MOST;
  text(more, port.backends.length ? `and ${port.backends.length - MOST} more tasks` : "No task.");
}

function facts(port) {
  const up = port.backends.filter((one) => one.state === "up").length;
  const parts = [`${up} of ${port.backends.length} tasks up`];
  if (port.counts) {
    parts.push(`${format.short(port.counts.open)} active`, `${format.rate(port.pace.accepted)} new/s`);
    for (const [name, title] of [["connect", "connect"], ["first_byte", "first byte"]]) {
      const found = port.times[name];
      if (found) parts.push(`${title} p50 ${format.seconds(found[0])}`, `p99 ${format.seconds(found[1])}`);
    }
  }
  return parts.map((part) => part.replaceAll(" ", "\u00a0")).join(" · ");
}

function makeBackend(one) {
  const row = el("tr");
  const name = el("th", "name", format.name(one.name || one.task));
  [name.scope, name.role, row.role] = ["row", "rowheader", "row"];
  row.append(name, el("td", "name"), el("td", "", el("span", "state")));
  for (let at = 3; at < COLUMNS.length; at++) {
    row.append(el("td", "figure"));
    row.lastElementChild.dataset.title = COLUMNS[at];
  }
  for (const cell of row.cells) cell.role ??= "cell";
  return row;
}

function fillBackend(row, one) {
  const cells = row.children;
  cells[0].title = `${one.name} at ${one.address}:${one.port}, weight ${one.weight}`;
  text(cells[1], one.on || "–");
  const aside = one.counts?.aside && one.state === "up";
  state(cells[2].firstElementChild, aside ? "aside" : one.state, aside ? SAID.aside : "");
  const figures = one.counts
    ? [format.short(one.counts.active), format.rate(one.pace.connected), format.bytes(one.pace.received),
      format.bytes(one.pace.sent), format.short(one.counts.failed), format.times(one.times.connect), format.times(one.times.first_byte)]
    : COLUMNS.slice(3).map(() => "–");
  figures.forEach((figure, at) => text(cells[at + 3], figure));
}

// Thickness is by the square root, so that one connection is seen beside ten thousand.
function flow(found) {
  const most = Math.max(1, ...found.flatMap((node) => node.from.map((one) => one.active)));
  list($("flow"), found, (one) => one.name,
    () => el("div", "target", el("div", "wires"), el("div", "box", el("h3", "name"), el("ul", "tasks"))),
    (row, node) => {
      const [wires, box] = row.children;
      list(wires, sending(node.from), (one) => one.address,
        () => el("div", "wire", el("span", "from name"), el("span", "line"), el("span", "much")),
        (wire, one) => fillWire(wire, one, most));
      text(box.firstElementChild, node.self ? `${node.name} (this node)` : node.name);
      box.dataset.state = node.state;
      list(box.lastElementChild, node.tasks.slice(0, MOST), (one) => one.id,
        (one) => el("li", "", el("span", "name", format.name(one.name)), " ", el("b"), el("small")), fillTask);
    });
}

// Nodes that send something, or those with most: a mesh may have hundreds.
function sending(from) {
  const busy = from.filter((one) => one.active || one.pace);
  return busy.length > WIRES ? busy.sort((one, other) => other.active - one.active).slice(0, WIRES) : busy;
}

function fillWire(wire, one, most) {
  text(wire.children[0], one.name);
  wire.children[1].style.setProperty("--width", `${one.active ? 1 + 9 * Math.sqrt(one.active / most) : 1}px`);
  wire.children[1].classList.toggle("idle", !one.active);
  text(wire.children[2], `${format.short(one.active)} active, ${format.rate(one.pace)} new/s`);
}

function fillTask(child, one) {
  const from = one.from.filter((each) => each.active).sort((each, other) => other.active - each.active);
  child.dataset.state = one.state;
  child.title = [`${one.name}: ${one.state}`, ...from.map((each) => `${each.active} from ${each.name}`)].join("\n");
  text(child.children[1], format.short(one.active));
  text(child.children[2], from.length && one.from.length > 1
    ? ` (${from.slice(0, NAMED).map((each) => `${each.name} ${format.short(each.active)}`).join(", ")}${from.length > NAMED ? ", …" : ""})` : "");
}

function nodes(found) {
  const all = [...found].sort((one, other) => other.self - one.self || one.name.localeCompare(other.name));
  list($("nodes"), all, (one) => one.id || one.address,
    () => el("li", "", el("span", "name"), el("span", "quiet"), el("span", "state"), el("span", "facts")),
    (child, node) => {
      text(child.children[0], node.name || node.address);
      text(child.children[1], node.self ? `${node.address} · this node` : node.address);
      state(child.children[2], node.state);
      text(child.children[3], node.sum ? clients(node.sum) : "Its agent tells nothing to this one.");
    });
  $("nodes").parentElement.hidden = !all.length;
}

// What clients open to a node.
function clients(sum) {
  const parts = [`${format.short(sum.open)} active`, `${format.rate(sum.accepted)} new/s`,
    `in ${format.bytes(sum.received)}/s`, `out ${format.bytes(sum.sent)}/s`];
  if (sum.times.first_byte) parts.push(`first byte ${format.times(sum.times.first_byte)}`);
  if (sum.failed) parts.push(`${format.short(sum.failed)} turned away`);
  return parts.map((part) => part.replaceAll(" ", "\u00a0")).join(" · ").replaceAll("–/s", "–");
}

export function events(all, several) {
  list($("events"), [...all].reverse(), (one) => one.key,
    (one) => {
      const time = el("time");
      time.dateTime = new Date(one.time * 1000).toISOString();
      time.title = format.moment(one.time);
      const made = el("li", "", time, el("span", "kind", one.kind.replace("-", " ")), el("span", "name", format.name(one.text)), el("span", "seen name"));
      made.title = one.text;
      made.dataset.tone = tone(one.kind);
      return made;
    },
    (child, one) => {
      text(child.firstElementChild, format.clock(one.time)); // another day it gets its date
      text(child.lastElementChild, several ? `seen by ${named(one.seen)}` : "");
    });
}

function tone(kind) {
  if (["task-up", "port-up", "node-back", "problem-gone", "start"].includes(kind)) return "good";
  return ["task-draining", "task-drained", "task-paused", "port-closed", "node-gone"].includes(kind) ? "calm" : "bad";
}
