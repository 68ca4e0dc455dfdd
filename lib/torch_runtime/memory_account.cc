#include "lib/torch_runtime/memory_account.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <c10/util/Exception.h>
#include <malloc.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <format>
#include <new>

namespace slipway {
namespace {

// Added while the account's owner lives: the state goes with whoever brings the sum to 0, the owner or the last block.
constexpr std::int64_t kOwned = std::int64_t{1} << 61;

// From here on a block that would pass the limit is refused. Smaller ones are only counted: torch makes such where no
// exception may be thrown, in moves and while another one is on its way.
constexpr std::size_t kRefused = 4096;

}  // namespace

struct MemoryAccount::State {
  std::atomic<std::int64_t> held{kOwned};
  std::atomic<std::int64_t> limit;
  std::atomic<std::int64_t> kept{0};  // of `held`: blocks that are no tensors

  explicit State(std::int64_t bytes) : limit(bytes) {}

  void give_back(std::int64_t bytes) {
    if (held.fetch_sub(bytes, std::memory_order_acq_rel) == bytes) delete this;
  }
};

// What the allocator may see of the account.
struct Counting {
  using State = MemoryAccount::State;
  using Charge = MemoryAccount::Charge;

  static constinit thread_local Charge* current;

  // Before every block, so that whoever releases it knows whose it is. A block's context is its address, as it is with
  // torch's own allocator, which parts of torch rely on. As long as torch's alignment.
  struct alignas(64) Header {
    State* account = nullptr;
    std::int64_t charged = 0;
  };

  // Made without operator new, which may be what refuses.
  class OverLimit : public std::bad_alloc {
   public:
    explicit OverLimit(std::size_t bytes) {
      *std::format_to_n(text_.begin(), text_.size() - 1, "{} bytes more than it may have", bytes).out = '\0';
    }
    const char* what() const noexcept override { return text_.data(); }

   private:
    std::array<char, 64> text_{};
  };

  static State& state(const Charge& charge) { return *static_cast<State*>(charge.state_); }

  // Of blocks under the charge that are no tensors.
  static std::int64_t others(const Charge& charge) { return charge.outer_bytes_ + charge.other_bytes_; }

  [[noreturn]] static void refuse(Charge& charge, std::size_t bytes) {
    charge.refused_bytes_ = bytes;
    throw OverLimit(bytes);
  }

  // `more`: with what comes on top of the tensor's `bytes`.
  static State* charge(std::size_t bytes, std::int64_t more) {
    Charge* const charge = current;
    if (charge == nullptr) return nullptr;
    State& account = state(*charge);
    const std::int64_t before = account.held.fetch_add(more, std::memory_order_relaxed) - kOwned + others(*charge);
    if (more > account.limit.load(std::memory_order_relaxed) - before) {
      account.give_back(more);
      refuse(*charge, bytes);
    }
    return &account;
  }

  // Of what is no tensor: how much room is left under the charge, below 0 when there is none.
  static std::int64_t room(const Charge& charge) {
    const State& account = state(charge);
    return account.limit.load(std::memory_order_relaxed) -
           (account.held.load(std::memory_order_relaxed) - kOwned + others(charge));
  }

  // A block that is no tensor, under a charge. A small one touches nothing that other threads see.
  static void* new_block(Charge& charge, std::size_t bytes) {
    if (bytes >= kRefused && clamped(bytes) > room(charge)) refuse(charge, bytes);
    void* const block = plain_block(bytes);
    charge.other_bytes_ += static_cast<std::int64_t>(malloc_usable_size(block));
    return block;
  }
  static void* plain_block(std::size_t bytes) {
    while (true) {
      if (void* const block = std::malloc(bytes == 0 ? 1 : bytes)) return block;
      const auto handler = std::get_new_handler();
      if (handler == nullptr) throw std::bad_alloc();
      handler();
    }
  }
  static void delete_block(Charge& charge, void* block) {
    charge.other_bytes_ -= static_cast<std::int64_t>(malloc_usable_size(block));  // 0 of none
    std::free(block);
  }

  static std::int64_t clamped(std::size_t bytes) {
    return static_cast<std::int64_t>(std::min<std::size_t>(bytes, MemoryAccount::kNoLimit));
  }

