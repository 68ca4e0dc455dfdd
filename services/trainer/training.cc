#include "services/trainer/training.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <format>
#include <sstream>

#include "lib/tensor/shape.h"
#include "services/trainer/initializers.h"
#include "services/trainer/training_state.h"

namespace slipway::trainer {
namespace {

constexpr auto kReportEvery = std::chrono::milliseconds(250);
constexpr std::int64_t kEvaluationRows = 256;  // fixed, so that sums are the same everywhere

// Places in the seed's stream: layers take the small ones.
constexpr std::uint64_t kDropoutStream = 1ULL << 40;
constexpr std::uint64_t kShuffleStream = 1ULL << 41;

void set_trained(torch::jit::Module& module, bool on) {
  if (module.is_training() != on) module.train(on);
}

// Puts `state` into torch's default generator and takes it out again at the end; `lent` is true meanwhile.
class GeneratorLoan {
 public:
  GeneratorLoan(torch::Tensor& state, bool& lent)
      : state_(state), lent_(lent), generator_(at::detail::getDefaultCPUGenerator()) {
    generator_.set_state(state_);
    lent_ = true;
  }
  ~GeneratorLoan() {
    state_ = generator_.get_state();
    lent_ = false;
  }
  GeneratorLoan(const GeneratorLoan&) = delete;
  GeneratorLoan& operator=(const GeneratorLoan&) = delete;

