#include "services/inferencer/torch_model.h"

#include <caffe2/serialize/file_adapter.h>
#include <torch/csrc/jit/runtime/jit_exception.h>
#include <torch/script.h>
#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <exception>
#include <format>
#include <mutex>
#include <numeric>
#include <optional>
#include <utility>

#include "lib/tensor/torch_tensor.h"
#include "lib/torch_runtime/torch_runtime.h"
#include "schema/limits.h"
#include "services/inferencer/caught.h"
#include "services/inferencer/keeps_state.h"
#include "services/inferencer/mapped_file.h"
#include "services/inferencer/module_check.h"
#include "services/inferencer/operator_guards.h"
#include "services/inferencer/signature_check.h"
#include "services/inferencer/torchscript_scan.h"

namespace slipway::inferencer {
namespace {

constexpr std::size_t kMaxOutputs = kMaxTensors;
constexpr int kMaxNesting = 8;

// What torch says, without its stack of C++ frames and its copy of the model's source.
std::string trimmed(std::string_view text) {
  constexpr std::string_view kTraceback = "Traceback of TorchScript";
  if (const auto trace = text.find(kTraceback); trace != std::string_view::npos) {
    // The last line that is not indented names the fault; some faults have further lines after it.
    for (auto at = text.find("\n", trace); at != std::string_view::npos; at = text.find("\n", at + 1)) {
      const auto line = text.substr(at + 1, text.find('\n', at + 1) - at - 1);
      const auto colon = line.find(": ");
      const auto name = line.substr(0, colon);
      const bool names_fault = !line.empty() && line[0] != ' ' && colon != std::string_view::npos &&
                               name.find_first_of(" <>~") == std::string_view::npos;
      if (names_fault) {
        text = text.substr(at + 1);
        break;
      }
    }
  }
  constexpr std::size_t kMost = 600;
  constexpr int kLines = 4;
  std::string kept;
  int lines = 0;
  for (const char c : text.substr(0, kMost)) {
    if (c == '\n' && ++lines == kLines) break;
    kept += c == '\n' ? ' ' : c;
  }
  while (kept.ends_with(' ')) kept.pop_back();
  return kept;
}

// The error's texts, made again where they count for nobody: they outlive the run.
void leave_account(Error& error) {
  std::optional<Error> other;
  {
    const MemoryAccount::Pause pause;
    other = error;
  }
  std::swap(error, *other);
}

// The one place where what torch throws is caught. `what` begins the message; `raised` is the code for an exception
// that the model raises itself, `failed` for any other.
template <class Work>
auto guarded(std::string_view what, Code raised, Code failed, Work work) -> decltype(work()) {
  try {
    auto result = work();
    if (!result) leave_account(result.error());
    return result;
  } catch (...) {
    // Nothing may be refused here, where it would leave the thread.
    const MemoryAccount::Pause pause;
    try {
      throw;
    } catch (const torch::jit::JITException& error) {
      return fail(raised, std::format("{}: {}", what, trimmed(error.what())));
    } catch (const c10::Error& error) {
      return fail(failed, std::format("{}: {}", what, trimmed(error.what_without_backtrace())));
    } catch (const std::exception& error) {
      return fail(failed, std::format("{}: {}", what, trimmed(error.what())));
    } catch (...) {
      return fail(failed, std::format("{}: an unknown exception", what));
    }
  }
}

struct Named {
  std::string name;  // of a dictionary's entry; empty: by position
  at::Tensor tensor;
};

Result<void> flatten(const c10::IValue& value, std::string name, int depth, std::vector<Named>& out) {
  if (depth > kMaxNesting || (value.isTensor() && out.size() == kMaxOutputs)) {
    return fail(Code::kUnsupported,
                std::format("the model's output has more than {} tensors or {} levels", kMaxOutputs, kMaxNesting));
  }
  if (value.isTensor()) {
    out.push_back({std::move(name), value.toTensor()});
    return {};
  }
  if (value.isTuple() || value.isList()) {
    const auto count = value.isTuple() ? value.toTupleRef().elements().size() : value.toList().size();
    for (std::size_t i = 0; i < count; ++i) {
      const c10::IValue item = value.isTuple() ? value.toTupleRef().elements()[i] : c10::IValue(value.toList().get(i));
      if (auto good = flatten(item, name.empty() ? "" : std::format("{}_{}", name, i), depth + 1, out); !good)
        return good;
    }
    return {};
  }
  if (value.isGenericDict()) {
    for (const auto& entry : value.toGenericDict()) {
      if (!entry.key().isString())
        return fail(Code::kUnsupported, "the model's output is a dictionary whose keys are not texts");
      const std::string key = entry.key().toStringRef();
      if (auto good = flatten(entry.value(), name.empty() ? key : name + "." + key, depth + 1, out); !good) return good;
    }
    return {};
  }
  return fail(Code::kUnsupported,
              std::format("the model's output holds a {}; wanted tensors, alone or in tuples, lists or dictionaries",
                          value.tagKind()));
}

std::vector<std::int64_t> trial_shape(const TensorSpec& spec, bool batchable, std::int64_t rows,
                                      std::int64_t free_size) {
  auto shape = spec.shape;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] < 0) shape[i] = i == 0 && batchable ? rows : free_size;
  }
  return shape;
}

