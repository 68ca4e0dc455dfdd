// What a stored upload holds as a data set: its files, read back chunk by chunk, looked at by lib/dataset.
#pragma once

#include <functional>
#include <vector>

#include "lib/base/error.h"
#include "schema/records.h"
#include "services/registry/chunk_store.h"

namespace slipway::registry {

// Asked before every chunk; its error ends the reading.
using GoOn = std::function<Result<void>()>;

// The data set without a name and version; its files name the chunks of `files`. Reads every byte: minutes for large
// files. Errors: those of dataset::inspect, of `go_on`, and of ChunkStore::get.
[[nodiscard]] Result<Dataset> inspect_files(const ChunkStore& store, const std::vector<StoredFile>& files,
                                            const GoOn& go_on);

// The same files give the same finding again, unlike a disk or a deadline.
[[nodiscard]] bool is_lasting(const Result<Dataset>& found);

}  // namespace slipway::registry
