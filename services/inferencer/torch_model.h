// One loaded TorchScript module: the adapter that holds torch. What torch throws ends here as an Error.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/torch_runtime/memory_account.h"
#include "lib/wire/frame.h"
#include "schema/limits.h"
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

// What one model may take, in bytes.
struct ModelLimits {
  std::int64_t load_bytes = MemoryAccount::kNoLimit;    // tensors of the module and what loading it allocates
  std::int64_t run_bytes = MemoryAccount::kNoLimit;     // beyond those: all that runs, kept answers and kept state hold
  std::int64_t tensor_bytes = std::int64_t{256} << 20;  // one output of one request
  std::int64_t answer_bytes = kMaxMessageBytes;         // all outputs of one request
};

// Whether an answer may have an output of `bytes` when its outputs up to it have `answer_bytes` in all.
// Errors: kTooLarge (the message has the figures).
[[nodiscard]] Result<void> check_answer_bytes(const std::string& output, std::int64_t bytes, std::int64_t answer_bytes,
                                              const ModelLimits& limits);

// Life: shared by the compute threads; a module that may keep something between its runs is run by one of them at a
// time. Threads: all const functions from any thread.
class TorchModel {
 public:
  // Reads `file`. A trained module is frozen when its outputs stay the same bit for bit.
  // Errors: kInvalidArgument (not a TorchScript module, or one that is refused), kTooLarge (over load_bytes, or more
  // than is scanned), kNotFound (no such file), kUnsupported (an element type that this release does not know).
  [[nodiscard]] static Result<std::shared_ptr<const TorchModel>> load(const std::filesystem::path& file, Origin origin,
                                                                      const Signature& signature,
                                                                      const ModelLimits& limits = {});
  ~TorchModel();

  // One forward pass over the rows of all parts, which must agree in everything but the rows. For a signature that is
  // not batchable, one part. The tensors that the model sees are its own: it may keep them and write to them. Errors:
  // kInvalidArgument (the model raised an exception of its own, or failed on a shape that its signature leaves free),
  // kTooLarge (an answer over the limits, or more memory than a run may take), kInternal (any other failure; outputs
  // unlike the signature's).
  [[nodiscard]] Result<std::vector<Outputs>> run(const Signature& signature, std::span<const Part> parts) const;

  // The same with `rows` rows of zeros and the answer thrown away.
  [[nodiscard]] Result<void> warm_up(const Signature& signature, std::int64_t rows) const;

  // Trial runs with zeros at one and two rows: `signature` with its outputs filled in, -1 where a dimension follows the
  // input. Names that are not given become those of a dictionary's keys, else output_0, output_1, ...
  // Errors: kInvalidArgument (the trial fails, or gives other outputs than `signature` says).
  [[nodiscard]] Result<Signature> complete(Signature signature) const;

  [[nodiscard]] const ModelLimits& limits() const;

  // Memory of the module as it was loaded, and what it holds now beyond that: kept state, batches that run, answers on
  // their way.
  [[nodiscard]] std::int64_t loaded_bytes() const;
  [[nodiscard]] std::int64_t further_bytes() const;

  // Whether its runs take turns, since it may keep something between them.
  [[nodiscard]] bool keeps_state() const;

  // Whether a run was refused memory because of what the model keeps: half and more of what a run may take. Only
  // loading it afresh helps.
  [[nodiscard]] bool is_spent() const;

 private:
  struct State;
  explicit TorchModel(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace slipway::inferencer
