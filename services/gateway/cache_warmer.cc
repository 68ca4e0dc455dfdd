#include "services/gateway/cache_warmer.h"

#include <spdlog/spdlog.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>

#include "lib/base/log.h"

namespace slipway::gateway {
namespace {

constexpr std::chrono::milliseconds kAgain{200};

}  // namespace

void CacheWarmer::start() {
  thread_ = std::jthread([this](const std::stop_token& stopped) {
    asio::co_spawn(context_, warm(stopped), [](const std::exception_ptr& failure) {
      if (failure) spdlog::error("the models were not read: this gateway will not be ready");
    });
    context_.run();
  });
}

Task<void> CacheWarmer::warm(std::stop_token stopped) {
  asio::basic_waitable_timer<std::chrono::steady_clock, asio::wait_traits<std::chrono::steady_clock>, Executor> pause(
      co_await asio::this_coro::executor);
  while (!stopped.stop_requested()) {
    try {
      const auto read = co_await cache_.read_all("start");
      if (read) {
        done_ = true;
        spdlog::info("models known versions={}", *read);
        co_return;
      }
      spdlog::debug("the models cannot be read yet message={}", log_value(read.error().message));
    } catch (const std::exception& failure) {
      spdlog::error("the models cannot be read yet message={}", log_value(failure.what()));
    }
    pause.expires_after(kAgain);
    boost::system::error_code ignored;
    co_await pause.async_wait(asio::redirect_error(kUseTask, ignored));
  }
}

}  // namespace slipway::gateway
