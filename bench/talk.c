/*
 * talk serve PORT                        answers on all addresses: says the host's name, or counts the bytes that come
 * talk ask PORT ADDRESS...               prints what is said at each address, a line each; one without an answer is an error
 * talk send ADDRESS PORT SECONDS         sends as fast as it can for so long, and prints bytes per second as the other end has counted them
 *
 * What scripts/bench tells reachability and throughput with. A connection begins with one byte: 'n' for the name, 's' for a stream.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* What is written and read at once: enough that system calls are not what is measured. */
#define PIECE (256 << 10)

static char piece[PIECE];

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *format, ...)
{
    int error = errno;
    va_list list;
    va_start(list, format);
    fputs("talk: ", stderr);
    vfprintf(stderr, format, list);
    fprintf(stderr, ": %s\n", strerror(error));
    exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void answer(int fd)
{
    char wish = 0;
    if (read(fd, &wish, 1) != 1)
        return;
    if (wish == 'n') {
        char name[65] = "";
        gethostname(name, sizeof name - 1);
        if (write(fd, name, strlen(name)) < 0)
            perror("talk: answer");
        return;
    }
    uint64_t count = 0;
    double from = now();
    for (ssize_t got; (got = read(fd, piece, sizeof piece)) > 0;)
        count += got;
    double rate = count / (now() - from);
    if (write(fd, &rate, sizeof rate) < 0)
        perror("talk: answer");
}

/* The first process of a container is ended by no signal that it does not take. */
static void leave(int signal)
{
    (void)signal;
    _exit(0);
}

static int serve(int port)
{
    signal(SIGCHLD, SIG_IGN);
    signal(SIGTERM, leave);
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1, no = 0;
    struct sockaddr_in6 all = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    if (bind(fd, (void *)&all, sizeof all) || listen(fd, 128))
        die("listen on port %d", port);
    for (;;) {
        int one = accept(fd, NULL, NULL);
        if (one < 0)
            continue;
        if (fork() == 0) {
            answer(one);
            _exit(0);
        }
        close(one);
    }
}

/* Tries for some seconds: who is asked may just be starting. */
static int reach(const char *address, int port)
{
    struct sockaddr_storage to = {0};
    struct sockaddr_in *of4 = (void *)&to;
    struct sockaddr_in6 *of6 = (void *)&to;
    socklen_t length = sizeof *of4;
    if (inet_pton(AF_INET, address, &of4->sin_addr) == 1) {
        of4->sin_family = AF_INET;
        of4->sin_port = htons(port);
    } else if (inet_pton(AF_INET6, address, &of6->sin6_addr) == 1) {
        of6->sin6_family = AF_INET6;
        of6->sin6_port = htons(port);
        length = sizeof *of6;
    } else {
        errno = EINVAL;
        die("address %s", address);
    }
    for (double end = now() + 10;;) {
        int fd = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct timeval patience = {.tv_sec = 5};
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        if (connect(fd, (void *)&to, length) == 0)
            return fd;
        if (now() > end)
            die("connect to %s port %d", address, port);
        close(fd);
        usleep(20000);
    }
}

static void ask(const char *address, int port)
{
    int fd = reach(address, port);
    char name[65] = "";
    if (write(fd, "n", 1) != 1 || read(fd, name, sizeof name - 1) <= 0)
        die("ask %s", address);
    puts(name);
    close(fd);
}

static void send_for(const char *address, int port, double seconds)
{
    int fd = reach(address, port);
    double rate;
    if (write(fd, "s", 1) != 1)
        die("send to %s", address);
    for (double end = now() + seconds; now() < end;)
        if (write(fd, piece, sizeof piece) < 0)
            die("send to %s", address);
    shutdown(fd, SHUT_WR);
    if (read(fd, &rate, sizeof rate) != sizeof rate)
        die("hear of %s what has come", address);
    printf("%.0f\n", rate);
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "serve"))
        return serve(atoi(argv[2]));
    if (argc > 3 && !strcmp(argv[1], "ask")) {
        for (int i = 3; i < argc; i++)
            ask(argv[i], atoi(argv[2]));
        return 0;
    }
    if (argc == 5 && !strcmp(argv[1], "send")) {
        send_for(argv[2], atoi(argv[3]), atof(argv[4]));
        return 0;
    }
    fputs("usage: talk serve PORT | talk ask PORT ADDRESS... | talk send ADDRESS PORT SECONDS\n", stderr);
    return 2;
}
