#include "lib/torch_runtime/memory_account.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <format>
#include <new>
#include <string>

namespace slipway {
namespace {

// Added while the account's owner lives: the state goes with whoever brings the sum to 0, the owner or the last block.
constexpr std::int64_t kOwned = std::int64_t{1} << 61;

}  // namespace

struct MemoryAccount::State {
  std::atomic<std::int64_t> held{kOwned};
  std::atomic<std::int64_t> limit;

  explicit State(std::int64_t bytes) : limit(bytes) {}

  void give_back(std::int64_t bytes) {
    if (held.fetch_sub(bytes, std::memory_order_acq_rel) == bytes) delete this;
  }
};

// What the allocator may see of the account.
struct Counting {
  using State = MemoryAccount::State;
  using Charge = MemoryAccount::Charge;

  static thread_local Charge* current;

  // Before every block, so that whoever releases it knows whose it is. A block's context is its address, as it is with
  // torch's own allocator, which parts of torch rely on. As long as torch's alignment.
  struct alignas(64) Header {
    State* account = nullptr;
    std::size_t bytes = 0;
  };

  class OverLimit : public std::bad_alloc {
   public:
    explicit OverLimit(std::size_t bytes) : text_(std::format("{} bytes more than it may have", bytes)) {}
    const char* what() const noexcept override { return text_.c_str(); }

   private:
    std::string text_;
  };

  static State* charge(std::size_t bytes) {
    Charge* const charge = current;
    if (charge == nullptr) return nullptr;
    auto* const state = static_cast<State*>(charge->state_);
    const std::int64_t more = clamped(bytes);
    const std::int64_t before = state->held.fetch_add(more, std::memory_order_relaxed) - kOwned + charge->other_bytes_;
    if (more > state->limit.load(std::memory_order_relaxed) - before) {
      state->give_back(more);
      charge->refused_bytes_ = bytes;
      throw OverLimit(bytes);
    }
    return state;
  }

  // Of a block that is no tensor.
  static void charge_other(std::size_t bytes) {
    Charge* const charge = current;
    if (charge == nullptr) return;
    auto* const state = static_cast<State*>(charge->state_);
    const std::int64_t more = clamped(bytes);
    const std::int64_t before = state->held.load(std::memory_order_relaxed) - kOwned + charge->other_bytes_;
    if (more > state->limit.load(std::memory_order_relaxed) - before) {
      charge->refused_bytes_ = bytes;
      throw OverLimit(bytes);
    }
    charge->other_bytes_ += more;
  }
  static void release_other(std::size_t bytes) {
    if (Charge* const charge = current) charge->other_bytes_ -= clamped(bytes);
  }

  static std::int64_t clamped(std::size_t bytes) {
    return static_cast<std::int64_t>(std::min<std::size_t>(bytes, MemoryAccount::kNoLimit));
  }

  static void release(void* data) {
    if (data == nullptr) return;
    auto* const header = static_cast<Header*>(data) - 1;
    State* const account = header->account;
    const auto bytes = static_cast<std::int64_t>(header->bytes);
    c10::free_cpu(header);
    if (account != nullptr) account->give_back(bytes);
  }

  class Allocator final : public c10::Allocator {
   public:
    c10::DataPtr allocate(std::size_t bytes) override {
      const c10::Device cpu(c10::DeviceType::CPU);
      if (bytes == 0) return {nullptr, nullptr, &release, cpu};
      // A size that an overflow made; with the header it would be a small one.
      TORCH_CHECK(bytes <= static_cast<std::size_t>(MemoryAccount::kNoLimit), "cannot allocate ", bytes, " bytes");
      State* const account = charge(bytes);
      void* raw = nullptr;
      try {
        raw = c10::alloc_cpu(bytes + sizeof(Header));
      } catch (...) {
        if (account != nullptr) account->give_back(static_cast<std::int64_t>(bytes));
        throw;
      }
      void* const data = new (raw) Header{account, bytes} + 1;
      return {data, data, &release, cpu};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &release; }
    void copy_data(void* to, const void* from, std::size_t count) const override { default_copy_data(to, from, count); }
  };
};

thread_local MemoryAccount::Charge* Counting::current = nullptr;

MemoryAccount::MemoryAccount(std::int64_t limit_bytes) : state_(new State(limit_bytes)) {}

MemoryAccount::~MemoryAccount() { state_->give_back(kOwned); }

std::int64_t MemoryAccount::held_bytes() const { return state_->held.load(std::memory_order_relaxed) - kOwned; }

std::int64_t MemoryAccount::limit_bytes() const { return state_->limit.load(std::memory_order_relaxed); }

void MemoryAccount::set_limit(std::int64_t bytes) { state_->limit.store(bytes, std::memory_order_relaxed); }

MemoryAccount::Charge::Charge(MemoryAccount& account) : state_(account.state_), outer_(Counting::current) {
  Counting::current = this;
}

MemoryAccount::Charge::~Charge() { Counting::current = outer_; }

void count_torch_memory() {
  // For ever: blocks outlive every destructor.
  static auto* const allocator = new Counting::Allocator;
  c10::SetCPUAllocator(allocator);
}

}  // namespace slipway

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which replace these themselves
// Comes before libstdc++'s for every library of the process. Small blocks pay for one comparison.
namespace {
constexpr std::size_t kCounted = 4096;
}

void* operator new(std::size_t size) {
  if (size >= kCounted) slipway::Counting::charge_other(size);
  while (true) {
    if (void* const block = std::malloc(size == 0 ? 1 : size)) return block;
    const auto handler = std::get_new_handler();
    if (handler == nullptr) {
      if (size >= kCounted) slipway::Counting::release_other(size);
      throw std::bad_alloc();
    }
    handler();
  }
}

void operator delete(void* block) noexcept { std::free(block); }

void operator delete(void* block, std::size_t size) noexcept {
  if (size >= kCounted) slipway::Counting::release_other(size);
  std::free(block);
}
#endif