  static void release(void* data) {
    if (data == nullptr) return;
    auto* const header = static_cast<Header*>(data) - 1;
    State* const account = header->account;
    const std::int64_t charged = header->charged;
    c10::free_cpu(header);
    if (account != nullptr) account->give_back(charged);
  }

  class Allocator final : public c10::Allocator {
   public:
    c10::DataPtr allocate(std::size_t bytes) override {
      const c10::Device cpu(c10::DeviceType::CPU);
      if (bytes == 0) return {nullptr, nullptr, &release, cpu};
      // A size that an overflow made; with the header it would be a small one.
      TORCH_CHECK(bytes <= static_cast<std::size_t>(MemoryAccount::kNoLimit), "cannot allocate ", bytes, " bytes");
      const std::int64_t more = clamped(bytes) + MemoryAccount::kTensorOverhead;
      State* const account = charge(bytes, more);
      void* raw = nullptr;
      try {
        raw = c10::alloc_cpu(bytes + sizeof(Header));
      } catch (...) {
        if (account != nullptr) account->give_back(more);
        throw;
      }
      void* const data = new (raw) Header{account, more} + 1;
      return {data, data, &release, cpu};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &release; }
    void copy_data(void* to, const void* from, std::size_t count) const override { default_copy_data(to, from, count); }
  };
};

constinit thread_local MemoryAccount::Charge* Counting::current = nullptr;

MemoryAccount::MemoryAccount(std::int64_t limit_bytes) : state_(new State(limit_bytes)) {}

MemoryAccount::~MemoryAccount() { state_->give_back(kOwned + state_->kept.load(std::memory_order_relaxed)); }

std::int64_t MemoryAccount::held_bytes() const { return state_->held.load(std::memory_order_relaxed) - kOwned; }

std::int64_t MemoryAccount::limit_bytes() const { return state_->limit.load(std::memory_order_relaxed); }

void MemoryAccount::set_limit(std::int64_t bytes) { state_->limit.store(bytes, std::memory_order_relaxed); }

MemoryAccount::Charge::Charge(MemoryAccount& account) : state_(account.state_), outer_(Counting::current) {
  if (outer_ != nullptr && outer_->state_ == state_) outer_bytes_ = outer_->outer_bytes_ + outer_->other_bytes_;
  Counting::current = this;
}

MemoryAccount::Charge::~Charge() {
  Counting::current = outer_;
  if (refused_bytes_ > 0 && outer_ != nullptr && outer_->state_ == state_) outer_->refused_bytes_ = refused_bytes_;
}

void MemoryAccount::Charge::keep_rest() {
  State& account = Counting::state(*this);
  std::int64_t before = account.kept.load(std::memory_order_relaxed);
  std::int64_t after = 0;
  do {
    after = std::max<std::int64_t>(before + other_bytes_, 0);
  } while (!account.kept.compare_exchange_weak(before, after, std::memory_order_relaxed));
  account.held.fetch_add(after - before, std::memory_order_relaxed);
  other_bytes_ = 0;
}

void MemoryAccount::check_limit() {
  Charge* const charge = Counting::current;
  if (charge == nullptr) return;
  if (const std::int64_t room = Counting::room(*charge); room < 0)
    Counting::refuse(*charge, static_cast<std::size_t>(-room));
}

MemoryAccount::Pause::Pause() : charge_(Counting::current) { Counting::current = nullptr; }

MemoryAccount::Pause::~Pause() { Counting::current = charge_; }

void count_torch_memory() {
  // For ever: blocks outlive every destructor.
  static auto* const allocator = new Counting::Allocator;
  c10::SetCPUAllocator(allocator);
}

}  // namespace slipway

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which replace these themselves
// Comes before libstdc++'s for every library of the process. Who has no charge pays for one comparison.
void* operator new(std::size_t size) {
  if (auto* const charge = slipway::Counting::current) return slipway::Counting::new_block(*charge, size);
  return slipway::Counting::plain_block(size);
}

void operator delete(void* block) noexcept {
  if (auto* const charge = slipway::Counting::current) return slipway::Counting::delete_block(*charge, block);
  std::free(block);
}

void operator delete(void* block, std::size_t) noexcept { operator delete(block); }
#endif
