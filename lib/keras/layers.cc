#include "lib/keras/layers.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "lib/keras/initializer.h"
#include "lib/keras/json_text.h"
#include "lib/tensor/shape.h"

namespace slipway::keras {
namespace {

constexpr std::int64_t kMaxWindow = 4096;  // of kernels, pools, strides and dilations, along one axis

// What a layer's reader works on.
struct Reading {
  ObjectReader& in;
  const Shape& input;
  int generation;
  Layer& layer;

  void fail(std::string path, std::string message) const {
    in.report().add(std::move(path), Code::kInvalidArgument, std::move(message));
  }
  [[nodiscard]] bool failed() const { return in.report().failed(); }

  [[nodiscard]] bool is_image(std::string_view what) const {
    if (input.size() == 3) return true;
    fail(layer.path, std::format("{} wants rows of shape [height, width, channels], but what comes before it has "
                                 "shape {}",
                                 what, to_string(input)));
    return false;
  }
};

void channels_last(ObjectReader& in) {
  in.only("data_format", "channels_last", "only data_format channels_last is taken");
}

void no_constraint(ObjectReader& in, std::string_view key) {
  in.only(key, nullptr, "weight constraints are not supported");
}

void read_weights(ObjectReader& in, auto& layer) {
  layer.activation = read_activation(in.child("activation"));
  layer.use_bias = in.boolean("use_bias", true);
  layer.kernel = read_initializer(in.child("kernel_initializer"), glorot_uniform());
  layer.bias = read_initializer(in.child("bias_initializer"), zeros());
  layer.kernel_regularizer = read_regularizer(in.child("kernel_regularizer"));
  layer.bias_regularizer = read_regularizer(in.child("bias_regularizer"));
  in.only("activity_regularizer", nullptr, "activity regularizers are not supported");
  no_constraint(in, "kernel_constraint");
  no_constraint(in, "bias_constraint");
  in.only("quantization_config", nullptr, "quantization is not supported in training");
}

Padding read_padding(ObjectReader& in) {
  std::string padding = in.text("padding", "valid");
  std::ranges::transform(padding, padding.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c; });
  if (padding == "same") return Padding::kSame;
  if (padding != "valid") {
    in.report().add(in.path_of("padding"), Code::kInvalidArgument,
                    std::format("wanted 'valid' or 'same', got '{}'", printable(padding)));
  }
  return Padding::kValid;
}

// Length after a window of `window` steps over `in`, as Keras counts it.
std::int64_t slid(std::int64_t in, std::int64_t window, std::int64_t stride, Padding padding) {
  return padding == Padding::kSame ? (in + stride - 1) / stride : (in - window) / stride + 1;
}

void softmax_has_choice(const Reading& r, Activation activation, const Shape& output) {
  if (activation != Activation::kSoftmax || output.back() > 1) return;
  r.fail(r.layer.path, std::format("softmax over one unit is always 1 (shape {}); for two classes use activation "
                                   "sigmoid, or 2 units",
                                   to_string(output)));
}

void read_flatten(Reading& r) {
  channels_last(r.in);
  r.layer.kind = Flatten{};
  r.layer.output_shape = {*element_count(r.input)};  // bounded by kMaxElements
}

void read_dense(Reading& r) {
  Dense dense;
  dense.units = r.in.integer("units", {.min = 1, .max = kMaxElements});
  read_weights(r.in, dense);
  r.layer.output_shape = r.input;
  r.layer.output_shape.back() = dense.units;
  softmax_has_choice(r, dense.activation, r.layer.output_shape);
  r.layer.kind = dense;
}

void read_dropout(Reading& r) {
  Dropout dropout;
  dropout.rate = r.in.number("rate", {.min = 0, .max = 1, .open_max = true});
  r.in.only("noise_shape", nullptr, "a noise_shape is not supported");
  r.in.ignore({"seed", "rng_type"});  // the job's own seed decides
  r.layer.kind = dropout;
}

void read_conv2d(Reading& r) {
  if (!r.is_image("Conv2D")) return;
  Conv2D conv;
  const IntegerRange window{.min = 1, .max = kMaxWindow};
  conv.filters = r.in.integer("filters", {.min = 1, .max = kMaxElements});
  r.in.pair("kernel_size", window, conv.kernel_size, std::nullopt);
  r.in.pair("strides", window, conv.strides, 1);
  r.in.pair("dilation_rate", window, conv.dilation, 1);
  conv.padding = read_padding(r.in);
  channels_last(r.in);
  conv.groups = r.in.integer("groups", {.min = 1, .max = kMaxElements}, 1);
  read_weights(r.in, conv);
  if (r.failed()) return;

  if (std::max(conv.strides[0], conv.strides[1]) > 1 && std::max(conv.dilation[0], conv.dilation[1]) > 1) {
    return r.fail(r.in.path_of("dilation_rate"),
                  std::format("strides [{}, {}] and dilation_rate [{}, {}] cannot both be above 1", conv.strides[0],
                              conv.strides[1], conv.dilation[0], conv.dilation[1]));
  }
  const std::int64_t channels = r.input[2];
  if (channels % conv.groups != 0 || conv.filters % conv.groups != 0) {
    return r.fail(r.in.path_of("groups"), std::format("{} groups do not divide {} input channels and {} filters",
                                                      conv.groups, channels, conv.filters));
  }
  r.layer.output_shape = {0, 0, conv.filters};
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const std::int64_t reach = (conv.kernel_size[axis] - 1) * conv.dilation[axis] + 1;
    if (conv.padding == Padding::kValid && reach > r.input[axis]) {
      return r.fail(r.in.path_of("kernel_size"),
                    std::format("the kernel covers {} steps, but the input {} has only {}; make it smaller or use "
                                "padding 'same'",
                                reach, to_string(r.input), r.input[axis]));
    }
    r.layer.output_shape[axis] = slid(r.input[axis], reach, conv.strides[axis], conv.padding);
  }
  softmax_has_choice(r, conv.activation, r.layer.output_shape);
  r.layer.kind = conv;
}

