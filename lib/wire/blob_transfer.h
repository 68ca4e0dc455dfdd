// Files to and from the registry over a Caller: uploads in parts of 1 MiB, downloads chunk by chunk, both in a window,
// verified.
#pragma once

#include <chrono>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "lib/wire/caller.h"
#include "schema/limits.h"

namespace slipway {

inline constexpr std::size_t kUploadWindow = 8;    // parts sent and not yet answered
inline constexpr std::size_t kDownloadWindow = 4;  // chunks asked for and not yet used

// How long a registry may say "not now" (kOverloaded, or kUnavailable with a time to wait): it is asked again after
// `pause`, then longer, until nothing has got on for `give_up`.
struct Patience {
  std::chrono::milliseconds pause{100};
  std::chrono::milliseconds give_up{60'000};
};

// All but abort_upload wait for the registry, so they are not for the bus thread.
// Errors: kUnavailable or kDeadlineExceeded (the registry does not answer), kOverloaded (it has had no room for as long
// as our patience lasts), kDataLoss (bytes do not match their digest), and what the registry says.

[[nodiscard]] Result<UploadId> open_upload(Caller& registry);

// Parts that find no room are sent again, and so is what came behind them. After an error the upload is of no use:
// abort it.
[[nodiscard]] Result<void> upload_file(Caller& registry, const UploadId& upload, const std::string& name,
                                       std::span<const std::byte> bytes, Patience patience = {});

// Gives the upload's place and bytes back at once rather than when it has been idle; does not wait. Any thread.
void abort_upload(Caller& registry, const UploadId& upload);

// The file's bytes; `file.chunks` must be filled.
[[nodiscard]] Result<std::vector<std::byte>> download(Caller& registry, const StoredFile& file, Patience patience = {});

// Hands the file's bytes in order to `take`, which may end it with an error; they are the file's only if it ends
// without one.
using TakeBytes = std::function<Result<void>(std::span<const std::byte>)>;
[[nodiscard]] Result<void> download_to(Caller& registry, const StoredFile& file, const TakeBytes& take,
                                       Patience patience = {});

}  // namespace slipway
