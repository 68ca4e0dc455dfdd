// What every attempt of a trainer has in common.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>

namespace slipway::trainer {

struct AttemptSettings {
  std::filesystem::path work_dir;                       // downloaded data sets are kept here
  std::uint64_t cache_bytes = std::uint64_t{32} << 30;  // of them; what a running job uses stays beyond that
  int threads = 1;                                      // at most, for one operator; 0: cores when it begins
  std::chrono::duration<double> checkpoint_every{30};   // unless the job says otherwise
  std::uint64_t memory_bytes = 0;                       // a job may take; 0: what is left when it begins
};

[[nodiscard]] inline std::filesystem::path data_folder(const AttemptSettings& settings) {
  return settings.work_dir / "datasets";
}

}  // namespace slipway::trainer
