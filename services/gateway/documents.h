// The JSON shapes of Slipway's own API: snake_case, ISO 8601 times, digests as "sha256:<hex>". No I/O in here.
#pragma once

#include <boost/json.hpp>
#include <string>

#include "lib/base/error.h"
#include "schema/records.h"

namespace slipway::gateway {

namespace json = boost::json;

[[nodiscard]] json::value time_json(std::int64_t unix_ms);    // "2026-01-31T12:00:00.000Z"; null for 0
[[nodiscard]] json::value digest_json(const Digest& digest);  // null for none
[[nodiscard]] std::string state_name(JobState state);         // "QUEUED"; "unknown(9)" for one of a later release

[[nodiscard]] json::object to_json(const Dataset& dataset);
[[nodiscard]] json::object to_json(const Job& job, bool with_document);
[[nodiscard]] json::object to_json(const Progress& progress);
[[nodiscard]] json::object to_json(const JobEvent& event);
[[nodiscard]] json::object to_json(const Model& model);
[[nodiscard]] json::object to_json(const Version& version);
[[nodiscard]] json::object to_json(const Signature& signature);
[[nodiscard]] json::object to_json(const StoredFile& file);
[[nodiscard]] json::object to_json(const AliasMove& move);
[[nodiscard]] json::object to_json(const Quarantine& quarantine);

// {"items": [...], "next": cursor or null}.
[[nodiscard]] std::string list_json(json::array items, json::value next);

// A control document, with bounded nesting. Errors: kInvalidArgument (not a JSON object, or a key that comes twice in
// one, with what is wrong and its path).
[[nodiscard]] Result<json::object> parse_document(std::string_view text);

// {"inputs":[{"name","dtype","shape"}],"outputs"?:[...],"classes"?:[...]}. Errors: kInvalidArgument, with the path.
[[nodiscard]] Result<Signature> parse_signature(std::string_view text);

}  // namespace slipway::gateway
