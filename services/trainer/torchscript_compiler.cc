#include "services/trainer/torchscript_compiler.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <format>
#include <functional>
#include <numeric>
#include <set>

#include "lib/tensor/shape.h"
#include "services/trainer/initializers.h"

namespace slipway::trainer {
namespace {

using keras::Activation;
using keras::Layer;
using keras::Padding;

// Python's keywords and the names a module already has: no attribute may be called so.
const std::set<std::string, std::less<>> kReserved = {
    "False", "None", "True",   "and",      "as",      "assert",  "async", "await", "break",      "class",   "continue",
    "def",   "del",  "elif",   "else",     "except",  "finally", "for",   "from",  "global",     "if",      "import",
    "in",    "is",   "lambda", "nonlocal", "not",     "or",      "pass",  "raise", "return",     "self",    "try",
    "while", "with", "yield",  "training", "forward", "logits",  "eval",  "train", "parameters", "buffers", "x"};

// 'before' and 'after' of Keras' "same": the rest goes to the end.
struct Pads {
  std::int64_t before = 0;
  std::int64_t after = 0;
};
Pads same_pads(std::int64_t size, std::int64_t kernel, std::int64_t stride, std::int64_t dilation) {
  const std::int64_t out = (size + stride - 1) / stride;
  const std::int64_t total = std::max<std::int64_t>((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0);
  return {total / 2, total - total / 2};
}

std::string number(double value) {
  auto text = std::format("{}", value);  // the shortest that reads back the same
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

std::string activate(Activation activation, const std::string& value, int channel_axis) {
  switch (activation) {
    case Activation::kLinear:
      return value;
    case Activation::kRelu:
      return std::format("torch.relu({})", value);
    case Activation::kSigmoid:
      return std::format("torch.sigmoid({})", value);
    case Activation::kTanh:
      return std::format("torch.tanh({})", value);
    case Activation::kSoftmax:
      return std::format("torch.softmax({}, {})", value, channel_axis);
  }
  return value;
}

class Builder {
 public:
  Builder(const keras::Architecture& architecture, std::uint64_t seed)
      : architecture_(architecture),
        seed_(seed),
        unit_(std::make_shared<torch::jit::CompilationUnit>()),
        root_(new_module("Sequential")) {}

  Network build() {
    for (index_ = 0; index_ < architecture_.layers.size(); ++index_) {
      layer_ = &architecture_.layers[index_];
      part_.reset();
      std::visit([this](const auto& kind) { emit(kind); }, layer_->kind);
      if (part_) root_.register_module(name_, *part_);
    }
    to_channels_last();
    network_.source = std::format("def logits(self, x: Tensor) -> Tensor:\n{}  return x\n", body_);
    // 6 is float32 in TorchScript's own numbers.
    const char* logits = architecture_.input_dtype == DType::kF32 ? "self.logits(x)" : "self.logits(x.to(6))";
    network_.source += std::format("def forward(self, x: Tensor) -> Tensor:\n  return {}\n",
                                   activate(network_.last_activation, logits, -1));
    root_.define(network_.source);
    network_.module = root_;
    return std::move(network_);
  }

 private:
  const std::vector<std::int64_t>& input_shape() const { return layer_->input_shape; }
  // The constructor that takes a unit leaves out the flag that every module has.
  torch::jit::Module new_module(const std::string& name) const {
    torch::jit::Module module(c10::QualifiedName("__torch__.slipway." + name), unit_, true);
    module.register_attribute("training", c10::BoolType::get(), true);
    return module;
  }

  bool image() const { return input_shape().size() == 3; }
  bool is_last() const { return index_ + 1 == architecture_.layers.size(); }

  void line(const std::string& text) { body_ += "  " + text + "\n"; }
  template <class... Args>
  void assign(std::format_string<Args...> form, Args&&... args) {
    line("x = " + std::format(form, std::forward<Args>(args)...));
  }

  // Images are kept channels first between convolutions, as torch wants them; everything else sees Keras' order.
  void to_channels_first() {
    if (!std::exchange(channels_first_, true)) assign("x.permute([0, 3, 1, 2])");
  }
  void to_channels_last() {
    if (std::exchange(channels_first_, false)) assign("x.permute([0, 2, 3, 1])");
  }
  int channel_axis() const { return channels_first_ ? 1 : -1; }

  // A softmax or sigmoid at the very end is kept out of `logits`.
  void finish(Activation activation) {
    if (is_last() && (activation == Activation::kSoftmax || activation == Activation::kSigmoid)) {
      network_.last_activation = activation;
    } else if (activation != Activation::kLinear) {
      assign("{}", activate(activation, "x", channel_axis()));
    }
  }

  // The layer's module, made at its first weight; its name is an identifier that no other has.
  torch::jit::Module& part() {
    if (part_) return *part_;
    std::string name;
    for (const char c : layer_->name) {
      name += std::isalnum(static_cast<unsigned char>(c)) && static_cast<unsigned char>(c) < 128 ? c : '_';
    }
    // Two leading underscores are torch's own.
    if (name.empty() || name[0] == '_' || std::isdigit(static_cast<unsigned char>(name[0]))) name = "layer" + name;
    std::string unique = name;
    for (int n = 1; kReserved.contains(unique) || !names_.insert(unique).second; ++n)
      unique = std::format("{}_{}", name, n);
    name_ = unique;
    part_ = new_module("Layer");
    return *part_;
  }

  void weight(const std::string& what, torch::Tensor tensor, const keras::Regularizer& regularizer = {}) {
    tensor.set_requires_grad(layer_->trainable);
    part().register_parameter(what, tensor, false);
    const std::string full = name_ + "." + what;
    network_.all.emplace_back(full, tensor);
    if (layer_->trainable) network_.trained.emplace_back(full, tensor);
    if (regularizer.l1 != 0 || regularizer.l2 != 0) network_.penalties.push_back({tensor, regularizer});
  }
  void buffer(const std::string& what, torch::Tensor tensor) {
    part().register_buffer(what, tensor);
    network_.all.emplace_back(name_ + "." + what, tensor);
  }
  std::string self(const char* what) const { return std::format("self.{}.{}", name_, what); }
  torch::Tensor draw(const keras::Initializer& initializer, torch::IntArrayRef shape, Fans fans, int which) const {
    return initialize(initializer, shape, fans, mix_seed(mix_seed(seed_, index_), static_cast<std::uint64_t>(which)));
  }

  void emit(const keras::Flatten&) {
    to_channels_last();
    assign("torch.flatten(x, 1)");
  }

  void emit(const keras::Reshape& reshape) {
    to_channels_last();
    std::string dims = "x.size(0)";
    for (const auto d : reshape.target_shape) dims += std::format(", {}", d);
    assign("x.reshape([{}])", dims);
  }

  void emit(const keras::Dense& dense) {
    to_channels_last();
    const std::int64_t in = input_shape().back();
    const Fans fans{static_cast<double>(in), static_cast<double>(dense.units)};
    weight("weight", draw(dense.kernel, {dense.units, in}, fans, 0), dense.kernel_regularizer);
    if (dense.use_bias) {
      const Fans bias_fans{static_cast<double>(dense.units), static_cast<double>(dense.units)};
      weight("bias", draw(dense.bias, {dense.units}, bias_fans, 1), dense.bias_regularizer);
    }
    const std::string bias = dense.use_bias ? self("bias") : "None";
    const std::string linear = std::format("x = torch.linear(x, {}, {})", self("weight"), bias);
    if (input_shape().size() == 1 && dense.use_bias) {
      // The same product, turned round: with a batch of few rows OpenBLAS takes a third less time over it.
      line("if self.training:");
      line(std::format("  x = torch.addmm({}.unsqueeze(1), {}, x.t()).t()", bias, self("weight")));
      line("else:");
      line("  " + linear);
    } else {
      line(linear);
    }
    finish(dense.activation);
  }

  void emit(const keras::Dropout& dropout) {
    if (dropout.rate <= 0) return;
    line("if self.training:");
    if (dropout.rate >= 1) {
      line("  x = x * 0.0");
      return;
    }
    // 31 random bits a value: torch's own dropout draws a double for each, and takes twice as long.
    const auto kept = std::clamp<std::int64_t>(std::llround((1 - dropout.rate) * 0x1p31), 1, 0x7fffffff);
    // Source compiled from C++ has no names for dtypes, only torch's numbers.
    line(std::format("  keep = torch.empty_like(x, dtype={}).random_().lt({}).to(dtype={}) * {}",
                     static_cast<int>(torch::kInt32), kept, static_cast<int>(torch::kFloat32),
                     number(1 / (1 - dropout.rate))));
    line("  x = x * keep");
  }

  void emit(const keras::Conv2D& conv) {
    to_channels_first();
    const std::int64_t in = input_shape()[2] / conv.groups;
    const std::int64_t field = conv.kernel_size[0] * conv.kernel_size[1];
    const Fans fans{static_cast<double>(in * field), static_cast<double>(conv.filters * field)};
    weight("weight", draw(conv.kernel, {conv.filters, in, conv.kernel_size[0], conv.kernel_size[1]}, fans, 0),
           conv.kernel_regularizer);
    if (conv.use_bias) {
      const Fans bias_fans{static_cast<double>(conv.filters), static_cast<double>(conv.filters)};
      weight("bias", draw(conv.bias, {conv.filters}, bias_fans, 1), conv.bias_regularizer);
    }
    std::int64_t pad[2] = {0, 0};
    if (conv.padding == Padding::kSame) {
      const auto h = same_pads(input_shape()[0], conv.kernel_size[0], conv.strides[0], conv.dilation[0]);
      const auto w = same_pads(input_shape()[1], conv.kernel_size[1], conv.strides[1], conv.dilation[1]);
      if (h.before == h.after && w.before == w.after) {
        pad[0] = h.before;
        pad[1] = w.before;
      } else {
        pad_with("0.0", h, w);
      }
    }
    assign("torch.conv2d(x, {}, {}, [{}, {}], [{}, {}], [{}, {}], {})", self("weight"),
           conv.use_bias ? self("bias") : "None", conv.strides[0], conv.strides[1], pad[0], pad[1], conv.dilation[0],
           conv.dilation[1], conv.groups);
    finish(conv.activation);
  }

  void pad_with(const char* value, Pads h, Pads w) {
    assign("torch.constant_pad_nd(x, [{}, {}, {}, {}], {})", w.before, w.after, h.before, h.after, value);
  }

  void emit(const keras::Pooling2D& pool) {
    to_channels_first();
    const std::string window = std::format("[{}, {}], [{}, {}], [0, 0]", pool.pool_size[0], pool.pool_size[1],
                                           pool.strides[0], pool.strides[1]);
    Pads h, w;
    if (pool.padding == Padding::kSame) {
      h = same_pads(input_shape()[0], pool.pool_size[0], pool.strides[0], 1);
      w = same_pads(input_shape()[1], pool.pool_size[1], pool.strides[1], 1);
    }
    const bool padded = h.after > 0 || w.after > 0;
    if (!pool.average) {
      if (padded) pad_with("float('-inf')", h, w);
      assign("torch.max_pool2d(x, {}, [1, 1], False)", window);
    } else if (!padded) {
      assign("torch.avg_pool2d(x, {}, False, True, None)", window);
    } else {
      // Keras leaves the padding out of the average: sums, divided by how many real values each window covers.
      const auto ones = torch::constant_pad_nd(torch::ones({1, 1, input_shape()[0], input_shape()[1]}),
                                               {w.before, w.after, h.before, h.after});
      buffer("counts", torch::avg_pool2d(ones, {pool.pool_size[0], pool.pool_size[1]},
                                         {pool.strides[0], pool.strides[1]}, 0, false, true, 1));
      pad_with("0.0", h, w);
      assign("torch.avg_pool2d(x, {}, False, True, 1) / {}", window, self("counts"));
    }
  }

  void emit(const keras::GlobalAveragePooling2D& pool) {
    const char* axes = channels_first_ ? "[2, 3]" : "[1, 2]";
    assign("torch.mean(x, {}, {})", axes, pool.keepdims ? "True" : "False");
    if (!pool.keepdims) channels_first_ = false;
  }

  void emit(const keras::BatchNormalization& norm) {
    const std::int64_t channels = input_shape().back();
    const Fans fans{static_cast<double>(channels), static_cast<double>(channels)};
    if (norm.scale) weight("weight", draw(norm.gamma, {channels}, fans, 0));
    if (norm.center) weight("bias", draw(norm.beta, {channels}, fans, 1));
    buffer("running_mean", draw(norm.moving_mean, {channels}, fans, 2));
    buffer("running_var", draw(norm.moving_variance, {channels}, fans, 3));
    if (image()) {
      to_channels_first();
    } else if (input_shape().size() > 1) {
      line("rows = x.size(0)");
      assign("x.reshape([-1, {}])", channels);  // statistics are taken over all other axes
    }
    const std::string gamma = norm.scale ? self("weight") : "None";
    const std::string beta = norm.center ? self("bias") : "None";
    const std::string served = std::format("x = torch.batch_norm(x, {}, {}, {}, {}, False, 0.0, {}, False)", gamma,
                                           beta, self("running_mean"), self("running_var"), number(norm.epsilon));
    if (!layer_->trainable) {
      line(served);  // frozen: inference mode in training too, as in Keras
    } else {
      // torch would feed the unbiased variance into the moving one; Keras 3 feeds the biased one, so the moving
      // statistics are kept here: moving = moving * momentum + batch * (1 - momentum).
      const auto keep = number(norm.momentum);
      line("if self.training:");
      line(std::format("  x, mean, inverse = torch.native_batch_norm(x, {}, {}, None, None, True, 0.0, {})", gamma,
                       beta, number(norm.epsilon)));
      line(std::format("  var = torch.clamp_min(1.0 / (inverse.detach() * inverse.detach()) - {}, 0.0)",
                       number(norm.epsilon)));
      if (norm.unbiased_moving_variance && image()) {
        line("  n = x.numel() // x.size(1)");
        line("  var = var * (float(n) / float(max(n - 1, 1)))");
      }
      line(std::format("  {}.mul_({}).add_(mean.detach() * (1.0 - {}))", self("running_mean"), keep, keep));
      line(std::format("  {}.mul_({}).add_(var * (1.0 - {}))", self("running_var"), keep, keep));
      line("else:");
      line("  " + served);
    }
    if (!image() && input_shape().size() > 1) {
      std::string dims = "rows";
      for (const auto d : input_shape()) dims += std::format(", {}", d);
      assign("x.reshape([{}])", dims);
    }
  }

  void emit(const keras::ActivationLayer& activation) { finish(activation.activation); }

  // Numbers for the last axis, shaped so that they broadcast in the order the values are in now.
  torch::Tensor per_channel(const std::vector<double>& values) const {
    auto tensor = torch::tensor(values, torch::kFloat64).to(torch::kFloat32);
    if (channels_first_ && values.size() > 1) return tensor.reshape({-1, 1, 1});
    return tensor;
  }

  void emit(const keras::Rescaling& rescaling) {
    const auto operand = [this](const std::vector<double>& values, const char* what) {
      if (values.size() == 1) return number(values[0]);
      buffer(what, per_channel(values));
      return self(what);
    };
    const std::string scale = rescaling.scale.empty() ? "1.0" : operand(rescaling.scale, "scale");
    const std::string offset = rescaling.offset.empty() ? "0.0" : operand(rescaling.offset, "offset");
    if (scale != "1.0") assign("x * {}", scale);
    if (offset != "0.0") assign("x + {}", offset);
  }

  void emit(const keras::Normalization& norm) {
    std::vector<double> deviation;
    for (const double v : norm.variance) deviation.push_back(std::max(std::sqrt(v), 1e-7));
    buffer("mean", per_channel(norm.mean));
    buffer("deviation", per_channel(deviation));
    if (norm.invert) {
      assign("{} + x * {}", self("mean"), self("deviation"));
    } else {
      assign("(x - {}) / {}", self("mean"), self("deviation"));
    }
  }

  const keras::Architecture& architecture_;
  const std::uint64_t seed_;
  std::shared_ptr<torch::jit::CompilationUnit> unit_;
  torch::jit::Module root_;
  Network network_;
  std::string body_;
  std::set<std::string> names_;
  bool channels_first_ = false;
  // The layer being emitted.
  std::size_t index_ = 0;
  const Layer* layer_ = nullptr;
  std::string name_;
  std::optional<torch::jit::Module> part_;
};

bool lacks_numbers(const Layer& layer) {
  const auto* norm = std::get_if<keras::Normalization>(&layer.kind);
  return norm != nullptr && (norm->mean.empty() || norm->variance.empty());
}

// Mean and variance over all axes but the last, in double precision, a block of rows at a time.
struct Moments {
  std::vector<double> mean, variance;
};
Moments moments(const torch::Tensor& x, torch::jit::Module* before) {
  constexpr std::int64_t kBlock = 1024;
  const auto blocks = [&](const std::function<void(const torch::Tensor&)>& use) {
    for (std::int64_t at = 0; at < x.size(0); at += kBlock) {
      auto block = x.narrow(0, at, std::min(kBlock, x.size(0) - at)).to(torch::kFloat32);
      if (before != nullptr) block = before->forward({block}).toTensor();
      use(block.reshape({-1, block.size(-1)}).to(torch::kFloat64));
    }
  };
  torch::Tensor sum, squares;
  std::int64_t rows = 0;
  blocks([&](const torch::Tensor& block) {
    const auto part = block.sum(0);
    sum = sum.defined() ? sum + part : part;
    rows += block.size(0);
  });
  const auto mean = sum / static_cast<double>(rows);
  // A second pass: squares of large numbers with a small spread would cancel.
  blocks([&](const torch::Tensor& block) {
    const auto part = (block - mean).square().sum(0);
    squares = squares.defined() ? squares + part : part;
  });
  const auto variance = squares / static_cast<double>(rows);
  const auto list = [](const torch::Tensor& t) {
    return std::vector<double>(t.data_ptr<double>(), t.data_ptr<double>() + t.numel());
  };
  return {list(mean.contiguous()), list(variance.contiguous())};
}

}  // namespace

Result<Network> compile(const keras::Architecture& architecture, std::uint64_t seed) {
  try {
    return Builder(architecture, seed).build();
  } catch (const c10::Error& e) {
    return fail(Code::kInternal, std::format("the layers do not make a module: {}", e.what_without_backtrace()));
  } catch (const torch::jit::ErrorReport& e) {
    return fail(Code::kInternal, std::format("the layers do not make a module: {}", e.what()));
  }
}

bool wants_adapting(const keras::Architecture& architecture) {
  return std::ranges::any_of(architecture.layers, lacks_numbers);
}

Result<void> adapt(keras::Architecture& architecture, const torch::Tensor& x, std::uint64_t seed) {
  torch::NoGradGuard no_grad;
  for (std::size_t i = 0; i < architecture.layers.size(); ++i) {
    if (!lacks_numbers(architecture.layers[i])) continue;
    // What reaches this layer: the rows as the layers before it leave them.
    keras::Architecture before = architecture;
    before.layers.resize(i);
    std::optional<Network> network;
    if (i > 0) {
      auto compiled = compile(before, seed);
      if (!compiled) return std::unexpected(std::move(compiled).error());
      network = std::move(*compiled);
      network->module.eval();
    }
    auto found = moments(x, network ? &network->module : nullptr);
    auto& norm = std::get<keras::Normalization>(architecture.layers[i].kind);
    norm.mean = std::move(found.mean);
    norm.variance = std::move(found.variance);
  }
  return {};
}

}  // namespace slipway::trainer
