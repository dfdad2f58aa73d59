/* The load generator: opens N WebSocket connections, subscribes each to its own topics, and checks
 * and times every message that arrives.
 *
 * A message carries the number n of its tick in `volume`. The schedule says the rest, exactly:
 * tick n is of topic n % T and was due at t0 + n * 1000 / rate milliseconds. So one number is
 * sequence (per topic the next n is n + T) and time of birth at once, and waiting inside the
 * server's own source counts as latency, as it would in a feed's socket. `last_updated`, which is
 * when the server took the tick in hand, gives the server's part of the latency alone.
 *
 * Quotes may be JSON, MessagePack or Odin Streamer's 120 bytes, whole or as deltas.
 *
 * Usage: load PORT PATH CLIENTS TOPICS PER_CLIENT LATE_PERCENT json|nats WELCOME
 * Commands on stdin, each answered with one line of JSON on stdout:
 *   connect | subscribe | requests COUNT | run T0_NS RATE TOTAL WARM_MS MEASURE_MS | (end of file)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define FIRST_TOKEN 10001
#define BUFFER (512 * 1024)
#define EVENTS 1024
#define IN_FLIGHT 128
#define DRAIN_NS 3000000000LL
#define LATE_EVERY_NS 100000000LL
#define LATE_BYTES 400 /* every LATE_EVERY_NS: 4 KB/s */
#define SUB_BUCKETS 64 /* a bucket is at most 1/64 wide: 1.6 % */
#define BUCKETS (34 * SUB_BUCKETS)
#define MAX_SECONDS 120
#define DAY_NS 86400000000000LL
#define IST_NS 19800000000000LL

typedef int64_t i64;
enum state { CLOSED, CONNECTING, SHAKING, WELCOMING, OPEN };

struct conn {
    int fd, is_late, carry_len, carry_cap, stream_len, stream_cap, cursor;
    enum state state;
    char *carry;  /* the incomplete end of what was read */
    char *stream; /* NATS: an incomplete message, taken out of its frames */
    int *topics;  /* sorted */
    i64 *last;    /* newest tick number of each topic; -1: none yet */
    int asked, answered;
    i64 asked_ns;
};

struct histogram { i64 count; uint32_t buckets[BUCKETS]; };

static int port, clients, topics, per_client, late_percent, is_nats, has_welcome;
static const char *path;
static struct conn *conns;
static int epfd, open_count, subscribed_count, failed_count, closed_count;
static char buffer[BUFFER + 64];
static i64 t0, rate, total, warm_ns, measure_ns;
static int is_running;
static i64 received, received_window, bytes_window, missing, out_of_order, bad, answers;
static i64 late_received, late_out_of_order;
static struct histogram due_hist, server_hist, request_hist, second_hist[MAX_SECONDS];
static char first_bad[200];

static i64 now_ns(clockid_t clock) {
    struct timespec ts;
    clock_gettime(clock, &ts);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static void die(const char *text) {
    fprintf(stderr, "load: %s: %s\n", text, strerror(errno));
    exit(1);
}

/* ---------------------------------------------------------------- histogram of microseconds */

static void record(struct histogram *h, i64 us) {
    int index;
    if (us < 0) us = 0;
    if (us < SUB_BUCKETS) {
        index = (int)us;
    } else {
        int shift = 63 - __builtin_clzll((uint64_t)us) - 6; /* 2^6 == SUB_BUCKETS */
        index = (shift + 1) * SUB_BUCKETS + (int)(us >> shift) - SUB_BUCKETS;
        if (index >= BUCKETS) index = BUCKETS - 1;
    }
    h->buckets[index]++;
    h->count++;
}

static double quantile_ms(const struct histogram *h, double q) {
    i64 want = (i64)(q * (double)h->count), seen = 0;
    if (!h->count) return 0;
    for (int i = 0; i < BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen > want || seen == h->count) {
            int shift = i / SUB_BUCKETS - 1;
            if (shift < 0) return i / 1000.0;
            return (double)((i64)(SUB_BUCKETS + i % SUB_BUCKETS + 1) << shift) / 1000.0;
        }
    }
    return 0;
}

