#include "services/gateway/predictor.h"

#include <algorithm>
#include <charconv>

#include "services/gateway/metrics.h"

namespace slipway::gateway {
namespace {

Shape without_trailing_ones(Shape shape) {
  while (!shape.empty() && shape.back() == 1) shape.pop_back();
  return shape;
}

std::string input_names(const Version& version) {
  std::string names;
  for (const auto& input : version.signature.inputs)
    names += std::format("{}'{}'", names.empty() ? "" : ", ", input.name);
  return names;
}

Result<std::chrono::milliseconds> deadline_of(const Settings& settings, const Request& request) {
  const std::string_view text = request.header("X-Request-Timeout-Ms");
  if (text.empty()) return std::chrono::milliseconds(settings.predict_deadline_ms);
  std::int64_t wanted = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), wanted);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || wanted < 1) {
    return fail(Code::kInvalidArgument, std::format("X-Request-Timeout-Ms '{}' is not a number of milliseconds", text));
  }
  return std::chrono::milliseconds(std::min(wanted, settings.predict_deadline_ms));
}

}  // namespace

Result<VersionChoice> version_choice(std::string_view text) {
  if (text.empty()) return Latest{};
  if (!std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; })) return AliasName{std::string(text)};
  std::uint64_t number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  if (parsed.ec != std::errc() || number == 0)
    return fail(Code::kInvalidArgument, std::format("'{}' is not a version number", text));
  return number;
}

Result<std::size_t> input_index(const Version& version, std::string_view name) {
  const auto& inputs = version.signature.inputs;
  const auto found = std::ranges::find(inputs, name, &TensorSpec::name);
  if (found != inputs.end()) return static_cast<std::size_t>(found - inputs.begin());
  return fail(Code::kInvalidArgument,
              std::format("model '{}' has no input '{}'; it has {}", version.model, name, input_names(version)));
}

std::optional<Shape> as_row(const Shape& given, const Shape& row) {
  const bool free = std::ranges::any_of(row, [](std::int64_t size) { return size < 0; });
  if (fits(given, row)) return given;
  if (free) return std::nullopt;
  if (without_trailing_ones(given) == without_trailing_ones(row)) return row;
  const auto count = element_count(row);
  if (count && given.size() == 1 && given.front() == *count) return row;
  return std::nullopt;
}

void fit_rows(const Version& version, std::vector<Tensor>& inputs) {
  const auto& wanted = version.signature.inputs;
  for (std::size_t i = 0; i < std::min(inputs.size(), wanted.size()); ++i) {
    Shape& shape = inputs[i].spec.shape;
    if (shape.empty() || wanted[i].shape.empty() || wanted[i].shape.front() >= 0) continue;
    auto row = as_row({shape.begin() + 1, shape.end()}, {wanted[i].shape.begin() + 1, wanted[i].shape.end()});
    if (!row) continue;
    row->insert(row->begin(), shape.front());
    shape = std::move(*row);
  }
}

Result<void> check_inputs(const Version& version, const std::vector<Tensor>& inputs) {
  const auto& wanted = version.signature.inputs;
  if (inputs.size() != wanted.size()) {
    return fail(Code::kInvalidArgument, std::format("expected {} inputs but got {} inputs for model '{}', which has {}",
                                                    wanted.size(), inputs.size(), version.model, input_names(version)));
  }
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const TensorSpec& spec = inputs[i].spec;
    if (!is_known(wanted[i].dtype)) {
      return fail(Code::kUnsupported,
                  std::format("input '{}' of model '{}' has a dtype that this release does not know", wanted[i].name,
                              version.model));
    }
    if (!fits(spec.shape, wanted[i].shape)) {
      return fail(Code::kInvalidArgument,
                  std::format("unexpected shape for input '{}' for model '{}'. Expected {}, got {}.", spec.name,
                              version.model, to_string(wanted[i].shape), to_string(spec.shape)));
    }
    const bool batched = !wanted[i].shape.empty() && wanted[i].shape.front() < 0;
    if (batched && spec.shape.front() < 1) {
      return fail(Code::kInvalidArgument,
                  std::format("input '{}' for model '{}' has no row", spec.name, version.model));
    }
    if (batched && spec.shape.front() != inputs.front().spec.shape.front()) {
      return fail(Code::kInvalidArgument,
                  std::format("input '{}' for model '{}' has {} rows, input '{}' has {}", spec.name, version.model,
                              spec.shape.front(), inputs.front().spec.name, inputs.front().spec.shape.front()));
    }
  }
  return {};
}

