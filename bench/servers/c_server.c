/* The physical limit: a program that only writes finished frames to sockets.
 *
 * Usage: c_server TOPICS send|coalesced
 *   send       one send() for each message and client
 *   coalesced  one writev() for each client and batch of due ticks; nothing is copied
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "source.h"

#define MAX_FRAME (MAX_PAYLOAD + 4)
#define MAX_OWED (64 << 20) /* a client that owes more is closed */
#define INPUT (128 * 1024)

struct client {
    int fd, is_open, input_len, iov_count;
    char *input;
    char *owed; /* what the kernel did not take */
    size_t owed_from, owed_to, owed_cap;
    struct iovec iov[MAX_BURST];
};

struct route { struct client **clients; int count, cap; };

static int topics, is_coalesced, epfd;
static struct route *routes;
static struct schedule schedule;
static struct client **dirty;
static int dirty_count, dirty_cap;
static char frames[MAX_BURST][MAX_FRAME];

/* ---------------------------------------------------------------- handshake */

static uint32_t rotate(uint32_t x, int n) { return x << n | x >> (32 - n); }

static void sha1(const unsigned char *data, size_t len, unsigned char out[20]) {
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0}, w[80];
    unsigned char block[128] = {0};
    size_t size = len < 56 ? 64 : 128;
    memcpy(block, data, len); /* a key and the GUID: 60 bytes */
    block[len] = 0x80;
    for (int i = 0; i < 8; i++) block[size - 1 - (size_t)i] = (unsigned char)((uint64_t)len * 8 >> (8 * i));
    for (size_t at = 0; at < size; at += 64) {
        for (int i = 0; i < 16; i++) {
            const unsigned char *p = block + at + i * 4;
            w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
        }
        for (int i = 16; i < 80; i++) w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 80; i++) {
            uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 ? b ^ c ^ d : i < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
            uint32_t k = i < 20 ? 0x5A827999 : i < 40 ? 0x6ED9EBA1 : i < 60 ? 0x8F1BBCDC : 0xCA62C1D6;
            uint32_t t = rotate(a, 5) + f + e + k + w[i];
            e = d; d = c; c = rotate(b, 30); b = a; a = t;
        }
        h[0] += a; h[1] += b; h[2] += c; h[3] += d; h[4] += e;
    }
    for (int i = 0; i < 20; i++) out[i] = (unsigned char)(h[i / 4] >> (24 - i % 4 * 8));
}

static int accept_text(const char *key, char *out) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned char text[64], digest[21] = {0};
    int at = 0;
    memcpy(text, key, 24);
    memcpy(text + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    sha1(text, 60, digest);
    for (int i = 0; i < 21; i += 3) {
        uint32_t v = (uint32_t)digest[i] << 16 | (uint32_t)digest[i + 1] << 8 | digest[i + 2];
        for (int j = 0; j < 4; j++) out[at++] = alphabet[v >> (18 - 6 * j) & 63];
    }
    out[27] = '=';
    return 28;
}

/* ---------------------------------------------------------------- writing */

static void drop(struct client *c) {
    for (int t = 0; t < topics; t++)
        for (int i = 0; i < routes[t].count; i++)
            if (routes[t].clients[i] == c) routes[t].clients[i--] = routes[t].clients[--routes[t].count];
    close(c->fd);
    c->fd = -1; /* not freed: it may be in the dirty list, and the program is short-lived */
    free(c->owed);
    c->owed = NULL;
    c->owed_from = c->owed_to = c->owed_cap = 0;
}

static void watch(struct client *c, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(epfd, EPOLL_CTL_MOD, c->fd, &event);
}

static void owe(struct client *c, const char *data, size_t len) {
    if (c->owed_to + len > c->owed_cap) {
        memmove(c->owed, c->owed + c->owed_from, c->owed_to - c->owed_from);
        c->owed_to -= c->owed_from;
        c->owed_from = 0;
        if (c->owed_to + len > c->owed_cap) {
            c->owed_cap = (c->owed_to + len) * 2;
            c->owed = realloc(c->owed, c->owed_cap);
        }
    }
    memcpy(c->owed + c->owed_to, data, len);
    if (c->owed_from == c->owed_to) watch(c, EPOLLIN | EPOLLOUT);
    c->owed_to += len;
}

static void write_frame(struct client *c, const char *data, size_t len) {
    if (c->fd < 0) return;
    if (c->owed_from == c->owed_to) {
        ssize_t n = send(c->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n == (ssize_t)len || (n < 0 && errno != EAGAIN)) return; /* its end will be read */
        if (n > 0) { data += n; len -= (size_t)n; }
    }
    if (c->owed_to - c->owed_from < MAX_OWED) owe(c, data, len);
    else drop(c);
}

static void write_batch(struct client *c) {
    ssize_t n = 0;
    if (c->fd >= 0 && c->owed_from == c->owed_to) {
        n = writev(c->fd, c->iov, c->iov_count);
        if (n < 0 && errno != EAGAIN) { c->iov_count = 0; return; }
        if (n < 0) n = 0;
    }
    for (int i = 0; i < c->iov_count; i++) {
        size_t size = c->iov[i].iov_len;
        if ((size_t)n >= size) { n -= (ssize_t)size; continue; }
        if (c->fd >= 0) {
            if (c->owed_to - c->owed_from < MAX_OWED) owe(c, (char *)c->iov[i].iov_base + n, size - (size_t)n);
            else drop(c);
        }
        n = 0;
    }
    c->iov_count = 0;
}