static void print_hist(const char *name, const struct histogram *h) {
    printf("\"%s\":{\"count\":%lld,\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"p999\":%.3f,\"max\":%.3f}",
           name, (long long)h->count, quantile_ms(h, 0.5), quantile_ms(h, 0.9),
           quantile_ms(h, 0.99), quantile_ms(h, 0.999), quantile_ms(h, 1.0));
}

/* ---------------------------------------------------------------- writing */

static void write_all(struct conn *c, const char *data, int len) {
    while (len > 0) {
        ssize_t n = send(c->fd, data, (size_t)len, MSG_NOSIGNAL);
        if (n > 0) { data += n; len -= (int)n; }
        else if (n < 0 && errno != EAGAIN && errno != EINTR) return; /* its end will be read */
    }
}

static void send_frame(struct conn *c, int opcode, const char *payload, int len) {
    static char frame[70000];
    static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    int at = 0;
    if (len > 65535) die("a request was too long");
    frame[at++] = (char)(0x80 | opcode);
    if (len < 126) {
        frame[at++] = (char)(0x80 | len);
    } else {
        frame[at++] = (char)(0x80 | 126);
        frame[at++] = (char)(len >> 8);
        frame[at++] = (char)len;
    }
    memcpy(frame + at, mask, 4);
    at += 4;
    for (int i = 0; i < len; i++) frame[at + i] = (char)(payload[i] ^ mask[i & 3]);
    write_all(c, frame, at + len);
}

static void send_subscribe(struct conn *c, const int *list, int count) {
    static char text[66000];
    int at = 0;
    c->asked++;
    c->asked_ns = now_ns(CLOCK_MONOTONIC);
    if (is_nats) {
        for (int i = 0; i < count; i++) {
            at += sprintf(text + at, "SUB q.%d %d\r\n", FIRST_TOKEN + list[i], i + 1);
            if (at > 60000) { send_frame(c, 2, text, at); at = 0; }
        }
        at += sprintf(text + at, "PING\r\n");
        send_frame(c, 2, text, at);
        return;
    }
    at = sprintf(text, "{\"action\":\"subscribe\",\"stocks\":[");
    for (int i = 0; i < count; i++)
        at += sprintf(text + at, "%s\"%d\"", i ? "," : "", FIRST_TOKEN + list[i]);
    at += sprintf(text + at, "]}");
    send_frame(c, 1, text, at);
}

/* ---------------------------------------------------------------- checking */

/* Fields sit near where they were in the message before: look there first. */
static const char *find(const char *p, int len, const char *needle, int size, int *hint) {
    for (int d = 0; d <= 8; d++) {
        int at = *hint + d;
        if (at + size <= len && !memcmp(p + at, needle, (size_t)size)) { *hint = at; return p + at + size; }
        at = *hint - d;
        if (at >= 0 && at + size <= len && !memcmp(p + at, needle, (size_t)size)) { *hint = at; return p + at + size; }
    }
    const char *found = memmem(p, (size_t)len, needle, (size_t)size);
    if (!found) return NULL;
    *hint = (int)(found - p);
    return found + size;
}
#define FIND(p, len, needle, hint) find(p, len, needle, (int)sizeof(needle) - 1, hint)

static i64 number(const char **p) {
    i64 value = 0;
    while (**p >= '0' && **p <= '9') value = value * 10 + (*(*p)++ - '0');
    return value;
}

static void note_bad(const char *p, int len) {
    if (!bad++) {
        int n = len < 160 ? len : 160;
        for (int i = 0; i < n; i++) first_bad[i] = (p[i] < 32 || p[i] == '"' || p[i] == '\\' || p[i] > 126) ? '.' : p[i];
    }
}

