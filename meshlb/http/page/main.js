// Hears what the agent tells, and has it shown. A stream that is refused is tried again.

import { day } from "./format.js";
import { join, namesOf, rowsOf, timeline } from "./mesh.js";
import * as view from "./view.js";

const EVENTS_KEPT = 200;
const AGAIN = 5000; // milliseconds
const SILENT = 25000; // counts come every second, of a busy agent every ten or so

let status = null;
let own = { now: null, before: null, events: [] };
let others = new Map(); // by address: what their agents tell, through this node's
let fresh = true; // the next events are all that the agent has
let heard = 0;
let drawing = false;
let today = day();

function listen() {
  const stream = new EventSource("/api/v1/events");
  const on = (kind, take) => stream.addEventListener(kind, (message) => {
    heard = Date.now();
    view.link("live", "Live"); // a laptop that slept has its old connection, which nothing opens anew
    take(JSON.parse(message.data));
    draw();
  });
  stream.onopen = () => {
    [fresh, heard] = [true, Date.now()];
    [own, others] = [{ ...own, now: null, before: null }, new Map()];
    view.link("live", "Live");
  };
  on("status", (found) => { status = found; });
  on("counts", (found) => { [own.before, own.now] = [own.now, rowsOf(found)]; });
  on("events", (found) => {
    own.events = (fresh ? found : [...own.events, ...found]).slice(-EVENTS_KEPT);
    const news = fresh ? [] : found;
    fresh = false;
    tellEvents(news);
  });
  on("node-counts", (found) => {
    const one = other(found.node);
    [one.before, one.now] = [one.now, rowsOf(found)];
  });
  on("node-events", (found) => {
    const one = other(found.node);
    const before = one.events;
    Object.assign(one, { events: found.events, ahead: found.ahead });
    tellEvents(before.length ? added(before, found.events) : []);
  });
  on("told", ({ nodes }) => {
    for (const [address, one] of others) if (!nodes.includes(address)) [one.before, one.now] = [null, null];
  });
  stream.onerror = () => {
    view.link("lost", "No connection to the agent; what is shown is old");
    if (stream.readyState !== EventSource.CLOSED) return; // the browser tries again
    stream.close();
    setTimeout(listen, AGAIN);
  };
}

// Those of `now` that were not there before. An agent that was started again counts them anew: the time tells.
function added(before, now) {
  const known = new Set(before.map((one) => `${one.id} ${one.time}`));
  return now.filter((one) => !known.has(`${one.id} ${one.time}`));
}

function other(address) {
  return others.get(address) ?? others.set(address, { now: null, before: null, events: [], ahead: 0 }).get(address);
}

// This node's agent first; of nodes that are silent nothing is new.
function sources() {
  const names = namesOf(status);
  const self = status.nodes.find((node) => node.self);
  const up = new Set(status.nodes.filter((node) => node.state === "up").map((node) => node.address));
  const here = { address: self?.address ?? "", name: self ? names.get(self.address) : "this node", self: true, ahead: 0, ...own };
  const there = [...others].filter(([address]) => address !== here.address).map(([address, one]) => (
    { address, name: names.get(address) ?? address, self: false, ...one, now: up.has(address) ? one.now : null }));
  return [here, ...there.sort((one, another) => one.name.localeCompare(another.name))];
}

function tellEvents(news) {
  if (!status) return;
  const all = timeline(sources());
  const alone = new Set(all.filter((one) => one.seen.length === 1).map((one) => one.text));
  view.say(news.filter((one) => alone.has(one.text)));
  view.events(all, others.size > 0);
}

// At most once a frame, and not at all while nobody looks at the page.
function draw() {
  if (drawing || !status) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    view.draw(status, join(status, sources(), view.from()));
  });
}

setInterval(() => {
  if (today !== day()) tellEvents([]);
  today = day();
  if (heard && Date.now() - heard > SILENT) view.link("lost", "The agent has fallen silent; what is shown is old");
}, 5000);
view.onFind(draw);
listen();