static void settle(struct client *c) {
    ssize_t n = send(c->fd, c->owed + c->owed_from, c->owed_to - c->owed_from, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) c->owed_from += (size_t)n;
    if (c->owed_from == c->owed_to) {
        c->owed_from = c->owed_to = 0;
        watch(c, EPOLLIN);
    }
}

static void publish(void) {
    int64_t end = due_until(&schedule);
    for (int64_t n = schedule.next; n < end; n++) {
        char *frame = frames[n - schedule.next];
        int size = payload_of(n, topics, frame + 4);
        struct route *route = &routes[n % topics];
        frame[0] = (char)0x81;
        frame[1] = 126;
        frame[2] = (char)(size >> 8);
        frame[3] = (char)size;
        if (!is_coalesced) {
            for (int i = route->count - 1; i >= 0; i--) write_frame(route->clients[i], frame, (size_t)size + 4);
            continue;
        }
        for (int i = 0; i < route->count; i++) {
            struct client *c = route->clients[i];
            if (!c->iov_count) dirty[dirty_count++] = c;
            c->iov[c->iov_count++] = (struct iovec){frame, (size_t)size + 4};
        }
    }
    for (int i = 0; i < dirty_count; i++) write_batch(dirty[i]);
    dirty_count = 0;
    if (end > schedule.next) schedule.next = end;
}

/* ---------------------------------------------------------------- reading */

static void subscribe(struct client *c, const char *p, const char *end) {
    static const char reply[] = "\x81\x31{\"type\":\"subscription_response\",\"status\":\"success\"}";
    static char frame[64];
    const char *at = memmem(p, (size_t)(end - p), "\"stocks\":[", 10);
    for (at = at ? at + 10 : end; at < end && *at != ']';) {
        if (*at++ != '"') continue;
        int topic = atoi(at) - FIRST_TOKEN;
        at = memchr(at, '"', (size_t)(end - at));
        if (!at) return;
        at++;
        if (topic < 0 || topic >= topics) continue;
        struct route *route = &routes[topic];
        if (route->count == route->cap) {
            route->cap = route->cap * 2 + 16;
            route->clients = realloc(route->clients, sizeof *route->clients * (size_t)route->cap);
        }
        route->clients[route->count++] = c;
    }
    size_t size = sizeof reply - 3;
    memcpy(frame, reply, size + 2);
    frame[1] = (char)size;
    write_frame(c, frame, size + 2);
}

static void on_input(struct client *c) {
    ssize_t n;
    if (!c->input) c->input = malloc(INPUT);
    n = recv(c->fd, c->input + c->input_len, (size_t)(INPUT - c->input_len), MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { drop(c); return; }
    c->input_len += (int)n;
    if (!c->is_open) {
        char *end = memmem(c->input, (size_t)c->input_len, "\r\n\r\n", 4), reply[256];
        char *key = memmem(c->input, (size_t)c->input_len, "Sec-WebSocket-Key: ", 19);
        if (!end) return;
        if (!key) { drop(c); return; }
        int len = sprintf(reply, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                 "Sec-WebSocket-Accept: ");
        len += accept_text(key + 19, reply + len);
        memcpy(reply + len, "\r\n\r\n", 4);
        write_frame(c, reply, (size_t)len + 4);
        c->is_open = 1;
        c->input_len -= (int)(end + 4 - c->input);
        memmove(c->input, end + 4, (size_t)c->input_len);
    }
    for (;;) {
        unsigned char *p = (unsigned char *)c->input;
        int head = 6;
        if (c->input_len < 8) break;
        int size = p[1] & 127;
        if (size == 126) { size = p[2] << 8 | p[3]; head = 8; }
        if (size == 127 || head + size > INPUT) { drop(c); return; }
        if (c->input_len < head + size) break;
        for (int i = 0; i < size; i++) p[head + i] ^= p[head - 4 + (i & 3)];
        if ((p[0] & 15) == 8) { drop(c); return; }
        if ((p[0] & 15) == 1) subscribe(c, (char *)p + head, (char *)p + head + size);
        c->input_len -= head + size;
        memmove(c->input, p + head + size, (size_t)c->input_len);
    }
    if (!c->input_len) { free(c->input); c->input = NULL; }
}

static void take_in(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct client *c = calloc(1, sizeof *c);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        c->fd = fd;
        epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event);
        dirty = realloc(dirty, sizeof *dirty * (size_t)++dirty_cap);
    }
}

int main(int argc, char **argv) {
    static struct epoll_event events[512];
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    struct rlimit files;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (argc != 3) { fprintf(stderr, "usage: c_server TOPICS send|coalesced\n"); return 2; }
    topics = atoi(argv[1]);
    is_coalesced = !strcmp(argv[2], "coalesced");
    routes = calloc((size_t)topics, sizeof *routes);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) return 1;
    getsockname(listener, (struct sockaddr *)&address, &size);
    schedule.timer = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK);
    epfd = epoll_create1(0);
    int *sources[3] = {&listener, &schedule.timer, &epfd}; /* told apart by address; epfd is stdin */
    int fds[3] = {listener, schedule.timer, 0};
    for (int i = 0; i < 3; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = sources[i]};
        epoll_ctl(epfd, EPOLL_CTL_ADD, fds[i], &event);
    }
    printf("ready %d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(epfd, events, 512, -1);
        for (int i = 0; i < n; i++) {
            void *from = events[i].data.ptr;
            if (from == sources[0]) take_in(listener);
            else if (from == sources[1]) publish();
            else if (from == sources[2]) { if (!read_command(&schedule)) return 0; }
            else {
                struct client *c = from;
                if (c->fd >= 0 && events[i].events & EPOLLOUT) settle(c);
                if (c->fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) on_input(c);
            }
        }
    }
}
