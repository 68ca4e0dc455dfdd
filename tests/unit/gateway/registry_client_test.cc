#include "services/gateway/registry_client.h"

#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_future.hpp>
#include <format>
#include <future>
#include <memory>
#include <thread>

#include "services/gateway/problem.h"

namespace slipway::gateway {
namespace {

using namespace std::chrono_literals;

// A registry that hears questions and dies before it answers one.
class DyingRegistry {
 public:
  DyingRegistry() {
    socket_ = *bus_->bind_router("127.0.0.1:0", [this](const Incoming&) {
      if (!asked_) heard.set_value();
      asked_ = true;
    });
  }
  [[nodiscard]] std::string address() const { return std::format("127.0.0.1:{}", bus_->port(socket_)); }
  void die() { bus_.reset(); }

  std::promise<void> heard;

 private:
  bool asked_ = false;  // bus thread
  std::unique_ptr<Bus> bus_ = std::make_unique<Bus>();
  SocketId socket_{};
};

TEST(RegistryClient, SaysAtOnceThatTheRegistryHasDiedUnderAQuestionThatIsAskedOnce) {
  DyingRegistry registry;
  Bus bus;
  Caller caller(bus, registry.address());
  RegistryClient client(caller, 600s);
  asio::io_context io;
  auto answer =
      asio::co_spawn(io.get_executor(), client.ask<msg::UploadOpened>(msg::OpenUpload{}, "q", false), asio::use_future);
  std::jthread runs([&io] { io.run(); });
  registry.heard.get_future().wait();
  registry.die();
  const bool in_time = answer.wait_for(60s) == std::future_status::ready;
  caller.close();
  ASSERT_TRUE(in_time);
  const auto opened = answer.get();
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, Code::kUnavailable);
  EXPECT_EQ(status_of(opened.error().code, Dialect::kOwn), 503);
}

}  // namespace
}  // namespace slipway::gateway
