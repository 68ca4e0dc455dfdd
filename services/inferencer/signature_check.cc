#include "services/inferencer/signature_check.h"

#include <algorithm>
#include <format>

#include "lib/tensor/dtype.h"
#include "lib/tensor/shape.h"

namespace slipway::inferencer {
namespace {

bool free_first(const TensorSpec& spec) { return !spec.shape.empty() && spec.shape[0] == -1; }

// "[-1,16]", as Triton writes shapes.
std::string compact(std::span<const std::int64_t> shape) {
  std::string text = to_string(shape);
  std::erase(text, ' ');
  return text;
}

template <class Names>
std::string quoted(const Names& names) {
  std::string text = "[";
  for (const auto& name : names) text += std::format("{}'{}'", text.size() == 1 ? "" : ",", name);
  return text + "]";
}

std::unexpected<Error> wrong(std::string message) { return fail(Code::kInvalidArgument, std::move(message)); }

Result<void> check_names(const std::string& model, const Signature& signature, const std::vector<TensorSpec>& specs) {
  const auto& wanted = signature.inputs;
  std::vector<std::string> got;
  for (const TensorSpec& spec : specs) {
    if (std::ranges::find(got, spec.name) != got.end()) {
      return wrong(std::format("input '{}' already exists in request", spec.name));
    }
    got.push_back(spec.name);
  }
  std::vector<std::string> missing;
  for (const TensorSpec& spec : wanted) {
    if (std::ranges::find(got, spec.name) == got.end()) missing.push_back(spec.name);
  }
  if (specs.size() != wanted.size()) {
    std::string text = std::format("expected {} inputs but got {} inputs for model '{}'. Got input(s) {}",
                                   wanted.size(), specs.size(), model, quoted(got));
    if (!missing.empty())
      text += std::format(", but missing required input(s) {}. Please provide all required input(s)", quoted(missing));
    return wrong(text + ".");
  }
  for (const std::string& name : got) {
    if (std::ranges::find(wanted, name, &TensorSpec::name) == wanted.end()) {
      return wrong(
          std::format("unexpected inference input '{}' for model '{}'. Wanted {}.", name, model, quoted(missing)));
    }
  }
  return {};
}

}  // namespace

bool is_batchable(const Signature& signature) {
  return !signature.inputs.empty() && std::ranges::all_of(signature.inputs, free_first) &&
         std::ranges::all_of(signature.outputs, free_first);
}

bool has_free_dimensions(const Signature& signature) {
  return std::ranges::any_of(signature.inputs, [](const TensorSpec& spec) {
    return spec.shape.size() > 1 && std::ranges::find(spec.shape.begin() + 1, spec.shape.end(), -1) != spec.shape.end();
  });
}

Result<void> check_types(const Signature& signature) {
  for (const auto* specs : {&signature.inputs, &signature.outputs}) {
    const auto unknown = std::ranges::find_if_not(*specs, is_known, &TensorSpec::dtype);
    if (unknown == specs->end()) continue;
    return fail(Code::kUnsupported,
                std::format("'{}' of the signature has data-type {}, which this release does not know", unknown->name,
                            dtype_name(unknown->dtype)));
  }
  return {};
}

Result<void> check_output(const Signature& signature, std::size_t index, DType dtype,
                          std::span<const std::int64_t> shape, std::int64_t rows) {
  constexpr std::int64_t kMostEmptyLists = 65'536;
  const TensorSpec& wanted = signature.outputs[index];
  if (dtype != wanted.dtype) {
    return fail(Code::kInternal, std::format("output '{}' has data-type {}, the signature says {}", wanted.name,
                                             dtype_name(dtype), dtype_name(wanted.dtype)));
  }
  if (!fits(shape, wanted.shape) || (is_batchable(signature) && shape[0] != rows)) {
    return fail(Code::kInternal, std::format("output '{}' has shape {} for a batch of {} rows, the signature says {}",
                                             wanted.name, to_string(shape), rows, to_string(wanted.shape)));
  }
  // It has no bytes, whatever its other dimensions say, but a list is printed for each of them.
  if (std::ranges::contains(shape, 0)) {
    std::int64_t lists = 1;
    for (const std::int64_t size : shape) {
      if (size > 0 && lists > kMostEmptyLists / size) {
        return fail(Code::kInternal, std::format("output '{}' has shape {}: no elements, in more than {} lists",
                                                 wanted.name, to_string(shape), kMostEmptyLists));
      }
      lists *= std::max<std::int64_t>(size, 1);
    }
  }
  return {};
}

Result<CheckedInputs> check_inputs(const std::string& model, const Signature& signature, std::vector<TensorSpec> specs,
                                   std::vector<Frame> frames) {
  if (specs.size() != frames.size()) {
    return wrong(std::format("the request names {} inputs but carries {} payload frames", specs.size(), frames.size()));
  }
  if (auto good = check_names(model, signature, specs); !good) return std::unexpected(std::move(good).error());

  const bool batchable = is_batchable(signature);
  CheckedInputs checked;
  checked.specs.reserve(specs.size());
  checked.frames.reserve(specs.size());
  for (const TensorSpec& wanted : signature.inputs) {
    const auto found = std::ranges::find(specs, wanted.name, &TensorSpec::name);
    TensorSpec& spec = *found;
    Frame& frame = frames[static_cast<std::size_t>(found - specs.begin())];
    if (spec.dtype != wanted.dtype) {
      return wrong(std::format("inference input '{}' data-type is '{}', but model '{}' expects '{}'", spec.name,
                               oip_name(spec.dtype), model, oip_name(wanted.dtype)));
    }
    if (!is_known(spec.dtype)) {
      return fail(Code::kUnsupported,
                  std::format("inference input '{}' for model '{}' has data-type {}, which this release does not know",
                              spec.name, model, oip_name(spec.dtype)));
    }
    const auto elements = element_count(spec.shape);
    if (!elements || !fits(spec.shape, wanted.shape)) {
      return wrong(std::format("unexpected shape for input '{}' for model '{}'. Expected {}, got {}.", spec.name, model,
                               compact(wanted.shape), compact(spec.shape)));
    }
    const auto have = frame.size() / item_size(spec.dtype);
    const auto needed = static_cast<std::uint64_t>(*elements);
    if (have < needed) {
      // Compared in elements, since a shape may ask for more bytes than 64 bits count.
      return wrong(std::format("unexpected size for input '{}': {} bytes of {} {} for model '{}'", spec.name,
                               frame.size(), oip_name(spec.dtype), compact(spec.shape), model));
    }
    if (have > needed || frame.size() % item_size(spec.dtype) != 0) {
      return wrong(std::format("unexpected additional input data for input '{}' for model '{}': {} bytes of {} {}",
                               spec.name, model, frame.size(), oip_name(spec.dtype), compact(spec.shape)));
    }
    if (batchable) {
      if (spec.shape[0] == 0) return wrong(std::format("input '{}' for model '{}' has no rows", spec.name, model));
      if (!checked.specs.empty() && spec.shape[0] != checked.rows) {
        return wrong(std::format("input '{}' for model '{}' has {} rows, but '{}' has {}", spec.name, model,
                                 spec.shape[0], checked.specs[0].name, checked.rows));
      }
      checked.rows = spec.shape[0];
    }
    checked.specs.push_back(std::move(spec));
    checked.frames.push_back(std::move(frame));
  }
  return checked;
}

}  // namespace slipway::inferencer