/* The time of the day, in India, in ns, of "2026-09-21T19:43:20.000123456+05:30". */
static i64 time_of_day(const char *p) {
    i64 ns = 0, scale = 1000000000;
    i64 s = ((p[11] - '0') * 10 + p[12] - '0') * 3600 + ((p[14] - '0') * 10 + p[15] - '0') * 60 +
            (p[17] - '0') * 10 + p[18] - '0';
    if (p[19] == '.')
        for (p += 20; *p >= '0' && *p <= '9'; p++) { scale /= 10; ns += (*p - '0') * scale; }
    return s * 1000000000LL + ns;
}

/* What a quote says of its tick, in any encoding. */
struct tick { i64 n, token, updated; /* updated: ns of the day, in India */ };

static int read_json(const char *p, int len, struct tick *tick) {
    static int volume_at, token_at, updated_at;
    const char *v = FIND(p, len, "\"volume\":", &volume_at);
    const char *t = FIND(p, len, "\"token\":\"", &token_at);
    const char *u = FIND(p, len, "\"last_updated\":\"", &updated_at);
    if (!v || !t || !u || p[len - 1] != '}') return 0;
    *tick = (struct tick){number(&v), number(&t), time_of_day(u)};
    return 1;
}

static i64 packed(const char *p) { /* an integer of MessagePack that is not negative */
    const unsigned char *u = (const unsigned char *)p;
    int size = *u < 0x80 ? 0 : *u >= 0xcc && *u <= 0xcf ? 1 << (*u - 0xcc) : -1;
    i64 value = size ? 0 : *u;
    for (int i = 1; i <= size; i++) value = value << 8 | u[i];
    return size < 0 ? -1 : value;
}

/* Keys are found as their text behind its length byte; both texts read here are short strings. */
static int read_msgpack(const char *p, int len, struct tick *tick) {
    static int volume_at, token_at, updated_at;
    const char *v = FIND(p, len, "\xa6volume", &volume_at);
    const char *t = FIND(p, len, "\xa5token", &token_at);
    const char *u = FIND(p, len, "\xaclast_updated\xd9\x23", &updated_at);
    if (!v || !t || !u) return 0;
    t++;
    *tick = (struct tick){packed(v), number(&t), time_of_day(u)};
    return 1;
}

static int read_binary(const char *p, int len, struct tick *tick) {
    if (len != 120 || p[0] != 1) return 0;
    memcpy(&tick->token, p + 8, 8);
    memcpy(&tick->updated, p + 32, 8);
    memcpy(&tick->n, p + 40, 8);
    tick->updated = (tick->updated + IST_NS) % DAY_NS;
    return 1;
}

static void on_quote(struct conn *c, const char *p, int len, i64 now, int wire) {
    struct tick tick;
    int is_read = p[0] == '{' ? read_json(p, len, &tick)
                : p[0] == 1 ? read_binary(p, len, &tick) : read_msgpack(p, len, &tick);
    if (!is_running || !is_read) { note_bad(p, len); return; }
    i64 n = tick.n, topic = tick.token - FIRST_TOKEN;
    if (n < 0 || n >= total || topic != n % topics) { note_bad(p, len); return; }

    /* In the order of the schedule, what comes next is the next of the sorted topics. */
    int slot = c->cursor;
    if (c->topics[slot] != topic) {
        int low = 0, high = per_client - 1;
        while (low < high) {
            int middle = (low + high) / 2;
            if (c->topics[middle] < topic) low = middle + 1; else high = middle;
        }
        slot = low;
        if (c->topics[slot] != topic) { note_bad(p, len); return; }
    }
    c->cursor = slot + 1 == per_client ? 0 : slot + 1;
    i64 expected = c->last[slot] < 0 ? topic : c->last[slot] + topics;
    if (c->is_late) {
        late_received++;
        if (n < expected) late_out_of_order++; else c->last[slot] = n;
        return;
    }
    if (n < expected) { out_of_order++; return; }
    missing += (n - expected) / topics;
    c->last[slot] = n;

    received++;
    i64 due = t0 + n * 1000 / rate * 1000000, begin = t0 + warm_ns, end = begin + measure_ns;
    if (now >= begin && now < end) {
        received_window++;
        bytes_window += wire;
    }
    if (due >= begin && due < end) {
        i64 second = (due - begin) / 1000000000;
        i64 part = (now + IST_NS) % DAY_NS - tick.updated;
        record(&due_hist, (now - due) / 1000);
        record(&server_hist, (part < -DAY_NS / 2 ? part + DAY_NS : part) / 1000);
        if (second < MAX_SECONDS) record(&second_hist[second], (now - due) / 1000);
    }
}

