/*
 * web serve PORT                 answers each HTTP request with 200 and no body
 * web http|tcp PORT COUNT        connects to the loopback address so often, with "http" for a request and its answer, and prints the microseconds of
 *                                processor time that one took
 *
 * What scripts/bench has probed, and what a probe costs without anything around it: the same system calls and nothing else.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static void die(const char *doing)
{
    fprintf(stderr, "web: %s: %s\n", doing, strerror(errno));
    exit(1);
}

static struct sockaddr_in local(const char *port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static void serve(const char *port)
{
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    struct sockaddr_in address = local(port);
    char request[4096];
    int one = 1, listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listening, (void *)&address, sizeof address) || listen(listening, 1024))
        die("listen");
    signal(SIGPIPE, SIG_IGN);
    for (;;) {
        int client = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
        if (client < 0)
            continue;
        /* A probe's request comes in one piece; one that only connects sends nothing. */
        if (read(client, request, sizeof request) > 0 && write(client, answer, sizeof answer - 1) < 0)
            errno = 0;
        close(client);
    }
}

static double used(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void ask(int http, const char *port, int count)
{
    static const char request[] = "GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bare\r\nAccept: */*\r\nConnection: close\r\n\r\n";
    struct sockaddr_in address = local(port);
    char answer[4096];
    double before = used();
    for (int i = 0; i < count; i++) {
        int to = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(to, (void *)&address, sizeof address))
            die("connect");
        if (http) {
            if (write(to, request, sizeof request - 1) < 0)
                die("write");
            while (read(to, answer, sizeof answer) > 0)
                ;
        }
        close(to);
    }
    printf("%f\n", (used() - before) / count);
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "serve"))
        serve(argv[2]);
    if (argc != 4) {
        fputs("usage: web serve PORT | web http|tcp PORT COUNT\n", stderr);
        return 2;
    }
    ask(!strcmp(argv[1], "http"), argv[2], atoi(argv[3]));
    return 0;
}
