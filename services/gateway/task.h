// Coroutines of the gateway: each lives on one io_context that one thread runs, which is its strand.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <memory>
#include <utility>

namespace slipway::gateway {

namespace asio = boost::asio;

using Executor = asio::io_context::executor_type;
template <class T>
using Task = asio::awaitable<T, Executor>;
inline constexpr asio::use_awaitable_t<Executor> kUseTask{};

// Waits for a value that `start` has delivered from whatever thread: `start` is given a copyable function to call once.
template <class T, class Start>
Task<T> await_value(Start start) {
  const Executor executor = co_await asio::this_coro::executor;
  co_return co_await asio::async_initiate<const asio::use_awaitable_t<Executor>, void(T)>(
      [executor](auto handler, Start begin) {
        auto kept = std::make_shared<decltype(handler)>(std::move(handler));
        begin([kept = std::move(kept), executor](T value) mutable {
          asio::post(executor, [kept = std::move(kept), value = std::move(value)]() mutable {
            std::move (*kept)(std::move(value));
          });
        });
      },
      kUseTask, std::move(start));
}

}  // namespace slipway::gateway