static void on_answer(struct conn *c) {
    answers++;
    c->answered++;
    record(&request_hist, (now_ns(CLOCK_MONOTONIC) - c->asked_ns) / 1000);
    if (c->answered == 1) subscribed_count++;
}

static void on_text(struct conn *c, const char *p, int len, i64 now, int wire) {
    static const char quote[] = "{\"type\":\"market_data\"";
    if (len > (int)sizeof quote && !memcmp(p, quote, sizeof quote - 1)) on_quote(c, p, len, now, wire);
    else if (memmem(p, (size_t)len, "\"subscription_response\"", 23)) {
        if (memmem(p, (size_t)len, "\"success\"", 9)) on_answer(c); else note_bad(p, len);
    } else if (memmem(p, (size_t)len, "\"welcome\"", 9)) {
        if (c->state == WELCOMING) { c->state = OPEN; open_count++; }
    } else if (!memmem(p, (size_t)len, "\"market_status\"", 15) &&
             !memmem(p, (size_t)len, "\"instruments\"", 13)) note_bad(p, len);
}

static char *grow(char *data, int *cap, int need) {
    if (need <= *cap) return data;
    *cap = need + need / 2 + 256;
    data = realloc(data, (size_t)*cap);
    if (!data) die("memory");
    return data;
}

/* NATS over WebSocket is a stream of bytes whose frames mean nothing. */
static void on_stream(struct conn *c, const char *p, int len, i64 now) {
    if (c->stream_len) {
        c->stream = grow(c->stream, &c->stream_cap, c->stream_len + len);
        memcpy(c->stream + c->stream_len, p, (size_t)len);
        len += c->stream_len;
        p = c->stream;
        c->stream_len = 0;
    }
    while (len > 0) {
        const char *end = memchr(p, '\n', (size_t)len);
        if (!end) break;
        int line = (int)(end - p) + 1;
        if (!memcmp(p, "MSG ", 4)) {
            const char *digit = end - 2;
            while (digit > p && digit[-1] != ' ') digit--;
            int size = (int)number(&digit);
            if (len < line + size + 2) break;
            on_text(c, p + line, size, now, line + size + 2);
            line += size + 2;
        } else if (!memcmp(p, "PONG", 4)) on_answer(c);
        else if (!memcmp(p, "PING", 4)) send_frame(c, 2, "PONG\r\n", 6);
        else if (!memcmp(p, "-ERR", 4)) note_bad(p, line);
        p += line;
        len -= line;
    }
    if (len > 0) {
        c->stream = grow(c->stream, &c->stream_cap, len);
        memmove(c->stream, p, (size_t)len);
        c->stream_len = len;
    }
}

/* ---------------------------------------------------------------- reading */

static void drop(struct conn *c) {
    if (c->state == CLOSED) return;
    if (c->state == OPEN) closed_count++; else failed_count++;
    c->state = CLOSED;
    close(c->fd);
}

