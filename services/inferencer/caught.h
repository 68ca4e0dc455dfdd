// No exception may leave a thread: it would end the process, and everybody's work with it.
#pragma once

#include <exception>
#include <format>
#include <string_view>

#include "lib/base/error.h"

namespace slipway::inferencer {

// What `work` returns, a Result; an exception becomes an Error with `code`, whose message `what` begins.
template <class Work>
auto caught(std::string_view what, Code code, Work work) -> decltype(work()) {
  try {
    return work();
  } catch (const std::exception& error) {
    return fail(code, std::format("{}: {}", what, error.what()));
  } catch (...) {
    return fail(code, std::format("{}: an unknown exception", what));
  }
}

}  // namespace slipway::inferencer
