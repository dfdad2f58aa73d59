// Ticks on schedule for the JavaScript servers: see source.py. Timers wake it, as Node and Bun read
// no timerfd, so up to about a millisecond of its latency is the timer's.
export const TOPICS = 2000;
export const FIRST_TOKEN = 10001;
export const REPLY = '{"type":"subscription_response","status":"success"}';
const MAX_BURST = 256;
const PRICES = Array.from({ length: 400 }, (_, step) => Math.round((1365.5 + (step - 200) * 0.05) * 100) / 100);

const nowNs = () => BigInt(Math.round((performance.timeOrigin + performance.now()) * 1000)) * 1000n;

export const topicsOf = (text) => JSON.parse(text).stocks.map((stock) => Number(stock) - FIRST_TOKEN);

let second = -1n;
let date = "";

export function encode(n) {
  const now = nowNs();
  const s = now / 1000000000n;
  if (s !== second) {
    second = s;
    date = new Date(Number(s + 19800n) * 1000).toISOString().slice(0, 19);
  }
  const topic = n % TOPICS;
  const ltp = PRICES[(n * 7919) % 400];
  const at = now / 1000000n;
  const name = `"symbol":"BENCH${String(topic).padStart(4, "0")}","token":"${FIRST_TOKEN + topic}","exchange":"NSE"`;
  return (
    `{"type":"market_data",${name},"data":{${name},"ltp":${ltp},"open":1371.8,"high":1376.0,"low":1355.3,` +
    `"close":1372.6,"prev_close":1372.6,"volume":${n},"percent_change":${((ltp - 1372.6) / 1372.6) * 100},` +
    `"week_52_high":1551.0,"week_52_low":1115.55,"week_52_high_date":"2025-07-09","week_52_low_date":"2025-04-07",` +
    `"day_high":1376.0,"day_low":1355.3,"avg_volume_5d":8053013,"timestamp":${at},` +
    `"last_updated":"${date}.${String(now % 1000000000n).padStart(9, "0")}+05:30","is_new_week_52_high":false,` +
    `"is_new_week_52_low":false},"timestamp":${at}}`
  );
}

// Calls publish(n) for each tick when it is due.
export function schedule(publish) {
  let t0, rate, total, next;
  const turn = () => {
    const slices = Number((nowNs() - t0) / 1000000n) + 1;
    let end = Math.min(Math.ceil((slices * rate) / 1000), total);
    const isBehind = end > next + MAX_BURST;
    if (isBehind) end = next + MAX_BURST;
    while (next < end) publish(next++);
    if (next < total) isBehind ? setImmediate(turn) : setTimeout(turn, 1);
  };
  process.stdin.on("data", (data) => {
    const words = String(data).trim().split(" ");
    t0 = BigInt(words[1]);
    rate = Number(words[2]);
    total = Number(words[3]);
    next = 0;
    setTimeout(turn, Number((t0 - nowNs()) / 1000000n));
  });
  process.stdin.on("end", () => process.exit(0));
}
