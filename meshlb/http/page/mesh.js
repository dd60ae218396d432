// What the agent told, joined: pure functions of its status, its newest counts and the ones before.

const PER_SECOND = ["accepted", "failed", "received", "sent"];

// {services: [{name, ports: [{port, state, reason, counts, rates, backends: [...]}]}], nodes, totals}
export function join(status, counts, before) {
  const ports = rates(counts, before, "ports", (one) => one.port);
  const backends = rates(counts, before, "backends", (one) => `${one.port} ${one.task}`);
  const nodes = new Map(status.nodes.flatMap((node) => [node.address, node.id].map((key) => [key, node.name || node.address])));
  const services = servicesOf(status).map((service) => ({
    name: service.name,
    ports: service.ports.map((port) => ({
      ...port,
      ...(ports.get(port.port) ?? {}),
      backends: port.backends.map((one) => ({
        ...one,
        on: nodes.get(one.node) ?? one.node,
        ...(backends.get(`${port.port} ${one.task}`) ?? {}),
      })),
    })),
  }));
  return { services, nodes: status.nodes, flow: flow(services, status), totals: totals(ports) };
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

function rates(counts, before, kind, keyOf) {
  const old = new Map((before?.[kind] ?? []).map((one) => [keyOf(one), one]));
  const seconds = before ? counts.time - before.time : 0;
  const found = new Map();
  for (const one of counts?.[kind] ?? []) {
    const was = old.get(keyOf(one));
    const pace = {};
    for (const name of [...PER_SECOND, "connected"]) {
      const more = was && seconds > 0 ? one[name] - was[name] : null;
      pace[name] = more === null || Number.isNaN(more) ? null : Math.max(0, more / seconds);
    }
    found.set(keyOf(one), { counts: one, pace });
  }
  return found;
}

function totals(ports) {
  const sum = { open: 0, failed: 0, failovers: 0, accepted: null, received: null, sent: null };
  for (const { counts, pace } of ports.values()) {
    for (const name of ["open", "failed", "failovers"]) sum[name] += counts[name];
    for (const name of ["accepted", "received", "sent"]) {
      if (pace[name] !== null) sum[name] = (sum[name] ?? 0) + pace[name];
    }
  }
  return sum;
}

// To which node how much goes, and to which of its tasks.
function flow(services, status) {
  const nodes = new Map(status.nodes.map((node) => [node.name || node.address, { ...node, tasks: new Map() }]));
  for (const service of services) {
    for (const port of service.ports) {
      for (const one of port.backends) {
        const name = one.on || "elsewhere";
        if (!nodes.has(name)) nodes.set(name, { name, state: "up", self: false, tasks: new Map() });
        const tasks = nodes.get(name).tasks;
        const task = tasks.get(one.task) ?? { id: one.task, name: one.name || one.task, state: one.state, active: 0, pace: null };
        task.active += one.counts?.active ?? 0;
        if (one.pace?.connected != null) task.pace = (task.pace ?? 0) + one.pace.connected;
        tasks.set(one.task, task);
      }
    }
  }
  return [...nodes].map(([name, node]) => {
    const tasks = [...node.tasks.values()];
    const active = tasks.reduce((sum, task) => sum + task.active, 0);
    const pace = tasks.reduce((sum, task) => (task.pace === null ? sum : (sum ?? 0) + task.pace), null);
    return { name, state: node.state, self: node.self, active, pace, tasks };
  }).filter((node) => node.tasks.length);
}
