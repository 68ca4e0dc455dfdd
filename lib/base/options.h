// A program's settings: flags, then SLIPWAY_* in the environment, then a file (--config, TOML); one name in all three.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace slipway {

class Options {
 public:
  Options(const std::string& description, const std::string& program);

  // Adds `--name`, also read from SLIPWAY_NAME (upper case, "_" for "-"; empty is not set) and from `name` in the file.
  // The variable's value is the default.
  template <class T>
  CLI::Option* add(const std::string& name, T& variable, const std::string& description) {
    names_.push_back(name);
    auto* option = app_.add_option("--" + name, variable, description)->capture_default_str();
    if constexpr (!is_vector<T>)
      option->take_last();
    else
      option->delimiter(',');
    return option;
  }

  // Fills the variables. Returns the exit code when the program must end now (--help, --version, a bad value).
  [[nodiscard]] std::optional<int> parse(int argc, char** argv);

  // For subcommands and what else CLI11 can do.
  CLI::App& app() { return app_; }

 private:
  template <class T>
  static constexpr bool is_vector = false;
  template <class T>
  static constexpr bool is_vector<std::vector<T>> = true;

  CLI::App app_;
  std::vector<std::string> names_;
};

}  // namespace slipway
