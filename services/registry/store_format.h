// Which releases may open a data folder: a number in a file of its own, looked at before anything else in there is
// opened. Within a number, releases read each other's data: records only gain fields, and what an earlier one does not
// know it leaves alone. A change that it could not live with takes the next number.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "lib/base/error.h"

namespace slipway::registry {

inline constexpr int kStoreFormat = 1;

// What the file says.
struct StoreFormat {
  int number = kStoreFormat;
  std::optional<int> migrating_from;  // data of that number is being changed to this one, or was when a process died
  std::string release;                // that wrote the file: the first one here that knows the number

  bool operator==(const StoreFormat&) const = default;
};

// One step, from the number before `to`. It is begun again from its start when a process died in it.
struct Migration {
  int to;
  std::function<Result<void>()> run;
};

// Nullopt: there is no file, since the folder is new or of a release that wrote none, which is number 1. Writes
// nothing. Errors: kUnsupported (a number above `ours`: the message says which release it needs), kDataLoss (not such a
// file).
[[nodiscard]] Result<std::optional<StoreFormat>> check_format(const std::filesystem::path& data_dir,
                                                              int ours = kStoreFormat);

// Brings the data to `ours` and says so in the file. `found` is what check_format gave, and the caller is the only
// process that has the data open. From the first change on, a release that does not know the new number is refused,
// whenever this process dies. `migrations` rise by one up to `ours`.
// Errors: a migration's; kInternal, kUnavailable (the file cannot be written).
[[nodiscard]] Result<void> settle_format(const std::filesystem::path& data_dir, const std::optional<StoreFormat>& found,
                                         std::span<const Migration> migrations, int ours = kStoreFormat);

}  // namespace slipway::registry
