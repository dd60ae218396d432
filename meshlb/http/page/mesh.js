// What the agents told, joined: pure functions of this one's status and of what each node's agent counts.
// A source is {address, name, self, now, before}: the newest counts of one node and the ones before.

import { quantiles } from "./quantiles.js";

const ADDED = ["open", "active", "failed", "failovers"];
const PACED = ["accepted", "connected", "failed", "received", "sent"];
const TIMES = ["connect", "first_byte"];
const TOGETHER = 10; // seconds within which two agents tell of the same event
const EVENTS_KEPT = 200;

// {services: [{name, ports: [{port, state, reason, counts, pace, times, backends: [...]}]}], nodes, flow, totals, silent}
export function join(status, sources, from = "") {
  const used = sources.filter((one) => one.now && (!from || one.address === from));
  const ports = gather(used, "ports", (one) => one.port);
  const backends = gather(used, "backends", (one) => `${one.port} ${one.task}`);
  const names = namesOf(status);
  const services = servicesOf(status).map((service) => ({
    name: service.name,
    ports: service.ports.map((port) => ({
      ...port,
      ...(ports.get(port.port) ?? {}),
      backends: once(port.backends).map((one) => ({
        ...one,
        on: names.get(one.node) ?? one.node,
        ...(backends.get(`${port.port} ${one.task}`) ?? {}),
      })),
    })),
  }));
  return {
    services,
    nodes: status.nodes.map((node) => nodeOf(node, sources)),
    flow: flow(services, status, used),
    totals: totals(ports),
    telling: used,
    silent: status.nodes.filter((node) => !sources.some((one) => one.address === node.address && one.now)),
  };
}

// Counts as agents tell them, column by column, with a row for each port and backend instead.
export function rowsOf(counts) {
  return { ...counts, ports: rows(counts.ports), backends: rows(counts.backends) };
}

function rows(columns) {
  const names = Object.keys(columns);
  return columns.port.map((_, at) => Object.fromEntries(names.map((name) => [name, columns[name][at]])));
}

export function namesOf(status) {
  return new Map(status.nodes.flatMap((node) => [node.address, node.id].map((key) => [key, node.name || node.address])));
}

// Events of all agents, oldest first. Several may have seen the same: that is one, with all of them.
// An agent's own time is part of the key: one that was started again has other events with the same numbers.
export function timeline(tellers) {
  const all = tellers.flatMap(({ address, name, ahead, events }) => events.map((one) => ({
    ...one, key: `${address} ${one.id} ${one.time}`, seen: [name], time: Math.abs(ahead) > 1 ? one.time - ahead : one.time,
  }))).sort((one, other) => one.time - other.time);
  const newest = new Map();
  const found = [];
  for (const one of all) {
    const what = `${one.kind} ${one.text}`;
    const known = newest.get(what);
    if (known && one.time - known.time < TOGETHER && !known.seen.includes(one.seen[0])) {
      known.seen.push(...one.seen);
    } else {
      newest.set(what, one);
      found.push(one);
    }
  }
  return found.slice(-EVENTS_KEPT);
}

// Ports that are served with their service's backends; also those of which only the state is known.
function servicesOf(status) {
  const states = new Map(status.ports.map((port) => [port.port, port]));
  const services = new Map();
  const of = (name) => services.get(name) ?? services.set(name, { name, ports: [] }).get(name);
  for (const service of status.services) {
    for (const port of service.ports) {
      const state = states.get(port.port);
      if (state && state.service !== service.name) continue; // another service has the port
      of(service.name).ports.push({ state: "failed", reason: "not served", ...state, ...port });
      states.delete(port.port);
    }
  }
  for (const state of states.values()) of(state.service).ports.push({ ...state, backends: [] });
  return [...services.values()].sort((one, other) => one.name.localeCompare(other.name));
}

// Of a task that may listen at several targets the first; agents name the port's own first.
function once(backends) {
  const found = new Map();
  for (const one of backends) if (!found.has(one.task)) found.set(one.task, one);
  return [...found.values()];
}

