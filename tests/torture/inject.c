/*
 * Make one system call of a command fail, or kill the command before it.
 *
 * The library counts the calls that change files, mounts, locks or processes, or those that only
 * read, from its start or, in a process that was forked, from inject_begin(). The environment says
 * what to do:
 *
 *   INJECT_COUNTER  a file of 8 bytes; all processes of the command share this counter
 *   INJECT_AT       the number of the call to disturb, from 1; 0 disturbs none
 *   INJECT_ERRNO    the errno that the call returns; 0 kills the process group instead
 *   INJECT_READS    count the calls that only read, and the calls on sockets, instead of the others
 *   INJECT_LOG      a file that gets the name of each call, one per line; a call that only reads is
 *                   followed by the kind of its descriptor and by its path
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static _Atomic unsigned long *counter;
static unsigned long at;
static int error_number;
static int only_reads;
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
    only_reads = getenv("INJECT_READS") != NULL;
    log_path = log == NULL ? NULL : strdup(log);
}

/* Append a line to the log.  A daemon closes all descriptors, so each line opens the log again. */
static void append(const char *name)
{
    char line[512];
    size_t length = strnlen(name, sizeof line - 1);
    int fd = syscall(SYS_openat, AT_FDCWD, log_path, O_WRONLY | O_APPEND | O_CLOEXEC);

    if (fd < 0)
        return;
    memcpy(line, name, length);
    line[length] = '\n';
    syscall(SYS_write, fd, line, length + 1);
    close(fd);
}

/* Count a call and return whether it must fail; errno is then set. */
static int is_chosen(const char *name)
{
    unsigned long number;

    number = atomic_fetch_add(counter, 1) + 1;
    if (log_path != NULL)
        append(name);
    if (number != at)
        return 0;
    if (error_number == 0) {
        syscall(SYS_kill, 0, SIGKILL);
        if (getpid() == 1) /* the kernel protects it from its own PID namespace */
            syscall(SYS_exit_group, 128 + SIGKILL);
        for (;;)
            pause();
    }
    errno = error_number;
    return 1;
}

/* Do this for a call that changes a file, a mount, a lock or a process. */
static int is_disturbed(const char *name)
{
    return counter != NULL && !only_reads && is_chosen(name);
}

/* Return what a descriptor refers to; its path is then in a buffer of PATH bytes. */
#define PATH 400
static const char *kind_of(int fd, char *path)
{
    struct stat status;
    char link[32];
    ssize_t length;

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH - 1);
    path[length < 0 ? 0 : length] = '\0';
    if (syscall(SYS_fstat, fd, &status) < 0)
        return "closed";
    switch (status.st_mode & S_IFMT) {
    case S_IFREG:
        return "file";
    case S_IFDIR:
        return "directory";
    case S_IFSOCK:
        return "socket";
    case S_IFIFO:
        return "pipe";
    default:
        return "device";
    }
}

/* Do this for a call that only reads, or for a call on a socket.
 * fd: the descriptor, or -1; path: the path, or NULL for that of the descriptor. */
