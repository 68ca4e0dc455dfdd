// Loading and unloading models: the registry keeps what is wanted, every inferencer is asked to follow.
#pragma once

#include <string>

#include "services/gateway/http_message.h"
#include "services/gateway/services.h"

namespace slipway::gateway {

// The versions of `model` that inferencers keep in memory: its latest and its aliased ones, in order; none while it is
// unloaded.
[[nodiscard]] std::vector<msg::VersionKey> desired_versions(const Model& model);

// Writes that `model` is served, or not, and then, of one that is, waits until every inferencer that this gateway knows
// has its versions loaded and warm. What was written stays when that fails: inferencers go on trying.
// Errors: kNotFound (no such model; it has no version yet), kUnavailable (the registry does not answer; no inferencer
// is connected, or one was lost), kDeadlineExceeded (Settings::load_deadline_ms), kInternal (an inferencer says why
// not).
Task<Result<Model>> set_serving(Services& services, Call& call, std::string model, bool served);

}  // namespace slipway::gateway