bool inputs_batchable(const Signature& signature) {
  return is_batchable({.inputs = signature.inputs, .outputs = {}, .classes = {}});
}

std::vector<c10::IValue> trial_inputs(const Signature& signature, std::int64_t rows, std::int64_t free_size,
                                      bool random = false) {
  std::vector<c10::IValue> inputs;
  for (const TensorSpec& spec : signature.inputs) {
    const auto shape = trial_shape(spec, inputs_batchable(signature), rows, free_size);
    auto tensor = random && is_floating(spec.dtype) ? at::rand(shape) : at::zeros(shape);
    inputs.emplace_back(tensor.to(scalar_type(spec.dtype)));
  }
  return inputs;
}

}  // namespace

Result<void> check_answer_bytes(const std::string& output, std::int64_t bytes, std::int64_t answer_bytes,
                                const ModelLimits& limits) {
  if (bytes > limits.tensor_bytes) {
    return fail(Code::kTooLarge, std::format("output '{}' has {} bytes, at most {} are sent (--max-tensor-bytes)",
                                             output, bytes, limits.tensor_bytes));
  }
  if (answer_bytes > limits.answer_bytes) {
    return fail(Code::kTooLarge, std::format("the answer has {} bytes up to output '{}', at most {} are sent",
                                             answer_bytes, output, limits.answer_bytes));
  }
  return {};
}

struct TorchModel::State {
  explicit State(const ModelLimits& given) : limits(given), account(given.load_bytes) {}

  const ModelLimits limits;
  MemoryAccount account;
  std::int64_t loaded_bytes = 0;
  torch::jit::Module module;
  bool serial = false;              // may keep something between its runs
  std::atomic<bool> spent = false;  // and keeps too much
  std::mutex mutex;

  // Held from before forward() until its results have been read or copied: the next run may write to what they share.
  std::unique_lock<std::mutex> turn() { return serial ? std::unique_lock(mutex) : std::unique_lock<std::mutex>(); }

  Result<std::vector<Named>> forward(std::vector<c10::IValue> inputs) {
    const c10::InferenceMode inference;
    const c10::IValue value = module.forward(std::move(inputs));
    std::vector<Named> outputs;
    if (auto good = flatten(value, "", 0, outputs); !good) return std::unexpected(std::move(good).error());
    return outputs;
  }

  // Frozen modules have their parameters as constants and are faster; only kept when nothing changes.
  void freeze_if_equal(const Signature& signature) {
    const bool plain = !signature.inputs.empty() && !has_free_dimensions(signature);
    if (!plain || serial) return;
    auto frozen = torch::jit::freeze(module, std::nullopt, false);
    State other({});
    other.module = frozen;
    for (const std::int64_t rows : {1, 3}) {
      const auto inputs = trial_inputs(signature, rows, 1, true);
      const auto before = forward(inputs);
      const auto after = other.forward(inputs);
      const bool equal = before && after && before->size() == after->size() &&
                         std::ranges::equal(*before, *after, [](const Named& a, const Named& b) {
                           return at::equal(a.tensor, b.tensor);
                         });
      if (!equal) return;
    }
    module = frozen;
  }
};

