/* Writes down what a process writes to one SQLite database and when it was synced.
 *
 * Loaded with LD_PRELOAD. POWERLOSS_DB names the database, POWERLOSS_LOG the file that
 * every write, truncation and completed sync of it and of its write-ahead log is appended to:
 * kind ('w', 't' or 's'), file (0 database, 1 log), offset, length, and the data of a write.
 * A write is logged before it is done and a sync after it: the log never promises too much.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

struct __attribute__((packed)) head {
    char kind;
    uint8_t file;
    int64_t offset;
    int64_t length;
};

/* Return 0 for the database, 1 for its write-ahead log, -1 for any other file. */
static int file_of(int fd) {
    const char *database = getenv("POWERLOSS_DB");
    char link[64], path[PATH_MAX];
    if (database == NULL) return -1;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return -1;
    path[size] = 0;
    size_t length = strlen(database);
    if (strncmp(path, database, length) != 0) return -1;
    if (path[length] == 0) return 0;
    return strcmp(path + length, "-wal") == 0 ? 1 : -1;
}

static void note(char kind, int file, int64_t offset, int64_t length, const void *data) {
    static int log = -1;
    pthread_mutex_lock(&lock);
    if (log < 0) log = open(getenv("POWERLOSS_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    struct head head = {kind, (uint8_t)file, offset, length};
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)data, kind == 'w' ? (size_t)length : 0}};
    if (writev(log, parts, 2) != (ssize_t)(parts[0].iov_len + parts[1].iov_len)) abort();
    pthread_mutex_unlock(&lock);
}

#define REAL(name, type) \
    static __typeof__(type) real = NULL; \
    if (real == NULL) real = (type)dlsym(RTLD_NEXT, #name)

#define WRITE(name, off) \
    ssize_t name(int fd, const void *data, size_t length, off offset) { \
        REAL(name, ssize_t (*)(int, const void *, size_t, off)); \
        int file = file_of(fd); \
        if (file >= 0) note('w', file, offset, (int64_t)length, data); \
        return real(fd, data, length, offset); \
    }
WRITE(pwrite, off_t)
WRITE(pwrite64, off64_t)

#define TRUNCATE(name, off) \
    int name(int fd, off length) { \
        REAL(name, int (*)(int, off)); \
        int file = file_of(fd); \
        if (file >= 0) note('t', file, 0, length, NULL); \
        return real(fd, length); \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define SYNC(name) \
    int name(int fd) { \
        REAL(name, int (*)(int)); \
        int result = real(fd), file = file_of(fd); \
        if (file >= 0 && result == 0) note('s', file, 0, 0, NULL); \
        return result; \
    }
SYNC(fsync)
SYNC(fdatasync)
