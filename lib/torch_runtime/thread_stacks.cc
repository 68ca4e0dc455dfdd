// OpenBLAS and LibTorch declare 73 KiB of thread-local storage, which glibc takes out of every thread's stack.
// Libraries that ask for small stacks reckon with all of it: CivetWeb's 100 KiB leave too little for its own error
// pages, and the first request to /readyz ended the process. So whoever asks for a small stack gets this much more; it
// is address space, not memory. The definition here comes before glibc's for every library of the process.
#include <dlfcn.h>
#include <pthread.h>

#include <cerrno>
#include <cstddef>

extern "C" __attribute__((visibility("default"))) int pthread_attr_setstacksize(pthread_attr_t* attributes,
                                                                                std::size_t size) noexcept {
  constexpr std::size_t kSmall = 512 << 10;
  constexpr std::size_t kMore = 256 << 10;
  using SetStackSize = int (*)(pthread_attr_t*, std::size_t);
  static const auto original = reinterpret_cast<SetStackSize>(dlsym(RTLD_NEXT, "pthread_attr_setstacksize"));
  if (original == nullptr) return ENOSYS;
  return original(attributes, size < kSmall ? size + kMore : size);
}

namespace slipway {
// Named by start_torch, so that the linker takes this file.
void link_thread_stacks() {}
}  // namespace slipway
