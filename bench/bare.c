/*
 * bare LAYER SCRATCH PROGRAM STAMPDIR CONTAINERS OPTIONS
 * bare exec PID PROGRAM
 *
 * One pod with CONTAINERS containers, made with the system calls that it takes and nothing else: no state on disk, no log, no
 * supervision, no checks. It is the yardstick of scripts/bench. It starts a sandbox and its containers, waits until its standard
 * input ends, takes all away and ends. `exec` runs PROGRAM in the container whose first process is PID, and waits for it.
 *
 *   LAYER     directory with the container's root, read-only (lower layer of an overlay)
 *   SCRATCH   directory for the upper layers
 *   PROGRAM   static program that stands for pause on the host; its copy in LAYER (as /first) is the workload
 *   STAMPDIR  directory with the named pipe "pipe", bound to /stamp
 *   OPTIONS   letters: s the containers share the pod's PID namespace; d returns when the containers run and waits for SIGTERM in
 *             the background; i the workload is /idle, which writes no moment; n the pod is linked to a bridge, see link.h; p and a port
 *             of the host leads to it; t tells on standard error how many microseconds that took; - nothing
 *
 * The cgroups below "bare" must exist in every hierarchy (scripts/bench makes them): bare/runtime and bare/besteffort.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/if.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* <sys/mount.h> and <linux/mount.h> cannot be included together everywhere. */
int mount(const char *, const char *, const char *, unsigned long, const void *);
int umount2(const char *, int);
#define MNT_DETACH_ 2

#define MAX 24
#define MAX_BOXES 8
#define COUNT(list) (sizeof(list) / sizeof *(list))

/* Default capabilities: CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE. */
#define CAPS 0x5fbu
#define QUIET (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)

/* One entry a cgroup hierarchy. */
static char *base[MAX], *pod_dir[MAX], *box_dir[MAX_BOXES][MAX];
static int runtime_tasks[MAX], box_tasks[MAX_BOXES][MAX];
static int hierarchies, v2 = -1;

static void die(const char *what)
{
    dprintf(2, "bare: %s: %s\n", what, strerror(errno));
    _exit(1);
}

/* A path, never freed: the program is short-lived. */
__attribute__((format(printf, 1, 2))) static char *path_of(const char *format, ...)
{
    char *text;
    va_list list;
    va_start(list, format);
    if (vasprintf(&text, format, list) < 0)
        die("vasprintf");
    va_end(list);
    return text;
}

#define OR_DIE(call, what)                                                                                                   \
    do {                                                                                                                     \
        if ((call) < 0)                                                                                                      \
            die(what);                                                                                                       \
    } while (0)

#include "link.h"

static int fsopen_(const char *type) { return syscall(SYS_fsopen, type, 1 /* FSOPEN_CLOEXEC */); }
static int fsconfig_(int fs, unsigned command, const char *key, const void *value)
{
    return syscall(SYS_fsconfig, fs, command, key, value, 0);
}
static int fsmount_(int fs, unsigned attributes) { return syscall(SYS_fsmount, fs, 1 /* FSMOUNT_CLOEXEC */, attributes); }
static int open_tree_(int dir, const char *path, unsigned flags) { return syscall(SYS_open_tree, dir, path, flags); }
static int move_mount_(int from, int dir, const char *to)
{
    return syscall(SYS_move_mount, from, "", dir, to, 4 /* MOVE_MOUNT_F_EMPTY_PATH */);
}

/* A detached file system. */
static int detached(const char *type, unsigned attributes, const char *const *options)
{
    int fs = fsopen_(type);
    OR_DIE(fs, type);
    for (; options && *options; options += 2)
        OR_DIE(fsconfig_(fs, 1 /* FSCONFIG_SET_STRING */, options[0], options[1]), options[0]);
    OR_DIE(fsconfig_(fs, 6 /* FSCONFIG_CMD_CREATE */, NULL, NULL), type);
    int mnt = fsmount_(fs, attributes);
    OR_DIE(mnt, type);
    close(fs);
    return mnt;
}

static void put(const char *dir, const char *file, const char *text)
{
    char *path = path_of("%s/%s", dir, file);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return; /* not in this hierarchy */
    OR_DIE(write(fd, text, strlen(text)), path);
    close(fd);
}