Result<void> check_outputs(const Version& version, std::vector<Tensor>& outputs, std::uint64_t max_printed_bytes) {
  const auto& wanted = version.signature.outputs;
  if (outputs.size() != wanted.size()) {
    return fail(Code::kInternal, std::format("model '{}' answered {} outputs, its signature says {}", version.model,
                                             outputs.size(), wanted.size()));
  }
  std::uint64_t printed = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    TensorSpec& spec = outputs[i].spec;
    if (auto good = check_size(spec, outputs[i].bytes.bytes()); !good) return good;
    if (spec.dtype != wanted[i].dtype || !fits(spec.shape, wanted[i].shape)) {
      return fail(Code::kInternal,
                  std::format("model '{}' answered output '{}' as {} {}, its signature says {} {}", version.model,
                              wanted[i].name, dtype_name(spec.dtype), to_string(spec.shape),
                              dtype_name(wanted[i].dtype), to_string(wanted[i].shape)));
    }
    const std::uint64_t size = printed_bytes(spec);
    if (size > max_printed_bytes - printed) {
      return fail(Code::kTooLarge,
                  std::format("model '{}' answered output '{}' of shape {}: as text it could be over "
                              "the limit of {} bytes",
                              version.model, wanted[i].name, to_string(spec.shape), max_printed_bytes));
    }
    printed += size;
    spec.name = wanted[i].name;
  }
  return {};
}

Task<Result<std::vector<Tensor>>> predict(Services& services, Call& call, VersionRef version,
                                          std::vector<Tensor> inputs) {
  if (auto checked = check_inputs(*version, inputs); !checked) co_return std::unexpected(checked.error());
  const auto timeout = deadline_of(services.settings, call.request);
  if (!timeout) co_return std::unexpected(timeout.error());

  WorkerHub::Question question{.body = {},
                               .payload = {},
                               .loaded = msg::VersionKey{.model = version->model, .version = version->number},
                               .uploaded = version->uploaded,
                               .rows = 1,
                               .deadline = call.received + *timeout,
                               .request_id = call.request.id};
  if (!inputs.empty() && !inputs.front().spec.shape.empty()) question.rows = inputs.front().spec.shape.front();
  msg::Infer infer{.model = version->model, .version = version->number, .inputs = {}};
  const std::uint64_t limit = services.settings.max_tensor_bytes;
  std::uint64_t bytes = 0;
  for (auto& input : inputs) {
    bytes += input.bytes.size();
    if (bytes > limit) {
      co_return fail(Code::kTooLarge,
                     std::format("the inputs have more than {} bytes; send fewer rows a request", limit));
    }
    infer.inputs.push_back(std::move(input.spec));
    question.payload.push_back(std::move(input.bytes));
  }
  if (auto taken = call.memory.take(bytes); !taken) co_return std::unexpected(taken.error());
  question.body = std::move(infer);
  call.body = std::string();  // the tensors hold what it said

  auto answer =
      co_await await_value<Result<Message>>([&services, &call, question = std::move(question)](auto done) mutable {
        const RequestId id = services.workers.ask(
            std::move(question), [done](Result<Message> message) mutable { done(std::move(message)); });
        if (call.client == nullptr) return;
        call.client->watch([&workers = services.workers, id] {
          metrics().hangups.Increment();
          workers.cancel(id);
        });
      });
  if (call.client != nullptr) call.client->unwatch();
  if (!answer) co_return std::unexpected(answer.error());

  auto* inferred = std::get_if<msg::Inferred>(&answer->envelope.body);
  if (inferred == nullptr || inferred->outputs.size() != answer->payload.size() || inferred->outputs.empty()) {
    co_return fail(Code::kInternal, "the inferencer's answer is not a prediction");
  }
  std::vector<Tensor> outputs;
  bytes = 0;
  for (std::size_t i = 0; i < inferred->outputs.size(); ++i) {
    bytes += answer->payload[i].size();
    outputs.push_back({.spec = std::move(inferred->outputs[i]), .bytes = std::move(answer->payload[i])});
  }
  if (bytes > limit) {
    co_return fail(Code::kTooLarge,
                   std::format("model '{}' answered {} bytes; the limit is {}", version->model, bytes, limit));
  }
  const std::uint64_t printed = limit > UINT64_MAX / 4 ? UINT64_MAX : 4 * limit;
  if (auto good = check_outputs(*version, outputs, printed); !good) co_return std::unexpected(good.error());
  // Taken before anything is printed: many clients that wait for large answers, or do not read them, are many at once.
  for (const Tensor& output : outputs) bytes += printed_bytes(output.spec);
  if (auto taken = call.memory.take(bytes); !taken) co_return std::unexpected(taken.error());
  co_return outputs;
}

}  // namespace slipway::gateway