TorchModel::TorchModel(std::unique_ptr<State> state) : state_(std::move(state)) {}
TorchModel::~TorchModel() = default;

const ModelLimits& TorchModel::limits() const { return state_->limits; }
std::int64_t TorchModel::loaded_bytes() const { return state_->loaded_bytes; }
std::int64_t TorchModel::further_bytes() const { return state_->account.held_bytes() - state_->loaded_bytes; }
bool TorchModel::keeps_state() const { return state_->serial; }
bool TorchModel::is_spent() const { return state_->spent; }

Result<std::shared_ptr<const TorchModel>> TorchModel::load(const std::filesystem::path& file, Origin origin,
                                                           const Signature& signature, const ModelLimits& limits) {
  if (auto known = check_types(signature); !known) return std::unexpected(std::move(known).error());
  // Everybody's bytes, trained here or not: that they are ours is only what somebody said.
  auto scanned = caught("cannot scan the TorchScript file", Code::kTooLarge, [&]() -> Result<ScannedArchive> {
    auto mapped = MappedFile::open(file);
    if (!mapped) return std::unexpected(std::move(mapped).error());
    return scan_torchscript(mapped->bytes());
  });
  if (!scanned) return std::unexpected(std::move(scanned).error());
  using Loaded = Result<std::shared_ptr<const TorchModel>>;
  use_torch_threads();
  auto state = std::make_unique<State>(limits);
  const MemoryAccount::Charge charge(state->account);
  auto loaded =
      guarded("cannot load the TorchScript file", Code::kInvalidArgument, Code::kInvalidArgument, [&]() -> Loaded {
        if (auto same = check_same_archive(file.string(), *scanned); !same)
          return std::unexpected(std::move(same).error());
        // With a reader that knows zip archives only: given a path, torch looks for a flatbuffer first. Without the
        // debug tables, which are read at the first exception only.
        state->module =
            torch::jit::load(std::make_shared<caffe2::serialize::FileAdapter>(file.string()), torch_device(), false);
        if (auto good = check_module(state->module, *scanned); !good) return std::unexpected(std::move(good).error());
        if (!state->module.find_method("forward")) {
          return fail(Code::kInvalidArgument, "the TorchScript module has no method 'forward'");
        }
        state->module.eval();
        for (at::Tensor parameter : state->module.parameters()) parameter.set_requires_grad(false);
        state->serial = inferencer::keeps_state(state->module);
        if (auto good = guard_operators(state->module); !good) return std::unexpected(std::move(good).error());
        if (origin == Origin::kTrained) state->freeze_if_equal(signature);
        state->loaded_bytes = state->account.held_bytes();
        state->account.set_limit(state->loaded_bytes + state->limits.run_bytes);
        return std::shared_ptr<const TorchModel>(new TorchModel(std::move(state)));
      });
  if (!loaded && charge.refused_bytes() > 0) {
    return fail(Code::kTooLarge, std::format("the model does not fit: loading it takes more than the {} bytes that "
                                             "models may take here (--max-model-memory-bytes)",
                                             limits.load_bytes));
  }
  return loaded;
}

