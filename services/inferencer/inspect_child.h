// Inspects an uploaded file in a process of its own, which may crash, hang or eat its memory without harm.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <stop_token>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "schema/records.h"

namespace slipway::inferencer {

struct InspectLimits {
  std::chrono::seconds time{60};            // of the clock, and of the processor
  std::uint64_t memory_bytes = 4ULL << 30;  // beside four times the file
  std::int64_t max_batch_rows = 32;         // of the inferencer: what it would warm up with is tried
};

// Scans `file` as a load does, without torch. Errors: kInvalidArgument, kTooLarge, kNotFound.
[[nodiscard]] Result<void> scan_file(const std::filesystem::path& file);

// Scans, loads and tries `file` in this process. Returns the signature with its outputs filled in.
// Errors: kInvalidArgument (refused: the message says why), kTooLarge.
[[nodiscard]] Result<Signature> inspect_file(const std::filesystem::path& file, const Signature& signature,
                                             std::int64_t max_batch_rows);

// The same in a child process, `program inspect-file PATH`, on half the stack that a thread of this process has: what
// passes there has room here. Errors: as above; kInvalidArgument also when the child
// crashed or ran out of time or memory; kInternal (it could not be started); kUnavailable (`stop` was asked for, which
// ends the child).
[[nodiscard]] Result<Signature> inspect_in_child(const std::filesystem::path& program,
                                                 const std::filesystem::path& file, const Signature& signature,
                                                 const InspectLimits& limits = {}, const std::stop_token& stop = {});

// What of an environment the child gets: what its libraries look at, and nothing that may be a secret, such as the
// service's own settings. "NAME=value" each; `environment` ends with a null pointer.
[[nodiscard]] std::vector<std::string> child_environment(const char* const* environment);

// What the child's main does: the question comes on standard input, the answer goes to standard output, both encoded
// envelopes. `arguments`: PATH, seconds, bytes, rows of a full batch. Returns the exit code.
int inspect_child_main(int argc, char** argv);

}  // namespace slipway::inferencer
