// Counts what torch allocates on somebody's behalf, and refuses what goes beyond a limit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace slipway {

// Memory of CPU tensors, counted from allocation to release whatever thread releases it; start_torch installs the
// allocator that does so. Blocks that operator new gives (a program's lists, dictionaries and texts, and what torch
// keeps of each tensor beside its elements) count against the limit too, as what its thread makes less what it releases
// while a charge lives, and longer if keep_rest() says so. What libraries allocate by other means (scratch of oneDNN
// and OpenBLAS) is not seen. Life: may end while blocks that it was charged for live on. Threads: any.
class MemoryAccount {
 public:
  static constexpr std::int64_t kNoLimit = std::int64_t{1} << 60;
  static constexpr std::int64_t kTensorOverhead = 128;  // counted with each tensor's bytes: its block's header and gaps

  explicit MemoryAccount(std::int64_t limit_bytes = kNoLimit);
  ~MemoryAccount();
  MemoryAccount(const MemoryAccount&) = delete;
  MemoryAccount& operator=(const MemoryAccount&) = delete;

  [[nodiscard]] std::int64_t held_bytes() const;
  [[nodiscard]] std::int64_t limit_bytes() const;
  void set_limit(std::int64_t bytes);

  // While it lives, what its thread allocates through torch is charged to the account; an allocation beyond the limit
  // throws a std::bad_alloc, which operators and TorchScript pass on, the latter as another type. Blocks of less than
  // 4 KiB that are no tensors only count: the next tensor or larger block is refused, or check_limit() says so. They
  // may be nested: the innermost one counts.
  class Charge {
   public:
    explicit Charge(MemoryAccount& account);
    ~Charge();
    Charge(const Charge&) = delete;
    Charge& operator=(const Charge&) = delete;

    // Size of the allocation that was refused, the latest one; 0: none was.
    [[nodiscard]] std::size_t refused_bytes() const { return refused_bytes_; }

    // For whoever keeps blocks beyond the charge: those that are no tensors, were made while it lived and are not
    // released count with the account until a later charge's rest, less than nothing, takes them back. Never below 0.
    void keep_rest();

   private:
    friend struct Counting;
    void* state_;
    Charge* outer_;
    std::int64_t outer_bytes_ = 0;  // of the outer ones of the same account, when this one began
    std::int64_t other_bytes_ = 0;  // of blocks that are not tensors
    std::size_t refused_bytes_ = 0;
  };

  // Throws as a refused allocation does when this thread's charge is over its limit. For places that a program passes
  // again and again while it makes small blocks only.
  static void check_limit();

  // While it lives, what its thread makes and releases is nobody's, whatever charge there is: for what outlives a
  // charge whose rest is kept, and for what may not be refused.
  class Pause {
   public:
    Pause();
    ~Pause();
    Pause(const Pause&) = delete;
    Pause& operator=(const Pause&) = delete;

   private:
    Charge* charge_;
  };

 private:
  friend struct Counting;
  struct State;
  State* state_;
};

// From now on torch's CPU memory is counted. Called by start_torch.
void count_torch_memory();

}  // namespace slipway
