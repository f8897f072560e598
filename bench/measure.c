/*
 * measure PIPE START... -- REMOVE...
 *
 * Starts the command START, waits until a workload has written its first moment (eight bytes, CLOCK_MONOTONIC in
 * nanoseconds) into the named pipe PIPE, rests, and removes what was started: with the command REMOVE, or, if that is empty, by
 * closing the standard input of START. Prints three times in microseconds:
 *
 *   from before the start of START to the workload's first instruction
 *   from before the start of START to its end (0 when it stays until the removal)
 *   from before the removal to the end of the command that removes
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

/* Starts a command; `feed` becomes its standard input when it is not negative. */
static pid_t start(char **argv, int feed)
{
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
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

int main(int argc, char **argv)
{
    int middle = 2;
    while (middle < argc && strcmp(argv[middle], "--"))
        middle++;
    if (middle == argc || middle == 2)
        die("usage: measure PIPE START... -- REMOVE...");
    argv[middle] = NULL;
    char **begin = argv + 2, **end = argv + middle + 1;

    int stamp = open(argv[1], O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (stamp < 0)
        die("open %s: %s", argv[1], strerror(errno));
    int feed[2];
    if (pipe2(feed, O_CLOEXEC))
        die("make a pipe: %s", strerror(errno));

    int64_t first, started = now();
    pid_t pid = start(begin, feed[0]);
    struct pollfd ready = {.fd = stamp, .events = POLLIN};
    if (poll(&ready, 1, 20000) != 1 || read(stamp, &first, sizeof first) != sizeof first)
        die("the workload of %s did not start within 20 s", begin[0]);
    int64_t ended = started;
    if (*end) {
        finish(pid, begin[0]);
        ended = now();
    }
    usleep(50000);

    int64_t asked = now();
    if (*end) {
        finish(start(end, -1), end[0]);
    } else {
        close(feed[1]);
        finish(pid, begin[0]);
    }
    int64_t removed = now();
    printf("%.1f %.1f %.1f\n", (first - started) / 1e3, (ended - started) / 1e3, (removed - asked) / 1e3);
}
