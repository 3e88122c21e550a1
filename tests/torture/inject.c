/*
 * Make one system call of a command fail, or kill the command before it.
 *
 * The library counts the calls that change files, mounts, locks or processes, from its start or, in
 * a process that was forked, from inject_begin(). The environment says what to do:
 *
 *   INJECT_COUNTER  a file of 8 bytes; all processes of the command share this counter
 *   INJECT_AT       the number of the call to disturb, from 1; 0 disturbs none
 *   INJECT_ERRNO    the errno that the call returns; 0 kills the process group instead
 *   INJECT_LOG      a file that gets the name of each call, one per line
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static _Atomic unsigned long *counter;
static unsigned long at;
static int error_number;
static const char *log_path;

/* Read the environment and begin to count. A fork server calls it in a child. */
__attribute__((constructor)) void inject_begin(void)
{
    const char *path = getenv("INJECT_COUNTER");
    const char *number = getenv("INJECT_AT");
    const char *error = getenv("INJECT_ERRNO");
    const char *log = getenv("INJECT_LOG");
    int fd;

    if (path == NULL || (fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC)) < 0)
        return;
    counter = mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (counter == MAP_FAILED)
        counter = NULL;
    at = number == NULL ? 0 : strtoul(number, NULL, 10);
    error_number = error == NULL ? 0 : atoi(error);
    log_path = log == NULL ? NULL : strdup(log);
}

/* Append a line to the log.  A daemon closes all descriptors, so each line opens the log again. */
static void append(const char *name)
{
    char line[64];
    size_t length = strlen(name);
    int fd = syscall(SYS_openat, AT_FDCWD, log_path, O_WRONLY | O_APPEND | O_CLOEXEC);

    if (fd < 0)
        return;
    memcpy(line, name, length);
    line[length] = '\n';
    syscall(SYS_write, fd, line, length + 1);
    close(fd);
}

/* Count a call and return whether it must fail; errno is then set. */
static int is_disturbed(const char *name)
{
    unsigned long number;

    if (counter == NULL)
        return 0;
    number = atomic_fetch_add(counter, 1) + 1;
    if (log_path != NULL)
        append(name);
    if (number != at)
        return 0;
    if (error_number == 0) {
        syscall(SYS_kill, 0, SIGKILL);
        for (;;)
            pause();
    }
    errno = error_number;
    return 1;
}

/* Look the real function up once: a fork server has looked most of them up before it forks. */
#define REAL(name)                                             \
    ({                                                         \
        static __typeof__(&name) real;                         \
        if (real == NULL)                                      \
            real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); \
        real;                                                  \
    })