 private:
  torch::Tensor& state_;
  bool& lent_;
  at::Generator generator_;
};

bool reduces_rate(const keras::JobSpec& spec) {
  return std::ranges::any_of(spec.callbacks,
                             [](const auto& c) { return std::holds_alternative<keras::ReduceLROnPlateau>(c); });
}

// Copies values by name. Errors: kDataLoss (names or shapes differ).
Result<void> copy_into(const NamedTensors& to, const NamedTensors& from, const char* what) {
  torch::NoGradGuard no_grad;
  if (to.size() != from.size()) {
    return fail(Code::kDataLoss, std::format("{} of {} tensors, {} wanted", what, from.size(), to.size()));
  }
  for (const auto& [name, tensor] : to) {
    const auto found = std::ranges::find(from, name, &NamedTensors::value_type::first);
    if (found == from.end()) return fail(Code::kDataLoss, std::format("{} lack '{}'", what, name));
    if (found->second.sizes() != tensor.sizes() || found->second.scalar_type() != tensor.scalar_type()) {
      return fail(Code::kDataLoss, std::format("{} '{}' of shape {}, {} wanted", what, name,
                                               to_string(found->second.sizes()), to_string(tensor.sizes())));
    }
    tensor.copy_(found->second);
  }
  return {};
}

}  // namespace

Result<void> check_class_count(const keras::JobSpec& spec) {
  const auto& shape = spec.architecture.output_shape();
  if (!keras::is_classification(spec.loss) || shape.empty() || shape.back() <= kMaxClasses) return {};
  return fail_at("$.model", Code::kInvalidArgument,
                 std::format("the model tells {} classes apart, at most {}", shape.back(), kMaxClasses));
}

void settle_training_thread() {
  // Weights behind pixels that are mostly black get no gradients, and Adam's averages of them fade into denormal
  // numbers, which the processor handles a hundred times slower.
  at::globalContext().setFlushDenormal(true);
}

int worthwhile_threads(const keras::Architecture& architecture, std::int64_t batch_rows, int limit) {
  // Multiplications of one forward pass. Below about thirty million, waking the team costs more than it saves.
  constexpr double kWorthSharing = 3e7;
  double work = 0;
  for (const auto& layer : architecture.layers) {
    const auto outputs = static_cast<double>(element_count(layer.output_shape).value());  // bounded when it was read
    if (std::holds_alternative<keras::Dense>(layer.kind)) {
      work += outputs * static_cast<double>(layer.input_shape.back());
    } else if (const auto* conv = std::get_if<keras::Conv2D>(&layer.kind)) {
      work += outputs * static_cast<double>(conv->kernel_size[0] * conv->kernel_size[1]) *
              static_cast<double>(layer.input_shape[2] / conv->groups);
    }
  }
  return work * static_cast<double>(batch_rows) < kWorthSharing ? 1 : std::max(limit, 1);
}

Training::Training(keras::JobSpec spec, std::string identity)
    : spec_(std::move(spec)), identity_(std::move(identity)) {}

Result<std::unique_ptr<Training>> Training::start(keras::JobSpec spec, const TrainingData& data, int threads,
                                                  std::string identity) {
  std::unique_ptr<Training> training(new Training(std::move(spec), std::move(identity)));
  training->threads_ = worthwhile_threads(training->spec_.architecture, training->spec_.fit.batch_size, threads);
  if (auto done = training->prepare(data); !done) return std::unexpected(std::move(done).error());
  return training;
}

Result<std::unique_ptr<Training>> Training::resume(keras::JobSpec spec, const TrainingData& data,
                                                   const Snapshot& snapshot, std::string identity) {
  std::unique_ptr<Training> training(new Training(std::move(spec), std::move(identity)));
  auto state = read_state(snapshot.state);
  if (!state) return std::unexpected(std::move(state).error());
  training->threads_ = state->threads;
  if (auto done = training->prepare(data); !done) return std::unexpected(std::move(done).error());
  if (auto done = training->restore(snapshot); !done) return std::unexpected(std::move(done).error());
  return training;
}

Result<void> Training::prepare(const TrainingData& data) {
  settle_training_thread();
  at::set_num_threads(threads_);
  auto& architecture = spec_.architecture;
  if (auto few = check_class_count(spec_); !few) return few;
  const std::int64_t rows = data.x.size(0);
  const auto split =
      static_cast<std::int64_t>(keras::training_rows(static_cast<std::uint64_t>(rows), spec_.fit.validation_split));
  if (split == 0 || (spec_.fit.validation_split > 0 && split == rows)) {
    return fail_at("$.fit.validation_split", Code::kInvalidArgument,
                   std::format("{} rows, {} of them for training", rows, split));
  }
  x_ = data.x.narrow(0, 0, split);
  classes_ = data.classes;
  // Whether numbers are missing depends on the job alone, so a resumed training finds the same ones.
  if (wants_adapting(architecture)) {
    if (auto done = adapt(architecture, x_, spec_.seed); !done) return done;
  }
  auto network = compile(architecture, spec_.seed);
  if (!network) return std::unexpected(std::move(network).error());
  network_ = std::move(*network);
  logits_ = std::make_unique<torch::jit::Method>(network_.module.get_method("logits"));
  objective_ = std::make_unique<Objective>(spec_.loss, spec_.metrics, network_.last_activation);
  optimizer_ = std::make_unique<Optimizer>(spec_.optimizer, network_.trained);
  callbacks_ = std::make_unique<keras::CallbackState>(spec_.callbacks);
  learning_rate_ = spec_.optimizer.learning_rate;

  auto y = objective_->targets(data.y, architecture.output_shape());
  if (!y) return std::unexpected(std::move(y).error());
  y_ = y->narrow(0, 0, split);
  if (split < rows && spec_.fit.validation_split > 0) {
    val_x_ = data.x.narrow(0, split, rows - split);
    val_y_ = y->narrow(0, split, rows - split);
  }
  if (data.test_x.defined()) {
    auto test_y = objective_->targets(data.test_y, architecture.output_shape());
    if (!test_y) return std::unexpected(std::move(test_y).error());
    test_x_ = data.test_x;
    test_y_ = std::move(*test_y);
  }
  rng_ = at::detail::createCPUGenerator(mix_seed(spec_.seed, kDropoutStream) >> 32).get_state();
  return {};
}

std::int64_t Training::steps_per_epoch() const {
  return (x_.size(0) + spec_.fit.batch_size - 1) / spec_.fit.batch_size;
}

// The order of an epoch's rows, from the seed and the epoch alone; undefined: as they are.
torch::Tensor Training::permutation() const {
  if (!spec_.fit.shuffle) return {};
  const auto seed = mix_seed(mix_seed(spec_.seed, kShuffleStream), static_cast<std::uint64_t>(epoch_));
  return torch::randperm(x_.size(0), at::detail::createCPUGenerator(seed >> 32), torch::kInt64);
}

double Training::train_batch(const torch::Tensor& permutation) {
  const std::int64_t at = step_ * spec_.fit.batch_size;
  const std::int64_t rows = std::min(spec_.fit.batch_size, x_.size(0) - at);
  torch::Tensor x, y;
  if (permutation.defined()) {
    const auto chosen = permutation.narrow(0, at, rows);
    x = x_.index_select(0, chosen);
    y = y_.index_select(0, chosen);
  } else {
    x = x_.narrow(0, at, rows);
    y = y_.narrow(0, at, rows);
  }
  const auto logits = (*logits_)({x.to(torch::kFloat32)}).toTensor();
  auto loss = objective_->loss(logits, y);
  if (const auto penalty = Objective::penalty(network_.penalties); penalty.defined()) loss = loss + penalty;
  if (loss.requires_grad()) {
    auto gradients = torch::autograd::grad({loss}, optimizer_->weights(), {}, std::nullopt, false, true);
    optimizer_->step(gradients, learning_rate_);
  }
  const double value = loss.item<double>();
  objective_->add(means_, value, logits.detach(), y);
  ++step_;
  rows_since_report_ += rows;
  rows_trained_ += rows;
  return value;
}

bool Training::evaluate(const torch::Tensor& x, const torch::Tensor& y, RunningMeans& means, const Observer* observer) {
  torch::NoGradGuard no_grad;
  set_trained(network_.module, false);
  const auto penalty = Objective::penalty(network_.penalties);
  const double extra = penalty.defined() ? penalty.item<double>() : 0;
  for (std::int64_t at = 0; at < x.size(0); at += kEvaluationRows) {
    const std::int64_t rows = std::min(kEvaluationRows, x.size(0) - at);
    const auto logits = (*logits_)({x.narrow(0, at, rows).to(torch::kFloat32)}).toTensor();
    const auto target = y.narrow(0, at, rows);
    objective_->add(means, objective_->loss(logits, target).item<double>() + extra, logits, target);
    if (observer != nullptr && observer->keep_going && !observer->keep_going()) return false;
  }
  return true;
}

Ending Training::run(const Observer& observer) {
  settle_training_thread();
  at::set_num_threads(threads_);
  const GeneratorLoan generator(rng_, running_);
  last_report_ = Clock::now();
  rows_since_report_ = 0;
  while (!done_) {
    if (step_ == 0) means_ = {};
    set_trained(network_.module, true);
    const auto order = permutation();
    const std::int64_t steps = steps_per_epoch();
    while (step_ < steps) {
      const double loss = train_batch(order);
      if (callbacks_->on_batch_loss(loss)) {
        return {Ending::Kind::kNotANumber,
                std::format("the loss of batch {} of epoch {} is {}", step_, epoch_ + 1, loss)};
      }
      if (observer.on_progress) tick(observer);
      if (observer.keep_going && !observer.keep_going()) return {Ending::Kind::kStopped, {}};
    }
    // No later epoch can mend weights that are not numbers.
    if (!weights_are_finite()) {
      return {Ending::Kind::kNotANumber, std::format("weights are not finite after epoch {}", epoch_ + 1)};
    }
    if (!end_epoch(observer)) return {Ending::Kind::kStopped, {}};
    if (!done_ && observer.keep_going && !observer.keep_going()) return {Ending::Kind::kStopped, {}};
  }
  return {};
}

bool Training::end_epoch(const Observer& observer) {
  auto logs = objective_->logs(means_);
  if (val_x_.defined()) {
    RunningMeans means;
    if (!evaluate(val_x_, val_y_, means, &observer)) return false;
    std::ranges::move(objective_->logs(means, "val_"), std::back_inserter(logs));
  }
  const auto decision = callbacks_->on_epoch_end(epoch_, logs, learning_rate_);
  if (reduces_rate(spec_)) logs.push_back({"learning_rate", learning_rate_});
  if (decision.is_best) keep_best();
  if (observer.on_warning) {
    for (const auto& warning : decision.warnings) observer.on_warning(warning);
  }
  const auto report = progress(logs);
  std::string note = decision.reason;
  if (note.empty() && decision.learning_rate != learning_rate_) {
    note = std::format("learning rate {:g} -> {:g}", learning_rate_, decision.learning_rate);
  }
  history_.push_back(std::move(logs));
  learning_rate_ = decision.learning_rate;
  ++epoch_;
  step_ = 0;
  done_ = decision.stop || epoch_ >= spec_.fit.epochs;
  if (done_ && callbacks_->restores_best_weights() && !best_.empty()) {
    torch::NoGradGuard no_grad;
    for (std::size_t i = 0; i < best_.size(); ++i) network_.all[i].second.copy_(best_[i].second);
  }
  if (observer.on_epoch) observer.on_epoch(report, note);
  return true;
}

std::vector<Metric> Training::final_logs() const {
  if (history_.empty()) return {};
  const auto best = callbacks_->best_epoch();
  if (done_ && callbacks_->restores_best_weights() && best && *best < std::ssize(history_)) {
    return history_[static_cast<std::size_t>(*best)];
  }
  return history_.back();
}

bool Training::weights_are_finite() const {
  torch::NoGradGuard no_grad;
  return std::ranges::all_of(
      network_.all, [](const auto& named) { return torch::isfinite(named.second).all().template item<bool>(); });
}

void Training::keep_best() {
  torch::NoGradGuard no_grad;
  best_.clear();
  for (const auto& [name, tensor] : network_.all) best_.emplace_back(name, tensor.detach().clone());
}

void Training::tick(const Observer& observer) {
  const auto now = Clock::now();
  if (now - last_report_ < kReportEvery) return;
  const double seconds = std::chrono::duration<double>(now - last_report_).count();
  rows_per_second_ = static_cast<double>(rows_since_report_) / seconds;
  last_report_ = now;
  rows_since_report_ = 0;
  observer.on_progress(progress(objective_->logs(means_)));
}

Progress Training::progress(std::vector<Metric> metrics) const {
  Progress p;
  const std::int64_t steps = steps_per_epoch();
  p.epoch = static_cast<std::uint32_t>(std::min(epoch_ + 1, spec_.fit.epochs));
  p.epochs = static_cast<std::uint32_t>(spec_.fit.epochs);
  p.step = static_cast<std::uint64_t>(step_);
  p.steps = static_cast<std::uint64_t>(steps);
  p.rows_per_second = rows_per_second_;
  if (rows_per_second_ > 0) {
    const auto left = (spec_.fit.epochs - epoch_) * x_.size(0) - step_ * spec_.fit.batch_size;
    p.seconds_left = std::max(0.0, static_cast<double>(left) / rows_per_second_);
  }
  p.learning_rate = learning_rate_;
  p.metrics = std::move(metrics);
  return p;
}

std::vector<Metric> Training::test() {
  if (!test_x_.defined()) return {};
  RunningMeans means;
  evaluate(test_x_, test_y_, means, nullptr);
  return objective_->logs(means, "test_");
}

std::string Training::save_module() {
  set_trained(network_.module, false);
  std::ostringstream out;
  network_.module.save(out);
  return std::move(out).str();
}

Signature Training::signature() const {
  const auto& architecture = spec_.architecture;
  const auto batched = [](std::vector<std::int64_t> shape) {
    shape.insert(shape.begin(), -1);
    return shape;
  };
  Signature signature;
  signature.inputs = {{architecture.input_name, architecture.input_dtype, batched(architecture.input_shape)}};
  const auto& last = architecture.layers.empty() ? architecture.input_name : architecture.layers.back().name;
  signature.outputs = {{last, DType::kF32, batched(architecture.output_shape())}};
  if (keras::is_classification(spec_.loss)) {
    signature.logits = spec_.loss.from_logits;
    // One name for each output; a lone sigmoid tells two classes apart.
    const auto& shape = architecture.output_shape();
    const std::int64_t outputs = shape.empty() ? 1 : shape.back();
    signature.classes = classes_;
    signature.classes.resize(
        std::min<std::size_t>(classes_.size(), static_cast<std::size_t>(std::max<std::int64_t>(outputs, 2))));
    while (std::ssize(signature.classes) < std::max<std::int64_t>(outputs, 2)) {
      signature.classes.push_back(std::format("{}", signature.classes.size()));
    }
  }
  return signature;
}

Snapshot Training::snapshot() const {
  torch::NoGradGuard no_grad;
  Snapshot snapshot;
  const auto add = [&](const char* prefix, const NamedTensors& tensors) {
    for (const auto& [name, tensor] : tensors) snapshot.tensors.emplace_back(prefix + name, tensor.detach().clone());
  };
  add("weights/", network_.all);
  add("optimizer/", optimizer_->state());
  add("best/", best_);
  TrainingState state;
  state.identity = identity_;
  state.threads = threads_;
  state.epoch = epoch_;
  state.step = step_;
  state.optimizer_steps = optimizer_->steps();
  state.learning_rate = learning_rate_;
  state.done = done_;
  state.means = means_;
  state.callbacks = callbacks_->save();
  state.history = history_;
  snapshot.state = write_state(state);
  // While running, the generator's state is in torch's hands.
  snapshot.tensors.emplace_back("rng", running_ ? at::detail::getDefaultCPUGenerator().get_state() : rng_.clone());
  return snapshot;
}

Result<void> Training::restore(const Snapshot& snapshot) {
  auto state = read_state(snapshot.state);
  if (!state) return std::unexpected(std::move(state).error());
  if (state->identity != identity_) {
    return fail(Code::kDataLoss, std::format("a checkpoint of '{}', wanted one of '{}'", state->identity, identity_));
  }
  const std::int64_t steps = steps_per_epoch();
  if (state->epoch > spec_.fit.epochs || state->step > steps) {
    return fail(Code::kDataLoss, std::format("a checkpoint at epoch {} step {} of a job of {} epochs of {} steps",
                                             state->epoch, state->step, spec_.fit.epochs, steps));
  }
  NamedTensors weights, optimizer, best, rng;
  for (const auto& [name, tensor] : snapshot.tensors) {
    if (name.starts_with("weights/"))
      weights.emplace_back(name.substr(8), tensor);
    else if (name.starts_with("optimizer/"))
      optimizer.emplace_back(name.substr(10), tensor);
    else if (name.starts_with("best/"))
      best.emplace_back(name.substr(5), tensor.clone());
    else if (name == "rng")
      rng.emplace_back(name, tensor.clone());
    else
      return fail(Code::kDataLoss, std::format("a checkpoint with a tensor '{}'", name));
  }
  if (auto done = copy_into(network_.all, weights, "weights"); !done) return done;
  if (auto done = optimizer_->restore(optimizer, state->optimizer_steps); !done) return done;
  if (rng.size() != 1) return fail(Code::kDataLoss, "a checkpoint without the generator's state");
  if (rng[0].second.sizes() != rng_.sizes() || rng[0].second.scalar_type() != rng_.scalar_type()) {
    return fail(Code::kDataLoss, "a checkpoint with a generator's state of another size");
  }
  if (auto done = callbacks_->restore(state->callbacks); !done) return done;
  rng_ = rng[0].second;
  if (!best.empty()) {
    keep_best();  // gives the order
    if (auto done = copy_into(best_, best, "best weights"); !done) return done;
  }
  epoch_ = state->epoch;
  step_ = state->step;
  learning_rate_ = state->learning_rate;
  done_ = state->done;
  means_ = std::move(state->means);
  history_ = std::move(state->history);
  return {};
}

}  // namespace slipway::trainer
