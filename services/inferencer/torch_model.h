// One loaded TorchScript module: the adapter that holds torch. What torch throws ends here as an Error.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "lib/base/error.h"
#include "lib/wire/frame.h"
#include "schema/records.h"

namespace slipway::inferencer {

// Where a module comes from: trained here, or a stranger's program that is scanned before it is loaded.
enum class Origin : std::uint8_t { kTrained, kUploaded };

// One request's share of a batch: inputs in the signature's order, with concrete shapes, and their bytes.
struct Part {
  std::span<const TensorSpec> specs;
  std::span<const Frame> inputs;
  std::int64_t rows = 1;
};

// One request's share of the answer, in the signature's order. The frames share the batch's memory.
struct Outputs {
  std::vector<TensorSpec> specs;
  std::vector<Frame> frames;
};

// Memory that batches are gathered in; each compute thread has its own and keeps it.
class Scratch {
 public:
  Scratch();
  ~Scratch();
  Scratch(Scratch&&) noexcept;
  Scratch& operator=(Scratch&&) noexcept;

 private:
  friend class TorchModel;
  struct State;
  std::unique_ptr<State> state_;
};

// Life: shared by the compute threads; a module that changes its own attributes is run by one of them at a time.
// Threads: all const functions from any thread.
class TorchModel {
 public:
  // Reads `file`. A trained module is frozen when its outputs stay the same bit for bit.
  // Errors: kInvalidArgument (not a TorchScript module, or one that is refused), kTooLarge, kNotFound (no such file).
  [[nodiscard]] static Result<std::shared_ptr<const TorchModel>> load(const std::filesystem::path& file, Origin origin,
                                                                      const Signature& signature);
  ~TorchModel();

  // One forward pass over the rows of all parts, which must agree in everything but the rows. For a signature that is
  // not batchable, one part. Errors: kInvalidArgument (the model raised an exception of its own, or failed on a shape
  // that its signature leaves free), kInternal (any other failure; outputs unlike the signature's).
  [[nodiscard]] Result<std::vector<Outputs>> run(const Signature& signature, std::span<const Part> parts,
                                                 Scratch& scratch) const;

  // The same with `rows` rows of zeros and the answer thrown away.
  [[nodiscard]] Result<void> warm_up(const Signature& signature, std::int64_t rows) const;

  // Trial runs with zeros at one and two rows: `signature` with its outputs filled in, -1 where a dimension follows the
  // input. Names that are not given become those of a dictionary's keys, else output_0, output_1, ...
  // Errors: kInvalidArgument (the trial fails, or gives other outputs than `signature` says).
  [[nodiscard]] Result<Signature> complete(Signature signature) const;

 private:
  struct State;
  explicit TorchModel(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace slipway::inferencer