void read_pooling2d(Reading& r, bool average) {
  if (!r.is_image(average ? "AveragePooling2D" : "MaxPooling2D")) return;
  Pooling2D pool{.average = average};
  const IntegerRange window{.min = 1, .max = kMaxWindow};
  r.in.pair("pool_size", window, pool.pool_size, 2);
  if (r.in.has("strides")) {
    r.in.pair("strides", window, pool.strides, 1);
  } else {
    r.in.ignore({"strides"});
    std::ranges::copy(pool.pool_size, pool.strides);
  }
  pool.padding = read_padding(r.in);
  channels_last(r.in);
  if (r.failed()) return;

  r.layer.output_shape = r.input;
  for (std::size_t axis = 0; axis < 2; ++axis) {
    if (pool.padding == Padding::kValid && pool.pool_size[axis] > r.input[axis]) {
      return r.fail(r.in.path_of("pool_size"),
                    std::format("the pool covers {} steps, but the input {} has only {}; make it smaller or use "
                                "padding 'same'",
                                pool.pool_size[axis], to_string(r.input), r.input[axis]));
    }
    r.layer.output_shape[axis] = slid(r.input[axis], pool.pool_size[axis], pool.strides[axis], pool.padding);
  }
  r.layer.kind = pool;
}
void read_max_pooling2d(Reading& r) { read_pooling2d(r, false); }
void read_average_pooling2d(Reading& r) { read_pooling2d(r, true); }

void read_global_average_pooling2d(Reading& r) {
  if (!r.is_image("GlobalAveragePooling2D")) return;
  channels_last(r.in);
  GlobalAveragePooling2D pool{.keepdims = r.in.boolean("keepdims", false)};
  r.layer.output_shape = pool.keepdims ? Shape{1, 1, r.input[2]} : Shape{r.input[2]};
  r.layer.kind = pool;
}