/* A v1 cpuset takes no task before it has processors and memory nodes. */
static void inherit(const char *dir, const char *above, const char *file)
{
    char text[256];
    int fd = open(path_of("%s/%s", above, file), O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    if (size > 0) {
        text[size] = 0;
        put(dir, file, text);
    }
}

static void find_hierarchies(void)
{
    FILE *table = fopen("/proc/self/mounts", "re");
    if (!table)
        die("/proc/self/mounts");
    char point[128], type[32];
    while (fscanf(table, "%*s %127s %31s %*[^\n]", point, type) == 2) {
        if (strcmp(type, "cgroup") && strcmp(type, "cgroup2"))
            continue;
        if (hierarchies == MAX)
            break;
        if (!strcmp(type, "cgroup2"))
            v2 = hierarchies;
        base[hierarchies++] = strdup(point);
    }
    fclose(table);
}

static void make_pod_cgroups(void)
{
    for (int i = 0; i < hierarchies; i++) {
        char *above = path_of("%s/bare/besteffort", base[i]);
        pod_dir[i] = path_of("%s/pod%d", above, getpid());
        OR_DIE(mkdir(pod_dir[i], 0755), pod_dir[i]);
        inherit(pod_dir[i], above, "cpuset.cpus");
        inherit(pod_dir[i], above, "cpuset.mems");
        put(pod_dir[i], "cpu.shares", "2");
        put(pod_dir[i], "pids.max", "4096");
    }
}

static void make_box_cgroups(int box)
{
    for (int i = 0; i < hierarchies; i++) {
        char *dir = box_dir[box][i] = path_of("%s/main%d", pod_dir[i], box);
        OR_DIE(mkdir(dir, 0755), dir);
        inherit(dir, pod_dir[i], "cpuset.cpus");
        inherit(dir, pod_dir[i], "cpuset.mems");
        put(dir, "cpu.shares", "2");
        box_tasks[box][i] = -1;
        if (i != v2)
            OR_DIE(box_tasks[box][i] = open(path_of("%s/tasks", dir), O_WRONLY | O_CLOEXEC), dir);
    }
}

static void open_runtime(void)
{
    for (int i = 0; i < hierarchies; i++) {
        runtime_tasks[i] = -1;
        if (i != v2)
            OR_DIE(runtime_tasks[i] = open(path_of("%s/bare/runtime/tasks", base[i]), O_WRONLY | O_CLOEXEC), base[i]);
    }
}

static void enter_cgroups(const int *tasks)
{
    for (int i = 0; i < hierarchies; i++)
        if (tasks[i] >= 0)
            OR_DIE(write(tasks[i], "0", 1), "tasks");
}

static pid_t clone3_(uint64_t flags, int *pidfd, int cgroup)
{
    struct clone_args args = {
        .flags = flags | CLONE_PIDFD | (cgroup >= 0 ? CLONE_INTO_CGROUP : 0),
        .pidfd = (uintptr_t)pidfd,
        .exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD,
        .cgroup = cgroup >= 0 ? cgroup : 0,
    };
    return syscall(SYS_clone3, &args, sizeof args);
}

static void drop_bounding(uint64_t keep)
{
    for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
        if (!(keep >> cap & 1))
            prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
}

static void set_caps(unsigned mask)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{.effective = mask, .permitted = mask}};
    OR_DIE(syscall(SYS_capset, &head, data), "capset");
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
}

static void filter(void)
{
    struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {.len = 1, .filter = allow};
    OR_DIE(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "seccomp");
}

