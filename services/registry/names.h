// Names people give, and the keys under which records are kept.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "lib/base/error.h"
#include "schema/records.h"

namespace slipway::registry {

inline constexpr std::size_t kMaxActorBytes = 256;  // who asked, as it is recorded
inline constexpr std::size_t kMaxKeyBytes = 255;    // an idempotency key, as gateways take them

// Names of models, data sets and aliases: [A-Za-z0-9][A-Za-z0-9._-]{0,127}. `what` says whose name it is in the
// message. Errors: kInvalidArgument.
[[nodiscard]] Result<void> check_name(std::string_view what, std::string_view name);

// A text that people or services give: UTF-8 without control characters, at most `max_bytes`.
// Errors: kInvalidArgument, kTooLarge.
[[nodiscard]] Result<void> check_text(std::string_view what, std::string_view text, std::size_t max_bytes);

// The same, of one line: no line ends and no tabs either. Of ids that are shown in the texts of others.
[[nodiscard]] Result<void> check_line(std::string_view what, std::string_view text, std::size_t max_bytes);

// `text` made to pass check_text: what is too much is cut off, what is not plain text is replaced.
[[nodiscard]] std::string plain_text(std::string_view text, std::size_t max_bytes);

// "job-12" and 12. Errors: kNotFound (no job can have this id).
[[nodiscard]] JobId job_id(std::uint64_t number);
[[nodiscard]] Result<std::uint64_t> job_number(const JobId& id);

// Keys sort as numbers do: 20 digits.
[[nodiscard]] std::string number_key(std::uint64_t number);
[[nodiscard]] std::string numbered_key(std::string_view name, std::uint64_t number);  // "name/00000000000000000012"

// Whether it means a version without being an alias: a number, or "latest".
[[nodiscard]] bool is_version_word(std::string_view text);

// The number at the end of a key made by one of the two above.
[[nodiscard]] std::uint64_t number_of(std::string_view key);

// The keys of `name` are those from "name/" up to, and without, "name0".
[[nodiscard]] std::string first_key(std::string_view name);
[[nodiscard]] std::string end_key(std::string_view name);

}  // namespace slipway::registry