static int handshake(struct conn *c, const char *p, int len) {
    const char *end = memmem(p, (size_t)len, "\r\n\r\n", 4);
    if (!end) return 0;
    if (memcmp(p, "HTTP/1.1 101", 12) || !memmem(p, (size_t)len, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", 28)) {
        note_bad(p, len);
        drop(c);
        return 0;
    }
    if (has_welcome) c->state = WELCOMING;
    else { c->state = OPEN; open_count++; }
    if (is_nats) {
        static const char hello[] = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";
        send_frame(c, 2, hello, sizeof hello - 1);
    }
    return (int)(end - p) + 4;
}

static void on_bytes(struct conn *c, char *p, int len, i64 now) {
    if (c->state == SHAKING) {
        int used = handshake(c, p, len);
        p += used;
        len -= used;
    }
    while (len >= 2 && c->state != SHAKING && c->state != CLOSED) {
        int opcode = p[0] & 15, head = 2;
        i64 size = (unsigned char)p[1];
        if (size == 126) {
            if (len < 4) break;
            head = 4;
            size = (unsigned char)p[2] << 8 | (unsigned char)p[3];
        } else if (size == 127) {
            if (len < 10) break;
            head = 10;
            size = 0;
            for (int i = 2; i < 10; i++) size = size << 8 | (unsigned char)p[i];
        }
        if (size > BUFFER - 16) { note_bad(p, len); drop(c); return; }
        if (len < head + size) break;
        if (!is_nats && !(p[0] & 0x80)) note_bad(p, len); /* nobody has reason to fragment */
        if (opcode == 8) { drop(c); return; }
        if (opcode == 9) send_frame(c, 10, p + head, (int)size);
        else if (opcode == 10) ;
        else if (is_nats) on_stream(c, p + head, (int)size, now);
        else if (opcode == 2) on_quote(c, p + head, (int)size, now, head + (int)size);
        else on_text(c, p + head, (int)size, now, head + (int)size);
        p += head + size;
        len -= head + (int)size;
    }
    c->carry = grow(c->carry, &c->carry_cap, len);
    memcpy(c->carry, p, (size_t)len);
    c->carry_len = len;
}

static void on_readable(struct conn *c, int most) {
    int held = c->carry_len;
    if (held) memcpy(buffer, c->carry, (size_t)held);
    int room = BUFFER - held;
    ssize_t n = recv(c->fd, buffer + held, (size_t)(most < room ? most : room), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) { drop(c); return; }
    on_bytes(c, buffer, held + (int)n, now_ns(CLOCK_REALTIME));
}

static void watch(struct conn *c, int op, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(epfd, op, c->fd, &event)) die("epoll_ctl");
}

static void begin(struct conn *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct linger reset = {1, 0}; /* leave no TIME_WAIT behind: the next run needs the ports */
    int one = 1, small = 4096;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (c->is_late) setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) die("connect");
    c->state = CONNECTING;
    watch(c, EPOLL_CTL_ADD, EPOLLOUT);
}

