// What every attempt of a trainer has in common.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>

namespace slipway::trainer {

struct AttemptSettings {
  std::filesystem::path work_dir;                      // downloaded data sets are kept here
  int threads = 1;                                     // at most, for one operator
  std::chrono::duration<double> checkpoint_every{30};  // unless the job says otherwise
  std::uint64_t memory_bytes = 0;                      // a job may take; 0: what is left when it begins
};

}  // namespace slipway::trainer
