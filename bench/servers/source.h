/* The schedule and the messages that every C program of the benchmark shares: see source.py. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define FIRST_TOKEN 10001
#define MAX_BURST 256
#define MAX_PAYLOAD 900
#define SLICE_NS 1000000LL

struct schedule { int64_t t0, rate, total, next; int timer; };

static int64_t wall_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

/* Read "run T0_NS RATE TOTAL" from stdin and arm the timer; return 0 at the end of stdin. */
static int read_command(struct schedule *s) {
    char line[256];
    long long a, b, c;
    ssize_t n = read(0, line, sizeof line - 1);
    if (n <= 0) return 0;
    line[n] = 0;
    if (sscanf(line, "run %lld %lld %lld", &a, &b, &c) == 3) {
        struct itimerspec spec = {{0, SLICE_NS}, {a / 1000000000, a % 1000000000}};
        *s = (struct schedule){a, b, c, 0, s->timer};
        timerfd_settime(s->timer, TFD_TIMER_ABSTIME, &spec, NULL);
    }
    return 1;
}

/* Return the end of the ticks [next, end) that are due, at most MAX_BURST of them. */
static int64_t due_until(struct schedule *s) {
    int64_t end = ((wall_ns() - s->t0) / SLICE_NS + 1) * s->rate / 1000 + 1;
    while (end > 0 && (end - 1) * 1000 / s->rate * SLICE_NS > wall_ns() - s->t0) end--;
    if (end > s->total) end = s->total;
    if (end > s->next + MAX_BURST) return s->next + MAX_BURST;
    /* All there is: the timer may fall silent until the next slice. */
    uint64_t expirations;
    ssize_t ignored = read(s->timer, &expirations, sizeof expirations);
    (void)ignored;
    if (end == s->total) {
        struct itimerspec never = {{0, 0}, {0, 0}};
        timerfd_settime(s->timer, 0, &never, NULL);
    }
    return end;
}

/* Write the market_data message of tick n and return its size. */
static int payload_of(int64_t n, int topics, char *out) {
    static int64_t date_second;
    static char date[32];
    int topic = (int)(n % topics);
    int64_t now = wall_ns(), ms = now / 1000000;
    double ltp = 1365.5 + (double)(n * 7919 % 400 - 200) * 0.05;
    if (now / 1000000000 != date_second) {
        struct tm tm;
        time_t shifted = (time_t)(now / 1000000000 + 19800);
        date_second = now / 1000000000;
        gmtime_r(&shifted, &tm);
        strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &tm);
    }
    return snprintf(out, MAX_PAYLOAD,
                    "{\"type\":\"market_data\",\"symbol\":\"BENCH%04d\",\"token\":\"%d\",\"exchange\":\"NSE\",\"data\":{"
                    "\"symbol\":\"BENCH%04d\",\"token\":\"%d\",\"exchange\":\"NSE\",\"ltp\":%.2f,\"open\":1371.8,"
                    "\"high\":1376.0,\"low\":1355.3,\"close\":1372.6,\"prev_close\":1372.6,\"volume\":%lld,"
                    "\"percent_change\":%.16f,\"week_52_high\":1551.0,\"week_52_low\":1115.55,"
                    "\"week_52_high_date\":\"2025-07-09\",\"week_52_low_date\":\"2025-04-07\",\"day_high\":1376.0,"
                    "\"day_low\":1355.3,\"avg_volume_5d\":8053013,\"timestamp\":%lld,"
                    "\"last_updated\":\"%s.%09lld+05:30\",\"is_new_week_52_high\":false,"
                    "\"is_new_week_52_low\":false},\"timestamp\":%lld}",
                    topic, FIRST_TOKEN + topic, topic, FIRST_TOKEN + topic, ltp, (long long)n,
                    (ltp - 1372.6) / 1372.6 * 100, (long long)ms, date, (long long)(now % 1000000000), (long long)ms);
}