static void greet(struct conn *c) {
    char text[512];
    int len = sprintf(text,
                      "GET %s%s%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                      path, strchr(path, '?') ? "" : "?client_id=bench", (int)(c - conns), port);
    write_all(c, text, len);
    c->state = SHAKING;
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

/* Handle what is there; return 1 where a command waits on stdin. */
static int turn(int timeout_ms) {
    static struct epoll_event events[EVENTS];
    int command = 0, n = epoll_wait(epfd, events, EVENTS, timeout_ms);
    for (int i = 0; i < n; i++) {
        struct conn *c = events[i].data.ptr;
        if (!c) command = 1;
        else if (c->state == CONNECTING) {
            if (events[i].events & (EPOLLERR | EPOLLHUP)) drop(c); else greet(c);
        } else if (c->state != CLOSED) on_readable(c, BUFFER);
    }
    return command;
}

/* ---------------------------------------------------------------- commands */

static void make_connections(void) {
    int *deck = malloc(sizeof(int) * (size_t)topics), left = 0;
    uint64_t seed = 88172645463325252ULL;
    for (int i = 0; i < topics; i++) deck[i] = i;
    conns = calloc((size_t)clients, sizeof *conns);
    for (int n = 0; n < clients; n++) {
        struct conn *c = &conns[n];
        c->is_late = late_percent && n % (100 / late_percent) == 0;
        c->topics = malloc(sizeof(int) * (size_t)per_client);
        c->last = malloc(sizeof(i64) * (size_t)per_client);
        /* Dealt from shuffled decks: every topic has the same number of subscribers. */
        if (left < per_client) {
            for (int i = topics - 1; i > 0; i--) {
                seed ^= seed << 13; seed ^= seed >> 7; seed ^= seed << 17;
                int j = (int)(seed % (uint64_t)(i + 1)), held = deck[i];
                deck[i] = deck[j];
                deck[j] = held;
            }
            left = topics;
        }
        memcpy(c->topics, deck + topics - left, sizeof(int) * (size_t)per_client);
        left -= per_client;
        for (int i = 1; i < per_client; i++) {
            int value = c->topics[i], j = i;
            for (; j > 0 && c->topics[j - 1] > value; j--) c->topics[j] = c->topics[j - 1];
            c->topics[j] = value;
        }
    }
    free(deck);
}

static void command_connect(void) {
    i64 started = now_ns(CLOCK_MONOTONIC), limit = started + 120000000000LL;
    for (int next = 0; open_count + failed_count < clients && now_ns(CLOCK_MONOTONIC) < limit;) {
        while (next < clients && next - open_count - failed_count < IN_FLIGHT) begin(&conns[next++]);
        turn(100);
    }
    double s = (double)(now_ns(CLOCK_MONOTONIC) - started) / 1e9;
    printf("{\"connected\":%d,\"failed\":%d,\"seconds\":%.4f,\"first_bad\":\"%s\"}\n", open_count,
           clients - open_count, s, first_bad);
}

static void command_subscribe(void) {
    i64 started = now_ns(CLOCK_MONOTONIC), limit = started + 120000000000LL;
    for (int next = 0; subscribed_count + closed_count < clients && now_ns(CLOCK_MONOTONIC) < limit;) {
        while (next < clients && next - subscribed_count - closed_count < IN_FLIGHT) {
            struct conn *c = &conns[next++];
            if (c->state == OPEN) send_subscribe(c, c->topics, per_client);
        }
        turn(100);
    }
    double s = (double)(now_ns(CLOCK_MONOTONIC) - started) / 1e9;
    printf("{\"subscribed\":%d,\"seconds\":%.4f,\"bad\":%lld,\"first_bad\":\"%s\"}\n", subscribed_count, s,
           (long long)bad, first_bad);
}

/* Every connection asks for `count` different sets of stocks in turn, the next when it has the
 * answer to the last. */
static void command_requests(int count) {
    i64 started = now_ns(CLOCK_MONOTONIC), limit = started + 60000000000LL, wanted = (i64)count * clients;
    int *list = malloc(sizeof(int) * (size_t)per_client);
    while (answers < wanted && closed_count < clients && now_ns(CLOCK_MONOTONIC) < limit) {
        for (int n = 0; n < clients; n++) {
            struct conn *c = &conns[n];
            if (c->state != OPEN || c->asked != c->answered || c->asked >= count) continue;
            for (int i = 0; i < per_client; i++) list[i] = (c->asked * per_client + i) % topics;
            send_subscribe(c, list, per_client);
        }
        turn(100);
    }
    free(list);
    double s = (double)(now_ns(CLOCK_MONOTONIC) - started) / 1e9;
    printf("{\"answered\":%lld,\"wanted\":%lld,\"seconds\":%.4f,\"bad\":%lld,", (long long)answers, (long long)wanted, s,
           (long long)bad);
    print_hist("latency", &request_hist);
    printf("}\n");
}

static i64 expected_until(i64 ticks) {
    i64 sum = 0;
    for (int n = 0; n < clients; n++)
        for (int i = 0; i < per_client && !conns[n].is_late; i++)
            if (ticks > conns[n].topics[i]) sum += (ticks - conns[n].topics[i] + topics - 1) / topics;
    return sum;
}

/* How many ticks are due before a moment. */
static i64 ticks_before(i64 ns_after_t0) { return ((ns_after_t0 + 999999) / 1000000 * rate + 999) / 1000; }

static void command_run(void) {
    i64 offered = expected_until(ticks_before(warm_ns + measure_ns)) - expected_until(ticks_before(warm_ns));
    i64 wanted = expected_until(total), begin_at = t0 + warm_ns, end_at = begin_at + measure_ns;
    i64 cpu_begin = 0, wall_begin = 0, cpu_end = 0, wall_end = 0, late_at = 0, now;
    for (int n = 0; n < clients; n++) {
        for (int i = 0; i < per_client; i++) conns[n].last[i] = -1;
        if (conns[n].is_late && conns[n].state != CLOSED) epoll_ctl(epfd, EPOLL_CTL_DEL, conns[n].fd, NULL);
    }
    is_running = 1;
    while ((now = now_ns(CLOCK_REALTIME)) < end_at + DRAIN_NS && (received < wanted || now < end_at)) {
        if (!wall_begin && now >= begin_at) { wall_begin = now; cpu_begin = now_ns(CLOCK_PROCESS_CPUTIME_ID); }
        if (!wall_end && now >= end_at) { wall_end = now; cpu_end = now_ns(CLOCK_PROCESS_CPUTIME_ID); }
        if (late_percent && now >= late_at) {
            for (int n = 0; n < clients; n++)
                if (conns[n].is_late && conns[n].state == OPEN) on_readable(&conns[n], LATE_BYTES);
            late_at = now + LATE_EVERY_NS;
        }
        turn(10);
    }
    if (!wall_end) { wall_end = now; cpu_end = now_ns(CLOCK_PROCESS_CPUTIME_ID); }
    is_running = 0;
    printf("{\"offered\":%lld,\"received\":%lld,\"bytes\":%lld,\"seconds\":%.3f,\"generator_cpu\":%.4f,"
           "\"wanted_total\":%lld,\"received_total\":%lld,\"gaps\":%lld,\"out_of_order\":%lld,\"bad\":%lld,"
           "\"closed\":%d,\"late_received\":%lld,\"late_out_of_order\":%lld,\"first_bad\":\"%s\",",
           (long long)offered, (long long)received_window, (long long)bytes_window, (double)measure_ns / 1e9,
           (double)(cpu_end - cpu_begin) / (double)(wall_end - wall_begin), (long long)wanted, (long long)received,
           (long long)missing, (long long)out_of_order, (long long)bad, closed_count, (long long)late_received,
           (long long)late_out_of_order, first_bad);
    print_hist("latency", &due_hist);
    putchar(',');
    print_hist("server_latency", &server_hist);
    printf(",\"p99_by_second\":[");
    for (int i = 0; i < measure_ns / 1000000000 && i < MAX_SECONDS; i++)
        printf("%s%.3f", i ? "," : "", quantile_ms(&second_hist[i], 0.99));
    printf("]}\n");
}

int main(int argc, char **argv) {
    static char line[256];
    struct rlimit files;
    if (argc != 9) { fprintf(stderr, "usage: see the top of load.c\n"); return 2; }
    port = atoi(argv[1]);
    path = argv[2];
    clients = atoi(argv[3]);
    topics = atoi(argv[4]);
    per_client = atoi(argv[5]);
    late_percent = atoi(argv[6]);
    is_nats = !strcmp(argv[7], "nats");
    has_welcome = atoi(argv[8]);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    setvbuf(stdout, NULL, _IOLBF, 0);
    epfd = epoll_create1(0);
    struct epoll_event on_stdin = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(epfd, EPOLL_CTL_ADD, 0, &on_stdin)) die("stdin must be a pipe");
    make_connections();
    for (;;) {
        long long a, b, t, w, m;
        int count;
        while (!turn(1000)) ;
        ssize_t n = read(0, line, sizeof line - 1); /* one command at a time, awaited by its sender */
        if (n <= 0) return 0;
        line[n] = 0;
        if (!strncmp(line, "connect", 7)) command_connect();
        else if (!strncmp(line, "subscribe", 9)) command_subscribe();
        else if (sscanf(line, "requests %d", &count) == 1) command_requests(count);
        else if (sscanf(line, "run %lld %lld %lld %lld %lld", &a, &b, &t, &w, &m) == 5) {
            t0 = a;
            rate = b;
            total = t;
            warm_ns = w * 1000000;
            measure_ns = m * 1000000;
            command_run();
        } else { fprintf(stderr, "load: unknown command %s\n", line); return 2; }
    }
}
