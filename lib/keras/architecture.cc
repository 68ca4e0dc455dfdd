#include "lib/keras/architecture.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <map>
#include <set>

#include "lib/keras/json_text.h"
#include "lib/keras/keras_object.h"
#include "lib/keras/layers.h"
#include "lib/keras/parameters.h"
#include "lib/tensor/shape.h"

namespace slipway::keras {
namespace {

constexpr std::size_t kMaxLayers = 1000;

bool is_input_layer(const Cursor& layer) {
  const auto* object = layer.value().if_object();
  const auto* name = object == nullptr ? nullptr : object->if_contains("class_name");
  return name != nullptr && name->is_string() && name->get_string() == "InputLayer";
}

const boost::json::value* find(const Cursor& cursor, std::initializer_list<std::string_view> keys) {
  const boost::json::value* value = &cursor.value();
  for (const std::string_view key : keys) {
    const auto* object = value->if_object();
    value = object == nullptr ? nullptr : object->if_contains(key);
    if (value == nullptr) return nullptr;
  }
  return value;
}

// Which Keras wrote it. Only Keras 3 has a module on top or writes batch_shape; keras_version says it outright.
int generation_of(const Cursor& model, const std::vector<Cursor>& layers) {
  if (const auto* version = find(model, {"keras_version"}); version != nullptr && version->is_string()) {
    return version->get_string().starts_with("3") ? 3 : 2;
  }
  if (find(model, {"module"}) != nullptr) return 3;
  return !layers.empty() && find(layers[0], {"config", "batch_shape"}) != nullptr ? 3 : 2;
}

// An InputLayer. Its values are converted to float32 whatever its dtype, so only what float32 holds exactly is taken.
void read_input_layer(const Cursor& cursor, Architecture& out) {
  const KerasObject object = read_object(cursor, "layer", {"build_config", "inbound_nodes", "name"});
  if (cursor.report().failed()) return;
  ObjectReader in = object.settings();
  out.input_name = in.text("name", "input_layer");
  const std::string dtype = in.text("dtype", "float32");
  out.input_dtype = dtype == "uint8" ? DType::kU8 : DType::kF32;
  if (dtype != "float32" && dtype != "uint8" && !cursor.report().failed()) {
    cursor.report().add(in.path_of("dtype"), Code::kUnsupported,
                        std::format("inputs are float32 (or uint8 pixels, converted); got '{}'", printable(dtype)));
  }
  in.only("sparse", false, "sparse inputs are not supported");
  in.only("ragged", false, "ragged inputs are not supported");
  in.only("optional", false, "optional inputs are not supported");
  in.ignore({"trainable", "batch_size"});
  std::optional<Shape> shape;
  for (const std::string_view key : {"batch_shape", "batch_input_shape", "shape", "input_shape"}) {
    const auto given = in.child(key);
    if (given && !shape) shape = read_shape(*given, key.starts_with("batch"));
  }
  in.finish();
  if (!shape) {
    cursor.report().add(object.path, Code::kInvalidArgument,
                        "the InputLayer has no shape: wanted batch_shape, e.g. [null, 28, 28, 1]");
  }
  out.input_shape = shape.value_or(Shape{1});
}

// Without an InputLayer the first layer says the shape, as older files do, or the model does.
void read_input_shape(const Cursor& first, std::optional<Cursor> build_input_shape, Architecture& out) {
  const KerasObject object = read_object(first, "layer", {"build_config", "inbound_nodes", "name"});
  if (first.report().failed()) return;
  ObjectReader in = object.settings();
  std::optional<Shape> shape;
  for (const std::string_view key : {"batch_input_shape", "batch_shape", "input_shape"}) {
    const auto given = in.child(key);
    if (given && !shape) shape = read_shape(*given, key.starts_with("batch"));
  }
  if (!shape && in.has("input_dim")) shape = Shape{in.integer("input_dim", {.min = 1, .max = kMaxElements})};
  if (!shape && build_input_shape) shape = read_shape(*build_input_shape, true);
  if (!shape) {
    first.report().add(first.path(), Code::kInvalidArgument,
                       "the model does not say the shape of its input (it was saved before it was built): add an "
                       "Input or input_shape, e.g. keras.Input((28, 28, 1))");
  }
  out.input_shape = shape.value_or(Shape{1});
  const std::string name = in.text("name", "");
  out.input_name = name.empty() ? "input_layer" : name + "_input";
}

void require_usable_names(Architecture& out, const std::vector<bool>& named, Report& report) {
  // Keras counts the default names of one class; names that were given come first.
  std::set<std::string, std::less<>> taken;
  for (std::size_t i = 0; i < out.layers.size(); ++i) {
    if (!named[i]) continue;
    const Layer& layer = out.layers[i];
    if (layer.name.empty() || layer.name.size() > 128 || printable(layer.name).size() > 128) {
      report.add(layer.path + ".config.name", Code::kInvalidArgument, "wanted a name of 1 to 128 bytes");
    }
    if (!taken.insert(layer.name).second) {
      report.add(layer.path + ".config.name", Code::kInvalidArgument,
                 std::format("a second layer is named '{}'; names must be unique", printable(layer.name)));
    }
  }
  for (std::size_t i = 0; i < out.layers.size(); ++i) {
    if (named[i]) continue;
    const std::string base = out.layers[i].name;
    for (int n = 1; !taken.insert(out.layers[i].name).second; ++n) out.layers[i].name = std::format("{}_{}", base, n);
  }
}

void require_weights(const Cursor& model, const Architecture& out) {
  const ParameterCount all = parameters_of(out);
  if (all.trainable + all.fixed > kMaxElements) {
    model.fail(Code::kInvalidArgument, std::format("the model has more than {} parameters", kMaxElements));
  } else if (all.trainable == 0) {
    model.fail(Code::kInvalidArgument, "the model has no trainable weights: nothing to train");
  }
}

}  // namespace

ModelDocument read_model(const Cursor& cursor) {
  ModelDocument out;
  Report& report = cursor.report();
  Architecture& architecture = out.architecture;
  ObjectReader top(cursor);
  const std::string name = top.text("class_name");
  if (report.failed()) return out;
  if (name == "Functional" || name == "Model") {
    report.add(top.path_of("class_name"), Code::kUnsupported,
               "functional models are not supported; write the layers as a Sequential model");
    return out;
  }
  if (name != "Sequential") {
    report.add(top.path_of("class_name"), Code::kUnsupported,
               std::format("wanted a Sequential model, got '{}'", printable(name)));
    return out;
  }
  top.ignore({"keras_version", "backend", "build_config", "module", "registered_name", "name"});
  const Cursor config = top.required("config", "the model's layers");
  out.compile_config = top.child("compile_config");
  if (out.compile_config && out.compile_config->value().is_object() &&
      out.compile_config->value().get_object().empty()) {
    out.compile_config.reset();
  }
  top.finish();
  // The module and registered name are judged as for every other object.
  (void)read_object(cursor, "model", {"keras_version", "backend", "build_config", "compile_config", "name"});
  if (report.failed()) return out;

  std::vector<Cursor> layers;
  std::optional<Cursor> build_input_shape;
  bool trainable = true;
  architecture.name = "sequential";
  if (config.value().is_array()) {  // before Keras 2.2.3: only the layers
    layers = config.items();
  } else {
    ObjectReader in(config);
    architecture.name = in.text("name", "sequential");
    trainable = in.boolean("trainable", true);
    require_float32(in, "dtype");
    build_input_shape = in.child("build_input_shape");
    layers = in.required("layers", "a list of layers").items();
    in.finish();
  }
  if (report.failed()) return out;
  if (layers.size() > kMaxLayers) {
    config.fail(Code::kInvalidArgument, std::format("wanted at most {} layers, got {}", kMaxLayers, layers.size()));
    return out;
  }
  architecture.generation = generation_of(cursor, layers);
  const std::size_t begin = !layers.empty() && is_input_layer(layers[0]) ? 1 : 0;
  if (begin == layers.size()) {
    config.fail(Code::kInvalidArgument, "the model has no layers");
    return out;
  }
  if (begin == 1) {
    read_input_layer(layers[0], architecture);
  } else {
    read_input_shape(layers[0], build_input_shape, architecture);
  }
  std::vector<bool> named;
  Shape shape = architecture.input_shape;
  for (std::size_t i = begin; i < layers.size() && !report.failed(); ++i) {
    if (is_input_layer(layers[i])) {
      layers[i].fail(Code::kInvalidArgument, "an InputLayer can only come first");
      break;
    }
    const KerasObject object = read_object(layers[i], "layer", {"build_config", "inbound_nodes", "name"});
    if (report.failed()) break;
    Layer layer = read_layer(object, shape, architecture.generation);
    layer.trainable = layer.trainable && trainable;
    named.push_back(object.config && find(*object.config, {"name"}) != nullptr);
    shape = layer.output_shape;
    architecture.layers.push_back(std::move(layer));
  }
  if (report.failed()) return out;
  require_usable_names(architecture, named, report);
  require_weights(cursor, architecture);
  return out;
}

}  // namespace slipway::keras
