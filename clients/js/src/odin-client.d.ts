/** Anything the wire carries. */
export type Json = Record<string, any>;

export type State = "closed" | "connecting" | "connected" | "reconnecting";

/** How quotes are encoded on their way; programs get the same in every format. */
export type Format = "json" | "json-delta" | "msgpack" | "msgpack-delta" | "binary";

/** How much of a stock's quotes is sent: the last price, the quote, or the order book as well. */
export type Mode = "ltp" | "quote" | "full";

/** What the server understands as a stock: "SBIN", "2885", 2885, "BSE:500112". */
export type Stocks = string | Iterable<string | number>;

/** One price of the order book. */
export interface Level {
  price: number;
  quantity: number;
  orders: number;
}

/** The best levels of the order book, best first. */
export interface Depth {
  buy: Level[];
  sell: Level[];
}

/** The state of one stock, as the wire has it. Prices are in rupees; null means not known. In the
 * ltp mode only what names it, `ltp`, `percent_change` and `timestamp` are there. */
export interface Quote {
  symbol: string;
  /** The exchange's number of the instrument. */
  token: string;
  exchange: string;
  /** Last traded price. */
  ltp: number;
  open: number;
  high: number;
  low: number;
  /** Previous day's close, as `prev_close`. */
  close: number | null;
  prev_close: number | null;
  /** Shares traded today. */
  volume: number;
  percent_change: number | null;
  week_52_high: number | null;
  week_52_low: number | null;
  week_52_high_date: string | null;
  week_52_low_date: string | null;
  day_high: number;
  day_low: number;
  avg_volume_5d: number | null;
  /** Exchange time of the last trade, ms since 1970. */
  timestamp: number;
  /** When the server applied it, RFC 3339. */
  last_updated: string;
  is_new_week_52_high: boolean;
  is_new_week_52_low: boolean;
  /** When the server sent it, ms since 1970. */
  sentMs: number | null;
  /** The last known state rather than a new trade: sent when a subscription begins. */
  isSnapshot: boolean;
  /** What it was sent as. The fields below but the source are there in the full mode alone, as far as
   * the feed tells them. */
  mode: Mode;
  /** Average traded price of the day. */
  avg_price?: number;
  /** Quantity of all buy orders in the book. */
  total_buy_qty?: number;
  total_sell_qty?: number;
  /** Open interest of a derivative. */
  oi?: number;
  depth?: Depth;
  /** The server's feed that it came from, where it has several. */
  source?: string;
}

/** Why one stock of a request was not carried out. */
export interface FailedStock {
  stock: string;
  code: string;
  message: string;
  suggestions: string[];
}

/** Partial success is a result, not an exception. */
export interface SubscribeResult {
  /** "SBIN" when asked by symbol, "SBIN (NSE)" when asked by token. */
  subscribed: string[];
  alreadySubscribed: string[];
  failed: FailedStock[];
  totalSubscribed: number;
}

export interface UnsubscribeResult {
  unsubscribed: string[];
  failed: FailedStock[];
  totalSubscribed: number;
}

export interface Subscription {
  symbol: string;
  token: string;
  /** null where the server does not say. */
  exchange: string | null;
  mode: Mode;
}

/** A stretch of an open market of which a feed of the server delivered nothing; ms since 1970. */
export interface Gap {
  feed: string;
  /** Market time of the last tick before it. */
  fromMs: number;
  toMs: number;
}

export interface Snapshot {
  quotes: Quote[];
  failed: FailedStock[];
}

export interface Feed {
  name: string;
  state: "idle" | "connecting" | "authenticating" | "streaming" | "stale" | "backoff" | "rejected" | "stopped";
  stale: boolean;
}

/** As the wire has it; a server of an older version leaves fields out. Times are Indian. */
export interface MarketStatus {
  market_open: boolean;
  market_hours?: string;
  phase?: "closed" | "pre_open" | "open" | "closing_auction" | "post_close";
  current_time?: string;
  current_date?: string;
  next_open?: string | null;
  next_close?: string | null;
  timezone?: string;
  holiday?: string | null;
  session?: string | null;
  streaming_data?: boolean;
  calendar_known?: boolean;
  /** The data is not the real market's. */
  simulated?: boolean;
  feed?: Feed;
  /** Each source by itself. */
  feeds?: Feed[];
}

/** What the server says first, as the wire has it. */
export interface Welcome {
  client_id: string;
  message?: string;
  /** How many stocks this client_id was subscribed to already. */
  subscribed_stocks: number;
  market_open: boolean;
  market_hours?: string;
  current_time?: string;
  features?: string[];
  limits?: Record<string, number>;
  feed?: Feed;
  simulated?: boolean;
  /** How it encodes quotes; a server of an older version does not say and has only json. */
  format?: Format;
  /** What later connections of this client_id need, told once by a server that asks for it. */
  resume_token?: string;
}

