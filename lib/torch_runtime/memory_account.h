// Counts what torch allocates on somebody's behalf, and refuses what goes beyond a limit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace slipway {

// Memory of CPU tensors, counted from allocation to release whatever thread releases it; start_torch installs the
// allocator that does so. Blocks of 4 KiB and more that operator new gives (a program's lists, dictionaries and texts
// are such) count against the limit too, while the charge lives under which they were made and not released. What
// libraries allocate by other means (scratch of oneDNN and OpenBLAS) is not seen. Life: may end while blocks that it
// was charged for live on. Threads: any.
class MemoryAccount {
 public:
  static constexpr std::int64_t kNoLimit = std::int64_t{1} << 60;

  explicit MemoryAccount(std::int64_t limit_bytes = kNoLimit);
  ~MemoryAccount();
  MemoryAccount(const MemoryAccount&) = delete;
  MemoryAccount& operator=(const MemoryAccount&) = delete;

  [[nodiscard]] std::int64_t held_bytes() const;
  [[nodiscard]] std::int64_t limit_bytes() const;
  void set_limit(std::int64_t bytes);

  // While it lives, what its thread allocates through torch is charged to the account; an allocation beyond the limit
  // throws a std::bad_alloc, which operators and TorchScript pass on, the latter as another type. They may be nested:
  // the innermost one counts.
  class Charge {
   public:
    explicit Charge(MemoryAccount& account);
    ~Charge();
    Charge(const Charge&) = delete;
    Charge& operator=(const Charge&) = delete;

    // Size of the allocation that was refused, the latest one; 0: none was.
    [[nodiscard]] std::size_t refused_bytes() const { return refused_bytes_; }

   private:
    friend struct Counting;
    void* state_;
    Charge* outer_;
    std::int64_t other_bytes_ = 0;  // of blocks that are not tensors
    std::size_t refused_bytes_ = 0;
  };

 private:
  friend struct Counting;
  struct State;
  State* state_;
};

// From now on torch's CPU memory is counted. Called by start_torch.
void count_torch_memory();

}  // namespace slipway