// Keras counts axes with the batch as 0, and writes -1, [-1] or the counted one once the layer is built.
void last_axis_only(const Reading& r) {
  auto axis = r.in.child("axis");
  if (!axis) return;
  if (axis->value().is_array()) {
    const auto items = axis->items();
    if (items.size() != 1) {
      return axis->fail(Code::kUnsupported,
                        std::format("only the last axis is taken, got {}", describe(axis->value())));
    }
    axis.emplace(items[0]);
  }
  const auto last = static_cast<std::int64_t>(r.input.size());
  const std::int64_t given = axis->integer({});
  if (r.failed() || given == -1 || given == last) return;
  axis->fail(Code::kUnsupported, std::format("only the last axis is taken (-1 or {}), got {}", last, given));
}

void read_batch_normalization(Reading& r) {
  BatchNormalization norm;
  last_axis_only(r);
  norm.momentum = r.in.number("momentum", {.min = 0, .max = 1}, 0.99);
  norm.epsilon = r.in.number("epsilon", {.min = 0}, 0.001);
  norm.center = r.in.boolean("center", true);
  norm.scale = r.in.boolean("scale", true);
  norm.beta = read_initializer(r.in.child("beta_initializer"), zeros());
  norm.gamma = read_initializer(r.in.child("gamma_initializer"), ones());
  norm.moving_mean = read_initializer(r.in.child("moving_mean_initializer"), zeros());
  norm.moving_variance = read_initializer(r.in.child("moving_variance_initializer"), ones());
  for (const std::string_view key : {"beta_regularizer", "gamma_regularizer"}) {
    r.in.only(key, nullptr, "regularizers of BatchNormalization are not supported");
  }
  no_constraint(r.in, "beta_constraint");
  no_constraint(r.in, "gamma_constraint");
  r.in.only("synchronized", false, "synchronized BatchNormalization is not supported");
  r.in.only("renorm", false, "batch renormalization is not supported");
  r.in.only("virtual_batch_size", nullptr, "virtual batches are not supported");
  r.in.ignore({"renorm_clipping", "renorm_momentum", "fused"});  // without renorm they change nothing
  norm.unbiased_moving_variance = r.generation == 2 && r.input.size() == 3;
  r.layer.kind = norm;
}

void set_activation(Reading& r, Activation activation) {
  softmax_has_choice(r, activation, r.input);
  r.layer.kind = ActivationLayer{.activation = activation};
}

void read_activation_layer(Reading& r) {
  if (!r.in.has("activation")) return r.fail(r.in.path_of("activation"), "missing: wanted a name such as 'relu'");
  set_activation(r, read_activation(r.in.child("activation")));
}

void read_relu_layer(Reading& r) {
  r.in.only("max_value", nullptr, "a ReLU with max_value is not supported");
  r.in.only("negative_slope", 0.0, "a ReLU with negative_slope is not supported");
  r.in.only("threshold", 0.0, "a ReLU with threshold is not supported");
  set_activation(r, Activation::kRelu);
}

void read_softmax_layer(Reading& r) {
  last_axis_only(r);
  set_activation(r, Activation::kSoftmax);
}

// Numbers as Keras writes them: one, a list, nested lists (of an array with leading axes of 1), or an array object.
void flatten_numbers(const Cursor& cursor, std::vector<double>& out) {
  if (cursor.value().is_array()) {
    for (const Cursor& item : cursor.items()) flatten_numbers(item, out);
    return;
  }
  if (cursor.value().is_object()) {
    ObjectReader array(cursor);
    const std::string kind = array.text("class_name");
    if (kind == "__numpy__" || kind == "__tensor__") {
      ObjectReader config(array.required("config", "an array's value"));
      return flatten_numbers(config.required("value", "numbers"), out);
    }
  }
  out.push_back(cursor.number({}));
}

// One number, or one for each channel of the last axis.
std::vector<double> read_channel_numbers(const Reading& r, const Cursor& cursor) {
  std::vector<double> out;
  flatten_numbers(cursor, out);
  if (!r.failed() && out.size() != 1 && std::cmp_not_equal(out.size(), r.input.back())) {
    cursor.fail(Code::kInvalidArgument,
                std::format("wanted one number or one for each of the {} channels of the input {}, got {}",
                            r.input.back(), to_string(r.input), out.size()));
  }
  return out;
}

