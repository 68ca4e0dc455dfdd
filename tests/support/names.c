/* Preloaded into a process: names that end in ".test" are looked up in the file named by SLIPWAY_NAMES, anew each time.
 * A line is a name and an address, or a name and "SERVFAIL": then the look-up fails as when the name server is away, or
 * "SLOW": then it does so after two seconds. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int (*Getaddrinfo)(const char*, const char*, const struct addrinfo*, struct addrinfo**);

int getaddrinfo(const char* node, const char* service, const struct addrinfo* hints, struct addrinfo** result) {
  const Getaddrinfo real = (Getaddrinfo)dlsym(RTLD_NEXT, "getaddrinfo");
  const char* path = getenv("SLIPWAY_NAMES");
  const size_t length = node == NULL ? 0 : strlen(node);
  if (path == NULL || length < 5 || strcmp(node + length - 5, ".test") != 0) return real(node, service, hints, result);

  FILE* file = fopen(path, "r");
  if (file == NULL) return EAI_AGAIN;
  char name[256], address[256];
  struct addrinfo* first = NULL;
  struct addrinfo** next = &first;
  int failure = EAI_NONAME;
  while (fscanf(file, "%255s %255s", name, address) == 2) {
    if (strcmp(name, node) != 0) continue;
    const int slow = strcmp(address, "SLOW") == 0;
    if (slow || strcmp(address, "SERVFAIL") == 0) {
      if (slow) sleep(2);
      failure = EAI_AGAIN;
      continue;
    }
    /* An address of a family that is not wanted is none; glibc frees a list node by node. */
    if (real(address, service, hints, next) != 0) continue;
    while (*next != NULL) next = &(*next)->ai_next;
  }
  fclose(file);
  *result = first;
  return first == NULL ? failure : 0;
}