namespace {

// The parts' rows of input `index`, one after the other, in memory of its own: a model may keep what it is given.
at::Tensor gather(std::span<const Part> parts, std::size_t index, std::int64_t rows) {
  const TensorSpec& first = parts[0].specs[index];
  auto shape = first.shape;
  if (parts.size() > 1) shape[0] = rows;
  at::Tensor tensor = at::empty(shape, at::TensorOptions(scalar_type(first.dtype)));
  auto* to = static_cast<std::byte*>(tensor.data_ptr());
  for (const Part& part : parts) {
    const Frame& frame = part.inputs[index];
    if (frame.size() == 0) continue;
    if (first.dtype == DType::kB8) {
      std::ranges::transform(frame.bytes(), to, [](std::byte b) { return b == std::byte{0} ? b : std::byte{1}; });
    } else {
      std::memcpy(to, frame.data(), frame.size());
    }
    to += frame.size();
  }
  return tensor;
}

// In the signature's order: by name when the model names its outputs, else by position.
Result<std::vector<at::Tensor>> in_order(const Signature& signature, std::vector<Named> outputs) {
  const auto& wanted = signature.outputs;
  if (outputs.size() != wanted.size()) {
    return fail(Code::kInternal,
                std::format("the model gave {} outputs, its signature has {}", outputs.size(), wanted.size()));
  }
  std::vector<at::Tensor> ordered;
  for (const TensorSpec& spec : wanted) {
    const auto found = std::ranges::find(outputs, spec.name, &Named::name);
    if (found == outputs.end()) break;
    ordered.push_back(found->tensor);
  }
  if (ordered.size() == wanted.size()) return ordered;
  ordered.clear();
  for (Named& output : outputs) ordered.push_back(std::move(output.tensor));
  return ordered;
}

// The element type of an output that can be sent.
Result<DType> carried(const std::string& name, const at::Tensor& tensor) {
  if (!tensor.defined()) return fail(Code::kUnsupported, std::format("tensor '{}' is not set", name));
  if (tensor.layout() != at::kStrided || tensor.is_meta() || tensor.is_nested())
    return fail(Code::kUnsupported, std::format("tensor '{}' is not dense", name));
  const auto dtype = dtype_of(tensor.scalar_type());
  if (!dtype) {
    return fail(Code::kUnsupported,
                std::format("tensor '{}' has element type {}", name, c10::toString(tensor.scalar_type())));
  }
  return *dtype;
}

}  // namespace

Result<std::vector<Outputs>> TorchModel::run(const Signature& signature, std::span<const Part> parts) const {
  const std::int64_t rows = std::accumulate(parts.begin(), parts.end(), std::int64_t{0},
                                            [](std::int64_t sum, const Part& part) { return sum + part.rows; });
  const Code failed = has_free_dimensions(signature) ? Code::kInvalidArgument : Code::kInternal;
  const ModelLimits& limits = state_->limits;
  const std::int64_t kept = further_bytes();
  use_torch_threads();
  MemoryAccount::Charge charge(state_->account);
  std::vector<Outputs> answers;
  using Ran = Result<std::vector<Outputs>>;
  auto ran = guarded("the model failed", Code::kInvalidArgument, failed, [&]() -> Ran {
    const c10::InferenceMode inference;
    std::vector<c10::IValue> inputs;
    inputs.reserve(signature.inputs.size());
    for (std::size_t i = 0; i < signature.inputs.size(); ++i) inputs.emplace_back(gather(parts, i, rows));
    const auto given = inputs;  // an output that shares memory with an input is then known by its use count
    const auto turn = state_->turn();
    auto named = state_->forward(std::move(inputs));
    if (!named) return std::unexpected(std::move(named).error());
    auto tensors = in_order(signature, std::move(*named));
    if (!tensors) return std::unexpected(std::move(tensors).error());

    std::vector<std::int64_t> answer_bytes(parts.size(), 0);
    {
      const MemoryAccount::Pause pause;
      answers.resize(parts.size());
    }
    for (std::size_t i = 0; i < tensors->size(); ++i) {
      const TensorSpec& wanted = signature.outputs[i];
      const at::Tensor tensor = std::move((*tensors)[i]);
      const auto about = [&](const Error& error) {
        return fail(Code::kInternal, "the model's output: " + error.message);
      };
      const auto dtype = carried(wanted.name, tensor);
      if (!dtype) return about(dtype.error());
      if (auto good = check_output(signature, i, *dtype, tensor.sizes(), rows); !good)
        return std::unexpected(std::move(good).error());
      // Before anything is copied. A tensor that repeats its elements is larger outside than inside torch.
      auto whole = byte_count({.name = wanted.name, .dtype = *dtype, .shape = tensor.sizes().vec()});
      if (!whole) return about(whole.error());
      const std::int64_t row_bytes = parts.size() > 1 ? *whole / rows : *whole;
      for (std::size_t p = 0; p < parts.size(); ++p) {
        const std::int64_t bytes = parts.size() > 1 ? row_bytes * parts[p].rows : row_bytes;
        if (auto good = check_answer_bytes(wanted.name, bytes, answer_bytes[p] += bytes, limits); !good)
          return std::unexpected(std::move(good).error());
      }
      // What is made from here on leaves with the answer: a charge of its own keeps it out of what the run leaves.
      const MemoryAccount::Charge leaving(state_->account);
      // Shared with an input, a parameter or another output: a later run could write to it. Copied also when what
      // leaves must be told from what is kept.
      const bool copy = state_->serial || tensor.use_count() > 1 || tensor.storage().use_count() > 1;
      const at::Tensor own = copy ? tensor.clone(at::MemoryFormat::Contiguous) : tensor;
      auto output = from_torch(wanted.name, own);
      if (!output) return about(output.error());
      if (parts.size() == 1) {
        answers[0].specs.push_back(std::move(output->spec));
        answers[0].frames.push_back(std::move(output->frame));
        continue;
      }
      std::size_t at = 0;
      for (std::size_t p = 0; p < parts.size(); ++p) {
        const std::size_t bytes = static_cast<std::size_t>(row_bytes * parts[p].rows);
        TensorSpec spec = output->spec;
        spec.shape[0] = parts[p].rows;
        answers[p].specs.push_back(std::move(spec));
        answers[p].frames.push_back(output->frame.part(at, bytes));
        at += bytes;
      }
    }
    return std::move(answers);
  });
  if (state_->serial) {
    if (!ran) {
      const MemoryAccount::Pause pause;
      answers = {};
    }
    charge.keep_rest();
  }
  if (!ran && charge.refused_bytes() > 0) {
    if (state_->serial && kept >= limits.run_bytes / 2) state_->spent = true;
    return fail(
        Code::kTooLarge,
        std::format("the model wanted {} more bytes than the {} that a run may take (--max-run-memory-bytes); it "
                    "held {} bytes when the run began",
                    charge.refused_bytes(), limits.run_bytes, kept));
  }
  return ran;
}