static int is_read_disturbed(const char *name, int fd, const char *path)
{
    char found[PATH] = "", line[PATH + 64];
    const char *kind;
    int saved = errno;

    if (counter == NULL || !only_reads)
        return 0;
    kind = fd < 0 ? "path" : kind_of(fd, found);
    errno = saved;
    snprintf(line, sizeof line, "%s %s %.*s", name, path == NULL ? kind : "path", PATH - 1,
             path == NULL ? found : path);
    return is_chosen(line);
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
extern int removexattr(const char *, const char *);
extern int lremovexattr(const char *, const char *);
extern int fremovexattr(int, const char *);
CALL(int, removexattr, (const char *p, const char *k), (p, k))
CALL(int, lremovexattr, (const char *p, const char *k), (p, k))
CALL(int, fremovexattr, (int d, const char *k), (d, k))
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

/* The calls that only read, and the calls on sockets. */
#define READ_CALL(type, failed, name, parameters, arguments, fd, path) \
    type name parameters                                               \
    {                                                                  \
        if (is_read_disturbed(#name, fd, path))                        \
            return failed;                                             \
        return REAL(name) arguments;                                   \
    }
#define READ_FD(type, name, parameters, arguments) \
    READ_CALL(type, -1, name, parameters, arguments, f, NULL)
#define READ_PATH(type, name, parameters, arguments) \
    READ_CALL(type, -1, name, parameters, arguments, -1, p)

READ_FD(ssize_t, read, (int f, void *b, size_t n), (f, b, n))
READ_FD(ssize_t, pread, (int f, void *b, size_t n, off_t o), (f, b, n, o))
READ_FD(ssize_t, pread64, (int f, void *b, size_t n, off64_t o), (f, b, n, o))
READ_FD(ssize_t, readv, (int f, const struct iovec *v, int n), (f, v, n))
READ_FD(ssize_t, preadv, (int f, const struct iovec *v, int n, off_t o), (f, v, n, o))
READ_FD(ssize_t, preadv64, (int f, const struct iovec *v, int n, off64_t o), (f, v, n, o))
READ_FD(off_t, lseek, (int f, off_t o, int w), (f, o, w))
READ_FD(off64_t, lseek64, (int f, off64_t o, int w), (f, o, w))
READ_FD(int, fstat, (int f, struct stat *s), (f, s))
READ_FD(int, fstat64, (int f, struct stat64 *s), (f, s))
READ_PATH(int, stat, (const char *p, struct stat *s), (p, s))
READ_PATH(int, stat64, (const char *p, struct stat64 *s), (p, s))
READ_PATH(int, lstat, (const char *p, struct stat *s), (p, s))
READ_PATH(int, lstat64, (const char *p, struct stat64 *s), (p, s))
READ_PATH(int, fstatat, (int d, const char *p, struct stat *s, int f), (d, p, s, f))
READ_PATH(int, fstatat64, (int d, const char *p, struct stat64 *s, int f), (d, p, s, f))
READ_PATH(int, statx, (int d, const char *p, int f, unsigned m, struct statx *s), (d, p, f, m, s))
READ_PATH(int, statfs, (const char *p, struct statfs *s), (p, s))
READ_FD(int, fstatfs, (int f, struct statfs *s), (f, s))
READ_PATH(int, access, (const char *p, int m), (p, m))
READ_PATH(int, faccessat, (int d, const char *p, int m, int f), (d, p, m, f))
READ_PATH(ssize_t, readlink, (const char *p, char *b, size_t n), (p, b, n))
READ_PATH(ssize_t, readlinkat, (int d, const char *p, char *b, size_t n), (d, p, b, n))
extern ssize_t getxattr(const char *, const char *, void *, size_t);
extern ssize_t lgetxattr(const char *, const char *, void *, size_t);
extern ssize_t fgetxattr(int, const char *, void *, size_t);
extern ssize_t listxattr(const char *, char *, size_t);
extern ssize_t llistxattr(const char *, char *, size_t);
extern ssize_t flistxattr(int, char *, size_t);
READ_PATH(ssize_t, getxattr, (const char *p, const char *k, void *v, size_t n), (p, k, v, n))
READ_PATH(ssize_t, lgetxattr, (const char *p, const char *k, void *v, size_t n), (p, k, v, n))
READ_FD(ssize_t, fgetxattr, (int f, const char *k, void *v, size_t n), (f, k, v, n))
READ_PATH(ssize_t, listxattr, (const char *p, char *b, size_t n), (p, b, n))
READ_PATH(ssize_t, llistxattr, (const char *p, char *b, size_t n), (p, b, n))
READ_FD(ssize_t, flistxattr, (int f, char *b, size_t n), (f, b, n))
READ_CALL(DIR *, NULL, opendir, (const char *p), (p), -1, p)
READ_CALL(DIR *, NULL, fdopendir, (int f), (f), f, NULL)
READ_CALL(struct dirent *, NULL, readdir, (DIR *d), (d), dirfd(d), NULL)
READ_CALL(struct dirent64 *, NULL, readdir64, (DIR *d), (d), dirfd(d), NULL)
READ_CALL(int, -1, socket, (int d, int t, int p), (d, t, p), -1, "")
READ_CALL(int, -1, socketpair, (int d, int t, int p, int v[2]), (d, t, p, v), -1, "")
READ_CALL(int, -1, pipe, (int v[2]), (v), -1, "")
READ_CALL(int, -1, pipe2, (int v[2], int f), (v, f), -1, "")
READ_CALL(int, -1, memfd_create, (const char *p, unsigned f), (p, f), -1, "")
READ_CALL(int, -1, epoll_create1, (int f), (f), -1, "")
READ_FD(int, dup, (int f), (f))
READ_FD(int, dup2, (int f, int n), (f, n))
READ_FD(int, dup3, (int f, int n, int g), (f, n, g))
READ_FD(int, connect, (int f, const struct sockaddr *a, socklen_t n), (f, a, n))
READ_FD(ssize_t, recv, (int f, void *b, size_t n, int g), (f, b, n, g))
READ_FD(ssize_t, recvfrom, (int f, void *b, size_t n, int g, struct sockaddr *a, socklen_t *m),
        (f, b, n, g, a, m))
READ_FD(ssize_t, recvmsg, (int f, struct msghdr *m, int g), (f, m, g))
READ_FD(ssize_t, send, (int f, const void *b, size_t n, int g), (f, b, n, g))
READ_FD(ssize_t, sendto,
        (int f, const void *b, size_t n, int g, const struct sockaddr *a, socklen_t m),
        (f, b, n, g, a, m))
READ_FD(ssize_t, sendmsg, (int f, const struct msghdr *m, int g), (f, m, g))
READ_CALL(int, -1, poll, (struct pollfd *v, nfds_t n, int t), (v, n, t), -1, "")
READ_CALL(int, -1, select, (int n, fd_set *r, fd_set *w, fd_set *e, struct timeval *t),
          (n, r, w, e, t), -1, "")
READ_CALL(int, -1, epoll_wait, (int f, struct epoll_event *e, int n, int t), (f, e, n, t), -1, "")
READ_CALL(int, errno, pthread_create,
          (pthread_t *t, const pthread_attr_t *a, void *(*r)(void *), void *o), (t, a, r, o), -1, "")

/* Python's allocator uses mmap(2), too, and Thread.start never returns if its thread gets no memory. */
#define MMAP(name, offset)                                                    \
    void *name(void *a, size_t n, int r, int g, int f, offset o)              \
    {                                                                         \
        if (f >= 0 && is_read_disturbed(#name, f, NULL))                      \
            return MAP_FAILED;                                                \
        return REAL(name)(a, n, r, g, f, o);                                  \
    }
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)

int ioctl(int f, unsigned long request, ...)
{
    va_list rest;
    void *argument;
    va_start(rest, request);
    argument = va_arg(rest, void *);
    va_end(rest);
    if (is_read_disturbed("ioctl", f, NULL))
        return -1;
    return REAL(ioctl)(f, request, argument);
}

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
        if (flags & O_CREAT ? is_disturbed(#name)                      \
                            : is_read_disturbed(#name, -1, path))      \
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
        if (flags & O_CREAT ? is_disturbed(#name)                      \
                            : is_read_disturbed(#name, -1, path))      \
            return -1;                                                 \
        return REAL(name)(directory, path, flags, mode);               \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

/* Calls without a function in libc: from open_tree(2) on, such as the mount API; openat2(2) reads. */
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
    if (number == SYS_openat2 && is_read_disturbed("openat2", -1, (const char *)a[1]))
        return -1;
    return ((long (*)(long, ...))dlsym(RTLD_NEXT, "syscall"))(number, a[0], a[1], a[2], a[3], a[4],
                                                              a[5]);
}