void read_rescaling(Reading& r) {
  Rescaling rescaling{.scale = {1}, .offset = {0}};
  rescaling.scale = read_channel_numbers(r, r.in.required("scale", "a number, e.g. 0.00392156862745098"));
  if (const auto offset = r.in.child("offset")) rescaling.offset = read_channel_numbers(r, *offset);
  r.layer.kind = std::move(rescaling);
}

void read_normalization(Reading& r) {
  Normalization norm;
  last_axis_only(r);
  norm.invert = r.in.boolean("invert", false);
  const auto mean = r.in.child("mean");
  const auto variance = r.in.child("variance");
  if (mean.has_value() != variance.has_value()) {
    return r.fail(r.layer.path,
                  "mean and variance go together: give both, or neither to have them computed from the "
                  "training rows");
  }
  if (mean) {
    norm.mean = read_channel_numbers(r, *mean);
    norm.variance = read_channel_numbers(r, *variance);
    if (std::ranges::any_of(norm.variance, [](double v) { return v < 0; })) {
      variance->fail(Code::kInvalidArgument, "a variance is below 0");
    }
  }
  r.layer.kind = std::move(norm);
}

void read_reshape(Reading& r) {
  const Cursor target = r.in.required("target_shape", "a list of dimensions");
  Reshape reshape;
  std::optional<std::size_t> free;
  std::int64_t known = 1;
  for (const Cursor& item : target.items()) {
    const std::int64_t size = item.integer({.min = -1, .max = kMaxElements});
    if (r.failed()) return;
    if (size == 0) return item.fail(Code::kInvalidArgument, "wanted a dimension of at least 1, or one -1, got 0");
    if (size == -1) {
      if (free) return item.fail(Code::kInvalidArgument, "only one dimension may be -1");
      free = reshape.target_shape.size();
    } else if (__builtin_mul_overflow(known, size, &known) || known > kMaxElements) {
      return target.fail(Code::kInvalidArgument, std::format("has more than {} elements", kMaxElements));
    }
    reshape.target_shape.push_back(size);
  }
  if (r.failed()) return;
  if (reshape.target_shape.empty()) {
    return target.fail(Code::kInvalidArgument, "wanted at least one dimension, got an empty list");
  }
  const std::int64_t elements = *element_count(r.input);
  if (free ? elements % known != 0 : elements != known) {
    return target.fail(Code::kInvalidArgument,
                       std::format("{} does not hold the {} elements of the input {}", to_string(reshape.target_shape),
                                   elements, to_string(r.input)));
  }
  if (free) reshape.target_shape[*free] = elements / known;
  r.layer.output_shape = reshape.target_shape;
  r.layer.kind = std::move(reshape);
}

struct Kind {
  std::string_view name;
  std::string_view snake;  // Keras' default name for one
  void (*read)(Reading&);
};
constexpr std::array<Kind, 20> kKinds{{
    {"Flatten", "flatten", read_flatten},
    {"Dense", "dense", read_dense},
    {"Dropout", "dropout", read_dropout},
    {"Conv2D", "conv2d", read_conv2d},
    {"MaxPooling2D", "max_pooling2d", read_max_pooling2d},
    {"AveragePooling2D", "average_pooling2d", read_average_pooling2d},
    {"GlobalAveragePooling2D", "global_average_pooling2d", read_global_average_pooling2d},
    {"BatchNormalization", "batch_normalization", read_batch_normalization},
    {"Activation", "activation", read_activation_layer},
    {"ReLU", "re_lu", read_relu_layer},
    {"Softmax", "softmax", read_softmax_layer},
    {"Rescaling", "rescaling", read_rescaling},
    {"Normalization", "normalization", read_normalization},
    {"Reshape", "reshape", read_reshape},
    // Second names that Keras gives the same classes.
    {"Convolution2D", "conv2d", read_conv2d},
    {"MaxPool2D", "max_pooling2d", read_max_pooling2d},
    {"AvgPool2D", "average_pooling2d", read_average_pooling2d},
    {"GlobalAvgPool2D", "global_average_pooling2d", read_global_average_pooling2d},
    {"BatchNormalizationV1", "batch_normalization", read_batch_normalization},
    {"BatchNormalizationV2", "batch_normalization", read_batch_normalization},
}};
constexpr std::string_view kKnownLayers =
    "InputLayer, Flatten, Dense, Dropout, Conv2D, MaxPooling2D, AveragePooling2D, GlobalAveragePooling2D, "
    "BatchNormalization, Activation, ReLU, Softmax, Rescaling, Normalization, Reshape";

}  // namespace