Result<void> TorchModel::warm_up(const Signature& signature, std::int64_t rows) const {
  MemoryAccount::Charge charge(state_->account);
  auto warm = guarded("the model failed to warm up", Code::kInternal, Code::kInternal, [&]() -> Result<void> {
    const auto turn = state_->turn();
    auto outputs = state_->forward(trial_inputs(signature, rows, 1));
    if (!outputs) return std::unexpected(std::move(outputs).error());
    return {};
  });
  if (state_->serial) charge.keep_rest();
  if (!warm && charge.refused_bytes() > 0) {
    return fail(Code::kTooLarge, std::format("the model wanted {} more bytes than the {} that a run may take "
                                             "(--max-run-memory-bytes) to warm up with {} rows",
                                             charge.refused_bytes(), state_->limits.run_bytes, rows));
  }
  return warm;
}

Result<Signature> TorchModel::complete(Signature signature) const {
  const auto trial = [&](std::int64_t rows, std::int64_t free_size) -> Result<std::vector<TensorBytes>> {
    const auto what = std::format("a trial run of the model with zeros, {} row{}, failed", rows, rows == 1 ? "" : "s");
    using Tried = Result<std::vector<TensorBytes>>;
    return guarded(what, Code::kInvalidArgument, Code::kInvalidArgument, [&]() -> Tried {
      const auto turn = state_->turn();
      auto outputs = state_->forward(trial_inputs(signature, rows, free_size));
      if (!outputs) return std::unexpected(std::move(outputs).error());
      std::vector<TensorBytes> specs;
      for (const Named& output : *outputs) {
        auto converted = from_torch(output.name, output.tensor);
        if (!converted) return std::unexpected(std::move(converted).error());
        specs.push_back(std::move(*converted));
      }
      return specs;
    });
  };

  constexpr std::array<std::int64_t, 4> kFreeSizes{1, 16, 64, 224};
  const bool free = has_free_dimensions(signature) || !inputs_batchable(signature);
  std::int64_t size = kFreeSizes[0];
  auto first = trial(1, size);
  for (std::size_t i = 1; free && !first && i < kFreeSizes.size(); ++i) first = trial(1, size = kFreeSizes[i]);
  if (!first) return std::unexpected(std::move(first).error());
  if (first->empty()) return fail(Code::kInvalidArgument, "a trial run of the model gave no outputs");

  // Dimensions that differ between the runs follow the input.
  std::vector<TensorSpec> found;
  for (TensorBytes& output : *first) found.push_back(std::move(output.spec));
  const std::vector<TensorSpec> tried = found;
  const auto compare = [&](const std::vector<TensorBytes>& other, std::string_view how) -> Result<void> {
    if (other.size() != found.size())
      return fail(Code::kInvalidArgument,
                  std::format("trial runs of the model gave {} outputs, and {} {}", found.size(), other.size(), how));
    for (std::size_t i = 0; i < found.size(); ++i) {
      const auto& shape = other[i].spec.shape;
      if (shape.size() != found[i].shape.size() || other[i].spec.dtype != found[i].dtype) {
        return fail(Code::kInvalidArgument,
                    std::format("output {} of the model changes its rank or data-type {}", i, how));
      }
      for (std::size_t d = 0; d < shape.size(); ++d) {
        if (shape[d] != found[i].shape[d]) found[i].shape[d] = -1;
      }
    }
    return {};
  };
  if (inputs_batchable(signature)) {
    auto second = trial(2, size);
    if (!second) return std::unexpected(std::move(second).error());
    if (auto good = compare(*second, "with two rows"); !good) return std::unexpected(std::move(good).error());
  }
  if (free) {
    // Not every size need work: a model may want multiples of something.
    if (auto larger = trial(1, size * 2); larger) {
      if (auto good = compare(*larger, "with a larger input"); !good) return std::unexpected(std::move(good).error());
    }
  }

  auto& given = signature.outputs;
  if (given.empty()) {
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (found[i].name.empty()) found[i].name = std::format("output_{}", i);
    }
    given = std::move(found);
  } else {
    if (given.size() != found.size()) {
      return fail(Code::kInvalidArgument,
                  std::format("the signature has {} outputs, the model gives {}", given.size(), found.size()));
    }
    const bool by_name = std::ranges::all_of(
        given, [&](const TensorSpec& spec) { return std::ranges::contains(found, spec.name, &TensorSpec::name); });
    for (std::size_t i = 0; i < given.size(); ++i) {
      TensorSpec& spec = given[i];
      const TensorSpec& actual = by_name ? *std::ranges::find(found, spec.name, &TensorSpec::name) : found[i];
      if (spec.shape.empty()) {
        spec.shape = actual.shape;
        spec.dtype = actual.dtype;
      }
      if (spec.name.empty()) spec.name = actual.name.empty() ? std::format("output_{}", i) : actual.name;
      if (spec.dtype != actual.dtype || !fits(actual.shape, spec.shape)) {
        return fail(Code::kInvalidArgument, std::format("output '{}' is {} {} in a trial run, the signature says {} {}",
                                                        spec.name, dtype_name(actual.dtype), to_string(actual.shape),
                                                        dtype_name(spec.dtype), to_string(spec.shape)));
      }
    }
  }
  const bool tried_by_name = std::ranges::all_of(
      given, [&](const TensorSpec& spec) { return std::ranges::contains(tried, spec.name, &TensorSpec::name); });
  for (std::size_t i = 0; i < given.size(); ++i) {
    const TensorSpec& actual = tried_by_name ? *std::ranges::find(tried, given[i].name, &TensorSpec::name) : tried[i];
    if (auto good = check_output(signature, i, actual.dtype, actual.shape, 1); !good)
      return fail(Code::kInvalidArgument, "a trial run of the model: " + good.error().message);
  }
  if (!signature.classes.empty()) {
    const auto& shape = signature.outputs[0].shape;
    if (shape.empty() || shape.back() != static_cast<std::int64_t>(signature.classes.size())) {
      return fail(Code::kInvalidArgument,
                  std::format("the signature names {} classes, output '{}' has shape {}", signature.classes.size(),
                              signature.outputs[0].name, to_string(shape)));
    }
  }
  return signature;
}

}  // namespace slipway::inferencer
