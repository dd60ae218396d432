// How long things take, from histograms that are added: [index of a bucket, what is in it, the next index, …].
// Bucket i is of what took up to 2 ** (i - 14) seconds; the last one has no end.

const LAST = 23;
const SHARES = [0.5, 0.99];

// The median and the 99th of a hundred in seconds, or null where nothing was counted.
export function quantiles(histograms) {
  const sums = new Array(LAST + 1).fill(0);
  for (const buckets of histograms) {
    for (let at = 0; at + 1 < buckets.length; at += 2) if (buckets[at] <= LAST) sums[buckets[at]] += buckets[at + 1];
  }
  const all = sums.reduce((sum, count) => sum + count, 0);
  return all ? SHARES.map((share) => quantile(sums, share * all)) : null;
}

function quantile(sums, wanted) {
  let below = 0;
  for (const [index, count] of sums.entries()) {
    const low = index ? 2 ** (index - 15) : 0;
    const high = 2 ** (index - 14);
    if (count && below + count >= wanted) {
      return index === LAST ? low : low + ((high - low) * (wanted - below)) / count;
    }
    below += count;
  }
  return 0;
}