// What sources count of each port, or backend, added up.
function gather(sources, kind, keyOf) {
  const found = new Map();
  for (const { address, name, now, before } of sources) {
    const old = together(before?.[kind] ?? [], keyOf);
    const seconds = before ? now.time - before.time : 0;
    for (const [key, one] of together(now[kind], keyOf)) {
      const sum = found.get(key) ?? found.set(key, { counts: { aside: false }, pace: {}, times: {}, buckets: {}, by: [] }).get(key);
      const pace = paceOf(one, old.get(key), seconds);
      for (const each of ADDED) sum.counts[each] = (sum.counts[each] ?? 0) + (one[each] ?? 0);
      for (const each of PACED) sum.pace[each] = plus(sum.pace[each] ?? null, pace[each]);
      for (const each of TIMES) (sum.buckets[each] ??= []).push(one[`${each}_buckets`] ?? []);
      sum.counts.aside ||= Boolean(one.aside);
      sum.by.push({ address, name, active: one.active ?? one.open, pace: pace.connected ?? pace.accepted });
    }
  }
  for (const sum of found.values()) {
    for (const each of TIMES) sum.times[each] = quantiles(sum.buckets[each]);
  }
  return found;
}

// The rows of one agent: a task has one for each target that it may listen at.
function together(found, keyOf) {
  const all = new Map();
  for (const one of found) {
    const key = keyOf(one);
    all.set(key, all.has(key) ? added(all.get(key), one) : one);
  }
  return all;
}

function added(one, other) {
  const sum = { ...one, aside: one.aside && other.aside };
  for (const name of [...ADDED, ...PACED]) if (name in one) sum[name] = one[name] + other[name];
  for (const each of TIMES) sum[`${each}_buckets`] = [one, other].flatMap((row) => row[`${each}_buckets`] ?? []);
  return sum;
}

function paceOf(one, was, seconds) {
  return Object.fromEntries(PACED.map((name) => {
    const more = was && seconds > 0 && name in one ? one[name] - was[name] : null;
    return [name, more === null || Number.isNaN(more) ? null : Math.max(0, more / seconds)];
  }));
}

function plus(sum, more) {
  return more === null ? sum : (sum ?? 0) + more;
}

function totals(ports) {
  const sum = { open: 0, failed: 0, failovers: 0, accepted: null, received: null, sent: null, buckets: {}, times: {} };
  for (const { counts, pace, buckets } of ports.values()) {
    for (const name of ["open", "failed", "failovers"]) sum[name] += counts[name];
    for (const name of ["accepted", "received", "sent"]) sum[name] = plus(sum[name], pace[name]);
    for (const name of TIMES) (sum.buckets[name] ??= []).push(...buckets[name]);
  }
  for (const name of TIMES) sum.times[name] = quantiles(sum.buckets[name] ?? []);
  return sum;
}

// A node with what clients open to it, if its agent tells.
function nodeOf(node, sources) {
  const source = sources.find((one) => one.address === node.address && one.now);
  return { ...node, sum: source ? totals(gather([source], "ports", (one) => one.port)) : null };
}

// To which node how much goes from which, and to which of its tasks.
function flow(services, status, sources) {
  const nodes = new Map(status.nodes.map((node) => [node.name || node.address, { ...node, tasks: new Map() }]));
  for (const service of services) {
    for (const port of service.ports) {
      for (const one of port.backends) {
        const name = one.on || "elsewhere";
        if (!nodes.has(name)) nodes.set(name, { name, state: "up", self: false, tasks: new Map() });
        const tasks = nodes.get(name).tasks;
        const task = tasks.get(one.task) ?? { id: one.task, name: one.name || one.task, state: one.state, active: 0, from: new Map() };
        task.active += one.counts?.active ?? 0;
        for (const by of one.by ?? []) addEdge(task.from, by);
        tasks.set(one.task, task);
      }
    }
  }
  return [...nodes].map(([name, node]) => {
    const tasks = [...node.tasks.values()].map((task) => ({ ...task, from: [...task.from.values()] }));
    const from = new Map(sources.map((one) => [one.address, { address: one.address, name: one.name, active: 0, pace: null }]));
    for (const task of tasks) for (const by of task.from) addEdge(from, by);
    return { name, state: node.state, self: node.self, from: [...from.values()], tasks };
  }).filter((node) => node.tasks.length);
}

function addEdge(edges, { address, name, active, pace }) {
  const edge = edges.get(address) ?? edges.set(address, { address, name, active: 0, pace: null }).get(address);
  edge.active += active;
  edge.pace = plus(edge.pace, pace);
}
