#include "lib/torch_runtime/torch_runtime.h"

#include <dlfcn.h>
#include <spdlog/spdlog.h>

#include <torch/csrc/jit/passes/tensorexpr_fuser.h>
#include <torch/script.h>
#include <torch/torch.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "lib/base/log.h"
#include "lib/base/machine.h"
#include "lib/torch_runtime/memory_account.h"

namespace slipway {

void link_thread_stacks();  // thread_stacks.cc

namespace {
std::atomic<int> team_size = 1;
}

void start_torch(int intra_op_threads) {
  link_thread_stacks();
  count_torch_memory();

  // oneDNN keeps a primitive per shape for ever; its default of 1024 is hundreds of megabytes. Read at its first use.
  setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64", 0);

  // Debian's LLVM fuser hangs the training of a three-layer MLP and stalls all threads at each new shape. The strategy
  // is process-wide; setGraphExecutorOptimize would hold for the calling thread only.
  torch::jit::FusionStrategy none;
  torch::jit::setFusionStrategy(none);
  torch::jit::setTensorExprFuserEnabled(false);

  set_torch_threads(intra_op_threads > 0 ? intra_op_threads : usable_cores());
  use_torch_threads();
  // May be set once in a process, before its first use.
  static const bool once = [] {
    at::set_num_interop_threads(1);
    return true;
  }();
  static_cast<void>(once);

  // The same thread count then gives the same bits. Filling fresh memory with NaN finds bugs, but costs time.
  at::globalContext().setDeterministicAlgorithms(true, false);
  at::globalContext().setDeterministicFillUninitializedMemory(false);
}

void set_torch_threads(int intra_op_threads) { team_size = intra_op_threads; }

void use_torch_threads() {
  // OpenMP keeps the size per thread; one that begins later takes over torch's own idea of it, at its first operator.
  thread_local int used = 0;
  const int wanted = team_size.load(std::memory_order_relaxed);
  if (used == wanted) return;
  used = wanted;
  at::set_num_threads(wanted);
}

BlasReport check_blas() {
  BlasReport report;
  void* product = dlsym(RTLD_DEFAULT, "sgemm_");
  Dl_info info{};
  if (product == nullptr || dladdr(product, &info) == 0 || info.dli_fname == nullptr) {
    report.warning = "no BLAS library found in this process";
    return report;
  }
  std::error_code failed;
  report.library = std::filesystem::canonical(info.dli_fname, failed).string();
  if (failed) report.library = info.dli_fname;

  // Debian's openblas libblas.so.3 is a small library that calls libopenblas; both must be there to mean OpenBLAS.
  const bool openblas_path = report.library.contains("openblas");
  auto* config = reinterpret_cast<char* (*)()>(dlsym(RTLD_DEFAULT, "openblas_get_config"));
  auto* parallel = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "openblas_get_parallel"));
  if (!openblas_path || config == nullptr || parallel == nullptr) {
    report.warning = "not OpenBLAS: matrix products may be 40 times slower; install libopenblas0-openmp";
    return report;
  }
  report.config = config();
  constexpr int kOpenMp = 2;
  if (parallel() != kOpenMp) {
    report.warning =
        "OpenBLAS without OpenMP: its threads and torch's get in each other's way; install libopenblas0-openmp, and "
        "only it";
  }
  return report;
}

void log_blas() {
  const BlasReport report = check_blas();
  if (report.warning.empty()) {
    spdlog::info("blas library={} config={}", log_value(report.library), log_value(report.config));
  } else {
    spdlog::warn("blas library={} config={} problem={}", log_value(report.library), log_value(report.config),
                 log_value(report.warning));
  }
}

c10::Device torch_device() { return {c10::kCPU}; }

}  // namespace slipway
