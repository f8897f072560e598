/*
 * measure PIPE COUNT START... -- REMOVE...
 * measure - 0 COMMAND...
 *
 * Starts the command START, waits until COUNT workloads have each written their first moment (eight bytes, CLOCK_MONOTONIC in
 * nanoseconds) into the named pipe PIPE, rests, and removes what was started: with the command REMOVE, or, if that is empty, by
 * closing the standard input of START. Prints five times in microseconds:
 *
 *   from before the start of START to the first instruction of the last workload
 *   from before the start of START to its end (0 when it stays until the removal)
 *   from before the removal to the end of the command that removes
 *   from before the removal to the end of the last workload, which is when nobody holds the pipe for writing any more
 *   CPU time of this program itself
 *
 * The second form prints one: from before the start of COMMAND to its end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void die(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    fputs("measure: ", stderr);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    va_end(list);
    exit(1);
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* Starts a command; `feed` becomes its standard input when it is not negative. What it prints is thrown away. */
static pid_t start(char **argv, int feed)
{
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    if (feed >= 0)
        posix_spawn_file_actions_adddup2(&actions, feed, 0);
    pid_t pid;
    int error = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
    if (error)
        die("start %s: %s", argv[0], strerror(error));
    posix_spawn_file_actions_destroy(&actions);
    return pid;
}

static void finish(pid_t pid, const char *name)
{
    int status;
    if (waitpid(pid, &status, 0) != pid)
        die("wait for %s: %s", name, strerror(errno));
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        die("%s ended with status %#x", name, status);
}

/* Waits for the end of the workloads, the end of the removing process, or both; the moment of each is stored once. */
static void watch(int stamp, pid_t remover, const char *name, int64_t *gone, int64_t *removed)
{
    int pidfd = syscall(SYS_pidfd_open, remover, 0);
    if (pidfd < 0)
        die("pidfd_open: %s", strerror(errno));
    struct pollfd fds[2] = {{.fd = stamp, .events = POLLIN}, {.fd = pidfd, .events = POLLIN}};
    while (fds[0].fd >= 0 || fds[1].fd >= 0) {
        int many = poll(fds, 2, 60000);
        if (many < 0 && errno == EINTR)
            continue;
        if (many <= 0)
            die("%s: no end within 60 s", name);
        if (fds[0].fd >= 0 && fds[0].revents & POLLHUP) {
            *gone = now();
            fds[0].fd = -1;
        }
        if (fds[1].fd >= 0 && fds[1].revents) {
            *removed = now();
            finish(remover, name);
            fds[1].fd = -1;
        }
    }
    close(pidfd);
}

/*
 * Waits for the first moments of `count` workloads and, if `ends`, for the end of the process that starts them; the last of these
 * moments goes to `first`. Returns when the process ended. One that fails is not waited for any longer.
 */
static int64_t await_first(int stamp, pid_t starter, int count, const char *name, int ends, int64_t *first)
{
    int pidfd = syscall(SYS_pidfd_open, starter, 0);
    if (pidfd < 0)
        die("pidfd_open: %s", strerror(errno));
    int64_t ended = 0;
    struct pollfd fds[2] = {{.fd = stamp, .events = POLLIN}, {.fd = pidfd, .events = POLLIN}};
    for (int seen = 0; seen < count || (ends && !ended);) {
        if (seen == count)
            fds[0].fd = -1; /* A workload that ended by itself would wake us for ever. */
        int many = poll(fds, 2, 30000);
        if (many < 0 && errno == EINTR)
            continue;
        if (many <= 0)
            die("%s: %d of %d workloads started within 30 s", name, seen, count);
        if (fds[1].revents) {
            ended = now();
            finish(starter, name);
            if (!ends)
                die("%s ended too early", name);
            fds[1].fd = -1;
            fds[1].revents = 0;
        }
        int64_t moment;
        if (fds[0].fd >= 0 && fds[0].revents & POLLIN && read(stamp, &moment, sizeof moment) == sizeof moment) {
            seen++;
            if (moment > *first)
                *first = moment;
        }
    }
    close(pidfd);
    return ended;
}

int main(int argc, char **argv)
{
    int count = argc > 3 ? atoi(argv[2]) : -1;
    if (count == 0) {
        int64_t before = now();
        finish(start(argv + 3, -1), argv[3]);
        printf("%.1f\n", (now() - before) / 1e3);
        return 0;
    }
    int middle = 3;
    while (middle < argc && strcmp(argv[middle], "--"))
        middle++;
    if (count < 0 || middle >= argc || middle == 3)
        die("usage: measure PIPE COUNT START... -- REMOVE... | measure - 0 COMMAND...");
    argv[middle] = NULL;
    char **begin = argv + 3, **end = argv + middle + 1;

    /* Not O_RDWR: the hang-up of the last writer is to be seen. */
    int stamp = open(argv[1], O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (stamp < 0)
        die("open %s: %s", argv[1], strerror(errno));
    int feed[2];
    if (pipe2(feed, O_CLOEXEC))
        die("make a pipe: %s", strerror(errno));

    int64_t first = 0, started = now();
    pid_t pid = start(begin, feed[0]);
    int64_t ended = await_first(stamp, pid, count, begin[0], *end != NULL, &first);
    if (!*end)
        ended = started;
    usleep(50000);

    int64_t gone = 0, removed = 0, asked = now();
    if (*end)
        pid = start(end, -1);
    else
        close(feed[1]);
    watch(stamp, pid, *end ? end[0] : begin[0], &gone, &removed);
    struct rusage own;
    getrusage(RUSAGE_SELF, &own);
    double cpu = (own.ru_utime.tv_sec + own.ru_stime.tv_sec) * 1e6 + own.ru_utime.tv_usec + own.ru_stime.tv_usec;
    printf("%.1f %.1f %.1f %.1f %.1f\n", (first - started) / 1e3, (ended - started) / 1e3, (removed - asked) / 1e3,
           (gone - asked) / 1e3, cpu);
}
