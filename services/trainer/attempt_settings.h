// What every attempt of a trainer has in common.
#pragma once

#include <chrono>
#include <filesystem>

namespace slipway::trainer {

struct AttemptSettings {
  std::filesystem::path work_dir;                      // downloaded data sets are kept here
  int threads = 1;                                     // at most, for one operator
  std::chrono::duration<double> checkpoint_every{30};  // unless the job says otherwise
};

}  // namespace slipway::trainer
