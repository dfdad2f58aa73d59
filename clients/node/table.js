/** The watchlist as lines of text. Pure: quotes in, text out. */

const price = new Intl.NumberFormat("en-IN", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const whole = new Intl.NumberFormat("en-IN");
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium", timeZone: "Asia/Kolkata" });
const COLUMNS = [
  ["Stock", 18, (quote) => `${quote.symbol} ${quote.exchange}`, "left"],
  ["Last", 12, (quote) => price.format(quote.ltp)],
  ["Change", 10, (quote) => percent(quote.percent_change)],
  ["Low", 12, (quote) => price.format(quote.day_low)],
  ["High", 12, (quote) => price.format(quote.day_high)],
  ["Volume", 14, (quote) => whole.format(quote.volume)],
  ["Time", 10, (quote) => clock.format(quote.timestamp)],
];

const percent = (value) => (value === null ? "–" : `${value > 0 ? "+" : ""}${value.toFixed(2)} %`);

const fit = (text, width, side) => (side === "left" ? text.padEnd(width) : text.padStart(width));

/** One line without colours, for pipes and files. */
export const lineOf = (quote) =>
  [clock.format(quote.timestamp), quote.symbol, quote.ltp.toFixed(2), percent(quote.percent_change)].join("  ");

/**
 * The whole screen.
 * @param {Iterable<import("odin-streamer-client").Quote>} quotes
 * @param {{state: string, market: string, hasColor: boolean}} about
 */
export function screenOf(quotes, { state, market, hasColor }) {
  const paint = (text, code) => (hasColor ? `\x1b[${code}m${text}\x1b[0m` : text);
  const head = COLUMNS.map(([title, width, , side]) => fit(title, width, side)).join("");
  const lines = [`${paint(state, state === "connected" ? 32 : 33)}  ${market}`, "", paint(head, 2)];
  for (const quote of quotes) {
    const cells = COLUMNS.map(([, width, text, side]) => fit(text(quote), width, side));
    cells[2] = paint(cells[2], (quote.percent_change ?? 0) < 0 ? 31 : 32);
    lines.push(cells.join(""));
  }
  return `${lines.join("\n")}\n`;
}
