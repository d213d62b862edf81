/* Preloaded library: makes the n-th call of a kind fail, once or for ever, or kills the process before it. Only files below one
   folder count. Built and driven by faulty_commands.py.

   cc -shared -fPIC -O1 -o fault_shim.so fault_shim.c -ldl */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WRITE = 1, SYNC, CREATE, RENAME, LINK, MKDIR, UNLINK, CLOSE, SHORT, READ, OPEN, KILL };

static char root[4096];
static size_t root_length;
static int armed, nth, error, forever, count, fired;

void shim_arm(const char *folder, int operation, int n, int number, int always) {
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
    armed = operation, nth = n, error = number, forever = always, count = fired = 0;
}
int shim_count(void) { return count; }
int shim_fired(void) { return fired; }

static int inside(const char *path) { return root_length && path && !strncmp(path, root, root_length); }

static int inside_fd(int fd) { /* a regular file or a folder below the root */
    char link[64], path[4096];
    int kept = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = fd > 2 ? readlink(link, path, sizeof path - 1) : -1;
    errno = kept;
    if (length < 0) return 0;
    path[length] = 0;
    return inside(path);
}

static int hit(int operation) {
    int changes = operation != READ && operation != OPEN && operation != SHORT;
    if (armed == KILL && changes && ++count == nth) kill(getpid(), SIGKILL);
    if (armed != operation) return 0;
    count++;
    return (count == nth || (forever && nth > 0 && count > nth)) ? ++fired : 0;
}

static int writable(int fd) { return (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY; }

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define FAIL do { errno = error; return -1; } while (0)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    if (armed && inside_fd(fd)) {
        if (size > 1 && hit(SHORT)) return real(fd, data, size / 2);
        if (hit(WRITE)) FAIL;
    }
    return real(fd, data, size);
}
ssize_t read(int fd, void *data, size_t size) { REAL(read); if (armed == READ && inside_fd(fd) && hit(READ)) FAIL; return real(fd, data, size); }
ssize_t pread64(int fd, void *data, size_t size, off64_t at) {
    REAL(pread64);
    if (armed == READ && inside_fd(fd) && hit(READ)) FAIL;
    return real(fd, data, size, at);
}
int fsync(int fd) { REAL(fsync); if (armed && inside_fd(fd) && hit(SYNC)) FAIL; return real(fd); }
int fdatasync(int fd) { REAL(fdatasync); if (armed && inside_fd(fd) && hit(SYNC)) FAIL; return real(fd); }

#define MODE va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest)
#define OPENS if (armed && inside(path) && hit(flags & O_CREAT ? CREATE : OPEN)) FAIL
int open(const char *path, int flags, ...) { REAL(open); MODE; OPENS; return real(path, flags, mode); }
int open64(const char *path, int flags, ...) { REAL(open64); MODE; OPENS; return real(path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { REAL(openat); MODE; OPENS; return real(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { REAL(openat64); MODE; OPENS; return real(at, path, flags, mode); }

int rename(const char *from, const char *to) { REAL(rename); if (armed && inside(to) && hit(RENAME)) FAIL; return real(from, to); }
int renameat(int a, const char *from, int b, const char *to) { REAL(renameat); if (armed && inside(to) && hit(RENAME)) FAIL; return real(a, from, b, to); }
int link(const char *from, const char *to) { REAL(link); if (armed && inside(to) && hit(LINK)) FAIL; return real(from, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) { REAL(linkat); if (armed && inside(to) && hit(LINK)) FAIL; return real(a, from, b, to, flags); }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); if (armed && inside(path) && hit(MKDIR)) FAIL; return real(path, mode); }
int unlink(const char *path) { REAL(unlink); if (armed && inside(path) && hit(UNLINK)) FAIL; return real(path); }
int close(int fd) { /* the descriptor is closed all the same, as Linux does */
    REAL(close);
    if (armed && inside_fd(fd) && writable(fd) && hit(CLOSE)) { real(fd); FAIL; }
    return real(fd);
}
