// Knows which thread runs which module, so that a fatal signal in one names the file that it came from, and the process
// has a moment to answer before it ends.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>

#include "lib/base/error.h"
#include "lib/base/sha256.h"
#include "schema/messages.h"

namespace slipway::inferencer {

struct CrashHandler;  // crash_guard.cc

// Life: one at a time in a process; destruction gives the signals back. Threads: scopes on any thread; crashed() from
// any. Under address and thread sanitizers, which have handlers of their own, nothing is caught: `kCatches`.
class CrashGuard {
 public:
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  static constexpr bool kCatches = false;
#else
  static constexpr bool kCatches = true;
#endif

  struct Options {
    std::filesystem::path folder;  // of the marks: quarantine.h
    // How long a thread that crashed waits for somebody to end the process before it lets the signal end it.
    std::chrono::milliseconds wait{1000};
  };

  // From now on SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT in a scope leave a mark "<digest>.crashed" and then are
  // told by crashed(); elsewhere they do what they did before. Errors: kInternal (they cannot be caught; a path too
  // long).
  [[nodiscard]] static Result<std::unique_ptr<CrashGuard>> start(const Options& options);
  ~CrashGuard();
  CrashGuard(const CrashGuard&) = delete;
  CrashGuard& operator=(const CrashGuard&) = delete;

  // While it lives, its thread runs code of the file `digest` as version `key`; both must outlive it. A thread has one
  // at a time. Costs two stores; the first in a thread also gives it a stack for the handler. Without a guard it does
  // nothing.
  class Scope {
   public:
    Scope(const msg::VersionKey& key, const Digest& digest, bool uploaded);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    friend struct CrashHandler;
    const msg::VersionKey& key_;
    const Digest& digest_;
    const bool uploaded_;
  };

  struct Crash {
    msg::VersionKey key;
    Digest digest{};
    bool uploaded = false;
    int signal = 0;
  };
  // The first crash; its thread waits, for at most Options::wait, for the end of the process.
  [[nodiscard]] static std::optional<Crash> crashed();

 private:
  CrashGuard() = default;
};

}  // namespace slipway::inferencer
