// How often a job wants to be checkpointed, by its document.
#pragma once

#include <chrono>
#include <string_view>

namespace slipway::registry {

// "checkpoint_seconds" of the job's document; `otherwise` where it names none, or is no document.
[[nodiscard]] std::chrono::milliseconds checkpoint_interval(std::string_view document,
                                                            std::chrono::milliseconds otherwise);

}  // namespace slipway::registry