#define CALL(type, name, parameters, arguments) \
    type name parameters                        \
    {                                           \
        if (is_disturbed(#name))                \
            return -1;                          \
        return REAL(name) arguments;            \
    }

CALL(int, mkdir, (const char *p, mode_t m), (p, m))
CALL(int, mkdirat, (int d, const char *p, mode_t m), (d, p, m))
CALL(int, rename, (const char *a, const char *b), (a, b))
CALL(int, renameat, (int c, const char *a, int d, const char *b), (c, a, d, b))
CALL(int, renameat2, (int c, const char *a, int d, const char *b, unsigned f), (c, a, d, b, f))
CALL(int, unlink, (const char *p), (p))
CALL(int, unlinkat, (int d, const char *p, int f), (d, p, f))
CALL(int, rmdir, (const char *p), (p))
CALL(int, link, (const char *a, const char *b), (a, b))
CALL(int, linkat, (int c, const char *a, int d, const char *b, int f), (c, a, d, b, f))
CALL(int, symlink, (const char *a, const char *b), (a, b))
CALL(int, symlinkat, (const char *a, int d, const char *b), (a, d, b))
CALL(int, mknod, (const char *p, mode_t m, dev_t v), (p, m, v))
CALL(int, mknodat, (int d, const char *p, mode_t m, dev_t v), (d, p, m, v))
CALL(ssize_t, write, (int f, const void *b, size_t n), (f, b, n))
CALL(ssize_t, pwrite, (int f, const void *b, size_t n, off_t o), (f, b, n, o))
CALL(ssize_t, pwrite64, (int f, const void *b, size_t n, off64_t o), (f, b, n, o))
CALL(ssize_t, writev, (int f, const struct iovec *v, int n), (f, v, n))
CALL(ssize_t, pwritev, (int f, const struct iovec *v, int n, off_t o), (f, v, n, o))
CALL(ssize_t, pwritev64, (int f, const struct iovec *v, int n, off64_t o), (f, v, n, o))
CALL(ssize_t, splice, (int i, off64_t *p, int o, off64_t *q, size_t n, unsigned f),
     (i, p, o, q, n, f))
CALL(ssize_t, copy_file_range, (int i, off64_t *p, int o, off64_t *q, size_t n, unsigned f),
     (i, p, o, q, n, f))
CALL(int, fallocate, (int f, int m, off_t o, off_t n), (f, m, o, n))
CALL(int, fallocate64, (int f, int m, off64_t o, off64_t n), (f, m, o, n))
CALL(ssize_t, sendfile, (int o, int i, off_t *f, size_t n), (o, i, f, n))
CALL(ssize_t, sendfile64, (int o, int i, off64_t *f, size_t n), (o, i, f, n))
CALL(int, ftruncate, (int f, off_t n), (f, n))
CALL(int, ftruncate64, (int f, off64_t n), (f, n))
CALL(int, fsync, (int f), (f))
CALL(int, fdatasync, (int f), (f))
CALL(int, syncfs, (int f), (f))
CALL(int, chmod, (const char *p, mode_t m), (p, m))
CALL(int, fchmod, (int f, mode_t m), (f, m))
CALL(int, fchmodat, (int d, const char *p, mode_t m, int f), (d, p, m, f))
CALL(int, chown, (const char *p, uid_t u, gid_t g), (p, u, g))
CALL(int, fchown, (int f, uid_t u, gid_t g), (f, u, g))
CALL(int, lchown, (const char *p, uid_t u, gid_t g), (p, u, g))
CALL(int, fchownat, (int d, const char *p, uid_t u, gid_t g, int f), (d, p, u, g, f))
CALL(int, utimensat, (int d, const char *p, const struct timespec t[2], int f), (d, p, t, f))
CALL(int, futimens, (int f, const struct timespec t[2]), (f, t))
extern int setxattr(const char *, const char *, const void *, size_t, int);
extern int lsetxattr(const char *, const char *, const void *, size_t, int);
extern int fsetxattr(int, const char *, const void *, size_t, int);
CALL(int, setxattr, (const char *p, const char *k, const void *v, size_t n, int f), (p, k, v, n, f))
CALL(int, lsetxattr, (const char *p, const char *k, const void *v, size_t n, int f), (p, k, v, n, f))
CALL(int, fsetxattr, (int d, const char *k, const void *v, size_t n, int f), (d, k, v, n, f))
extern int flock(int, int);
CALL(int, flock, (int f, int o), (f, o))

/* Locks on bytes; fcntl(2) does nothing else that changes a file here. */
#define FCNTL(name)                                                                \
    int name(int descriptor, int command, ...)                                     \
    {                                                                              \
        va_list rest;                                                              \
        void *argument;                                                            \
        va_start(rest, command);                                                   \
        argument = va_arg(rest, void *);                                           \
        va_end(rest);                                                              \
        if ((command == F_OFD_SETLK || command == F_OFD_SETLKW)                    \
            && is_disturbed("fcntl"))                                              \
            return -1;                                                             \
        return REAL(name)(descriptor, command, argument);                          \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

extern int umount2(const char *, int);
CALL(int, umount2, (const char *p, int f), (p, f))
extern int mount(const char *, const char *, const char *, unsigned long, const void *);
CALL(int, mount, (const char *s, const char *t, const char *k, unsigned long f, const void *o),
     (s, t, k, f, o))
CALL(pid_t, fork, (void), ())

#define OPEN(name)                                                     \
    int name(const char *path, int flags, ...)                         \
    {                                                                  \
        va_list rest;                                                  \
        mode_t mode = 0;                                               \
        va_start(rest, flags);                                         \
        if (flags & (O_CREAT | O_TMPFILE))                             \
            mode = va_arg(rest, mode_t);                               \
        va_end(rest);                                                  \
        if ((flags & O_CREAT) && is_disturbed(#name))                  \
            return -1;                                                 \
        return REAL(name)(path, flags, mode);                          \
    }
#define OPENAT(name)                                                   \
    int name(int directory, const char *path, int flags, ...)          \
    {                                                                  \
        va_list rest;                                                  \
        mode_t mode = 0;                                               \
        va_start(rest, flags);                                         \
        if (flags & (O_CREAT | O_TMPFILE))                             \
            mode = va_arg(rest, mode_t);                               \
        va_end(rest);                                                  \
        if ((flags & O_CREAT) && is_disturbed(#name))                  \
            return -1;                                                 \
        return REAL(name)(directory, path, flags, mode);               \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

/* Calls without a function in libc: from open_tree(2) on, such as the mount API; not openat2(2). */
long syscall(long number, ...)
{
    va_list rest;
    long a[6];

    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(rest, long);
    va_end(rest);
    if (counter != NULL && number >= SYS_open_tree && number != SYS_openat2
        && is_disturbed("syscall"))
        return -1;
    return ((long (*)(long, ...))dlsym(RTLD_NEXT, "syscall"))(number, a[0], a[1], a[2], a[3], a[4],
                                                              a[5]);
}