Activation read_activation(const std::optional<Cursor>& cursor) {
  if (!cursor) return Activation::kLinear;
  const KerasObject object = read_object(*cursor, "activation");
  if (cursor->report().failed()) return Activation::kLinear;
  if (object.is_name_only) {
    if (object.name == "linear") return Activation::kLinear;
    if (object.name == "relu") return Activation::kRelu;
    if (object.name == "softmax") return Activation::kSoftmax;
    if (object.name == "sigmoid") return Activation::kSigmoid;
    if (object.name == "tanh") return Activation::kTanh;
  }
  object.refuse("activation", "linear, relu, softmax, sigmoid, tanh");
  return Activation::kLinear;
}

void require_float32(ObjectReader& reader, std::string_view key) {
  const auto cursor = reader.child(key);
  if (!cursor) return;
  std::string name;
  if (cursor->value().is_string()) {
    name = cursor->text();
  } else {  // a DTypePolicy
    const KerasObject policy = read_object(*cursor, "dtype policy");
    if (reader.report().failed()) return;
    ObjectReader settings = policy.settings();
    name = settings.text("name");
    if (policy.name != "DTypePolicy" && policy.name != "Policy") name = policy.name;
  }
  if (name == "float32") return;
  cursor->fail(Code::kUnsupported, std::format("training is in float32; got '{}'", printable(name)));
}

Shape read_shape(const Cursor& cursor, bool batched) {
  Shape shape;
  const auto items = cursor.items();
  for (std::size_t i = batched ? 1 : 0; i < items.size(); ++i) {
    if (items[i].value().is_null()) {
      items[i].fail(Code::kUnsupported, "a dimension that is free (null) is not supported; give its size");
      return {1};
    }
    shape.push_back(items[i].integer({.min = 1, .max = kMaxElements}));
  }
  if (cursor.report().failed()) return {1};
  if (shape.empty()) {
    cursor.fail(Code::kInvalidArgument, batched ? "wanted [null, ...] with at least one dimension beside the batch"
                                                : "wanted at least one dimension");
    return {1};
  }
  const auto elements = element_count(shape);
  if (!elements || *elements > kMaxElements) {
    cursor.fail(Code::kInvalidArgument, std::format("{} has more than {} elements", to_string(shape), kMaxElements));
    return {1};
  }
  return shape;
}

Layer read_layer(const KerasObject& object, const Shape& input, int generation) {
  Layer layer;
  layer.path = object.path;
  layer.input_shape = input;
  layer.output_shape = input;
  const auto* kind = std::ranges::find(kKinds, object.name, &Kind::name);
  if (kind == kKinds.end()) {
    object.refuse("layer", kKnownLayers);
    return layer;
  }
  ObjectReader in = object.settings();
  layer.name = in.text("name", std::string(kind->snake));
  layer.trainable = in.boolean("trainable", true);
  require_float32(in, "dtype");
  in.ignore({"batch_input_shape", "batch_shape", "input_shape", "input_dim", "build_config"});
  Reading reading{.in = in, .input = input, .generation = generation, .layer = layer};
  kind->read(reading);
  in.finish();
  if (in.report().failed()) return layer;
  const auto elements = element_count(layer.output_shape);
  if (!elements || *elements > kMaxElements) {
    reading.fail(layer.path, std::format("gives rows of shape {}, more than {} elements", to_string(layer.output_shape),
                                         kMaxElements));
  }
  return layer;
}

}  // namespace slipway::keras
