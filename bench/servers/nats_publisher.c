/* Publishes the ticks to a nats-server: it is that server's source. Usage: nats_publisher PORT TOPICS */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "source.h"

static void write_all(int fd, const char *data, int len) {
    while (len > 0) {
        ssize_t n = send(fd, data, (size_t)len, MSG_NOSIGNAL);
        if (n <= 0) exit(1);
        data += n;
        len -= (int)n;
    }
}

int main(int argc, char **argv) {
    static char batch[MAX_BURST * (MAX_PAYLOAD + 64)], payload[MAX_PAYLOAD], input[65536];
    static const char hello[] = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\n";
    if (argc != 3) return 2;
    int topics = atoi(argv[2]), one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    struct schedule schedule = {0};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) return 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    write_all(fd, hello, sizeof hello - 1);
    schedule.timer = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK);
    struct pollfd polled[3] = {{0, POLLIN, 0}, {fd, POLLIN, 0}, {schedule.timer, POLLIN, 0}};
    for (;;) {
        poll(polled, 3, -1);
        if (polled[0].revents && !read_command(&schedule)) return 0;
        if (polled[1].revents) {
            ssize_t n = recv(fd, input, sizeof input, 0);
            if (n <= 0) return 1;
            if (memmem(input, (size_t)n, "PING", 4)) write_all(fd, "PONG\r\n", 6);
        }
        if (!polled[2].revents) continue;
        int at = 0;
        int64_t end = due_until(&schedule);
        for (int64_t n = schedule.next; n < end; n++) {
            int size = payload_of(n, topics, payload);
            at += sprintf(batch + at, "PUB q.%d %d\r\n", (int)(FIRST_TOKEN + n % topics), size);
            memcpy(batch + at, payload, (size_t)size);
            memcpy(batch + at + size, "\r\n", 2);
            at += size + 2;
        }
        if (end > schedule.next) schedule.next = end;
        write_all(fd, batch, at);
    }
}