export interface ClientOptions {
  /** Names the session over restarts of the program; without one the server makes one up, which
   * lasts as long as the client object. */
  clientId?: string;
  /** What the server wants where authentication is on. */
  apiKey?: string;
  /** What an earlier client of this clientId had as `resumeToken`, where the server asks for it. */
  resumeToken?: string;
  /** How quotes are encoded on their way: "json". The others are smaller. */
  format?: Format;
  /** The WebSocket class; the platform's by default, or that of the package `ws`. */
  WebSocket?: unknown;
  /** Bound of the first reconnect delay; 500. */
  minDelayMs?: number;
  /** Bound of all reconnect delays; 20000. */
  maxDelayMs?: number;
  /** How long a request may take, reconnects included; 10000. */
  requestTimeoutMs?: number;
  /** How long connect() tries, Infinity for ever; 10000. Later reconnects never give up. */
  connectTimeoutMs?: number;
  /** After so long without any message the server is asked whether it is there; 20000. */
  silenceMs?: number;
}

export interface ClientEvents {
  /** Every quote. */
  quote: Quote;
  /** Every market status, asked for or pushed. */
  status: MarketStatus;
  /** Every stretch of time of which the server's feed delivered nothing. */
  gap: Gap;
  /** Every new state of the client. */
  state: State;
  /** The first message of each connection. */
  welcome: Welcome;
  /** What no request waits for: why a connection was lost, what could not be restored. */
  error: OdinError;
  /** Every message of the server, as it came; a quote in any format as in "json", and whole. */
  message: Json;
}

/** Quotes for one reader; at most one waits per stock, the newest. */
export interface QuoteStream extends AsyncIterableIterator<Quote> {
  /** Quotes replaced by a newer one of the same stock before they were read. */
  readonly skipped: number;
}

/** One session with the server, over as many connections as it takes. */
export declare class OdinClient extends EventTarget {
  /** url: ws:// or wss://; the path may be left out. */
  constructor(url: string | URL, options?: ClientOptions);
  /** "connected" means that subscriptions are in place, not only that a socket is open. */
  readonly state: State;
  readonly clientId: string | undefined;
  /** What continues this session, for a server that asks for it: keep it like a password. */
  readonly resumeToken: string | undefined;
  /** What the server said at the last connect. */
  readonly welcome: Welcome | null;
  /** Resolves once subscriptions are in place. */
  connect(): Promise<void>;
  /** End every request and stream. The subscriptions stay stored for this client_id. */
  close(): void;
  /** A mode is also for stocks that are held; without one new stocks get "quote". */
  subscribe(stocks: Stocks, mode?: Mode): Promise<SubscribeResult>;
  unsubscribe(stocks: Stocks): Promise<UnsubscribeResult>;
  /** The server's list for this client_id, in subscription order. */
  subscriptions(): Promise<Subscription[]>;
  marketStatus(): Promise<MarketStatus>;
  /** The last known quotes of the stocks, or of all subscribed ones, at any hour. */
  snapshot(stocks?: Stocks): Promise<Snapshot>;
  /** How long the server took to answer, in ms. */
  ping(): Promise<number>;
  /** Quotes of the given stocks, of all without any. */
  quotes(...stocks: string[]): QuoteStream;
  /** Call a function with the detail of every such event; returns what removes it again. */
  on<K extends keyof ClientEvents>(type: K, listener: (detail: ClientEvents[K]) => void): () => void;
  addEventListener<K extends keyof ClientEvents>(
    type: K,
    listener: (event: CustomEvent<ClientEvents[K]>) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

/** The integration guide's client under its own method names; it may be used without awaiting. */
export declare class OdinStreamerClient extends OdinClient {
  /** url: ws://localhost:8080 by default. */
  constructor(clientId: string, options?: ClientOptions & { url?: string | URL });
  subscribeSymbols(symbols: string[]): Promise<SubscribeResult>;
  subscribeTokens(tokens: string[]): Promise<SubscribeResult>;
  subscribeMixed(items: string[]): Promise<SubscribeResult>;
  getSubscriptions(): Promise<Subscription[]>;
  /** Sees every message of the server, as it came. */
  handleMessage(message: Json): void;
  /** To be overridden; a market_data message. */
  onMarketData(message: Json): void;
}

/** Base of all errors of this package. */
export declare class OdinError extends Error {}

/** The server refused a request. */
export declare class RequestError extends OdinError {
  constructor(code: string, message: string);
  /** Of the server's catalogue, "too_many_stocks". */
  readonly code: string;
}

/** A request had no answer in time, although it was repeated after reconnects. */
export declare class RequestTimeout extends OdinError {
  readonly action: string;
}

/** No connection could be made. */
export declare class ConnectFailed extends OdinError {
  /** HTTP status, where the platform tells it (Node with `ws`). */
  readonly status: number | undefined;
}

/** The connection ended; `code` is the WebSocket close code. */
export declare class ConnectionClosed extends OdinError {
  readonly code: number;
  readonly reason: string;
}

/** Another connection with this client_id took the session. */
export declare class TakenOver extends ConnectionClosed {}