static void sandbox(const char *program, int ready)
{
    enter_cgroups(runtime_tasks);
    int exe = open(program, O_PATH | O_CLOEXEC);
    OR_DIE(exe, program);
    int link = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    OR_DIE(ioctl(link, SIOCSIFFLAGS, &lo), "bring lo up");
    close(link);
    OR_DIE(sethostname("bench", 5), "sethostname");

    OR_DIE(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "make mounts private");
    OR_DIE(mount("pod", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=64k,mode=755"), "tmpfs");
    OR_DIE(chdir("/tmp"), "chdir");
    OR_DIE(mkdir("shm", 0755) | mkdir("v", 0755) | mkdir("root", 0755), "mkdir");
    OR_DIE(mount("shm", "shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64m,mode=1777"), "shm");
    OR_DIE(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    OR_DIE(umount2(".", MNT_DETACH_), "umount");
    OR_DIE(chdir("/"), "chdir");
    drop_bounding(0);
    OR_DIE(setresgid(65533, 65533, 65533), "setresgid");
    OR_DIE(setresuid(65533, 65533, 65533), "setresuid");
    set_caps(0);
    OR_DIE(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "pdeathsig");
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    filter();
    OR_DIE(write(ready, "r", 1), "ready");
    syscall(SYS_close_range, 3, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */);
    char *argv[] = {"pause", NULL}, *env[] = {NULL};
    syscall(SYS_execveat, exe, "", argv, env, AT_EMPTY_PATH);
    die("execve pause");
}

static int pause_fd, wait_fd, box_fds[MAX_BOXES], box_cgroups[MAX_BOXES], overlay_fds[MAX_BOXES], stamp_fds[MAX_BOXES];
static pid_t box_pid;
static int shared, idle;

static void attach(int mnt, const char *where)
{
    OR_DIE(move_mount_(mnt, AT_FDCWD, where), where);
    close(mnt);
}

static void workload(int box)
{
    static const char *const dev_options[] = {"mode", "755", "size", "65536k", NULL};
    enter_cgroups(box_tasks[box]);
    OR_DIE(setns(pause_fd, CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS), "setns");
    OR_DIE(unshare(CLONE_NEWNS), "unshare");
    int shm = open_tree_(AT_FDCWD, "/shm", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    OR_DIE(shm, "/shm");
    attach(overlay_fds[box], "/root");
    OR_DIE(chdir("/root"), "chdir");
    attach(detached("proc", QUIET, NULL), "proc");
    attach(detached("tmpfs", MOUNT_ATTR_NOSUID, dev_options), "dev");
    static const struct {
        const char *name;
        int major, minor;
    } nodes[] = {{"dev/null", 1, 3}, {"dev/zero", 1, 5}, {"dev/full", 1, 7}, {"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0}};
    umask(0);
    for (size_t i = 0; i < COUNT(nodes); i++)
        OR_DIE(mknod(nodes[i].name, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)), nodes[i].name);
    umask(022);
    static const char *const links[][2] = {{"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"}, {"/proc/self/fd/1", "dev/stdout"}, {"/proc/self/fd/2", "dev/stderr"}, {"pts/ptmx", "dev/ptmx"}};
    for (size_t i = 0; i < COUNT(links); i++)
        OR_DIE(symlink(links[i][0], links[i][1]), links[i][1]);
    OR_DIE(mkdir("dev/pts", 0755) | mkdir("dev/shm", 0755) | mkdir("dev/mqueue", 0755), "mkdir");
    OR_DIE(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"), "devpts");
    attach(detached("mqueue", QUIET, NULL), "dev/mqueue");
    attach(shm, "dev/shm");
    attach(detached("sysfs", QUIET | MOUNT_ATTR_RDONLY, NULL), "sys");
    attach(stamp_fds[box], "stamp");

    int null = open("dev/null", O_PATH | O_CLOEXEC);
    static const char *const masked[] = {"proc/interrupts", "proc/kcore", "proc/keys", "proc/latency_stats", "proc/timer_list", "proc/timer_stats", "proc/sched_debug"};
    for (size_t i = 0; i < COUNT(masked); i++) {
        int file = open_tree_(null, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
        OR_DIE(file, "clone /dev/null");
        if (move_mount_(file, AT_FDCWD, masked[i]) && errno != ENOENT)
            die(masked[i]);
        close(file);
    }
    static const char *const hidden[] = {"proc/acpi", "proc/asound", "proc/scsi", "sys/firmware", "sys/devices/virtual/powercap"};
    for (size_t i = 0; i < COUNT(hidden); i++)
        if (mount("none", hidden[i], "tmpfs", MS_RDONLY, "size=0k") && errno != ENOENT)
            die(hidden[i]);
    static const char *const fixed[] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"};
    for (size_t i = 0; i < COUNT(fixed); i++) {
        int part = open_tree_(AT_FDCWD, fixed[i], OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
        if (part < 0 && errno == ENOENT)
            continue;
        OR_DIE(part, fixed[i]);
        struct mount_attr readonly = {.attr_set = MOUNT_ATTR_RDONLY};
        OR_DIE(syscall(SYS_mount_setattr, part, "", AT_EMPTY_PATH | AT_RECURSIVE, &readonly, sizeof readonly), fixed[i]);
        attach(part, fixed[i]);
    }
    OR_DIE(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    OR_DIE(umount2(".", MNT_DETACH_), "umount");
    OR_DIE(chdir("/"), "chdir");
    setsid();
    OR_DIE(setgid(0), "setgid");
    drop_bounding(CAPS);
    set_caps(CAPS);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    filter();
    /* Two steps, as with any runtime: created, then started. */
    char go;
    if (read(wait_fd, &go, 1) != 1)
        die("start");
    syscall(SYS_close_range, 3, ~0U, 4);
    char *stamping[] = {"/first", "/stamp/pipe", NULL}, *idling[] = {"/idle", NULL}, *env[] = {"PATH=/", NULL};
    char **argv = idle ? idling : stamping;
    execve(argv[0], argv, env);
    die("execve");
}

/* Lives in pause's PID namespace and in our memory: makes the container, with a PID namespace of its own unless the pod shares one. */
static int helper(void *box_number)
{
    int box = *(int *)box_number;
    box_pid = clone3_((shared ? 0 : CLONE_NEWPID) | CLONE_PARENT, &box_fds[box], box_cgroups[box]);
    if (box_pid == 0)
        workload(box);
    _exit(box_pid < 0);
}

static void await(int pidfd)
{
    siginfo_t info;
    while (waitid(P_PIDFD, pidfd, &info, WEXITED) && errno == EINTR) {
    }
}

/* What of a container can be made before the sandbox is there. */
static void prepare_box(int box, const char *layer, const char *scratch, const char *stamp)
{
    make_box_cgroups(box);
    box_cgroups[box] = -1;
    if (v2 >= 0)
        OR_DIE(box_cgroups[box] = open(box_dir[box][v2], O_PATH | O_DIRECTORY | O_CLOEXEC), "open cgroup");
    char *upper = path_of("%s/%d.%d.upper", scratch, getpid(), box), *work = path_of("%s/%d.%d.work", scratch, getpid(), box);
    OR_DIE(mkdir(upper, 0755) | mkdir(work, 0755), upper);
    const char *options[] = {"lowerdir", layer, "upperdir", upper, "workdir", work, NULL};
    overlay_fds[box] = detached("overlay", 0, options);
    OR_DIE(stamp_fds[box] = open_tree_(AT_FDCWD, stamp, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE), stamp);
}

/* The sandbox is there: makes one container and lets it go. */
static void start_box(int box, int own_pids, int go)
{
    OR_DIE(setns(pause_fd, CLONE_NEWPID), "setns pid");
    static char stack[65536] __attribute__((aligned(16)));
    pid_t child = clone(helper, stack + sizeof stack, CLONE_VM | CLONE_VFORK | CLONE_FILES | SIGCHLD, &box);
    OR_DIE(child, "clone helper");
    waitpid(child, NULL, 0);
    OR_DIE(setns(own_pids, CLONE_NEWPID), "setns back");
    OR_DIE(box_pid, "clone container");
    close(overlay_fds[box]);
    close(stamp_fds[box]);
    OR_DIE(write(go, "g", 1), "start");
}

static void remove_scratch(const char *scratch, int box)
{
    char *upper = path_of("%s/%d.%d.upper", scratch, getpid(), box), *work = path_of("%s/%d.%d.work", scratch, getpid(), box);
    rmdir(path_of("%s/work", work)); /* the kernel's own */
    OR_DIE(rmdir(work) | rmdir(upper), upper);
}

/* Joins a running container and executes a program there. The program's end is ours. */
static int run_inside(pid_t target, char *program)
{
    find_hierarchies();
    int fd = syscall(SYS_pidfd_open, target, 0);
    OR_DIE(fd, "pidfd_open");
    char line[512];
    FILE *table = fopen(path_of("/proc/%d/cgroup", target), "re");
    if (!table)
        die("the container's cgroups");
    while (fgets(line, sizeof line, table)) {
        char *controllers = strchr(line, ':') + 1, *path = strchr(controllers, ':') + 1;
        path[-1] = path[strcspn(path, "\n")] = 0;
        for (int i = 0; i < hierarchies; i++) {
            char *name = strrchr(base[i], '/') + 1;
            int same = *controllers ? !strcmp(name, controllers) || !strcmp(path_of("name=%s", name), controllers) : i == v2;
            if (same)
                put(path_of("%s%s", base[i], path), "cgroup.procs", "0");
        }
    }
    fclose(table);
    OR_DIE(setns(fd, CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID | CLONE_NEWNS), "setns");
    pid_t child = fork();
    OR_DIE(child, "fork");
    if (child == 0) {
        drop_bounding(CAPS);
        set_caps(CAPS);
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        filter();
        char *argv[] = {program, NULL}, *env[] = {"PATH=/", NULL};
        execve(program, argv, env);
        die(program);
    }
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "exec"))
        return run_inside(atoi(argv[2]), argv[3]);
    int boxes = argc == 7 ? atoi(argv[5]) : 0;
    if (boxes < 1 || boxes > MAX_BOXES) {
        fputs("usage: bare LAYER SCRATCH PROGRAM STAMPDIR CONTAINERS OPTIONS | bare exec PID PROGRAM\n", stderr);
        return 2;
    }
    const char *layer = argv[1], *scratch = argv[2], *program = argv[3], *stamp = argv[4], *letters = argv[6];
    shared = !!strchr(letters, 's');
    idle = !!strchr(letters, 'i');
    int background = !!strchr(letters, 'd'), port = !!strchr(letters, 'p'), linked = port || strchr(letters, 'n');
    /* Of the bridge's range; pods of one moment have pids that differ. */
    int number = 2 + getpid() % 30000;
    int up[2];
    char byte;
    if (background) {
        OR_DIE(pipe2(up, O_CLOEXEC), "pipe");
        pid_t child = fork();
        OR_DIE(child, "fork");
        if (child) {
            close(up[1]);
            return read(up[0], &byte, 1) != 1;
        }
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGTERM);
        OR_DIE(setsid(), "setsid");
        sigprocmask(SIG_BLOCK, &set, NULL);
    }
    find_hierarchies();
    open_runtime();

    int ready[2], start[2], cgroup = -1;
    OR_DIE(pipe2(ready, O_CLOEXEC), "pipe");
    OR_DIE(pipe2(start, O_CLOEXEC), "pipe");
    wait_fd = start[0];
    if (v2 >= 0)
        OR_DIE(cgroup = open(path_of("%s/bare/runtime", base[v2]), O_PATH | O_DIRECTORY | O_CLOEXEC), "open cgroup");
    int own_pids = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
    pid_t pause = clone3_(CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS, &pause_fd, cgroup);
    OR_DIE(pause, "clone pause");
    if (pause == 0)
        sandbox(program, ready[1]);
    close(ready[1]);
    if (linked) {
        struct timespec from, to;
        clock_gettime(CLOCK_MONOTONIC, &from);
        link_pod(pause, number, port);
        clock_gettime(CLOCK_MONOTONIC, &to);
        if (strchr(letters, 't'))
            dprintf(2, "%.1f\n", (to.tv_sec - from.tv_sec) * 1e6 + (to.tv_nsec - from.tv_nsec) / 1e3);
    }

    /* While pause gets ready. */
    make_pod_cgroups();
    for (int box = 0; box < boxes; box++)
        prepare_box(box, layer, scratch, stamp);
    if (read(ready[0], &byte, 1) != 1)
        die("pause did not start");
    for (int box = 0; box < boxes; box++)
        start_box(box, own_pids, start[1]);

    if (background) {
        OR_DIE(write(up[1], "u", 1), "tell");
        sigset_t set;
        int signal;
        sigemptyset(&set);
        sigaddset(&set, SIGTERM);
        sigwait(&set, &signal);
    } else {
        while (read(0, &byte, 1) > 0) {
        }
    }

    for (int box = 0; box < boxes; box++)
        syscall(SYS_pidfd_send_signal, box_fds[box], SIGTERM, NULL, 0);
    for (int box = 0; box < boxes; box++)
        await(box_fds[box]);
    syscall(SYS_pidfd_send_signal, pause_fd, SIGKILL, NULL, 0);
    await(pause_fd);
    if (port)
        unlink_port(number);
    for (int i = 0; i < hierarchies; i++) {
        for (int box = 0; box < boxes; box++)
            OR_DIE(rmdir(box_dir[box][i]), box_dir[box][i]);
        OR_DIE(rmdir(pod_dir[i]), pod_dir[i]);
    }
    for (int box = 0; box < boxes; box++)
        remove_scratch(scratch, box);
    return 0;
}
