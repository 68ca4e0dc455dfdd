// Many gateways and many workers in one process, over real sockets, by a list that changes.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <thread>

#include "lib/base/random_id.h"
#include "lib/wire/worker_link.h"
#include "services/gateway/worker_hub.h"

namespace slipway::gateway {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

#ifdef __SANITIZE_THREAD__
constexpr auto kWithin = 50s;  // the sanitizer's time, not ours
#elif defined(__SANITIZE_ADDRESS__)
constexpr auto kWithin = 25s;
#else
constexpr auto kWithin = 5s;
#endif

class Gateway {
 public:
  Gateway() { EXPECT_TRUE(hub_.start("127.0.0.1:0")); }
  ~Gateway() {
    caller_.close();
    hub_.close();
    bus_.stop();
  }
  Gateway(const Gateway&) = delete;
  Gateway& operator=(const Gateway&) = delete;
  [[nodiscard]] std::string address() const { return std::format("127.0.0.1:{}", hub_.port()); }
  [[nodiscard]] int workers() const { return hub_.inferencers() + hub_.trainers(); }

 private:
  Settings settings_;
  Bus bus_;
  Caller caller_{bus_, "127.0.0.1:1"};
  RegistryClient client_{caller_, 1s};
  RegistryCache cache_{client_};
  EventHub events_;
  WorkerHub hub_{bus_, caller_, cache_, events_, settings_, "r"};
};

class Worker {
 public:
  Worker(int number, const std::string& place)
      : link_(
            bus_,
            {.release = "r",
             .role = number % 2 == 0 ? msg::Role::kInferencer : msg::Role::kTrainer,
             .worker_id = WorkerId(std::format("w{}", number)),
             .host = "h"},
            {place}, [] { return msg::Heartbeat{.credits = 100, .loaded = {}, .draining = false}; },
            [](const Incoming&) {}) {}
  [[nodiscard]] int welcomed() const { return link_.welcomed(); }

 private:
  Bus bus_;
  WorkerLink link_;
};

struct DiscoveryTest : testing::Test {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / std::format("discovery-{}-{}", getpid(), random_hex(64));
  std::vector<std::unique_ptr<Gateway>> gateways;
  std::vector<std::unique_ptr<Worker>> workers;

  ~DiscoveryTest() override { std::filesystem::remove(path); }

  void add_gateways(std::size_t count) {
    while (gateways.size() < count) gateways.push_back(std::make_unique<Gateway>());
  }
  void write_list() const {
    const auto aside = path.string() + ".new";
    {
      std::ofstream file(aside);
      for (const auto& gateway : gateways) file << gateway->address() << "\n";
    }
    std::filesystem::rename(aside, path);
  }
  // Whether every gateway knows every worker within kWithin from now.
  [[nodiscard]] bool all_meet() const {
    const auto met = [&] {
      return std::ranges::all_of(
          gateways, [&](const auto& gateway) { return gateway->workers() == static_cast<int>(workers.size()); });
    };
    const auto end = Clock::now() + kWithin;
    while (!met() && Clock::now() < end) std::this_thread::sleep_for(5ms);
    return met();
  }
};

TEST_F(DiscoveryTest, TenGatewaysAndFiftyWorkersFindEachOtherWithinFiveSecondsOfAChange) {
  add_gateways(3);
  write_list();
  for (int i = 0; i < 50; ++i) workers.push_back(std::make_unique<Worker>(i, "@" + path.string()));
  EXPECT_TRUE(all_meet()) << "a start";
  add_gateways(10);
  write_list();
  EXPECT_TRUE(all_meet()) << "more gateways";
  // As a rolling update does it: new ones are named beside, then instead of others.
  gateways.erase(gateways.begin(), gateways.begin() + 5);
  add_gateways(10);
  write_list();
  EXPECT_TRUE(all_meet()) << "other gateways";
  workers.erase(workers.begin(), workers.begin() + 20);
  for (int i = 50; i < 70; ++i) workers.push_back(std::make_unique<Worker>(i, "@" + path.string()));
  const auto end = Clock::now() + kWithin;
  const auto know_all = [&] {
    return std::ranges::all_of(workers, [](const auto& worker) { return worker->welcomed() >= 10; });
  };
  while (!know_all() && Clock::now() < end) std::this_thread::sleep_for(5ms);
  EXPECT_TRUE(know_all()) << "other workers";
}

}  // namespace
}  // namespace slipway::gateway
