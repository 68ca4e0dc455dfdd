#include "lib/keras/keras_object.h"

#include <boost/json/object.hpp>

#include "lib/keras/json_text.h"

namespace slipway::keras {
namespace {

const boost::json::value kNoSettings(boost::json::object_kind);

bool is_keras_module(std::string_view module) {
  for (const std::string_view root : {"keras", "tf_keras", "keras_core", "tensorflow.keras", "builtins"}) {
    if (module == root || (module.starts_with(root) && module[root.size()] == '.')) return true;
  }
  return false;
}

}  // namespace

ObjectReader KerasObject::settings() const { return ObjectReader(config.value_or(Cursor(kNoSettings, path, *report))); }

void KerasObject::refuse(std::string_view what, std::string_view known) const {
  report->add(name_path, Code::kUnsupported,
              std::format("Slipway has no {} '{}'; it has {}", what, printable(name), known));
}

KerasObject read_object(const Cursor& cursor, std::string_view what, std::initializer_list<std::string_view> extra) {
  KerasObject object{
      .name = {}, .path = cursor.path(), .name_path = cursor.path(), .config = {}, .report = &cursor.report()};
  if (cursor.value().is_string()) {
    object.name = cursor.text();
    object.is_name_only = true;
    return object;
  }
  if (!cursor.value().is_object()) {
    cursor.fail(Code::kInvalidArgument, std::format("wanted {} as a name or as an object with class_name and config, "
                                                    "got {}",
                                                    what, describe(cursor.value())));
    return object;
  }
  ObjectReader reader(cursor);
  object.name = reader.text("class_name");
  object.name_path = reader.path_of("class_name");
  object.config = reader.child("config");

  if (object.name == "Lambda" || object.name == "__lambda__") {
    cursor.report().add(object.name_path, Code::kUnsupported,
                        "a Lambda holds Python code, which Slipway never runs; write it with other layers");
  }
  if (object.name == "function" && object.config && object.config->value().is_string()) {
    object.name = object.config->text();
    object.name_path = object.config->path();
    object.config.reset();
    object.is_name_only = true;
  }
  if (const auto module = reader.child("module"); module && !is_keras_module(module->text())) {
    module->fail(Code::kUnsupported, std::format("custom objects cannot be trained: this {} is of module {}, wanted "
                                                 "one of keras",
                                                 what, describe(module->value())));
  }
  if (const auto registered = reader.child("registered_name")) {
    const std::string name = registered->text();
    if (!name.empty() && name != object.name && name != "function") {
      registered->fail(Code::kUnsupported, std::format("custom objects cannot be trained: this {} is registered as "
                                                       "'{}', wanted one of keras",
                                                       what, printable(name)));
    }
  }
  reader.ignore(extra);
  reader.finish();
  return object;
}

}  // namespace slipway::keras
