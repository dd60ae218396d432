// Numbers for people.

const whole = new Intl.NumberFormat("en");

export function count(number) {
  return whole.format(Math.round(number));
}

export function short(number) {
  if (number < 10_000) return count(number);
  const step = number < 1e6 ? [1e3, "k"] : number < 1e9 ? [1e6, "M"] : [1e9, "G"];
  return `${digits(number / step[0])}${step[1]}`;
}

export function rate(perSecond) {
  if (perSecond === null) return "–";
  return perSecond > 0 && perSecond < 10 ? perSecond.toFixed(1) : short(perSecond);
}

export function bytes(number) {
  if (number === null) return "–";
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (number >= 999.5 && unit < units.length - 1) [number, unit] = [number / 1000, unit + 1];
  return `${unit ? digits(number) : Math.round(number)} ${units[unit]}`;
}

export function seconds(time) {
  if (time < 0.001) return `${Math.round(time * 1e6)} µs`;
  return time < 1 ? `${digits(time * 1000)} ms` : `${digits(time)} s`;
}

// The median and the 99th of a hundred.
export function times(found) {
  return found ? `${seconds(found[0])} / ${seconds(found[1])}` : "–";
}

// The time of a day, with the date where that is not today's.
export function clock(time) {
  const then = new Date(time * 1000);
  const date = day(then) === day() ? "" : `${then.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} `;
  return date + then.toLocaleTimeString("en-GB");
}

export function moment(time) {
  return new Date(time * 1000).toLocaleString("en-GB", { dateStyle: "full", timeStyle: "long" });
}

export function day(date = new Date(Date.now())) {
  return date.toDateString();
}

// Swarm's names of tasks end in 25 letters that say nothing to people; where there is room, `title` has them.
export function name(text) {
  return text.replace(/(\.[a-z0-9]+)\.[a-z0-9]{25}(?![a-z0-9])/g, "$1");
}

function digits(number) {
  return number < 9.95 ? number.toFixed(1) : String(Math.round(number));
}
