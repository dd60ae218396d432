// Hears what the agent tells, and has it shown. A stream that is refused is tried again.

import { join } from "./mesh.js";
import * as view from "./view.js";

const EVENTS_KEPT = 200;
const AGAIN = 5000; // milliseconds
const SILENT = 25000; // the agent sends counts every second, and never less than every ten

let status = null;
let counts = null;
let before = null;
let events = [];
let fresh = true; // the next events are all that the agent has
let heard = 0;
let drawing = false;

function listen() {
  const stream = new EventSource("/api/v1/events");
  const on = (kind, take) => stream.addEventListener(kind, (message) => {
    heard = Date.now();
    take(JSON.parse(message.data));
    draw();
  });
  stream.onopen = () => {
    [fresh, heard, counts, before] = [true, Date.now(), null, null];
    view.link("live", "Live");
  };
  on("status", (found) => { status = found; });
  on("counts", (found) => { [before, counts] = [counts, found]; });
  on("events", (found) => {
    if (!fresh) view.say(found);
    events = (fresh ? found : [...events, ...found]).slice(-EVENTS_KEPT);
    fresh = false;
    view.events(events);
  });
  stream.onerror = () => {
    view.link("lost", "No connection to the agent; what is shown is old");
    if (stream.readyState !== EventSource.CLOSED) return; // the browser tries again
    stream.close();
    setTimeout(listen, AGAIN);
  };
}

// At most once a frame, and not at all while nobody looks at the page.
function draw() {
  if (drawing || !status) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    view.draw(status, join(status, counts, before));
  });
}

setInterval(() => {
  if (heard && Date.now() - heard > SILENT) view.link("lost", "The agent has fallen silent; what is shown is old");
}, 5000);
view.onFind(draw);
listen();
