/* Preloaded into a process: while the file named by FULL_DISK_WHEN exists, nothing can be written below FULL_DISK_UNDER. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int refused(int file) {
  const char* when = getenv("FULL_DISK_WHEN");
  const char* under = getenv("FULL_DISK_UNDER");
  if (when == NULL || under == NULL || access(when, F_OK) != 0) return 0;
  char link[64];
  char path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  const ssize_t size = readlink(link, path, sizeof path - 1);
  if (size <= 0) return 0;
  path[size] = '\0';
  if (strncmp(path, under, strlen(under)) != 0) return 0;
  errno = ENOSPC;
  return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int file, const void* data, size_t size) { return refused(file) ? -1 : REAL(write)(file, data, size); }
ssize_t pwrite(int file, const void* data, size_t size, off_t at) {
  return refused(file) ? -1 : REAL(pwrite)(file, data, size, at);
}
ssize_t pwrite64(int file, const void* data, size_t size, off64_t at) {
  return refused(file) ? -1 : REAL(pwrite64)(file, data, size, at);
}
ssize_t writev(int file, const struct iovec* parts, int count) {
  return refused(file) ? -1 : REAL(writev)(file, parts, count);
}
int fallocate(int file, int mode, off_t at, off_t size) {
  return refused(file) ? -1 : REAL(fallocate)(file, mode, at, size);
}
int posix_fallocate(int file, off_t at, off_t size) {
  return refused(file) ? ENOSPC : REAL(posix_fallocate)(file, at, size);
}
int ftruncate(int file, off_t size) { return refused(file) ? -1 : REAL(ftruncate)(file, size); }
