// Files to and from the registry over a Caller: uploads in parts of 1 MiB, downloads chunk by chunk, verified.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "lib/wire/caller.h"
#include "schema/limits.h"

namespace slipway {

inline constexpr std::size_t kUploadWindow = 8;  // parts sent and not yet answered

// All of these wait for the registry, so they are not for the bus thread.
// Errors: kUnavailable or kDeadlineExceeded (the registry does not answer), kDataLoss (bytes do not match their
// digest), kInternal (this machine cannot keep the file), and what the registry says.

[[nodiscard]] Result<UploadId> open_upload(Caller& registry);
[[nodiscard]] Result<void> upload_file(Caller& registry, const UploadId& upload, const std::string& name,
                                       std::span<const std::byte> bytes);

// The file's bytes; `file.chunks` must be filled.
[[nodiscard]] Result<std::vector<std::byte>> download(Caller& registry, const StoredFile& file);

// The file under `folder`, named by its digest: kept from an earlier download when still whole, else fetched. Whole or
// absent under that name. Returns its path.
[[nodiscard]] Result<std::filesystem::path> download_to_cache(Caller& registry, const StoredFile& file,
                                                              const std::filesystem::path& folder);

// Removes what killed processes left half downloaded in `folder`; files that may still be written stay. For the start.
void sweep_partial_downloads(const std::filesystem::path& folder);

}  // namespace slipway
