// The one place for torch settings that hold for the whole process. README.md says why each is as it is.
#pragma once

#include <string>

namespace c10 {
struct Device;
}

namespace slipway {

// Settings of the process. Call once, in main, before any module exists and before any other thread uses torch.
// `intra_op_threads` is the size of the team that one call of an operator may use; 0: usable_cores(), which
// sees the cgroup's quota too, as torch does not.
void start_torch(int intra_op_threads);

// Sets another size of the team, for threads that have begun already: each takes it over at its next
// use_torch_threads(). Any thread.
void set_torch_threads(int intra_op_threads);

// What a thread that lives long calls before its work; costs nothing when nothing has changed.
void use_torch_threads();

// Which BLAS the process really loaded.
struct BlasReport {
  std::string library;  // the file that matrix products go to, links resolved; empty: not found
  std::string config;   // OpenBLAS' own description of itself; empty: it is not OpenBLAS
  std::string warning;  // what is wrong with it, for the log; empty: nothing
};
[[nodiscard]] BlasReport check_blas();

// Logs what check_blas() found: a warning when there is something wrong.
void log_blas();

// Where modules and tensors live. CPU now.
[[nodiscard]] c10::Device torch_device();

}  // namespace slipway
